//! The writes of each key, in order.

use std::collections::BTreeMap;

use super::check::Violation;
use super::event::{Event, Kind};

#[derive(Debug, Clone, Copy)]
pub(super) struct Write<'a> {
    pub(super) version: u64,
    pub(super) event: &'a Event,
}

/// Writes that do not overlap, by version: their starts and ends increase too.
#[derive(Debug, Default)]
pub(super) struct Writes<'a>(Vec<Write<'a>>);

impl<'a> Writes<'a> {
    /// The writes of each group that `group` puts an event in: its key, say, or its process and key.
    pub(super) fn by<G: Ord>(events: &'a [Event], group: impl Fn(&Event) -> G) -> BTreeMap<G, Self> {
        let mut groups: BTreeMap<G, Self> = BTreeMap::new();
        for event in events {
            if let Kind::Write(version) = event.kind {
                groups.entry(group(event)).or_default().0.push(Write { version, event });
            }
        }
        for writes in groups.values_mut() {
            writes.0.sort_by_key(|write| (write.event.start, write.event.end, write.version));
        }
        groups
    }

    /// What keeps these writes, all of one key, from being judged.
    pub(super) fn flaws(&self) -> impl Iterator<Item = Violation> {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        pairs.filter_map(|(first, second)| {
            let (earlier, later) = (*first.event, *second.event);
            if later.start < earlier.end {
                Some(Violation::Overlap { earlier, later })
            } else if second.version <= first.version {
                Some(Violation::Disorder { earlier, later })
            } else {
                None
            }
        })
    }

    /// The first write that made something newer than `version`.
    pub(super) fn first_newer(&self, version: u64) -> Option<Write<'a>> {
        self.0.get(self.0.partition_point(|write| write.version <= version)).copied()
    }

    /// The last write that had ended before `time`.
    pub(super) fn last_before(&self, time: u64) -> Option<Write<'a>> {
        let ended = self.0.partition_point(|write| write.event.end < time);
        self.0.get(ended.checked_sub(1)?).copied()
    }
}

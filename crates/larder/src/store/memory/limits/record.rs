//! What was charged to one key, by all its quotas.

use super::track::Track;
use crate::store::limit::{BlockState, QuotaSpec};

/// What was charged to one key.
#[derive(Default)]
pub(super) struct LimitRecord {
    /// When it was last charged. It never goes back, because a clock that steps back must not open a window
    /// again.
    pub(super) latest: u64,
    /// When it was first charged, or last converted: later than before, even if the clock is not. A refund recognises
    /// the record that was charged by this. After a conversion it would take from other callers, too; except for one
    /// that only changes how much a bucket can hold.
    pub(super) created_at: u64,
    pub(super) tracks: Vec<Track>,
    /// The record is kept until then because a request with other quotas was refused by it.
    pub(super) kept_until: u64,
    /// Set when an override began or ended: then this decides, instead of the tracks, until when the record is needed.
    pub(super) needed_until: Option<u64>,
    /// Set if the key has exceeded its limit.
    pub(super) block: BlockState,
}

impl LimitRecord {
    /// Whether it counts by exactly these specs.
    pub(super) fn counts(&self, specs: &[QuotaSpec]) -> bool {
        self.tracks.len() == specs.len()
            && self.tracks.iter().zip(specs).all(|(track, spec)| track.counts(*spec))
    }

    /// Returns the track by which a new spec counts: the one of the same kind and width; or else the shortest
    /// of those that look back at least as far; or else the one that looks back furthest.
    pub(super) fn source(&self, spec: QuotaSpec) -> Option<&Track> {
        let far = |track: &&Track| track.window() >= spec.window();
        let same = self.tracks.iter().find(|track| track.counts(spec));
        same.or_else(|| self.tracks.iter().filter(far).min_by_key(|track| track.window()))
            .or_else(|| self.tracks.iter().rev().max_by_key(|track| track.window()))
    }

    /// Makes a record for these specs that counts what the old one does. Also returns whether something that
    /// still counts was dropped.
    pub(super) fn converted(old: Option<&Self>, specs: &[QuotaSpec], now: u64) -> (Self, bool) {
        let latest = old.map_or(now, |old| old.latest);
        let convert = |spec: &QuotaSpec| match old.and_then(|old| old.source(*spec)) {
            Some(track @ (Track::Gcra { .. } | Track::Log { .. })) if track.counts(*spec) => {
                (track.clone(), false)
            }
            source => {
                let events = source.map(|track| track.events(spec.window(), latest, now)).unwrap_or_default();
                Track::from_events(*spec, &events, now)
            }
        };
        let (tracks, cut): (_, Vec<bool>) = specs.iter().map(convert).unzip();
        let cut = cut.contains(&true);
        let created_at = match old {
            Some(old) if !cut && old.has_all_places_of(specs) => old.created_at,
            Some(old) => now.max(old.created_at + 1),
            None => now,
        };
        let block = old.map_or(BlockState::default(), |old| old.block);
        (Self { latest: now, created_at, tracks, kept_until: 0, needed_until: None, block }, cut)
    }

    /// Whether a conversion to these specs leaves each charge in its place: the quotas are as many, and each counts as
    /// before, except that its buckets can hold more or less.
    fn has_all_places_of(&self, specs: &[QuotaSpec]) -> bool {
        let has_places =
            |spec: &QuotaSpec| self.source(*spec).is_some_and(|source| source.has_places_of(*spec));
        self.tracks.len() == specs.len() && specs.iter().all(has_places)
    }

    /// Returns when the record may be removed.
    pub(super) fn expires(&self, clock: u64) -> u64 {
        let counts = self.needed_until.unwrap_or_else(|| self.ends(self.latest.max(clock)));
        counts.max(self.kept_until).max(self.block.remembered())
    }

    /// Returns when nothing counts any more by these specs, which may be others than the record's.
    pub(super) fn needed(&self, specs: &[QuotaSpec], now: u64) -> u64 {
        // A debt that is converted later is smaller, and counts from then on.
        let source = |spec: &QuotaSpec| match self.source(*spec) {
            Some(track @ Track::Gcra { .. }) => track.ends(now),
            _ => 0,
        };
        let (converted, _) = Self::converted(Some(self), specs, now);
        specs.iter().map(source).max().unwrap_or(0).max(converted.ends(now))
    }

    /// Returns when nothing counts any more.
    pub(super) fn ends(&self, now: u64) -> u64 {
        self.tracks.iter().map(|track| track.ends(now)).max().unwrap_or(0)
    }
}

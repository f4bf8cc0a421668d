//! Attempts and holds, assembled from the notes of their steps.

use std::collections::BTreeMap;

use larder_testkit::history::{Attempt, Ending, Held};

use super::Case;

/// The attempts with their outcomes, by thing.
pub(super) struct Attempts(BTreeMap<u64, Vec<Tried>>);

#[derive(Debug, Clone, Copy)]
pub(super) struct Tried {
    pub(super) attempt: Attempt,
    pub(super) weight: u64,
    pub(super) fence: Option<u64>,
    /// The first and the last time at which it was certainly valid.
    pub(super) held: Option<(u64, u64)>,
    /// When its holder began to free it, and whether that succeeded.
    pub(super) parting: Option<(u64, bool)>,
}

impl Attempts {
    pub(super) fn of(case: &Case<'_>) -> Self {
        let mut all: BTreeMap<(u64, u32, u64), Tried> = BTreeMap::new();
        let new =
            |process, number, asked| Attempt { process, number, asked, queued: None, end: Ending::Unknown };
        for note in case.of("asked") {
            let [thing, number, asked, weight, ..] = note.numbers;
            let attempt = new(note.process, number, asked);
            all.insert(
                (thing, note.process, number),
                Tried { attempt, weight, fence: None, held: None, parting: None },
            );
        }
        for note in case.of("run") {
            let [thing, number, fence, asked, ..] = note.numbers;
            let attempt = new(note.process, number, asked);
            let tried = Tried { attempt, weight: 1, fence: Some(fence), held: None, parting: None };
            all.insert((thing, note.process, number), tried);
        }
        let mut each = |word: &str, change: &dyn Fn(&mut Tried, [u64; 6])| {
            for note in case.of(word) {
                let [thing, number, ..] = note.numbers;
                if let Some(tried) = all.get_mut(&(thing, note.process, number)) {
                    change(tried, note.numbers);
                }
            }
        };
        each("queued", &|tried, numbers| {
            tried.attempt.queued.get_or_insert(numbers[2]);
        });
        each("gave_up", &|tried, numbers| tried.attempt.end = Ending::GaveUp { at: numbers[2] });
        each("granted", &|tried, numbers| {
            let [_, _, fence, at, ..] = numbers;
            tried.attempt.end = Ending::Granted { fence, at };
            tried.fence = (fence != 0).then_some(fence);
        });
        each("held", &|tried, numbers| {
            let at = numbers[2];
            let (from, until) = tried.held.unwrap_or((at, at));
            tried.held = Some((from.min(at), until.max(at)));
        });
        each("parting", &|tried, numbers| tried.parting = Some((numbers[2], numbers[3] == 1)));
        let mut things: BTreeMap<u64, Vec<Tried>> = BTreeMap::new();
        for ((thing, ..), tried) in all {
            things.entry(thing).or_default().push(tried);
        }
        Self(things)
    }

    /// Returns the attempts at a thing, and the holds that they led to.
    pub(super) fn thing(&self, thing: u64) -> (Vec<Attempt>, Vec<Held>) {
        self.with(thing, |_| true)
    }

    /// Returns the attempts and holds that include this lock of a group. Each takes all of the lock.
    pub(super) fn member(&self, thing: u64, bit: usize) -> (Vec<Attempt>, Vec<Held>) {
        let (attempts, mut holds) = self.with(thing, |tried| tried.weight >> bit & 1 == 1);
        holds.iter_mut().for_each(|held| held.weight = 1);
        (attempts, holds)
    }

    fn with(&self, thing: u64, wanted: impl Fn(&&Tried) -> bool) -> (Vec<Attempt>, Vec<Held>) {
        let all: Vec<&Tried> = self.all(thing).iter().filter(wanted).collect();
        let attempts = all.iter().map(|tried| tried.attempt).collect();
        let holds = all.iter().filter_map(|tried| {
            let (from, until) = tried.held?;
            let Tried { attempt: Attempt { process, asked, .. }, weight, fence, .. } = **tried;
            Some(Held { process, weight, fence, asked, from, until })
        });
        (attempts, holds.collect())
    }

    pub(super) fn all(&self, thing: u64) -> &[Tried] {
        self.0.get(&thing).map_or(&[], Vec::as_slice)
    }

    /// Returns the attempts of this weight. A granted one counts as granted at the first time it was certainly held.
    pub(super) fn seen(&self, thing: u64, weight: u64) -> Vec<Attempt> {
        let with = self.all(thing).iter().filter(|tried| tried.weight == weight).map(|tried| {
            let mut attempt = tried.attempt;
            if let Ending::Granted { fence, .. } = attempt.end {
                let seen = |(at, _)| Ending::Granted { fence, at };
                attempt.end = tried.held.map_or(Ending::Unknown, seen);
            }
            attempt
        });
        with.collect()
    }
}

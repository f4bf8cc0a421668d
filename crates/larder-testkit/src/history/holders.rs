//! Checks that no more was held than allowed: locks, semaphores, read-write locks, elections and runs of jobs.
//!
//! A hold certainly exists from the first to the last note of its process that its guard is valid. The time of each
//! note was read *before* the guard was asked. At no time may the holds of a thing weigh more than its capacity: a lock
//! has 1, a semaphore its permits; a writer of a read-write lock takes all, and a reader 1. The check sorts the holds.
//!
//! Invariants: nothing is reported as a violation that two clocks, or a process stopped between two checks of its
//! guard, could explain. If the server lost data, a hold that was requested after the loss does not conflict with one
//! that was granted before.
//!
//! Not guaranteed: that a violation is found if the holders check their guards too rarely.

use super::Losses;

/// A grant, as its holder saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The process that holds it.
    pub process: u32,
    /// How much of the thing it takes.
    pub weight: u64,
    /// The grant's number, if it has one.
    pub fence: Option<u64>,
    /// A time before the grant was requested.
    pub asked: u64,
    /// The first time at which it was certainly valid.
    pub from: u64,
    /// The last time at which it was certainly valid.
    pub until: u64,
}

/// A hold that exceeded the capacity, with the other holds at that time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooMany {
    /// The last one.
    pub held: Held,
    /// All that were valid at that time, except it.
    pub with: Vec<Held>,
}

/// Whether the holds of one thing never weighed more than `capacity`: how many were judged, and all violations.
#[must_use]
pub fn within_capacity(holds: &[Held], capacity: u64, losses: &Losses) -> (usize, Vec<TooMany>) {
    let mut holds = holds.to_vec();
    holds.sort_by_key(|held| (held.from, held.until));
    let (mut violations, mut open) = (Vec::new(), Vec::<Held>::new());
    for held in &holds {
        // What ends when another begins does not overlap it.
        open.retain(|other| other.until > held.from);
        let with: Vec<Held> = open
            .iter()
            .filter(|other| !losses.touch(other.asked.min(held.asked), held.from))
            .copied()
            .collect();
        let weight = with.iter().map(|other| other.weight).sum::<u64>();
        if weight.saturating_add(held.weight) > capacity {
            violations.push(TooMany { held: *held, with });
        }
        open.push(*held);
    }
    (holds.len(), violations)
}

/// Whether the fences of one thing, which is held by one at a time, strictly increase: how many were judged, and all
/// pairs that do not.
#[must_use]
pub fn fences_increase(holds: &[Held], losses: &Losses) -> (usize, Vec<(Held, Held)>) {
    let mut fenced: Vec<Held> = holds.iter().filter(|held| held.fence.is_some()).copied().collect();
    fenced.sort_by_key(|held| (held.from, held.until));
    let (mut violations, mut highest) = (Vec::new(), None::<Held>);
    for held in &fenced {
        if let Some(before) = highest.filter(|before| before.fence >= held.fence) {
            // Over a loss both may be held at once, and only what was asked for later was granted later.
            if before.from < held.asked || !losses.touch(before.asked.min(held.asked), held.from) {
                violations.push((before, *held));
            }
        }
        highest = highest.filter(|before| before.fence >= held.fence).or(Some(*held));
    }
    (fenced.len(), violations)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test says so by panicking")]
mod tests {
    use super::*;

    fn held(process: u32, fence: u64, from: u64, until: u64) -> Held {
        Held { process, weight: 1, fence: Some(fence), asked: from, from, until }
    }

    fn none() -> Losses {
        Losses::default()
    }

    #[test]
    fn holders_in_turn_with_growing_fences_are_right() {
        let holds = [held(2, 8, 20, 30), held(1, 7, 10, 20), held(1, 9, 30, 30)];
        assert_eq!(within_capacity(&holds, 1, &none()), (3, vec![]));
        assert_eq!(fences_increase(&holds, &none()), (3, vec![]));
    }

    #[test]
    fn an_overlap_is_found_also_behind_a_short_holder() {
        let holds = [held(1, 1, 0, 100), held(2, 2, 10, 20), held(3, 3, 50, 60)];
        let (_, found) = within_capacity(&holds, 1, &none());
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].held.process, found[1].with[0].process), (3, 1));
    }

    #[test]
    fn weights_count_against_the_capacity() {
        let holds = [
            Held { weight: 3, ..held(1, 0, 0, 50) },
            Held { weight: 2, ..held(2, 0, 10, 60) },
            held(3, 0, 40, 45),
        ];
        assert_eq!(within_capacity(&holds, 5, &none()).1.len(), 1);
        assert_eq!(within_capacity(&holds, 6, &none()).1, []);
        // A writer takes all, and so meets no reader.
        let writer = Held { weight: 65_535, ..held(4, 0, 60, 70) };
        assert_eq!(within_capacity(&[holds[1], writer], 65_535, &none()).1, []);
        assert_eq!(within_capacity(&[Held { until: 61, ..holds[1] }, writer], 65_535, &none()).1.len(), 1);
    }

    #[test]
    fn a_loss_of_data_frees_from_what_was_granted_before_it_and_from_nothing_else() {
        let (before, after) = (held(1, 5, 0, 100), held(2, 6, 50, 60));
        assert_eq!(within_capacity(&[before, after], 1, &Losses::of([(20, 30)])).1, []);
        assert_eq!(within_capacity(&[before, after], 1, &Losses::of([(70, 80)])).1.len(), 1);
        assert_eq!(within_capacity(&[held(1, 5, 35, 100), after], 1, &Losses::of([(20, 30)])).1.len(), 1);
    }

    #[test]
    fn a_fence_that_falls_or_stays_is_found_also_over_a_loss() {
        assert_eq!(fences_increase(&[held(1, 5, 0, 1), held(2, 4, 2, 3)], &none()).1.len(), 1);
        assert_eq!(fences_increase(&[held(1, 5, 0, 1), held(2, 5, 2, 3)], &none()).1.len(), 1);
        assert_eq!(fences_increase(&[held(1, 5, 0, 1), held(2, 4, 4, 5)], &Losses::of([(2, 3)])).1.len(), 1);
        let at_once = Held { asked: 0, ..held(2, 4, 2, 3) };
        assert_eq!(fences_increase(&[held(1, 5, 1, 3), at_once], &Losses::of([(1, 1)])).1, []);
    }
}

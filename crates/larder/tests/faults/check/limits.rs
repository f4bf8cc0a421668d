//! Rate limits.

use larder_testkit::history::{Admitted, Losses, within_limit};

use super::{Case, Verdict};
use crate::fleet::nanos;
use crate::work::limits::{LIMITS, WINDOW};

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    let window = nanos(WINDOW);
    // Batches and turns that were booked before a loss are used after it.
    let lost = [case.of("loss"), case.of("failover")];
    let lost = lost.iter().flat_map(|notes| notes.iter());
    let losses = Losses::of(lost.map(|note| (note.numbers[0], note.numbers[1] + 2 * window)));
    for (number, limit) in LIMITS.into_iter().enumerate() {
        let admitted: Vec<Admitted> = case
            .of("decided")
            .iter()
            .filter(|note| note.numbers[0] == number as u64 && note.numbers[3] == 1)
            .map(|note| Admitted { sent: note.numbers[1], answered: note.numbers[2] })
            .collect();
        // The wall clock, which decides, may be slewed against the monotonic one.
        let within = window - window / 1000;
        let (judged, _, found) = within_limit(&admitted, usize::try_from(limit).unwrap(), within, &losses);
        verdict.judge("R1: never more than the limit", judged, found);
    }
    let kept = |start: u64, end: u64| !case.losses.touch(start, end);
    for note in case.of("refusal").iter().filter(|note| kept(note.numbers[0], note.numbers[1])) {
        verdict.judge("R2: a refusal charges nothing", 1, (note.numbers[2] == 0).then_some(note));
    }
    for note in case.of("again").iter().filter(|note| kept(note.numbers[0], note.numbers[1])) {
        let [_, _, admitted, soon, ..] = note.numbers;
        verdict.judge("R3: capacity returns on time", 1, (soon == 0).then_some(note));
        verdict.judge("R5: retry_after is true", 1, (admitted == 0).then_some(note));
    }
}

//! A job: runs that die, fail, lose their locks and are told late, across the end of a period.

use larder_models::job::{self, Job, Mistake};
use larder_models::{breaks, holds};

const TWO: Job = Job { processes: 2, runs: 1, under_way: 2, at_most_once: false, mistake: None };

fn mistaken(property: &'static str, mistake: Mistake) {
    breaks(&format!("{mistake:?}"), property, Job { mistake: Some(mistake), ..TWO });
}

#[test]
fn a_period_is_completed_once_whatever_dies_and_whatever_is_late() {
    holds("a job of two processes", TWO);
}

#[test]
fn a_job_at_most_once_is_begun_once() {
    holds("a job at most once", Job { at_most_once: true, ..TWO });
}

#[test]
#[ignore = "minutes: cargo test --release -p larder-models --test job -- --ignored"]
fn nor_is_it_completed_twice_by_processes_that_try_more_often() {
    holds("a job of two processes, two runs each", Job { runs: 2, ..TWO });
}

#[test]
fn two_runs_at_once_are_caught() {
    mistaken(job::ONE_RUN, Mistake::BeginsBeside);
}

#[test]
fn a_deadline_that_counts_from_the_answer_is_caught() {
    mistaken(job::ONE_RUN, Mistake::DeadlineFromAnswer);
}

#[test]
fn an_end_that_does_not_check_the_token_is_caught() {
    mistaken(job::ONCE, Mistake::EndWithoutToken);
}

#[test]
fn the_period_of_the_end_is_caught() {
    mistaken(job::OWN_PERIOD, Mistake::PeriodOfEnd);
}

#[test]
fn a_clock_that_is_set_back_and_a_record_that_looks_at_its_period_alone_are_caught() {
    let model = Job { processes: 1, runs: 3, under_way: 1, mistake: Some(Mistake::LastPeriodOnly), ..TWO };
    breaks("LastPeriodOnly", job::ONCE, model);
}

#[test]
fn runs_that_died_and_do_not_count_are_caught() {
    breaks(
        "DeadRunsNotCounted",
        job::TRIES,
        Job { runs: 2, under_way: 1, mistake: Some(Mistake::DeadRunsNotCounted), ..TWO },
    );
}

#[test]
fn a_try_without_backoff_is_caught() {
    mistaken(job::TRIES, Mistake::NoBackoff);
}

#[test]
fn a_failed_run_that_completes_its_period_is_caught() {
    mistaken(job::TRUE_RECORD, Mistake::FailureCompletes);
}

#[test]
fn an_end_that_is_sent_again_and_not_recognised_is_caught() {
    mistaken(job::LOSS_NOTICED, Mistake::EndNotRecognised);
}

#[test]
fn an_end_that_is_recognised_only_while_it_is_the_last_is_caught() {
    let model = Job { under_way: 1, mistake: Some(Mistake::OneEndRecognised), ..TWO };
    breaks("OneEndRecognised", job::LOSS_NOTICED, model);
}

#[test]
fn a_start_that_was_given_up_and_is_not_remembered_is_caught() {
    mistaken(job::NO_GHOST, Mistake::NoTombstone);
}

#[test]
fn at_most_once_from_the_end_on_is_caught() {
    let model = Job { at_most_once: true, mistake: Some(Mistake::BurnedAtEnd), ..TWO };
    breaks("BurnedAtEnd", job::AT_MOST_ONCE, model);
}

//! The refresh of a standing value, beside fills, writers and other programs.

use larder_models::load::{
    self, BareRefresh, ForcedBegin, ForcedInvalidated, ForcedOverFill, Load, Rules, SoftExpire,
};
use larder_models::{Check, breaks, holds};

fn rules() -> Rules {
    Rules { forced: true, ..Rules::sound() }
}

fn mistaken() -> Rules {
    Rules { sorted: false, ..rules() }
}

#[test]
fn forced_refreshes_and_late_requests_keep_the_promises() {
    let rules = Rules { late: true, writers: 1, rows: 1, ..rules() };
    holds("forced refresh, late requests", Load { rules });
}

#[test]
fn forced_refreshes_soft_expiry_and_other_programs_keep_the_promises() {
    let rules = Rules { soft_expire: true, foreign_set: true, ..rules() };
    holds("forced refresh, soft expiry, another program", Load { rules });
}

#[test]
fn three_processes_keep_the_promises() {
    let rules = Rules { processes: 3, writers: 1, rows: 1, ..rules() };
    holds("three processes", Load { rules });
}

#[test]
fn known_absences_keep_the_promises() {
    let rules = Rules { gone: true, writers: 1, ..rules() };
    holds("known absences", Load { rules });
}

#[test]
fn every_process_ends_if_it_is_left_alone() {
    let rules = Rules { check_draining: true, ..rules() };
    holds("draining", Load { rules });
}

/// Minutes, and a few gigabytes.
#[test]
#[ignore = "minutes: cargo test --release -p larder-models --test refresh -- --ignored"]
fn everything_at_once_keeps_the_promises() {
    let rules = Rules { late: true, soft_expire: true, foreign_set: true, ..rules() };
    holds("everything at once", Load { rules });
}

#[test]
fn a_refresh_that_does_not_compare_the_nonce_is_caught() {
    let mut rules = Rules { forced: false, ..mistaken() };
    rules.checks.nonce = Check::LeftOut;
    breaks("refresh without nonce", load::STALE, Load { rules });
}

#[test]
fn a_refresh_that_does_not_compare_the_claim_is_caught() {
    let mut rules = mistaken();
    rules.checks.refresh = Check::LeftOut;
    breaks("refresh without claim", load::OUTRUN, Load { rules });
}

#[test]
fn a_forced_refresh_that_reads_before_it_takes_the_claim_is_caught() {
    let rules = Rules { forced_begin: ForcedBegin::ReadThenClaim, ..mistaken() };
    breaks("look, then claim", load::OUTRUN, Load { rules });
}

#[test]
fn a_forced_refresh_beside_a_fill_is_caught() {
    let rules = Rules { forced_over_fill: ForcedOverFill::LoadsBeside, ..mistaken() };
    breaks("forced refresh beside a fill", load::OUTRUN, Load { rules });
}

#[test]
fn an_invalidated_forced_refresh_that_leaves_the_old_value_is_caught() {
    let rules = Rules { forced_invalidated: ForcedInvalidated::LeavesIt, ..mistaken() };
    breaks("forced refresh whose claim ran out", load::REFRESHED, Load { rules });
}

#[test]
fn a_refresh_of_bare_json_that_compares_bytes_is_caught() {
    let rules = Rules { foreign_set: true, bare_refresh: BareRefresh::ComparesBytes, ..mistaken() };
    breaks("refresh of bare JSON", load::STALE, Load { rules });
}

#[test]
fn a_soft_expiry_that_does_not_compare_the_nonce_is_caught() {
    let rules = Rules { soft_expire: true, marking: SoftExpire::PlainSet, ..mistaken() };
    breaks("soft expiry by a plain SET", load::STALE, Load { rules });
}

//! Plants a violation of each promise into notes, and checks that it is found, and nothing else.

use larder_testkit::history::Notes;

use super::{PROMISES, judge};

/// A promise, and notes that break it and no other. `5m` are 5 milliseconds in nanoseconds.
const PLANTED: [(&str, &[&str]); 33] = [
    (
        "C1: you read your own writes",
        &["write 1 0 1000m 1010m 2 0", "write 1 0 5000m 5010m 3 0", "read 1 0 6000m 6001m 2 0"],
    ),
    (
        "C2: a near copy is at most 2 s behind",
        &["write 1 0 1000m 1010m 2 0", "write 1 0 5000m 5010m 3 0", "read 2 0 7100m 7101m 2 0"],
    ),
    (
        "C3: nothing older is stored after a write",
        &["write 1 1 1000m 1010m 2 0", "write 1 1 5000m 5010m 3 0", "read 2 1 6000m 6001m 2 0"],
    ),
    ("C4: one load a key", &["load 1 1000 2000m 2100m 1", "load 2 1000 2050m 2150m 1"]),
    (
        "C5: a stale value is better than none",
        &["fallback 1 1100 1000m 1010m 3 0", "fallback 1 1100 5000m 5010m 2 1"],
    ),
    ("C6: an outage is never reported as an absence", &["stays 1 1000m 900m", "kept 1 1200 2000m 2001m 1"]),
    ("C6: an outage costs a call its timeout at most", &["kept 1 1200 2000m 3000m 2"]),
    ("L1: one holder", &AT_ONCE_0),
    (
        "L1: one holder, with quarantine",
        &[
            "failover 0 1015m 1500m 0",
            HELD_1[0],
            HELD_1[1],
            HELD_1[2],
            HELD_1[3],
            LATER_1[0],
            LATER_1[1],
            LATER_1[2],
            LATER_1[3],
        ],
    ),
    ("L2: fences increase", &FALLING_0),
    ("L3: a guard knows that it is lost", &["lost 1 0 1 1 1000m 1010m"]),
    (
        "L4: first come, first served",
        &[
            "asked 1 0 1 1000m 1",
            "queued 1 0 1 1010m",
            "granted 1 0 1 102 2000m",
            "asked 2 0 1 1100m 1",
            "granted 2 0 1 101 1500m",
        ],
    ),
    (
        "R1: never more than the limit",
        &[
            "decided 1 1 1000m 1001m 1",
            "decided 1 1 1010m 1011m 1",
            "decided 1 1 1020m 1021m 1",
            "decided 2 1 1000m 1001m 1",
            "decided 2 1 1010m 1011m 1",
            "decided 2 1 1020m 1021m 1",
            "decided 3 1 1000m 1001m 1",
            "decided 3 1 1890m 1891m 1",
        ],
    ),
    ("R2: a refusal charges nothing", &["refusal 1 1000m 1100m 0"]),
    ("R3: capacity returns on time", &["again 1 1000m 2000m 1 0"]),
    ("R5: retry_after is true", &["again 1 1000m 2000m 0 1"]),
    (
        "elections: one leader",
        &[
            "asked 1 30 1 1000m 1",
            "granted 1 30 1 100 1010m",
            "held 1 30 1 1010m",
            "held 1 30 1 1100m",
            "asked 2 30 1 1020m 1",
            "granted 2 30 1 101 1030m",
            "held 2 30 1 1040m",
            "held 2 30 1 1050m",
        ],
    ),
    (
        "elections: fences increase",
        &[
            "asked 1 30 1 1000m 1",
            "granted 1 30 1 100 1010m",
            "held 1 30 1 1010m",
            "asked 2 30 1 1020m 1",
            "granted 2 30 1 99 1030m",
            "held 2 30 1 1040m",
        ],
    ),
    (
        "elections: observers see no earlier leader again",
        &["leader 1 30 1000m 1001m 200", "leader 1 30 1100m 1101m 150"],
    ),
    (
        "elections: a new leader in time",
        &[
            "measured 0 1000m 9000m",
            "ready 1 1000m",
            "ready 2 1000m",
            "asked 1 30 1 2000m 1",
            "granted 1 30 1 100 2010m",
            "held 1 30 1 2010m",
            "held 1 30 1 5000m",
            "killed 1 5004m",
            "struck 1 5003m 900000m",
            "asked 2 30 1 2000m 1",
            "queued 2 30 1 2020m",
            "granted 2 30 1 101 6300m",
            "held 2 30 1 6300m",
        ],
    ),
    (
        "jobs: no period completed twice",
        &[
            "ready 1 9000m",
            "gone 1 12100m",
            "run 1 40 1 10100000 10050m",
            "ran 1 40 1 10200m 1",
            "run 2 40 1 10300000 10250m",
            "ran 2 40 1 10400m 1",
        ],
    ),
    (
        "jobs: no period skipped",
        &["ready 1 9000m", "gone 1 12100m", "run 1 40 1 8100000 8100m", "ran 1 40 1 8200m 1"],
    ),
    (
        "jobs: one run at a time",
        &[
            "run 1 40 1 10100000 10050m",
            "held 1 40 1 10110m",
            "held 1 40 1 10200m",
            "run 2 40 1 10120000 10115m",
            "held 2 40 1 10130m",
            "held 2 40 1 10150m",
        ],
    ),
    (
        "semaphores: never more than the permits",
        &[
            "asked 1 10 1 1000m 3",
            "granted 1 10 1 0 1010m",
            "held 1 10 1 1010m",
            "held 1 10 1 1100m",
            "asked 2 10 1 1020m 3",
            "granted 2 10 1 0 1030m",
            "held 2 10 1 1040m",
            "held 2 10 1 1050m",
        ],
    ),
    (
        "semaphores: first come, first served",
        &[
            "asked 1 10 1 1000m 1",
            "queued 1 10 1 1010m",
            "granted 1 10 1 0 3000m",
            "asked 2 10 1 1100m 1",
            "granted 2 10 1 0 1500m",
        ],
    ),
    (
        "rw: a writer is alone",
        &[
            "asked 1 20 1 1000m 65535",
            "granted 1 20 1 100 1010m",
            "held 1 20 1 1010m",
            "held 1 20 1 1100m",
            "asked 2 20 1 1020m 1",
            "granted 2 20 1 0 1030m",
            "held 2 20 1 1040m",
            "held 2 20 1 1050m",
        ],
    ),
    (
        "rw: write fences increase",
        &[
            "asked 1 20 1 1000m 65535",
            "granted 1 20 1 100 1010m",
            "held 1 20 1 1010m",
            "asked 2 20 1 1020m 65535",
            "granted 2 20 1 100 1030m",
            "held 2 20 1 1040m",
        ],
    ),
    (
        "rw: no writer is overtaken by later readers",
        &[
            "asked 1 20 1 1000m 65535",
            "queued 1 20 1 1010m",
            "granted 1 20 1 100 3000m",
            "held 1 20 1 3000m",
            "asked 2 20 1 1100m 1",
            "granted 2 20 1 0 1500m",
            "held 2 20 1 1500m",
        ],
    ),
    (
        "rw: no reader is overtaken by later writers",
        &[
            "asked 1 20 1 1000m 1",
            "queued 1 20 1 1010m",
            "granted 1 20 1 0 3000m",
            "held 1 20 1 3000m",
            "asked 2 20 1 1100m 65535",
            "granted 2 20 1 100 1500m",
            "held 2 20 1 1500m",
        ],
    ),
    (
        "groups: one holder of each lock",
        &[
            "asked 1 60 1 1000m 3",
            "granted 1 60 1 100 1010m",
            "held 1 60 1 1010m",
            "held 1 60 1 1100m",
            "asked 2 60 1 1020m 6",
            "granted 2 60 1 101 1030m",
            "held 2 60 1 1040m",
            "held 2 60 1 1050m",
        ],
    ),
    (
        "groups: fences increase",
        &[
            "asked 1 60 1 1000m 3",
            "granted 1 60 1 100 1010m",
            "held 1 60 1 1010m",
            "asked 2 60 1 1020m 6",
            "granted 2 60 1 99 1030m",
            "held 2 60 1 1040m",
        ],
    ),
    (
        "groups: first come, first served",
        &[
            "asked 1 60 1 1000m 3",
            "queued 1 60 1 1010m",
            "granted 1 60 1 102 2000m",
            "asked 2 60 1 1100m 2",
            "granted 2 60 1 101 1500m",
        ],
    ),
    ("groups: no deadlock", &["asked 1 60 1 1000m 3", "gave_up 1 60 1 14000m"]),
];

/// Two holders of one lock at the same time.
const AT_ONCE_0: [&str; 8] = [
    "asked 1 0 1 1000m 1",
    "granted 1 0 1 100 1010m",
    "held 1 0 1 1010m",
    "held 1 0 1 1100m",
    "asked 2 0 1 1020m 1",
    "granted 2 0 1 101 1030m",
    "held 2 0 1 1040m",
    "held 2 0 1 1050m",
];
/// Two holders, one after the other, with decreasing fences.
const FALLING_0: [&str; 6] = [
    "asked 1 0 1 1000m 1",
    "granted 1 0 1 100 1010m",
    "held 1 0 1 1010m",
    "asked 2 0 1 1020m 1",
    "granted 2 0 1 99 1030m",
    "held 2 0 1 1040m",
];
/// A holder of the lock with quarantine.
const HELD_1: [&str; 4] =
    ["asked 1 1 1 1000m 1", "granted 1 1 1 100 1010m", "held 1 1 1 1010m", "held 1 1 1 1800m"];
const LATER_1: [&str; 4] =
    ["asked 2 1 1 1600m 1", "granted 2 1 1 101 1630m", "held 2 1 1 1640m", "held 2 1 1 1650m"];

fn planted() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    PLANTED.into_iter()
}

/// Returns the promises that these notes break.
fn broken(lines: &[&str]) -> Vec<&'static str> {
    let mut text = String::new();
    for line in ["clock 0 1m 1m", "end 0 60000m"].iter().chain(lines) {
        let words: Vec<String> = line
            .split(' ')
            .map(|word| match word.strip_suffix('m').and_then(|number| number.parse::<u64>().ok()) {
                Some(millis) => (millis * 1_000_000).to_string(),
                None => word.to_owned(),
            })
            .collect();
        text.push_str(&words.join(" "));
        text.push('\n');
    }
    let verdict = judge(&Notes::parse(&text).unwrap());
    let broken = verdict.promises.iter().filter(|(_, judged)| !judged.violations.is_empty());
    broken.map(|(promise, _)| *promise).collect()
}

#[test]
fn a_planted_violation_of_each_promise_is_found_and_nothing_else() {
    for promise in PROMISES {
        assert!(planted().any(|(of, _)| of == promise), "no violation of {promise:?} is planted");
    }
    for (promise, lines) in planted() {
        assert_eq!(broken(lines), [promise]);
    }
}

#[test]
fn without_its_last_note_no_planted_history_is_a_violation() {
    for (promise, lines) in planted() {
        // The last completion, read or decision is what breaks it, or all that was seen of the last hold.
        let holds = lines.iter().rev().take_while(|line| line.starts_with("held")).count();
        let last = lines.len() - holds.max(1);
        // These two promises are broken by an event that is missing or late.
        if ["jobs: no period skipped", "elections: a new leader in time"].contains(&promise) {
            continue;
        }
        assert_eq!(broken(&lines[..last]), [""; 0], "{promise}");
    }
}

fn with(lines: &[&'static str], more: &[&'static str]) -> Vec<&'static str> {
    broken(&[lines, more].concat())
}

fn lines(promise: &str) -> &'static [&'static str] {
    planted().find(|(of, _)| *of == promise).unwrap().1
}

#[test]
fn a_lossy_failover_excuses_what_is_not_promised_and_nothing_else() {
    let failover = ["failover 0 4900m 5500m 0"];
    for promise in ["C1", "C2", "C3"] {
        let (promise, _) = planted().find(|(of, _)| of.starts_with(promise)).unwrap();
        // The write that was not seen is in the time of the failover. An earlier write must still be seen.
        assert_eq!(with(lines(promise), &failover), [""; 0], "{promise}");
        assert_eq!(with(lines(promise), &["failover 0 3000m 4900m 0"]), [promise]);
    }
    let early = ["failover 0 1015m 1025m 0"];
    for promise in ["L1: one holder", "elections: one leader", "groups: one holder of each lock"] {
        assert_eq!(with(lines(promise), &early), [""; 0], "{promise}");
        assert_eq!(with(lines(promise), &["failover 0 1200m 1300m 0"]), [promise], "another time");
    }
    for promise in ["L2: fences increase", "elections: fences increase", "rw: write fences increase"] {
        assert_eq!(with(lines(promise), &early), [promise], "fences increase over any failover");
    }
    let seen = "elections: observers see no earlier leader again";
    assert_eq!(with(lines(seen), &["failover 0 1010m 1050m 0"]), [""; 0]);
    assert_eq!(with(lines(seen), &["failover 0 1200m 1250m 0"]), [seen]);
    let quarantine = "L1: one holder, with quarantine";
    assert_eq!(with(lines(quarantine), &["failover 0 1015m 1500m 1"]), [""; 0], "the old master went on");
    assert_eq!(with(lines("R1: never more than the limit"), &["failover 0 1015m 1016m 0"]), [""; 0]);
    let absent = "C6: an outage is never reported as an absence";
    assert_eq!(with(lines(absent), &["failover 0 1500m 1600m 0"]), [absent], "the new master has it");
    assert_eq!(with(lines(absent), &["failover 0 950m 960m 0"]), [""; 0]);
}

#[test]
fn lost_data_excuse_no_stale_read_and_no_falling_fence() {
    for promise in ["C1: you read your own writes", "C2: a near copy is at most 2 s behind"] {
        assert_eq!(with(lines(promise), &["loss 0 4900m 5500m"]), [promise]);
    }
    assert_eq!(with(&FALLING_0, &["loss 0 1015m 1025m"]), ["L2: fences increase"]);
    assert_eq!(with(&AT_ONCE_0, &["loss 0 1015m 1025m"]), [""; 0]);
}

#[test]
fn a_fault_excuses_lost_turns_and_no_second_holder() {
    let fault = ["struck 0 900m 60000m"];
    for promise in ["L4: first come, first served", "groups: first come, first served", "groups: no deadlock"]
    {
        assert_eq!(with(lines(promise), &fault), [""; 0], "{promise}");
    }
    for promise in ["L1: one holder", "C1: you read your own writes", "R2: a refusal charges nothing"] {
        assert_eq!(with(lines(promise), &fault), [promise]);
    }
}

#[test]
fn on_a_cluster_a_near_copy_may_be_four_seconds_behind() {
    let promise = "C2: a near copy is at most 2 s behind";
    assert_eq!(with(lines(promise), &["cluster 0"]), [""; 0]);
    assert_eq!(with(lines(promise), &["cluster 0", "read 2 0 9100m 9101m 2 0"]), [promise]);
}

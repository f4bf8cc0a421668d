//! *cache*: memory, eviction, and what the keys look like.

use std::time::{Duration, Instant};

use super::connection::Failure;
use super::exam::{Exam, Node};
use super::names::{Names, Sampled, cache_of};
use super::report::Report;
use crate::output::units::size;

/// How long evictions are counted at least.
const WATCH: Duration = Duration::from_secs(1);
/// What a fragmented server wastes at least, in bytes: a small one always looks fragmented.
const WASTE: f64 = 33_554_432.0;
/// The default of `max_value_bytes`.
const MAX_VALUE: u64 = 8 << 20;

pub(crate) async fn examine(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    if exam.first().is_some_and(Node::has_info) {
        for node in exam.masters() {
            limit(exam, node, report);
            policy(exam, node, report);
            fragmentation(exam, node, report);
        }
        if report.wants(&[44]) {
            evictions(exam, report).await?;
        }
    } else {
        for number in [41, 42, 43, 44] {
            report.unmeasured(number, "the user may not read INFO: run doctor as an administrator");
        }
    }
    keys(exam, report);
    Ok(())
}

fn limit(exam: &Exam, node: &Node, report: &mut Report) {
    let (Some(used), Some(most)) = (node.number("used_memory"), node.number("maxmemory")) else {
        return report.unmeasured(41, "the memory cannot be read");
    };
    let at = exam.at(node);
    if most == 0.0 {
        return report.warning(
            41,
            format!("maxmemory{at} is not set, {} are used", bytes(used)),
            "CONFIG SET maxmemory to half of what the machine or container has, and CONFIG REWRITE",
        );
    }
    let measured = format!("{} of {} are used{at}", bytes(used), bytes(most));
    let refuses = node.info("maxmemory_policy") == Some("noeviction");
    let fix = "CONFIG SET maxmemory to more, or find what grows: `larder ls`";
    if refuses && used > most * 0.98 {
        report.problem(41, format!("{measured}, and writes are refused from there on"), fix);
    } else if refuses && used > most * exam.options.limit(41, 0.8) {
        report.warning(41, measured, fix);
    } else {
        report.good(41, measured);
    }
}

fn policy(exam: &Exam, node: &Node, report: &mut Report) {
    let Some(policy) = node.info("maxmemory_policy") else {
        return report.unmeasured(42, "maxmemory-policy cannot be read");
    };
    let namespace = exam.options.namespace.as_deref();
    let caches = exam.names.as_ref().is_none_or(|names| names.entries(namespace).next().is_some());
    let fix = "CONFIG SET maxmemory-policy allkeys-lfu, and CONFIG REWRITE";
    let at = exam.at(node);
    match policy {
        _ if exam.options.locks || !caches => report.inapplicable(42, "no entries of caches live here"),
        "allkeys-lfu" | "allkeys-lru" | "allkeys-lrm" => {
            report.good(42, format!("maxmemory-policy is {policy}"))
        }
        "noeviction" if exam.has_locks() => {
            report.good(
                42,
                "maxmemory-policy is noeviction, and locks live here: see L41 for the room that is left",
            );
        }
        "noeviction" => report.warning(
            42,
            format!("maxmemory-policy{at} is noeviction, and entries of caches live here"),
            fix,
        ),
        policy => report.warning(42, format!("maxmemory-policy{at} is {policy}"), fix),
    }
}

fn fragmentation(exam: &Exam, node: &Node, report: &mut Report) {
    // What the allocator keeps against what it gave out. Valkey's own allocator_frag_ratio is 1 in builds whose
    // allocator it cannot ask.
    let allocator = || {
        let (given, kept) = (node.number("allocator_allocated")?, node.number("allocator_active")?);
        (given > 0.0).then(|| (kept / given, kept - given))
    };
    let process = || Some((node.number("mem_fragmentation_ratio")?, node.number("mem_fragmentation_bytes")?));
    let Some((ratio, waste)) = allocator().or_else(process) else {
        return report.unmeasured(43, "the fragmentation cannot be read");
    };
    let measured = format!("fragmentation {ratio:.2}{}, {} wasted", exam.at(node), bytes(waste.max(0.0)));
    if ratio > exam.options.limit(43, 1.5) && waste > WASTE {
        report.warning(43, measured, "CONFIG SET activedefrag yes, or restart the server at a quiet time");
    } else {
        report.good(43, measured);
    }
}

/// Counts evictions from the first reading of INFO until now, at least for a second.
async fn evictions(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    let limit = exam.options.limit(44, 100.0);
    let (mut rate, mut keys) = (0.0_f64, 0.0_f64);
    for node in exam.nodes.iter_mut().filter(|node| node.is_master) {
        let Some(before) = node.number("evicted_keys") else { continue };
        tokio::time::sleep_until((node.read_at + WATCH).into()).await;
        let info = node.connection.call(&["INFO", "stats"]).await?.text().unwrap_or_default();
        let now =
            info.lines().find_map(|line| line.strip_prefix("evicted_keys:")?.trim().parse::<f64>().ok());
        let seconds = Instant::now().duration_since(node.read_at).as_secs_f64();
        rate += (now.unwrap_or(before) - before).max(0.0) / seconds;
        keys += before;
    }
    let measured = format!("{rate:.0} evictions a second now, {keys:.0} since the server's start");
    if rate >= limit {
        report.warning(
            44,
            measured,
            "CONFIG SET maxmemory to more, shorten times to live, or cache less: `larder ls` shows what takes the room",
        );
    } else {
        report.good(44, measured);
    }
    Ok(())
}

fn keys(exam: &Exam, report: &mut Report) {
    let Some(names) = &exam.names else {
        for number in [45, 46, 47, 48] {
            report.unmeasured(number, "the user may not list names: run doctor as an administrator");
        }
        return;
    };
    let of = format!("{} of {} keys were looked at", names.sample.len(), names.total);
    expiry(exam, names, &of, report);
    largest(exam, names, &of, report);
    let entries: Vec<&Sampled> = names.entries(exam.options.namespace.as_deref()).collect();
    unreadable(&entries, report);
    layouts(names, &entries, report);
}

fn expiry(exam: &Exam, names: &Names, of: &str, report: &mut Report) {
    let kept: Vec<&Sampled> = names.sample.iter().filter(|key| !key.expires).collect();
    let share = kept.len() as f64 / f64::max(names.sample.len() as f64, 1.0);
    let Some(example) = kept.first().filter(|_| share > exam.options.limit(45, 0.01)) else {
        return report.good(45, format!("{} keys without expiry ({of})", kept.len()));
    };
    report.warning(
        45,
        format!(
            "{:.0} % of the keys have no expiry ({of}), such as those of {}",
            share * 100.0,
            String::from_utf8_lossy(cache_of(&example.name))
        ),
        "give the cache a time to live (.ttl(…)), or delete what another program left behind",
    );
}

fn largest(exam: &Exam, names: &Names, of: &str, report: &mut Report) {
    let Some(key) = names.sample.iter().max_by_key(|key| key.bytes) else {
        return report.good(46, "there are no keys");
    };
    let name = String::from_utf8_lossy(cache_of(&key.name));
    let measured = format!("the largest value has {} and is of {name} ({of})", size(key.bytes));
    let fix = "split it, store only what is read, or compress it: .compress_above(1024)";
    let limit = exam.options.limit(46, 1_048_576.0);
    if key.bytes > MAX_VALUE {
        report.problem(46, measured, fix);
    } else if key.bytes as f64 > limit {
        report.warning(46, measured, fix);
    } else {
        report.good(46, measured);
    }
}

fn unreadable(entries: &[&Sampled], report: &mut Report) {
    let bad: Vec<&&Sampled> = entries.iter().filter(|key| !is_readable(key)).collect();
    let Some(example) = bad.first() else {
        return report.good(47, format!("{} values of larder, all with a readable head", entries.len()));
    };
    let name = String::from_utf8_lossy(&example.name).into_owned();
    report.warning(
        47,
        format!(
            "{} of {} values cannot be read, such as {name} ({})",
            bad.len(),
            entries.len(),
            if example.is_string { "other bytes" } else { "another type" }
        ),
        "find the program that writes there (MONITOR for a moment), and give it names of its own",
    );
}

fn layouts(names: &Names, entries: &[&Sampled], report: &mut Report) {
    let newer = entries.iter().filter(|key| matches!(key.head.as_slice(), [0x9A, layout, ..] if *layout > 1));
    let newer: Vec<String> =
        newer.map(|key| format!("an entry ({})", String::from_utf8_lossy(&key.name))).take(3).collect();
    let found: Vec<String> = names.newer.iter().cloned().chain(newer).collect();
    if found.is_empty() {
        return report.good(48, "only layouts that this larder writes");
    }
    report.warning(
        48,
        format!("newer layouts: {}", found.join(", ")),
        "upgrade every program, and this one, to the same larder",
    );
}

/// Whether the type and the first bytes are those of an entry: an envelope, or JSON. The rest is not read.
fn is_readable(key: &Sampled) -> bool {
    if !key.is_string {
        return false;
    }
    match key.head.as_slice() {
        [] => true,
        [0x9A, layout, kinds, ..] => {
            let (kind, compression, codec) = (kinds >> 6, (kinds >> 3) & 3, kinds & 7);
            // A newer layout is a finding of its own.
            *layout > 1
                || (key.head.len() == 40 && *layout == 1 && kind <= 2 && compression <= 1 && codec <= 2)
        }
        [0x9A, ..] => false,
        [first, ..] => {
            matches!(first, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n' | b' ' | b'\n')
        }
    }
}

fn bytes(number: f64) -> String {
    size(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_entries_differ_from_other_bytes() {
        let key = |is_string: bool, head: &[u8]| Sampled {
            name: b"user:1".to_vec(),
            is_string,
            expires: true,
            bytes: 1,
            head: head.to_vec(),
        };
        let envelope = |layout, kinds| {
            let mut head = vec![0; 40];
            head[..3].copy_from_slice(&[0x9A, layout, kinds]);
            head
        };
        for (head, readable) in [
            (envelope(1, 0), true),
            (envelope(1, 0b0010_1010), true),
            (envelope(1, 0b1100_0000), false),
            (envelope(1, 0b0001_0000), false),
            (envelope(1, 0b0000_0011), false),
            (envelope(2, 0xFF), true),
            (envelope(0, 0), false),
            (vec![0x9A, 1, 0], false),
            (b"{\"a\":1}".to_vec(), true),
            (b"\x80\x04".to_vec(), false),
            (Vec::new(), true),
        ] {
            assert_eq!(is_readable(&key(true, &head)), readable, "{head:?}");
        }
        assert!(!is_readable(&key(false, b"")));
    }
}

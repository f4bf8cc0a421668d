//! How locks, holders and waiters are shown.

use larder::admin::{HolderInfo, LockInfo, LockKind, Process};
use serde_json::{Value, json};

use crate::output::units;

/// The kinds that people may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    Lock,
    Rwlock,
    Semaphore,
    Group,
    Election,
    Job,
}

impl From<Kind> for LockKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Lock => Self::Lock,
            Kind::Rwlock => Self::RwLock,
            Kind::Semaphore => Self::Semaphore,
            Kind::Group => Self::Group,
            Kind::Election => Self::Election,
            Kind::Job => Self::Job,
        }
    }
}

/// Names the process of a holder: by the name that it announced, else as the lock stores it.
pub(super) fn holder(holder: &HolderInfo) -> String {
    match &holder.process {
        Some(process) => self::process(process),
        None if holder.by.is_empty() => unnamed(holder.token),
        None => holder.by.clone(),
    }
}

/// A process without a name, by the id that all of its tokens begin with.
pub(super) fn unnamed(token: u64) -> String {
    format!("process {:08x} (no name)", token >> 32)
}

pub(super) fn process(process: &Process) -> String {
    format!("{} ({}:{})", process.name, process.host, process.pid)
}

pub(super) fn holder_json(of: &HolderInfo) -> Value {
    let process = of.process.as_ref();
    json!({
        "token": format!("{:016x}", of.token),
        "by": of.by,
        "process": process.map(|process| process.name.as_str()),
        "fence": of.fence.map(larder::lock::Fence::get),
        "remaining_ms": millis(of.remaining),
        "permits": of.permits,
        "unconfirmed": of.unconfirmed,
        "locks": of.locks,
        "value": of.value,
    })
}

/// What is held of a lock, in a few words.
pub(super) fn state(info: &LockInfo) -> String {
    match (info.kind, info.permits) {
        (LockKind::Semaphore, Some(permits)) => {
            let held: u64 = info.holders.iter().map(|holder| holder.permits).sum();
            format!("{held} of {permits}")
        }
        (LockKind::Job, _) => match &info.last_run {
            Some(run) if info.holding == 0 => run.outcome.clone(),
            _ if info.holding > 0 => "running".to_owned(),
            _ => "never ran".to_owned(),
        },
        _ if info.holding == 0 => "free".to_owned(),
        (LockKind::RwLock, _) => match info.holders.iter().any(|holder| holder.fence.is_some()) {
            true => "writer".to_owned(),
            false => format!("{} readers", info.holding),
        },
        _ => "held".to_owned(),
    }
}

/// The shortest time for which it is certainly held.
pub(super) fn remaining(info: &LockInfo) -> Option<std::time::Duration> {
    info.holders.iter().map(|holder| holder.remaining).min()
}

pub(super) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The holders of a lock on a line: the first three, and how many more.
pub(super) fn holders(info: &LockInfo) -> String {
    let mut shown: Vec<String> = info.holders.iter().take(3).map(holder).collect();
    let more = info.holding.saturating_sub(u64::try_from(shown.len()).unwrap_or(u64::MAX));
    if more > 0 {
        shown.push(format!("and {} more", units::count(more)));
    }
    shown.join(", ")
}

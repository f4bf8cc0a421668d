//! The scripts that run on the server, each as one atomic step. A script is sent by its hash, and by its source if
//! the server has forgotten it.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::wire::{Request, frame};

pub(super) struct Script {
    source: &'static str,
    /// `EVALSHA` and the hash, encoded once.
    by_hash: LazyLock<Request>,
}

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        pub(super) static $name: Script = Script {
            source: concat!($(include_str!(concat!("lua/", $file))),+),
            by_hash: LazyLock::new(|| {
                Request::new("EVALSHA").arg(sha1_smol::Sha1::from($name.source).digest().to_string())
            }),
        };
    };
}

script!(REMAINING, "cache/remaining.lua");
script!(TOUCH, "cache/touch.lua");
script!(BEGIN_FILL, "cache/begin_fill.lua");
script!(COMMIT_FILL, "cache/commit_fill.lua");
script!(ABANDON_FILL, "cache/abandon_fill.lua");
script!(BEGIN_REFRESH, "cache/begin_refresh.lua");
script!(COMMIT_REFRESH, "cache/commit_refresh.lua");
script!(ABANDON_REFRESH, "cache/abandon_refresh.lua");
script!(BEGIN_ONCE, "cache/begin_once.lua");
script!(RENEW_ONCE, "cache/renew_once.lua");
script!(COMMIT_ONCE, "cache/commit_once.lua");
script!(ABANDON_ONCE, "cache/abandon_once.lua");
script!(RENEW_LOAD, "cache/renew_load.lua");
script!(RESTAMP, "cache/restamp.lua");
script!(VERSION, "cache/version.lua");
script!(CHARGE, "limit/charge.lua", "limit/limit.lua", "limit/charge_any.lua");
script!(
    CHARGE_TOGETHER,
    "limit/together_begin.lua",
    "limit/charge.lua",
    "limit/limit.lua",
    "limit/charge_any.lua",
    "limit/together_end.lua"
);
script!(OVERRIDE, "limit/override.lua", "limit/limit.lua", "limit/override_rest.lua");
script!(REFUND, "limit/refund.lua", "limit/limit.lua", "limit/refund_rest.lua");

script!(ACQUIRE, "lock/acquire.lua", "lock/queue.lua", "lock/fence.lua", "lock/acquire_queued.lua");
script!(
    ACQUIRE_QUARANTINED,
    "lock/quarantine.lua",
    "lock/acquire.lua",
    "lock/queue.lua",
    "lock/fence.lua",
    "lock/acquire_queued.lua"
);
script!(CONFIRM_QUARANTINED, "lock/quarantine.lua", "lock/queue.lua", "lock/fence.lua", "lock/confirm.lua");
script!(CONFIRM, "lock/queue.lua", "lock/fence.lua", "lock/confirm.lua");
script!(STAND_BY, "lock/queue.lua", "lock/heartbeat.lua");
script!(GIVE_UP, "lock/queue.lua", "lock/give_up.lua");
script!(RELEASE, "lock/release.lua", "lock/queue.lua", "lock/hand_over.lua");
script!(EXTEND, "lock/extend.lua");
script!(HOLDER, "lock/holder.lua");
script!(BREAK_IF, "lock/queue.lua", "lock/break_if.lua");
script!(TAKE_PERMIT, "semaphore/queue.lua", "semaphore/take.lua");
script!(TAKE_PERMIT_QUARANTINED, "lock/quarantine.lua", "semaphore/queue.lua", "semaphore/take.lua");
script!(CONFIRM_PERMIT_QUARANTINED, "lock/quarantine.lua", "semaphore/queue.lua", "semaphore/confirm.lua");
script!(CONFIRM_PERMIT, "semaphore/queue.lua", "semaphore/confirm.lua");
script!(GIVE_PERMIT, "semaphore/queue.lua", "semaphore/give.lua");
script!(STAND_BY_PERMITS, "semaphore/queue.lua", "semaphore/heartbeat.lua");
script!(EXCHANGE_PERMITS, "semaphore/queue.lua", "semaphore/exchange.lua");
script!(RENEW_PERMITS, "semaphore/renew.lua");
script!(SET_PERMITS, "semaphore/queue.lua", "semaphore/set_permits.lua");
script!(PERMITS_IN_USE, "semaphore/queue.lua", "semaphore/in_use.lua");
script!(TAKE_GROUP, "group/queue.lua", "lock/fence.lua", "group/acquire.lua");
script!(
    TAKE_GROUP_QUARANTINED,
    "lock/quarantine.lua",
    "group/queue.lua",
    "lock/fence.lua",
    "group/acquire.lua"
);
script!(CONFIRM_GROUP, "group/queue.lua", "lock/fence.lua", "group/confirm.lua");
script!(
    CONFIRM_GROUP_QUARANTINED,
    "lock/quarantine.lua",
    "group/queue.lua",
    "lock/fence.lua",
    "group/confirm.lua"
);
script!(GIVE_GROUP, "group/queue.lua", "group/give.lua");
script!(STAND_BY_GROUPS, "group/queue.lua", "group/heartbeat.lua");
script!(RENEW_GROUPS, "group/queue.lua", "group/renew.lua");
script!(GROUP_HOLDER, "group/queue.lua", "group/holder.lua");
script!(BEGIN_JOB, "lock/fence.lua", "job/begin.lua");
script!(BEGIN_JOB_QUARANTINED, "lock/quarantine.lua", "lock/fence.lua", "job/begin.lua");
script!(END_JOB, "job/end.lua");
script!(LAST_RUN, "job/status.lua");
script!(ACKNOWLEDGE, "lock/acknowledge.lua");
script!(SET_FENCED, "cache/set_fenced.lua");
script!(ANNOUNCE, "presence/announce.lua");
#[cfg(feature = "admin")]
script!(SHOW_LOCK, "admin/lock.lua");
#[cfg(feature = "admin")]
script!(SHOW_SEMAPHORE, "semaphore/queue.lua", "admin/semaphore.lua");
#[cfg(feature = "admin")]
script!(SHOW_GROUP, "group/queue.lua", "admin/group.lua");

impl Script {
    pub(super) fn by_hash(&self, keys: &[&str], arguments: &[&[u8]]) -> Request {
        call(&self.by_hash, keys, arguments)
    }

    #[cfg(test)]
    pub(super) fn source(&self) -> &'static str {
        self.source
    }

    pub(super) fn by_source(&self, keys: &[&str], arguments: &[&[u8]]) -> Request {
        call(&Request::new("EVAL").arg(self.source), keys, arguments)
    }
}

/// A script that must run before what the same task sends after it. A script that the server has forgotten would be
/// sent a second time, and later requests would overtake it. So its source is sent until the server has run it.
///
/// Not guaranteed: that each node of a cluster has the script, or that a server has it after `SCRIPT FLUSH`. Then the
/// script is sent again.
pub(super) struct OrderedScript {
    pub(super) script: &'static Script,
    /// Counts the lost connections that are up again. A server that restarts breaks its connections.
    reconnects: watch::Receiver<u64>,
    /// The [count](Self::connected) when the server last ran the script; 0 before.
    run_at: AtomicU64,
}

impl OrderedScript {
    fn new(script: &'static Script, reconnects: &watch::Receiver<u64>) -> Self {
        Self { script, reconnects: reconnects.clone(), run_at: AtomicU64::new(0) }
    }

    /// Returns how many times the connections were up so far: it grows with each reconnect, and is never 0.
    pub(super) fn connected(&self) -> u64 {
        self.reconnects.borrow().wrapping_add(1)
    }

    /// Returns whether the server has run the script since that reconnect.
    pub(super) fn was_run_since(&self, connected: u64) -> bool {
        self.run_at.load(Ordering::Acquire) == connected
    }

    /// Records that the server has run the script. `connected` was read before the request was sent: if the server
    /// restarted during the request, the count has grown, and the script counts as not run.
    pub(super) fn note_run(&self, connected: u64) {
        self.run_at.store(connected, Ordering::Release);
    }
}

pub(super) struct OrderedScripts {
    pub(super) release: OrderedScript,
    pub(super) give_up: OrderedScript,
    pub(super) give_permit: OrderedScript,
    pub(super) give_group: OrderedScript,
    pub(super) abandon_fill: OrderedScript,
    pub(super) abandon_refresh: OrderedScript,
}

impl OrderedScripts {
    pub(super) fn new(reconnects: &watch::Receiver<u64>) -> Self {
        let ordered = |script| OrderedScript::new(script, reconnects);
        Self {
            release: ordered(&RELEASE),
            give_up: ordered(&GIVE_UP),
            give_permit: ordered(&GIVE_PERMIT),
            give_group: ordered(&GIVE_GROUP),
            abandon_fill: ordered(&ABANDON_FILL),
            abandon_refresh: ordered(&ABANDON_REFRESH),
        }
    }
}

fn call(script: &Request, keys: &[&str], arguments: &[&[u8]]) -> Request {
    let lengths = keys.iter().map(|key| key.len()).chain(arguments.iter().map(|argument| argument.len()));
    let bytes = lengths.map(frame).sum::<usize>() + frame(4);
    let count = u64::try_from(keys.len()).unwrap_or(u64::MAX);
    let mut request = script.begun(bytes).number(count);
    keys.iter().for_each(|key| request.push(key.as_bytes()));
    arguments.iter().for_each(|argument| request.push(argument));
    request
}

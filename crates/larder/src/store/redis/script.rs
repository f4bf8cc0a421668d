//! The scripts that run on the server, each as one atomic step. A script is sent by its hash, and by its source if
//! the server has forgotten it.

use std::sync::LazyLock;

use super::wire::{Request, frame};

pub(super) struct Script {
    source: &'static str,
    hash: LazyLock<String>,
}

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        pub(super) static $name: Script = Script {
            source: concat!($(include_str!(concat!("lua/", $file))),+),
            hash: LazyLock::new(|| sha1_smol::Sha1::from($name.source).digest().to_string()),
        };
    };
}

script!(REMAINING, "remaining.lua");
script!(TOUCH, "touch.lua");
script!(BEGIN_FILL, "begin_fill.lua");
script!(COMMIT_FILL, "commit_fill.lua");
script!(ABANDON_FILL, "abandon_fill.lua");
script!(BEGIN_REFRESH, "begin_refresh.lua");
script!(COMMIT_REFRESH, "commit_refresh.lua");
script!(ABANDON_REFRESH, "abandon_refresh.lua");
script!(BEGIN_ONCE, "begin_once.lua");
script!(RENEW_ONCE, "renew_once.lua");
script!(COMMIT_ONCE, "commit_once.lua");
script!(ABANDON_ONCE, "abandon_once.lua");
script!(RENEW_LOAD, "renew_load.lua");
script!(RESTAMP, "restamp.lua");
script!(VERSION, "version.lua");
script!(CHARGE, "charge.lua", "limit.lua", "charge_any.lua");
script!(
    CHARGE_TOGETHER,
    "together_begin.lua",
    "charge.lua",
    "limit.lua",
    "charge_any.lua",
    "together_end.lua"
);
script!(OVERRIDE, "override.lua", "limit.lua", "override_rest.lua");
script!(REFUND, "refund.lua", "limit.lua", "refund_rest.lua");

script!(ACQUIRE, "acquire.lua", "line.lua", "fence.lua", "acquire_waited_for.lua");
script!(
    ACQUIRE_QUARANTINED,
    "quarantine.lua",
    "acquire.lua",
    "line.lua",
    "fence.lua",
    "acquire_waited_for.lua"
);
script!(CONFIRM_QUARANTINED, "quarantine.lua", "line.lua", "fence.lua", "confirm.lua");
script!(CONFIRM, "line.lua", "fence.lua", "confirm.lua");
script!(STAND_BY, "line.lua", "stand_by.lua");
script!(GIVE_UP, "line.lua", "give_up.lua");
script!(RELEASE, "release.lua", "line.lua", "release_waited_for.lua");
script!(EXTEND, "extend.lua");
script!(HOLDER, "holder.lua");
script!(BREAK_IF, "line.lua", "break_if.lua");
script!(TAKE_PERMIT, "semaphore/queue.lua", "semaphore/take.lua");
script!(TAKE_PERMIT_QUARANTINED, "quarantine.lua", "semaphore/queue.lua", "semaphore/take.lua");
script!(CONFIRM_PERMIT_QUARANTINED, "quarantine.lua", "semaphore/queue.lua", "semaphore/confirm.lua");
script!(CONFIRM_PERMIT, "semaphore/queue.lua", "semaphore/confirm.lua");
script!(GIVE_PERMIT, "semaphore/queue.lua", "semaphore/give.lua");
script!(STAND_BY_PERMITS, "semaphore/queue.lua", "semaphore/stand_by.lua");
script!(EXCHANGE_PERMITS, "semaphore/queue.lua", "semaphore/exchange.lua");
script!(RENEW_PERMITS, "semaphore/renew.lua");
script!(SET_PERMITS, "semaphore/queue.lua", "semaphore/set_permits.lua");
script!(PERMITS_IN_USE, "semaphore/queue.lua", "semaphore/in_use.lua");
script!(TAKE_GROUP, "group/queue.lua", "fence.lua", "group/acquire.lua");
script!(TAKE_GROUP_QUARANTINED, "quarantine.lua", "group/queue.lua", "fence.lua", "group/acquire.lua");
script!(CONFIRM_GROUP, "group/queue.lua", "fence.lua", "group/confirm.lua");
script!(CONFIRM_GROUP_QUARANTINED, "quarantine.lua", "group/queue.lua", "fence.lua", "group/confirm.lua");
script!(GIVE_GROUP, "group/queue.lua", "group/give.lua");
script!(STAND_BY_GROUPS, "group/queue.lua", "group/stand_by.lua");
script!(RENEW_GROUPS, "group/renew.lua");
script!(GROUP_HOLDER, "group/queue.lua", "group/holder.lua");
script!(BEGIN_JOB, "fence.lua", "job/begin.lua");
script!(BEGIN_JOB_QUARANTINED, "quarantine.lua", "fence.lua", "job/begin.lua");
script!(END_JOB, "job/end.lua");
script!(LAST_RUN, "job/status.lua");
script!(ACKNOWLEDGE, "acknowledge.lua");
script!(SET_FENCED, "set_fenced.lua");

impl Script {
    pub(super) fn by_hash(&self, keys: &[&str], arguments: &[&[u8]]) -> Request {
        call("EVALSHA", &self.hash, keys, arguments)
    }

    #[cfg(test)]
    pub(super) fn source(&self) -> &'static str {
        self.source
    }

    pub(super) fn by_source(&self, keys: &[&str], arguments: &[&[u8]]) -> Request {
        call("EVAL", self.source, keys, arguments)
    }
}

fn call(command: &str, script: &str, keys: &[&str], arguments: &[&[u8]]) -> Request {
    let lengths = keys.iter().map(|key| key.len()).chain(arguments.iter().map(|argument| argument.len()));
    let bytes = lengths.map(frame).sum::<usize>() + frame(script.len()) + frame(4);
    let count = u64::try_from(keys.len()).unwrap_or(u64::MAX);
    let mut request = Request::with_capacity(command, bytes).arg(script).number(count);
    keys.iter().for_each(|key| request.push(key.as_bytes()));
    arguments.iter().for_each(|argument| request.push(argument));
    request
}

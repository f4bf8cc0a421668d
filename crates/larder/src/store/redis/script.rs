//! The scripts that run on the server, each as one atomic step. A script is sent by its hash, and by its source if
//! the server has forgotten it.
//!
//! An operation is a whole file in `lua/`. The line `-- include lock/queue.lua: now_of, hand_over` is replaced by the
//! functions of another file, and lists those that the operation uses. It follows the steps that need none of them,
//! because the server makes the functions again for each call. `-- include limit/charge.lua: the whole operation` is
//! replaced by an operation, or by the rest of one.

use std::slice;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::wire::{Request, frame};

pub(super) struct Script {
    source: LazyLock<String>,
    /// `EVALSHA` and the hash, encoded once.
    by_hash: LazyLock<Request>,
}

struct File {
    name: &'static str,
    text: &'static str,
}

macro_rules! file {
    ($name:literal) => {
        File { name: $name, text: include_str!(concat!("lua/", $name)) }
    };
}

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        pub(super) static $name: Script = Script {
            source: LazyLock::new(|| source_of(&[$(file!($file)),+])),
            by_hash: LazyLock::new(|| {
                Request::new("EVALSHA").arg(sha1_smol::Sha1::from(&*$name.source).digest().to_string())
            }),
        };
    };
}

/// The files that others include.
static PARTS: [File; 9] = [
    file!("group/queue.lua"),
    file!("limit/charge.lua"),
    file!("limit/charge_any.lua"),
    file!("limit/limit.lua"),
    file!("limit/read.lua"),
    file!("lock/fence.lua"),
    file!("lock/held_by.lua"),
    file!("lock/queue.lua"),
    file!("semaphore/queue.lua"),
];

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
script!(CHARGE, "limit/charge.lua");
script!(CHARGE_TOGETHER, "limit/together.lua");
script!(OVERRIDE, "limit/override.lua");
script!(RESET, "limit/reset.lua");
script!(REFUND, "limit/refund.lua");

script!(ACQUIRE, "lock/acquire.lua");
script!(ACQUIRE_QUARANTINED, "lock/quarantine.lua", "lock/acquire.lua");
script!(CONFIRM_QUARANTINED, "lock/quarantine.lua", "lock/confirm.lua");
script!(CONFIRM, "lock/confirm.lua");
script!(HEARTBEAT, "lock/heartbeat.lua");
script!(GIVE_UP, "lock/give_up.lua");
script!(RELEASE, "lock/release.lua");
script!(EXTEND, "lock/extend.lua");
script!(HOLDER, "lock/holder.lua");
script!(BREAK_IF, "lock/break_if.lua");
script!(TAKE_PERMIT, "semaphore/take.lua");
script!(TAKE_PERMIT_QUARANTINED, "lock/quarantine.lua", "semaphore/take.lua");
script!(CONFIRM_PERMIT_QUARANTINED, "lock/quarantine.lua", "semaphore/confirm.lua");
script!(CONFIRM_PERMIT, "semaphore/confirm.lua");
script!(GIVE_PERMIT, "semaphore/give.lua");
script!(HEARTBEAT_OF_PERMITS, "semaphore/heartbeat.lua");
script!(EXCHANGE_PERMITS, "semaphore/exchange.lua");
script!(RENEW_PERMITS, "semaphore/renew.lua");
script!(SET_PERMITS, "semaphore/set_permits.lua");
script!(PERMITS_IN_USE, "semaphore/in_use.lua");
script!(TAKE_GROUP, "group/acquire.lua");
script!(TAKE_GROUP_QUARANTINED, "lock/quarantine.lua", "group/acquire.lua");
script!(CONFIRM_GROUP, "group/confirm.lua");
script!(CONFIRM_GROUP_QUARANTINED, "lock/quarantine.lua", "group/confirm.lua");
script!(GIVE_GROUP, "group/give.lua");
script!(HEARTBEAT_OF_GROUPS, "group/heartbeat.lua");
script!(RENEW_GROUPS, "group/renew.lua");
script!(GROUP_HOLDER, "group/holder.lua");
script!(BEGIN_JOB, "job/begin.lua");
script!(BEGIN_JOB_QUARANTINED, "lock/quarantine.lua", "job/begin.lua");
script!(END_JOB, "job/end.lua");
script!(LAST_RUN, "job/status.lua");
script!(ACKNOWLEDGE, "lock/acknowledge.lua");
script!(SET_FENCED, "cache/set_fenced.lua");
script!(ANNOUNCE, "presence/announce.lua");
#[cfg(feature = "admin")]
script!(SHOW_LOCK, "admin/lock.lua");
#[cfg(feature = "admin")]
script!(SHOW_SEMAPHORE, "admin/semaphore.lua");
#[cfg(feature = "admin")]
script!(SHOW_GROUP, "admin/group.lua");

/// Joins the files, with each line `-- include NAME: …` replaced by the part of that name, and so on in that part.
fn source_of(files: &[File]) -> String {
    let mut source = String::new();
    for line in files.iter().flat_map(|file| file.text.split_inclusive('\n')) {
        match included(line) {
            Some(part) => source.push_str(&source_of(slice::from_ref(part))),
            None => source.push_str(line),
        }
    }
    source
}

fn included(line: &str) -> Option<&'static File> {
    let (name, _) = line.strip_prefix("-- include ")?.split_once(':')?;
    PARTS.iter().find(|part| part.name == name)
}

impl Script {
    pub(super) fn by_hash(&self, keys: &[&str], arguments: &[&[u8]]) -> Request {
        call(&self.by_hash, keys, arguments)
    }

    #[cfg(test)]
    pub(super) fn source(&'static self) -> &'static str {
        &self.source
    }

    pub(super) fn by_source(&self, keys: &[&str], arguments: &[&[u8]]) -> Request {
        call(&Request::new("EVAL").arg(&*self.source), keys, arguments)
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn lua_files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { lua_files(&path) } else { vec![path] }).collect()
    }

    /// Returns the names that a part defines at its top level.
    fn defined(part: &str) -> Vec<&str> {
        let locals = part.lines().filter_map(|line| line.strip_prefix("local "));
        let names = locals.flat_map(|local| match local.strip_prefix("function ") {
            Some(function) => function[..function.find('(').unwrap()].split(", "),
            None => local[..local.find(" =").unwrap()].split(", "),
        });
        names.collect()
    }

    /// Returns whether code uses a name: not in a comment, not in a text.
    fn uses(text: &str, name: &str) -> bool {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("--"));
        let unquoted = code.flat_map(|line| line.split('\'').step_by(2));
        let words =
            unquoted.flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '.'));
        words.into_iter().any(|word| word == name)
    }

    /// Each file can be read by itself: it says from which file it has which names.
    #[test]
    fn an_operation_names_all_that_it_uses_of_an_included_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/redis/lua");
        for path in lua_files(&folder) {
            let (text, file) = (fs::read_to_string(&path).unwrap(), path.display());
            let includes = text.replace(",\n--   ", ", ");
            for include in includes.lines().filter_map(|line| line.strip_prefix("-- include ")) {
                let (name, listed) = include.split_once(": ").unwrap();
                let part = PARTS.iter().find(|part| part.name == name);
                let part = part.unwrap_or_else(|| panic!("{file} includes {name}, which is no part"));
                if listed.starts_with("the ") {
                    continue; // The whole or the rest of an operation, which replies by itself.
                }
                let used: Vec<&str> =
                    defined(part.text).into_iter().filter(|name| uses(&text, name)).collect();
                assert_eq!(listed.split(", ").collect::<Vec<_>>(), used, "{file}: what it uses of {name}");
            }
        }
    }
}

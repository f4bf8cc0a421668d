//! *rights*: whether the user may do what larder needs, and not much more.
//!
//! With `--as-user` an administrator asks by `ACL DRYRUN`, from Redis 7.0 on. Otherwise the connection's own user tries
//! each command. A server checks rights before it looks at arguments, so every try is a command that changes nothing:
//! it writes only if there is a key (`SET … XX`), or has an argument that the command refuses.

use larder::admin::Deployment;

use super::connection::Failure;
use super::exam::{Exam, Node, Options};
use super::report::{Report, Verdict};

/// A block of docs/security.md.
pub(crate) struct Block {
    pub(crate) check: u8,
    pub(crate) name: &'static str,
    /// The commands that it permits: as there, and how each is tried.
    pub(crate) commands: &'static [(&'static str, &'static [&'static str])],
    /// The kinds of names that it permits, with their layout; `""` for entries.
    pub(crate) names: &'static [&'static str],
    /// How bad it is if something is missing.
    missing: Verdict,
}

/// Stands for the name of an entry that does not exist.
const KEY: &str = "{key}";
/// Stands for the database of the connection.
const DATABASE: &str = "{database}";
const NO_SCRIPT: &str = "0000000000000000000000000000000000000000";

pub(crate) static BLOCKS: &[Block] = &[
    Block {
        check: 31,
        name: "cache",
        commands: &[
            ("get", &["GET", KEY]),
            ("mget", &["MGET", KEY]),
            ("getrange", &["GETRANGE", KEY, "0", "0"]),
            ("set", &["SET", KEY, "x", "XX", "PX", "1000"]),
            ("unlink", &["UNLINK", KEY]),
            ("pexpire", &["PEXPIRE", KEY, "1000"]),
            ("pttl", &["PTTL", KEY]),
            ("evalsha", &["EVALSHA", NO_SCRIPT, "0"]),
            ("eval", &["EVAL", "return 1", "0"]),
            ("ping", &["PING"]),
            ("time", &["TIME"]),
        ],
        names: &["", "clear.1", "lease.2", "once.1", "tag.1", "epoch.1"],
        missing: Verdict::Problem,
    },
    Block {
        check: 32,
        name: "tracking",
        commands: &[("client|tracking", &["CLIENT", "TRACKING", "OFF"])],
        names: &[],
        missing: Verdict::Warning,
    },
    Block {
        check: 33,
        name: "coordination",
        commands: &[
            ("exists", &["EXISTS", KEY]),
            ("hdel", &["HDEL", KEY, "x"]),
            ("hget", &["HGET", KEY, "x"]),
            // Not a number, so that nothing is stored.
            ("hincrby", &["HINCRBY", KEY, "x", "y"]),
            ("hmget", &["HMGET", KEY, "x"]),
            // A field without its value.
            ("hset", &["HSET", KEY, "x", "y", "z"]),
            ("setrange", &["SETRANGE", KEY, "0", ""]),
            ("zadd", &["ZADD", KEY, "XX", "0", "x"]),
            ("zcard", &["ZCARD", KEY]),
            ("zrange", &["ZRANGE", KEY, "0", "0"]),
            ("zrangebyscore", &["ZRANGEBYSCORE", KEY, "0", "0"]),
            ("zrem", &["ZREM", KEY, "x"]),
            ("zscore", &["ZSCORE", KEY, "x"]),
        ],
        names: &["lock.2", "group.1", "election.2", "job.1", "semaphore.1", "rwlock.1", "limit.1"],
        missing: Verdict::Warning,
    },
    Block {
        check: 40,
        name: "presence",
        commands: &[
            ("zadd", &["ZADD", KEY, "XX", "0", "x"]),
            ("zrangebyscore", &["ZRANGEBYSCORE", KEY, "0", "0"]),
            ("zrem", &["ZREM", KEY, "x"]),
        ],
        names: &["process.1"],
        // Only programs that announce themselves need it: a warning if there are any.
        missing: Verdict::Good,
    },
    Block {
        check: 33,
        name: "coordination-6",
        commands: &[("getset", &["GETSET", KEY, "x"])],
        names: &[],
        missing: Verdict::Warning,
    },
    Block {
        check: 33,
        name: "coordination-valkey-9",
        // A value that no lock has, so that nothing is deleted.
        commands: &[("delifeq", &["DELIFEQ", KEY, ""])],
        names: &[],
        missing: Verdict::Good,
    },
    Block {
        check: 33,
        name: "coordination-redis-8.4",
        commands: &[("delex", &["DELEX", KEY, "IFEQ", ""])],
        names: &[],
        missing: Verdict::Good,
    },
    Block {
        check: 34,
        name: "eviction",
        commands: &[("info", &["INFO", "server"])],
        names: &[],
        missing: Verdict::Warning,
    },
    Block {
        check: 35,
        name: "replicas",
        commands: &[("wait", &["WAIT", "0", "1"])],
        names: &[],
        missing: Verdict::Warning,
    },
    Block {
        check: 36,
        name: "cluster",
        commands: &[("cluster|slots", &["CLUSTER", "SLOTS"]), ("asking", &["ASKING"])],
        names: &[],
        missing: Verdict::Problem,
    },
    Block {
        check: 37,
        name: "sentinel",
        commands: &[("role", &["ROLE"])],
        names: &[],
        missing: Verdict::Warning,
    },
    Block {
        check: 38,
        name: "database",
        commands: &[("select", &["SELECT", DATABASE])],
        names: &[],
        missing: Verdict::Problem,
    },
    Block {
        check: 39,
        name: "client-name",
        commands: &[("client|setname", &["CLIENT", "SETNAME", "larder-doctor"])],
        names: &[],
        missing: Verdict::Warning,
    },
    Block {
        check: 39,
        name: "name",
        commands: &[("client|setinfo", &["CLIENT", "SETINFO", "lib-name", "larder"])],
        names: &[],
        missing: Verdict::Warning,
    },
];

/// What only administrators need.
const DANGEROUS: &[&[&str]] =
    &[&["FLUSHALL"], &["KEYS", "*"], &["CONFIG", "GET", "maxmemory"], &["PUBLISH", "larder-doctor", "x"]];

pub(crate) async fn examine(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    if !report.wants(&[30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40]) {
        return Ok(());
    }
    let options = exam.options.clone();
    let (locks, several) = (exam.has_locks(), exam.nodes.len() > 1);
    let announced =
        exam.names.as_ref().is_some_and(|names| names.has_processes(options.namespace.as_deref()));
    for node in &mut exam.nodes {
        let at = if several { format!(" at {}", node.address) } else { String::new() };
        if options.as_user.is_some() && !can_ask(node, &options, report).await? {
            return Ok(());
        }
        too_much(node, &options, &at, report).await?;
        for block in BLOCKS {
            if let Some(why) = needless(block, node, &options) {
                report.inapplicable(block.check, why);
            } else if report.wants(&[block.check]) {
                let missing = match block.check {
                    33 if locks && block.missing == Verdict::Warning => Verdict::Problem,
                    40 if announced => Verdict::Warning,
                    _ => block.missing,
                };
                examine_block(block, missing, node, &options, &at, report).await?;
            }
        }
    }
    Ok(())
}

/// Whether ACL DRYRUN is there and permitted. Otherwise all rights of another user are unknown.
async fn can_ask(node: &mut Node, options: &Options, report: &mut Report) -> Result<bool, Failure> {
    let user = options.as_user.as_deref().unwrap_or_default();
    let reply = node.connection.call(&["ACL", "DRYRUN", user, "PING"]).await?;
    let Some(error) = reply.error() else { return Ok(true) };
    for number in 30..=40 {
        let why =
            format!("the rights of {user}: {error}; log in as {user} instead (--user), from Redis 7 on");
        report.unmeasured(number, why);
    }
    Ok(false)
}

/// Why a block does not concern this server, if it does not.
fn needless(block: &Block, node: &Node, options: &Options) -> Option<&'static str> {
    let version = node.version();
    let before =
        |major, minor| version.is_some_and(|(product, a, b)| product == "Redis" && (a, b) < (major, minor));
    let since = |name, first| version.is_some_and(|(product, a, b)| product == name && (a, b) >= first);
    let is_cluster = options.target.deployment == Deployment::Cluster;
    let is_sentinel = matches!(options.target.deployment, Deployment::Sentinel { .. });
    match block.name {
        "coordination-6" if !before(7, 0) => Some("needed before Redis 7 only"),
        "coordination-valkey-9" if !since("Valkey", (9, 0)) => Some("there from Valkey 9 on"),
        "coordination-redis-8.4" if !since("Redis", (8, 4)) => Some("there from Redis 8.4 on"),
        "cluster" if !is_cluster => Some("not a cluster"),
        "sentinel" if !before(6, 2) && !is_sentinel => Some("needed before Redis 6.2 only"),
        "database" if options.target.database == 0 => Some("database 0 needs no SELECT"),
        "name" if before(7, 2) => Some("there from Redis 7.2 on"),
        _ => None,
    }
}

async fn examine_block(
    block: &Block,
    missing: Verdict,
    node: &mut Node,
    options: &Options,
    at: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut refused = Vec::new();
    for (right, command) in block.commands {
        if *right == "getset" && options.as_user.is_none() && !prepare_getset(node, options).await? {
            continue;
        }
        let key = options.entry("rights");
        let database = options.target.database.to_string();
        let command: Vec<&str> = command
            .iter()
            .map(|part| match *part {
                KEY => key.as_str(),
                DATABASE => database.as_str(),
                part => part,
            })
            .collect();
        let refusal_of_right = refusal(node, options, &command).await?;
        if *right == "getset" && options.as_user.is_none() {
            node.connection.call(&["UNLINK", &key]).await?;
        }
        if let Some(why) = refusal_of_right {
            // A refused name is a missing pattern and not a missing command.
            if !why.contains("key") || block.names.is_empty() {
                refused.push(format!("+{right}"));
            }
        }
    }
    for kind in block.names {
        let name = reserved_name(kind, options);
        if let Some(why) = refusal(node, options, &["GET", &name]).await?
            && why.contains("key")
        {
            refused.push(pattern(kind, options));
        }
    }
    if refused.is_empty() {
        report.good(block.check, format!("all rights of the block {:?}", block.name));
        return Ok(());
    }
    let user = options.as_user.as_ref().or(options.login.username.as_ref());
    let user = user.map_or("default", String::as_str);
    let list = refused.join(" ");
    let measured = format!("user {user}{at} lacks {list} (block {:?})", block.name);
    let fix = format!("ACL SETUSER {user} {list}, on every server, then ACL SAVE");
    match missing {
        Verdict::Good => {
            let why = match block.name {
                "presence" => "only programs that announce themselves need it",
                _ => "without it a release of a lock is a script",
            };
            report.good(block.check, format!("{measured}: {why}"))
        }
        Verdict::Problem => report.problem(block.check, measured, fix),
        _ => report.warning(block.check, measured, fix),
    }
    Ok(())
}

/// GETSET would store its argument, unless the key holds another type. Returns whether that is so.
async fn prepare_getset(node: &mut Node, options: &Options) -> Result<bool, Failure> {
    if options.read_only {
        return Ok(false);
    }
    let key = options.entry("rights");
    let replies =
        node.connection.pipeline(&[vec!["ZADD", &key, "0", "x"], vec!["PEXPIRE", &key, "2000"]]).await?;
    let stored = replies.first().is_some_and(|reply| reply.error().is_none());
    let ready = stored && replies.iter().all(|reply| reply.error().is_none());
    if stored && !ready {
        // Without the right to PEXPIRE the key would stay for ever.
        node.connection.call(&["UNLINK", &key]).await?;
    }
    Ok(ready)
}

/// Why the user may not run a command; `None` if it may.
async fn refusal(node: &mut Node, options: &Options, command: &[&str]) -> Result<Option<String>, Failure> {
    let Some(user) = &options.as_user else {
        let reply = node.connection.call(command).await?;
        return Ok(reply.error().filter(|error| error.starts_with("NOPERM")).map(str::to_owned));
    };
    let mut dry = vec!["ACL", "DRYRUN", user];
    dry.extend(command);
    let reply = node.connection.call(&dry).await?;
    Ok(reply.text().filter(|text| text != "OK"))
}

/// The name of a thing that only `doctor` uses.
fn reserved_name(kind: &str, options: &Options) -> String {
    let namespace = options.namespace.as_deref().unwrap_or_default();
    match kind {
        "" => options.entry("rights"),
        "lease.2" | "once.1" => format!("~{kind}:{{{}}}", options.entry("rights")),
        _ => format!("~{kind}:{{{namespace}/larder-doctor}}"),
    }
}

fn pattern(kind: &str, options: &Options) -> String {
    match (&options.namespace, kind) {
        (None, _) => "~*".to_owned(),
        (Some(namespace), "") => format!("~{namespace}/*"),
        (Some(namespace), kind) => format!("~~{kind}:{{{namespace}/*"),
    }
}

/// Whether the user may do what larder never does. A user that cannot be asked about tries what is harmless.
async fn too_much(node: &mut Node, options: &Options, at: &str, report: &mut Report) -> Result<(), Failure> {
    if !report.wants(&[30]) {
        return Ok(());
    }
    let asked = options.as_user.is_some();
    let mut allowed = Vec::new();
    for command in DANGEROUS {
        let name = command.first().copied().unwrap_or_default();
        // Only asked about, never tried.
        if matches!(name, "FLUSHALL" | "KEYS") && !asked {
            continue;
        }
        if refusal(node, options, command).await?.is_none() {
            allowed.push(name);
        }
    }
    if options.namespace.is_some() && refusal(node, options, &["GET", "larder-doctor"]).await?.is_none() {
        allowed.push("read other namespaces");
    }
    let user = options.as_user.as_ref().or(options.login.username.as_ref());
    let user = user.map_or("default", String::as_str);
    if allowed.is_empty() {
        report.good(30, format!("user {user} may do what larder needs, and no more"));
        return Ok(());
    }
    let hint = if asked { "" } else { "; as an administrator, examine the program's user with --as-user" };
    report.warning(
        30,
        format!("user {user}{at} may {}", allowed.join(", ")),
        format!("run the program as a user of its own with the ACL of the documentation{hint}"),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every right in the blocks of docs/security.md is examined, in the block of the same name, and no other one is.
    #[test]
    fn the_rights_are_those_of_the_documentation() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md")).unwrap();
        let mut blocks = 0;
        for block in page.split("```text ").skip(1) {
            let (name, lines) = block.split_once('\n').unwrap();
            let (lines, _) = lines.split_once("```").unwrap();
            let words: Vec<&str> = lines.split_whitespace().collect();
            // Rights that only tools like this one need.
            if name == "admin" {
                continue;
            }
            let ours = BLOCKS.iter().find(|block| block.name == name);
            let ours = ours.unwrap_or_else(|| panic!("doctor does not examine the block {name:?}"));
            let mut commands: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix('+')).collect();
            let mut known: Vec<&str> = ours.commands.iter().map(|(right, _)| *right).collect();
            commands.sort_unstable();
            known.sort_unstable();
            assert_eq!(known, commands, "{name}");
            let mut names: Vec<&str> = words
                .iter()
                .filter_map(|word| word.strip_prefix('~'))
                .map(|name| name.strip_prefix('~').and_then(|name| name.split_once(':')).map_or("", |n| n.0))
                .collect();
            let mut known = ours.names.to_vec();
            names.sort_unstable();
            known.sort_unstable();
            assert_eq!(known, names, "{name}");
            blocks += 1;
        }
        assert_eq!(blocks, BLOCKS.len());
    }
}

//! `larder doctor`: for each check a server where it is good and one where it is bad.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use larder_testkit::{Server, Value, eventually};

use super::{Findings, doctor, larder, page, run};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Runs the lines of these blocks of docs/security.md, as an administrator would.
pub(crate) fn permit(server: &Server, blocks: &[&str]) {
    let page = page("security.md");
    for block in page.split("```text ").skip(1) {
        let (name, lines) = block.split_once('\n').unwrap();
        if blocks.contains(&name) {
            let (lines, _) = lines.split_once("```").unwrap();
            for line in lines.lines() {
                let line = if server.version().at_least(6, 2) {
                    line.to_owned()
                } else {
                    line.replace("resetchannels ", "")
                };
                let words: Vec<&str> = line.split_whitespace().collect();
                server.command(&words);
            }
        }
    }
}

/// Every block that a program on this server may need.
fn permit_all(server: &Server) {
    let mut blocks = vec![
        "cache",
        "tracking",
        "coordination",
        "eviction",
        "replicas",
        "cluster",
        "sentinel",
        "database",
        "presence",
    ];
    let version = server.version();
    if !version.at_least(7, 0) {
        blocks.push("coordination-6");
    }
    blocks.push("client-name");
    if server.try_query::<String>(&["CLIENT", "SETINFO", "LIB-NAME", "test"]).is_ok() {
        blocks.push("name");
    }
    permit(server, &blocks);
}

/// A TCP server with a password, set up as docs/operations.md says for locks.
pub(crate) fn server_for_locks() -> Server {
    Server::builder()
        .tcp()
        .password("pw")
        .persist()
        .arg("maxmemory", "256mb")
        .arg("maxmemory-policy", "noeviction")
        .start()
}

/// Runs it until the checks are as wanted: a busy machine may make some of them worse for a moment.
#[track_caller]
pub(crate) fn until(url: &str, arguments: &[&str], wanted: impl Fn(&Findings) -> bool) -> Findings {
    eventually("doctor finds what is wanted", LIMIT, || {
        let findings = doctor(url, arguments);
        wanted(&findings).then_some(findings)
    })
}

#[test]
fn a_server_that_is_set_up_as_documented_has_no_problem_and_no_warning() {
    let server = server_for_locks();
    server.command(&["SET", "shop/user:1", "{}", "EX", "60"]);
    server.command(&["SET", "~lock.2:{shop/a}", "x", "EX", "60"]);
    permit_all(&server);
    let variables = [("LARDER_URL", server.url()), ("LARDER_NAMESPACE", "shop".to_owned())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let can_ask = server.version().at_least(7, 0);
    let mut arguments = vec!["doctor", "--json", "--skip", "L21"];
    if can_ask {
        arguments.extend(["--as-user", "shop"]);
    }
    let mut command = larder(&variables);
    let findings = eventually("the machine is quick enough for L06", LIMIT, || {
        let findings = Findings::of(&command.args(&arguments).output().unwrap());
        (findings.verdict("L06") == "good" && findings.verdict("L51") == "good").then_some(findings)
    });
    findings.expect(
        "good",
        &[
            "L01", "L02", "L04", "L05", "L06", "L07", "L08", "L11", "L12", "L13", "L14", "L22", "L23", "L24",
            "L25", "L26", "L27", "L41", "L42", "L43", "L44", "L45", "L46", "L47", "L48", "L51", "L52",
        ],
    );
    if can_ask {
        findings.expect("good", &["L30", "L31", "L32", "L33", "L34", "L35", "L39"]);
    }
    findings.expect("inapplicable", &["L03", "L15", "L36", "L61", "L62", "L63", "L64", "L65"]);
    if can_ask {
        assert_eq!(
            (findings.code, findings.document["warnings"].as_u64()),
            (Some(0), Some(0)),
            "{:#}",
            findings.document
        );
    }
}

#[test]
fn a_programs_own_user_sees_that_it_may_do_what_larder_needs_and_no_more() {
    let server = server_for_locks();
    permit_all(&server);
    let url = server.url().replace("//:pw@", "//shop:CHANGE-ME@");
    let findings =
        doctor(&url, &["--namespace", "shop", "--only", "rights,link,tracking,L11,L41", "--skip", "L06"]);
    findings.expect("good", &["L01", "L30", "L31", "L32", "L33", "L34", "L35", "L39", "L40", "L41", "L51"]);
    findings.says("L01", "good", "user shop");
    // What only an administrator may ask for.
    findings.expect("unmeasured", &["L52"]);
    assert_eq!(findings.code, Some(0));

    // With the block for tools, everything is measured.
    permit(&server, &["admin"]);
    let findings = doctor(&url, &["--namespace", "shop"]);
    let unmeasured = findings.document["unmeasured"].as_u64();
    assert_eq!(unmeasured, Some(0), "{:#}", findings.document);
    findings.says("L30", "warning", "user shop may CONFIG");

    server.command(&["ACL", "SETUSER", "poor", "reset", "on", ">p", "-@all", "~shop/*", "+get", "+ping"]);
    let url = server.url().replace("//:pw@", "//poor:p@");
    let arguments = ["--namespace", "shop", "--only", "rights,link,tracking,L11,L41", "--skip", "L06,L07"];
    let findings = doctor(&url, &arguments);
    findings.says("L31", "problem", "+evalsha");
    findings.says("L31", "problem", "~~tag.1:{shop/*");
    findings.says("L31", "problem", "user poor lacks +mget");
    findings.expect("warning", &["L32", "L33", "L34", "L35", "L39", "L51"]);
    findings.expect("unmeasured", &["L08", "L11", "L41", "L52"]);
    assert_eq!(findings.code, Some(2));
    // Nothing was stored by trying.
    assert_eq!(server.query::<Vec<String>>(&["KEYS", "*"]), Vec::<String>::new());

    // The same by asking, and what an administrator of a cluster or of another database would miss.
    if server.version().at_least(7, 0) {
        let findings = doctor(
            &format!("{}/1", server.url()),
            &["--namespace", "shop", "--only", "rights", "--as-user", "poor"],
        );
        findings.says("L31", "problem", "+evalsha");
        findings.says("L31", "problem", "~~tag.1:{shop/*");
        findings.expect("problem", &["L38"]);
        findings.expect("warning", &["L32", "L33", "L34", "L35", "L39"]);
        findings.expect("good", &["L30"]);
        let findings = doctor(&format!("{}/1", server.url()), &["--only", "L38"]);
        findings.expect("good", &["L38"]);
    }
    let findings = doctor(&format!("{url}/1"), &["--only", "L01"]);
    findings.says("L01", "problem", "SELECT 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_to_announce_itself_are_missed_where_programs_do_that() {
    let server = server_for_locks();
    // All blocks but `presence`, and the one that lets doctor list names.
    permit(&server, &["cache", "tracking", "coordination", "eviction", "client-name", "admin"]);
    let url = server.url().replace("//:pw@", "//shop:CHANGE-ME@");
    let arguments = ["--namespace", "shop", "--only", "L40"];
    doctor(&url, &arguments).says("L40", "good", "only programs that announce themselves need it");
    let program = larder::Larder::builder().url(server.url()).namespace("shop").presence("web-3");
    let program = program.connect().await.unwrap();
    let findings = until(&url, &arguments, |findings| findings.verdict("L40") == "warning");
    findings.says("L40", "warning", "~~process.1:{shop/*");
    permit(&server, &["presence"]);
    doctor(&url, &arguments).expect("good", &["L40"]);
    // Those of another namespace do not count.
    server.command(&["ACL", "SETUSER", "other", "reset", "on", ">p", "+@all", "~*", "-zrem"]);
    let url = server.url().replace("//:pw@", "//other:p@");
    doctor(&url, &["--namespace", "shop2", "--only", "L40"]).says("L40", "good", "lacks +zrem");
    doctor(&url, &arguments).says("L40", "warning", "lacks +zrem");
    program.close().await.unwrap();
}

#[test]
fn a_server_that_does_everything_wrong_for_locks_is_found_out() {
    let server = Server::builder()
        .tcp()
        .arg("maxmemory", "100mb")
        .arg("maxmemory-policy", "allkeys-lfu")
        .arg("slowlog-log-slower-than", "0")
        .arg("latency-monitor-threshold", "1")
        .arg("tracking-table-max-keys", "5")
        .arg("maxclients", "40")
        .start();
    for name in ["a", "b"] {
        server.command(&["SET", &format!("~lock.2:{{shop/{name}}}"), "x", "EX", "600"]);
    }
    server.command(&["KEYS", "*"]);
    server.command(&["SWAPDB", "1", "2"]);
    server.command(&["DEBUG", "SLEEP", "0.15"]);
    // A save cannot replace a folder.
    fs::create_dir(server.folder().join("dump.rdb")).unwrap();
    server.command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    let _ = server.try_query::<Value>(&["BGSAVE"]);
    eventually("the save failed", LIMIT, || {
        (server.info("persistence")["rdb_last_bgsave_status"] == "err").then_some(())
    });
    // A client that tracks five names, and others that only wait.
    let mut reader = tracked(server.addr().unwrap(), 5);
    let _others: Vec<TcpStream> =
        (0..31).map(|_| TcpStream::connect(server.addr().unwrap()).unwrap()).collect();

    let arguments = ["--skip", "rights,cache,L06", "--limit", "L24=-1"];
    let findings = until(&server.url(), &arguments, |findings| findings.verdict("L25") == "warning");
    findings.says("L11", "problem", "maxmemory-policy is allkeys-lfu and 2 locks live here");
    findings.says("L12", "problem", "appendonly is off");
    findings.says("L13", "problem", "rdb_last_bgsave_status");
    findings.expect("warning", &["L04", "L23", "L24"]);
    findings.says("L25", "warning", "ms within the last hour");
    findings.says("L26", "warning", "of KEYS in the slow log");
    findings.says("L27", "warning", "SWAPDB ran 1 times");
    findings.says("L52", "warning", "5 of 5 names are tracked");
    assert_eq!(findings.code, Some(2));
    let text = run(&server.url(), &["doctor", "--only", "L11,L12", "--color", "never", "--format", "table"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains(
            " ✗ L11 maxmemory-policy is allkeys-lfu and 2 locks live here: an evicted lock is free"
        ),
        "{text}"
    );
    assert!(
        text.contains("Fix: use a second server") && text.contains("docs/locks.md#choosing-a-server"),
        "{text}"
    );
    assert!(text.ends_with(" 2 checks: 0 good, 2 problems\n"), "{text}");

    // A master that refuses every write, for want of replicas. Written last, as nothing is stored any more.
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let findings = doctor(&server.url(), &["--only", "L15,L51"]);
    findings.says("L15", "problem", "every write is refused");
    findings.expect("unmeasured", &["L51"]);
    // A flush under locks, and a power cut that would lose a second.
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    server.command(&["CONFIG", "RESETSTAT"]);
    server.command(&["FLUSHALL"]);
    server.command(&["CONFIG", "SET", "appendfsync", "everysec"]);
    server.command(&["CONFIG", "SET", "appendonly", "yes"]);
    let findings = doctor(&server.url(), &["--only", "L11,L12,L27", "--locks"]);
    findings.says("L27", "warning", "FLUSHALL or FLUSHDB ran 1 times");
    findings.says("L12", "warning", "appendfsync is everysec");
    findings.expect("problem", &["L11"]);
    reader.shutdown();
}

/// A connection that has read so many names with tracking.
fn tracked(address: SocketAddr, names: usize) -> Reader {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address).unwrap();
    let mut commands = "HELLO 3\r\nCLIENT TRACKING ON\r\n".to_owned();
    for name in 0..names {
        commands.push_str(&format!("GET shop/tracked:{name}\r\n"));
    }
    commands.push_str("ECHO read-all\r\n");
    stream.write_all(commands.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.windows(8).any(|window| window == b"read-all") {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..length]);
    }
    Reader(stream)
}

struct Reader(TcpStream);

impl Reader {
    fn shutdown(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

#[test]
fn a_cache_that_is_too_small_and_full_of_other_things_is_found_out() {
    let server = Server::builder()
        .tcp()
        .arg("maxmemory", "24mb")
        .arg("maxmemory-policy", "volatile-ttl")
        .arg("proto-max-bulk-len", "64mb")
        .start();
    server.command(&["HSET", "shop/user:1", "name", "Ann"]);
    server.command(&[
        "EVAL",
        "return redis.call('SET', KEYS[1], '\"' .. string.rep('x', 9437184), 'EX', 100000)",
        "1",
        "shop/big:1",
    ]);
    let newer = "return redis.call('SET', KEYS[1], '\\154\\2' .. string.rep('\\0', 50), 'EX', 100000)";
    server.command(&["EVAL", newer, "1", "shop/user:2"]);
    server.command(&["SET", "~lock.3:{shop/a}", "x", "EX", "100000"]);
    for number in 0..60 {
        server.command(&["SET", &format!("forever:{number}"), "x"]);
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let fill = "for i = 1, 50 do redis.call('SET', 'spam:' .. ARGV[1] .. ':' .. i, string.rep('x', 32768), 'EX', 900) end";
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let _ = server.try_query::<Value>(&["EVAL", fill, "0", &round.to_string()]);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let found = std::panic::catch_unwind(|| {
            until(&server.url(), &["--namespace", "shop", "--only", "cache,L21,L22"], |findings| {
                findings.verdict("L44") == "warning" && findings.verdict("L45") == "warning"
            })
        });
        stop.store(true, Ordering::Relaxed);
        let findings = found.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        findings.says("L42", "warning", "maxmemory-policy is volatile-ttl");
        findings.says("L44", "warning", "evictions a second now");
        findings.says("L45", "warning", "forever");
        findings.says("L46", "problem", "shop/big");
        findings.says("L47", "warning", "shop/user:1 (another type)");
        findings.says("L48", "warning", "lock 3 (~lock.3:{shop/a})");
        findings.says("L48", "warning", "an entry (shop/user:2)");
        match server.version() {
            version if version.at_least(8, 0) => findings.says("L21", "good", &version.to_string()),
            _ => findings.says("L21", "warning", "support ended"),
        }
        findings.expect("good", &["L22"]);
    });

    // Without eviction a full server refuses writes.
    server.command(&["UNLINK", "~lock.3:{shop/a}"]);
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let fill = "for i = 1, 500 do redis.call('SET', 'full:' .. i, string.rep('x', 65536), 'EX', 900) end";
    let _ = server.try_query::<Value>(&["EVAL", fill, "0"]);
    let findings = doctor(&server.url(), &["--namespace", "shop", "--only", "L41,L42"]);
    findings.says("L41", "problem", "writes are refused");
    findings.expect("warning", &["L42"]);
    // As documented for caches, with room enough that the entries are not evicted before they are looked at.
    server.command(&["CONFIG", "SET", "maxmemory", "256mb"]);
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lfu"]);
    doctor(&server.url(), &["--namespace", "shop", "--only", "L11,L41,L42"])
        .expect("good", &["L11", "L41", "L42"]);
}

#[test]
fn a_server_without_a_limit_and_with_holes_in_its_memory_is_found_out() {
    let server = Server::builder().tcp().start();
    // In pieces, each of which ends within the time that a command may take, also on a busy machine.
    let each = |what: &str| {
        for first in (1..60_000).step_by(2_000) {
            server.command(&["EVAL", &format!("for i = {first}, {first} + 1999 do {what} end"), "0"]);
        }
    };
    each("redis.call('SET', 'hole:' .. i, string.rep('x', 1200), 'EX', 900)");
    each("if i % 16 > 0 then redis.call('DEL', 'hole:' .. i) end");
    let jemalloc = server.info("memory")["mem_allocator"].starts_with("jemalloc");
    let findings = until(&server.url(), &["--only", "L41,L43"], |findings| {
        !jemalloc || findings.verdict("L43") == "warning"
    });
    findings.says("L41", "warning", "maxmemory is not set");
    // Warnings count only with --strict.
    assert_eq!(findings.code, Some(0));
    assert_eq!(doctor(&server.url(), &["--only", "L41", "--strict"]).code, Some(1));
    assert_eq!(doctor(&server.url(), &["--only", "L41,L22", "--skip", "L41", "--strict"]).code, Some(0));
}

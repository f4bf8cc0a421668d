//! `larder doctor`: for each check a server where it is good and one where it is bad.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use larder_testkit::{Cluster, Sentinel, Server, Value, eventually};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::relay::{self, Effects};
use super::{Findings, doctor, larder, page, run};

const LIMIT: Duration = Duration::from_secs(20);

/// Runs the lines of these blocks of docs/security.md, as an administrator would.
fn permit(server: &Server, blocks: &[&str]) {
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
    let mut blocks =
        vec!["cache", "tracking", "coordination", "eviction", "replicas", "cluster", "sentinel", "database"];
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
fn server_for_locks() -> Server {
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
fn until(url: &str, arguments: &[&str], wanted: impl Fn(&Findings) -> bool) -> Findings {
    eventually("doctor finds what is wanted", LIMIT, || {
        let findings = doctor(url, arguments);
        wanted(&findings).then_some(findings)
    })
}

#[test]
fn a_server_that_is_set_up_as_documented_has_no_problem_and_no_warning() {
    let server = server_for_locks();
    server.command(&["SET", "shop/user:1", "{}", "EX", "60"]);
    server.command(&["SET", "~lock.1:{shop/a}", "x", "EX", "60"]);
    permit_all(&server);
    let variables = [("LARDER_URL", server.url()), ("LARDER_NAMESPACE", "shop".to_owned())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let good = [
        "L01", "L02", "L04", "L05", "L07", "L08", "L11", "L12", "L13", "L14", "L22", "L23", "L24", "L25",
        "L26", "L27", "L41", "L42", "L43", "L44", "L45", "L46", "L47", "L48", "L51", "L52",
    ];
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
    findings.expect("good", &good);
    let rights: &[&str] = if can_ask { &["L30", "L31", "L32", "L33", "L34", "L35", "L39"] } else { &[] };
    findings.expect("good", rights);
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
    findings.expect("good", &["L01", "L30", "L31", "L32", "L33", "L34", "L35", "L39", "L41", "L51"]);
    findings.says("L01", "good", "user shop");
    // What only an administrator may ask for.
    findings.expect("unmeasured", &["L52"]);
    assert_eq!(findings.code, Some(0));

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
        server.command(&["SET", &format!("~lock.1:{{shop/{name}}}"), "x", "EX", "600"]);
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
    // A reader that is told of changes of five names, and others that only wait.
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
    server.command(&["SET", "~lock.2:{shop/a}", "x", "EX", "100000"]);
    for number in 0..60 {
        server.command(&["SET", &format!("forever:{number}"), "x"]);
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let fill = "for i = 1, 200 do redis.call('SET', 'spam:' .. ARGV[1] .. ':' .. i, string.rep('x', 8192), 'EX', 900) end";
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
        findings.says("L47", "warning", "shop/user:1 (hash)");
        findings.says("L48", "warning", "lock 2 (~lock.2:{shop/a})");
        findings.says("L48", "warning", "an entry (shop/user:2)");
        let old = !server.version().at_least(8, 0);
        findings.says("L21", if old { "warning" } else { "good" }, if old { "support ended" } else { "8." });
        findings.expect("good", &["L22"]);
    });

    // Without eviction a full server refuses writes.
    server.command(&["UNLINK", "~lock.2:{shop/a}"]);
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let fill = "for i = 1, 9999 do redis.call('SET', 'full:' .. i, string.rep('x', 65536), 'EX', 900) end";
    let _ = server.try_query::<Value>(&["EVAL", fill, "0"]);
    let findings = doctor(&server.url(), &["--namespace", "shop", "--only", "L41,L42"]);
    findings.says("L41", "problem", "writes are refused");
    findings.expect("warning", &["L42"]);
    // As documented for caches.
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lfu"]);
    doctor(&server.url(), &["--namespace", "shop", "--only", "L11,L41,L42"])
        .expect("good", &["L11", "L41", "L42"]);
}

#[test]
fn a_server_without_a_limit_and_with_holes_in_its_memory_is_found_out() {
    let server = Server::builder().tcp().start();
    let fill = "for i = 1, 60000 do redis.call('SET', 'hole:' .. i, string.rep('x', 1000), 'EX', 900) end";
    server.command(&["EVAL", fill, "0"]);
    let thin = "for i = 1, 60000 do if i % 16 > 0 then redis.call('DEL', 'hole:' .. i) end end";
    server.command(&["EVAL", thin, "0"]);
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

#[test]
fn a_relay_that_hides_servers_clocks_and_pushes_is_found_out() {
    let servers = [Server::builder().tcp().start(), Server::builder().tcp().start()];
    let addresses = servers.each_ref().map(|server| server.addr().unwrap());
    let two = relay::start(&addresses, Arc::default());
    doctor(&two, &["--only", "L08"]).says("L08", "problem", "2 different servers answer");

    let effects = Arc::new(Effects::default());
    let url = relay::start(&addresses[..1], Arc::clone(&effects));
    doctor(&url, &["--only", "L07,L08"]).expect("good", &["L07", "L08"]);
    effects.clock.store(-30, Ordering::Relaxed);
    doctor(&url, &["--only", "L07"]).says("L07", "warning", "a server's clock is 30.");
    effects.clock.store(0, Ordering::Relaxed);
    effects.delay.store(25, Ordering::Relaxed);
    doctor(&url, &["--only", "L06"]).says("L06", "warning", "(p50)");
    effects.delay.store(130, Ordering::Relaxed);
    doctor(&url, &["--only", "L06"]).says("L06", "problem", "(p50)");
    effects.delay.store(0, Ordering::Relaxed);
    effects.mute.store(true, Ordering::Relaxed);
    doctor(&url, &["--only", "L51"]).says("L51", "problem", "a change was not reported within 2 s, after 0");
    // The write that would be reported is forbidden.
    doctor(&url, &["--only", "L51", "--read-only"]).expect("unmeasured", &["L51"]);
    assert_eq!(servers[0].query::<Vec<String>>(&["KEYS", "*"]), Vec::<String>::new());
}

#[test]
fn a_clock_that_is_set_is_found_while_doctor_watches() {
    use std::io::{BufRead, BufReader};
    let server = Server::builder().tcp().start();
    let effects = Arc::new(Effects::default());
    let url = relay::start(&[server.addr().unwrap()], Arc::clone(&effects));
    let mut child = larder(&[("LARDER_URL", &url)])
        .args(["doctor", "--only", "L07", "--watch", "100ms", "--format", "ndjson"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut stepped = false;
    for (round, line) in lines.map_while(Result::ok).enumerate().take(200) {
        if round == 0 {
            effects.clock.store(5, Ordering::Relaxed);
        }
        if line.contains("stepped by +5.") {
            stepped = true;
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(stepped);
}

#[test]
fn a_server_without_hello_tracking_or_a_way_to_it_is_found_out() {
    let old = Server::builder().tcp().arg("rename-command", "HELLO \"\"").start();
    let findings = doctor(&old.url(), &["--only", "L01,L05,L51"]);
    findings.expect("good", &["L01"]);
    findings.says("L05", "problem", "HELLO 3 is refused");
    findings.expect("unmeasured", &["L51"]);

    let server = server_for_locks();
    permit(&server, &["cache"]);
    let url = server.url().replace("//:pw@", "//shop:CHANGE-ME@");
    let findings = doctor(&url, &["--namespace", "shop", "--only", "L32,L51"]);
    findings.expect("warning", &["L32"]);
    findings.says("L51", "warning", "CLIENT TRACKING is refused");

    // 0.0.0.0 leads to this machine, and looks like another one.
    let open = Server::builder().tcp().arg("protected-mode", "no").start();
    let findings =
        doctor(&format!("redis://0.0.0.0:{}", open.addr().unwrap().port()), &["--only", "L02,L04"]);
    findings.expect("warning", &["L02"]);
    findings.says("L04", "problem", "no login is required");
    doctor(&open.url(), &["--only", "L02"]).expect("good", &["L02"]);

    let wrong = doctor(&server.url().replace("pw", "other"), &[]);
    wrong.says("L01", "problem", "WRONGPASS");
    wrong.expect("unmeasured", &["L02", "L11", "L65"]);
    assert_eq!(wrong.code, Some(2));
    server.kill();
    let gone = doctor(&server.url(), &["--only", "L01"]);
    gone.says("L01", "problem", "refused");
    for (url, arguments) in [("memory:", [""; 0].as_slice()), (&open.url(), &["--only", "L99"])] {
        let output = run(url, &[&["doctor"], arguments].concat());
        assert_eq!(output.status.code(), Some(64), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(
        String::from_utf8(run(&open.url(), &["doctor", "--list"]).stdout)
            .unwrap()
            .contains("L11 coordination")
    );
}

#[test]
fn a_certificate_is_good_for_months_bad_for_days_and_a_problem_once_it_has_ended() {
    let long = Server::builder().tls().start();
    let ca = long.folder().join("ca.pem");
    let findings = doctor(&long.url(), &["--tls-ca", ca.to_str().unwrap(), "--only", "L01,L02,L03"]);
    findings.says("L01", "good", "TLS 1.3");
    findings.expect("good", &["L02", "L03"]);
    let untrusted = doctor(&long.url(), &["--only", "L01"]);
    untrusted.says("L01", "problem", "TLS");

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    fs::write(path("ca.pem"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    for (hours, verdict) in [(10 * 24, "warning"), (30, "problem"), (-30, "problem")] {
        let mut certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        certificate.not_after = (std::time::SystemTime::now() + Duration::from_secs(3_600 * 24 * 365)).into();
        let hour = Duration::from_secs(3_600);
        certificate.not_after = match u32::try_from(hours) {
            Ok(hours) => (std::time::SystemTime::now() + hour * hours).into(),
            Err(_) => (std::time::SystemTime::now() - hour * 30).into(),
        };
        let key = KeyPair::generate().unwrap();
        fs::write(path("server.pem"), certificate.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(path("server.key"), key.serialize_pem()).unwrap();
        let server = Server::builder()
            .tls()
            .arg("tls-ca-cert-file", &path("ca.pem"))
            .arg("tls-cert-file", &path("server.pem"))
            .arg("tls-key-file", &path("server.key"))
            .start();
        let findings = doctor(&server.url(), &["--tls-ca", &path("ca.pem"), "--only", "L01,L03"]);
        findings.says("L03", verdict, if hours < 0 { "expired" } else { "ends in" });
        findings.expect(if hours < 0 { "problem" } else { "good" }, &["L01"]);
    }
}

#[test]
fn a_replica_that_lags_and_a_master_that_would_not_stop_are_found_out() {
    let master = server_for_locks();
    let port = master.addr().unwrap().port().to_string();
    let replica =
        Server::builder().tcp().password("pw").arg("replicaof", &format!("127.0.0.1 {port}")).start();
    eventually("the replica follows", LIMIT, || {
        master
            .info("replication")
            .get("slave0")
            .is_some_and(|line| line.contains("state=online"))
            .then_some(())
    });
    let arguments = ["--locks", "--only", "L14,L15,L22", "--limit", "L14=2"];
    let findings = doctor(&master.url(), &arguments);
    findings.expect("good", &["L14", "L22"]);
    findings.says("L15", "warning", "min-replicas-to-write is 0");
    let findings = doctor(&replica.url(), &["--only", "L14,L22,L51"]);
    findings.says("L22", "warning", "is a replica of 127.0.0.1");
    findings.expect("unmeasured", &["L51"]);
    replica.pause();
    until(&master.url(), &arguments, |findings| findings.verdict("L14") == "warning");
    replica.resume();
    master.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    until(&master.url(), &arguments, |findings| findings.verdict("L15") == "good");
    // A replica that has lost its master.
    master.kill();
    until(&replica.url(), &["--only", "L14"], |findings| findings.verdict("L14") == "problem");
}

#[test]
fn a_cluster_with_a_hole_a_dead_node_and_a_patient_master_is_found_out() {
    let cluster = Cluster::start();
    let arguments = ["--only", "cluster,L01,L08,L15,L22,L36,L51"];
    let findings = doctor(&cluster.url(), &arguments);
    findings.expect("good", &["L01", "L22", "L36", "L51", "L61", "L62", "L63"]);
    findings.expect("inapplicable", &["L08", "L15", "L64", "L65"]);
    let alone = cluster.nodes()[0].url();
    doctor(&alone, &["--only", "L61"]).says("L61", "problem", "a node of a cluster");

    for node in cluster.nodes() {
        node.command(&["ACL", "SETUSER", "poor", "reset", "on", ">p", "-@all", "~*", "+get"]);
        node.command(&["CONFIG", "SET", "cluster-node-timeout", "60000"]);
    }
    if cluster.nodes()[0].version().at_least(7, 0) {
        doctor(&cluster.url(), &["--only", "L36", "--as-user", "poor"]).says(
            "L36",
            "problem",
            "+cluster|slots +asking",
        );
    }
    doctor(&cluster.url(), &["--only", "L63"]).says("L63", "warning", "60000 ms");
    let master = cluster.master_of("a");
    let slot: i64 = master.query(&["CLUSTER", "KEYSLOT", "a"]);
    for node in cluster.nodes() {
        node.command(&["CLUSTER", "DELSLOTS", &slot.to_string()]);
    }
    until(&cluster.url(), &["--only", "L61"], |findings| findings.verdict("L61") == "problem");
    cluster.replica_of(master).unwrap().kill();
    let findings = doctor(&cluster.url(), &["--only", "L62"]);
    assert!(["problem", "warning"].contains(&findings.verdict("L62")), "{:#}", findings.document);
}

#[test]
fn sentinels_that_disagree_or_replace_a_master_too_early_are_found_out() {
    let sentinel = Sentinel::builder().down_after(Duration::from_secs(60)).start();
    let [master, ..] = sentinel.servers() else { panic!("two servers") };
    master.command(&["SET", "~lock.1:{shop/a}", "x", "EX", "600"]);
    master.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let findings = until(&sentinel.url(), &["--only", "cluster,L01,L15,L37"], |findings| {
        findings.verdict("L64") == "good" && findings.verdict("L15") == "good"
    });
    findings.expect("good", &["L01", "L37", "L62", "L64", "L65"]);
    findings.expect("inapplicable", &["L61", "L63"]);

    for server in sentinel.servers() {
        server.command(&["ACL", "SETUSER", "poor", "reset", "on", ">p", "-@all", "~*", "+get"]);
    }
    master.command(&["CONFIG", "SET", "min-replicas-max-lag", "120"]);
    let findings = doctor(&sentinel.url(), &["--only", "L65"]);
    findings.says("L65", "warning", "min-replicas-max-lag is 120 s, down-after-milliseconds 60000");
    if master.version().at_least(7, 0) {
        doctor(&sentinel.url(), &["--only", "L37", "--as-user", "poor"]).says("L37", "warning", "+role");
    }
    // One that was left behind names the replica.
    let stale = Sentinel::stale(sentinel.servers()[1].addr().unwrap());
    let seed = format!("127.0.0.1:{},", stale.addr().unwrap().port());
    let url = sentinel.url().replacen("127.0.0.1", &format!("{seed}127.0.0.1"), 1);
    doctor(&url, &["--only", "L64"]).says("L64", "problem", "different masters");
    drop(stale);
    for server in &sentinel.sentinels()[1..] {
        server.kill();
    }
    doctor(&sentinel.url(), &["--only", "L64"]).says("L64", "problem", "1 of 3 sentinels answer");
}

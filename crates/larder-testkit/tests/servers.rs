//! The testkit itself, on whatever server `resolve` finds.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says so by panicking")]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use larder_testkit::{Cluster, Sentinel, Server, Value, eventually};
use redis::{Client, TlsCertificates};

#[test]
fn a_server_on_a_unix_socket_answers_and_counts_calls() {
    let server = Server::start();
    assert_eq!(server.url(), format!("redis+unix://{}", server.socket().unwrap().display()));
    assert_eq!(server.addr(), None);
    server.command(&["SET", "k", "v"]);
    server.reset_stats();
    assert_eq!(server.query::<String>(&["GET", "k"]), "v");
    assert_eq!(server.command(&["GET", "absent"]), Value::Nil);
    server.query::<String>(&["CLIENT", "LIST"]);
    assert_eq!((server.calls("get"), server.calls("SET"), server.calls("client")), (2, 0, 1));
    if server.version().at_least(7, 0) {
        assert_eq!(server.calls("client|list"), 1);
    }
    assert!(server.info("server").contains_key("redis_version"));
}

#[test]
fn a_server_ends_with_its_folder() {
    let server = Server::start();
    let (folder, pid) = (server.folder().to_owned(), server.info("server").remove("process_id").unwrap());
    drop(server);
    assert!(!folder.exists());
    assert!(!runs(&pid));
}

#[test]
fn a_killed_test_process_leaves_no_server_behind() {
    const ROLE: &str = "LARDER_TESTKIT_VICTIM";
    if env::var_os(ROLE).is_some() {
        let server = Server::start();
        println!("victim {} {}", server.info("server")["process_id"], server.folder().display());
        // The hardest case: a stopped server acts on nothing but SIGKILL.
        server.pause();
        thread::park();
    }
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_process_leaves_no_server_behind", "--nocapture"])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.into_iter().find(|line| line.starts_with("victim")).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let [_, pid, folder] = words[..] else { unreachable!("what was printed above") };
    assert!(runs(pid) && Path::new(folder).exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually("all is gone", Duration::from_secs(5), || {
        (!runs(pid) && !Path::new(folder).exists()).then_some(())
    });
}

#[test]
fn a_server_on_tcp_with_a_password_admits_clients_that_know_it() {
    let server = Server::builder().tcp().password("s3cret/@ \"\\").arg("maxmemory", "10mb").start();
    let addr = server.addr().unwrap();
    assert_eq!(server.url(), format!("redis://:s3cret%2F%40%20%22%5C@{addr}"));
    assert_eq!(server.query::<(String, u64)>(&["CONFIG", "GET", "maxmemory"]).1, 10 * 1024 * 1024);
    let connect = |url: String| Client::open(url).unwrap().get_connection();
    let mut connection = connect(server.url()).unwrap();
    redis::cmd("PING").query::<()>(&mut connection).unwrap();
    let mut anonymous = connect(format!("redis://{addr}")).unwrap();
    assert!(redis::cmd("PING").query::<()>(&mut anonymous).is_err());
}

#[test]
fn a_server_that_persists_keeps_its_data_and_its_port_through_a_kill() {
    let server = Server::builder().tcp().persist().start();
    let url = server.url();
    server.command(&["SET", "k", "v"]);
    server.kill();
    assert!(!server.is_running());
    assert!(server.try_query::<()>(&["PING"]).is_err());
    server.restart();
    assert_eq!((server.url(), server.query::<String>(&["GET", "k"])), (url, "v".to_owned()));
}

#[test]
fn a_paused_server_is_silent_until_it_is_resumed() {
    let server = Server::builder().tcp().start();
    let ping = || {
        let mut connection =
            Client::open(server.url())?.get_connection_with_timeout(Duration::from_millis(200))?;
        connection.set_read_timeout(Some(Duration::from_millis(200)))?;
        redis::cmd("PING").query::<()>(&mut connection)
    };
    server.pause();
    assert!(ping().is_err());
    server.resume();
    eventually("it answers again", Duration::from_secs(5), || ping().ok());
    // A stop that has been reported once must not be reported again.
    server.pause();
    assert!(ping().is_err());
}

#[test]
fn the_testkits_connection_survives_being_killed() {
    let server = Server::start();
    server.command(&["SET", "k", "v"]);
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"]);
    assert_eq!(server.query::<String>(&["GET", "k"]), "v");
}

#[test]
fn a_server_with_tls_answers_clients_that_trust_its_authority() {
    let server = Server::builder().tls().password("pw").start();
    let root_cert = Some(server.ca_pem().as_bytes().to_vec());
    let port = server.addr().unwrap().port();
    assert_eq!(server.url(), format!("rediss://:pw@127.0.0.1:{port}"));
    for url in [server.url(), format!("rediss://:pw@localhost:{port}")] {
        let certificates = TlsCertificates { client_tls: None, root_cert: root_cert.clone() };
        let mut connection = Client::build_with_tls(url, certificates).unwrap().get_connection().unwrap();
        redis::cmd("PING").query::<()>(&mut connection).unwrap();
    }
    let stranger = Client::open(server.url()).unwrap();
    assert!(stranger.get_connection().is_err());
}

#[test]
fn a_cluster_serves_every_key_hands_over_its_slots_moves_them_and_replaces_a_killed_master() {
    let began = Instant::now();
    let cluster = Cluster::builder().password("pw").start();
    println!("cluster ready after {:?}", began.elapsed());
    assert_eq!(cluster.nodes().len(), 6);
    let masters: Vec<_> = cluster.masters().iter().map(|node| node.addr().unwrap()).collect();
    let [a, b, c] = masters[..] else { unreachable!("three masters") };
    assert_eq!(cluster.url(), format!("redis-cluster://:pw@{a},{b},{c}"));
    for key in ["a", "b", "c", "d", "e", "f"] {
        cluster.master_of(key).command(&["SET", key, key]);
    }
    assert_eq!(cluster.calls("set"), 6);

    let began = Instant::now();
    let promoted = cluster.failover(1).addr().unwrap();
    println!("failover done after {:?}", began.elapsed());
    assert_eq!(
        cluster.masters().iter().map(|node| node.addr().unwrap()).collect::<Vec<_>>(),
        [a, promoted, c]
    );
    assert_eq!(cluster.master_of("a").query::<String>(&["GET", "a"]), "a");

    let began = Instant::now();
    let slot = cluster.masters()[0].query(&["CLUSTER", "KEYSLOT", "{b}"]);
    cluster.master_of("b").command(&["MSET", "{b}1", "1", "{b}2", "2"]);
    let to = cluster.masters().iter().position(|it| it.addr() != cluster.master_of("b").addr()).unwrap();
    cluster.move_slot(slot, to, Duration::from_millis(5));
    println!("slot moved after {:?}", began.elapsed());
    assert_eq!(cluster.master_of("b").addr(), cluster.masters()[to].addr());
    assert_eq!(cluster.master_of("b").query::<String>(&["GET", "{b}2"]), "2");
    cluster.move_slot(slot, to, Duration::ZERO);

    let began = Instant::now();
    let of_c = cluster.masters().iter().position(|it| it.addr() == cluster.master_of("c").addr()).unwrap();
    let killed = cluster.masters()[of_c].addr();
    cluster.wait_until_in_step(of_c);
    let mut replaced = None;
    cluster.replace(of_c, || replaced = Some(began.elapsed()));
    println!("killed master replaced after {replaced:?}, and back after {:?}", began.elapsed());
    assert_ne!(cluster.master_of("c").addr(), killed);
    assert_eq!(cluster.master_of("c").query::<String>(&["GET", "c"]), "c");
    assert_eq!(
        (cluster.masters().len(), cluster.nodes().iter().filter(|it| it.is_running()).count()),
        (3, 6)
    );
}

#[test]
fn the_sentinels_replace_a_killed_master() {
    let began = Instant::now();
    let sentinel = Sentinel::start();
    println!("sentinels ready after {:?}", began.elapsed());
    let first = sentinel.master().addr();
    assert_eq!(first, sentinel.servers().first().unwrap().addr());
    let began = Instant::now();
    sentinel.kill_master();
    let second = sentinel.wait_for_new_master().addr();
    println!("new master after {:?}", began.elapsed());
    assert_ne!(first, second);
    assert_eq!(sentinel.master().addr(), second);
}

fn runs(pid: &str) -> bool {
    // An orphan that was killed stays as a zombie where the container's first process reaps late, or never.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
    // The shell's own kill, as a minimal Debian has no program of that name.
    let alive = || {
        Command::new("/bin/sh").args(["-c", "kill -0 \"$1\"", "sh", pid]).output().unwrap().status.success()
    };
    !zombie && alive()
}

//! `larder doctor` on what one server alone does not show: networks, certificates, replicas, clusters, sentinels.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_testkit::{Cluster, Sentinel, Server, eventually};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::doctor::{LIMIT, permit, server_for_locks, until};
use super::relay::{self, Effects};
use super::{doctor, larder, run};

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
fn a_version_is_good_until_its_support_ends_and_a_problem_where_larder_does_not_work() {
    let server = Server::builder().tcp().start();
    let effects = Arc::new(Effects::default());
    let url = relay::start(&[server.addr().unwrap()], Arc::clone(&effects));
    effects.major.store(9, Ordering::Relaxed);
    doctor(&url, &["--only", "L21"]).says("L21", "good", "Redis 9.");
    effects.major.store(6, Ordering::Relaxed);
    if server.version().minor == 0 {
        doctor(&url, &["--only", "L21"]).says("L21", "warning", "whose support ended on 2022-05-31");
    }
    effects.major.store(5, Ordering::Relaxed);
    doctor(&url, &["--only", "L21"]).says("L21", "problem", "larder needs 6.0 or newer");
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
        if line.contains("stepped by +") {
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
    // What the library refuses, doctor refuses too.
    let wrong =
        ["memory:", "rediss://127.0.0.1#insecure", "redis://127.0.0.1,127.0.0.2", "redis://127.0.0.1:0"];
    let wrong = wrong.iter().map(|url| (*url, [""; 0].as_slice()));
    let open_url = open.url();
    for (url, arguments) in wrong.chain([(open_url.as_str(), ["--only", "L99"].as_slice())]) {
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
    for hours in [240, 30, -30] {
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
        match hours {
            240 => findings.says("L03", "warning", "ends in"),
            30 => findings.says("L03", "problem", "ends in"),
            _ => findings.says("L03", "problem", "expired"),
        }
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
    // A node lists a replica once it has copied something.
    for number in 0..50 {
        let key = format!("k:{number}");
        cluster.master_of(&key).command(&["SET", &key, "x", "EX", "60"]);
    }
    let findings = until(&cluster.url(), &arguments, |findings| findings.verdict("L62") == "good");
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
    until(&cluster.url(), &["--only", "L62"], |findings| findings.verdict("L62") != "good");
}

#[test]
fn sentinels_that_disagree_or_replace_a_master_too_early_are_found_out() {
    let sentinel = Sentinel::builder().down_after(Duration::from_secs(60)).start();
    let [master, ..] = sentinel.servers() else { panic!("two servers") };
    master.command(&["SET", "~lock.2:{shop/a}", "x", "EX", "600"]);
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

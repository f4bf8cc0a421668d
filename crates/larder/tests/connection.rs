//! Every way to reach a server, and what happens when it goes away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use larder::{Cache, ErrorKind, Format, Larder};
use larder_testkit::{Cluster, Direction, Proxy, Sentinel, Server};
use support::{User, namespace, patient, until, user};

const HOUR: Duration = Duration::from_secs(3600);

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).build().unwrap()
}

async fn works(larder: &Larder) {
    larder.ping().await.unwrap();
    users(larder).set("123", &user("Ann")).await.unwrap();
    assert_eq!(users(larder).get("123").await.unwrap(), Some(user("Ann")));
}

async fn works_at(url: &str) {
    works(&patient().url(url).connect().await.unwrap()).await;
    let valkey = url.replacen("redis", "valkey", 1);
    works(&patient().url(&valkey).connect().await.unwrap()).await;
}

#[tokio::test]
async fn a_server_is_reached_by_tcp_and_by_socket() {
    let server = Server::builder().tcp().start();
    works_at(&server.url()).await;
    let socket = Server::start();
    works_at(&socket.url()).await;
    assert_eq!(socket.query::<i64>(&["EXISTS", "user:123"]), 1);
    let path = socket.socket().unwrap().to_str().unwrap().to_owned();
    works(&Larder::builder().address(path).connect().await.unwrap()).await;
}

#[tokio::test]
async fn a_password_an_acl_user_and_a_database_are_one_line() {
    let server = Server::builder().tcp().password("p@ss:w/rd").start();
    server.command(&["ACL", "SETUSER", "ann", "on", ">ann's", "~*", "+@all"]);
    works_at(&server.url()).await;

    let address = server.addr().unwrap();
    works_at(&format!("redis://ann:ann%27s@{address}/3")).await;
    let larder =
        Larder::builder().address(address.to_string()).password("p@ss:w/rd").database(5).connect().await;
    works(&larder.unwrap()).await;
    for database in ["3", "5"] {
        server.command(&["SELECT", database]);
        assert_eq!(server.query::<i64>(&["EXISTS", "user:123"]), 1, "database {database}");
    }
    server.command(&["SELECT", "4"]);
    assert_eq!(server.query::<i64>(&["DBSIZE"]), 0);
}

#[tokio::test]
async fn a_socket_takes_a_password_and_a_database_too() {
    let server = Server::builder().password("pw").start();
    works_at(&server.url()).await;
    works_at(&format!("{}?db=2", server.url())).await;
}

#[tokio::test]
async fn tls_trusts_the_given_authority_and_no_other() {
    let server = Server::builder().tls().start();
    let with_roots = |pem: &str| Larder::builder().url(server.url()).tls_roots(pem).connect();
    works(&with_roots(server.ca_pem()).await.unwrap()).await;

    let stranger = Server::builder().tls().start();
    for refused in [with_roots(stranger.ca_pem()).await, Larder::connect(&server.url()).await] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
        assert!(!error.is_retryable());
        assert!(error.to_string().contains("certificate"), "it says why: {error}");
    }

    let plain = Server::builder().tcp().start();
    let builder = Larder::builder().url(plain.url().replacen("redis", "rediss", 1));
    let error = builder.connect_timeout(Duration::from_millis(300)).connect().await.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("TLS"), "{error:?}");

    let plain_to_tls = server.url().replacen("rediss", "redis", 1);
    let error = Larder::connect(&plain_to_tls).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error:?}");
}

#[tokio::test]
async fn after_a_restart_the_connection_is_restored_by_itself() {
    let server = Server::builder().tcp().persist().start();
    let larder = patient().url(server.url()).connections(3).connect().await.unwrap();
    let users = users(&larder);
    users.set("123", &user("Ann")).await.unwrap();
    for _ in 0..2 {
        server.kill();
        until("the outage is noticed", async || users.get("123").await.is_err()).await;
        let error = users.set("123", &user("Bob")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Refused | ErrorKind::Disconnected), "{error:?}");
        assert!(error.is_retryable());

        server.restart();
        until("the server is back", async || users.get("123").await.is_ok()).await;
        // Bob could not be stored, so the value on the server is older than the value of the failed write.
        assert_eq!(users.get("123").await.unwrap(), None);
        // The other connection may come back a little later.
        until("writes get through", async || users.set("123", &user("Ann")).await.is_ok()).await;
        assert_eq!(users.get("123").await.unwrap(), Some(user("Ann")));
    }
}

#[tokio::test]
async fn a_dropped_connection_costs_a_reader_nothing() {
    let server = Server::builder().tcp().start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let users = users(&larder);
    users.set("123", &user("Ann")).await.unwrap();
    // A connection that lasts less than a second is redialled with growing pauses: a few attempts stay unnoticed.
    for _ in 0..4 {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert_eq!(users.get("123").await.unwrap(), Some(user("Ann")));
    }
}

#[tokio::test]
async fn a_hanging_server_costs_the_timeout_and_then_nothing() {
    let server = Server::builder().tcp().start();
    let builder = Larder::builder().url(server.url()).response_timeout(Duration::from_millis(300));
    let larder = builder.connect_timeout(Duration::from_millis(500)).connect().await.unwrap();
    let users = users(&larder);
    users.set("123", &user("Ann")).await.unwrap();
    server.pause();
    let paused = Instant::now();

    let started = Instant::now();
    let error = users.get("123").await.unwrap_err();
    assert!(error.is_timeout() && error.kind() == ErrorKind::TimedOut, "{error:?}");
    assert!(started.elapsed() >= Duration::from_millis(300));

    let started = Instant::now();
    let error = users.get("123").timeout(Duration::from_millis(30)).await.unwrap_err();
    assert!(error.is_timeout());
    assert!(started.elapsed() < Duration::from_millis(250), "{:?}", started.elapsed());

    let ann = user("Ann");
    for error in [
        users.set("1", &ann).timeout(Duration::from_millis(30)).await.unwrap_err(),
        users.set_many([("1", &ann), ("2", &ann)]).timeout(Duration::from_millis(30)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    }
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());

    until("calls fail at once", async || {
        let started = Instant::now();
        users.get("123").await.is_err() && started.elapsed() < Duration::from_millis(20)
    })
    .await;
    // Two heartbeats of a second each, and up to a second until the first one, as the README says.
    assert!(paused.elapsed() < Duration::from_secs(5), "{:?}", paused.elapsed());
    for _ in 0..10 {
        let started = Instant::now();
        users.get("123").await.unwrap_err();
        assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
    }
    server.resume();
    until("the server is back", async || users.get("123").await.is_ok()).await;
    assert_eq!(users.get("123").await.unwrap(), Some(user("Ann")));
}

/// Heartbeats travel behind what was asked for before. A path that is busy for seconds is not one that is silent.
#[tokio::test]
async fn a_large_value_on_a_slow_path_is_not_taken_for_a_hanging_server() {
    const SIZE: usize = 12 << 20;
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let builder = Larder::builder().url(proxy.url()).response_timeout(Duration::from_secs(30));
    let larder = builder.max_value_bytes(2 * SIZE).connect().await.unwrap();
    let blobs = larder.cache::<Bytes>("blob").format(Format::Raw).no_expiry().build().unwrap();
    let blob = Bytes::from(vec![7; SIZE]);
    blobs.set("1", &blob).await.unwrap();
    let connections = ids(&server);
    assert!(!connections.is_empty());
    // At 3 MiB a second the reply takes 4 s, and a heartbeat may take one.
    proxy.rate(Direction::ToClient, 3 << 20);
    let started = Instant::now();
    assert_eq!(blobs.get("1").await.unwrap(), Some(blob));
    assert!(started.elapsed() > Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(ids(&server), connections);
}

/// The server's numbers of its connections: a new connection has a new one.
fn ids(server: &Server) -> Vec<String> {
    let first = |line: &String| line.split_whitespace().next().map(str::to_owned);
    named(server).iter().filter_map(first).collect()
}

#[tokio::test]
async fn connecting_to_a_hanging_server_ends_with_the_connect_timeout() {
    let server = Server::builder().tcp().start();
    server.pause();
    let builder = Larder::builder().url(server.url()).connect_timeout(Duration::from_millis(200));
    let started = Instant::now();
    assert_eq!(builder.connect().await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn as_many_connections_as_asked_for() {
    let server = Server::builder().tcp().start();
    let before: Vec<String> = named(&server);
    let larder = Larder::builder().url(server.url()).connections(4).connect().await.unwrap();
    // The tracked connection, and the connection of background work.
    assert_eq!(named(&server).len(), before.len() + 6);
    works(&larder).await;
    drop(larder);
    until("they are gone", async || named(&server).len() == before.len()).await;
}

fn named(server: &Server) -> Vec<String> {
    let list: String = server.query(&["CLIENT", "LIST", "TYPE", "normal"]);
    list.lines().filter(|line| line.contains("addr=127.0.0.1:")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_clusters_keys_are_found_on_all_its_nodes_and_a_failover_is_followed() {
    let cluster = support::cluster();
    works_at(&cluster.url()).await;
    let larder = patient().url(cluster.url()).namespace(namespace()).connect().await.unwrap();
    let users = users(&larder);
    let people: Vec<User> = (0..200).map(|i| user(&i.to_string())).collect();
    users.set_many((0..200).zip(&people)).await.unwrap();
    let sizes: Vec<i64> = cluster.masters().iter().map(|master| master.query(&["DBSIZE"])).collect();
    assert!(sizes.iter().all(|size| *size > 30), "{sizes:?}");

    cluster.failover(0);
    until(
        "every key is read again",
        async || matches!(users.get_many(0..200).await, Ok(found) if found.iter().all(Option::is_some)),
    )
    .await;
    until("every key is written again", async || users.set_many((0..200).zip(&people)).await.is_ok()).await;
    for i in 0..200 {
        assert_eq!(users.get(i).await.unwrap(), Some(user(&i.to_string())));
    }
}

#[tokio::test]
async fn a_clusters_password_is_that_of_all_its_nodes() {
    let cluster = Cluster::builder().password("p@ss:w/rd").start();
    assert!(cluster.url().starts_with("redis-cluster://:p%40ss%3Aw%2Frd@"), "{}", cluster.url());
    works_at(&cluster.url()).await;
    let anonymous = cluster.url().replace(":p%40ss%3Aw%2Frd@", "");
    assert_eq!(Larder::connect(&anonymous).await.unwrap_err().kind(), ErrorKind::Authentication);
}

#[tokio::test]
async fn a_cluster_is_reached_by_tls() {
    let cluster = Cluster::builder().tls().start();
    assert!(cluster.url().starts_with("rediss-cluster://"), "{}", cluster.url());
    let larder = patient().url(cluster.url()).tls_roots(cluster.ca_pem()).connect().await.unwrap();
    works(&larder).await;
    let users = users(&larder);
    let ann = user("Ann");
    users.set_many((0..100).map(|key| (key, &ann))).await.unwrap();
    assert!(users.get_many(0..100).await.unwrap().iter().all(Option::is_some));
    let sizes: Vec<i64> = cluster.masters().iter().map(|master| master.query(&["DBSIZE"])).collect();
    assert!(sizes.iter().all(|size| *size > 10), "{sizes:?}");
    let stranger = Larder::connect(&cluster.url()).await.unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::Tls, "{stranger:?}");
}

#[tokio::test]
async fn a_slot_that_moves_is_followed_while_it_moves() {
    let cluster = larder_testkit::Cluster::start();
    let larder = Larder::connect(&cluster.url()).await.unwrap();
    let users = users(&larder);
    users.set("123", &user("Ann")).await.unwrap();

    let slot = cluster.nodes()[0].query::<i64>(&["CLUSTER", "KEYSLOT", "user:123"]).to_string();
    let source = cluster.master_of("user:123");
    let target = *cluster.masters().iter().find(|master| master.addr() != source.addr()).unwrap();
    let id = |server: &Server| server.query::<String>(&["CLUSTER", "MYID"]);
    target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(source)]);
    source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(target)]);
    let (host, port) = (target.addr().unwrap().ip().to_string(), target.addr().unwrap().port().to_string());
    source.command(&["MIGRATE", &host, &port, "user:123", "0", "5000"]);

    // The source node replies ASK for a key that it has given away.
    assert_eq!(users.get("123").await.unwrap(), Some(user("Ann")));
    users.set("123", &user("Bob")).await.unwrap();
    assert_eq!(users.get_many(["123"]).await.unwrap(), [Some(user("Bob"))]);

    for node in [target, source] {
        node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(target)]);
    }
    // And MOVED once the slot belongs to the target node.
    assert_eq!(users.get("123").await.unwrap(), Some(user("Bob")));
    users.set("123", &user("Cid")).await.unwrap();
    assert_eq!(target.query::<i64>(&["EXISTS", "user:123"]), 1);
}

#[tokio::test]
async fn keys_of_a_slot_that_is_half_moved_are_read_together() {
    let cluster = larder_testkit::Cluster::start();
    let larder = Larder::connect(&cluster.url()).await.unwrap();
    let users = users(&larder);
    let asked = &cluster.nodes()[0];
    let mut seen = std::collections::HashMap::new();
    let (moved, stays, slot) = (0..)
        .find_map(|key: u32| {
            let slot = asked.query::<i64>(&["CLUSTER", "KEYSLOT", &format!("user:{key}")]);
            seen.insert(slot, key).map(|other| (key, other, slot.to_string()))
        })
        .unwrap();
    users.set_many([(moved, &user("Ann")), (stays, &user("Bob"))]).await.unwrap();

    let source = cluster.master_of(&format!("user:{moved}"));
    let target = *cluster.masters().iter().find(|master| master.addr() != source.addr()).unwrap();
    let id = |server: &Server| server.query::<String>(&["CLUSTER", "MYID"]);
    target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(source)]);
    source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(target)]);
    let (host, port) = (target.addr().unwrap().ip().to_string(), target.addr().unwrap().port().to_string());
    source.command(&["MIGRATE", &host, &port, &format!("user:{moved}"), "0", "5000"]);

    // An MGET of both keys is refused with TRYAGAIN while the slot moves.
    let found = users.get_many([moved, stays]).await.unwrap();
    assert_eq!(found, [Some(user("Ann")), Some(user("Bob"))]);
}

#[tokio::test]
async fn a_node_that_is_down_does_not_keep_the_others_from_being_invalidated() {
    let cluster = larder_testkit::Cluster::start();
    let larder = Larder::connect(&cluster.url()).await.unwrap();
    let users = users(&larder);
    let ann = user("Ann");
    users.set_many((0..100).map(|key| (key, &ann))).await.unwrap();
    let dead = cluster.masters()[0];
    let healthy: Vec<i32> =
        (0..100).filter(|key| cluster.master_of(&format!("user:{key}")).addr() != dead.addr()).collect();
    assert!(healthy.len() > 30 && healthy.len() < 100);
    dead.kill();
    until("the outage is noticed", async || users.get_many(0..100).await.is_err()).await;

    users.delete_many(0..100).await.unwrap_err();
    for key in healthy {
        assert!(!users.exists(key).await.unwrap(), "{key} is there though its node is well");
    }
}

#[tokio::test]
async fn sentinels_new_master_is_followed() {
    let sentinel = Sentinel::start();
    works_at(&sentinel.url()).await;
    let larder = Larder::connect(&sentinel.url()).await.unwrap();
    let users = users(&larder);
    users.set("a", &user("Ann")).await.unwrap();
    sentinel.kill_master();
    sentinel.wait_for_new_master();
    until("writes go to the new master", async || users.set("b", &user("Bob")).await.is_ok()).await;
    assert_eq!(users.get("b").await.unwrap(), Some(user("Bob")));
    assert_eq!(sentinel.master().query::<i64>(&["EXISTS", "user:b"]), 1);

    works_at(&format!("{}/2", sentinel.url())).await;
    sentinel.master().command(&["SELECT", "2"]);
    assert_eq!(sentinel.master().query::<i64>(&["EXISTS", "user:123"]), 1);

    let stranger = sentinel.url().replace("/larder", "/stranger");
    let error = Larder::connect(&stranger).await.unwrap_err();
    assert!(error.to_string().contains("stranger"), "{error}");
}

#[tokio::test]
async fn sentinels_may_ask_for_a_password_of_their_own() {
    let sentinel = Sentinel::builder().sentinel_password("s3ntinel").start();
    let with = |password: &str| Larder::builder().url(sentinel.url()).sentinel_password(password).connect();
    works(&with("s3ntinel").await.unwrap()).await;
    for refused in [with("wrong").await, Larder::connect(&sentinel.url()).await] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
        assert!(!format!("{error} {error:?}").contains("s3ntinel"));
    }
}

#[tokio::test]
async fn sentinels_and_their_master_are_reached_by_tls() {
    let sentinel = Sentinel::builder().tls().start();
    assert!(sentinel.url().starts_with("rediss-sentinel://"), "{}", sentinel.url());
    let larder = patient().url(sentinel.url()).tls_roots(sentinel.ca_pem()).connect().await.unwrap();
    works(&larder).await;
    assert_eq!(sentinel.master().query::<i64>(&["EXISTS", "user:123"]), 1);
    let stranger = Larder::connect(&sentinel.url()).await.unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::Tls, "{stranger:?}");
}

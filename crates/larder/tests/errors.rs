//! Each failure has a kind to act on, a message that helps, and no secret in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::error::Error as _;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use larder::{Cache, Error, ErrorKind, Larder};
use larder_testkit::Server;
use larder_testkit::worker::{self, Worker};
use support::{User, until, user};

const SECRET: &str = "hunter2";

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(Duration::from_secs(3600)).build().unwrap()
}

/// The error and all its sources, in both forms that a program may log.
fn shown(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn an_unparsable_url() {
    for url in
        ["", "redis:/x", "http://h", &format!("redis://:{SECRET}@h:port"), &format!("memory://{SECRET}")]
    {
        let error = Larder::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}");
        assert!(!error.is_retryable() && !shown(&error).contains(SECRET), "{}", shown(&error));
    }
}

#[tokio::test]
async fn a_refused_connection() {
    let gone = Server::builder().tcp().start();
    let (tcp, socket) = (gone.url(), Server::start().url());
    gone.kill();
    // A name that no resolver forwards, because a label has at most 63 characters: this needs no network.
    let nowhere = format!("redis://{}.invalid", "x".repeat(64));
    for url in [tcp.as_str(), socket.as_str(), nowhere.as_str()] {
        let error = Larder::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{url}: {error:?}");
        assert!(error.is_retryable());
        // The message says why, for programs that log the message alone.
        let cause = error.source().expect("the operating system's word").to_string();
        assert!(error.to_string().contains(&cause), "{error}");
    }
    let cluster = tcp.replacen("redis", "redis-cluster", 1);
    assert_eq!(Larder::connect(&cluster).await.unwrap_err().kind(), ErrorKind::Refused);
    let sentinel = format!("{}/main", tcp.replacen("redis", "redis-sentinel", 1));
    assert_eq!(Larder::connect(&sentinel).await.unwrap_err().kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn a_wrong_a_missing_and_a_needless_password() {
    let server = Server::builder().tcp().password("right").start();
    let address = server.addr().unwrap();
    for url in [
        format!("redis://{address}"),
        format!("redis://:{SECRET}@{address}"),
        format!("redis://ann:{SECRET}@{address}/1"),
    ] {
        let error = Larder::connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
        assert!(!error.is_retryable() && !shown(&error).contains(SECRET), "{}", shown(&error));
    }
    let open = Server::builder().tcp().start();
    let url = format!("redis://:{SECRET}@{}", open.addr().unwrap());
    match Larder::connect(&url).await {
        // Servers without a password accept any credentials in HELLO … AUTH default.
        Ok(larder) => larder.ping().await.unwrap(),
        Err(error) => assert!(error.kind() == ErrorKind::Authentication && !shown(&error).contains(SECRET)),
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_hello_and_repeats_what_it_was_sent() {
    let server = Server::builder().tcp().password(SECRET).arg("rename-command", "HELLO \"\"").start();
    let error = Larder::connect(&server.url()).await.unwrap_err();
    assert!(error.to_string().contains("Redis 6.0"), "{error}");
    assert!(!shown(&error).contains(SECRET), "{}", shown(&error));
}

/// It replies `unknown command 'SET', with args beginning with: …`, followed by the key and the value.
#[tokio::test]
async fn a_server_that_does_not_know_a_command_and_repeats_its_arguments() {
    let mut server = Server::builder().tcp();
    for command in ["GET", "MGET", "SET", "UNLINK", "PTTL", "GETRANGE", "EVAL", "EVALSHA"] {
        server = server.arg("rename-command", &format!("{command} \"\""));
    }
    let server = server.start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    // Without versions, which would have to be fetched first.
    let plain = larder.cache::<String>("name").format(larder::Format::Plain).no_expiry().build().unwrap();
    let names = larder.cache::<String>("other").no_expiry().build().unwrap();
    let secret = SECRET.to_owned();
    for (what, error) in [
        ("set", plain.set(SECRET, &secret).await.unwrap_err()),
        ("set_many", plain.set_many([(SECRET, &secret)]).await.unwrap_err()),
        ("get", plain.get(SECRET).await.unwrap_err()),
        ("get_many", plain.get_many([SECRET, "a"]).await.unwrap_err()),
        ("exists", plain.exists(SECRET).await.unwrap_err()),
        ("delete", plain.delete(SECRET).await.unwrap_err()),
        ("set with versions", names.set(SECRET, &secret).tag(SECRET).await.unwrap_err()),
        ("set_if_absent", names.set_if_absent(SECRET, &secret).await.unwrap_err()),
        ("lock", larder.lock(SECRET).try_acquire().await.unwrap_err()),
        ("invalidate", larder.tag(SECRET).invalidate().await.unwrap_err()),
    ] {
        assert!(error.to_string().contains("unknown command"), "{what}: {error}");
        assert!(!shown(&error).contains(SECRET), "{what}: {}", shown(&error));
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_and_a_server_that_is_full() {
    let server = Server::builder().tcp().start();
    let error = Larder::connect(&format!("{}/99", server.url())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{error:?}");

    let full = Server::builder().tcp().arg("maxclients", "1").start();
    full.command(&["PING"]);
    let error = Larder::connect(&full.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_password_that_is_changed_while_connected() {
    let server = Server::builder().tcp().password("right").start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    users(&larder).set("a", &user("Ann")).await.unwrap();
    server.command(&["CONFIG", "SET", "requirepass", "other"]);
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until("the refusal shows", async || {
        matches!(users(&larder).get("a").await, Err(error) if error.kind() == ErrorKind::Authentication)
    })
    .await;
}

#[tokio::test]
async fn a_user_who_may_not() {
    let server = Server::builder().tcp().start();
    server.command(&[
        "ACL",
        "SETUSER",
        "reader",
        "on",
        &format!(">{SECRET}"),
        "~user:*",
        "+get",
        "+time",
        "+ping",
    ]);
    let url = format!("redis://reader:{SECRET}@{}", server.addr().unwrap());
    let larder = Larder::connect(&url).await.unwrap();
    assert_eq!(users(&larder).get("a").await.unwrap(), None);
    let error = users(&larder).set("a", &user("Ann")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    let others: Cache<User> = larder.cache("other").ttl(Duration::from_secs(1)).build().unwrap();
    let error = others.get("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(!shown(&error).contains(SECRET));
}

#[tokio::test]
async fn a_key_of_another_type() {
    let server = support::server();
    let larder = support::connect(&server.url()).await;
    let users = users(&larder);
    users.set("probe", &user("Ann")).await.unwrap();
    let names: Vec<String> = server.query(&["KEYS", "*user:probe"]);
    let list = names[0].replace("probe", "list");
    server.command(&["LPUSH", &list, "x"]);
    assert_eq!(users.get("list").await.unwrap_err().kind(), ErrorKind::WrongType);
    assert_eq!(users.exists("list").await.unwrap_err().kind(), ErrorKind::WrongType);
    // The same inside a script.
    assert_eq!(users.touch("list", Duration::from_secs(1)).await.unwrap_err().kind(), ErrorKind::WrongType);
    // MGET treats a value of another type as absent; `set` replaces it.
    assert_eq!(users.get_many(["list", "probe"]).await.unwrap(), [None, Some(user("Ann"))]);
    users.set("list", &user("Bob")).await.unwrap();
    assert_eq!(users.get("list").await.unwrap(), Some(user("Bob")));
}

#[tokio::test]
async fn a_server_out_of_memory() {
    let server =
        Server::builder().tcp().arg("maxmemory", "100kb").arg("maxmemory-policy", "noeviction").start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let error = users(&larder).set("a", &user("Ann")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error:?}");
    let limiter = larder.rate_limiter("a", larder::Quota::per_hour(10)).unwrap();
    let error = limiter.check("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "in a script: {error:?}");
    assert_eq!(users(&larder).get("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_read_only_replica() {
    let replica = Server::builder().tcp().arg("replicaof", "127.0.0.1 1").start();
    let larder = Larder::connect(&replica.url()).await.unwrap();
    let error = users(&larder).set("a", &user("Ann")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
    let error = larder.lock("a").try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "in a script: {error:?}");
    assert_eq!(users(&larder).get("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_is_loading() {
    // A tenth of a second a key, and keys so large that even Redis 6 replies to others in between.
    let server = Arc::new(Server::builder().tcp().arg("key-load-delay", "100000").start());
    for key in 0..30 {
        server.command(&["SET", &key.to_string(), &"x".repeat(3 << 20)]);
    }
    server.command(&["CONFIG", "SET", "rdbcompression", "no"]);
    server.command(&["SAVE"]);
    let larder = Larder::connect(&server.url()).await.unwrap();
    let restarted = tokio::task::spawn_blocking({
        let server = server.clone();
        move || {
            server.kill();
            server.restart();
        }
    });
    until("it says that it is loading", async || {
        matches!(users(&larder).get("a").await, Err(error) if error.kind() == ErrorKind::Loading && error.is_retryable())
    })
    .await;
    restarted.await.unwrap();
    until("it has loaded", async || users(&larder).get("a").await.is_ok()).await;
}

#[tokio::test]
async fn a_cluster_that_is_down() {
    let node = Server::builder().tcp().arg("cluster-enabled", "yes").start();
    let url = node.url().replacen("redis", "redis-cluster", 1);
    assert_eq!(Larder::connect(&url).await.unwrap_err().kind(), ErrorKind::ClusterDown);

    let slots: Vec<String> = (0..16_000).map(|slot: u32| slot.to_string()).collect();
    let mut command = vec!["CLUSTER", "ADDSLOTS"];
    command.extend(slots.iter().map(String::as_str));
    node.command(&command);
    let larder = Larder::connect(&url).await.unwrap();
    for key in 0..10 {
        let error = users(&larder).get(key).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClusterDown, "{error:?}");
        assert!(error.is_retryable());
    }
    // The same node, without `cluster` in the URL: the message says what to do.
    let error = users(&Larder::connect(&node.url()).await.unwrap()).get("a").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ClusterDown | ErrorKind::InvalidSetting), "{error:?}");
}

#[tokio::test]
async fn one_node_of_a_cluster_without_the_clusters_url() {
    let cluster = support::cluster();
    let node = cluster.nodes()[0].url();
    let users = users(&Larder::connect(&node).await.unwrap());
    let mut moved = 0;
    for key in 0..20 {
        if let Err(error) = users.get(key).await {
            assert!(error.to_string().contains("redis-cluster://"), "{error}");
            moved += 1;
        }
    }
    assert!(moved > 0);
}

#[tokio::test]
async fn a_value_that_cannot_be_encoded() {
    #[derive(Clone, serde::Deserialize)]
    struct Odd;
    impl serde::Serialize for Odd {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no"))
        }
    }
    let larder = Larder::connect("memory:").await.unwrap();
    let odd: Cache<Odd> = larder.cache("odd").ttl(Duration::from_secs(1)).build().unwrap();
    let error = odd.set("a", &Odd).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(error.source().is_some());
    assert!(!odd.exists("a").await.unwrap());
}

/// Another user of the machine, who is kept out by the permissions of the socket's file or folder. The user of the
/// tests may be root, who is let in everywhere.
#[test]
fn a_socket_that_the_user_may_not_open_is_reported_as_that_and_not_as_an_acl() {
    let test = "a_socket_that_the_user_may_not_open_is_reported_as_that_and_not_as_an_acl";
    if worker::role().is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(Larder::connect(&std::env::var("SOCKET_URL").unwrap())).unwrap_err();
        return worker::send_line(&format!("{} {error} {}", error.kind(), error.is_retryable()));
    }
    let server = Server::start();
    let socket = server.socket().unwrap();
    for (kept_out_by, folder, file) in [("the file", 0o755, 0o700), ("the folder", 0o700, 0o777)] {
        set_permissions(server.folder(), Permissions::from_mode(folder)).unwrap();
        set_permissions(socket, Permissions::from_mode(file)).unwrap();
        let Some(worker) = Worker::spawn_as(test, "stranger", &[("SOCKET_URL", &server.url())], 65534) else {
            return eprintln!("not root: no other user can be had");
        };
        let told = worker.read_line(Duration::from_secs(30)).unwrap();
        assert!(told.starts_with(&ErrorKind::Refused.to_string()), "{kept_out_by}: {told}");
        assert!(told.contains("the permissions of a socket's file or folder"), "{kept_out_by}: {told}");
        assert!(told.contains("Permission denied") && !told.contains("ACL"), "{kept_out_by}: {told}");
        assert!(!told.contains("the user may not do this"), "{kept_out_by}: {told}");
        // A server sets the permissions of its socket file a moment after creating it.
        assert!(told.ends_with("true"), "{kept_out_by}: {told}");
    }
}

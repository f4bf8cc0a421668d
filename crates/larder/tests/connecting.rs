//! Connecting while the server is away, choosing the right server of several, and what a connection reports about
//! itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use larder::{Cache, Credentials, ErrorKind, Larder, Near, Quota};
use larder_testkit::{Direction, Proxy, Sentinel, Server};
use support::{User, patient, until, user};

const HOUR: Duration = Duration::from_secs(3600);

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap()
}

async fn works(larder: &Larder) {
    users(larder).set("123", &user("Ann")).await.unwrap();
    assert_eq!(users(larder).get("123").await.unwrap(), Some(user("Ann")));
}

// ---- connect_lazy --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_service_starts_while_its_server_is_away_and_uses_it_once_it_is_there() {
    let server = Server::builder().tcp().start();
    server.kill();
    assert_eq!(Larder::connect(&server.url()).await.unwrap_err().kind(), ErrorKind::Refused);

    let larder = patient().url(server.url()).connect_lazy().unwrap();
    assert_eq!(larder.ping().await.unwrap_err().kind(), ErrorKind::Refused);
    let users = users(&larder);
    let loaded = users.get_or_load("1", || async { Ok::<_, Infallible>(user("Ann")) }).await;
    assert_eq!(loaded.unwrap(), user("Ann"));
    assert_eq!(users.get("1").await.unwrap_err().kind(), ErrorKind::Refused, "an outage is no miss");
    assert!(users.delete("2").await.unwrap_err().is_queued());

    server.restart();
    until("the server is reached", async || larder.ping().await.is_ok()).await;
    until("it stores", async || users.set("123", &user("Ann")).await.is_ok()).await;
    until("near reads work", async || {
        assert_eq!(users.get("123").await.unwrap(), Some(user("Ann")));
        larder.stats().caches["user"].near_hits > 0
    })
    .await;
}

#[tokio::test]
async fn the_first_calls_wait_for_the_first_attempt() {
    let server = Server::builder().tcp().start();
    works(&patient().url(server.url()).connect_lazy().unwrap()).await;
    let cluster = support::cluster();
    let larder = patient().url(cluster.url()).connect_lazy().unwrap();
    larder.ping().await.unwrap();
    works(&patient().url(cluster.url()).connect_lazy().unwrap()).await;
    assert!(larder.lock("a").try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn a_cluster_that_is_away_is_named_in_the_error() {
    let gone = Server::builder().tcp().start();
    let address = gone.addr().unwrap();
    gone.kill();
    let larder = patient().url(format!("redis-cluster://{address},{address}")).connect_lazy().unwrap();
    for error in [users(&larder).get("1").await.unwrap_err(), larder.ping().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    }
}

#[tokio::test]
async fn a_lazy_connection_to_a_silent_server_returns_at_once_and_calls_fail_after_the_first_attempt() {
    let server = Server::builder().tcp().start();
    server.pause();
    let builder = Larder::builder().url(server.url()).connect_timeout(Duration::from_millis(300));
    let larder = builder.response_timeout(Duration::from_secs(20)).connect_lazy().unwrap();
    let started = Instant::now();
    assert_eq!(users(&larder).get("1").await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    server.resume();
    until("the server is reached", async || larder.ping().await.is_ok()).await;
}

#[tokio::test]
async fn a_wrong_password_is_the_error_of_each_call_of_a_lazy_connection() {
    let server = Server::builder().tcp().password("right").start();
    let larder = patient().url(format!("redis://:wrong@{}", server.addr().unwrap())).connect_lazy().unwrap();
    assert_eq!(larder.ping().await.unwrap_err().kind(), ErrorKind::Authentication);
    assert_eq!(Larder::connect_lazy("redis://:pw@h:x").unwrap_err().kind(), ErrorKind::InvalidUrl);
}

#[tokio::test]
async fn strict_limits_and_locks_wait_until_it_is_known_whether_the_server_evicts() {
    let evicting =
        |policy: &str| Server::builder().tcp().arg("maxmemory", "50mb").arg("maxmemory-policy", policy);
    for (policy, welcome) in [("noeviction", true), ("allkeys-lru", false)] {
        let server = evicting(policy).start();
        server.kill();
        let larder = patient().url(server.url()).strict().connect_lazy().unwrap();
        let limiter = larder.rate_limiter("api", Quota::per_hour(10)).unwrap();
        assert_eq!(limiter.check("a").await.unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(larder.lock("a").try_acquire().await.unwrap_err().kind(), ErrorKind::Refused);
        server.restart();
        until("the server is reached", async || larder.ping().await.is_ok()).await;
        if welcome {
            until("limits are counted", async || limiter.check("a").await.is_ok()).await;
            assert!(larder.lock("a").try_acquire().await.unwrap().is_some());
        } else {
            assert_eq!(limiter.check("a").await.unwrap_err().kind(), ErrorKind::InvalidSetting);
            assert_eq!(larder.lock("a").try_acquire().await.unwrap_err().kind(), ErrorKind::InvalidSetting);
        }
    }
}

#[test]
fn connecting_outside_a_runtime_is_an_error() {
    let mut context = Context::from_waker(Waker::noop());
    for url in ["redis://127.0.0.1:1", "redis-cluster://127.0.0.1:1", "redis-sentinel://127.0.0.1:1/x"] {
        let Poll::Ready(connected) = pin!(Larder::connect(url)).poll(&mut context) else { panic!("waits") };
        for error in [connected.unwrap_err(), Larder::connect_lazy(url).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::InvalidSetting);
            assert!(error.to_string().contains("runtime"), "{error}");
        }
    }
}

// ---- Choosing the server
// ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn silent_seeds_of_a_cluster_do_not_use_up_the_time_of_the_next() {
    let silent: Vec<Server> = (0..3).map(|_| Server::builder().tcp().start()).collect();
    silent.iter().for_each(Server::pause);
    let seeds: Vec<String> = silent.iter().map(|server| server.addr().unwrap().to_string()).collect();
    let cluster = support::cluster();
    let url = cluster.url().replacen("://", &format!("://{},", seeds.join(",")), 1);
    let timeout = Duration::from_secs(5);
    let started = Instant::now();
    works(
        &Larder::builder()
            .url(url)
            .connect_timeout(timeout)
            .response_timeout(timeout)
            .connect()
            .await
            .unwrap(),
    )
    .await;
    // Tried one after another, they would take three times as long.
    assert!(started.elapsed() < timeout * 2, "{:?}", started.elapsed());
}

/// The URL of three sentinels: the first is `stale`, and the others reply later than it does.
async fn with_stale_first(stale: &Server, sentinel: &Sentinel) -> (String, Vec<Proxy>) {
    let mut proxies = Vec::new();
    for right in &sentinel.sentinels()[..2] {
        let proxy = Proxy::start(right.addr().unwrap()).await;
        proxy.delay(Direction::ToClient, Duration::from_millis(50));
        proxies.push(proxy);
    }
    let others: Vec<String> = proxies.iter().map(Proxy::address).collect();
    (format!("redis-sentinel://{},{}/larder", stale.addr().unwrap(), others.join(",")), proxies)
}

#[tokio::test]
async fn a_stale_sentinel_that_answers_first_does_not_decide() {
    let sentinel = Sentinel::start();
    let gone = Server::builder().tcp().start();
    let gone_address = gone.addr().unwrap();
    gone.kill();
    let replica = Server::builder().tcp().arg("replicaof", "127.0.0.1 1").start();
    let other_master = Server::builder().tcp().start();
    for master in [gone_address, replica.addr().unwrap(), other_master.addr().unwrap()] {
        let stale = Sentinel::stale(master);
        let (url, _proxies) = with_stale_first(&stale, &sentinel).await;
        let larder = patient().url(&url).namespace(master.port().to_string()).connect().await.unwrap();
        works(&larder).await;
        let stored = format!("{}/user:123", master.port());
        assert_eq!(sentinel.master().query::<i64>(&["EXISTS", &stored]), 1, "stored at the right master");
        // Only this sentinel is asked, so its reply is used.
        let alone = format!("redis-sentinel://{}/larder", stale.addr().unwrap());
        let alone = patient().url(alone).connect().await;
        assert_eq!(alone.is_ok(), master == other_master.addr().unwrap());
    }
}

#[tokio::test]
async fn of_two_sentinels_that_disagree_the_one_that_saw_the_last_failover_is_right() {
    let sentinel = Sentinel::start();
    sentinel.kill_master();
    sentinel.wait_for_new_master();
    let other_master = Server::builder().tcp().start();
    let stale = Sentinel::stale(other_master.addr().unwrap());
    let fresh = Proxy::start(sentinel.sentinels()[0].addr().unwrap()).await;
    fresh.delay(Direction::ToClient, Duration::from_millis(50));
    let url = format!("redis-sentinel://{},{}/larder", stale.addr().unwrap(), fresh.address());
    let larder = patient().url(&url).connect().await.unwrap();
    works(&larder).await;
    assert_eq!(sentinel.master().query::<i64>(&["EXISTS", "user:123"]), 1);
    assert_eq!(other_master.query::<i64>(&["DBSIZE"]), 0);
}

#[tokio::test]
async fn a_silent_sentinel_and_a_silent_server_that_it_names_cost_less_than_the_time_to_connect() {
    let sentinel = Sentinel::start();
    let hanging = Server::builder().tcp().start();
    let stale = Sentinel::stale(hanging.addr().unwrap());
    hanging.pause();
    let silent = Server::builder().tcp().start();
    silent.pause();
    // No majority: one sentinel names a server that hangs, one does not reply, and one is right.
    let right = Proxy::start(sentinel.sentinels()[0].addr().unwrap()).await;
    right.delay(Direction::ToClient, Duration::from_millis(20));
    let named: Vec<String> =
        [stale.addr().unwrap(), silent.addr().unwrap()].iter().map(ToString::to_string).collect();
    let url = format!("redis-sentinel://{},{}/larder", named.join(","), right.address());
    works(&patient().url(&url).connect().await.unwrap()).await;
}

#[tokio::test]
async fn sentinels_may_ask_for_a_user_of_their_own() {
    let sentinel = Sentinel::start();
    // Sentinels have users since 6.2.
    if !sentinel.sentinels()[0].version().at_least(6, 2) {
        return;
    }
    for node in sentinel.sentinels() {
        node.command(&[
            "ACL",
            "SETUSER",
            "ann",
            "on",
            ">ann's",
            "-@all",
            "+sentinel|get-master-addr-by-name",
        ]);
        node.command(&["ACL", "SETUSER", "default", "nopass", "-@all", "+auth", "+hello"]);
    }
    let as_ann = |password: &str| {
        let builder = patient().url(sentinel.url()).sentinel_username("ann");
        builder.sentinel_password(password).connect()
    };
    works(&as_ann("ann's").await.unwrap()).await;
    assert_eq!(as_ann("wrong").await.unwrap_err().kind(), ErrorKind::Authentication);
    let unknown = patient().url(sentinel.url()).connect().await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Permission, "{unknown:?}");
}

// ---- Round trips ---------------------------------------------------------------------------------------------------

const TRIP: Duration = Duration::from_millis(400);

/// A proxy that delays each round trip by `TRIP`.
async fn far(server: &Server) -> Proxy {
    let proxy = Proxy::start(server.addr().unwrap()).await;
    proxy.delay(Direction::Both, TRIP / 2);
    proxy
}

/// Checks that something takes so many round trips: at least, and in one of some runs not more.
async fn takes(trips: u32, what: &str, action: impl AsyncFn() -> larder::Result<()>) {
    for _ in 0..5 {
        let begin = Instant::now();
        action().await.unwrap();
        let took = begin.elapsed();
        assert!(took >= TRIP * trips, "{what}: {took:?}");
        if took < TRIP * (trips + 1) {
            return;
        }
    }
    panic!("{what}: more than {trips} round trips");
}

#[tokio::test]
async fn a_connection_opens_in_one_round_trip_and_tracks_after_one_more() {
    let server = Server::builder().tcp().start();
    server.command(&["ACL", "SETUSER", "ann", "on", ">ann's", "~*", "+@all"]);
    let proxy = far(&server).await;
    let as_ann = || patient().url(format!("{}/3", proxy.url())).username("ann").password("ann's");
    let first_command = async || as_ann().connect_lazy().unwrap().ping().await;
    takes(2, "a connection and a command", &first_command).await;
    takes(2, "all connections", async || as_ann().connect().await.map(drop)).await;

    // Without HELLO, which the ACL of Redis 6 may forbid: the login, AUTH, HELLO again, ROLE, and the command.
    if !server.version().at_least(6, 2) {
        server.command(&["ACL", "SETUSER", "default", "-hello"]);
        server.command(&["ACL", "SETUSER", "ann", "-hello"]);
        takes(5, "a connection without HELLO, and a command", &first_command).await;
    }
}

#[tokio::test]
async fn a_sentinel_is_asked_in_one_round_trip() {
    let sentinel = Sentinel::start();
    let proxy = far(&sentinel.sentinels()[0]).await;
    let url = format!("redis-sentinel://{}/larder", proxy.address());
    takes(1, "the sentinel", async || patient().url(&url).connect().await.map(drop)).await;
}

// ---- What a connection reports about itself
// --------------------------------------------------------------------------

#[tokio::test]
async fn connections_have_a_name_in_client_list() {
    let server = Server::builder().tcp().start();
    let count = |name: &str| {
        let list: String = server.query(&["CLIENT", "LIST"]);
        list.lines().filter(|line| line.contains(&format!(" name={name} "))).count()
    };
    let _larder = patient().url(server.url()).connect().await.unwrap();
    assert!(count("larder") >= 2);
    let _named = patient().url(server.url()).client_name("checkout-7").connect().await.unwrap();
    assert!(count("checkout-7") >= 2);
}

#[tokio::test]
async fn a_server_that_is_full_says_so_and_is_not_dialled_all_the_time() {
    let full = Server::builder().tcp().arg("maxclients", "1").start();
    full.command(&["PING"]);
    for _ in 0..20 {
        let error = Larder::connect(&full.url()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
        assert!(error.is_retryable() && error.to_string().contains("maxclients"), "{error}");
    }
    let larder = patient().url(full.url()).connect_lazy().unwrap();
    assert_eq!(larder.ping().await.unwrap_err().kind(), ErrorKind::Busy);
    let rejected = || full.info("stats")["rejected_connections"].parse::<u64>().unwrap();
    let (before, started) = (rejected(), Instant::now());
    until("it was dialled again", async || rejected() > before + 6).await;
    // Three links, each with two connections an attempt. Without a backoff there would be hundreds of attempts a
    // second.
    assert!(started.elapsed() > Duration::from_millis(500), "{:?}", started.elapsed());
    full.command(&["CONFIG", "SET", "maxclients", "100"]);
    until("there is room", async || larder.ping().await.is_ok()).await;
}

// ---- Credentials that change
// -----------------------------------------------------------------------------------------

type Answer = Result<Credentials, Box<dyn std::error::Error + Send + Sync>>;

/// A provider that returns the passwords in order, repeats the last one, and counts its calls.
fn rotating(
    passwords: &'static [&'static str],
    valid_for: Option<Duration>,
) -> (Arc<AtomicU64>, impl Fn() -> Ready<Answer>) {
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    let provider = move || {
        let number = usize::try_from(count.fetch_add(1, Ordering::AcqRel)).unwrap();
        let password = passwords.get(number).or(passwords.last()).unwrap();
        let credentials = Credentials::password(*password).username("ann");
        ready(Ok(valid_for.into_iter().fold(credentials, Credentials::valid_for)))
    };
    (asked, provider)
}

fn of_ann() -> Server {
    let server = Server::builder().tcp().start();
    server.command(&["ACL", "SETUSER", "ann", "on", ">one", ">two", "~*", "+@all"]);
    server
}

fn connections_of_ann(server: &Server) -> Vec<String> {
    let list: String = server.query(&["CLIENT", "LIST"]);
    let mine = list.lines().filter(|line| line.contains("user=ann"));
    mine.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_new_connection_asks_for_credentials_again() {
    let server = of_ann();
    let (asked, provider) = rotating(&["one", "two"], None);
    let larder = patient().url(server.url()).credentials(provider).connect().await.unwrap();
    works(&larder).await;
    let before = asked.load(Ordering::Acquire);
    server.command(&["ACL", "SETUSER", "ann", "resetpass", ">two"]);
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until("it is connected with the new password", async || larder.ping().await.is_ok()).await;
    assert!(asked.load(Ordering::Acquire) > before);
    works(&larder).await;
}

#[tokio::test]
async fn credentials_that_a_server_refuses_are_asked_for_again_though_their_time_is_not_over() {
    let server = of_ann();
    let (_, provider) = rotating(&["stale", "stale", "one"], Some(HOUR));
    let larder = patient().url(server.url()).credentials(provider).connect_lazy().unwrap();
    until("it is connected", async || larder.ping().await.is_ok()).await;
}

#[tokio::test]
async fn an_open_connection_authenticates_again_before_its_credentials_expire_and_on_demand() {
    let server = of_ann();
    let (asked, provider) = rotating(&["one", "two"], Some(Duration::from_secs(2)));
    let larder = patient().url(server.url()).credentials(provider).connect().await.unwrap();
    let before = connections_of_ann(&server);
    until("every connection has authenticated again", async || {
        server.calls("auth") >= before.len() as u64 && asked.load(Ordering::Acquire) > 1
    })
    .await;
    assert_eq!(connections_of_ann(&server), before, "without another connection");

    let (asked, provider) = rotating(&["one", "two"], Some(HOUR));
    let larder_of_hours = patient().url(server.url()).credentials(provider).connect().await.unwrap();
    server.reset_stats();
    drop(larder);
    assert_eq!(asked.load(Ordering::Acquire), 1);
    larder_of_hours.renew_credentials().await.unwrap();
    let connections = connections_of_ann(&server).len() as u64;
    until("every connection has authenticated again", async || server.calls("auth") >= connections.min(3))
        .await;
    assert_eq!(asked.load(Ordering::Acquire), 2);
    works(&larder_of_hours).await;
}

#[tokio::test]
async fn a_provider_that_fails_is_named_with_its_cause() {
    let server = of_ann();
    let failing = || async { Err("the vault is sealed".into()) };
    let error = patient().url(server.url()).credentials(failing).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(error.to_string().contains("the vault is sealed"), "{error}");
    let without = patient().url(server.url()).connect().await.unwrap();
    assert_eq!(without.renew_credentials().await.unwrap_err().kind(), ErrorKind::InvalidSetting);
}

//! The layer in axum, over HTTP/1.1 and HTTP/2: layers that compose, what handlers find, which client a request belongs
//! to, and what is in flight.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;
#[path = "support/web.rs"]
mod web;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::future::Either;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use larder::Quota;
use larder::http::{
    ClientIp, Decisions, InFlightLayer, PathKey, RateLimitFields, RateLimitLayer, RefusedRequest,
};
use support::each_store;
use tokio::net::TcpStream;
use web::{ask, by_user, limiter, request, serve, to};

#[tokio::test(flavor = "multi_thread")]
async fn two_layers_both_say_what_is_left_and_the_older_fields_are_those_of_the_one_that_binds() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let global = limiter(&larder, &format!("global{version}"), Quota::per_hour(1000));
            let route = limiter(&larder, &format!("export{version}"), Quota::per_minute(2));
            let names = [global.name().to_owned(), route.name().to_owned()];
            let layer = |limiter| RateLimitLayer::new(limiter, ClientIp::new()).fields(RateLimitFields::Both);
            let handler = |Extension(decisions): Extension<Decisions>| async move {
                let left = |name: &String| decisions.get(name).map(|decision| decision.remaining());
                format!("{:?}", decisions.limiters().iter().map(left).collect::<Vec<_>>())
            };
            let app = Router::new().route("/export", get(handler).layer(layer(route))).layer(layer(global));
            let address = serve(app).await;
            for passes in [Some(1), Some(0), None] {
                let answer = ask(version, address, to("/export")).await;
                let policies =
                    [format!("\"{}\";q=2;w=60", names[1]), format!("\"{}\";q=1000;w=3600", names[0])];
                assert_eq!(answer.all("ratelimit-policy"), policies, "{store} {version}");
                let left = answer.all("ratelimit");
                assert!(
                    left[0].starts_with(&format!("\"{}\";r={};", names[1], passes.unwrap_or(0))),
                    "{left:?}"
                );
                assert!(left[1].starts_with(&format!("\"{}\";r=99", names[0])), "{left:?}");
                // The response has the fields of one limit: that of the route, which has less left, even when it
                // refuses.
                assert_eq!(answer.one("x-ratelimit-limit"), Some("2"), "{store} {version}");
                assert_eq!(
                    answer.one("x-ratelimit-remaining"),
                    Some(passes.unwrap_or(0).to_string().as_str())
                );
                assert_eq!(answer.one("retry-after").is_some(), passes.is_none());
                match passes {
                    Some(left) => assert_eq!(answer.body, format!("[Some({}), Some({left})]", 998 + left)),
                    None => assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_behind_says_of_its_own_limit_is_passed_on() {
    let larder = support::connect("memory:").await;
    let upstream = || async {
        let fields = [
            ("ratelimit", "\"upstream\";r=0;t=30"),
            ("ratelimit-policy", "\"upstream\";q=5;w=60"),
            ("retry-after", "30"),
            ("x-ratelimit-remaining", "0"),
        ];
        (StatusCode::TOO_MANY_REQUESTS, fields)
    };
    for (version, fields) in [1, 2]
        .into_iter()
        .flat_map(|version| [RateLimitFields::Both, RateLimitFields::Legacy].map(|fields| (version, fields)))
    {
        let edge = limiter(&larder, &format!("edge{version}{fields:?}"), Quota::per_hour(1000));
        let layer = RateLimitLayer::new(edge, ClientIp::new()).fields(fields);
        let bare = || async { StatusCode::TOO_MANY_REQUESTS };
        let app = Router::new().route("/", get(upstream)).route("/bare", get(bare)).layer(layer);
        let address = serve(app).await;
        let answer = ask(version, address, to("/")).await;
        assert_eq!(answer.all("ratelimit")[0], "\"upstream\";r=0;t=30");
        assert_eq!(answer.one("retry-after"), Some("30"));
        assert_eq!(answer.one("x-ratelimit-remaining"), Some("0"));
        assert_eq!(answer.one("x-ratelimit-limit"), None, "half of one limit and half of another");
        assert_eq!(ask(version, address, to("/bare")).await.one("x-ratelimit-remaining"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_find_the_decision_in_shadow_mode_too_and_none_where_a_request_is_skipped() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            for (mode, expected) in [
                ("live", ["Some(true)", "429"]),
                ("shadow", ["Some(true)", "Some(false)"]),
                ("skip", ["None", "None"]),
            ] {
                let layer = RateLimitLayer::new(
                    limiter(&larder, &format!("{mode}{version}"), Quota::per_hour(1)),
                    ClientIp::new(),
                );
                let layer = match mode {
                    "shadow" => layer.shadow(),
                    "skip" => layer.skip(|_| true),
                    _ => layer,
                };
                let handler = move |Extension(decisions): Extension<Decisions>| async move {
                    format!(
                        "{:?}",
                        decisions.get(&format!("{mode}{version}")).map(|decision| decision.is_allowed())
                    )
                };
                let address = serve(Router::new().route("/", get(handler)).layer(layer)).await;
                for expected in expected {
                    let answer = ask(version, address, to("/")).await;
                    let found = if answer.status == StatusCode::OK {
                        answer.body
                    } else {
                        answer.status.as_u16().to_string()
                    };
                    assert_eq!(found, expected, "{store} {mode}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_whole_in_a_nested_router_and_head_counts_as_get() {
    let larder = support::connect("memory:").await;
    let layer = RateLimitLayer::new(limiter(&larder, "path", Quota::per_hour(1)), PathKey::new());
    let users = || Router::new().route("/users", get(|| async { "ok" })).layer(layer.clone());
    let address = serve(Router::new().nest("/v1", users()).nest("/v2", users())).await;
    for version in [1, 2] {
        larder.rate_limiter("path", Quota::per_hour(1)).unwrap().reset("GET /v1/users").await.unwrap();
        larder.rate_limiter("path", Quota::per_hour(1)).unwrap().reset("GET /v2/users").await.unwrap();
        for (method, path, status) in [
            (Method::GET, "/v1/users", 200),
            (Method::GET, "/v2/users?page=2", 200),
            (Method::HEAD, "/v1/users", 429),
            (Method::HEAD, "/v2/users", 429),
        ] {
            let answer = ask(version, address, request(method, path, &[])).await;
            assert_eq!(answer.status, status, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_clients_are_distinguished_by_the_address_that_it_added() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let limiter = limiter(&larder, &format!("clients{version}"), Quota::per_hour(1));
            let served = |layer| Router::new().route("/", get(|| async { "served" })).layer(layer);
            let serve_by =
                async |clients: ClientIp| serve(served(RateLimitLayer::new(limiter.clone(), clients))).await;
            let plain = serve_by(ClientIp::new().trust(["127.0.0.1"]).unwrap()).await;
            let lines: &[(&[&[u8]], bool)] = &[
                (&[b"203.0.113.7"], true),
                // The same client, whatever its request claims.
                (&[b"198.51.100.1, 203.0.113.7"], false),
                (&["b\u{fc}cher, 203.0.113.7".as_bytes()], false),
                (&[b"\xff\xfe, 203.0.113.7,"], false),
                (&[b"192.0.2.200", b"203.0.113.7"], false),
                // Another client; IPv6 addresses count by /64.
                (&[b"203.0.113.8"], true),
                (&[b"2001:db8:1:2::1"], true),
                (&[b"2001:db8:1:2:ffff::9"], false),
                // Without a client's address the proxy itself is the client, and counts once.
                (&[], true),
                (&[], false),
            ];
            for (values, passes) in lines {
                let mut request = to("/");
                for value in *values {
                    let value = http::HeaderValue::from_bytes(value).unwrap();
                    request.headers_mut().append("x-forwarded-for", value);
                }
                let status = ask(version, plain, request).await.status;
                assert_eq!(status == StatusCode::OK, *passes, "{store} {version} {values:?}: {status}");
            }
            // The standard field, if that is the one that the proxy writes.
            let clients = ClientIp::new().trust(["127.0.0.1"]).unwrap().field(header::FORWARDED);
            let standard = serve_by(clients).await;
            for (value, passes) in [
                ("for=203.0.113.20;proto=https", true),
                ("for=198.51.100.2, for=\"203.0.113.20:4711\"", false),
                ("for=\"[2001:db8:9:9::1]\"", true),
            ] {
                let fields = [("forwarded", value), ("x-forwarded-for", "198.51.100.77")];
                let status = ask(version, standard, request(Method::GET, "/", &fields)).await.status;
                assert_eq!(status == StatusCode::OK, passes, "{store} {version} {value}: {status}");
            }
            // A client that connects without a proxy cannot choose its address.
            let direct = serve_by(ClientIp::new()).await;
            for address in ["203.0.113.30", "203.0.113.31"] {
                let fields = [("x-forwarded-for", address)];
                let status = ask(version, direct, request(Method::GET, "/", &fields)).await.status;
                assert_eq!(
                    status,
                    StatusCode::TOO_MANY_REQUESTS,
                    "{store}: it is 127.0.0.1, as the proxy was"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_calls_the_hook_and_spreads_when_clients_retry() {
    let larder = support::connect("memory:").await;
    for version in [1, 2] {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        let layer =
            RateLimitLayer::new(limiter(&larder, &format!("hook{version}"), Quota::per_minute(1)), by_user())
                .retry_jitter(Duration::from_secs(1000))
                .on_refusal(move |refused| {
                    let (path, decision) = (refused.request().uri().path().to_owned(), refused.decision());
                    hears.lock().unwrap().push((
                        refused.key().to_owned(),
                        path,
                        decision.map(|one| one.limit()),
                    ));
                });
        let address = serve(Router::new().route("/a", get(|| async { "ok" })).layer(layer)).await;
        let ask = async || ask(version, address, request(Method::GET, "/a", &[("x-user", "ann")])).await;
        assert_eq!(ask().await.status, StatusCode::OK);
        assert!(heard.lock().unwrap().is_empty());
        let mut waits = Vec::new();
        for _ in 0..20 {
            let refused = ask().await;
            let wait: u64 = refused.one("retry-after").unwrap().parse().unwrap();
            let told = refused.one("ratelimit").unwrap().rsplit_once("t=").unwrap().1.parse().unwrap();
            assert!(wait >= told && wait <= 1061, "{wait} {told}");
            waits.push(wait);
        }
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 10, "{waits:?}");
        assert_eq!(heard.lock().unwrap().len(), 20);
        assert_eq!(heard.lock().unwrap()[0], ("ann".to_owned(), "/a".to_owned(), Some(1)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_holds_its_permit_until_its_body_was_sent_or_the_client_went() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let semaphore = larder.semaphore(format!("exports{version}"), 2);
            let layer = InFlightLayer::new(semaphore.clone(), by_user());
            let (go, wait) = tokio::sync::watch::channel(false);
            let handler = move || {
                let mut wait = wait.clone();
                async move {
                    let first = futures_util::stream::iter([Ok::<_, std::io::Error>("first")]);
                    let rest = async move {
                        let _ = wait.wait_for(|go| *go).await;
                        Ok("rest")
                    };
                    let rest = futures_util::stream::once(rest);
                    Body::from_stream(futures_util::StreamExt::chain(first, rest))
                }
            };
            let address = serve(Router::new().route("/", get(handler)).layer(layer)).await;
            let ann = semaphore.key("ann");
            let start = async || {
                let request = request(Method::GET, "/", &[("x-user", "ann")]);
                let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
                if version == 1 {
                    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
                    let connection = tokio::spawn(async move { drop(connection.await) });
                    (sender.send_request(request).await.unwrap(), connection)
                } else {
                    let (mut sender, connection) =
                        http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                    let connection = tokio::spawn(async move { drop(connection.await) });
                    (sender.send_request(request).await.unwrap(), connection)
                }
            };
            let ((first, _first), (second, gone)) = (start().await, start().await);
            assert_eq!((first.status(), second.status()), (StatusCode::OK, StatusCode::OK), "{store}");
            // The handlers have returned, and their bodies have not been sent.
            assert_eq!(ann.in_use().await.unwrap(), 2, "{store} {version}");
            let refused = ask(version, address, request(Method::GET, "/", &[("x-user", "ann")])).await;
            assert_eq!(
                (refused.status, refused.one("retry-after")),
                (StatusCode::TOO_MANY_REQUESTS, Some("1"))
            );
            // The client of one request disconnects.
            drop(second);
            gone.abort();
            support::until("its permit is free", async || ann.in_use().await.unwrap() == 1).await;
            go.send(true).unwrap();
            assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "firstrest");
            support::until("the last permit is free", async || ann.in_use().await.unwrap() == 0).await;
            let again = ask(version, address, request(Method::GET, "/", &[("x-user", "ann")])).await;
            assert_eq!((again.status, again.body.as_str()), (StatusCode::OK, "firstrest"), "{store}");
        }
    }
}

/// As for a rate limit: a client does not escape by a key that is too long for the store.
#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_with_a_key_longer_than_the_store_takes_are_counted_under_its_hash() {
    for (store, larder) in each_store().await {
        let layer = InFlightLayer::new(larder.semaphore("long", 1), by_user()).allow_in_outage();
        let (entered, leave) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let handler = {
            let (entered, leave) = (entered.clone(), leave.clone());
            get(move || async move {
                let leaves = leave.notified();
                entered.notify_one();
                leaves.await;
            })
        };
        let address = serve(Router::new().route("/", handler).layer(layer)).await;
        let long = "a".repeat(2000);
        let ask = |user: String| async move {
            ask(1, address, request(Method::GET, "/", &[("x-user", user.as_str())])).await.status
        };
        let enters = async || {
            let entered = tokio::time::timeout(Duration::from_secs(10), entered.notified()).await;
            entered.unwrap_or_else(|_| panic!("{store}: the request does not reach the handler"));
        };
        let first = tokio::spawn(ask(long.clone()));
        enters().await;
        assert_eq!(ask(long.clone()).await, StatusCode::TOO_MANY_REQUESTS, "{store}");
        let other = tokio::spawn(ask(format!("{long}b")));
        enters().await;
        leave.notify_waiters();
        assert_eq!((first.await.unwrap(), other.await.unwrap()), (StatusCode::OK, StatusCode::OK), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_finds_the_queue_for_a_permit_full_is_refused_with_429() {
    for (store, larder) in each_store().await {
        let exports = larder.semaphore("exports", 1).max_waiting(1);
        let held = exports.key("ann").acquire().await.unwrap();
        let layer = InFlightLayer::new(exports, by_user()).wait(Duration::from_secs(30)).allow_in_outage();
        let address = serve(Router::new().route("/", get(|| async { "served" })).layer(layer)).await;
        let ask = || ask(1, address, request(Method::GET, "/", &[("x-user", "ann")]));
        // Of two requests one waits, and the other does not.
        let (first, second) = (std::pin::pin!(ask()), std::pin::pin!(ask()));
        let (refused, waits) = match futures_util::future::select(first, second).await {
            Either::Left(first) => first,
            Either::Right(second) => second,
        };
        let found = (refused.status, refused.one("retry-after"));
        assert_eq!(found, (StatusCode::TOO_MANY_REQUESTS, Some("1")), "{store}");
        held.release().await.unwrap();
        assert_eq!(waits.await.status, StatusCode::OK, "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_request_in_flight_is_reported_and_its_retry_after_is_spread() {
    for (store, larder) in each_store().await {
        let exports = larder.semaphore("exports", 1);
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let hook = {
            let seen = seen.clone();
            move |refused: &RefusedRequest<'_>| {
                let path = refused.request().uri().path().to_owned();
                let known = (refused.decision().is_none(), refused.is_shadow());
                seen.lock().unwrap().push((refused.key().to_owned(), path, refused.status(), known));
            }
        };
        let layer = InFlightLayer::new(exports.clone(), by_user())
            .on_refusal(hook)
            .retry_jitter(Duration::from_secs(1000))
            .refuse(larder::http::Problem::default());
        let address = serve(Router::new().route("/export", get(|| async { "served" })).layer(layer)).await;
        let ask = async || ask(1, address, request(Method::GET, "/export", &[("x-user", "ann")])).await;
        assert_eq!(ask().await.status, StatusCode::OK, "{store}");
        // The permit of a request that was served is released in the background.
        support::until("it is released", async || exports.key("ann").in_use().await.unwrap() == 0).await;
        let held = exports.key("ann").acquire().await.unwrap();
        let mut spans = Vec::new();
        for _ in 0..8 {
            let refused = ask().await;
            assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{store}");
            spans.push(refused.one("retry-after").unwrap().parse::<u64>().unwrap());
        }
        spans.sort_unstable();
        spans.dedup();
        assert!(spans.len() > 1 && spans.iter().all(|span| (1..=1001).contains(span)), "{store}: {spans:?}");
        let refused = ("ann".to_owned(), "/export".to_owned(), StatusCode::TOO_MANY_REQUESTS, (true, false));
        assert_eq!(*seen.lock().unwrap(), vec![refused; 8], "{store}");
        held.release().await.unwrap();
    }
}

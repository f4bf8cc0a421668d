//! The layer in axum, over HTTP/1.1 and HTTP/2: layers that compose, what handlers find, costs that follow the response.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use larder::http::{
    ClientIp, Decisions, HeaderKey, InFlightLayer, PathKey, RateLimitFields, RateLimitLayer, RequestHead,
    ResponseHead,
};
use larder::{Block, DecidedBy, Larder, Quota, RateLimiter};
use support::each_store;
use tokio::net::{TcpListener, TcpStream};

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: String,
}

impl Answer {
    fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name}: {all:?}");
        all.first().copied()
    }
}

/// A request on a connection of its own.
async fn ask(version: u8, address: SocketAddr, request: Request<Body>) -> Answer {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let answer = if version == 1 {
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: head.status, headers: head.headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

fn request(method: Method, path: &str, fields: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(format!("http://localhost{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.header(header::HOST, "localhost").body(Body::empty()).unwrap()
}

fn to(path: &str) -> Request<Body> {
    request(Method::GET, path, &[])
}

fn limiter(larder: &Larder, name: &str, quota: Quota) -> RateLimiter {
    larder.rate_limiter(name, quota).unwrap()
}

fn by_user() -> HeaderKey {
    HeaderKey::new("x-user").unwrap()
}

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
                // One limit each: that of the route, which has less left, also where it refuses.
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
    for (number, fields) in [RateLimitFields::Both, RateLimitFields::Legacy].into_iter().enumerate() {
        let edge = limiter(&larder, &format!("edge{number}"), Quota::per_hour(1000));
        let layer = RateLimitLayer::new(edge, ClientIp::new()).fields(fields);
        let bare = || async { StatusCode::TOO_MANY_REQUESTS };
        let app = Router::new().route("/", get(upstream)).route("/bare", get(bare)).layer(layer);
        let address = serve(app).await;
        let answer = ask(1, address, to("/")).await;
        assert_eq!(answer.all("ratelimit")[0], "\"upstream\";r=0;t=30");
        assert_eq!(answer.one("retry-after"), Some("30"));
        assert_eq!(answer.one("x-ratelimit-remaining"), Some("0"));
        assert_eq!(answer.one("x-ratelimit-limit"), None, "half of one limit and half of another");
        assert_eq!(ask(1, address, to("/bare")).await.one("x-ratelimit-remaining"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_find_the_decision_in_shadow_mode_too_and_none_where_a_request_is_skipped() {
    for (store, larder) in each_store().await {
        for (mode, expected) in [
            ("live", ["Some(true)", "429"]),
            ("shadow", ["Some(true)", "Some(false)"]),
            ("skip", ["None", "None"]),
        ] {
            let layer = RateLimitLayer::new(limiter(&larder, mode, Quota::per_hour(1)), ClientIp::new());
            let layer = match mode {
                "shadow" => layer.shadow(),
                "skip" => layer.skip(|_| true),
                _ => layer,
            };
            let handler = move |Extension(decisions): Extension<Decisions>| async move {
                format!("{:?}", decisions.get(mode).map(|decision| decision.is_allowed()))
            };
            let address = serve(Router::new().route("/", get(handler)).layer(layer)).await;
            for expected in expected {
                let answer = ask(2, address, to("/")).await;
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
async fn only_requests_with_the_outcome_that_counts_are_counted() {
    for (store, larder) in each_store().await {
        let logins = limiter(&larder, "login", Quota::per_hour(3));
        let layer = RateLimitLayer::new(logins.clone(), by_user())
            .count_if(|response: &ResponseHead<'_>| response.status() == StatusCode::UNAUTHORIZED);
        let login = |request: axum::extract::Request| async move {
            if request.uri().query() == Some("right") { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
        };
        let address = serve(Router::new().route("/login", post(login)).layer(layer)).await;
        let ask = async |query: &str| {
            let request = request(Method::POST, &format!("/login?{query}"), &[("x-user", "ann")]);
            ask(1, address, request).await
        };
        for _ in 0..5 {
            let answer = ask("right").await;
            assert_eq!(answer.status, StatusCode::OK, "{store}");
            assert!(answer.one("ratelimit").unwrap().starts_with("\"login\";r=3;"), "{store}");
        }
        for left in [2, 1, 0] {
            let answer = ask("wrong").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{store}");
            assert!(answer.one("ratelimit").unwrap().starts_with(&format!("\"login\";r={left};")), "{store}");
        }
        assert_eq!(ask("right").await.status, StatusCode::TOO_MANY_REQUESTS, "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_fails_too_often_is_blocked_longer_than_its_window_and_told_so() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let minute = Duration::from_secs(60);
            let logins = limiter(&larder, &format!("block{version}"), Quota::new(2, Duration::from_secs(1)));
            let logins = logins.block_for(Block::lasting(minute).escalating(2, 4 * minute)).unwrap();
            let layer = RateLimitLayer::new(logins.clone(), by_user())
                .count_if(|response: &ResponseHead<'_>| response.status() == StatusCode::UNAUTHORIZED)
                .fields(RateLimitFields::Both);
            let app = Router::new().route("/login", post(|| async { StatusCode::UNAUTHORIZED })).layer(layer);
            let address = serve(app).await;
            let ask = async |user: &str| {
                ask(version, address, request(Method::POST, "/login", &[("x-user", user)])).await
            };
            let blocked = loop {
                let answer = ask("ann").await;
                if answer.status != StatusCode::UNAUTHORIZED {
                    break answer;
                }
            };
            assert_eq!(blocked.status, StatusCode::TOO_MANY_REQUESTS, "{store}");
            let wait = |answer: &Answer| answer.one("retry-after").unwrap().parse::<u64>().unwrap();
            assert!((59..=61).contains(&wait(&blocked)), "{store}: {}", wait(&blocked));
            assert_eq!(blocked.one("x-ratelimit-remaining"), Some("0"), "{store}");
            // The window is over, the block is not; others are served.
            tokio::time::sleep(Duration::from_millis(1100)).await;
            let still = ask("ann").await;
            assert_eq!(still.status, StatusCode::TOO_MANY_REQUESTS, "{store}");
            assert!((40..=60).contains(&wait(&still)), "{store}: {}", wait(&still));
            assert_eq!(ask("bob").await.status, StatusCode::UNAUTHORIZED, "{store}");
            // Somebody lifts it.
            logins.reset("ann").await.unwrap();
            assert_eq!(ask("ann").await.status, StatusCode::UNAUTHORIZED, "{store}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_clients_are_told_apart_by_the_address_that_it_added() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let limiter = limiter(&larder, &format!("clients{version}"), Quota::per_hour(1));
            let served = |layer| Router::new().route("/", get(|| async { "served" })).layer(layer);
            let serve_by =
                async |clients: ClientIp| serve(served(RateLimitLayer::new(limiter.clone(), clients))).await;
            let plain = serve_by(ClientIp::new().trust(["127.0.0.1"]).unwrap()).await;
            let lines: &[(&[&[u8]], bool)] = &[
                (&[b"203.0.113.7"], true),
                // The same client, whatever it claims to be.
                (&[b"198.51.100.1, 203.0.113.7"], false),
                (&["b\u{fc}cher, 203.0.113.7".as_bytes()], false),
                (&[b"\xff\xfe, 203.0.113.7,"], false),
                (&[b"192.0.2.200", b"203.0.113.7"], false),
                // Another, and IPv6 counts by /64.
                (&[b"203.0.113.8"], true),
                (&[b"2001:db8:1:2::1"], true),
                (&[b"2001:db8:1:2:ffff::9"], false),
                // Without a client's address the proxy is the client, once.
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
            // The standard field, where it is the one that the proxy writes.
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
            // A client that no proxy stands before cannot choose its address.
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
async fn a_cost_that_an_override_allows_is_charged_whole_and_else_it_is_that_of_all_there_is() {
    for (store, larder) in each_store().await {
        let tokens = limiter(&larder, "costly", Quota::per_hour(10));
        let layer = RateLimitLayer::new(tokens.clone(), by_user()).cost(|_: &RequestHead<'_>| 25);
        let address = serve(Router::new().route("/", get(|| async { "served" })).layer(layer)).await;
        let ask = async |user: &str| ask(1, address, request(Method::GET, "/", &[("x-user", user)])).await;
        tokens.override_key("ann", Quota::per_hour(60), Duration::from_secs(3600)).await.unwrap();
        for (user, status, left) in [("ann", 200, 35), ("ann", 200, 10), ("ann", 429, 10), ("bob", 200, 0)] {
            assert_eq!(ask(user).await.status, status, "{store} {user}");
            assert_eq!(tokens.remaining(user).await.unwrap(), left, "{store} {user}");
        }
    }
}

/// What a handler says its work has cost.
#[derive(Clone)]
struct Cost(u64);

#[tokio::test(flavor = "multi_thread")]
async fn a_request_costs_what_it_says_and_then_what_its_response_says() {
    for (store, larder) in each_store().await {
        let tokens = limiter(&larder, "tokens", Quota::per_hour(100));
        let layer = RateLimitLayer::new(tokens.clone(), by_user())
            .cost(|request: &RequestHead<'_>| {
                let cost = request.headers().get("x-cost").and_then(|cost| cost.to_str().ok());
                cost.and_then(|cost| cost.parse().ok()).unwrap_or(1)
            })
            .settle(|response, charged| response.extensions().get::<Cost>().map_or(charged, |cost| cost.0));
        let handler = |request: axum::extract::Request| async move {
            let used = request.headers().get("x-used").map(|used| used.to_str().unwrap().parse().unwrap());
            let mut response: Response = StatusCode::OK.into_response();
            used.map(|used| response.extensions_mut().insert(Cost(used)));
            response
        };
        let address = serve(Router::new().route("/", get(handler)).layer(layer)).await;
        let ask = async |fields: &[(&'static str, &str)]| {
            let fields = [&[("x-user", "ann")], fields].concat();
            ask(2, address, request(Method::GET, "/", &fields)).await.status
        };
        let left = async || tokens.remaining("ann").await.unwrap();
        assert_eq!(ask(&[("x-cost", "30")]).await, 200);
        assert_eq!(left().await, 70, "{store}");
        assert_eq!(ask(&[("x-cost", "50"), ("x-used", "10")]).await, 200);
        assert_eq!(left().await, 60, "{store}");
        assert_eq!(ask(&[("x-cost", "0")]).await, 200);
        assert_eq!(left().await, 60, "{store}: what costs nothing is not counted");
        assert_eq!(ask(&[("x-cost", "61")]).await, 429);
        // Used beyond what was charged, and beyond the limit: it is owed.
        assert_eq!(ask(&[("x-cost", "10"), ("x-used", "150")]).await, 200);
        assert_eq!((left().await, ask(&[]).await), (0, StatusCode::TOO_MANY_REQUESTS), "{store}");
        assert_eq!(tokens.check("ann").await.unwrap().remaining(), 0);
        // Of 190 that count, 91 must leave the window before one more fits.
        assert!(
            tokens.with_quotas(Quota::per_hour(190)).unwrap().remaining("ann").await.unwrap() == 0,
            "{store}"
        );
        assert_eq!(
            tokens.with_quotas(Quota::per_hour(191)).unwrap().remaining("ann").await.unwrap(),
            1,
            "{store}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_follow_the_request_or_the_key() {
    for (store, larder) in each_store().await {
        let by_request = RateLimitLayer::new(limiter(&larder, "tiers", Quota::per_hour(2)), by_user())
            .quotas(|request| request.headers().contains_key("x-paid").then(|| Quota::per_hour(4).into()));
        let by_key = limiter(&larder, "keys", Quota::per_hour(2))
            .quotas_by(|key| key.starts_with("paid").then(|| Quota::per_hour(4).into()));
        let app = Router::new()
            .route("/request", get(|| async { "ok" }).layer(by_request))
            .route("/key", get(|| async { "ok" }).layer(RateLimitLayer::new(by_key.clone(), by_user())));
        let address = serve(app).await;
        for (path, free, paid) in [
            ("/request", vec![("x-user", "free")], vec![("x-user", "paid"), ("x-paid", "yes")]),
            ("/key", vec![("x-user", "free")], vec![("x-user", "paid")]),
        ] {
            for (fields, limit) in [(free, 2), (paid, 4)] {
                for left in (0..limit).rev() {
                    let answer = ask(1, address, request(Method::GET, path, &fields)).await;
                    assert_eq!(answer.status, StatusCode::OK, "{store} {path} {fields:?}");
                    assert!(answer.one("ratelimit").unwrap().contains(&format!(";r={left};")), "{store}");
                    assert!(
                        answer.one("ratelimit-policy").unwrap().contains(&format!(";q={limit};")),
                        "{store}"
                    );
                }
                let refused = ask(1, address, request(Method::GET, path, &fields)).await;
                assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{store} {path} {fields:?}");
            }
        }
        // The other operations go by the key too.
        assert_eq!(by_key.remaining("paid2").await.unwrap(), 4);
        assert!(
            by_key.check_n("paid2", 4).await.unwrap().is_allowed() && !by_key.allow("paid2").await.unwrap()
        );
        assert_eq!(by_key.check("paid2").await.unwrap().decided_by(), DecidedBy::Refusal, "{store}");
        assert!(!by_key.acquire("paid2", Duration::ZERO).await.unwrap().is_allowed());
        assert!(by_key.check_n("free2", 3).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_calls_the_hook_and_spreads_when_clients_come_back() {
    let larder = support::connect("memory:").await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    let layer = RateLimitLayer::new(limiter(&larder, "hook", Quota::per_minute(1)), by_user())
        .retry_jitter(Duration::from_secs(1000))
        .on_refusal(move |refused| {
            let (path, decision) = (refused.request().uri().path().to_owned(), refused.decision());
            hears.lock().unwrap().push((refused.key().to_owned(), path, decision.map(|one| one.limit())));
        });
    let address = serve(Router::new().route("/a", get(|| async { "ok" })).layer(layer)).await;
    let ask = async || ask(1, address, request(Method::GET, "/a", &[("x-user", "ann")])).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn two_limits_of_one_layer_are_charged_together() {
    for (store, larder) in each_store().await {
        let grouped = |name, quota| limiter(&larder, name, quota).in_group("api").unwrap();
        let by_user_limiter = grouped("user", Quota::per_hour(2));
        let by_address = grouped("address", Quota::per_hour(10));
        let layer = RateLimitLayer::new(by_user_limiter.clone(), by_user())
            .and(by_address.clone(), ClientIp::new())
            .fields(RateLimitFields::Both)
            .count_if(|response| response.status() != StatusCode::NOT_FOUND);
        let address = serve(Router::new().route("/", get(|| async { "ok" })).layer(layer)).await;
        let ask = async |path: &str| ask(1, address, request(Method::GET, path, &[("x-user", "ann")])).await;
        for left in [1, 0] {
            let answer = ask("/").await;
            assert_eq!(answer.status, StatusCode::OK, "{store}");
            let expected = [format!("\"user\";r={left};"), format!("\"address\";r={};", left + 8)];
            for (told, expected) in answer.all("ratelimit").iter().zip(expected) {
                assert!(told.starts_with(&expected), "{store}: {told}");
            }
            assert_eq!(answer.one("x-ratelimit-remaining"), Some(left.to_string().as_str()), "{store}");
        }
        for _ in 0..3 {
            let refused = ask("/").await;
            assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{store}");
            let problem: serde_json::Value = serde_json::from_str(&refused.body).unwrap();
            assert_eq!(problem["violated-policies"], serde_json::json!(["user"]), "{store}");
            assert_eq!(refused.one("x-ratelimit-limit"), Some("2"));
        }
        assert_eq!(by_address.remaining("127.0.0.1").await.unwrap(), 8, "{store}: refusals charge nothing");
        // What does not count is given back to both.
        by_user_limiter.reset("ann").await.unwrap();
        assert_eq!(ask("/missing").await.status, StatusCode::NOT_FOUND);
        assert_eq!(by_address.remaining("127.0.0.1").await.unwrap(), 8, "{store}");
        assert_eq!(by_user_limiter.remaining("ann").await.unwrap(), 2, "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_holds_its_permit_until_its_body_was_sent_or_the_client_went() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let semaphore = larder.semaphore(&format!("exports{version}"), 2);
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
            // The handlers have returned; their bodies have not been sent.
            assert_eq!(ann.in_use().await.unwrap(), 2, "{store} {version}");
            let refused = ask(version, address, request(Method::GET, "/", &[("x-user", "ann")])).await;
            assert_eq!(
                (refused.status, refused.one("retry-after")),
                (StatusCode::TOO_MANY_REQUESTS, Some("1"))
            );
            // The client of one goes away.
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

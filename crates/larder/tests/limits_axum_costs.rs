//! The layer in axum, over HTTP/1.1 and HTTP/2: quotas, costs and outcomes, blocks, several limits, and when to retry.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;
#[path = "support/web.rs"]
mod web;

use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{Method, StatusCode};
use larder::Quota;
use larder::http::{ClientIp, PathKey, RateLimitFields, RateLimitLayer, RequestHead, ResponseHead};
use larder::limit::{Block, DecidedBy, RateLimiter};
use support::each_store;
use web::{Answer, ask, by_user, limiter, request, serve};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_as_long_as_the_answer_says_and_asks_alone_is_served() {
    for (store, larder) in each_store().await {
        // By the time of each permit, in buckets, and by a pace.
        let quotas = [
            Quota::new(2, Duration::from_millis(700)),
            Quota::new(30, Duration::from_millis(900)),
            Quota::new(10, Duration::from_millis(800)).gcra(2),
        ];
        let each = [1, 2].into_iter().flat_map(|version| quotas.map(|quota| (version, quota)));
        let waits = each.map(|(version, quota)| {
            let limiter = limiter(&larder, &format!("wait{version}{}", quota.limit()), quota);
            async move {
                let layer = RateLimitLayer::new(limiter.clone(), by_user()).fields(RateLimitFields::Both);
                let address = serve(Router::new().route("/", get(|| async { "served" })).layer(layer)).await;
                let ask =
                    async || ask(version, address, request(Method::GET, "/", &[("x-user", "ann")])).await;
                let refused = loop {
                    limiter.take_up_to("ann", 100).await.unwrap();
                    let answer = ask().await;
                    if answer.status != StatusCode::OK {
                        break answer;
                    }
                };
                assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{store} {version} {quota:?}");
                let wait = refused.one("retry-after").unwrap();
                assert_eq!(refused.one("x-ratelimit-reset"), Some(wait));
                assert!(refused.one("ratelimit").unwrap().ends_with(&format!(";t={wait}")));
                tokio::time::sleep(Duration::from_secs(wait.parse().unwrap())).await;
                assert_eq!(ask().await.status, StatusCode::OK, "{store} {version} {quota:?}: after {wait} s");
            }
        });
        futures_util::future::join_all(waits).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_requests_with_the_outcome_that_counts_are_counted() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let logins = limiter(&larder, &format!("login{version}"), Quota::per_hour(3));
            let layer = RateLimitLayer::new(logins.clone(), by_user())
                .count_if(|response: &ResponseHead<'_>| response.status() == StatusCode::UNAUTHORIZED);
            let login = |request: axum::extract::Request| async move {
                if request.uri().query() == Some("right") { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
            };
            let address = serve(Router::new().route("/login", post(login)).layer(layer)).await;
            let ask = async |query: &str| {
                let request = request(Method::POST, &format!("/login?{query}"), &[("x-user", "ann")]);
                ask(version, address, request).await
            };
            for _ in 0..5 {
                let answer = ask("right").await;
                assert_eq!(answer.status, StatusCode::OK, "{store}");
                assert!(
                    answer.one("ratelimit").unwrap().starts_with(&format!("\"login{version}\";r=3;")),
                    "{store}"
                );
            }
            for left in [2, 1, 0] {
                let answer = ask("wrong").await;
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{store}");
                assert!(
                    answer.one("ratelimit").unwrap().starts_with(&format!("\"login{version}\";r={left};")),
                    "{store}"
                );
            }
            assert_eq!(ask("right").await.status, StatusCode::TOO_MANY_REQUESTS, "{store}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_fails_too_often_is_blocked_longer_than_its_window_and_the_answer_says_so() {
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
            // The window is over, but the block is not; other clients are served.
            tokio::time::sleep(Duration::from_millis(1100)).await;
            let still = ask("ann").await;
            assert_eq!(still.status, StatusCode::TOO_MANY_REQUESTS, "{store}");
            assert!((40..=60).contains(&wait(&still)), "{store}: {}", wait(&still));
            assert_eq!(ask("bob").await.status, StatusCode::UNAUTHORIZED, "{store}");
            // An operator lifts the block.
            logins.reset("ann").await.unwrap();
            assert_eq!(ask("ann").await.status, StatusCode::UNAUTHORIZED, "{store}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_that_an_override_allows_is_charged_whole_and_else_it_is_that_of_all_there_is() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let tokens = limiter(&larder, &format!("costly{version}"), Quota::per_hour(10));
            let layer = RateLimitLayer::new(tokens.clone(), by_user()).cost(|_: &RequestHead<'_>| 25);
            let address = serve(Router::new().route("/", get(|| async { "served" })).layer(layer)).await;
            let ask = async |user: &str| {
                ask(version, address, request(Method::GET, "/", &[("x-user", user)])).await
            };
            tokens.override_key("ann", Quota::per_hour(60), Duration::from_secs(3600)).await.unwrap();
            for (user, status, left) in
                [("ann", 200, 35), ("ann", 200, 10), ("ann", 429, 10), ("bob", 200, 0)]
            {
                assert_eq!(ask(user).await.status, status, "{store} {user}");
                assert_eq!(tokens.remaining(user).await.unwrap(), left, "{store} {user}");
            }
        }
    }
}

/// The cost that a handler reports for its work.
#[derive(Clone)]
struct Cost(u64);

#[tokio::test(flavor = "multi_thread")]
async fn a_request_costs_what_it_says_and_then_what_its_response_says() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let tokens = limiter(&larder, &format!("tokens{version}"), Quota::per_hour(100));
            let layer = RateLimitLayer::new(tokens.clone(), by_user())
                .cost(|request: &RequestHead<'_>| {
                    let cost = request.headers().get("x-cost").and_then(|cost| cost.to_str().ok());
                    cost.and_then(|cost| cost.parse().ok()).unwrap_or(1)
                })
                .settle(|response, charged| {
                    response.extensions().get::<Cost>().map_or(charged, |cost| cost.0)
                });
            let handler = |request: axum::extract::Request| async move {
                let used =
                    request.headers().get("x-used").map(|used| used.to_str().unwrap().parse().unwrap());
                let mut response: Response = StatusCode::OK.into_response();
                used.map(|used| response.extensions_mut().insert(Cost(used)));
                response
            };
            let address = serve(Router::new().route("/", get(handler)).layer(layer)).await;
            let ask = async |fields: &[(&'static str, &str)]| {
                let fields = [&[("x-user", "ann")], fields].concat();
                let answer = ask(version, address, request(Method::GET, "/", &fields)).await;
                if let (StatusCode::OK, Some(field)) = (answer.status, answer.one("ratelimit")) {
                    let left = format!(";r={};", tokens.remaining("ann").await.unwrap());
                    assert!(field.contains(&left), "{store}: {field:?} {left}");
                }
                answer.status
            };
            let left = async || tokens.remaining("ann").await.unwrap();
            assert_eq!(ask(&[("x-cost", "30")]).await, 200);
            assert_eq!(left().await, 70, "{store}");
            assert_eq!(ask(&[("x-cost", "50"), ("x-used", "10")]).await, 200);
            assert_eq!(left().await, 60, "{store}");
            assert_eq!(ask(&[("x-cost", "5"), ("x-used", "20")]).await, 200);
            assert_eq!(left().await, 40, "{store}");
            assert_eq!(ask(&[("x-cost", "1"), ("x-used", "0")]).await, 200);
            assert_eq!(ask(&[("x-cost", "0")]).await, 200);
            assert_eq!(left().await, 40, "{store}: what costs nothing is not counted");
            assert_eq!(ask(&[("x-cost", "41")]).await, 429);
            // The cost is more than was charged, and more than the limit: the rest is owed.
            assert_eq!(ask(&[("x-cost", "10"), ("x-used", "130")]).await, 200);
            assert_eq!((left().await, ask(&[]).await), (0, StatusCode::TOO_MANY_REQUESTS), "{store}");
            assert_eq!(tokens.check("ann").await.unwrap().remaining(), 0);
            // Of the 190 that count, 91 must leave the window before one more fits.
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
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_follow_the_request_or_the_key() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let by_request = RateLimitLayer::new(
                limiter(&larder, &format!("tiers{version}"), Quota::per_hour(2)),
                by_user(),
            )
            .quotas(|request| request.headers().contains_key("x-paid").then_some(Quota::per_hour(4)));
            let by_key = limiter(&larder, &format!("keys{version}"), Quota::per_hour(2))
                .quotas_by(|key| key.starts_with("paid").then_some([Quota::per_hour(4)]));
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
                        let answer = ask(version, address, request(Method::GET, path, &fields)).await;
                        assert_eq!(answer.status, StatusCode::OK, "{store} {path} {fields:?}");
                        assert!(answer.one("ratelimit").unwrap().contains(&format!(";r={left};")), "{store}");
                        assert!(
                            answer.one("ratelimit-policy").unwrap().contains(&format!(";q={limit};")),
                            "{store}"
                        );
                    }
                    let refused = ask(version, address, request(Method::GET, path, &fields)).await;
                    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{store} {path} {fields:?}");
                }
            }
            // The other operations use the key, too.
            assert_eq!(by_key.remaining("paid2").await.unwrap(), 4);
            assert!(
                by_key.check_n("paid2", 4).await.unwrap().is_allowed()
                    && !by_key.allow("paid2").await.unwrap()
            );
            assert_eq!(by_key.check("paid2").await.unwrap().decided_by(), DecidedBy::Refusal, "{store}");
            assert!(!by_key.acquire("paid2", Duration::ZERO).await.unwrap().is_allowed());
            assert!(by_key.check_n("free2", 3).await.is_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_limits_of_one_layer_are_charged_together() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let group = format!("api{version}");
            let grouped = |name, quota| limiter(&larder, name, quota).in_group(&group).unwrap();
            let by_user_limiter = grouped("user", Quota::per_hour(2));
            let by_address = grouped("address", Quota::per_hour(10));
            let layer = RateLimitLayer::new(by_user_limiter.clone(), by_user())
                .and(by_address.clone(), ClientIp::new())
                .fields(RateLimitFields::Both)
                .count_if(|response| response.status() != StatusCode::NOT_FOUND);
            let address = serve(Router::new().route("/", get(|| async { "ok" })).layer(layer)).await;
            let ask = async |path: &str| {
                ask(version, address, request(Method::GET, path, &[("x-user", "ann")])).await
            };
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
            assert_eq!(
                by_address.remaining("127.0.0.1").await.unwrap(),
                8,
                "{store}: refusals charge nothing"
            );
            // A request that does not count is refunded to both limits.
            by_user_limiter.reset("ann").await.unwrap();
            assert_eq!(ask("/missing").await.status, StatusCode::NOT_FOUND);
            assert_eq!(by_address.remaining("127.0.0.1").await.unwrap(), 8, "{store}");
            assert_eq!(by_user_limiter.remaining("ann").await.unwrap(), 2, "{store}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_several_limits_are_settled_at_the_same_time() {
    let server = std::sync::Arc::new(larder_testkit::Server::start());
    // Longer than any answer takes on a busy machine, because the test waits for it once.
    let timeout = Duration::from_secs(1);
    let larder =
        larder::Larder::builder().url(server.url()).response_timeout(timeout).connect().await.unwrap();
    let other = |name: &str| limiter(&larder, name, Quota::per_hour(5));
    let layer = RateLimitLayer::new(other("a"), by_user())
        .and(other("b"), by_user())
        .and(other("c"), by_user())
        .and(other("d"), by_user())
        .count_if(|_| false);
    let answers = server.clone();
    // The server does not answer when the four charges are given back: they time out together.
    let handler = move || {
        let answers = answers.clone();
        async move { answers.pause() }
    };
    let address = serve(Router::new().route("/", get(handler)).layer(layer)).await;
    let started = std::time::Instant::now();
    let answer = ask(1, address, request(Method::GET, "/", &[("x-user", "ann")])).await;
    let took = started.elapsed();
    server.resume();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(took < 2 * timeout, "{took:?} for four keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_limits_in_several_slots_of_a_cluster_are_answered_with_503_and_charge_nothing() {
    let larder = support::connect(&support::cluster().url()).await;
    for version in [1, 2] {
        let (users, all) =
            (limiter(&larder, "users", Quota::per_hour(2)), limiter(&larder, "all", Quota::per_hour(9)));
        let layer = |users: &RateLimiter, all: &RateLimiter| {
            RateLimitLayer::new(users.clone(), by_user()).and(all.clone(), PathKey::new())
        };
        let grouped = (users.in_group("g").unwrap(), all.in_group("g").unwrap());
        let app = Router::new()
            .route("/apart", get(|| async { "ok" }).layer(layer(&users, &all)))
            .route("/grouped", get(|| async { "ok" }).layer(layer(&grouped.0, &grouped.1)));
        let address = serve(app).await;
        let user = format!("ann{version}");
        let ask =
            async |path: &str| ask(version, address, request(Method::GET, path, &[("x-user", &user)])).await;
        assert_eq!(ask("/apart").await.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(users.remaining(&user).await.unwrap(), 2);
        assert_eq!(ask("/grouped").await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_above_the_limit_of_an_override_is_refused_with_429_until_the_override_ends() {
    let hour = Duration::from_secs(3600);
    for (store, larder) in each_store().await {
        // Costs up to the limiter's own limit of 10 and above it; an override that is lower, one that is higher but
        // lower than the cost, one with other windows, and one with a pace.
        for (cost, over) in [
            (8, Quota::per_hour(3)),
            (25, Quota::per_hour(3)),
            (25, Quota::per_hour(24)),
            (8, Quota::per_minute(3)),
            (8, Quota::per_hour(60).gcra(5)),
        ] {
            for shape in ["plain", "settled", "batched", "together"] {
                let name = format!("{shape}{cost}{}{}", over.limit(), over.window().as_secs());
                let tokens = larder
                    .rate_limiter(name.as_str(), Quota::per_hour(10))
                    .unwrap()
                    .in_group(name.as_str())
                    .unwrap();
                let tokens = if shape == "batched" { tokens.batched(4).unwrap() } else { tokens };
                let beside = larder.rate_limiter(format!("{name}b"), Quota::per_hour(9)).unwrap();
                let beside = beside.in_group(name.as_str()).unwrap();
                let layer =
                    RateLimitLayer::new(tokens.clone(), by_user()).cost(move |_: &RequestHead<'_>| cost);
                let layer = match shape {
                    "settled" => layer.settle(|_, charged| charged + 1),
                    "together" => layer.and(beside.clone(), by_user()),
                    _ => layer,
                };
                let address = serve(Router::new().route("/", get(|| async { "served" })).layer(layer)).await;
                let ask = async || ask(1, address, request(Method::GET, "/", &[("x-user", "ann")])).await;
                tokens.override_key("ann", over, hour).await.unwrap();
                let before = tokens.remaining("ann").await.unwrap();
                for _ in 0..2 {
                    let refused = ask().await;
                    assert_eq!(
                        refused.status,
                        StatusCode::TOO_MANY_REQUESTS,
                        "{store} {name}: {}",
                        refused.body
                    );
                    let wait: u64 = refused.one("retry-after").unwrap().parse().unwrap();
                    assert!((3500..=3605).contains(&wait), "{store} {name}: {wait}");
                }
                assert_eq!(tokens.remaining("ann").await.unwrap(), before, "{store} {name}");
                assert_eq!(beside.remaining("ann").await.unwrap(), 9, "{store} {name}");
                tokens.end_override("ann").await.unwrap();
                assert_eq!(ask().await.status, StatusCode::OK, "{store} {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_keys_only_the_one_without_an_override_is_charged_its_whole_limit() {
    for (store, larder) in each_store().await {
        let limiter = |name: &str, limit| {
            larder.rate_limiter(name, Quota::per_hour(limit)).unwrap().in_group("both").unwrap()
        };
        let (tokens, beside) = (limiter("tokens", 10), limiter("beside", 9));
        let layer = RateLimitLayer::new(tokens.clone(), by_user()).and(beside.clone(), by_user());
        let layer = layer.cost(|_: &RequestHead<'_>| 25);
        let address = serve(Router::new().route("/", get(|| async { "served" })).layer(layer)).await;
        tokens.override_key("ann", Quota::per_hour(60), Duration::from_secs(3600)).await.unwrap();
        for (user, tokens_left) in [("ann", 35), ("bob", 0)] {
            let request = request(Method::GET, "/", &[("x-user", user)]);
            assert_eq!(ask(1, address, request).await.status, StatusCode::OK, "{store} {user}");
            assert_eq!(tokens.remaining(user).await.unwrap(), tokens_left, "{store} {user}");
            assert_eq!(beside.remaining(user).await.unwrap(), 0, "{store} {user}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_refused_by_an_override_passes_after_the_time_that_its_answer_says() {
    for (store, larder) in each_store().await {
        let tokens = limiter(&larder, "until", Quota::new(10, Duration::from_secs(3)));
        let layer = RateLimitLayer::new(tokens.clone(), by_user()).cost(|_: &RequestHead<'_>| 25);
        let address = serve(Router::new().route("/", get(|| async { "served" })).layer(layer)).await;
        let ask = async || ask(1, address, request(Method::GET, "/", &[("x-user", "ann")])).await;
        // What was charged before the override still counts when it has ended: the whole limit is not free then.
        tokens.check_n("ann", 5).await.unwrap();
        tokens
            .override_key("ann", Quota::new(5, Duration::from_secs(3)), Duration::from_secs(1))
            .await
            .unwrap();
        let refused = ask().await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{store}");
        let wait: u64 = refused.one("retry-after").unwrap().parse().unwrap();
        tokio::time::sleep(Duration::from_secs(wait)).await;
        assert_eq!(ask().await.status, StatusCode::OK, "{store}: after {wait} s");
    }
}

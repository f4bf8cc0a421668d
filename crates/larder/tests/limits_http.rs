//! The tower layer: which requests are limited, what clients are told, and that nothing is charged before a request
//! arrives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use larder::http::{
    ClientIp, Decisions, Grpc, HeaderKey, PathKey, RateLimitFields, RateLimitLayer, RequestHead,
};
use larder::limit::OutagePolicy;
use larder::{Larder, Quota};
use larder_testkit::Server;
use support::each_store;
use tower::{Layer, Service, ServiceExt, service_fn};

type Answer = Response<String>;

/// Counts its calls, and returns what the layer stored in the request.
fn handler(
    calls: &Arc<AtomicU64>,
) -> impl Service<Request<()>, Response = Answer, Error = Infallible, Future: Send> + Clone + Send + 'static {
    let calls = calls.clone();
    service_fn(move |request: Request<()>| {
        calls.fetch_add(1, Ordering::SeqCst);
        let decisions = request.extensions().get::<Decisions>().expect("there for every request");
        let left = decisions.get("api").map(|decision| decision.remaining());
        async move { Ok::<_, Infallible>(Response::new(format!("left {left:?}"))) }
    })
}

fn get(path: &str) -> Request<()> {
    Request::get(path).body(()).unwrap()
}

fn field<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_request_above_the_limit_is_answered_with_429_and_when_to_retry() {
    for (store, larder) in each_store().await {
        let calls = Arc::default();
        let limiter = larder.rate_limiter("api", Quota::per_minute(2)).unwrap();
        let service = RateLimitLayer::new(limiter, PathKey::new()).layer(handler(&calls));
        for left in [1, 0] {
            let answer = service.clone().oneshot(get("/a")).await.unwrap();
            assert_eq!(
                (answer.status(), answer.body()),
                (StatusCode::OK, &format!("left Some({left})")),
                "{store}"
            );
            assert_eq!(field(&answer, "ratelimit-policy"), Some("\"api\";q=2;w=60"));
            assert_eq!(field(&answer, "ratelimit"), Some(format!("\"api\";r={left};t=60").as_str()));
            assert_eq!(field(&answer, "retry-after"), None);
        }
        let refused = service.clone().oneshot(get("/a?other=query")).await.unwrap();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS, "{store}");
        let wait = field(&refused, "retry-after").unwrap();
        assert!((58..=60).contains(&wait.parse::<u64>().unwrap()), "{wait}");
        assert_eq!(field(&refused, "ratelimit"), Some(format!("\"api\";r=0;t={wait}").as_str()));
        assert_eq!(field(&refused, "content-type"), Some("application/problem+json"));
        let body: serde_json::Value = serde_json::from_str(refused.body()).unwrap();
        assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
        assert_eq!((&body["status"], &body["violated-policies"][0]), (&429.into(), &"api".into()));
        assert_eq!(calls.load(Ordering::SeqCst), 2, "{store}");
        assert!(service.oneshot(get("/b")).await.unwrap().status().is_success());
    }
}

#[tokio::test]
async fn a_short_window_never_says_to_retry_at_once() {
    let larder = support::connect("memory:").await;
    let limiter = larder.rate_limiter("api", Quota::new(1, Duration::from_millis(300))).unwrap();
    let service = RateLimitLayer::new(limiter, PathKey::new()).layer(handler(&Arc::default()));
    assert!(service.clone().oneshot(get("/")).await.unwrap().status().is_success());
    let refused = service.oneshot(get("/")).await.unwrap();
    assert_eq!(field(&refused, "retry-after"), Some("1"));
    assert_eq!(field(&refused, "ratelimit-policy"), Some("\"api\";q=1"));
}

#[tokio::test]
async fn several_quotas_are_all_named_and_the_one_that_bound_is_marked() {
    let larder = support::connect("memory:").await;
    let limiter = larder.rate_limiter("api", [Quota::per_minute(1), Quota::per_hour(100)]).unwrap();
    let layer = RateLimitLayer::new(limiter, PathKey::new()).fields(RateLimitFields::Both);
    let service = layer.layer(handler(&Arc::default()));
    let allowed = service.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(field(&allowed, "ratelimit-policy"), Some("\"api-60s\";q=1;w=60,\"api-3600s\";q=100;w=3600"));
    let refused = service.oneshot(get("/")).await.unwrap();
    assert!(field(&refused, "ratelimit").unwrap().starts_with("\"api-60s\";r=0;t="));
    assert_eq!(field(&refused, "x-ratelimit-limit"), Some("1"));
    assert_eq!(field(&refused, "x-ratelimit-remaining"), Some("0"));
    assert_eq!(field(&refused, "x-ratelimit-reset"), field(&refused, "retry-after"));
}

#[tokio::test]
async fn fields_can_be_legacy_or_off() {
    let larder = support::connect("memory:").await;
    for (fields, name, other) in [
        (RateLimitFields::Legacy, Some("x-ratelimit-limit"), "ratelimit"),
        (RateLimitFields::Off, None, "ratelimit"),
    ] {
        let limiter = larder.rate_limiter("api", Quota::per_minute(9)).unwrap();
        let service =
            RateLimitLayer::new(limiter, PathKey::new()).fields(fields).layer(handler(&Arc::default()));
        let answer = service.oneshot(get("/")).await.unwrap();
        assert_eq!(field(&answer, other), None);
        assert!(name.is_none_or(|name| field(&answer, name) == Some("9")));
    }
}

#[tokio::test]
async fn shadow_counts_and_never_refuses() {
    let (larder, calls) = (support::connect("memory:").await, Arc::default());
    let limiter = larder.rate_limiter("api", Quota::per_hour(1)).unwrap();
    let service = RateLimitLayer::new(limiter.clone(), PathKey::new()).shadow().layer(handler(&calls));
    for _ in 0..3 {
        let answer = service.clone().oneshot(get("/")).await.unwrap();
        assert!(answer.status().is_success() && field(&answer, "ratelimit").is_none());
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert_eq!(limiter.remaining("GET /").await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_skipped_charges_nothing() {
    let larder = support::connect("memory:").await;
    let limiter = larder.rate_limiter("api", Quota::per_hour(1)).unwrap();
    let layer = RateLimitLayer::new(limiter.clone(), PathKey::new());
    let service = layer.skip(|request| request.uri().path() == "/health").layer(handler(&Arc::default()));
    for _ in 0..3 {
        assert!(service.clone().oneshot(get("/health")).await.unwrap().status().is_success());
    }
    assert_eq!(limiter.remaining("GET /health").await.unwrap(), 1);
}

/// A service that is ready only once, as tower allows: a clone of it is not ready.
struct ReadyOnce(bool);

impl Clone for ReadyOnce {
    fn clone(&self) -> Self {
        Self(false)
    }
}

impl Service<Request<()>> for ReadyOnce {
    type Response = Answer;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0 = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(self.0, "called without being ready");
        std::future::ready(Ok(Response::new(String::new())))
    }
}

#[tokio::test]
async fn readiness_charges_nothing_and_the_ready_service_is_the_one_called() {
    let larder = support::connect("memory:").await;
    let limiter = larder.rate_limiter("api", Quota::per_hour(5)).unwrap();
    let mut service = RateLimitLayer::new(limiter.clone(), PathKey::new()).layer(ReadyOnce(false));
    for _ in 0..4 {
        ServiceExt::<Request<()>>::ready(&mut service).await.unwrap();
    }
    assert_eq!(limiter.remaining("GET /").await.unwrap(), 5);
    service.call(get("/")).await.unwrap();
    assert_eq!(limiter.remaining("GET /").await.unwrap(), 4);
}

#[tokio::test]
async fn keys_are_made_from_addresses_fields_and_closures() {
    let larder = support::connect("memory:").await;
    let limit = |name: &str| larder.rate_limiter(name, Quota::per_hour(1)).unwrap();
    let ask = async |layer: RateLimitLayer, change: &dyn Fn(&mut Request<()>)| {
        let mut request = get("/");
        change(&mut request);
        layer.layer(handler(&Arc::default())).oneshot(request).await.unwrap().status().is_success()
    };
    let by_address = RateLimitLayer::new(limit("address"), ClientIp::new());
    let from = |peer: &str| {
        let peer: SocketAddr = peer.parse().unwrap();
        move |request: &mut Request<()>| {
            request.extensions_mut().insert(peer);
        }
    };
    assert!(ask(by_address.clone(), &from("192.0.2.1:1")).await);
    assert!(!ask(by_address.clone(), &from("192.0.2.1:2")).await);
    assert!(ask(by_address.clone(), &from("[2001:db8::1]:1")).await);
    assert!(!ask(by_address, &from("[2001:db8::ffff]:1")).await);

    let by_field = RateLimitLayer::new(limit("field"), HeaderKey::new("x-api-key").unwrap());
    let with = |key: &'static str| {
        move |request: &mut Request<()>| {
            request.headers_mut().insert("x-api-key", key.parse().unwrap());
        }
    };
    assert!(ask(by_field.clone(), &with("ann")).await && ask(by_field.clone(), &with("bob")).await);
    assert!(!ask(by_field.clone(), &with("ann")).await);
    // Requests without a key count together.
    assert!(ask(by_field.clone(), &|_| ()).await && !ask(by_field, &|_| ()).await);

    let by_closure =
        RateLimitLayer::new(limit("closure"), |request: &RequestHead<'_>| Some(request.method().to_string()));
    assert!(ask(by_closure.clone(), &|_| ()).await && !ask(by_closure, &|_| ()).await);
}

#[tokio::test]
async fn a_handler_can_give_back_what_its_request_was_charged() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(3)).unwrap();
        let refunds = limiter.clone();
        let service = service_fn(move |mut request: Request<()>| {
            let limiter = refunds.clone();
            async move {
                let decisions: Decisions = request.extensions_mut().remove().unwrap();
                let decision = decisions.take("api").expect("nothing else holds it");
                assert!(decisions.take("api").is_none());
                assert_eq!(limiter.refund("GET /", decision, 1).await.unwrap(), 1);
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        });
        let service = RateLimitLayer::new(limiter.clone(), PathKey::new()).layer(service);
        for _ in 0..5 {
            let answer = service.clone().oneshot(get("/")).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{store}");
            assert!(field(&answer, "ratelimit").unwrap().starts_with("\"api\";r=2;t="), "{store}");
        }
        assert_eq!(limiter.remaining("GET /").await.unwrap(), 3, "{store}");
    }
}

#[tokio::test]
async fn grpc_clients_get_a_status_of_their_own() {
    let larder = support::connect("memory:").await;
    let limiter = larder.rate_limiter("api", Quota::per_hour(1)).unwrap();
    let service =
        RateLimitLayer::new(limiter, PathKey::new()).refuse(Grpc::default()).layer(handler(&Arc::default()));
    service.clone().oneshot(get("/")).await.unwrap();
    let refused = service.oneshot(get("/")).await.unwrap();
    assert_eq!((refused.status(), field(&refused, "grpc-status")), (StatusCode::OK, Some("8")));
}

#[tokio::test]
async fn without_a_decision_the_answer_is_503_unless_the_program_allows() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    server.kill();
    for (outage, status) in [
        (OutagePolicy::Error, StatusCode::SERVICE_UNAVAILABLE),
        (OutagePolicy::Deny, StatusCode::SERVICE_UNAVAILABLE),
        (OutagePolicy::Allow, StatusCode::OK),
    ] {
        let limiter = larder.rate_limiter("api", Quota::per_hour(1)).unwrap().outage(outage).unwrap();
        let service = RateLimitLayer::new(limiter, PathKey::new()).layer(handler(&Arc::default()));
        let answer = service.oneshot(get("/")).await.unwrap();
        assert_eq!(answer.status(), status, "{outage:?}");
        let body = serde_json::from_str::<serde_json::Value>(answer.body()).ok();
        let kind = body.map(|body| body["type"].as_str().unwrap().to_owned());
        assert!(kind.is_none_or(|kind| kind.ends_with("#temporary-reduced-capacity")));
    }
    // A refusal by this program's own share is a decision, and has a time to retry.
    let limiter = larder.rate_limiter("api", Quota::per_hour(2)).unwrap();
    let limiter = limiter.outage(OutagePolicy::LocalShare(2)).unwrap();
    let service = RateLimitLayer::new(limiter, PathKey::new()).layer(handler(&Arc::default()));
    assert!(service.clone().oneshot(get("/")).await.unwrap().status().is_success());
    let refused = service.oneshot(get("/")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(field(&refused, "retry-after").unwrap().parse::<u64>().unwrap() > 3000);
}

#[tokio::test]
async fn quotas_that_change_are_reported_from_then_on() {
    let larder = support::connect("memory:").await;
    let limiter = larder.rate_limiter("api", Quota::per_hour(10)).unwrap();
    let service = RateLimitLayer::new(limiter.clone(), PathKey::new()).layer(handler(&Arc::default()));
    service.clone().oneshot(get("/")).await.unwrap();
    limiter.set_quotas(Quota::per_hour(5)).unwrap();
    let answer = service.oneshot(get("/")).await.unwrap();
    assert_eq!(field(&answer, "ratelimit-policy"), Some("\"api\";q=5;w=3600"));
    assert!(field(&answer, "ratelimit").unwrap().starts_with("\"api\";r=3;"));
}

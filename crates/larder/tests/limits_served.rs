//! The tower layer in real servers, hyper's and tonic's, over real connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use larder::http::{ClientIp, Decisions, Grpc, HeaderKey, PathKey, RateLimitLayer, Refuse};
use larder::limit::{OutagePolicy, RateLimiter};
use larder::{ErrorKind, Larder, Quota};
use larder_testkit::Server;
use support::each_store;
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Seconds to wait at a limit for an hour. One more than an hour: the local clock lags by up to a tick, and the result
/// is rounded up.
const WAITS: std::ops::RangeInclusive<u64> = 3500..=3601;

type Answer = Response<Full<Bytes>>;

/// Echoes the body of a request, read to its end.
async fn echo(request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Full::new(body)))
}

/// A server of HTTP/1 and HTTP/2, as programs build one on hyper: each request carries the peer's address.
async fn serve<R>(layer: RateLimitLayer<R>) -> SocketAddr
where
    R: Refuse<Full<Bytes>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let limited = layer.layer(service_fn(echo));
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer);
                limited.clone().oneshot(request)
            });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await.ok();
            });
        }
    });
    address
}

/// One connection.
enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(version: u8, address: SocketAddr) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        if version == 1 {
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::One(sender)
        } else {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            Self::Two(sender)
        }
    }

    async fn ask(&mut self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let answer = match self {
            Self::One(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::Two(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
        };
        let (head, body) = answer.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    async fn post(&mut self, path: &str, field: Option<&str>, body: &Bytes) -> Response<Bytes> {
        let mut request = Request::post(path).header(header::HOST, "localhost");
        if let Some(key) = field {
            request = request.header("x-api-key", key);
        }
        self.ask(request.body(Full::new(body.clone())).unwrap()).await
    }
}

fn field<'a>(answer: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_hyper_requests_are_limited_by_address_and_connections_live_on() {
    for (store, larder) in each_store().await {
        for version in [1, 2] {
            let limiter = larder.rate_limiter(format!("http{version}"), Quota::per_hour(2)).unwrap();
            let layer = RateLimitLayer::new(limiter, ClientIp::new());
            let address = serve(layer.skip(|request| request.uri().path() == "/health")).await;
            let mut connection = Connection::open(version, address).await;
            // Larger than a window of HTTP/2 and a buffer of HTTP/1: the layer refuses a request before reading its
            // body.
            let body = Bytes::from(vec![b'x'; 300_000]);
            for left in [1, 0] {
                let answer = connection.post("/", None, &body).await;
                assert_eq!((answer.status(), answer.body()), (StatusCode::OK, &body), "{store} {version}");
                let expected = format!("\"http{version}\";r={left};t=3600");
                assert_eq!(field(&answer, "ratelimit"), Some(expected.as_str()));
            }
            // The same client on another connection, and then this client on both.
            let mut other = Connection::open(version, address).await;
            for connection in [&mut other, &mut connection] {
                let refused = connection.post("/", None, &Bytes::from_static(b"short")).await;
                assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS, "{store} {version}");
                let wait: u64 = field(&refused, "retry-after").unwrap().parse().unwrap();
                assert!(WAITS.contains(&wait), "{wait}");
                assert_eq!(field(&refused, "content-type"), Some("application/problem+json"));
                let problem: serde_json::Value = serde_json::from_slice(refused.body()).unwrap();
                assert_eq!(problem["violated-policies"][0], format!("http{version}"));
                let health = connection.post("/health", None, &body).await;
                assert_eq!((health.status(), field(&health, "ratelimit")), (StatusCode::OK, None));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_at_once_get_just_the_limit() {
    let larder = support::connect(&support::server().url()).await;
    let limiter = larder.rate_limiter("many", Quota::per_hour(50)).unwrap();
    let address = serve(RateLimitLayer::new(limiter, ClientIp::new())).await;
    let clients: Vec<_> = (0..10)
        .map(|client| {
            tokio::spawn(async move {
                let mut connection = Connection::open(1 + client % 2, address).await;
                let mut passed = 0;
                for _ in 0..10 {
                    let status = connection.post("/", None, &Bytes::new()).await.status();
                    assert!([StatusCode::OK, StatusCode::TOO_MANY_REQUESTS].contains(&status), "{status}");
                    passed += u64::from(status == StatusCode::OK);
                }
                passed
            })
        })
        .collect();
    let mut passed = 0;
    for client in clients {
        passed += client.await.unwrap();
    }
    assert_eq!(passed, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_longer_than_the_store_takes_is_limited_like_any_other() {
    for url in ["memory:".to_owned(), support::server().url(), support::cluster().url()] {
        let larder = support::connect_as(&url, "n").await;
        let limiter = larder.rate_limiter("long", Quota::per_hour(2)).unwrap();
        let by_field = HeaderKey::new("x-api-key").unwrap();
        let field_address = serve(RateLimitLayer::new(limiter.clone(), by_field)).await;
        let path_address = serve(RateLimitLayer::new(limiter.clone(), PathKey::new())).await;
        let mut by_field = Connection::open(1, field_address).await;
        let mut by_path = Connection::open(1, path_address).await;
        let longest = 1024 - "~limit.1:{n/long:}".len();
        // The longest key that is accepted, one byte more, one that is too long only after escaping, and a very long
        // one.
        for key in
            ["x".repeat(longest), "x".repeat(longest + 1), "%".repeat(longest / 3 + 1), "x".repeat(8_000)]
        {
            let mut ask = async |end: &str| {
                let key = format!("{key}{end}");
                let path = format!("/{key}");
                let answers = [
                    by_field.post("/", Some(&key), &Bytes::new()).await.status(),
                    by_path.post(&path, None, &Bytes::new()).await.status(),
                ];
                assert_eq!(answers[0], answers[1], "{url}");
                answers[0]
            };
            let exceeded = StatusCode::TOO_MANY_REQUESTS;
            for status in [StatusCode::OK, StatusCode::OK, exceeded, exceeded] {
                assert_eq!(ask("").await, status, "{url}: {} bytes", key.len());
            }
            // Another key is counted separately, though it begins with the same bytes.
            assert_eq!(ask("y").await, StatusCode::OK, "{url}: {} bytes", key.len());
        }
        // The keys' names on the server, as docs/wire-format.md says.
        assert_eq!(limiter.remaining("x".repeat(longest)).await.unwrap(), 0, "{url}");
        let error = limiter.remaining("x".repeat(longest + 1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::KeyTooLong);
        assert_eq!(
            limiter.remaining("sha1:02f0cca0ed7d0d448a5d4ae190546579986f8bc7").await.unwrap(),
            0,
            "{url}"
        );
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Greeting {
    #[prost(string, tag = "1")]
    text: String,
}

type Codec = tonic_prost::ProstCodec<Greeting, Greeting>;
type Boxed<T, E> = std::pin::Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// The code that a .proto with a unary and a client-streaming call would be compiled to.
#[derive(Clone)]
struct Greeter;

impl tonic::server::NamedService for Greeter {
    const NAME: &'static str = "test.Greeter";
}

impl Service<Request<tonic::body::Body>> for Greeter {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Boxed<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            Ok(match request.uri().path() {
                "/test.Greeter/Greet" => grpc.unary(service_fn(greet), request).await,
                _ => grpc.client_streaming(service_fn(greet_all), request).await,
            })
        })
    }
}

async fn greet(request: tonic::Request<Greeting>) -> Result<tonic::Response<Greeting>, tonic::Status> {
    let decisions = request.extensions().get::<Decisions>().expect("there for every request");
    let decision = decisions.get("grpc").expect("the layer's decision");
    let text = format!("{}, {} left", request.get_ref().text, decision.remaining());
    Ok(tonic::Response::new(Greeting { text }))
}

async fn greet_all(
    request: tonic::Request<tonic::Streaming<Greeting>>,
) -> Result<tonic::Response<Greeting>, tonic::Status> {
    let mut all = request.into_inner();
    let mut text = String::new();
    while let Some(greeting) = all.message().await? {
        text.push_str(&greeting.text);
    }
    Ok(tonic::Response::new(Greeting { text }))
}

/// A tonic server with the layer around all its services, and a client channel to it.
async fn greeter(limiter: RateLimiter) -> tonic::client::Grpc<tonic::transport::Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // tonic keeps the peer's address in its own type.
    let clients = ClientIp::new()
        .peer(|request| Some(request.extensions().get::<TcpConnectInfo>()?.remote_addr()?.ip()));
    let layer = RateLimitLayer::new(limiter, clients).refuse(Grpc::default());
    let server = tonic::transport::Server::builder().layer(layer).add_service(Greeter);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    tonic::client::Grpc::new(channel.connect().await.unwrap())
}

type Greeted = Result<tonic::Response<Greeting>, tonic::Status>;

async fn call(client: &mut tonic::client::Grpc<tonic::transport::Channel>, text: &str) -> Greeted {
    client.ready().await.unwrap();
    let request = tonic::Request::new(Greeting { text: text.to_owned() });
    client.unary(request, PathAndQuery::from_static("/test.Greeter/Greet"), Codec::default()).await
}

fn text_of<'a>(metadata: &'a tonic::metadata::MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_tonic_a_refusal_is_resource_exhausted_and_says_when_to_retry() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("grpc", Quota::per_hour(2)).unwrap();
        let mut client = greeter(limiter.clone()).await;
        for left in [1, 0] {
            let answer = call(&mut client, "hello").await.unwrap();
            assert_eq!(answer.get_ref().text, format!("hello, {left} left"), "{store}");
            let fields = format!("\"grpc\";r={left};t=3600");
            assert_eq!(text_of(answer.metadata(), "ratelimit"), Some(fields.as_str()), "{store}");
            assert_eq!(text_of(answer.metadata(), "ratelimit-policy"), Some("\"grpc\";q=2;w=3600"));
        }
        for _ in 0..2 {
            let refused = call(&mut client, "hello").await.unwrap_err();
            assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "rate limit exceeded"));
            let wait: u64 = text_of(refused.metadata(), "retry-after").unwrap().parse().unwrap();
            assert!(WAITS.contains(&wait), "{store}: {wait}");
            assert!(text_of(refused.metadata(), "ratelimit").unwrap().starts_with("\"grpc\";r=0;t="));
        }
        // An endless stream is refused before it is read, and the connection keeps working.
        client.ready().await.unwrap();
        let endless = futures_util::stream::repeat(Greeting { text: "again".repeat(1000) });
        let path = PathAndQuery::from_static("/test.Greeter/GreetAll");
        let refused: Greeted =
            client.client_streaming(tonic::Request::new(endless), path.clone(), Codec::default()).await;
        assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted, "{store}");
        limiter.reset("127.0.0.1").await.unwrap();
        client.ready().await.unwrap();
        let two = futures_util::stream::iter(["a", "b"].map(|text| Greeting { text: text.to_owned() }));
        let both: Greeted = client.client_streaming(tonic::Request::new(two), path, Codec::default()).await;
        assert_eq!(both.unwrap().get_ref().text, "ab", "{store}");
        assert!(call(&mut client, "hello").await.is_ok(), "{store}");
        assert_eq!(limiter.remaining("127.0.0.1").await.unwrap(), 0, "by the client's address: {store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_tonic_a_request_without_a_decision_is_unavailable() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let limiter = larder.rate_limiter("grpc", Quota::per_hour(2)).unwrap();
    let (mut errors, mut denies) =
        (greeter(limiter.clone()).await, greeter(limiter.clone().outage(OutagePolicy::Deny).unwrap()).await);
    let mut allows = greeter(limiter.outage(OutagePolicy::Allow).unwrap()).await;
    server.kill();
    for client in [&mut errors, &mut denies] {
        let failed = call(client, "hello").await.unwrap_err();
        assert_eq!(
            (failed.code(), text_of(failed.metadata(), "retry-after")),
            (Code::Unavailable, Some("1"))
        );
    }
    assert!(call(&mut allows, "hello").await.is_ok());
}

//! Real HTTP: axum on a port of this machine, and requests over HTTP/1.1 and HTTP/2.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use larder::http::HeaderKey;
use larder::limit::RateLimiter;
use larder::{Larder, Quota};
use tokio::net::{TcpListener, TcpStream};

pub async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name}: {all:?}");
        all.first().copied()
    }
}

/// Sends a request on a new connection.
pub async fn ask(version: u8, address: SocketAddr, request: Request<Body>) -> Answer {
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

pub fn request(method: Method, path: &str, fields: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(format!("http://localhost{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.header(header::HOST, "localhost").body(Body::empty()).unwrap()
}

pub fn to(path: &str) -> Request<Body> {
    request(Method::GET, path, &[])
}

pub fn limiter(larder: &Larder, name: &str, quota: Quota) -> RateLimiter {
    larder.rate_limiter(name, quota).unwrap()
}

pub fn by_user() -> HeaderKey {
    HeaderKey::new("x-user").unwrap()
}

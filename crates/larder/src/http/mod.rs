//! Rate limits as tower middleware for axum, hyper and tonic: who asks, what they are told, and what a refusal looks like.
//!
//! [`RateLimitLayer`] is the middleware. A [`RequestKey`] says whose limit a request counts against: [`ClientIp`],
//! [`HeaderKey`], [`PathKey`] or a closure. [`Refuse`] makes the answer to a request that is refused: [`Problem`] for HTTP,
//! [`Grpc`] for gRPC, or a closure. Handlers find the [`Decisions`]. [`InFlightLayer`] limits how many requests are served at
//! a time.
//!
//! The layer asks the limiter in `call`, never in `poll_ready`, where a request may still not come. It hands the ready
//! service on into the future, as tower asks for. What it knows of a request is its [`RequestHead`]; bodies are not its
//! matter. It trusts no header about where a request comes from, unless the program names the proxies that set it.

mod client_ip;
mod decisions;
mod fields;
mod forwarded;
mod in_flight;
mod key;
mod layer;
mod refusal;
mod service;

pub use client_ip::ClientIp;
pub use decisions::Decisions;
pub use fields::RateLimitFields;
pub use in_flight::{InFlightBody, InFlightLayer, InFlightService};
pub use key::{HeaderKey, PathKey, RequestHead, RequestKey, ResponseHead};
pub use layer::RateLimitLayer;
pub use refusal::{Grpc, Problem, Refusal, Refuse, RefusedRequest};
pub use service::RateLimitService;

//! Rate limits as tower middleware for axum, hyper and tonic.
//!
//! [`RateLimitLayer`] is the middleware. A [`RequestKey`] chooses the key that a request counts against:
//! [`ClientIp`], [`HeaderKey`], [`PathKey`] or a closure. [`Refuse`] makes the response to a refused request:
//! [`Problem`] for HTTP, [`Grpc`] for gRPC, or a closure. Handlers can read the [`Decisions`]. [`InFlightLayer`]
//! limits the number of requests that are served at the same time.
//!
//! The layer asks the limiter in `call`, never in `poll_ready`, which may not be followed by a request. It moves
//! the ready service into the future, as tower requires. It reads the [`RequestHead`] of a request and never its
//! body. It trusts no header about the origin of a request, unless the program names the proxies that set it.

mod client_ip;
mod decisions;
mod fields;
mod forwarded;
mod in_flight;
mod key;
mod layer;
mod options;
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

//! Real servers for tests, and tools that make them fail.
//!
//! A test that needs Redis or Valkey starts its own: [`Server`] (a unix socket, TCP or TLS), [`Cluster`] (three
//! masters, three replicas) or [`Sentinel`] (a master, a replica, three sentinels). Everything here blocks. Every
//! server is killed, and its folder removed, when the value is dropped — or when the test process dies first.
//!
//! Three more tools test what happens between processes: a [`Proxy`] between a client and its server fails on demand,
//! [`worker`] runs the test's own binary again as further processes, and [`history`] checks what they recorded.
//!
//! [`resolve`] decides which server is run; tests are never skipped because there is none. Errors in this crate panic
//! with the server's own log, because a test has no better way to continue.
//!
//! ```
//! # #[cfg(feature = "servers")] {
//! use larder_testkit::Server;
//!
//! let server = Server::start();
//! server.command(&["SET", "greeting", "hello"]);
//! assert_eq!(server.query::<String>(&["GET", "greeting"]), "hello");
//! assert_eq!(server.calls("get"), 1);
//! # }
//! ```
//! Tests with `larder` connect to [`Server::url`]:
//!
//! ```ignore
//! let server = larder_testkit::Server::start();
//! let larder = larder::Larder::connect(&server.url()).await?;
//! ```
//!
//! [`worker`] and [`history`] serve larder's own tests; they may change with any release.
#![cfg_attr(
    feature = "servers",
    expect(clippy::expect_used, clippy::panic, reason = "a failing test setup ends the test")
)]

mod resolve;
mod version;

#[cfg(feature = "servers")]
mod admin;
#[cfg(feature = "servers")]
mod builder;
#[cfg(feature = "servers")]
mod cluster;
#[cfg(feature = "servers")]
pub mod history;
#[cfg(feature = "servers")]
mod port;
#[cfg(feature = "servers")]
mod process;
#[cfg(feature = "servers")]
mod proxy;
#[cfg(feature = "servers")]
mod sentinel;
#[cfg(feature = "servers")]
mod server;
#[cfg(feature = "servers")]
mod tls;
#[cfg(feature = "servers")]
mod wait;
#[cfg(feature = "servers")]
pub mod worker;

// Which server
pub use resolve::{NoServer, resolve};
pub use version::{Product, Version};

// Servers
#[cfg(feature = "servers")]
pub use builder::ServerBuilder;
#[cfg(feature = "servers")]
pub use cluster::{Cluster, ClusterBuilder};
#[cfg(feature = "servers")]
pub use port::Port;
#[cfg(feature = "servers")]
pub use sentinel::{Sentinel, SentinelBuilder};
#[cfg(feature = "servers")]
pub use server::Server;

// Faults between processes; the modules `worker` and `history` go with it
#[cfg(feature = "servers")]
pub use proxy::{Direction, Proxy};

// Help for tests
#[cfg(feature = "servers")]
pub use redis::{FromRedisValue, RedisError, RedisResult, Value};
#[cfg(feature = "servers")]
pub use wait::eventually;

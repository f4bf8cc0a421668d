//! Real servers for tests, and what makes them fail.
//!
//! A test that needs Redis or Valkey starts its own: [`Server`] (a unix socket, TCP or TLS), [`Cluster`] (three
//! masters, three replicas) or [`Sentinel`] (a master, a replica, three sentinels). Everything here blocks, and
//! everything that was started is killed, and its folder removed, when the value is dropped — or when the test process
//! dies first.
//!
//! What happens between processes is tested with three more: a [`Proxy`] stands between a client and its server and
//! fails on demand, [`worker`] runs the test's own binary again as further processes, and [`history`] judges what they
//! recorded.
//!
//! Which server is run is [`resolve`]'s decision; tests are never skipped for the lack of one. What goes wrong here
//! panics with the server's own log: a test has no better way to go on.
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

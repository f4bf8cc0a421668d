//! What the tests share: a `Larder` on each store, isolated from every other test.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

pub mod by;
pub mod events;
pub mod held;
pub mod lossy;
pub mod scripted;
pub mod waiting;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{Larder, LarderBuilder};
use larder_testkit::{Cluster, Server};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub age: u32,
}

pub fn user(name: &str) -> User {
    User { name: name.to_owned(), age: 30 }
}

/// One server for all tests of a file; it ends with the process.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

/// One cluster for all tests of a file.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start)
}

/// A namespace that no other test uses.
pub fn namespace() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A `Larder` on the embedded store, one on a server and one on a cluster.
pub async fn each_store() -> Vec<(&'static str, Larder)> {
    let mut all = Vec::new();
    for (store, url) in
        [("memory", "memory:".to_owned()), ("server", server().url()), ("cluster", cluster().url())]
    {
        all.push((store, connect(&url).await));
    }
    all
}

pub async fn connect(url: &str) -> Larder {
    connect_as(url, &namespace()).await
}

/// Two `Larder`s of one namespace, as two programs have them: on a server and on a cluster.
pub async fn each_pair() -> Vec<(&'static str, Larder, Larder)> {
    let mut all = Vec::new();
    for (store, url) in [("server", server().url()), ("cluster", cluster().url())] {
        let namespace = namespace();
        all.push((store, connect_as(&url, &namespace).await, connect_as(&url, &namespace).await));
    }
    all
}

pub async fn connect_as(url: &str, namespace: &str) -> Larder {
    patient().url(url).namespace(namespace).connect().await.unwrap()
}

/// Settings for tests that are not about time: a machine that is busy with other tests may take longer than the default
/// allows.
pub fn patient() -> LarderBuilder {
    Larder::builder().response_timeout(Duration::from_secs(5)).connect_timeout(Duration::from_secs(5))
}

/// Waits for a change that another process or the clock brings about.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < limit, "waited 20 s in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

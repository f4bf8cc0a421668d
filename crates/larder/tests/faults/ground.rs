//! The servers of a round.

use std::net::SocketAddr;
use std::time::Duration;

use larder_testkit::{Cluster, Sentinel, Server};

use crate::what::On;

/// Longer than a busy machine makes a master silent, shorter than most of a round.
const DOWN_AFTER: Duration = Duration::from_millis(1500);

pub(crate) enum Ground {
    One(Box<Server>),
    Cluster(Cluster),
    Sentinel(Sentinel),
}

impl Ground {
    pub(crate) fn start(on: On) -> Self {
        let one = Server::builder().tcp();
        match on {
            // What was written to the file outlives a killed process; it is written before each answer.
            On::Kept => {
                let kept =
                    one.persist().arg("appendfsync", "no").arg("auto-aof-rewrite-min-size", "4mb").start();
                Self::One(Box::new(kept))
            }
            On::Lossy => Self::One(Box::new(one.start())),
            On::Cluster => Self::Cluster(Cluster::start()),
            On::Sentinel => Self::Sentinel(Sentinel::builder().down_after(DOWN_AFTER).start()),
        }
    }

    /// The URL for clients that have no proxy.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::One(server) => server.url(),
            Self::Cluster(cluster) => cluster.url(),
            Self::Sentinel(sentinel) => sentinel.url(),
        }
    }

    pub(crate) fn nodes(&self) -> Vec<&Server> {
        match self {
            Self::One(server) => vec![&**server],
            Self::Cluster(cluster) => cluster.nodes().iter().collect(),
            Self::Sentinel(sentinel) => sentinel.servers().iter().collect(),
        }
    }

    pub(crate) fn masters(&self) -> Vec<&Server> {
        match self {
            Self::One(server) => vec![&**server],
            Self::Cluster(cluster) => cluster.masters(),
            Self::Sentinel(sentinel) => vec![sentinel.wait_for_new_master()],
        }
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes().into_iter().map(|node| node.addr().unwrap()).collect()
    }

    /// The addresses of the masters, in no order that means anything.
    pub(crate) fn master_addresses(&self) -> Vec<SocketAddr> {
        let mut all: Vec<_> = self.masters().into_iter().map(|node| node.addr().unwrap()).collect();
        all.sort_unstable();
        all
    }

    /// Returns when every replica follows its master.
    pub(crate) fn settle(&self) {
        match self {
            Self::One(_) => {}
            Self::Cluster(cluster) => cluster.wait_until_ok(),
            Self::Sentinel(sentinel) => sentinel.wait_until_in_step(),
        }
    }
}

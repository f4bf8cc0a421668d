//! Free ports on 127.0.0.1.
//!
//! The kernel's own choice (bind to port 0) comes from the range of outgoing connections. A server that is killed and
//! restarted there can find its port taken by a client, and a client that keeps reconnecting to such a port while it is
//! free can even connect to itself. So ports are drawn below that range. Each stays reserved within this process until
//! it is dropped, even while its server is down. If another process takes the port meanwhile, the server fails to
//! start, and another port is drawn.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// A Cluster's bus takes the port 10000 above, so twice 11384 ports lie below Linux's 32768.
const FIRST: u16 = 10_000;
const COUNT: u16 = 11_384;
const BUS: u16 = 10_000;

static RESERVED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A free port, and the Cluster bus port that belongs to it.
#[derive(Debug)]
pub(crate) struct Port(u16);

impl Port {
    pub(crate) fn pick() -> Self {
        let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
        for attempt in 0..10_000_u32 {
            // A new RandomState is the random source that std has.
            let random = RandomState::new().hash_one(attempt) % u64::from(COUNT);
            let port = FIRST + u16::try_from(random).expect("less than COUNT");
            if !reserved.contains(&port) && is_free(port) && is_free(port + BUS) {
                reserved.insert(port);
                return Self(port);
            }
        }
        panic!("no free port on 127.0.0.1 between {FIRST} and {}", FIRST + COUNT);
    }

    pub(crate) fn number(&self) -> u16 {
        self.0
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.0))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        RESERVED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

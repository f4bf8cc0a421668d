//! The locks of the flights and of unfenced loads. They are named here so that the interleaving tests can replace
//! them.

pub(super) use std::sync::atomic::{AtomicBool, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use tokio::sync::{Mutex as AsyncMutex, watch};

//! The locks of the flights and of unfenced loads, named here so that the exploration of interleavings can put its own
//! in their place.

pub(super) use std::sync::atomic::{AtomicBool, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use tokio::sync::{Mutex as AsyncMutex, watch};

//! The atomics of trust, named here so that the exploration of interleavings can put its own in their place.

pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
pub(super) use std::sync::{Mutex, PoisonError};

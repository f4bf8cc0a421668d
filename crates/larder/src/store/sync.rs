//! The atomics of session.rs, named here so that the exploration of interleavings can replace them.

pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
pub(super) use std::sync::{Mutex, PoisonError};

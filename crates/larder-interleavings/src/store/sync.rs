//! shuttle's atomics and locks for larder's `store/session.rs`.

pub(super) use std::sync::PoisonError;

pub(super) use shuttle::sync::Mutex;
pub(super) use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering};

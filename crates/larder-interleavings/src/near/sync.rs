//! shuttle's locks for larder's `near/tier.rs`.

pub(super) use std::sync::PoisonError;

pub(super) use shuttle::sync::{Mutex, MutexGuard};

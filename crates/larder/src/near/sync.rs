//! The locks of the near tier, named here so that the exploration of interleavings can replace them.

pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};

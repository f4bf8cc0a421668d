//! The locks of the near tier, named here so that the exploration of interleavings can put its own in their place.

pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};

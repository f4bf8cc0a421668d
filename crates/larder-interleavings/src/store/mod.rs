//! What the near tier needs of a store, and the sessions.

pub mod lanes;
mod sync;

#[allow(dead_code, reason = "the scenarios have one session and one clock")]
#[path = "../../../larder/src/store/session.rs"]
pub(crate) mod trust;

use std::time::Duration;

use crate::error::Result;
use crate::name::Name;
use trust::{ReadStamp, Sessions};

pub(crate) struct Tracked {
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) seen: Option<ReadStamp>,
}

pub(crate) struct KeptVersion {
    pub(crate) version: u64,
    pub(crate) left: Duration,
    pub(crate) seen: Option<ReadStamp>,
}

pub(crate) fn read_version(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

pub(crate) trait InvalidationSink: Send + Sync + 'static {
    fn changed(&self, name: &str);
    #[allow(dead_code, reason = "the scenarios notify a tier directly")]
    fn all_changed(&self);
}

pub(crate) trait Store: Send + Sync + 'static {
    fn get_tracked(&self, name: &str) -> impl Future<Output = Result<Tracked>> + Send;
    fn get_many_tracked(&self, names: &[Name]) -> impl Future<Output = Result<Vec<Tracked>>> + Send;
    fn lanes(&self) -> &Sessions;
    fn version(
        &self,
        name: &str,
        candidate: u64,
        span: Duration,
    ) -> impl Future<Output = Result<KeptVersion>> + Send;
}

/// No name belongs to a lock here, so no attempt is woken.
pub(crate) mod lock {
    pub(crate) fn woken(_: &str) -> Option<u64> {
        None
    }
}

/// No name belongs to a lock group.
pub(crate) mod group {
    pub(crate) fn is_group(_: &str) -> bool {
        false
    }
}

/// No name belongs to a semaphore.
pub(crate) mod permit {
    pub(crate) fn is_semaphore(_: &str) -> bool {
        false
    }
}

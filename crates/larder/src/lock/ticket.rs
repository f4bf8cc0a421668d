//! A lock that is passed from one guard to another.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Fence;

/// A lock that is held without a guard. [`Guard::into_ticket`](super::Guard::into_ticket) makes it, and
/// [`Lock::adopt`](super::Lock::adopt) turns it into a guard, in this process or another.
///
/// A ticket is a secret: its owner can hold and release the lock. Send it to one receiver.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "a ticket that is not adopted leaves the lock held until it expires"]
pub struct LockTicket {
    pub(super) lock: String,
    #[serde(with = "hexadecimal")]
    pub(super) token: u64,
    pub(super) fence: Fence,
}

/// A token as 16 hexadecimal digits: as a number it would lose its last digits in a JSON reader that stores numbers
/// as doubles.
mod hexadecimal {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(token: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{token:016x}"))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<u64, D::Error> {
        let digits = <std::borrow::Cow<'a, str>>::deserialize(deserializer)?;
        u64::from_str_radix(&digits, 16).map_err(|_| Error::custom("a token is 16 hexadecimal digits"))
    }
}

impl LockTicket {
    /// Returns the fence of the grant, which stays the same.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }
}

impl fmt::Debug for LockTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockTicket")
            .field("lock", &self.lock)
            .field("fence", &self.fence)
            .finish_non_exhaustive()
    }
}

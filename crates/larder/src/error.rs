//! The one error of the library: opaque, cheap to clone, with a kind to act on.
//!
//! Messages say what to do where that is known, and never hold a password: nothing here is built from a URL, and
//! what the server says is passed on only where it cannot repeat a secret.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What went wrong in larder or on its server.
///
/// Absence and refusal are not errors: `get` gives an `Option`, a lock that is taken gives `None`.
///
/// ```
/// # async fn run() {
/// let error = larder::Larder::connect("redis://127.0.0.1:1").await.unwrap_err();
/// assert_eq!(error.kind(), larder::ErrorKind::Refused);
/// assert!(error.is_retryable());
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run());
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    /// Without names, for events.
    message: String,
    /// With them, for the caller.
    named: Option<String>,
    queued: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// A result whose error is larder's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of [`Error`], each with its own remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URL cannot be parsed, or names something that this build does not support.
    InvalidUrl,
    /// A setting, a name or an argument makes no sense: the message says which and why.
    InvalidSetting,
    /// The key is longer than `max_key_bytes`.
    KeyTooLong,
    /// The encoded value is larger than `max_value_bytes`, or than the whole of an embedded store.
    ValueTooLarge,
    /// The value could not be serialized. Nothing was written.
    Encode,
    /// No server accepts connections at the address: refused, no such socket, no such host, or a socket that this process
    /// may not open.
    Refused,
    /// The TLS handshake failed: an unknown authority, a name that does not match, no TLS on that port.
    Tls,
    /// The connection broke while a request was under way. Whether the request took effect is unknown.
    Disconnected,
    /// No answer in time. Whether the request took effect is unknown.
    TimedOut,
    /// The server wants a password, or refuses the one given.
    Authentication,
    /// The user is known but may not run this command or touch this key (ACL).
    Permission,
    /// The key holds another data type: something else writes to this name.
    WrongType,
    /// The server is at its `maxmemory` and its policy does not evict.
    OutOfMemory,
    /// The server is a read-only replica, or one that lost its master and does not answer.
    ReadOnly,
    /// The server is still loading its data after a start.
    Loading,
    /// The cluster cannot serve the key's slot at the moment.
    ClusterDown,
    /// The lock's time is over: somebody else may hold it.
    LockLost,
    /// The server takes no more for now: it is at its `maxclients`, a disk or replicas that it waits for, a script that runs.
    Busy,
    /// Others held the lock all the time.
    LockHeld,
    /// As many callers wait for the semaphore as [`max_waiting`](crate::lock::Semaphore::max_waiting) lets.
    QueueFull,
    /// The server may have lost locks that are still held: after a failover, a restart, or before the first use of a lock with
    /// [`quarantine`](crate::lock::Lock::quarantine). It grants nothing until this time of its clock.
    Quarantined {
        /// When it grants again.
        until: SystemTime,
    },
    /// Fewer replicas than [`replicated`](crate::lock::Lock::replicated) demands have acknowledged the lock in time. It was
    /// released.
    NotReplicated,
    /// The `Larder` was closed.
    Closed,
    /// Anything else that the server said.
    Server,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), named: None, queued: false, source: None }))
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            named: None,
            queued: false,
            source: Some(source.into()),
        }))
    }

    /// The same with a message for the caller that holds a name, which no event may hold.
    pub(crate) fn named(kind: ErrorKind, message: impl Into<String>, named: String) -> Self {
        let message = message.into();
        Self(Arc::new(Inner { kind, message, named: Some(named), queued: false, source: None }))
    }

    /// The message without names of locks, for events.
    pub(crate) fn unnamed(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidSetting, message)
    }

    pub(crate) fn timed_out(after: Duration) -> Self {
        Self::new(ErrorKind::TimedOut, format!("no answer within {after:?}"))
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "this Larder was closed")
    }

    /// The same, if it is an outage, saying what that kept from being done.
    pub(crate) fn in_context(self, what: &str) -> Self {
        if !self.is_outage() {
            return self;
        }
        Self::new(self.kind(), format!("{what}: {}", self.unnamed()))
    }

    /// The same, of an invalidation that will be made up for. What lies behind it stays in the message.
    pub(crate) fn queued(self) -> Self {
        let message = format!("{self}; the key's invalidation is queued until the server is back");
        Self(Arc::new(Inner { kind: self.kind(), message, named: None, queued: true, source: None }))
    }

    /// Whether a write that failed for want of the server is queued, to be made up for when the server is back: a
    /// `delete` as itself, a `set` as a `delete`, for its value may be old by then.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        self.0.queued
    }

    /// Whether the server is away, or cannot write at the moment.
    pub(crate) fn is_outage(&self) -> bool {
        use ErrorKind as Kind;
        matches!(
            self.kind(),
            Kind::Refused
                | Kind::Disconnected
                | Kind::TimedOut
                | Kind::ClusterDown
                | Kind::Loading
                | Kind::ReadOnly
                | Kind::Busy
                | Kind::OutOfMemory
        )
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without any change to the program or its settings.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        use ErrorKind as Kind;
        let away =
            matches!(self.kind(), Kind::Refused | Kind::Disconnected | Kind::TimedOut | Kind::ClusterDown);
        let not_now = matches!(self.kind(), Kind::Loading | Kind::ReadOnly | Kind::OutOfMemory | Kind::Busy);
        let busy = matches!(self.kind(), Kind::LockHeld | Kind::QueueFull);
        away || not_now || busy || matches!(self.kind(), Kind::Quarantined { .. } | Kind::NotReplicated)
    }

    /// Whether the request may have taken effect all the same: it was sent, or may have been, and no answer came. A rate
    /// limit may have been charged then.
    #[must_use]
    pub fn is_indeterminate(&self) -> bool {
        matches!(self.kind(), ErrorKind::TimedOut | ErrorKind::Disconnected)
    }

    /// Whether no answer came in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::TimedOut
    }
}

impl ErrorKind {
    /// The name used in metrics' labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidUrl => "invalid_url",
            Self::InvalidSetting => "invalid_setting",
            Self::KeyTooLong => "key_too_long",
            Self::ValueTooLarge => "value_too_large",
            Self::Encode => "encode",
            Self::Refused => "refused",
            Self::Tls => "tls",
            Self::Disconnected => "disconnected",
            Self::TimedOut => "timed_out",
            Self::Authentication => "authentication",
            Self::Permission => "permission",
            Self::WrongType => "wrong_type",
            Self::OutOfMemory => "out_of_memory",
            Self::ReadOnly => "read_only",
            Self::Loading => "loading",
            Self::ClusterDown => "cluster_down",
            Self::Busy => "busy",
            Self::LockHeld => "lock_held",
            Self::LockLost => "lock_lost",
            Self::QueueFull => "queue_full",
            Self::Quarantined { .. } => "quarantined",
            Self::NotReplicated => "not_replicated",
            Self::Closed => "closed",
            Self::Server => "server",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.named.as_ref().unwrap_or(&self.0.message))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind).field("message", self.0.named.as_ref().unwrap_or(&self.0.message));
        if let Some(source) = &self.0.source {
            out.field("source", &format_args!("{source}"));
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

//! The library's one error type: opaque, cheap to clone, with a kind to act on.
//!
//! Messages say what to do if that is known, and never contain a password: no message is built from a URL, and a
//! server's message is passed on only if it cannot repeat a secret.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// An error of larder or of its server. Act on its [`kind`](Self::kind).
///
/// Absence and refusal are not errors: `get` returns an `Option`, and `try_acquire` of a lock that is held returns
/// `None`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = larder::Larder::connect("redis://127.0.0.1:1").await.unwrap_err();
/// assert_eq!(error.kind(), larder::ErrorKind::Refused);
/// assert!(error.is_retryable());
/// # }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    /// The message without names, for events.
    message: String,
    /// The message with names, for the caller.
    named: Option<String>,
    queued: bool,
    /// Whether nothing was sent to the server.
    unsent: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// A result with larder's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of [`Error`], and what to do about each.
///
/// | kinds | what failed | the same call again |
/// |---|---|---|
/// | `Refused`, `ClusterDown` | the server cannot be reached | may succeed later |
/// | `Disconnected`, `TimedOut` | no reply; the request may have taken effect | may succeed later |
/// | `Loading`, `ReadOnly`, `Busy`, `OutOfMemory` | the server cannot serve the request now | may succeed later |
/// | `LockHeld`, `QueueFull`, `Quarantined`, `NotReplicated` | the lock or permit was not granted | may succeed later |
/// | `LockLost` | the lock or the permit is no longer held | no: stop the work, then acquire again |
/// | `InvalidUrl`, `InvalidSetting`, `KeyTooLong`, `ValueTooLarge`, `Encode` | the call | no: correct it |
/// | `Tls`, `Authentication`, `Permission`, `WrongType`, `Server` | the server's setup or data | no: correct it |
/// | `Closed` | the `Larder` was closed | no |
///
/// [`Error::is_retryable`] tells the kinds that may succeed later, [`Error::is_indeterminate`] those of which the
/// request may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URL cannot be parsed, or names a feature that this build does not support. Correct the URL or the
    /// features.
    InvalidUrl,
    /// A setting, a name or an argument is invalid. The message says which and why.
    InvalidSetting,
    /// The key is longer than `max_key_bytes`. Shorten it, or raise the limit.
    KeyTooLong,
    /// The encoded value is larger than `max_value_bytes`, or than a whole embedded store. Store less, or raise the
    /// limit.
    ValueTooLarge,
    /// The value could not be serialized, and nothing was written. Correct the value's type, or choose another
    /// format.
    Encode,
    /// No server accepts connections at the address: connection refused, no such socket, no such host, or a socket
    /// that this process may not open. Start the server or correct the address; retry later.
    Refused,
    /// The TLS handshake failed: an unknown authority, a name that does not match, or no TLS on that port. Correct
    /// the certificates or the URL.
    Tls,
    /// The connection broke during a request. The request may have taken effect. Retry if that does no harm.
    Disconnected,
    /// No reply arrived in time. The request may have taken effect. Retry if that does no harm, or allow more time.
    TimedOut,
    /// The server requires a password, or refuses the one given. Correct the credentials.
    Authentication,
    /// The user may not run this command or use this key (ACL). Extend the user's permissions.
    Permission,
    /// The key holds another data type, because another program writes to this name. Use another namespace.
    WrongType,
    /// The server has reached its `maxmemory`, and its policy does not evict. Give it more memory; retry later.
    OutOfMemory,
    /// The server is a read-only replica, or one that lost its master and does not answer. Retry after the failover.
    ReadOnly,
    /// The server is still loading its data after a start. Retry.
    Loading,
    /// The cluster cannot serve the key's slot at the moment. Retry.
    ClusterDown,
    /// The lock or the permit has ended, and another caller may hold it. Stop the work that it protects.
    LockLost,
    /// The server or the key is too busy: the server has reached its `maxclients`, waits for a disk or for replicas,
    /// or runs a long script; or other writers changed the key at each attempt. Retry with a pause.
    Busy,
    /// Other callers held the lock for the whole wait. Retry, or wait longer.
    LockHeld,
    /// The semaphore has as many waiters as [`max_waiting`](crate::lock::Semaphore::max_waiting) allows. Retry later.
    QueueFull,
    /// The server may have lost locks that are still held: after a failover, after a restart, or before the first use
    /// of a lock with [`quarantine`](crate::lock::Lock::quarantine). It grants none until this time of its clock. Retry
    /// then.
    Quarantined {
        /// When the server grants locks again.
        until: SystemTime,
    },
    /// Too few replicas acknowledged the lock in time: fewer than [`replicated`](crate::lock::Lock::replicated)
    /// demands. The lock was released. Retry.
    NotReplicated,
    /// The `Larder` was closed. Make a new one.
    Closed,
    /// Any other error that the server reported. The message is the server's.
    Server,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            named: None,
            queued: false,
            unsent: false,
            source: None,
        }))
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
            unsent: false,
            source: Some(Arc::from(source.into())),
        }))
    }

    /// Makes an error whose message for the caller, `named`, holds a name. Events use `message`, which holds none.
    pub(crate) fn named(kind: ErrorKind, message: impl Into<String>, named: String) -> Self {
        let message = message.into();
        Self(Arc::new(Inner {
            kind,
            message,
            named: Some(named),
            queued: false,
            unsent: false,
            source: None,
        }))
    }

    /// Returns the message without names of locks, for events.
    pub(crate) fn unnamed(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidSetting, message)
    }

    /// Returns the same error, of a request of which nothing was sent: it cannot have changed anything.
    #[cfg_attr(
        not(any(feature = "redis", feature = "testing")),
        expect(dead_code, reason = "only a server can be out of reach")
    )]
    pub(crate) fn unsent(self) -> Self {
        self.marked(true)
    }

    /// Returns the same error, of a request that was sent.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a server can be out of reach"))]
    pub(crate) fn sent(self) -> Self {
        self.marked(false)
    }

    fn marked(self, unsent: bool) -> Self {
        let Inner { kind, message, named, queued, source, .. } = &*self.0;
        let (message, named, source) = (message.clone(), named.clone(), source.clone());
        Self(Arc::new(Inner { kind: *kind, message, named, queued: *queued, unsent, source }))
    }

    /// Whether nothing was sent, because there was no connection to send it on.
    pub(crate) fn is_unsent(&self) -> bool {
        self.0.unsent
    }

    pub(crate) fn timed_out(after: Duration) -> Self {
        Self::new(
            ErrorKind::TimedOut,
            format!("no answer within {after:?}, the time that this call may take"),
        )
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "this Larder was closed: connect a new one")
    }

    /// If this is an outage, adds to the message what could not be done because of it.
    pub(crate) fn in_context(self, what: &str) -> Self {
        if !self.is_outage() {
            return self;
        }
        Self::new(self.kind(), format!("{what}: {}", self.unnamed()))
    }

    /// Adds that the invalidation is queued. The original text stays in the message; the source is dropped.
    pub(crate) fn queued(self) -> Self {
        let message = format!("{self}; the key's invalidation is queued until the server is back");
        Self(Arc::new(Inner {
            kind: self.kind(),
            message,
            named: None,
            queued: true,
            unsent: false,
            source: None,
        }))
    }

    /// Whether the write that failed because the server is away is queued. It is sent when the server is back: a
    /// `delete` as itself, and a `set` as a `delete`, because its value may be old by then.
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

    /// Returns the kind of this error.
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

    /// Whether the request may have taken effect: it was sent, or may have been, and no reply arrived. A rate limit
    /// may have been charged.
    #[must_use]
    pub fn is_indeterminate(&self) -> bool {
        matches!(self.kind(), ErrorKind::TimedOut | ErrorKind::Disconnected)
    }

    /// Whether no reply arrived in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::TimedOut
    }
}

impl ErrorKind {
    /// Returns the name that is used in metrics' labels and in logs.
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

//! Credentials that change while the program runs: short-lived tokens, rotated passwords.
//!
//! The program gives a provider. larder asks it at each dial, before its last answer expires, and on demand. Links
//! that dial at the same time share one question. Credentials that a server refused are not used again.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::clock::{Clock, Tick};
use crate::endpoint::Secret;
use crate::error::{Error, ErrorKind, Result};

/// A user and a password, returned by a [provider](crate::LarderBuilder::credentials). `Debug` does not show the
/// password.
#[derive(Debug, Clone)]
#[must_use]
pub struct Credentials {
    pub(crate) username: Option<String>,
    pub(crate) password: Secret,
    valid_for: Option<Duration>,
}

impl Credentials {
    /// Makes credentials with this password, for the `default` user or the user set with
    /// [`username`](Self::username).
    pub fn password(password: impl Into<String>) -> Self {
        Self { username: None, password: Secret(password.into()), valid_for: None }
    }

    /// Sets the ACL user. Default: the server's `default` user.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Sets how long the password is valid, counted from the moment the provider was asked. After four fifths of that
    /// time larder asks again, and authenticates its open connections with the answer. Default: no limit; then the
    /// provider is asked at each dial and on demand.
    pub fn valid_for(mut self, span: Duration) -> Self {
        self.valid_for = Some(span);
        self
    }
}

/// The error of a provider.
pub(crate) type ProviderError = Box<dyn StdError + Send + Sync>;

type ProviderFuture = Pin<Box<dyn Future<Output = Result<Credentials, ProviderError>> + Send>>;

/// The provider and its last answer.
pub(crate) struct CredentialSource {
    provider: Box<dyn Fn() -> ProviderFuture + Send + Sync>,
    clock: Clock,
    current: Mutex<Option<CurrentCredentials>>,
    /// The number of the last answer. It also increases when the provider has answered on demand.
    latest: AtomicU64,
}

/// One answer of the provider.
#[derive(Debug, Clone)]
pub(crate) struct CurrentCredentials {
    pub(crate) credentials: Credentials,
    /// The number of this answer, from 1.
    pub(crate) number: u64,
    asked: Tick,
    answered: Tick,
}

impl CurrentCredentials {
    /// Returns when to ask again.
    pub(crate) fn renew_at(&self) -> Option<Tick> {
        self.credentials.valid_for.map(|span| self.asked.after(span / 5 * 4))
    }

    fn has_expired(&self, now: Tick) -> bool {
        self.credentials.valid_for.is_some_and(|span| now >= self.asked.after(span))
    }
}

impl CredentialSource {
    pub(crate) fn new<F, Fut>(provider: F, clock: Clock) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Credentials, ProviderError>> + Send + 'static,
    {
        Self {
            provider: Box::new(move || Box::pin(provider())),
            clock,
            current: Mutex::default(),
            latest: AtomicU64::new(0),
        }
    }

    /// Returns the credentials for a dial or a new authentication. Asks the provider, unless its last answer has a
    /// time limit that is not near, or arrived while this call waited.
    pub(crate) async fn current(&self) -> Result<CurrentCredentials> {
        let called = self.clock.now();
        let mut slot = self.current.lock().await;
        if let Some(current) = &*slot {
            let now = self.clock.now();
            let fresh = current.renew_at().is_some_and(|at| now < at);
            if fresh || current.answered >= called {
                return Ok(current.clone());
            }
        }
        match self.ask().await {
            Ok(current) => Ok(slot.insert(current).clone()),
            // If the provider fails for a moment, the last answer is used as long as it is valid.
            Err(error) => match slot.as_ref().filter(|current| !current.has_expired(self.clock.now())) {
                Some(current) if current.credentials.valid_for.is_some() => {
                    tracing::warn!(target: crate::telemetry::target::CONNECTION, %error, "the credentials provider failed: using its last credentials");
                    Ok(current.clone())
                }
                _ => Err(error),
            },
        }
    }

    /// Asks the provider now. The links use the answer from their next heartbeat on.
    pub(crate) async fn renew(&self) -> Result<()> {
        let mut slot = self.current.lock().await;
        *slot = Some(self.ask().await?);
        Ok(())
    }

    /// Drops an answer that a server refused, so that the next dial asks again.
    pub(crate) async fn refused(&self, number: u64) {
        let mut slot = self.current.lock().await;
        if slot.as_ref().is_some_and(|current| current.number == number) {
            *slot = None;
        }
    }

    /// Whether a connection that was authenticated with `kept` must authenticate again.
    pub(crate) fn is_due(&self, current: &CurrentCredentials) -> bool {
        self.latest.load(Ordering::Acquire) != current.number
            || current.renew_at().is_some_and(|at| self.clock.now() >= at)
    }

    async fn ask(&self) -> Result<CurrentCredentials> {
        let asked = self.clock.now();
        let answer = (self.provider)().await;
        let credentials = answer.map_err(|error| {
            let message = format!("the credentials provider failed: {error}");
            Error::with_source(ErrorKind::Authentication, message, error)
        })?;
        let number = self.latest.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        Ok(CurrentCredentials { credentials, number, asked, answered: self.clock.now() })
    }
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialSource").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::join_all;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn source(valid_for: Option<Duration>) -> (Arc<AtomicU64>, Arc<AtomicU64>, CredentialSource) {
        let (micros, asked) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
        let (hand, count) = (micros.clone(), asked.clone());
        let provider = move || {
            let number = count.fetch_add(1, Ordering::AcqRel);
            // The clock moves on while the provider answers.
            hand.fetch_add(1000, Ordering::AcqRel);
            async move {
                tokio::task::yield_now().await;
                let credentials = Credentials::password(format!("pw{number}"));
                Ok(valid_for.into_iter().fold(credentials, Credentials::valid_for))
            }
        };
        let source = CredentialSource::new(provider, Clock::Manual(micros.clone()));
        (micros, asked, source)
    }

    #[tokio::test]
    async fn credentials_are_kept_for_four_fifths_of_their_time() {
        let (micros, asked, source) = source(Some(HOUR));
        let first = source.current().await.unwrap();
        micros.fetch_add(47 * 60 * 1_000_000, Ordering::AcqRel);
        assert_eq!(source.current().await.unwrap().number, first.number);
        assert!(!source.is_due(&first));
        micros.fetch_add(60 * 1_000_000, Ordering::AcqRel);
        assert!(source.is_due(&first));
        assert_ne!(source.current().await.unwrap().number, first.number);
        assert_eq!(asked.load(Ordering::Acquire), 2);
    }

    #[tokio::test]
    async fn credentials_without_a_limit_are_asked_for_at_each_dial_and_links_that_dial_together_share_them()
    {
        let (micros, asked, source) = source(None);
        let together = join_all((0..5).map(|_| source.current())).await;
        assert_eq!(asked.load(Ordering::Acquire), 1, "{together:?}");
        micros.fetch_add(1, Ordering::AcqRel);
        source.current().await.unwrap();
        assert_eq!(asked.load(Ordering::Acquire), 2);
    }

    #[tokio::test]
    async fn credentials_that_were_refused_are_not_given_again() {
        let (_, asked, source) = source(Some(HOUR));
        let first = source.current().await.unwrap();
        source.refused(first.number).await;
        assert_ne!(source.current().await.unwrap().number, first.number);
        // The refused answer has been replaced by now.
        source.refused(first.number).await;
        source.current().await.unwrap();
        assert_eq!(asked.load(Ordering::Acquire), 2);
        source.renew().await.unwrap();
        assert!(source.is_due(&first));
        assert_eq!(asked.load(Ordering::Acquire), 3);
    }

    #[test]
    fn a_password_does_not_show() {
        let shown = format!("{:?}", Credentials::password("hunter2").username("ann"));
        assert!(shown.contains("ann") && !shown.contains("hunter2"), "{shown}");
    }
}

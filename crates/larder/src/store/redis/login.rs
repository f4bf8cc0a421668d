//! What a connection needs to know: how to log in, where to run, and what other connections have learned.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;

use super::agreement::Agreement;
use super::hosts::Hosts;
use super::wire::{Greeting, Tls};
use crate::clock::Clock;
use crate::credentials::{CredentialSource, CurrentCredentials};
use crate::endpoint::Secret;
use crate::store::Eviction;

/// The credentials and settings of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    /// The program's credential provider. It replaces `username` and `password`.
    pub(crate) credentials: Option<Arc<CredentialSource>>,
    pub(crate) database: u32,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) connect_timeout: Duration,
    /// The name of the connections in `CLIENT LIST`.
    pub(crate) client_name: String,
    /// The clock against which the server's time is measured.
    pub(crate) clock: Clock,
    pub(crate) learned: Arc<Learned>,
    /// The runtimes on which connections are dialled and driven.
    pub(crate) hosts: Hosts,
}

impl Login {
    /// Returns the same login for the connections of the background tasks.
    pub(crate) fn at_home(&self, home: &Handle) -> Self {
        Self { hosts: Hosts::at_home(home), ..self.clone() }
    }

    /// Returns the arguments of the login, with the provider's credentials if there are any.
    pub(super) fn greeting<'a>(&'a self, credentials: Option<&'a CurrentCredentials>) -> Greeting<'a> {
        let (username, password) = match credentials {
            Some(CurrentCredentials { credentials, .. }) => {
                (&credentials.username, Some(&credentials.password))
            }
            None => (&self.username, self.password.as_ref()),
        };
        let password = password.map(|Secret(password)| password.as_str());
        Greeting { username: username.as_deref(), password, database: self.database }
    }
}

/// What the store has learned about its servers, and which of them the links use.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    eviction: RwLock<Eviction>,
    /// Used if the deployment has one server at a time, not in a cluster.
    pub(super) agreement: Agreement,
}

impl Learned {
    pub(super) fn eviction(&self) -> Eviction {
        self.eviction.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records what a server said about eviction. If any node evicts, that answer is kept.
    pub(super) fn note(&self, said: &Eviction) {
        let mut known = self.eviction.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!((&*known, said), (Eviction::Evicts(_), Eviction::Never | Eviction::Unknown)) {
            *known = said.clone();
        }
    }
}

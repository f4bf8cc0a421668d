//! The two stores of a server, made from the builder's settings.

use std::sync::Arc;

use super::LarderBuilder;
use crate::background::Background;
#[cfg(feature = "redis")]
use crate::endpoint::Secret;
use crate::error::{Error, Result};
use crate::near::Invalidations;
use crate::store::AnyStore;
use crate::url::ServerTarget;

/// A server's store for callers, and another for background work.
pub(super) struct Stores {
    pub(super) callers: AnyStore,
    pub(super) background: AnyStore,
}

impl LarderBuilder {
    #[cfg(feature = "redis")]
    pub(super) fn server(
        self,
        server: ServerTarget,
        invalidations: Arc<Invalidations>,
        background: &Background,
    ) -> Result<Stores> {
        use crate::store::redis::{Hosts, Login, RedisStore, Tls};

        if server.tls && !cfg!(feature = "tls") {
            return Err(Error::new(
                crate::ErrorKind::InvalidUrl,
                "rediss:// needs the feature tls, which this build of larder leaves out",
            ));
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::invalid("connecting needs a tokio runtime: call it inside one"));
        }
        let Some(home) = background.runtime() else { return Err(Error::closed()) };
        // How connections log in: to the servers, and to the sentinels.
        let login = Login {
            username: server.username,
            password: server.password,
            credentials: self.credentials,
            database: server.database,
            tls: server.tls.then(|| Arc::new(Tls::new(self.tls_roots, self.tls_client))),
            connect_timeout: self.connect_timeout,
            client_name: self.client_name,
            clock: self.clock,
            learned: Arc::default(),
            hosts: Hosts::of_callers(home),
        };
        // A login without a password sends no AUTH, so a user without one gets an empty password.
        let no_password = self.sentinel_username.as_ref().map(|_| Secret(String::new()));
        let sentinel_login = Login {
            username: self.sentinel_username,
            password: self.sentinel_password.or(no_password),
            credentials: None,
            database: 0,
            ..login.clone()
        };
        // Two stores: the callers' runtimes drive the first, the background's thread the second.
        let (deployment, alone, alone_sentinel) =
            (server.deployment.clone(), login.at_home(home), sentinel_login.at_home(home));
        let callers = RedisStore::start(
            server.deployment,
            login,
            sentinel_login,
            self.connections,
            Some(invalidations),
        );
        let alone = RedisStore::start(deployment, alone, alone_sentinel, 1, None);
        Ok(Stores { callers: AnyStore::Redis(callers), background: AnyStore::Redis(alone) })
    }

    #[cfg(not(feature = "redis"))]
    pub(super) fn server(self, _: ServerTarget, _: Arc<Invalidations>, _: &Background) -> Result<Stores> {
        Err(Error::new(
            crate::ErrorKind::InvalidUrl,
            "servers need the feature redis, which this build of larder leaves out",
        ))
    }
}

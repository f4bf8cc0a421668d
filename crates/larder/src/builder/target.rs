//! Combines the settings and checks them before anything is connected.

use super::LarderBuilder;
use crate::endpoint::{Endpoints, Secret};
use crate::error::{Error, Result};
use crate::url::{self, DEFAULT_PORT, ServerTarget, Target};

impl LarderBuilder {
    /// Refuses settings that are invalid on their own.
    pub(super) fn check(&self) -> Result<()> {
        self.presence.as_deref().map_or(Ok(()), crate::presence::check)?;
        let nonsense = if self.url.is_some() && self.address.is_some() {
            "give a url or an address, not both"
        } else if self.connect_timeout.is_zero() || self.response_timeout.is_zero() {
            "a timeout of zero leaves no time for any answer"
        } else if !(1..=64).contains(&self.connections) {
            "connections is from 1 to 64"
        } else if self.client_name.is_empty() || !self.client_name.bytes().all(|byte| byte.is_ascii_graphic())
        {
            "client_name is printable ASCII without spaces"
        } else if self.credentials.is_some() && (self.username.is_some() || self.password.is_some()) {
            "give credentials or a username and password, not both"
        } else if self.max_value_bytes == 0 || self.max_key_bytes == 0 {
            "max_value_bytes and max_key_bytes are at least 1"
        } else if self.bounds.max_entries == 0 || self.bounds.max_bytes == 0 {
            "memory_max_entries and memory_max_bytes are at least 1"
        } else {
            return Ok(());
        };
        Err(Error::invalid(nonsense))
    }

    /// Returns where to connect. The builder's values override the URL's.
    pub(super) fn target(&self) -> Result<Target> {
        // Parse the URL, or the address of one server.
        let mut target = match (&self.url, &self.address) {
            (Some(url), _) => url::parse(url)?,
            (None, None) => Target::Memory,
            (None, Some(address)) => Target::Server(ServerTarget {
                deployment: Endpoints::Single(if address.starts_with('/') {
                    url::socket(address)?
                } else {
                    url::address(address, DEFAULT_PORT)?
                }),
                username: None,
                password: None,
                database: 0,
                tls: false,
            }),
        };
        // Refuse settings that do not fit the target; then apply the others.
        match &mut target {
            // A setting that would be ignored is an error: `memory:` has no login, and only Sentinel has its own.
            Target::Memory
                if self.username.is_some()
                    || self.password.is_some()
                    || self.credentials.is_some()
                    || self.database.is_some() =>
            {
                Err(Error::invalid("memory: has no users, passwords or databases: give a url or an address"))
            }
            Target::Server(ServerTarget {
                deployment: Endpoints::Single(_) | Endpoints::Cluster(_), ..
            }) if self.sentinel_password.is_some() || self.sentinel_username.is_some() => {
                Err(Error::invalid(
                    "sentinel_username and sentinel_password are for redis-sentinel:// and would be ignored here",
                ))
            }
            Target::Server(ServerTarget { username, password, .. })
                if self.credentials.is_some() && (username.is_some() || password.is_some()) =>
            {
                Err(Error::invalid("user and password come from credentials: take them out of the URL"))
            }
            // Files that are no PEM are found here, not at the first dial.
            Target::Server(_) if self.tls_roots.as_ref().is_some_and(|pem| !is_certificate(pem)) => {
                Err(Error::invalid("tls_roots holds no certificate in PEM"))
            }
            Target::Server(_)
                if self.tls_client.as_ref().is_some_and(|(chain, Secret(key))| {
                    !is_certificate(chain) || !String::from_utf8_lossy(key).contains("PRIVATE KEY-----")
                }) =>
            {
                Err(Error::invalid(
                    "tls_client_certificate takes a certificate chain and a private key, both in PEM",
                ))
            }
            Target::Server(ServerTarget { tls: false, .. }) if self.tls_client.is_some() => {
                Err(Error::invalid("tls_client_certificate is for rediss:// and would be ignored here"))
            }
            Target::Server(ServerTarget { tls: false, .. }) if self.tls_roots.is_some() => {
                Err(Error::invalid("tls_roots is for rediss:// and would be ignored here"))
            }
            Target::Server(server)
                if matches!(server.deployment, Endpoints::Cluster(_))
                    && self.database.is_some_and(|database| database != 0) =>
            {
                Err(Error::invalid("a cluster has only database 0"))
            }
            Target::Memory => Ok(target),
            Target::Server(server) => {
                server.username = self.username.clone().or(server.username.take());
                server.password = self.password.clone().or(server.password.take());
                // A login without a password sends no AUTH, so a user without one gets "".
                if server.username.is_some() && server.password.is_none() {
                    server.password = Some(Secret(String::new()));
                }
                server.database = self.database.unwrap_or(server.database);
                Ok(target)
            }
        }
    }
}

/// Whether the text contains a certificate, judged by its frame only.
fn is_certificate(pem: &[u8]) -> bool {
    String::from_utf8_lossy(pem).contains("-----BEGIN CERTIFICATE-----")
}

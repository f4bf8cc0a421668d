//! The settings of a server to be started.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::admin::Admin;
use crate::port::Port;
use crate::server::{Address, CONFIG, Failed, SOCKET, Server};
use crate::tls::Certificates;
use crate::{Version, resolve};

/// The settings of a [`Server`] to be started: by default a unix socket, no password and no persistence.
#[derive(Debug, Clone, Default)]
pub struct ServerBuilder {
    listen: Listen,
    password: Option<String>,
    persist: bool,
    sentinel: bool,
    certificates: Option<Arc<Certificates>>,
    settings: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Listen {
    #[default]
    Unix,
    Tcp,
    Tls,
}

impl ServerBuilder {
    /// Listens on a free port of 127.0.0.1.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.listen = Listen::Tcp;
        self
    }

    /// Listens on a free port of 127.0.0.1, with TLS only. The certificate is valid for 127.0.0.1 and localhost, and is
    /// signed by [`Server::ca_pem`]; clients need none.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.listen = Listen::Tls;
        self
    }

    /// Requires this password for the default user; a replica also uses it towards its master.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Appends every write to disk before answering, so that data outlives [`Server::kill`] and [`Server::restart`].
    #[must_use]
    pub fn persist(mut self) -> Self {
        self.persist = true;
        self
    }

    /// Sets any setting of redis.conf, after the testkit's own, so that it wins: `.arg("maxmemory", "2mb")`. A value of
    /// several words is written unchanged, so quote words that belong together.
    #[must_use]
    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn args(self, settings: &[(&str, &str)]) -> Self {
        settings.iter().fold(self, |builder, (name, value)| builder.arg(name, value))
    }

    pub(crate) fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self.tcp()
    }

    /// As [`ServerBuilder::tls`], with these certificates, and with TLS as a client to other nodes, too.
    pub(crate) fn tls_among(mut self, certificates: Arc<Certificates>) -> Self {
        self.certificates = Some(certificates);
        self.tls().arg("tls-replication", "yes")
    }

    /// Starts it, and returns once it answers.
    ///
    /// # Panics
    ///
    /// If there is no server to run, or it does not answer within ten seconds; with its log.
    #[must_use]
    pub fn start(self) -> Server {
        let server = self.launch();
        server.await_ready();
        server
    }

    /// Starts it without waiting for its answer, for callers that start several servers.
    pub(crate) fn launch(self) -> Server {
        let program = resolve().unwrap_or_else(|error| panic!("{error}"));
        let version = Version::of(&program).unwrap_or_else(|error| panic!("{error}"));
        let folder = folder().expect("a temporary folder can be made");
        let certificates = (self.listen == Listen::Tls)
            .then(|| self.certificates.clone().unwrap_or_else(|| Arc::new(Certificates::make())));
        if let Some(certificates) = &certificates {
            certificates.write(folder.path());
        }
        let socket = folder.path().join(SOCKET);
        let server = Server {
            process: Mutex::new(None),
            admin: Admin::new(&socket, self.password.as_deref()),
            address: Mutex::new(self.address()),
            certificates,
            socket,
            program,
            version,
            builder: self,
            folder,
        };
        server.write_config();
        server.spawn();
        server
    }

    fn address(&self) -> Address {
        match self.listen {
            Listen::Unix => Address::Unix,
            Listen::Tcp => Address::Tcp(Port::pick()),
            Listen::Tls => Address::Tls(Port::pick()),
        }
    }
}

impl Server {
    fn write_config(&self) {
        let config = self.builder.config(&self.lock_address(), self.version);
        fs::write(self.folder().join(CONFIG), config).expect("the server's folder can be written to");
    }

    /// Waits until the server answers; uses another port if the planned one turns out to be taken.
    pub(crate) fn await_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.poll_ready(deadline) {
                Ok(()) => return,
                Err(Failed::PortTaken) if Instant::now() < deadline => {
                    // Release the old port only after picking the new one; otherwise the old one could be picked again.
                    let fresh = self.builder.address();
                    *self.lock_address() = fresh;
                    self.write_config();
                    self.spawn();
                }
                Err(failed) => self.give_up(&failed),
            }
        }
    }

    pub(crate) fn is_sentinel(&self) -> bool {
        self.builder.sentinel
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.builder.password.as_deref()
    }
}

impl ServerBuilder {
    fn config(&self, address: &Address, version: Version) -> String {
        let mut lines = Config::default();
        lines.set("daemonize", "no");
        lines.set("bind", "127.0.0.1");
        lines.set("dir", ".");
        lines.set("unixsocket", SOCKET);
        match address {
            Address::Unix => lines.set("port", "0"),
            Address::Tcp(port) => lines.set("port", &port.number().to_string()),
            Address::Tls(port) => {
                lines.set("port", "0");
                lines.set("tls-port", &port.number().to_string());
                for (name, value) in Certificates::SETTINGS {
                    lines.set(name, value);
                }
            }
        }
        let password = self
            .password
            .as_ref()
            .map(|password| format!("\"{}\"", password.replace('\\', "\\\\").replace('"', "\\\"")));
        if let Some(password) = &password {
            // Sentinels ask each other for the password, too.
            lines.set("requirepass", password);
        }
        if !self.sentinel {
            lines.set("save", "");
            lines.set("appendonly", if self.persist { "yes" } else { "no" });
            lines.set("appendfsync", "always");
            // Without the default delay of five seconds, in which the master waits for more replicas.
            lines.set("repl-diskless-sync-delay", "0");
            if version.at_least(7, 0) {
                // 6.0 has no such setting, and allows DEBUG anyway.
                lines.set("enable-debug-command", "yes");
            }
            if let Some(password) = &password {
                lines.set("masterauth", password);
            }
        }
        for (name, value) in &self.settings {
            lines.set(name, value);
        }
        lines.0
    }
}

#[derive(Default)]
struct Config(String);

impl Config {
    fn set(&mut self, name: &str, value: &str) {
        let value = if value.is_empty() { "\"\"" } else { value };
        self.0.extend([name, " ", value, "\n"]);
    }
}

/// If TMPDIR is deep, the path of a socket in it could exceed the limit of 108 bytes (104 on macOS).
fn folder() -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("larder-");
    let folder = builder.tempdir()?;
    let folder = if folder.path().join(SOCKET).as_os_str().len() < 100 {
        folder
    } else {
        builder.tempdir_in("/tmp")?
    };
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Product;

    #[test]
    fn the_users_settings_are_last_and_empty_values_are_quoted() {
        let version = Version { product: Product::Redis, major: 6, minor: 0, patch: 16 };
        let builder = ServerBuilder::default().password("a\"b").arg("save", "60 1");
        let config = builder.config(&Address::Unix, version);
        assert!(config.starts_with("daemonize no\n"), "{config}");
        assert!(config.contains("\nrequirepass \"a\\\"b\"\n"), "{config}");
        assert!(config.contains("\nsave \"\"\n") && config.ends_with("\nsave 60 1\n"), "{config}");
        assert!(!config.contains("enable-debug-command"), "{config}");
    }
}

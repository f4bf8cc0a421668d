//! What every command gets: the settings, the output, and the connection when it asks for it.

use std::fs;
use std::path::Path;

use larder::{Larder, LarderBuilder};

use crate::args::Globals;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

/// The largest value that is read and written: the largest string of a server.
const LARGEST_VALUE: usize = 512 * 1024 * 1024;

/// Shared by the commands.
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) out: Output,
}

impl App {
    pub(crate) fn new(globals: &Globals) -> Result<Self, Failure> {
        let out = Output::new(globals.format, globals.color);
        Ok(Self { settings: Settings::of(globals)?, out })
    }

    /// Connects to the server of the settings.
    pub(crate) async fn connect(&self) -> Result<Larder, Failure> {
        self.builder()?.connect().await.map_err(Failure::from)
    }

    /// Begins to connect, for a command of a few requests. The first one waits for the connection that it uses, and not
    /// for that of near reads, which takes one more round trip.
    pub(crate) fn open(&self) -> Result<Larder, Failure> {
        self.builder()?.connect_lazy().map_err(Failure::from)
    }

    /// Makes the builder, for a command that needs other settings.
    pub(crate) fn builder(&self) -> Result<LarderBuilder, Failure> {
        let settings = &self.settings;
        let mut builder = Larder::builder()
            .url(settings.url()?.0.clone())
            .client_name("larder-cli")
            .response_timeout(settings.timeout)
            .connect_timeout(settings.timeout.saturating_mul(2))
            .max_value_bytes(LARGEST_VALUE);
        if let Some(namespace) = &settings.namespace {
            builder = builder.namespace(namespace);
        }
        if let Some(user) = &settings.user {
            builder = builder.username(user);
        }
        if let Some(password) = &settings.password {
            builder = builder.password(&password.0);
        }
        if let Some(coordination) = &settings.coordination {
            builder = builder.coordination(&coordination.0);
        }
        if let Some(path) = &settings.tls_ca {
            builder = builder.tls_roots(file("--tls-ca", path)?);
        }
        match (&settings.tls_cert, &settings.tls_key) {
            (Some(chain), Some(key)) => {
                builder = builder.tls_client_certificate(file("--tls-cert", chain)?, file("--tls-key", key)?);
            }
            (None, None) => {}
            _ => return Err(Failure::usage("--tls-cert and --tls-key belong together")),
        }
        Ok(builder)
    }

    /// The namespace and the server, for a question: ` in shop at redis://10.0.0.1`.
    pub(crate) fn place(&self) -> String {
        format!("{} at {}", self.namespace(), self.settings.shown_url())
    }

    /// The namespace and the server of locks and limits, for a question.
    pub(crate) fn place_of_locks(&self) -> String {
        format!("{} at {}", self.namespace(), self.settings.shown_coordination())
    }

    fn namespace(&self) -> String {
        self.settings.namespace.as_ref().map(|name| format!(" in {name}")).unwrap_or_default()
    }

    /// Refuses a command that changes something, if that is forbidden.
    pub(crate) fn may_write(&self) -> Result<(), Failure> {
        if self.settings.read_only {
            let of =
                self.settings.profile.as_ref().map(|name| format!(" (profile {name:?})")).unwrap_or_default();
            return Err(Failure::new(Exit::DENIED, format!("read-only{of}: this command changes something"))
                .fix("leave out --read-only, LARDER_READ_ONLY or the profile's read_only"));
        }
        Ok(())
    }
}

fn file(option: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::new(Exit::IO, format!("{option} {}: {error}", path.display())))
}

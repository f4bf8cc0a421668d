//! Which server, namespace and user: from the arguments, the environment, or a profile of the configuration file.
//!
//! Two servers are never mixed: what names the URL also brings the secrets and the server of locks.
//!
//! - If `--profile` is an argument, the environment's URL, user, password, namespace and the others are not read.
//! - If `--url` is an argument, or LARDER_URL is set, neither LARDER_PROFILE nor the default profile is read.
//! - If both `--profile` and `--url` are arguments, the profile's secrets and its server of locks are not used. Its
//!   `read_only` is.
//! - If `--url` is an argument, LARDER_COORDINATION is not read.

use std::env;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::{Globals, duration};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::profile::{self, Profile};

/// The longest password file that is read.
const LONGEST_PASSWORD: u64 = 64 * 1024;

/// Text that no message and no `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How to connect, and what is allowed.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    url: Option<Secret>,
    pub(crate) namespace: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) coordination: Option<Secret>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) timeout: Duration,
    pub(crate) read_only: bool,
    /// The profile that is used.
    pub(crate) profile: Option<String>,
}

impl Settings {
    /// Collects the settings. Reads the configuration file only if a profile is chosen, or nothing else names a
    /// server.
    pub(crate) fn of(globals: &Globals) -> Result<Self, Failure> {
        Self::from(globals, &read, &profile::load)
    }

    /// Collects the settings from an environment and a configuration file.
    fn from(
        globals: &Globals,
        environment: &dyn Fn(&str) -> Option<String>,
        load: &dyn Fn(Option<&str>) -> profile::Loaded,
    ) -> Result<Self, Failure> {
        refuse_password("--url", globals.url.as_deref())?;
        refuse_password("--coordination", globals.coordination.as_deref())?;
        let chosen = globals.profile.is_some();
        // What an explicit profile replaces is not read from the environment.
        let var = |name: &str| if chosen { None } else { environment(name) };
        let names_server = globals.url.is_some() || var("LARDER_URL").is_some();
        let wanted = globals
            .profile
            .clone()
            .or_else(|| if names_server { None } else { environment("LARDER_PROFILE") });
        let (name, profile) = if wanted.is_some() || !names_server {
            load(wanted.as_deref())?.map_or((None, None), |(name, profile)| (Some(name), Some(profile)))
        } else {
            (None, None)
        };
        let mut profile = profile.unwrap_or_default();
        if globals.url.is_some() {
            // They are another server's.
            profile = Profile {
                user: None,
                password: None,
                password_file: None,
                coordination: None,
                tls_cert: None,
                tls_key: None,
                ..profile
            };
        }

        let url = globals.url.clone().or_else(|| var("LARDER_URL")).map(Secret).or(profile.url);
        let namespace = globals.namespace.clone().or_else(|| var("LARDER_NAMESPACE")).or(profile.namespace);
        let user = globals.user.clone().or_else(|| var("LARDER_USER")).or(profile.user);
        let path = |argument: &Option<PathBuf>, name: &str, of_profile: Option<PathBuf>| {
            argument.clone().or_else(|| var(name).map(PathBuf::from)).or(of_profile)
        };
        let password = match path(&globals.password_file, "LARDER_PASSWORD_FILE", None) {
            Some(file) => Some(password_in(&file)?),
            None => match (var("LARDER_PASSWORD"), profile.password, profile.password_file) {
                (Some(password), ..) => Some(Secret(password)),
                (None, Some(password), _) => Some(password),
                (None, None, Some(file)) => Some(password_in(&file)?),
                (None, None, None) => None,
            },
        };
        let timeout = match globals.timeout {
            Some(timeout) => Some(timeout),
            None => match var("LARDER_TIMEOUT") {
                Some(text) => {
                    Some(duration(&text).map_err(|why| Failure::usage(format!("LARDER_TIMEOUT: {why}")))?)
                }
                None => profile.timeout,
            },
        };
        let forbidden = environment("LARDER_READ_ONLY")
            .is_some_and(|value| !matches!(value.as_str(), "0" | "false" | "no"));
        Ok(Self {
            url,
            namespace: namespace.filter(|namespace| !namespace.is_empty()),
            user,
            password,
            coordination: globals
                .coordination
                .clone()
                .or_else(|| if globals.url.is_some() { None } else { var("LARDER_COORDINATION") })
                .map(Secret)
                .or(profile.coordination),
            tls_ca: path(&globals.tls_ca, "LARDER_TLS_CA", profile.tls_ca),
            tls_cert: path(&globals.tls_cert, "LARDER_TLS_CERT", profile.tls_cert),
            tls_key: path(&globals.tls_key, "LARDER_TLS_KEY", profile.tls_key),
            timeout: timeout.unwrap_or(Duration::from_secs(1)),
            read_only: globals.read_only || forbidden || profile.read_only,
            profile: name,
        })
    }

    /// Returns the server's URL. It may hold a password.
    pub(crate) fn url(&self) -> Result<&Secret, Failure> {
        self.url.as_ref().ok_or_else(|| {
            Failure::usage("no server is named")
                .fix("set LARDER_URL, as in LARDER_URL=redis://10.0.0.1, or give --url or --profile")
        })
    }

    /// Returns the URL of the server of locks and limits without user and password, for people.
    pub(crate) fn shown_coordination(&self) -> String {
        self.coordination.as_ref().map_or_else(|| self.shown_url(), |url| without_user(&url.0))
    }

    /// Returns the server's URL without user and password, for people.
    pub(crate) fn shown_url(&self) -> String {
        self.url.as_ref().map_or_else(String::new, |url| without_user(&url.0))
    }
}

/// Arguments are visible to every user of the machine, and stay in the shell's history.
fn refuse_password(option: &str, url: Option<&str>) -> Result<(), Failure> {
    let Some(url) = url else { return Ok(()) };
    let user = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(user, _)| user);
    if user.is_some_and(|user| user.split_once(':').is_some_and(|(_, password)| !password.is_empty())) {
        return Err(Failure::usage(format!(
            "{option} contains a password: other users of this machine can read arguments, and shells keep them"
        ))
        .fix("set LARDER_PASSWORD, or give --password-file or a profile of ~/.config/larder/config.toml"));
    }
    Ok(())
}

fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let hosts = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
            format!("{scheme}://{hosts}")
        }
        None => url.to_owned(),
    }
}

fn read(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn password_in(path: &Path) -> Result<Secret, Failure> {
    let failed = |why: &dyn fmt::Display| {
        Failure::new(Exit::CONFIG, format!("the password file {}: {why}", path.display()))
    };
    let file = fs::File::open(path).map_err(|error| failed(&error))?;
    let mut text = String::new();
    file.take(LONGEST_PASSWORD).read_to_string(&mut text).map_err(|error| failed(&error))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(failed(&"its first line is empty"));
    }
    Ok(Secret(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_argument_is_refused_and_not_repeated() {
        for url in ["redis://:hunter2@h", "rediss://ann:hunter2@h/1", "redis://ann:hun@ter2@h"] {
            let failure = refuse_password("--url", Some(url)).unwrap_err();
            let shown = failure.to_string();
            assert!(shown.contains("--url contains a password") && !shown.contains("ter2"), "{shown}");
            assert_eq!(failure.exit(), Exit::USAGE);
        }
        for url in ["redis://h", "redis://ann@h", "redis://ann:@h", "memory:", "redis+unix:///a:b"] {
            assert!(refuse_password("--url", Some(url)).is_ok(), "{url}");
        }
    }

    /// The settings that these arguments and this environment give, with a profile `prod`, which is also the default.
    fn settings(arguments: &[&str], environment: &[(&str, &str)]) -> Settings {
        use clap::Parser;
        let words = ["larder"].iter().chain(arguments).chain(&["ls"]);
        let globals = crate::args::Cli::try_parse_from(words).unwrap().globals;
        let var = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let load = |wanted: Option<&str>| {
            assert!(matches!(wanted, None | Some("prod")));
            let secret = |text: &str| Some(Secret(text.to_owned()));
            let profile = Profile {
                url: secret("redis://prod"),
                namespace: Some("shop".to_owned()),
                user: Some("ops".to_owned()),
                password: secret("hunter2"),
                coordination: secret("redis://prod-locks"),
                tls_cert: Some("cert".into()),
                tls_key: Some("key".into()),
                read_only: true,
                ..Profile::default()
            };
            Ok(Some(("prod".to_owned(), profile)))
        };
        Settings::from(&globals, &var, &load).unwrap()
    }

    #[test]
    fn a_profile_without_another_url_is_used_as_it_is() {
        for (arguments, environment) in [
            (&[][..], &[][..]),
            (&[], &[("LARDER_PROFILE", "prod")]),
            (
                &["--profile", "prod"],
                &[("LARDER_URL", "redis://dev"), ("LARDER_COORDINATION", "redis://dev-locks")],
            ),
        ] {
            let settings = settings(arguments, environment);
            let url = |url: &Option<Secret>| url.as_ref().map(|url| url.0.clone());
            assert_eq!(url(&settings.url).as_deref(), Some("redis://prod"));
            assert_eq!(url(&settings.password).as_deref(), Some("hunter2"));
            assert_eq!(settings.shown_coordination(), "redis://prod-locks");
            assert!(settings.read_only && settings.tls_cert.is_some() && settings.user.is_some());
        }
    }

    #[test]
    fn the_secrets_and_the_locks_of_one_server_are_never_used_with_another() {
        let dev = ("LARDER_URL", "redis://dev");
        for (arguments, environment) in [
            (&[][..], &[dev][..]),
            (&[], &[dev, ("LARDER_PROFILE", "prod")]),
            (&["--url", "redis://dev"], &[("LARDER_PROFILE", "prod")]),
            (&["--url", "redis://dev"], &[("LARDER_COORDINATION", "redis://prod-locks")]),
            (
                &["--url", "redis://dev"],
                &[("LARDER_URL", "redis://prod"), ("LARDER_COORDINATION", "redis://prod-locks")],
            ),
            (
                &["--url", "redis://dev", "--profile", "prod"],
                &[("LARDER_COORDINATION", "redis://prod-locks")],
            ),
        ] {
            let settings = settings(arguments, environment);
            assert_eq!(settings.url().unwrap().0, "redis://dev", "{arguments:?} {environment:?}");
            assert_eq!(settings.user, None, "{arguments:?} {environment:?}");
            assert_eq!(settings.password, None, "{arguments:?} {environment:?}");
            assert_eq!(settings.coordination, None, "{arguments:?} {environment:?}");
            assert_eq!(
                (settings.tls_cert.clone(), settings.tls_key.clone()),
                (None, None),
                "{arguments:?} {environment:?}"
            );
            assert_eq!(settings.read_only, arguments.contains(&"--profile"), "{arguments:?} {environment:?}");
        }
        // What is named together with the URL counts.
        let settings =
            settings(&[], &[dev, ("LARDER_COORDINATION", "redis://dev-locks"), ("LARDER_PASSWORD", "x")]);
        assert_eq!(settings.shown_coordination(), "redis://dev-locks");
        assert!(settings.password.is_some());
    }

    #[test]
    fn a_url_is_shown_without_its_user() {
        assert_eq!(without_user("redis://ann:pw@h:1/2"), "redis://h:1/2");
        assert_eq!(without_user("memory:"), "memory:");
    }
}

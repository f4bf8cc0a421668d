//! The configuration file: named servers, with their secrets.
//!
//! It may contain passwords, so a file that other users could read is refused.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::args::duration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::settings::Secret;

const LARGEST: u64 = 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The profile that is used if nothing else names a server.
    default: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

/// A server and how to use it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    #[serde(default, deserialize_with = "secret")]
    pub(crate) url: Option<Secret>,
    pub(crate) namespace: Option<String>,
    pub(crate) user: Option<String>,
    #[serde(default, deserialize_with = "secret")]
    pub(crate) password: Option<Secret>,
    pub(crate) password_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "secret")]
    pub(crate) coordination: Option<Secret>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    #[serde(default, deserialize_with = "time")]
    pub(crate) timeout: Option<Duration>,
    #[serde(default)]
    pub(crate) read_only: bool,
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    // serde's message about another type shows the value.
    match toml::Value::deserialize(from)? {
        toml::Value::String(text) => Ok(Some(Secret(text))),
        _ => Err(D::Error::custom("this must be text in quotes")),
    }
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    duration(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

/// Returns the path of the configuration file.
pub(crate) fn path() -> Option<PathBuf> {
    let folder = match env::var_os("XDG_CONFIG_HOME").map(PathBuf::from) {
        Some(folder) if folder.is_absolute() => folder,
        _ => env::home_dir()?.join(".config"),
    };
    Some(folder.join("larder/config.toml"))
}

/// A profile with its name.
pub(crate) type Loaded = Result<Option<(String, Profile)>, Failure>;

/// Returns the profile of this name with its name, or without one the file's default. `None` if there is no file, or
/// it has no default.
pub(crate) fn load(wanted: Option<&str>) -> Loaded {
    let found = match path() {
        Some(path) => read(&path)?.map(|text| (path, text)),
        None => None,
    };
    let Some((path, text)) = found else {
        return match wanted {
            Some(name) => Err(no_profile(name, "there is no configuration file")),
            None => Ok(None),
        };
    };
    let mut config = parse(&text).map_err(|why| broken(&path, &why))?;
    let Some(name) = wanted.map(str::to_owned).or_else(|| config.default.take()) else { return Ok(None) };
    match config.profiles.remove(&name) {
        Some(profile) => Ok(Some((name, profile))),
        None => {
            let known: Vec<_> = config.profiles.into_keys().collect();
            Err(no_profile(&name, &format!("{} has {}", path.display(), list(&known))))
        }
    }
}

fn parse(text: &str) -> Result<Config, String> {
    // The message without the source line, which may hold a password.
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line =
            error.span().map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
        match line {
            Some(line) => format!("line {line}: {}", error.message()),
            None => error.message().to_owned(),
        }
    })
}

/// Opens the file once, and checks that very file: its mode and its owner.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(path, &error.to_string())),
    };
    private(path, &file.metadata().map_err(|error| broken(path, &error.to_string()))?)?;
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(|error| broken(path, &error.to_string()))?;
    Ok(Some(text))
}

#[cfg(unix)]
fn private(path: &Path, metadata: &fs::Metadata) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o177 != 0 {
        let shown = path.display();
        return Err(Failure::new(
            Exit::CONFIG,
            format!("{shown} has mode {mode:04o}: it may hold passwords, so only you may read it"),
        )
        .fix(format!("chmod 600 {shown}")));
    }
    Ok(())
}

#[cfg(not(unix))]
fn private(_path: &Path, _metadata: &fs::Metadata) -> Result<(), Failure> {
    Ok(())
}

fn broken(path: &Path, why: &str) -> Failure {
    Failure::new(Exit::CONFIG, format!("{}: {why}", path.display()))
        .fix("`larder help environment` shows what the file may contain")
}

fn no_profile(name: &str, why: &str) -> Failure {
    Failure::new(Exit::CONFIG, format!("there is no profile {name:?}: {why}"))
        .fix("`larder help environment` shows what the file may contain")
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_and_a_mistake_in_one_never_shows_a_secret() {
        let config =
            parse("default = 'a'\n[profiles.a]\nurl = 'redis://h'\ntimeout = '2s'\nread_only = true\n")
                .unwrap();
        let a = &config.profiles["a"];
        assert_eq!((a.timeout, a.read_only), (Some(Duration::from_secs(2)), true));
        for wrong in [
            "[profiles.a]\npassword = 'hunter2' x\n",
            "[profiles.a]\npasword = 'hunter2'\n",
            "[profiles.a]\npassword = ['hunter2']\n",
            "[profiles.a]\npassword = 8675309\n",
            "[profiles.a]\npassword = 8675309.5\n",
            "[profiles.a]\nurl = 8675309\n",
            "[profiles.a]\ncoordination = 8675309\n",
        ] {
            let why = parse(wrong).unwrap_err();
            assert!(why.starts_with("line 2: "), "{why}");
            assert!(!why.contains("hunter2") && !why.contains("8675309"), "{why}");
        }
    }
}

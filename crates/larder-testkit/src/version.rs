//! A server's product and version, as it reports them.

use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::NoServer;

/// The two server families that larder runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Product {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// A server's product and version, as its `--version` prints them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    /// Redis or Valkey.
    pub product: Product,
    /// The 7 of 7.0.15.
    pub major: u32,
    /// The 0 of 7.0.15.
    pub minor: u32,
    /// The 15 of 7.0.15.
    pub patch: u32,
}

impl Version {
    /// Asks the program at `path` for its version.
    ///
    /// # Errors
    ///
    /// [`NoServer`] if it does not run, or is no Redis or Valkey server.
    pub fn of(path: &Path) -> Result<Self, NoServer> {
        let output = Command::new(path)
            .arg("--version")
            .output()
            .map_err(|error| NoServer::new(format!("{} does not run: {error}", path.display())))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Self::parse(&text).ok_or_else(|| {
            NoServer::new(format!(
                "{} --version says {:?}: no Redis or Valkey server",
                path.display(),
                text.trim()
            ))
        })
    }

    /// Whether this is `major.minor` or newer. Valkey continues from Redis 7.2, so for versions up to 7.2 the
    /// comparison works for both.
    #[must_use]
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }

    /// From `Redis server v=7.0.15 sha=…` or `Valkey server v=8.1.1 sha=…`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let product = match words.next()? {
            "Redis" => Product::Redis,
            "Valkey" => Product::Valkey,
            _ => return None,
        };
        let mut numbers = words.find_map(|word| word.strip_prefix("v="))?.split(['.', '-']).map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self { product, major: next()?, minor: next()?, patch: next()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { product, major, minor, patch } = self;
        write!(f, "{product:?} {major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_the_server_prints() {
        let redis =
            Version::parse("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=d81c");
        assert_eq!(redis, Some(Version { product: Product::Redis, major: 7, minor: 0, patch: 15 }));
        let valkey =
            Version::parse("Valkey server v=9.0.0-rc1 sha=00000000:0 malloc=libc bits=64 build=384b");
        assert_eq!(valkey, Some(Version { product: Product::Valkey, major: 9, minor: 0, patch: 0 }));
        assert_eq!(Version::parse("nginx version: 1.22"), None);
    }
}

//! What is used, and the settings that say so.

use std::env;
use std::fmt;
use std::str::FromStr;

/// Which of larder's parts the workers use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct What(Option<&'static str>);

pub(crate) const PARTS: [&str; 7] = ["cache", "locks", "limits", "semaphores", "jobs", "elections", "rw"];

impl What {
    pub(crate) fn has(self, part: &str) -> bool {
        self.0.is_none_or(|only| only == part)
    }
}

impl FromStr for What {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "all" {
            return Ok(Self(None));
        }
        PARTS.iter().find(|part| **part == text).map(|part| Self(Some(part))).ok_or(())
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.unwrap_or("all"))
    }
}

/// The value of a variable of the environment, where it is set.
pub(crate) fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    let Ok(value) = text.parse() else { panic!("{name} cannot be {text:?}") };
    Some(value)
}

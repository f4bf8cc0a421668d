//! The name of a key's record, made without taking memory for it: a leased permit or a known refusal takes none.

use std::cell::Cell;

use crate::context::Limits;
use crate::error::{Error, Result};
use crate::key::{CacheKey, KeyText};

const INLINE: usize = 96;

/// A name, inline where it is short.
pub(super) enum Name {
    Short([u8; INLINE], usize),
    Long(String),
}

thread_local! {
    static SCRATCH: Cell<String> = const { Cell::new(String::new()) };
}

impl Name {
    /// `prefix`, the key's text, and the brace that closes the hash tag.
    pub(super) fn new(prefix: &str, key: impl CacheKey, limits: &Limits) -> Result<Self> {
        // Taken out, as the key's own code runs meanwhile.
        let mut text = SCRATCH.take();
        text.clear();
        text.push_str(prefix);
        key.write(&mut KeyText::new(&mut text));
        text.push('}');
        let name = limits.check_key(&text).map(|()| Self::of(&text));
        SCRATCH.set(text);
        name
    }

    fn of(text: &str) -> Self {
        let mut short = [0; INLINE];
        match short.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Self::Short(short, text.len())
            }
            None => Self::Long(text.to_owned()),
        }
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self::of(&String::from_utf8_lossy(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes, length) => bytes.get(..*length).unwrap_or_default(),
            Self::Long(text) => text.as_bytes(),
        }
    }

    pub(super) fn as_str(&self) -> Result<&str> {
        str::from_utf8(self.as_bytes()).map_err(|error| Error::invalid(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_are_kept_whole() {
        let limits =
            Limits { response_timeout: std::time::Duration::ZERO, max_value_bytes: 1, max_key_bytes: 200 };
        for length in [0, 1, 90, 95, 96, 97, 150] {
            let key = "ü".repeat(length / 2);
            let name = Name::new("~limit.1:{/api:", key.as_str(), &limits).unwrap();
            assert_eq!(name.as_str().unwrap(), format!("~limit.1:{{/api:{key}}}"));
        }
        assert!(Name::new("~limit.1:{/api:", "x".repeat(200), &limits).is_err());
    }
}

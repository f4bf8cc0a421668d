//! A name in the store. Short names, which nearly all are, need no allocation.
//!
//! Every operation makes one, also a near hit, which costs less than an allocation would.

use std::cmp::Ordering;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use arrayvec::ArrayString;

const SHORT: usize = 71;

/// Text that can be appended to.
#[derive(Clone)]
pub(crate) enum Name {
    Short(ArrayString<SHORT>),
    Long(String),
}

impl Name {
    #[inline]
    pub(crate) fn new() -> Self {
        Self::Short(ArrayString::new())
    }

    #[inline]
    pub(crate) fn push_str(&mut self, text: &str) {
        if let Self::Short(short) = self
            && short.try_push_str(text).is_ok()
        {
            return;
        }
        self.push_long(text);
    }

    #[cold]
    fn push_long(&mut self, text: &str) {
        match self {
            Self::Short(short) => {
                let mut long = String::with_capacity(2 * SHORT + text.len());
                long.push_str(short);
                long.push_str(text);
                *self = Self::Long(long);
            }
            Self::Long(long) => long.push_str(text),
        }
    }

    #[inline]
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Short(short) => short,
            Self::Long(long) => long,
        }
    }
}

impl Deref for Name {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        let mut name = Self::new();
        name.push_str(text);
        name
    }
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text);
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_grows_past_its_short_form_without_losing_anything() {
        let (mut name, mut expected) = (Name::new(), String::new());
        for part in ["shop/user:", &"x".repeat(60), "y", &"z".repeat(200), ""] {
            name.push_str(part);
            expected.push_str(part);
            assert_eq!(&*name, expected);
        }
        assert_eq!(Name::from(expected.as_str()), name);
    }
}

//! Keys: how a program's values become the text of a key, so that different keys never get the same text.
//!
//! A key is text. `%`, `{`, `}` and control characters are percent-escaped, so nothing in a key can open a Redis
//! Cluster hash tag or break a log line. A tuple is its parts joined by `:`. Inside a part `:` is escaped too, so
//! `("a", "b:c")` and `("a:b", "c")` differ. Within one type of key the text is injective. Across types, keys with
//! the same text name the same entry on purpose: `"7"` and `7u64`.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::rc::Rc;
use std::sync::Arc;

use crate::name::Name;

/// Whether a byte never needs escaping and is one of those that nearly all keys consist of.
#[inline]
const fn is_plain(byte: u8) -> bool {
    const PLAIN: [u64; 2] = {
        let (mut bits, mut byte) = ([0u64; 2], 0u8);
        while byte < 128 {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
                if byte < 64 { bits[0] |= 1 << byte } else { bits[1] |= 1 << (byte - 64) }
            }
            byte += 1;
        }
        bits
    };
    let half = if byte < 64 { PLAIN[0] } else { PLAIN[1] };
    byte < 128 && half >> (byte & 63) & 1 == 1
}

/// Names an entry of a cache.
///
/// Implemented for strings, integers, `bool`, `char`, IP addresses, UUIDs (feature `uuid`), tuples of up to four
/// parts, and references to them. [`DisplayKey`] makes a key of any type that implements `Display`. You can implement
/// the trait for your own types:
///
/// ```
/// use larder::{CacheKey, KeyText};
///
/// struct UserId(u64);
///
/// impl CacheKey for UserId {
///     fn write(&self, text: &mut KeyText<'_>) {
///         self.0.write(text);
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a cache key",
    note = "wrap it in `larder::DisplayKey(…)` if it implements `Display`, or implement `CacheKey` for it (three lines)"
)]
pub trait CacheKey {
    /// Writes the key's text. Two keys that differ must write different text.
    fn write(&self, text: &mut KeyText<'_>);

    /// Returns the key itself if its text need not be written to find a near copy. Sealed: the type cannot be named
    /// outside of larder, so only larder's own keys return one.
    #[doc(hidden)]
    #[inline]
    fn plain(&self) -> Option<PlainKey<'_>> {
        None
    }
}

/// A key that finds a near copy without being written: [`CacheKey::write`] would write the integer, or escape the text.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainKey<'a> {
    Int(u64),
    Text(&'a str),
}

impl PlainKey<'_> {
    /// Whether a part of the text may be escaped. It may say so of text that is not.
    pub(crate) fn may_be_escaped(self) -> bool {
        const UNESCAPED: [u64; 2] = {
            let (mut bits, mut byte) = ([0u64; 2], b' ');
            while byte <= b'~' {
                if !matches!(byte, b'%' | b'{' | b'}') {
                    if byte < 64 { bits[0] |= 1 << byte } else { bits[1] |= 1 << (byte - 64) }
                }
                byte += 1;
            }
            bits
        };
        let unescaped = |byte: u8| {
            let half = if byte < 64 { UNESCAPED[0] } else { UNESCAPED[1] };
            byte < 128 && half >> (byte & 63) & 1 == 1
        };
        match self {
            Self::Int(_) => false,
            Self::Text(text) => !text.bytes().all(unescaped),
        }
    }
}

/// The text of a [`CacheKey`] as it is written. Escapes what it is given.
#[derive(Debug)]
pub struct KeyText<'a> {
    out: &'a mut Name,
    within_tuple: bool,
}

impl KeyText<'_> {
    pub(crate) fn new(out: &mut Name) -> KeyText<'_> {
        KeyText { out, within_tuple: false }
    }

    /// Appends text.
    #[inline]
    pub fn push(&mut self, text: &str) {
        // Most keys consist of digits and letters, and checking bytes is faster than checking characters.
        if text.bytes().all(is_plain) {
            self.out.push_str(text);
        } else {
            self.push_escaped(text);
        }
    }

    /// Appends text that may be escaped already, as tools show it: a `%` that begins an escape stays as it is.
    #[cfg(feature = "admin")]
    pub(crate) fn push_stored(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let (plain, tail) = rest.split_at(at);
            self.push(plain);
            let escape = tail.get(..3).filter(|escape| {
                escape.bytes().skip(1).all(|digit| digit.is_ascii_digit() || (b'A'..=b'F').contains(&digit))
            });
            match escape {
                Some(escape) => self.out.push_str(escape),
                None => self.push("%"),
            }
            rest = tail.get(escape.map_or(1, str::len)..).unwrap_or_default();
        }
        self.push(rest);
    }

    fn push_escaped(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| self.must_escape(c)) {
            let (plain, tail) = rest.split_at(at);
            self.out.push_str(plain);
            let mut tail_chars = tail.chars();
            if let Some(special) = tail_chars.next() {
                let mut utf8 = [0; 4];
                for byte in special.encode_utf8(&mut utf8).bytes() {
                    // Writing to a `Name` cannot fail.
                    let _ = write!(self.out, "%{byte:02X}");
                }
            }
            rest = tail_chars.as_str();
        }
        self.out.push_str(rest);
    }

    /// Appends parts joined by `:`, as tuples do. For your own keys that have several fields.
    ///
    /// ```
    /// use larder::{CacheKey, KeyText};
    ///
    /// struct Page { shelf: String, number: u32 }
    ///
    /// impl CacheKey for Page {
    ///     fn write(&self, text: &mut KeyText<'_>) {
    ///         text.parts(&[&self.shelf, &self.number]);
    ///     }
    /// }
    /// ```
    pub fn parts(&mut self, parts: &[&dyn CacheKey]) {
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                self.out.push_str(":");
            }
            part.write(&mut KeyText { out: self.out, within_tuple: true });
        }
    }

    fn must_escape(&self, c: char) -> bool {
        matches!(c, '%' | '{' | '}') || c.is_control() || (self.within_tuple && c == ':')
    }
}

impl Write for KeyText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

/// Makes a key of any type that implements `Display`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// use std::net::SocketAddr;
/// use larder::DisplayKey;
///
/// let hosts = larder.cache::<String>("host").no_expiry().build()?;
/// hosts.set(DisplayKey(SocketAddr::from(([127, 0, 0, 1], 80))), &"home".to_owned()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DisplayKey<T>(pub T);

impl<T: fmt::Display> CacheKey for DisplayKey<T> {
    fn write(&self, text: &mut KeyText<'_>) {
        // `KeyText` itself never fails. If the `Display` fails, the text written so far is the key.
        let _ = write!(text, "{}", self.0);
    }
}

/// The text of a key, owned: it outlives what the key was made of, and can be kept, sorted and shown.
///
/// ```
/// use larder::OwnedKey;
///
/// let key = OwnedKey::new(&("eu", 7));
/// assert_eq!(key.as_str(), "eu:7"); // as in `larder.explain("page:eu:7")`, after the cache's name
/// ```
///
/// [`#[larder::cached]`](crate::cached) makes one for each cached function: `shop.product_key(7)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnedKey(Name);

impl OwnedKey {
    /// Writes the text of `key`. Allocates only for text of more than 71 bytes.
    pub fn new(key: impl CacheKey) -> Self {
        let mut text = Name::new();
        key.write(&mut KeyText::new(&mut text));
        Self(text)
    }

    /// Returns the text, escaped as it is in the store.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OwnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl CacheKey for OwnedKey {
    fn write(&self, text: &mut KeyText<'_>) {
        if text.within_tuple {
            // Its own `:` must not look like one of the tuple's.
            text.push(self.as_str());
        } else {
            // Escaped already: a second time would name another entry.
            text.out.push_str(self.as_str());
        }
    }
}

impl CacheKey for str {
    #[inline]
    fn write(&self, text: &mut KeyText<'_>) {
        text.push(self);
    }

    #[inline]
    fn plain(&self) -> Option<PlainKey<'_>> {
        Some(PlainKey::Text(self))
    }
}

impl CacheKey for String {
    #[inline]
    fn write(&self, text: &mut KeyText<'_>) {
        text.push(self);
    }

    #[inline]
    fn plain(&self) -> Option<PlainKey<'_>> {
        Some(PlainKey::Text(self))
    }
}

impl CacheKey for Cow<'_, str> {
    fn write(&self, text: &mut KeyText<'_>) {
        text.push(self);
    }

    #[inline]
    fn plain(&self) -> Option<PlainKey<'_>> {
        Some(PlainKey::Text(self))
    }
}

macro_rules! displayed_keys {
    ($($type:ty),*) => {$(
        impl CacheKey for $type {
            fn write(&self, text: &mut KeyText<'_>) {
                DisplayKey(self).write(text);
            }
        }
    )*};
}

displayed_keys!(std::net::IpAddr, std::net::Ipv4Addr, std::net::Ipv6Addr);
displayed_keys!(bool, char);

/// Integers need no escaping, and the formatter would be a good part of a near hit's cost.
macro_rules! integer_keys {
    ($($type:ty),*) => {$(
        impl CacheKey for $type {
            #[inline]
            fn write(&self, text: &mut KeyText<'_>) {
                text.out.push_str(itoa::Buffer::new().format(*self));
            }

            #[inline]
            fn plain(&self) -> Option<PlainKey<'_>> {
                u64::try_from(*self).ok().map(PlainKey::Int)
            }
        }
    )*};
}

integer_keys!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

#[cfg(feature = "uuid")]
displayed_keys!(uuid::Uuid);

macro_rules! pointed_keys {
    ($($type:ty),*) => {$(
        impl<K: CacheKey + ?Sized> CacheKey for $type {
            fn write(&self, text: &mut KeyText<'_>) {
                K::write(self, text);
            }

            #[inline]
            fn plain(&self) -> Option<PlainKey<'_>> {
                K::plain(self)
            }
        }
    )*};
}

pointed_keys!(&K, Box<K>, Arc<K>, Rc<K>);

macro_rules! tuple_keys {
    ($($name:ident)+) => {
        impl<$($name: CacheKey),+> CacheKey for ($($name,)+) {
            #[expect(non_snake_case, reason = "a part is named like its type")]
            fn write(&self, text: &mut KeyText<'_>) {
                let ($($name,)+) = self;
                text.parts(&[$($name),+]);
            }
        }
    };
}

tuple_keys!(A);
tuple_keys!(A B);
tuple_keys!(A B C);
tuple_keys!(A B C D);

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key: impl CacheKey) -> String {
        let mut out = Name::new();
        key.write(&mut KeyText::new(&mut out));
        out.as_str().to_owned()
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        assert_eq!(text("user-7:größe"), "user-7:größe");
        assert_eq!(text(7u64), "7");
        assert_eq!(text(-7i8), "-7");
        assert_eq!(text(String::new()), "");
    }

    #[test]
    fn what_could_open_a_hash_tag_or_break_a_line_is_escaped() {
        assert_eq!(text("{a}%\n\u{85}"), "%7Ba%7D%25%0A%C2%85");
    }

    #[test]
    fn a_plain_key_is_what_would_be_written_or_escaped() {
        fn check(key: impl CacheKey) -> Option<String> {
            let plain = key.plain()?;
            let given = match plain {
                PlainKey::Int(number) => number.to_string(),
                PlainKey::Text(text) => text.to_owned(),
            };
            assert_eq!(text(&*given), text(&key));
            assert!(given == text(&key) || plain.may_be_escaped(), "{plain:?}");
            Some(given)
        }
        for key in ["", "7", "+7", "user-7:a b/c@d~", "{7}", "100%", "a\nb", "\u{7f}", "größe", "\u{85}"] {
            assert_eq!(check(key).as_deref(), Some(key));
            check(Cow::Borrowed(key));
        }
        assert_eq!(check(Arc::new("a".to_owned())).as_deref(), Some("a"));
        assert!(!PlainKey::Text("user-7:a b/c@d~").may_be_escaped());
        let most = &u64::MAX;
        let ints = [check(0u8), check(7i64), check(most), check(7u128)].map(Option::unwrap);
        assert_eq!(ints, ["0".to_owned(), "7".to_owned(), u64::MAX.to_string(), "7".to_owned()]);
        assert_eq!(
            (check(-7), check(u128::MAX), check(('a', 7)), check(DisplayKey(7))),
            (None, None, None, None)
        );
    }

    #[test]
    fn an_owned_key_names_the_same_entry_and_stays_one_part_of_a_tuple() {
        let key = OwnedKey::new(("a", "b:c{"));
        assert_eq!(text(&key), text(("a", "b:c{")));
        assert_eq!(text((&key, 1)), "a%3Ab%253Ac%257B:1");
        assert_ne!(text((&key, 1)), text(("a", "b:c{", 1)));
    }

    #[test]
    fn the_parts_of_a_tuple_cannot_leak_into_each_other() {
        assert_eq!(text(("a", "b:c")), "a:b%3Ac");
        assert_eq!(text(("a:b", "c")), "a%3Ab:c");
        assert_eq!(text((1, DisplayKey("x:y"), "z")), "1:x%3Ay:z");
    }
}

//! Keys of near copies: the key of an entry, without the name of its cache.
//!
//! A hit looks its copy up by [`GivenKey`], which is the caller's key as it is and builds no name. An invalidation
//! names the entry as the server does; [`EntryName::parse`] reads the cache and the key out of that name, once. Both
//! ways lead to one copy, because a text that is the canonical decimal form of a `u64` counts as that integer: the
//! keys `7u64` and `"7"` have the same name, and so the same copy. `"07"` and `"+7"` are other names, and stay text.
//!
//! The text in a name is escaped, the caller's is not, and a hit does not search it for what would be escaped. A stored
//! text without `%` is the same in both forms; one with `%` knows that it is escaped, and no caller's text is equal to
//! it. So a text that must be escaped finds nothing as it is, and is then written and looked up again.

use std::hash::{Hash, Hasher};

use quick_cache::Equivalent;

use crate::key::PlainKey;

/// The longest text that a stored key holds in place, so that comparing it takes no second access to memory.
const SHORT: usize = 22;
/// The digits of `u64::MAX`.
const MOST_DIGITS: usize = 20;

/// A key as a tier stores it.
pub(crate) trait TierKey: Hash + Eq + Clone {
    /// Returns its size, for the weight of its copy.
    fn bytes(&self) -> usize;
}

impl TierKey for Box<str> {
    fn bytes(&self) -> usize {
        self.len()
    }
}

/// The key of a near copy, as its tier stores it. The caches of all schemas of one name share a tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryKey {
    schema: u32,
    /// Whether a part of the text is escaped.
    escaped: bool,
    part: StoredPart,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum StoredPart {
    Int(u64),
    /// Zero from `len` on.
    Short {
        len: u8,
        text: [u8; SHORT],
    },
    Long(Box<[u8]>),
}

/// The same, borrowed from a caller's key or from an entry's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryKeyRef<'a> {
    schema: u32,
    part: KeyPart<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyPart<'a> {
    Int(u64),
    /// Text that is no canonical decimal form of a `u64`.
    Text(&'a [u8]),
}

impl<'a> EntryKeyRef<'a> {
    #[inline]
    pub(crate) fn int(schema: u32, number: u64) -> Self {
        Self { schema, part: KeyPart::Int(number) }
    }

    /// Makes the key of a text, as the entry's name holds it: escaped.
    #[inline]
    pub(crate) fn text(schema: u32, text: &'a str) -> Self {
        let text = text.as_bytes();
        Self { schema, part: decimal(text).map_or(KeyPart::Text(text), KeyPart::Int) }
    }
}

/// A key as its caller gives it, not escaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenKey<'a>(EntryKeyRef<'a>);

impl<'a> GivenKey<'a> {
    #[inline]
    pub(crate) fn new(schema: u32, key: PlainKey<'a>) -> Self {
        Self(match key {
            PlainKey::Int(number) => EntryKeyRef::int(schema, number),
            PlainKey::Text(text) => EntryKeyRef::text(schema, text),
        })
    }
}

impl Hash for GivenKey<'_> {
    #[inline(always)]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Equivalent<EntryKey> for GivenKey<'_> {
    #[inline]
    fn equivalent(&self, key: &EntryKey) -> bool {
        self.0.equivalent(key) && !key.escaped
    }
}

/// Reads the canonical decimal form of a `u64`: digits without a sign and without leading zeros.
#[inline]
fn decimal(text: &[u8]) -> Option<u64> {
    match text {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] if text.len() <= MOST_DIGITS => text.iter().try_fold(0u64, |number, byte| {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
        }),
        _ => None,
    }
}

impl Hash for EntryKeyRef<'_> {
    // Called, it would keep the hasher in memory.
    #[inline(always)]
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Equal keys have equal schemas, so the schema may be left out where it is zero.
        if self.schema != 0 {
            state.write_u32(self.schema);
        }
        match self.part {
            KeyPart::Int(number) => state.write_u64(number),
            KeyPart::Text(text) => state.write(text),
        }
    }
}

impl EntryKey {
    #[inline]
    fn borrowed(&self) -> EntryKeyRef<'_> {
        let part = match &self.part {
            StoredPart::Int(number) => KeyPart::Int(*number),
            StoredPart::Short { len, text } => KeyPart::Text(text.get(..usize::from(*len)).unwrap_or(text)),
            StoredPart::Long(text) => KeyPart::Text(text),
        };
        EntryKeyRef { schema: self.schema, part }
    }
}

impl From<EntryKeyRef<'_>> for EntryKey {
    fn from(key: EntryKeyRef<'_>) -> Self {
        let escaped = matches!(key.part, KeyPart::Text(text) if text.contains(&b'%'));
        let part = match key.part {
            KeyPart::Int(number) => StoredPart::Int(number),
            KeyPart::Text(text) => {
                let mut short = [0; SHORT];
                match (short.get_mut(..text.len()), u8::try_from(text.len())) {
                    (Some(place), Ok(len)) => {
                        place.copy_from_slice(text);
                        StoredPart::Short { len, text: short }
                    }
                    _ => StoredPart::Long(text.into()),
                }
            }
        };
        Self { schema: key.schema, escaped, part }
    }
}

impl Hash for EntryKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrowed().hash(state);
    }
}

impl Equivalent<EntryKey> for EntryKeyRef<'_> {
    #[inline]
    fn equivalent(&self, key: &EntryKey) -> bool {
        self.schema == key.schema
            && match (self.part, key.borrowed().part) {
                (KeyPart::Int(number), KeyPart::Int(other)) => number == other,
                (KeyPart::Text(text), KeyPart::Text(other)) => is_same(text, other),
                _ => false,
            }
    }
}

/// Compares texts. Nearly all keys are short, and comparing a few words takes less time than a call of `memcmp`.
#[inline]
fn is_same(text: &[u8], other: &[u8]) -> bool {
    if text.len() != other.len() {
        return false;
    }
    match text.len() {
        0..4 => text.iter().eq(other),
        4..8 => {
            text.first_chunk::<4>() == other.first_chunk() && text.last_chunk::<4>() == other.last_chunk()
        }
        8..16 => {
            text.first_chunk::<8>() == other.first_chunk() && text.last_chunk::<8>() == other.last_chunk()
        }
        16..=32 => {
            text.first_chunk::<16>() == other.first_chunk() && text.last_chunk::<16>() == other.last_chunk()
        }
        _ => text == other,
    }
}

impl TierKey for EntryKey {
    fn bytes(&self) -> usize {
        match &self.part {
            StoredPart::Int(_) => size_of::<u64>(),
            StoredPart::Short { len, .. } => usize::from(*len),
            StoredPart::Long(text) => text.len(),
        }
    }
}

/// The parts of an entry's name, `[<namespace>/]<cache>[@<schema>]:<key>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryName<'a> {
    /// The cache, with its namespace and without a schema.
    pub(crate) cache: &'a str,
    pub(crate) key: EntryKeyRef<'a>,
}

impl<'a> EntryName<'a> {
    /// Reads an entry's name; `None` if it is no entry's. Namespaces and names of caches contain no `/`, `@` or `:`,
    /// and a key's colons come after the first one, so there is one way to read it.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let (head, text) = name.split_once(':')?;
        let (cache, schema) = match head.split_once('@') {
            Some((cache, schema)) => (cache, u32::try_from(decimal(schema.as_bytes())?).ok()?),
            None => (head, 0),
        };
        Some(Self { cache, key: EntryKeyRef::text(schema, text) })
    }

    /// Whether the entry is of the cache with this name, in whatever namespace.
    pub(crate) fn is_of(&self, cache: &str) -> bool {
        self.cache.split_once('/').map_or(self.cache, |(_, cache)| cache) == cache
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use proptest::prelude::*;
    use quick_cache::DefaultHashBuilder;

    use super::*;
    use crate::key::{CacheKey, KeyText};
    use crate::keyspace::Keyspace;
    use crate::name::Name;

    fn int(number: u64) -> EntryKeyRef<'static> {
        EntryKeyRef::int(0, number)
    }

    fn text(text: &str) -> EntryKeyRef<'_> {
        EntryKeyRef::text(0, text)
    }

    #[test]
    fn only_the_canonical_decimal_text_is_an_integer() {
        for number in [0, 7, 10, 42, 1 << 53, u64::MAX - 1, u64::MAX] {
            assert_eq!(text(&number.to_string()), int(number));
        }
        let beyond = (u128::from(u64::MAX) + 1).to_string();
        for other in
            ["", "07", "00", "+7", "-7", " 7", "7 ", "7.0", "7a", "٧", &beyond, "99999999999999999999"]
        {
            assert!(matches!(text(other).part, KeyPart::Text(_)), "{other}");
        }
    }

    #[test]
    fn keys_of_other_schemas_and_other_texts_differ() {
        let keys =
            [text(""), text("7"), text("07"), text("+7"), text("\0"), EntryKeyRef::text(2, "7"), int(77)];
        for (place, key) in keys.iter().enumerate() {
            for (other_place, other) in keys.iter().enumerate() {
                let equal = place == other_place;
                assert_eq!(key == other, equal, "{key:?} {other:?}");
                assert_eq!(key.equivalent(&EntryKey::from(*other)), equal, "{key:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_stored_key_hashes_and_compares_like_the_borrowed_one_at_every_length() {
        let hasher = DefaultHashBuilder::default();
        for length in 0..3 * SHORT {
            let long = "x".repeat(length);
            for key in [text(&long), EntryKeyRef::text(3, &long), EntryKeyRef::int(length as u32, 7)] {
                let stored = EntryKey::from(key);
                assert!(key.equivalent(&stored) && stored.borrowed() == key);
                assert_eq!(hasher.hash_one(&stored), hasher.hash_one(key), "{length}");
            }
            assert_eq!(EntryKey::from(text(&long)).bytes(), length);
        }
    }

    #[test]
    fn texts_are_equal_only_if_all_bytes_are() {
        for length in 0..3 * SHORT {
            let one = "x".repeat(length);
            let stored = EntryKey::from(text(&one));
            assert!(text(&one).equivalent(&stored));
            assert!(!text(&format!("{one}x")).equivalent(&stored));
            for place in 0..length {
                let mut other = one.clone();
                other.replace_range(place..=place, "y");
                assert!(!text(&other).equivalent(&stored), "{other}");
            }
        }
    }

    #[test]
    fn a_key_that_must_be_escaped_is_found_only_by_its_escaped_text() {
        let given = |text| GivenKey::new(0, PlainKey::Text(text));
        let stored = EntryKey::from(text("100%25"));
        assert!(text("100%25").equivalent(&stored));
        // As it is, this text names the entry `100%2525`, and `100%` names this one.
        assert!(!given("100%25").equivalent(&stored) && !given("100%").equivalent(&stored));
        assert!(given("100").equivalent(&EntryKey::from(text("100"))));
    }

    #[test]
    fn the_parts_of_a_name_are_found() {
        let parts = |name| EntryName::parse(name).map(|name| (name.cache, name.key));
        assert_eq!(parts("user:7"), Some(("user", int(7))));
        assert_eq!(parts("shop/user@2:7"), Some(("shop/user", EntryKeyRef::int(2, 7))));
        assert_eq!(parts("shop/user:a:b/c@3"), Some(("shop/user", text("a:b/c@3"))));
        assert_eq!(parts("user:"), Some(("user", text(""))));
        assert!(
            EntryName::parse("shop/user@2:7").is_some_and(|name| name.is_of("user") && !name.is_of("shop"))
        );
        assert!(EntryName::parse("user:7").is_some_and(|name| name.is_of("user") && !name.is_of("use")));
        for no_entry in ["", "user", "user@x:7", "user@+2:7", "user@02:7", "user@4294967296:7"] {
            assert_eq!(parts(no_entry), None, "{no_entry}");
        }
    }

    /// Whether a hit finds the copy: by the caller's key as it is, or by its written form if it may be escaped.
    fn finds(key: &impl CacheKey, schema: u32, written: &Name, stored: &EntryKey) -> bool {
        let hasher = DefaultHashBuilder::default();
        let by_text = || {
            let key = EntryKeyRef::text(schema, written);
            key.equivalent(stored) && hasher.hash_one(key) == hasher.hash_one(stored)
        };
        let Some(plain) = key.plain() else { return by_text() };
        let given = GivenKey::new(schema, plain);
        let found = given.equivalent(stored) && hasher.hash_one(given) == hasher.hash_one(stored);
        // What a name is not made of finds nothing: no other key's copy.
        assert_eq!(found, !written.contains('%'), "{}", written.as_str());
        found || (plain.may_be_escaped() && by_text())
    }

    fn check(key: &impl CacheKey, namespace: Option<&str>, schema: u32) {
        let mut written = Name::new();
        key.write(&mut KeyText::new(&mut written));
        let prefix = Keyspace::new(namespace).unwrap().cache("user", schema).unwrap();
        let name = format!("{prefix}{}", written.as_str());
        let parsed = EntryName::parse(&name).unwrap();
        assert!(parsed.is_of("user") && prefix.starts_with(parsed.cache), "{name}");
        assert!(finds(key, schema, &written, &EntryKey::from(parsed.key)), "{name}");
    }

    proptest! {
        /// One entry has one copy, however its key is given and however its change is reported.
        #[test]
        fn the_key_of_a_hit_is_the_key_in_the_entrys_name(
            texts in ("[0-9]{0,21}", "[a7:/@{}%+ \\n\u{85}ö]{0,30}"),
            number in any::<u64>(),
            small in any::<i32>(),
            namespace in proptest::option::of("[a-z.]{1,5}"),
            schema in 0u32..3,
        ) {
            let namespace = namespace.as_deref();
            check(&texts.0, namespace, schema);
            check(&texts.1, namespace, schema);
            check(&number, namespace, schema);
            check(&number.to_string(), namespace, schema);
            check(&u128::from(number).wrapping_mul(3), namespace, schema);
            check(&small, namespace, schema);
            check(&(small, &texts.1), namespace, schema);
            check(&(number,), namespace, schema);
        }
    }
}

//! The names that larder uses on the server. docs/wire-format.md has the same for readers in other languages.
//!
//! An entry is `[<namespace>/]<cache>[@<schema>]:<key>`. Everything else that larder stores begins with `~`, which no
//! namespace or cache name may contain, followed by its kind and that kind's layout version. The name that it belongs
//! to is one hash tag, so that related keys share a slot. In the hash tag `/` follows the namespace even if there is
//! none: names of locks and tags may contain a `/`, and `shop/x` without a namespace must differ from `x` of `shop`.

use std::fmt::Write as _;

use crate::error::{Error, Result};
use crate::key::{CacheKey, KeyText};
use crate::name::Name;

/// The start of the name of every lock group.
pub(crate) const GROUP: &str = "~group.1:";
/// The start of the name of every semaphore.
pub(crate) const SEMAPHORE: &str = "~semaphore.1:";
/// The start of the name of every read-write lock.
pub(crate) const RW_LOCK: &str = "~rwlock.1:";
/// The start of the lock's name of every election.
pub(crate) const ELECTION: &str = "~election.2:";

/// The start of the name of every record of a process.
pub(crate) const PROCESS: &str = "~process.1:";

/// The longest namespace or cache name, in bytes.
const LONGEST_NAME: usize = 128;

/// A namespace, or none, and the names within it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keyspace {
    /// Empty, or ends in `/`.
    prefix: String,
}

impl Keyspace {
    pub(crate) fn new(namespace: Option<&str>) -> Result<Self> {
        let Some(namespace) = namespace else { return Ok(Self::default()) };
        check("a namespace", namespace)?;
        Ok(Self { prefix: format!("{namespace}/") })
    }

    /// Returns the start of every entry's name of a cache.
    pub(crate) fn cache(&self, name: &str, schema: u32) -> Result<String> {
        check("a cache's name", name)?;
        let prefix = &self.prefix;
        Ok(if schema == 0 { format!("{prefix}{name}:") } else { format!("{prefix}{name}@{schema}:") })
    }

    /// Returns an entry's full name, from the part after the namespace.
    pub(crate) fn whole(&self, entry: &str) -> Name {
        let mut whole = Name::new();
        whole.push_str(&self.prefix);
        whole.push_str(entry);
        whole
    }

    /// Returns the part after the namespace of an entry's name that a person typed: with or without the namespace,
    /// and also with the quotes and escapes of `redis-cli`.
    pub(crate) fn entry_shown(&self, shown: &str) -> Result<String> {
        let whole = match shown.strip_prefix('"').and_then(|shown| shown.strip_suffix('"')) {
            Some(quoted) => unescaped(quoted)
                .ok_or_else(|| Error::invalid(format!("{shown} is not a name as redis-cli shows it")))?,
            None => shown.to_owned(),
        };
        // No namespace, cache name or schema contains a slash or a colon.
        let before_key = whole.split(':').next().unwrap_or_default();
        match before_key.split_once('/') {
            None => Ok(whole),
            Some((namespace, _)) if namespace == self.namespace() => {
                Ok(whole.get(namespace.len() + 1..).unwrap_or_default().to_owned())
            }
            Some((other, _)) => Err(Error::invalid(format!(
                "the entry belongs to the namespace {other:?}, but this Larder uses {:?}",
                self.namespace()
            ))),
        }
    }

    pub(crate) fn tag(&self, tag: &str) -> Name {
        self.sibling("~tag.1:", tag)
    }

    /// Returns the name of the epoch, which is replaced by every invalidation of a tag.
    pub(crate) fn epoch(&self) -> Name {
        self.sibling("~epoch.1:", "")
    }

    /// Returns the name of the version that a cache's `clear` replaces, for every schema.
    pub(crate) fn clear(&self, cache: &str) -> Name {
        self.sibling("~clear.1:", cache)
    }

    /// Returns the name of the claim of an entry's refresh. The entry's full name is the hash tag, so both share a
    /// slot.
    pub(crate) fn refresh_claim(entry: &str) -> Name {
        let mut whole = Name::new();
        for part in ["~lease.2:{", entry, "}"] {
            whole.push_str(part);
        }
        whole
    }

    /// Returns the name of the mark of a run whose result will be stored under an entry.
    pub(crate) fn once(entry: &str) -> Name {
        let mut whole = Name::new();
        for part in ["~once.1:{", entry, "}"] {
            whole.push_str(part);
        }
        whole
    }

    /// Returns the name of the key that shows that the run is alive.
    pub(crate) fn pulse(entry: &str) -> Name {
        let mut whole = Self::once(entry);
        whole.push_str(":pulse");
        whole
    }

    /// Returns the name of the key which says that the run with this token was given up.
    pub(crate) fn given_up(entry: &str, token: u64) -> Name {
        let mut whole = Self::once(entry);
        // Writing to a `Name` cannot fail.
        let _ = write!(whole, ":{token:016x}");
        whole
    }

    /// Returns the name of the highest fence that has written an entry.
    pub(crate) fn fence(entry: &str) -> Name {
        let mut whole = Self::refresh_claim(entry);
        whole.push_str(":fence");
        whole
    }

    pub(crate) fn semaphore(&self, name: &str) -> Name {
        self.semaphore_part(name, |_| {})
    }

    /// Returns the name of the semaphore of one key. The colons in `name` are escaped, so it differs from that of
    /// every semaphore without a key.
    pub(crate) fn keyed_semaphore(&self, name: &str, key: impl CacheKey) -> Name {
        self.semaphore_part(name, |whole| {
            whole.push_str(":");
            key.write(&mut KeyText::new(whole));
        })
    }

    fn semaphore_part(&self, name: &str, key: impl FnOnce(&mut Name)) -> Name {
        let mut whole = Name::new();
        for part in [SEMAPHORE, "{", self.namespace(), "/"] {
            whole.push_str(part);
        }
        KeyText::new(&mut whole).parts(&[&name]);
        key(&mut whole);
        whole.push_str("}");
        whole
    }

    pub(crate) fn election(&self, name: &str) -> String {
        self.sibling(ELECTION, name).as_str().to_owned()
    }

    pub(crate) fn rw_lock(&self, name: &str) -> String {
        self.sibling(RW_LOCK, name).as_str().to_owned()
    }

    pub(crate) fn job(&self, name: &str) -> String {
        self.sibling("~job.1:", name).as_str().to_owned()
    }

    /// Returns a slot of a job as its record's name ends.
    pub(crate) fn slot(slot: &str) -> String {
        let mut text = Name::new();
        slot.write(&mut KeyText::new(&mut text));
        text.as_str().to_owned()
    }

    pub(crate) fn lock_group(&self, name: &str) -> String {
        self.sibling(GROUP, name).as_str().to_owned()
    }

    /// Returns a lock of a group as the group's table names it.
    pub(crate) fn lock_in_group(name: &str) -> String {
        let mut text = Name::new();
        name.write(&mut KeyText::new(&mut text));
        text.as_str().to_owned()
    }

    pub(crate) fn lock(&self, name: &str) -> String {
        self.sibling("~lock.2:", name).as_str().to_owned()
    }

    /// Returns the name of the list of processes, and the start of the names of their records.
    pub(crate) fn processes(&self) -> Name {
        self.sibling(PROCESS, "")
    }

    /// Returns the name of the record of the process whose tokens have this id.
    pub(crate) fn process(&self, id: u32) -> Name {
        let mut whole = self.processes();
        // Writing to a `Name` cannot fail.
        let _ = write!(whole, ":{id:08x}");
        whole
    }

    pub(crate) fn limit(&self, name: &str, key: impl CacheKey) -> Result<String> {
        check("a rate limiter's name", name)?;
        let mut whole = Name::new();
        for part in ["~limit.1:{", self.namespace(), "/", name, ":"] {
            whole.push_str(part);
        }
        key.write(&mut KeyText::new(&mut whole));
        whole.push_str("}");
        Ok(whole.as_str().to_owned())
    }

    /// Returns the start of the names of a limiter's records in a group. The group is the hash tag. Each name ends in
    /// `}`.
    pub(crate) fn limit_group(&self, name: &str, group: impl CacheKey) -> Result<String> {
        check("a rate limiter's name", name)?;
        let mut text = Name::new();
        group.write(&mut KeyText::new(&mut text));
        if text.len() > LONGEST_NAME {
            return Err(Error::invalid(format!("the name of a group has at most {LONGEST_NAME} bytes")));
        }
        Ok(format!("~limit.1:{{{}/+{}}}{{{name}:", self.namespace(), text.as_str()))
    }

    pub(crate) fn namespace(&self) -> &str {
        self.prefix.trim_end_matches('/')
    }

    fn sibling(&self, kind: &str, name: &str) -> Name {
        let mut whole = Name::new();
        for part in [kind, "{", self.namespace(), "/"] {
            whole.push_str(part);
        }
        name.write(&mut KeyText::new(&mut whole));
        whole.push_str("}");
        whole
    }
}

fn check(what: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(allowed) {
        return Err(Error::invalid(format!(
            "{what} has 1 to {LONGEST_NAME} characters of A-Z a-z 0-9 _ . -; {name:?} does not"
        )));
    }
    Ok(())
}

/// Reads the text that `redis-cli` shows between quotes.
fn unescaped(shown: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(shown.len());
    let mut rest = shown.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'a' => 7,
                b'b' => 8,
                b'x' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
                }
                other => other,
            },
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Returns a lock's name as the user gave it, without its frame.
pub(crate) fn shown(name: &str) -> &str {
    let inner = name.split_once('{').map_or(name, |(_, rest)| rest.strip_suffix('}').unwrap_or(rest));
    inner.strip_prefix('/').unwrap_or(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(namespace: Option<&str>, cache: &str, schema: u32, key: &str) -> String {
        let mut name = Name::from(&*Keyspace::new(namespace).unwrap().cache(cache, schema).unwrap());
        key.write(&mut KeyText::new(&mut name));
        name.as_str().to_owned()
    }

    #[test]
    fn a_lock_is_shown_without_its_frame() {
        assert_eq!(shown("~lock.2:{/reports}"), "reports");
        assert_eq!(shown("~lock.2:{shop/reports}"), "shop/reports");
        assert_eq!(shown("~semaphore.1:{shop/exports:ann}"), "shop/exports:ann");
    }

    #[test]
    fn an_entry_is_named_as_a_person_sees_it() {
        let shop = Keyspace::new(Some("shop")).unwrap();
        for shown in ["user:a/b", "shop/user:a/b", "\"shop/user:a/b\"", "\"user:a\\x2fb\""] {
            assert_eq!(shop.entry_shown(shown).unwrap(), "user:a/b", "{shown}");
        }
        assert_eq!(shop.entry_shown("\"user@2:gr\\xc3\\xb6\\\"e\"").unwrap(), "user@2:grö\"e");
        assert!(shop.entry_shown("other/user:a").unwrap_err().to_string().contains("\"other\""));
        assert!(shop.entry_shown("\"user:\\xZZ\"").is_err());
        assert!(Keyspace::default().entry_shown("shop/user:a").is_err());
        assert_eq!(Keyspace::default().entry_shown("user:a").unwrap(), "user:a");
    }

    #[test]
    fn an_entry_reads_as_people_expect() {
        assert_eq!(entry(None, "user", 0, "123"), "user:123");
        assert_eq!(entry(Some("shop"), "user", 2, "123"), "shop/user@2:123");
    }

    #[test]
    fn a_name_that_would_blur_the_borders_is_refused() {
        for bad in ["", "a:b", "a/b", "a@1", "~lock", "ü", "a b", &"x".repeat(129)] {
            assert!(Keyspace::default().cache(bad, 0).is_err(), "{bad}");
            assert!(Keyspace::new(Some(bad)).is_err(), "{bad}");
        }
    }

    type Entry = (Option<String>, String, u32, String);

    fn entries() -> impl Strategy<Value = Entry> {
        // Small alphabets make near-collisions likely.
        (proptest::option::of("[ab.]{1,2}"), "[ab.]{1,2}", 0u32..3, "[ab:/@{}%1~\\n]{0,4}")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn distinct_entries_have_distinct_names(a in entries(), b in entries()) {
            let name = |e: &Entry| entry(e.0.as_deref(), &e.1, e.2, &e.3);
            prop_assert_eq!(a == b, name(&a) == name(&b), "{} {}", name(&a), name(&b));
        }

        #[test]
        fn distinct_tuples_have_distinct_text(a in ("[a:%]{0,3}", "[a:%]{0,3}"), b in ("[a:%]{0,3}", "[a:%]{0,3}")) {
            let text = |t: &(String, String)| {
                let mut out = Name::new();
                t.write(&mut KeyText::new(&mut out));
                out.as_str().to_owned()
            };
            prop_assert_eq!(a == b, text(&a) == text(&b));
        }

        #[test]
        fn no_entry_meets_larders_own_names_and_none_opens_a_hash_tag(e in entries(), other in "[ab{}:]{1,4}") {
            let name = entry(e.0.as_deref(), &e.1, e.2, &e.3);
            let braces = name.contains(['{', '}']);
            prop_assert!(!name.starts_with('~') && !braces, "{}", name);
            let tag = Keyspace::default().tag(&other);
            let ends_in_brace = tag.ends_with('}');
            prop_assert_eq!(tag.matches('{').count(), 1);
            prop_assert!(ends_in_brace, "{:?}", tag);
        }
    }
}

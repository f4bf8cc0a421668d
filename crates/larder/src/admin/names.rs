//! Names as people type them, and what a name on the server belongs to.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::key::{CacheKey, KeyText};
use crate::keyspace::{ELECTION, GROUP, PROCESS, RW_LOCK, SEMAPHORE};
use crate::name::Name;
use crate::store::admin::LockKind;

/// What a key on the server belongs to, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyGroup {
    /// Entries of a cache: `user`, or `user@2` for schema 2.
    Cache(String),
    /// Versions of caches, tags, and the epoch.
    Versions,
    /// Claims of loads, marks of runs, and fences of entries.
    Loads,
    /// Locks, lock groups, read-write locks, semaphores and elections, with their queues and fences.
    Locks,
    /// Jobs and their records.
    Jobs,
    /// Records of rate limiters.
    Limits,
    /// Records of processes that announced themselves.
    Processes,
    /// Keys of larder in other namespaces.
    OtherNamespaces,
    /// Keys of other programs.
    Foreign,
}

/// A key as it is stored: not escaped again.
pub(super) struct StoredKey<'a>(pub(super) &'a str);

impl CacheKey for StoredKey<'_> {
    fn write(&self, text: &mut KeyText<'_>) {
        text.push_stored(self.0);
    }
}

/// A cache as people name it: `user`, or `user@2` for schema 2.
pub(super) struct CacheName<'a> {
    pub(super) cache: &'a str,
    /// `None` if the text names no schema.
    pub(super) schema: Option<u32>,
}

impl<'a> CacheName<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        let Some((cache, schema)) = text.split_once('@') else {
            return Ok(Self { cache: text, schema: None });
        };
        let plain = !schema.is_empty() && schema.bytes().all(|byte| byte.is_ascii_digit());
        match schema.parse() {
            Ok(schema) if plain => Ok(Self { cache, schema: Some(schema) }),
            _ => Err(Error::invalid(format!("{text:?} is no cache: a schema is a number, as in user@2"))),
        }
    }

    /// Returns the start of its entries' names.
    pub(super) fn prefix(&self, context: &Context) -> Result<String> {
        context.keyspace.cache(self.cache, self.schema.unwrap_or(0))
    }

    /// Returns the name of the version that clears it.
    pub(super) fn clear(&self, context: &Context) -> Name {
        context.keyspace.clear(self.cache)
    }
}

/// Returns the full name of an entry.
pub(super) fn entry(context: &Context, cache: &CacheName<'_>, key: &str) -> Result<Name> {
    let mut name = Name::from(cache.prefix(context)?.as_str());
    StoredKey(key).write(&mut KeyText::new(&mut name));
    context.limits.check_key(&name)?;
    Ok(name)
}

/// Returns the start of the names of a kind of lock.
fn start_of(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Lock => "~lock.2:",
        LockKind::RwLock => RW_LOCK,
        LockKind::Semaphore => SEMAPHORE,
        LockKind::Group => GROUP,
        LockKind::Election => ELECTION,
        LockKind::Job => "~job.1:",
    }
}

/// Returns the full name of a lock.
pub(super) fn lock(context: &Context, kind: LockKind, name: &str) -> Result<String> {
    let mut whole = Name::from(start_of(kind));
    whole.push_str("{");
    whole.push_str(context.keyspace.namespace());
    whole.push_str("/");
    StoredKey(name).write(&mut KeyText::new(&mut whole));
    whole.push_str("}");
    context.limits.check_key(&whole)?;
    Ok(whole.as_str().to_owned())
}

/// Returns the kind of a lock, and the name that the program gave it, if this is the name of a lock itself and not of a
/// key beside it.
pub(super) fn lock_named(namespace: &str, whole: &str) -> Option<(LockKind, String)> {
    let kind = LockKind::ALL.into_iter().find(|kind| whole.starts_with(start_of(*kind)))?;
    let inner = whole.strip_prefix(start_of(kind))?.strip_prefix('{')?.strip_suffix('}')?;
    let name = inner.strip_prefix(namespace)?.strip_prefix('/')?;
    (!name.contains(['{', '}'])).then(|| (kind, name.to_owned()))
}

/// Returns what a name belongs to.
pub(super) fn group_of(namespace: &str, whole: &str) -> KeyGroup {
    let Some(own) = whole.strip_prefix('~') else { return entry_group(namespace, whole) };
    let Some((kind, inner)) = own.split_once(":{") else { return KeyGroup::Foreign };
    let kind = kind.split('.').next().unwrap_or_default();
    // A claim or a mark has the full name of an entry in its braces; it has a slash only in a namespace.
    let of_entry = matches!(kind, "lease" | "once");
    let found = if of_entry {
        inner.split(':').next().and_then(|start| start.split_once('/')).map_or("", |(namespace, _)| namespace)
    } else {
        match inner.split_once('/') {
            Some((found, _)) => found,
            None => return KeyGroup::Foreign,
        }
    };
    let group = match kind {
        "clear" | "tag" | "epoch" => KeyGroup::Versions,
        "lease" | "once" => KeyGroup::Loads,
        "lock" | "group" | "election" | "rwlock" | "semaphore" => KeyGroup::Locks,
        "job" => KeyGroup::Jobs,
        "limit" => KeyGroup::Limits,
        _ if whole.starts_with(PROCESS) => KeyGroup::Processes,
        _ => return KeyGroup::Foreign,
    };
    if found == namespace { group } else { KeyGroup::OtherNamespaces }
}

fn entry_group(namespace: &str, whole: &str) -> KeyGroup {
    let Some((start, _)) = whole.split_once(':') else { return KeyGroup::Foreign };
    let (found, cache) = start.split_once('/').unwrap_or(("", start));
    let (name, schema) = cache.split_once('@').unwrap_or((cache, "0"));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let is_name = |text: &str| !text.is_empty() && text.len() <= 128 && text.chars().all(plain);
    if !is_name(name) || schema.parse::<u32>().is_err() || !(found.is_empty() || is_name(found)) {
        KeyGroup::Foreign
    } else if found == namespace {
        KeyGroup::Cache(cache.to_owned())
    } else {
        KeyGroup::OtherNamespaces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_wire_format_has_its_group() {
        for (name, group) in [
            ("shop/user:1", KeyGroup::Cache("user".into())),
            ("shop/page@2:a:1", KeyGroup::Cache("page@2".into())),
            ("user:1", KeyGroup::OtherNamespaces),
            ("shop2/user:1", KeyGroup::OtherNamespaces),
            ("celery", KeyGroup::Foreign),
            ("a b:1", KeyGroup::Foreign),
            ("~clear.1:{shop/user}", KeyGroup::Versions),
            ("~tag.1:{shop/team:7}", KeyGroup::Versions),
            ("~epoch.1:{shop/}", KeyGroup::Versions),
            ("~lease.2:{shop/user:1}", KeyGroup::Loads),
            ("~lease.2:{user:a/b}", KeyGroup::OtherNamespaces),
            ("~once.1:{shop/user:1}:pulse", KeyGroup::Loads),
            ("~lock.2:{shop/a}:fence", KeyGroup::Locks),
            ("~lock.2:{/shop/a}", KeyGroup::OtherNamespaces),
            ("~group.1:{shop/a}:state", KeyGroup::Locks),
            ("~rwlock.1:{shop/a}", KeyGroup::Locks),
            ("~semaphore.1:{shop/a:b}", KeyGroup::Locks),
            ("~election.2:{shop/a}", KeyGroup::Locks),
            ("~job.1:{shop/a}:run", KeyGroup::Jobs),
            ("~limit.1:{shop/+acme}{api:ann}", KeyGroup::Limits),
            ("~process.1:{shop/}:0badcafe", KeyGroup::Processes),
            ("~unknown.1:{shop/a}", KeyGroup::Foreign),
        ] {
            assert_eq!(group_of("shop", name), group, "{name}");
        }
        assert_eq!(group_of("", "~lease.2:{user:a/b}"), KeyGroup::Loads);
        assert_eq!(group_of("", "~lock.2:{/shop/a}"), KeyGroup::Locks);
    }

    #[test]
    fn a_lock_is_recognised_and_the_keys_beside_it_are_not() {
        let named = |whole: &str| lock_named("shop", whole);
        assert_eq!(named("~lock.2:{shop/a}"), Some((LockKind::Lock, "a".into())));
        assert_eq!(named("~semaphore.1:{shop/pool:x}"), Some((LockKind::Semaphore, "pool:x".into())));
        assert_eq!(named("~job.1:{shop/nightly}"), Some((LockKind::Job, "nightly".into())));
        for other in
            ["~lock.2:{shop/a}:fence", "~job.1:{shop/a}:lock", "~lock.2:{other/a}", "~tag.1:{shop/a}"]
        {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn a_key_is_escaped_where_it_is_not_yet() {
        for (typed, stored) in [
            ("a:1", "a:1"),
            ("a%3Ab", "a%3Ab"),
            ("a{b}", "a%7Bb%7D"),
            ("100%", "100%25"),
            ("100%25", "100%25"),
            ("line\nbreak", "line%0Abreak"),
            ("größe", "größe"),
        ] {
            let mut name = Name::new();
            StoredKey(typed).write(&mut KeyText::new(&mut name));
            assert_eq!(name.as_str(), stored, "{typed:?}");
        }
    }

    #[test]
    fn a_cache_is_named_as_on_the_server() {
        let user = CacheName::parse("user@2").unwrap();
        assert_eq!((user.cache, user.schema), ("user", Some(2)));
        assert!(CacheName::parse("user@").is_err() && CacheName::parse("user@+2").is_err());
    }
}

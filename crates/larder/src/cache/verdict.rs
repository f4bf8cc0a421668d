//! Decides whether stored bytes may be served. Every reader asks here, so that all of them agree.
//!
//! [`classify`] reads the envelope, then compares the versions that the entry carries with the current ones, then looks at
//! the kind and the freshness. It never waits, and it does not decode the value: the reader does that last, and only
//! for a value that it serves. Versions are known through the tracked connection as a rule. Where they are not, the
//! verdict is [`Verdict::Ask`]: the reader asks the server for all of them at once and judges again with the
//! [`VersionReplies`].
//!
//! Invariant: `classify` never asks again for what it has the answer to. It may ask for another version: one that was known
//! when it first judged, and that a push has made unknown while the others were asked for.

use std::collections::HashMap;

use crate::context::Context;
use crate::envelope::{EntryKind, Glance, TagVersion, glance};
use crate::error::Result;
use crate::name::Name;
use crate::store::Store;
use crate::store::trust::ReadStamp;
use crate::value::{Meta, OpenedEntry, Payload, open};

/// What stored bytes are to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A fresh value, which lies here.
    Serve(Payload),
    /// A value past its time, which lies here: a load that fails or is slow falls back on it.
    Stale(Payload),
    /// The origin is known to have no such thing.
    Absent,
    /// A loader is at work.
    Placeholder,
    /// An empty string, which is the same as a missing name.
    Nothing,
    /// A value, an absence or a placeholder that was invalidated since it was written.
    Invalid(Cause),
    /// Damaged, or of a layout that this build cannot read: the reason.
    Unreadable(&'static str),
    /// It depends on these versions, which are not known here.
    Ask(Vec<Name>),
}

/// What invalidated an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its cache was cleared.
    Clear,
    /// This tag was invalidated.
    Tag(String),
    /// This process wrote to it, and the invalidation waits to be sent.
    Queued,
}

/// A verdict, and what else the bytes said.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    /// All zero where there is no envelope.
    pub(super) meta: Meta,
    /// When and through what the clear version was read that was compared.
    pub(super) clear_seen: Option<ReadStamp>,
}

/// Versions that were asked for, as the server has them; `None` for one that it does not have.
pub(super) type VersionReplies = HashMap<Name, Option<(u64, Option<ReadStamp>)>>;

/// Judges what is stored under the name `entry` of the cache whose clear version is called `clear`.
pub(super) fn classify(
    context: &Context,
    clear: &Name,
    entry: &str,
    bytes: &[u8],
    answers: &VersionReplies,
) -> Result<Judged> {
    let just = |verdict| Ok(Judged { verdict, meta: Meta::default(), clear_seen: None });
    if bytes.is_empty() {
        return just(Verdict::Nothing);
    }
    if context.invalidations.covers(entry, clear) {
        return just(Verdict::Invalid(Cause::Queued));
    }
    match open(bytes) {
        Ok(opened) => rule(context, clear, opened, answers),
        Err(reason) => just(Verdict::Unreadable(reason)),
    }
}

/// Judges an entry by its first bytes, which say nothing of whether the rest is intact. `None` where an entry carries
/// tags: then only the whole of it tells.
pub(super) fn classify_start(
    context: &Context,
    clear: &Name,
    entry: &str,
    start: &[u8],
    answers: &VersionReplies,
) -> Result<Option<Judged>> {
    let just = |verdict| Ok(Some(Judged { verdict, meta: Meta::default(), clear_seen: None }));
    let meta = match glance(start) {
        Glance::Nothing => return just(Verdict::Nothing),
        Glance::Value { tagged: true, .. } => return Ok(None),
        Glance::Value { fresh_until, clear_version, .. } => {
            Meta { fresh_until, clear_version, ..Meta::default() }
        }
        Glance::Bare => Meta::default(),
    };
    if context.invalidations.covers(entry, clear) {
        return just(Verdict::Invalid(Cause::Queued));
    }
    rule(context, clear, OpenedEntry { kind: EntryKind::Value, meta, payload: Payload::default() }, answers)
        .map(Some)
}

/// The order matters: nothing else counts of what was invalidated.
fn rule(context: &Context, clear: &Name, opened: OpenedEntry, answers: &VersionReplies) -> Result<Judged> {
    let OpenedEntry { kind, meta, payload } = opened;
    let mut clear_seen = None;
    let verdict = match compare(context, clear, &meta, answers)? {
        VersionCheck::No(cause) => Verdict::Invalid(cause),
        VersionCheck::Unknown(names) => Verdict::Ask(names),
        VersionCheck::Yes(seen) => {
            clear_seen = seen;
            let now = context.store()?.now();
            match kind {
                EntryKind::Absence => Verdict::Absent,
                EntryKind::Placeholder => Verdict::Placeholder,
                EntryKind::Value if meta.fresh_until != 0 && meta.fresh_until <= now => {
                    Verdict::Stale(payload)
                }
                EntryKind::Value => Verdict::Serve(payload),
            }
        }
    };
    Ok(Judged { verdict, meta, clear_seen })
}

/// Whether the versions that an entry carries are the current ones.
enum VersionCheck {
    /// With when and through what the clear version was read.
    Yes(Option<ReadStamp>),
    No(Cause),
    /// These are not known here.
    Unknown(Vec<Name>),
}

/// Compares the versions that an entry carries with the current ones. One that differs decides, whatever is not known.
fn compare(context: &Context, clear: &Name, meta: &Meta, answers: &VersionReplies) -> Result<VersionCheck> {
    if meta.clear_version == 0 && meta.tags.is_empty() {
        return Ok(VersionCheck::Yes(None));
    }
    let (lanes, now) = (context.store()?.lanes(), context.clock.moment());
    let current = |name: &Name| {
        if let Some(known) = context.changes.versions.known(name, lanes, now) {
            return Some(Some((known.version, Some(known.seen))));
        }
        answers.get(name).copied()
    };
    let (mut clear_seen, mut unknown) = (None, Vec::new());
    if meta.clear_version != 0 {
        match current(clear) {
            Some(Some((version, seen))) if version == meta.clear_version => clear_seen = seen,
            Some(_) => return Ok(VersionCheck::No(Cause::Clear)),
            None => unknown.push(clear.clone()),
        }
    }
    for TagVersion { tag, version } in &meta.tags {
        let name = context.keyspace.tag(tag);
        let queued = context.invalidations.replaces(&name);
        match current(&name) {
            _ if queued => return Ok(VersionCheck::No(Cause::Tag(tag.clone()))),
            Some(Some((current, _))) if current == *version => {}
            Some(_) => return Ok(VersionCheck::No(Cause::Tag(tag.clone()))),
            None => unknown.push(name),
        }
    }
    Ok(if unknown.is_empty() { VersionCheck::Yes(clear_seen) } else { VersionCheck::Unknown(unknown) })
}

/// Whether these tags are known here to have these versions still. For near copies, which are not worth a round trip.
pub(super) fn tags_hold(context: &Context, tags: &[TagVersion]) -> bool {
    let Ok(store) = context.store() else { return false };
    let (lanes, now) = (store.lanes(), context.clock.moment());
    tags.iter().all(|TagVersion { tag, version }| {
        let name = context.keyspace.tag(tag);
        let known = context.changes.versions.known(&name, lanes, now);
        known.is_some_and(|known| known.version == *version) && !context.invalidations.replaces(&name)
    })
}

/// Asks the server for versions: one round trip for those that can be read together. Readers that ask for the same version at
/// the same time ask once.
pub(super) async fn ask(context: &Context, mut names: Vec<Name>) -> Result<VersionReplies> {
    names.sort_unstable();
    names.dedup();
    let (store, versions) = (context.store()?, &context.changes.versions);
    let mut found = VersionReplies::new();
    // A version whose replacement is queued is invalid, and not asked for: the answer may be from before the replacement,
    // and arrive when that has left the queue.
    names.retain(|name| {
        let queued = context.invalidations.replaces(name);
        if queued {
            found.insert(name.clone(), None);
        }
        !queued
    });
    if names.is_empty() {
        return Ok(found);
    }
    if context.asking.others(&names).await {
        // What others have asked for meanwhile is known by now.
        let now = context.clock.moment();
        names.retain(|name| match versions.known(name, store.lanes(), now) {
            Some(known) => found.insert(name.clone(), Some((known.version, Some(known.seen)))).is_some(),
            None => true,
        });
    }
    if names.is_empty() {
        return Ok(found);
    }
    let _asked = context.asking.begin(&names);
    let answers = match names.as_slice() {
        [name] => vec![versions.ask(store, name).await?],
        names => versions.ask_many(store, names).await?,
    };
    if let Some((_, seen)) = answers.iter().flatten().next() {
        context.asking.note(seen.is_some());
    }
    found.extend(names.into_iter().zip(answers));
    Ok(found)
}

/// As [`classify`], asking for what is not known: one round trip then, none as a rule.
pub(super) async fn classified(context: &Context, clear: &Name, entry: &str, bytes: &[u8]) -> Result<Judged> {
    let mut answers = VersionReplies::new();
    loop {
        let classified = classify(context, clear, entry, bytes, &answers)?;
        let Verdict::Ask(names) = classified.verdict else { return Ok(classified) };
        // Rare, and large as a future: boxed, so that every other read need not carry it.
        answers.extend(Box::pin(ask(context, names)).await?);
    }
}

impl Judged {
    /// Whether this is a value that a reader gets.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.verdict, Verdict::Serve(_))
    }

    /// Takes out the versions that are to be asked for.
    pub(super) fn unknown(&mut self) -> Vec<Name> {
        match &mut self.verdict {
            Verdict::Ask(names) => std::mem::take(names),
            _ => Vec::new(),
        }
    }
}

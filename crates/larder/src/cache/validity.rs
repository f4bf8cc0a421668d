//! Decides whether stored bytes may be served. Every reader asks here, so that all readers agree.
//!
//! [`classify`] reads the envelope, compares the versions that the entry carries with the current ones, and then
//! looks at the kind and the freshness. It never waits and does not decode the value; the reader does that last, and
//! only for a value that it serves. Versions are usually known through the tracked connection. If some are not, the
//! verdict is [`Verdict::Ask`]: the reader asks the server for all of them at once and classifies again with the
//! [`VersionReplies`].
//!
//! Invariant: `classify` never asks again for a version that it has a reply for. It may ask for another one: a
//! version that was known at first and that an invalidation has made unknown since.

use std::collections::HashMap;

use crate::context::Context;
use crate::envelope::{EnvelopeKind, Glance, TagVersion, glance};
use crate::error::Result;
use crate::name::Name;
use crate::near::{ClearVersion, KnownVersion};
use crate::store::Store;
use crate::store::session::ReadStamp;
use crate::value::{Meta, OpenedEntry, Payload, open};

/// What stored bytes mean for a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A fresh value, with the place of its payload.
    Serve(Payload),
    /// A value past its time to live, with the place of its payload. A load that fails or is slow falls back on it.
    Stale(Payload),
    /// The origin is known to have no such value.
    Absent,
    /// A load is under way.
    Placeholder,
    /// An empty string, which means the same as a missing name.
    Nothing,
    /// A value, an absence or a placeholder that was invalidated since it was written.
    Invalid(Cause),
    /// Damaged, or of a layout that this build cannot read, with the reason.
    Unreadable(&'static str),
    /// The verdict depends on these versions, which are not known here.
    Ask(Vec<Name>),
}

/// What invalidated an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// The cache was cleared.
    Clear,
    /// This tag was invalidated.
    Tag(String),
    /// This process wrote to the entry, and the invalidation is queued.
    Queued,
}

/// A verdict with the entry's other fields.
#[derive(Debug)]
pub(super) struct Classified {
    pub(super) verdict: Verdict,
    /// All zero if there is no envelope.
    pub(super) meta: Meta,
    /// The stamp of the clear version that was compared.
    pub(super) clear_stamp: Option<ReadStamp>,
}

/// The server's replies to requests for versions; `None` for a version that does not exist.
pub(super) type VersionReplies = HashMap<Name, Option<(u64, Option<ReadStamp>)>>;

/// Classifies the bytes stored under the name `entry`, in the cache whose clear version is named `clear`.
pub(super) fn classify(
    context: &Context,
    clear: &ClearVersion,
    entry: &str,
    bytes: &[u8],
    answers: &VersionReplies,
) -> Result<Classified> {
    let just = |verdict| Ok(Classified { verdict, meta: Meta::default(), clear_stamp: None });
    if bytes.is_empty() {
        return just(Verdict::Nothing);
    }
    if context.invalidation_queue.covers(entry, clear) {
        return just(Verdict::Invalid(Cause::Queued));
    }
    match open(bytes) {
        Ok(opened) => rule(context, clear, opened, answers),
        Err(reason) => just(Verdict::Unreadable(reason)),
    }
}

/// Classifies an entry by its first bytes, which do not say whether the rest is intact. `None` if the entry carries
/// tags; then the whole entry is needed.
pub(super) fn classify_start(
    context: &Context,
    clear: &ClearVersion,
    entry: &str,
    start: &[u8],
    answers: &VersionReplies,
) -> Result<Option<Classified>> {
    let just = |verdict| Ok(Some(Classified { verdict, meta: Meta::default(), clear_stamp: None }));
    let meta = match glance(start) {
        Glance::Nothing => return just(Verdict::Nothing),
        Glance::Value { tagged: true, .. } => return Ok(None),
        Glance::Value { fresh_until, clear_version, .. } => {
            Meta { fresh_until, clear_version, ..Meta::default() }
        }
        Glance::Bare => Meta::default(),
    };
    if context.invalidation_queue.covers(entry, clear) {
        return just(Verdict::Invalid(Cause::Queued));
    }
    rule(
        context,
        clear,
        OpenedEntry { kind: EnvelopeKind::Value, meta, payload: Payload::default() },
        answers,
    )
    .map(Some)
}

/// Applies the rules in order: an invalid entry is invalid whatever its kind and its freshness.
fn rule(
    context: &Context,
    clear: &ClearVersion,
    opened: OpenedEntry,
    answers: &VersionReplies,
) -> Result<Classified> {
    let OpenedEntry { kind, meta, payload } = opened;
    let mut clear_stamp = None;
    let verdict = match compare(context, clear, &meta, answers)? {
        VersionCheck::No(cause) => Verdict::Invalid(cause),
        VersionCheck::Unknown(names) => Verdict::Ask(names),
        VersionCheck::Yes(stamp) => {
            clear_stamp = stamp;
            let now = context.store()?.now();
            match kind {
                EnvelopeKind::Absence => Verdict::Absent,
                EnvelopeKind::Placeholder => Verdict::Placeholder,
                EnvelopeKind::Value if meta.fresh_until != 0 && meta.fresh_until <= now => {
                    Verdict::Stale(payload)
                }
                EnvelopeKind::Value => Verdict::Serve(payload),
            }
        }
    };
    Ok(Classified { verdict, meta, clear_stamp })
}

/// Whether an entry's versions are the current ones.
enum VersionCheck {
    /// They are, with the stamp of the clear version.
    Yes(Option<ReadStamp>),
    No(Cause),
    /// These versions are not known here.
    Unknown(Vec<Name>),
}

/// Compares an entry's versions with the current ones. One version that differs decides, even if others are unknown.
fn compare(
    context: &Context,
    clear: &ClearVersion,
    meta: &Meta,
    answers: &VersionReplies,
) -> Result<VersionCheck> {
    if meta.clear_version == 0 && meta.tags.is_empty() {
        return Ok(VersionCheck::Yes(None));
    }
    let (sessions, now) = (context.store()?.sessions(), context.clock.moment());
    let versions = &context.invalidations.versions;
    let current = |name: &Name, known: Option<KnownVersion>| match known {
        Some(known) => Some(Some((known.version, Some(known.stamp)))),
        None => answers.get(name).copied(),
    };
    let (mut clear_stamp, mut unknown) = (None, Vec::new());
    if meta.clear_version != 0 {
        match current(clear, versions.known_clear(clear, sessions, now)) {
            Some(Some((version, stamp))) if version == meta.clear_version => clear_stamp = stamp,
            Some(_) => return Ok(VersionCheck::No(Cause::Clear)),
            None => unknown.push(Name::clone(clear)),
        }
    }
    for TagVersion { tag, version } in &meta.tags {
        let name = context.keyspace.tag(tag);
        let queued = context.invalidation_queue.replaces(&name);
        match current(&name, versions.known(&name, sessions, now)) {
            _ if queued => return Ok(VersionCheck::No(Cause::Tag(tag.clone()))),
            Some(Some((current, _))) if current == *version => {}
            Some(_) => return Ok(VersionCheck::No(Cause::Tag(tag.clone()))),
            None => unknown.push(name),
        }
    }
    Ok(if unknown.is_empty() { VersionCheck::Yes(clear_stamp) } else { VersionCheck::Unknown(unknown) })
}

/// Whether these tags are known here to still have these versions. For near copies, which are not worth a round trip.
pub(super) fn tags_hold(context: &Context, tags: &[TagVersion]) -> bool {
    let Ok(store) = context.store() else { return false };
    let (sessions, now) = (store.sessions(), context.clock.moment());
    tags.iter().all(|TagVersion { tag, version }| {
        let name = context.keyspace.tag(tag);
        let known = context.invalidations.versions.known(&name, sessions, now);
        known.is_some_and(|known| known.version == *version) && !context.invalidation_queue.replaces(&name)
    })
}

/// Asks the server for versions: one round trip for those that can be read together. Readers that need the same
/// version at the same time share one request.
pub(super) async fn ask(context: &Context, mut names: Vec<Name>) -> Result<VersionReplies> {
    names.sort_unstable();
    names.dedup();
    let (store, versions) = (context.store()?, &context.invalidations.versions);
    let mut found = VersionReplies::new();
    // A version whose replacement is queued is invalid, and the server is not asked for it. The server's reply could
    // be from before the replacement and arrive after the replacement has left the queue.
    names.retain(|name| {
        let queued = context.invalidation_queue.replaces(name);
        if queued {
            found.insert(name.clone(), None);
        }
        !queued
    });
    if names.is_empty() {
        return Ok(found);
    }
    if context.asking.others(&names).await {
        // Versions that other readers have asked for are known by now.
        let now = context.clock.moment();
        names.retain(|name| match versions.known(name, store.sessions(), now) {
            Some(known) => found.insert(name.clone(), Some((known.version, Some(known.stamp)))).is_some(),
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
    if let Some((_, stamp)) = answers.iter().flatten().next() {
        context.asking.note(stamp.is_some());
    }
    found.extend(names.into_iter().zip(answers));
    Ok(found)
}

/// Like [`classify`], and asks for unknown versions: one round trip then, usually none.
pub(super) async fn classified(
    context: &Context,
    clear: &ClearVersion,
    entry: &str,
    bytes: &[u8],
) -> Result<Classified> {
    let mut answers = VersionReplies::new();
    loop {
        let classified = classify(context, clear, entry, bytes, &answers)?;
        let Verdict::Ask(names) = classified.verdict else { return Ok(classified) };
        // Rare, and a large future. Boxed, so that other reads need not carry it.
        answers.extend(Box::pin(ask(context, names)).await?);
    }
}

impl Classified {
    /// Whether a reader gets this value.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.verdict, Verdict::Serve(_))
    }

    /// Takes out the names of the versions to ask for.
    pub(super) fn unknown(&mut self) -> Vec<Name> {
        match &mut self.verdict {
            Verdict::Ask(names) => std::mem::take(names),
            _ => Vec::new(),
        }
    }
}

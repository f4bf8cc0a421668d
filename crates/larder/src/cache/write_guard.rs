//! A write under way, and what must happen when it ends, however it ends.
//!
//! A write ends with its reply, with an error, or because its future is dropped. In each case the guard detaches the
//! loads under way and drops the near copies of the names. This happens after the write, not before: a load or a near
//! copy that began between an early detach and the write would bring the old value back.
//!
//! If no reply says whether the write took effect, the guard queues an invalidation of the names.

use std::ops::Deref;

use super::Cache;
use super::unfenced::UnfencedWrite;
use crate::error::Result;
use crate::name::Name;
use crate::value::Value;

impl<V> Cache<V>
where
    V: Value,
{
    /// Begins a write to these names; see [`WriteGuard`]. Call it before the first await of the write.
    pub(super) fn writing<'a>(&'a self, names: impl Into<WriteNames<'a>>) -> WriteGuard<'a, V> {
        let names = names.into();
        let began = self.context.invalidation_queue.begin_write(&names);
        let unfenced = self.shared.unfenced.write(&names);
        WriteGuard { cache: self, names, answers: WriteReplies::None, began, unfenced }
    }
}

/// A write under way. Make it before the write's first await: a write that is dropped at that await must queue its
/// invalidation.
pub(super) struct WriteGuard<'a, V>
where
    V: Value,
{
    cache: &'a Cache<V>,
    names: WriteNames<'a>,
    answers: WriteReplies,
    /// The generation of the invalidation queue when this write began, if anything was queued then.
    began: Option<u64>,
    unfenced: UnfencedWrite,
}

/// The names of a write. Most writes have one, which needs no allocation.
pub(super) enum WriteNames<'a> {
    One([&'a str; 1]),
    Many(Vec<&'a str>),
}

impl<'a> From<&'a Name> for WriteNames<'a> {
    fn from(name: &'a Name) -> Self {
        Self::One([name])
    }
}

impl<'a> FromIterator<&'a Name> for WriteNames<'a> {
    fn from_iter<N: IntoIterator<Item = &'a Name>>(names: N) -> Self {
        Self::Many(names.into_iter().map(Name::as_str).collect())
    }
}

impl<'a> Deref for WriteNames<'a> {
    type Target = [&'a str];

    fn deref(&self) -> &[&'a str] {
        match self {
            Self::One(name) => name,
            Self::Many(names) => names,
        }
    }
}

/// The server's reply for one name of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteReply {
    /// No reply, or one that leaves open whether the write took effect.
    None,
    /// The server refused it.
    Refused,
    CarriedOut,
}

impl WriteReply {
    fn of<T>(answer: &Result<T>) -> Self {
        match answer {
            Ok(_) => Self::CarriedOut,
            Err(error) if error.is_outage() => Self::None,
            Err(_) => Self::Refused,
        }
    }
}

/// The replies to a write, by the position of the name.
enum WriteReplies {
    None,
    Same(WriteReply),
    Each(Vec<WriteReply>),
}

impl WriteReplies {
    fn of(&self, place: usize) -> WriteReply {
        match self {
            Self::None => WriteReply::None,
            Self::Same(answer) => *answer,
            Self::Each(answers) => answers.get(place).copied().unwrap_or(WriteReply::None),
        }
    }
}

impl<V> WriteGuard<'_, V>
where
    V: Value,
{
    /// Waits until no earlier request can take effect after this write: queued invalidations of these names that are
    /// on their way, and stores of loads without a fence.
    pub(super) async fn ready(&self) {
        if self.began.is_some() {
            self.cache.context.invalidation_queue.in_flight_ended(&self.names).await;
        }
        self.unfenced.settled().await;
    }

    /// Records the reply for one name, by its position among the names.
    pub(super) fn note<T>(&mut self, place: usize, answer: &Result<T>) {
        if !matches!(self.answers, WriteReplies::Each(_)) {
            self.answers = WriteReplies::Each(vec![WriteReply::None; self.names.len()]);
        }
        if let WriteReplies::Each(answers) = &mut self.answers
            && let Some(noted) = answers.get_mut(place)
        {
            *noted = WriteReply::of(answer);
        }
    }

    /// Ends a write that has one reply for all names, and returns that reply. An outage's error says that the names
    /// are queued.
    pub(super) fn answered<T>(mut self, answer: Result<T>) -> Result<T> {
        self.answers = WriteReplies::Same(WriteReply::of(&answer));
        answer.map_err(|error| if error.is_outage() { error.queued() } else { error })
    }

    /// Ends a write that has a reply for each name. Returns the error of a name that the server refused, if there is
    /// one; any other failure was an outage, and its names are queued.
    pub(super) fn answered_each<T>(mut self, answers: Vec<Result<T>>) -> Result<Vec<T>> {
        for (place, answer) in answers.iter().enumerate() {
            self.note(place, answer);
        }
        let (mut values, mut queued) = (Vec::with_capacity(answers.len()), None);
        for answer in answers {
            match answer {
                Ok(value) => values.push(value),
                Err(error) if error.is_outage() => queued = queued.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        queued.map_or(Ok(values), |error| Err(error.queued()))
    }
}

impl<V> Drop for WriteGuard<'_, V>
where
    V: Value,
{
    fn drop(&mut self) {
        let Self { cache, names, answers, began, .. } = self;
        let context = &cache.context;
        let each = || names.iter().enumerate().map(|(place, name)| (*name, answers.of(place)));
        if let Some(began) = *began {
            for (name, answer) in each() {
                context.invalidation_queue.end_write(name, began, answer == WriteReply::CarriedOut);
            }
        }
        if !context.is_embedded() && each().any(|(_, answer)| answer == WriteReply::None) {
            let clear = cache.has_versions().then(|| cache.shared.clear.as_str());
            let open = each().filter(|(_, answer)| *answer == WriteReply::None).map(|(name, _)| name);
            context.queue_deletes(open, clear);
        }
        cache.shared.forget_near(names.iter().copied());
        cache.shared.flights.detach(names);
    }
}

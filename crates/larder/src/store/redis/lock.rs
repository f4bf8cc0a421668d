//! Locks on Redis: each operation is one script, and so one round trip. An operation on several locks is one
//! script for each slot.
//!
//! An attempt that may wait runs on the tracking connection, where the server registers the wake-up key that
//! the script reads. So enqueueing and subscribing are one command. Redis before 7.2 registers all keys of a
//! script that reads one of them, and notifies the waiting process of the next change of each: four messages
//! that wake no task, but one round trip less. On Redis 6, where pushes and replies may be mixed up, and on a
//! server that refuses tracking, the attempt runs on another connection and subscribes with a read of its
//! own.

use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::lock_names::{
    FENCE_KEPT, digits, fence_name, group_names, origin_name, queue_name, seen_name, semaphore_names,
    with_last,
};
use super::node::Replay;
use super::script::Script;
use super::wire::Reply;
#[cfg(test)]
use super::wire::Request;
use super::{RedisStore, bytes, flag, get_command, millis, number, script, unexpected, version_text};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::group::is_group;
use crate::store::lock::{
    Attempted, HeldBy, LockRequest, LockStore, LockToken, QueueStatus, QueueTiming, Renewal, WhenHeld,
    token_text, wake_name,
};
use crate::store::permit::is_semaphore;
use crate::store::read_version;

/// The most locks of one renewal or heartbeat, because a script must not block the server for long.
const MOST: usize = 512;
impl RedisStore {
    /// Sends an attempt once. If it may wait, it is sent on the tracking connection.
    pub(super) async fn attempt(
        &self,
        lock: &str,
        script: &Script,
        names: &[&str],
        arguments: &[&[u8]],
        queue: WhenHeld,
    ) -> Result<Attempted> {
        if queue == WhenHeld::Return {
            // Sent on the connection of releases, and so after the release of a guard that was dropped
            // before.
            let answer = self.network.run_script(lock, script, names, arguments, Replay::Never);
            return attempted(&answer.await?, false);
        }
        let (answer, notified) = self.network.run_script_once_tracked(lock, script, names, arguments).await?;
        attempted(&answer, notified)
    }

    /// The timing of a queue, as arguments of a script.
    fn timing(&self) -> [String; 2] {
        let QueueTiming { claim, live } = self.timing;
        [millis(claim), millis(live)]
    }

    /// Renews what was granted, by a script that takes for each holder the keys of `keys_of`, a token and
    /// milliseconds.
    pub(super) async fn renew_by(
        &self,
        script: &Script,
        keys_of: impl Fn(&str) -> Vec<Name>,
        held: &[(LockToken, Duration)],
        max_wait: Duration,
    ) -> Result<Vec<Option<Renewal>>> {
        let names: Vec<&str> = held.iter().map(|(ticket, _)| ticket.lock.as_str()).collect();
        let groups = self.network.groups(&names);
        let parts: Vec<&[usize]> = groups.iter().flat_map(|group| group.places.chunks(MOST)).collect();
        let answers = join_all(parts.iter().map(async |places| {
            within(max_wait, async {
                let held: Vec<_> = places.iter().filter_map(|place| held.get(*place)).collect();
                let keys: Vec<Name> = held.iter().flat_map(|(ticket, _)| keys_of(&ticket.lock)).collect();
                let keys: Vec<&str> = keys.iter().map(Name::as_str).collect();
                let arguments: Vec<String> = held
                    .iter()
                    .flat_map(|(ticket, ttl)| [version_text(ticket.token), millis(*ttl)])
                    .collect();
                let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
                let name = keys.first().copied().unwrap_or_default();
                let answer = self.network.run_script(name, script, &keys, &arguments, Replay::Safe).await?;
                array(answer)?.iter().map(renewal).collect::<Result<Vec<_>>>()
            })
            .await
        }))
        .await;
        known(held.len(), &parts, answers)
    }
}

impl RedisStore {
    /// Sends heartbeats for the elements of `waiting` at `places`, by a script that takes for each lock the
    /// keys of `keys_of`.
    async fn heartbeat_at(
        &self,
        waiting: &[LockToken],
        places: &[usize],
        script: &Script,
        keys_of: impl Fn(&str) -> Vec<Name>,
        max_wait: Duration,
    ) -> Result<Vec<Option<QueueStatus>>> {
        let tickets: Vec<&LockToken> = places.iter().filter_map(|place| waiting.get(*place)).collect();
        let [claim, live] = self.timing();
        let names: Vec<&str> = tickets.iter().map(|ticket| ticket.lock.as_str()).collect();
        let groups = self.network.groups(&names);
        let parts: Vec<&[usize]> = groups.iter().flat_map(|group| group.places.chunks(MOST)).collect();
        let answers = join_all(parts.iter().map(async |places| {
            within(max_wait, async {
                let part: Vec<&LockToken> =
                    places.iter().filter_map(|place| tickets.get(*place).copied()).collect();
                let (mut keys, mut arguments) = (Vec::new(), vec![claim.clone(), live.clone()]);
                for of_lock in part.chunk_by(|a, b| a.lock == b.lock) {
                    if let Some(LockToken { lock, .. }) = of_lock.first() {
                        keys.extend(keys_of(lock));
                    }
                    arguments.push(of_lock.len().to_string());
                    arguments.extend(of_lock.iter().map(|ticket| version_text(ticket.token)));
                }
                let keys: Vec<&str> = keys.iter().map(Name::as_str).collect();
                let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
                let name = keys.first().copied().unwrap_or_default();
                let answer = self.network.run_script(name, script, &keys, &arguments, Replay::Safe).await?;
                array(answer)?.iter().map(turn).collect::<Result<Vec<_>>>()
            })
            .await
        }))
        .await;
        known(tickets.len(), &parts, answers)
    }
}

#[cfg(test)]
impl RedisStore {
    /// Ends everything that is held.
    pub(in crate::store) async fn end_permits(&self, semaphore: &str) {
        let tokens = Request::new("ZRANGE").arg(semaphore).arg("0").arg("-1");
        let Reply::Array(tokens) = self.network.run(semaphore, &tokens, Replay::Safe).await.unwrap() else {
            panic!("no array")
        };
        for token in tokens {
            let end = Request::new("ZADD").arg(semaphore).arg("1").arg(bytes(token).unwrap().unwrap());
            self.network.run(semaphore, &end, Replay::Safe).await.unwrap();
        }
    }

    /// Returns how long the lock is still held, if it is.
    pub(in crate::store) async fn time_left(&self, lock: &str) -> Option<Duration> {
        let asked = Request::new("PTTL").arg(lock);
        let left = self.network.run(lock, &asked, Replay::Safe).await.unwrap();
        if left == Reply::Int(-2) { None } else { Some(Duration::from_millis(number(&left).unwrap())) }
    }

    /// Returns how long the last fence is still remembered.
    pub(in crate::store) async fn fence_left(&self, lock: &str) -> Duration {
        self.time_left(&fence_name(lock)).await.unwrap_or_default()
    }

    /// Ends the current hold.
    pub(in crate::store) async fn end(&self, lock: &str) {
        let end = Request::new("DEL").arg(lock);
        self.network.run(lock, &end, Replay::Safe).await.unwrap();
    }
}

/// Waits for one part's answer within `max_wait`, so that a part that fails or hangs does not take the
/// answers of the others.
pub(super) async fn within<T>(max_wait: Duration, asked: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(max_wait, asked).await.unwrap_or_else(|_| Err(Error::timed_out(max_wait)))
}

/// Collects the answers of all parts, by index. Fails only if no part has answered.
pub(super) fn known<T>(
    count: usize,
    parts: &[&[usize]],
    answers: Vec<Result<Vec<T>>>,
) -> Result<Vec<Option<T>>> {
    let mut ordered: Vec<Option<T>> = std::iter::repeat_with(|| None).take(count).collect();
    let (mut any, mut failure) = (false, None);
    for (places, answers) in parts.iter().zip(answers) {
        match answers {
            Ok(answers) => {
                any = true;
                for (place, answer) in places.iter().zip(answers) {
                    if let Some(slot) = ordered.get_mut(*place) {
                        *slot = Some(answer);
                    }
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    failure.filter(|_| !any).map_or(Ok(ordered), Err)
}

pub(super) fn attempted(answer: &Reply, notified: bool) -> Result<Attempted> {
    match answer {
        Reply::Int(0) => Ok(Attempted::Held),
        Reply::Int(1) => Ok(Attempted::Waiting { notified }),
        Reply::Int(-1) => Ok(Attempted::Gone),
        Reply::Int(until) if *until < 0 => Ok(Attempted::Quarantined { until: until.unsigned_abs() }),
        Reply::Int(fence) => Ok(Attempted::Granted { fence: fence.unsigned_abs() }),
        other => Err(unexpected(other)),
    }
}

fn turn(answer: &Reply) -> Result<QueueStatus> {
    match answer {
        Reply::Int(0) => Ok(QueueStatus::Waits),
        Reply::Int(1) => Ok(QueueStatus::YourTurn),
        Reply::Int(2) => Ok(QueueStatus::Gone),
        other => Err(unexpected(other)),
    }
}

fn renewal(answer: &Reply) -> Result<Renewal> {
    match answer {
        Reply::Array(holder) => held_by(holder).map(Renewal::Lost),
        other => flag(other).map(Renewal::of),
    }
}

pub(super) fn array(answer: Reply) -> Result<Vec<Reply>> {
    match answer {
        Reply::Array(values) => Ok(values),
        other => Err(unexpected(&other)),
    }
}

/// Reads the reply about a holder: fence and process, milliseconds, number of waiters, token; or nothing.
pub(super) fn held_by(answer: &[Reply]) -> Result<Option<HeldBy>> {
    let [last, left, waiting, token] = answer else { return Ok(None) };
    let last = bytes(last.clone())?.unwrap_or_default();
    let last = String::from_utf8_lossy(&last);
    let (fence, process) = last.split_once(' ').unwrap_or((&last, ""));
    let token = bytes(token.clone())?.as_deref().and_then(read_version).unwrap_or_default();
    Ok(Some(HeldBy {
        token,
        process: process.to_owned(),
        fence: fence.parse().unwrap_or_default(),
        remaining: Duration::from_millis(number(left).unwrap_or_default()),
        waiting: number(waiting)?,
    }))
}

impl LockStore for RedisStore {
    async fn acquire_as(
        &self,
        lock: &str,
        token: u64,
        LockRequest { ttl, by, quarantine }: LockRequest<'_>,
        queue: WhenHeld,
    ) -> Result<Attempted> {
        let (fence, waiters, wake) = (fence_name(lock), queue_name(lock), wake_name(lock, token));
        let (token, kept, ttl) = (token_text(token), digits(ttl + FENCE_KEPT), digits(ttl));
        let timing = &self.timing_argument;
        let how = if queue == WhenHeld::Enqueue { &timing.enqueue } else { &timing.refuse };
        let names = [lock, &fence, &waiters, &wake];
        let arguments = [token.as_bytes(), ttl.as_bytes(), kept.as_bytes(), how.as_bytes(), by.as_bytes()];
        if let Some(longest) = quarantine {
            let (origin, longest) = (origin_name(lock), digits(longest));
            let names = with_last(&names, &origin);
            let arguments = with_last(&arguments, longest.as_bytes());
            return self.attempt(lock, &script::ACQUIRE_QUARANTINED, &names, &arguments, queue).await;
        }
        self.attempt(lock, &script::ACQUIRE, &names, &arguments, queue).await
    }

    async fn confirm_as(&self, lock: &str, token: u64, request: LockRequest<'_>) -> Result<Attempted> {
        let LockRequest { ttl, by, quarantine } = request;
        let (fence, waiters, wake) = (fence_name(lock), queue_name(lock), wake_name(lock, token));
        let (token, kept, ttl) = (token_text(token), digits(ttl + FENCE_KEPT), digits(ttl));
        let (claim, live) = (digits(self.timing.claim), digits(self.timing.live));
        let names = [lock, &fence, &waiters, &wake];
        let arguments = [&token[..], &ttl, &kept, &claim, &live, by].map(str::as_bytes);
        let answer = match quarantine {
            None => self.network.run_script(lock, &script::CONFIRM, &names, &arguments, Replay::Safe).await?,
            Some(longest) => {
                let (origin, longest) = (origin_name(lock), digits(longest));
                let names = with_last(&names, &origin);
                let arguments = with_last(&arguments, longest.as_bytes());
                let script = &script::CONFIRM_QUARANTINED;
                self.network.run_script(lock, script, &names, &arguments, Replay::Safe).await?
            }
        };
        attempted(&answer, false)
    }

    async fn subscribe(&self, lock: &str, token: u64) -> Result<bool> {
        let (answer, _) = self.network.run_tracked(lock, &get_command(&wake_name(lock, token))).await?;
        Ok(bytes(answer)?.is_some())
    }

    async fn heartbeat(&self, waiting: &[LockToken], max_wait: Duration) -> Result<Vec<Option<QueueStatus>>> {
        let of = |is: fn(&str) -> bool| {
            let is = |place: &usize| waiting.get(*place).is_some_and(|ticket| is(&ticket.lock));
            (0..waiting.len()).filter(is).collect::<Vec<usize>>()
        };
        let (semaphores, groups) = (of(is_semaphore), of(is_group));
        let locks = of(|name| !is_semaphore(name) && !is_group(name));
        let keys_of_group = |group: &str| group_names(group).to_vec();
        let keys_of_lock = |lock: &str| vec![Name::from(lock), queue_name(lock), seen_name(lock)];
        let keys_of_semaphore = |semaphore: &str| semaphore_names(semaphore).to_vec();
        let (of_locks, of_semaphores, of_groups) = tokio::join!(
            self.heartbeat_at(waiting, &locks, &script::HEARTBEAT, keys_of_lock, max_wait),
            self.heartbeat_at(
                waiting,
                &semaphores,
                &script::HEARTBEAT_OF_PERMITS,
                keys_of_semaphore,
                max_wait
            ),
            self.heartbeat_at(waiting, &groups, &script::HEARTBEAT_OF_GROUPS, keys_of_group, max_wait),
        );
        let parts = [locks.as_slice(), &semaphores, &groups];
        let asked =
            parts.into_iter().zip([of_locks, of_semaphores, of_groups]).filter(|(part, _)| !part.is_empty());
        let (parts, answers): (Vec<_>, Vec<_>) = asked.unzip();
        known(waiting.len(), &parts, answers).map(|turns| turns.into_iter().map(Option::flatten).collect())
    }

    async fn give_up(&self, lock: &str, token: u64, remembered: Duration) -> Result<bool> {
        let (queue, seen, wake) = (queue_name(lock), seen_name(lock), wake_name(lock, token));
        let [claim, live] = self.timing();
        let (token, remembered) = (version_text(token), millis(remembered));
        let names = [lock, &queue, &seen, &wake];
        let arguments = [token.as_bytes(), claim.as_bytes(), live.as_bytes(), remembered.as_bytes()];
        let script = &self.ordered.give_up;
        flag(&self.network.run_in_order(lock, script, &names, &arguments, Replay::Safe).await?)
    }

    async fn extend(
        &self,
        held: &[(LockToken, Duration)],
        max_wait: Duration,
    ) -> Result<Vec<Option<Renewal>>> {
        self.renew_by(&script::EXTEND, |lock| vec![Name::from(lock), fence_name(lock)], held, max_wait).await
    }

    async fn acknowledged(
        &self,
        held: &[LockToken],
        replicas: u32,
        max_wait: Duration,
    ) -> Result<Vec<Option<bool>>> {
        self.acknowledged_by(held, replicas, max_wait).await
    }

    async fn release(&self, lock: &str, token: u64) -> Result<bool> {
        let queue = queue_name(lock);
        let (token, how) = (token_text(token), &self.timing_argument.release);
        let names = [lock, &queue];
        let arguments = [token.as_bytes(), how.as_bytes()];
        let script = &self.ordered.release;
        flag(&self.network.run_in_order(lock, script, &names, &arguments, Replay::Never).await?)
    }

    async fn release_unwaited(&self, lock: &str, token: u64) -> Result<bool> {
        // A lock that attempts wait for has a mark after its token, so this deletes none of those.
        if let Some(reply) = self.network.delete_if(lock, &token_text(token)).await?
            && flag(&reply)?
        {
            return Ok(true);
        }
        // The lock has a mark, is lost, or the server has no such command.
        self.release(lock, token).await
    }

    async fn holder(&self, lock: &str) -> Result<Option<HeldBy>> {
        let (fence, queue) = (fence_name(lock), queue_name(lock));
        let names = [lock, &fence, &queue];
        let answer = self.network.run_script(lock, &script::HOLDER, &names, &[], Replay::Safe).await?;
        held_by(&array(answer)?)
    }

    async fn break_if(&self, lock: &str, fence: u64) -> Result<bool> {
        let (last, queue, seen) = (fence_name(lock), queue_name(lock), seen_name(lock));
        let (fence, [claim, live]) = (fence.to_string(), self.timing());
        let names = [lock, &last, &queue, &seen];
        let arguments = [fence.as_bytes(), claim.as_bytes(), live.as_bytes()];
        flag(&self.network.run_script(lock, &script::BREAK_IF, &names, &arguments, Replay::Never).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_scripts_spans_are_those_of_the_pace() {
        let kept = 2 * QueueTiming::KEPT * QueueTiming::default().live;
        for (key, span) in [("KEYS[4]", QueueTiming::REMEMBERED), ("KEYS[3]", kept)] {
            let said = format!("redis.call('PEXPIRE', {key}, '{}')", millis(span));
            assert!(script::ACQUIRE.source().contains(&said), "{said}");
        }
        let said = format!("local FENCE_KEPT = {}\n", millis(FENCE_KEPT));
        assert!(script::EXTEND.source().contains(&said), "{said}");
    }

    #[test]
    fn a_part_that_fails_leaves_the_others_their_answers() {
        let down = || Err(Error::timed_out(Duration::from_secs(1)));
        let parts: [&[usize]; 2] = [&[0, 2], &[1]];
        assert_eq!(known(3, &parts, vec![Ok(vec![7, 9]), down()]).unwrap(), [Some(7), None, Some(9)]);
        assert_eq!(known(3, &parts, vec![Ok(vec![7, 9]), Ok(vec![8])]).unwrap(), [Some(7), Some(8), Some(9)]);
        assert_eq!(known::<u8>(3, &parts, vec![down(), down()]).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(known::<u8>(0, &[], Vec::new()).unwrap().is_empty());
    }
}

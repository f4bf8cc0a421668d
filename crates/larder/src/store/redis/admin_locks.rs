//! Locks of all kinds as tools see them: one script for each, all sent at once.

use std::time::Duration;

use futures_util::future::join_all;

use super::lock::{array, within};
use super::lock_names::{fence_name, group_names, queue_name, seen_name, semaphore_names};
use super::node::Replay;
use super::script::Script;
use super::wire::Reply;
use super::{RedisStore, bytes, number, script, unexpected};
use crate::error::{ErrorKind, Result};
use crate::name::Name;
use crate::store::admin::{AnyLock, HolderState, LockKind, LockState, WaiterState};
use crate::store::job::{JobStore, lock_of_job};
use crate::store::permit::{HEAVIEST, weight};
use crate::store::read_version;

impl RedisStore {
    pub(super) async fn states_of_locks(
        &self,
        locks: &[AnyLock],
        most: usize,
        max_wait: Duration,
    ) -> Result<Vec<Option<LockState>>> {
        let state = async |lock: &AnyLock| match within(max_wait, self.state(lock, most)).await {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.kind() == ErrorKind::WrongType => Ok(None),
            Err(error) => Err(error),
        };
        // The first alone: a server that does not have its script gets the source once, and not with every request.
        let Some((first, rest)) = locks.split_first() else { return Ok(Vec::new()) };
        let mut states = vec![state(first).await?];
        for answer in join_all(rest.iter().map(state)).await {
            states.push(answer?);
        }
        Ok(states)
    }

    async fn state(&self, AnyLock { kind, name }: &AnyLock, most: usize) -> Result<LockState> {
        match kind {
            LockKind::Lock | LockKind::Election => self.lock_state(name, most).await,
            LockKind::Job => {
                let mut state = self.lock_state(&lock_of_job(name), most).await?;
                state.last_run = self.last_run(name).await?;
                Ok(state)
            }
            LockKind::Semaphore | LockKind::RwLock => semaphore_state(
                &self.read(name, &script::SHOW_SEMAPHORE, &semaphore_names(name), most).await?,
            ),
            LockKind::Group => {
                group_state(&self.read(name, &script::SHOW_GROUP, &group_names(name), most).await?)
            }
        }
    }

    async fn lock_state(&self, lock: &str, most: usize) -> Result<LockState> {
        let keys = [Name::from(lock), fence_name(lock), queue_name(lock), seen_name(lock)];
        lock_state(&self.read(lock, &script::SHOW_LOCK, &keys, most).await?)
    }

    async fn read(&self, name: &str, script: &Script, keys: &[Name], most: usize) -> Result<Vec<Reply>> {
        let keys: Vec<&str> = keys.iter().map(Name::as_str).collect();
        let most = most.to_string();
        array(self.network.run_script(name, script, &keys, &[most.as_bytes()], Replay::Safe).await?)
    }
}

fn token(reply: &Reply) -> Result<u64> {
    Ok(bytes(reply.clone())?.as_deref().and_then(read_version).unwrap_or_default())
}

fn text(reply: &Reply) -> Result<String> {
    Ok(String::from_utf8_lossy(&bytes(reply.clone())?.unwrap_or_default()).into_owned())
}

fn millis(reply: &Reply) -> Duration {
    Duration::from_millis(number(reply).unwrap_or_default())
}

/// Reads a stored fence, and the process or value behind it.
fn fence(text: &str) -> (u64, String) {
    let (fence, by) = text.split_once(' ').unwrap_or((text, ""));
    (fence.parse().unwrap_or_default(), by.to_owned())
}

fn names(text: &str) -> Vec<String> {
    text.split('\n').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Reads the waiters at the end of the reply of a lock or a semaphore.
fn waiters(replies: &[Reply]) -> Result<Vec<WaiterState>> {
    let waiter = |pair: &[Reply]| match pair {
        [waiting, ago] => {
            Ok(WaiterState { token: token(waiting)?, heartbeat_ago: millis(ago), locks: Vec::new() })
        }
        _ => Err(unexpected(&Reply::Nil)),
    };
    replies.chunks_exact(2).map(waiter).collect()
}

fn lock_state(reply: &[Reply]) -> Result<LockState> {
    let [held, left, last, claims, waiting, rest @ ..] = reply else { return Err(unexpected(&Reply::Nil)) };
    let mut state = LockState { waiting: number(waiting)?, waiters: waiters(rest)?, ..LockState::default() };
    let (token, claims, (fence, by)) = (token(held)?, number(claims)? > 0, fence(&text(last)?));
    if token != 0 {
        // The stored fence is that of the holder before, until a handover is confirmed.
        let (fence, by) = if claims { (0, String::new()) } else { (fence, by) };
        let remaining = millis(left);
        state.holders.push(HolderState { token, by, fence, remaining, claims, locks: Vec::new() });
        state.holding = 1;
    }
    Ok(state)
}

fn semaphore_state(reply: &[Reply]) -> Result<LockState> {
    let [permits, last, holding, waiting, listed, rest @ ..] = reply else {
        return Err(unexpected(&Reply::Nil));
    };
    let last: u64 = text(last)?.parse().unwrap_or_default();
    let listed = usize::try_from(number(listed)?).unwrap_or_default();
    let (held, waiting_tokens) = rest.split_at_checked(3 * listed).unwrap_or((rest, &[]));
    let holder = |parts: &[Reply]| match parts {
        [held, left, claims] => {
            let token = token(held)?;
            let fence = if weight(token) == HEAVIEST { last } else { 0 };
            let (remaining, claims) = (millis(left), number(claims)? > 0);
            Ok(HolderState { token, by: String::new(), fence, remaining, claims, locks: Vec::new() })
        }
        _ => Err(unexpected(&Reply::Nil)),
    };
    Ok(LockState {
        holders: held.chunks_exact(3).map(holder).collect::<Result<_>>()?,
        holding: number(holding)?,
        waiters: waiters(waiting_tokens)?,
        waiting: number(waiting)?,
        permits: number(permits).ok(),
        last_run: None,
    })
}

fn group_state(reply: &[Reply]) -> Result<LockState> {
    let [holding, waiting, listed, rest @ ..] = reply else { return Err(unexpected(&Reply::Nil)) };
    let listed = usize::try_from(number(listed)?).unwrap_or_default();
    let (held, waiting_tokens) = rest.split_at_checked(4 * listed).unwrap_or((rest, &[]));
    let holder = |parts: &[Reply]| match parts {
        [held, left, last, locks] => {
            let last = text(last)?;
            let (fence, by) = fence(&last);
            Ok(HolderState {
                token: token(held)?,
                by,
                fence,
                remaining: millis(left),
                claims: last.is_empty(),
                locks: names(&text(locks)?),
            })
        }
        _ => Err(unexpected(&Reply::Nil)),
    };
    let waiter = |parts: &[Reply]| match parts {
        [waiting, ago, locks] => Ok(WaiterState {
            token: token(waiting)?,
            heartbeat_ago: millis(ago),
            locks: names(&text(locks)?),
        }),
        _ => Err(unexpected(&Reply::Nil)),
    };
    Ok(LockState {
        holders: held.chunks_exact(4).map(holder).collect::<Result<_>>()?,
        holding: number(holding)?,
        waiters: waiting_tokens.chunks_exact(3).map(waiter).collect::<Result<_>>()?,
        waiting: number(waiting)?,
        ..LockState::default()
    })
}

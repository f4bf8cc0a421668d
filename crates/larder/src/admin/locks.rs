//! Locks, semaphores, read-write locks, elections, lock groups and jobs: holders and waiters.

use std::time::{Duration, SystemTime};

use super::names;
use super::scan::{Pages, Visited};
use super::{Admin, Process, time};
use crate::error::{Error, Result};
use crate::lock::Fence;
use crate::store::admin::{AdminStore, AnyLock, HolderState, LockKind, LockState, NamePattern, WaiterState};
use crate::store::group::GroupStore;
use crate::store::job::{LastRun, lock_of_job};
use crate::store::lock::LockStore;
use crate::store::permit::{PermitStore, weight};

/// The most holders and waiters that [`Admin::lock`] lists.
const MOST_LISTED: usize = 1000;
/// The most holders of each lock in a [`LockScan`].
const MOST_IN_SCAN: usize = 10;

/// A holder of a lock.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HolderInfo {
    /// The token of its grant. With it the lock can be held and released.
    pub token: u64,
    /// The process as the lock names it, `<host>:<process id>`; empty for a semaphore, which does not store it.
    pub by: String,
    /// The process, if it announced itself.
    pub process: Option<Process>,
    /// The fence of its grant; `None` for permits and readers, which have none.
    pub fence: Option<Fence>,
    /// How long it holds the lock unless it renews or releases it.
    pub remaining: Duration,
    /// How many permits it holds; 1 for a lock. A writer of a read-write lock holds all 65,535.
    pub permits: u64,
    /// Whether it was handed the lock and has not confirmed that yet.
    pub unconfirmed: bool,
    /// The locks of a group that it holds, sorted; empty for other kinds.
    pub locks: Vec<String>,
    /// The value of a leader, its process unless the program gave another; `None` for other kinds.
    pub value: Option<String>,
}

/// An attempt that waits for a lock.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WaiterInfo {
    /// The token of the attempt.
    pub token: u64,
    /// Its process, if it announced itself.
    pub process: Option<Process>,
    /// How long ago its process sent the last heartbeat. A waiter without one for 660 ms is passed over.
    pub heartbeat_ago: Duration,
    /// How many permits it wants; 1 for a lock.
    pub permits: u64,
    /// The locks of a group that it wants, sorted; empty for other kinds.
    pub locks: Vec<String>,
}

/// The last run of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobRunInfo {
    /// When it began.
    pub started: SystemTime,
    /// When it ended; `None` if it has not.
    pub ended: Option<SystemTime>,
    /// The process that ran it, `<host>:<process id>`.
    pub by: String,
    /// `running`, `completed`, `failed`, or `lost` if it has neither ended nor a lock.
    pub outcome: String,
}

/// A lock with its holders and waiters.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LockInfo {
    /// The kind of the lock.
    pub kind: LockKind,
    /// The name that the program gave it; `pool:x` for the key `x` of the semaphore `pool`. Escaped as on the server.
    pub name: String,
    /// The holders: one at most for a lock. At most 1,000 are listed, in a [`LockScan`] at most 10.
    pub holders: Vec<HolderInfo>,
    /// How many holders there are.
    pub holding: u64,
    /// The waiters in their order. Empty in a [`LockScan`]; at most 1,000 are listed.
    pub waiters: Vec<WaiterInfo>,
    /// How many attempts wait.
    pub waiting: u64,
    /// How many permits a semaphore has; `None` for other kinds.
    pub permits: Option<u64>,
    /// The last run of a job; `None` for other kinds, or if it never ran.
    pub last_run: Option<JobRunInfo>,
}

/// Pages through the locks of all kinds that are in use, and the jobs that have run. Made by [`Admin::locks`].
#[derive(Debug)]
pub struct LockScan {
    admin: Admin,
    kinds: Vec<LockKind>,
    pages: Pages,
}

impl LockScan {
    /// Lists these kinds only.
    #[must_use]
    pub fn only(mut self, kinds: impl IntoIterator<Item = LockKind>) -> Self {
        self.kinds = kinds.into_iter().collect();
        self
    }

    /// Returns the next page, which may be empty; `None` at the end. Like
    /// [`EntryScan::next_page`](super::EntryScan::next_page), it pauses between pages.
    ///
    /// Visits about 200 keys, and reads each lock that it finds by a script, all in one round trip.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn next_page(&mut self) -> Result<Option<Vec<LockInfo>>> {
        let (store, max_wait) = (self.admin.coordination()?, self.admin.max_wait());
        let Some(Visited { names, next, began }) = self.pages.visit(store, max_wait).await? else {
            return Ok(None);
        };
        let namespace = self.admin.namespace();
        let mut found: Vec<(LockKind, String)> =
            names.iter().filter_map(|name| names::lock_named(namespace, name)).collect();
        found.retain(|(kind, _)| self.kinds.contains(kind));
        let mut locks = self.admin.read_locks(found, MOST_IN_SCAN).await?;
        // What has expired is still there until it is used again.
        locks.retain(|lock| lock.holding > 0 || lock.waiting > 0 || lock.last_run.is_some());
        locks.iter_mut().for_each(|lock| lock.waiters.clear());
        self.pages.go_on(next, began);
        Ok(Some(locks))
    }

    /// Returns how many keys of the store were visited, about, and how many there are. `None` before the first page.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        self.pages.progress()
    }
}

impl Admin {
    /// Pages through the locks that are in use, of all kinds, on the server of locks.
    #[must_use]
    pub fn locks(&self) -> LockScan {
        let pages = Pages::new(NamePattern::Own(self.namespace().to_owned()));
        LockScan { admin: self.clone(), kinds: LockKind::ALL.to_vec(), pages }
    }

    /// Reads a lock with its holders and waiters. A lock that nothing holds has no holders; a job that never ran and
    /// a semaphore that was never used look the same as free ones. `name` is the name that the program uses; for one
    /// key of a semaphore, `pool:x`.
    ///
    /// Costs one round trip, and one more for the processes.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn lock(&self, kind: LockKind, name: &str) -> Result<LockInfo> {
        let locks = self.read_locks(vec![(kind, name.to_owned())], MOST_LISTED).await?;
        locks
            .into_iter()
            .next()
            .ok_or_else(|| Error::invalid(format!("the key of the {} is not larder's", kind.as_str())))
    }

    /// Takes a lock from a holder, and returns whether it still held it. The next waiter is granted the lock at once.
    ///
    /// The holder learns of it with its next renewal, or when a write with its fence is refused. Until then it may go
    /// on as if it held the lock: break only what hangs.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the holder has not confirmed; it ends within 250 ms.
    pub async fn break_lock(&self, kind: LockKind, name: &str, holder: &HolderInfo) -> Result<bool> {
        let whole = names::lock(self.context(), kind, name)?;
        let store = self.coordination()?;
        let broken = async {
            match (kind, holder.fence) {
                (LockKind::Semaphore | LockKind::RwLock, _) => {
                    store.give_permit(&whole, holder.token, None).await
                }
                (LockKind::Group, _) => store.give_group(&whole, holder.token, None).await,
                (LockKind::Lock | LockKind::Election, Some(fence)) => {
                    store.break_if(&whole, fence.get()).await
                }
                (LockKind::Job, Some(fence)) => store.break_if(&lock_of_job(&whole), fence.get()).await,
                (LockKind::Lock | LockKind::Election | LockKind::Job, None) => {
                    Err(Error::invalid("the next holder has not confirmed yet: retry in 250 ms"))
                }
            }
        };
        Box::pin(self.within(broken)).await
    }

    /// Reads locks by kind and name. Those whose names hold another type of data are left out.
    async fn read_locks(&self, locks: Vec<(LockKind, String)>, most: usize) -> Result<Vec<LockInfo>> {
        if locks.is_empty() {
            return Ok(Vec::new());
        }
        let named = |(kind, name): &(LockKind, String)| {
            Ok(AnyLock { kind: *kind, name: names::lock(self.context(), *kind, name)? })
        };
        let asked: Vec<AnyLock> = locks.iter().map(named).collect::<Result<_>>()?;
        let store = self.coordination()?;
        let states = Box::pin(store.lock_states(&asked, most, self.max_wait())).await?;
        let tokens_of = |state: &LockState| {
            let holders = state.holders.iter().map(|holder| holder.token);
            holders.chain(state.waiters.iter().map(|waiter| waiter.token)).collect::<Vec<_>>()
        };
        let tokens: Vec<u64> = states.iter().flatten().flat_map(tokens_of).collect();
        let mut processes = self.processes_of(&tokens).await?.into_iter();
        let mut found = Vec::with_capacity(locks.len());
        for ((kind, name), state) in locks.into_iter().zip(states) {
            let Some(state) = state else { continue };
            let LockState { holders, holding, waiters, waiting, permits, last_run } = state;
            let mut next = || processes.next().flatten();
            found.push(LockInfo {
                kind,
                name,
                holders: holders.into_iter().map(|holder| HolderInfo::of(kind, holder, next())).collect(),
                holding,
                waiters: waiters.into_iter().map(|waiter| WaiterInfo::of(kind, waiter, next())).collect(),
                waiting,
                permits: permits.filter(|_| kind == LockKind::Semaphore),
                last_run: last_run.map(JobRunInfo::of),
            });
        }
        Ok(found)
    }
}

/// How many permits a token holds or wants.
fn permits(kind: LockKind, token: u64) -> u64 {
    match kind {
        LockKind::Semaphore | LockKind::RwLock => weight(token),
        _ => 1,
    }
}

impl HolderInfo {
    fn of(kind: LockKind, state: HolderState, process: Option<Process>) -> Self {
        let HolderState { token, by, fence, remaining, claims, mut locks } = state;
        locks.sort_unstable();
        let (by, value) = if kind == LockKind::Election { (String::new(), Some(by)) } else { (by, None) };
        Self {
            token,
            by,
            process,
            fence: (fence != 0).then(|| Fence::new(fence)),
            remaining,
            permits: permits(kind, token),
            unconfirmed: claims,
            locks,
            value,
        }
    }
}

impl WaiterInfo {
    fn of(kind: LockKind, state: WaiterState, process: Option<Process>) -> Self {
        let WaiterState { token, heartbeat_ago, mut locks } = state;
        locks.sort_unstable();
        Self { token, process, heartbeat_ago, permits: permits(kind, token), locks }
    }
}

impl JobRunInfo {
    fn of(run: LastRun) -> Self {
        let outcome = match (run.ended, run.held) {
            (Some(_), _) if run.completed => "completed",
            (Some(_), _) => "failed",
            (None, true) => "running",
            (None, false) => "lost",
        };
        Self {
            started: time(run.started),
            ended: run.ended.map(time),
            by: run.by,
            outcome: outcome.to_owned(),
        }
    }
}

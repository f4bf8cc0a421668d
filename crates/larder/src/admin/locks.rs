//! Locks, semaphores, read-write locks, elections, lock groups and jobs: holders and waiters.

use std::time::{Duration, SystemTime};

use super::{Admin, Process};
use crate::error::Result;
use crate::lock::Fence;

/// The kind of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LockKind {
    /// [`Larder::lock`](crate::Larder::lock).
    Lock,
    /// [`Larder::rw_lock`](crate::Larder::rw_lock).
    RwLock,
    /// [`Larder::semaphore`](crate::Larder::semaphore).
    Semaphore,
    /// [`Larder::lock_group`](crate::Larder::lock_group).
    Group,
    /// [`Larder::election`](crate::Larder::election).
    Election,
    /// [`Larder::job`](crate::Larder::job).
    Job,
}

impl LockKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Lock, Self::RwLock, Self::Semaphore, Self::Group, Self::Election, Self::Job];

    /// Returns the name for people and scripts: `lock`, `rwlock`, `semaphore`, `group`, `election` or `job`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::RwLock => "rwlock",
            Self::Semaphore => "semaphore",
            Self::Group => "group",
            Self::Election => "election",
            Self::Job => "job",
        }
    }
}

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
    /// What a leader says about itself ([`Election::value`](crate::lock::Election)); `None` for other kinds.
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
    /// When it ended; `None` if it runs, or never ended.
    pub ended: Option<SystemTime>,
    /// The process that ran it, `<host>:<process id>`.
    pub by: String,
    /// `running`, `completed` or `failed`, as it is stored.
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
    /// The holders: one at most for a lock. At most 1,000 are listed.
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
    pub(super) admin: Admin,
    pub(super) kinds: Vec<LockKind>,
    pub(super) visited: u64,
    pub(super) total: Option<u64>,
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
    /// Costs one `SCAN` with `COUNT 200`, and one script for each lock that it finds, all in one round trip.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn next_page(&mut self) -> Result<Option<Vec<LockInfo>>> {
        super::unfinished()
    }

    /// Returns how many keys of the store were visited, about, and how many there are. `None` before the first page.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        self.total.map(|total| (self.visited.min(total), total))
    }
}

impl Admin {
    /// Pages through the locks that are in use, of all kinds, on the server of locks.
    #[must_use]
    pub fn locks(&self) -> LockScan {
        LockScan { admin: self.clone(), kinds: LockKind::ALL.to_vec(), visited: 0, total: None }
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
        let _ = (kind, name);
        super::unfinished()
    }

    /// Takes a lock from a holder, and returns whether it still held it. The next waiter is granted the lock at once.
    ///
    /// The holder learns of it with its next renewal, or when a write with its fence is refused. Until then it may go
    /// on as if it held the lock: break only what hangs.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the holder is an unconfirmed one; it ends within 250 ms.
    pub async fn break_lock(&self, kind: LockKind, name: &str, holder: &HolderInfo) -> Result<bool> {
        let _ = (kind, name, holder);
        super::unfinished()
    }
}

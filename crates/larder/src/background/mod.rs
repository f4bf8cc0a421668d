//! Runs what no caller waits for: renewals, heartbeats, releases, refunds, queued invalidations.
//!
//! The problem: a task that is spawned on the caller's runtime starves when that runtime is blocked, and is
//! dropped when that runtime ends. Then a lock is lost, or an invalidation is never sent.
//!
//! The mechanism: a `Larder` with a server has one thread with its own runtime ([`thread`]), and its own
//! store ([`Context::background_store`]) whose connections are opened and driven there. A `Larder` on
//! `memory:` needs no connection. It has no thread, so that paused time and injected clocks work. Its tasks
//! run on the caller's runtime; if that ends before it has polled a task, the task moves to another runtime
//! that was seen ([`Runtimes`]).
//!
//! Invariants: a task that was accepted before [`close`](Background::close) has run to its end or was ended
//! by `close`. The thread holds references to the `Larder` only in tasks that end, so it ends with the last
//! handle.
//!
//! Not guaranteed: with a `memory:` store, a task that its runtime has already polled is lost when that
//! runtime ends.
//!
//! [`Context::background_store`]: crate::context::Context::background_store

mod retry;
mod schedule;
mod thread;

/// How long a request waits on one connection before it is also sent on the other.
pub(crate) const HEDGE: Duration = Duration::from_millis(150);

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::task::unconstrained;
use tracing::instrument::WithSubscriber;

use crate::error::Result;
use crate::runtimes::Runtimes;
use crate::tasks::Tasks;
pub(crate) use retry::{Retry, retry, retry_with};
pub(crate) use schedule::{Renewals, Schedule, Visit};
use thread::Thread;

/// The place of background work. Dropping it ends all of that work without waiting.
pub(crate) struct Background(Arc<Home>);

struct Home {
    place: HomeThread,
    /// Tasks that end by themselves: `close` waits for them.
    finite: Tasks,
    /// Tasks that do not end, or may wait for long: `close` ends them.
    endless: Tasks,
}

enum HomeThread {
    /// Without the feature `redis` there is no server, and no thread.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only servers need the thread"))]
    Thread(Thread),
    Callers(Arc<Runtimes>),
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Make = Arc<dyn Fn() -> Task + Send + Sync>;

/// Whether a loop is running. The loop's own future clears this when it is dropped, polled or not.
#[derive(Debug, Default)]
pub(crate) struct Resident(Arc<AtomicBool>);

impl Background {
    /// Runs tasks on a thread of its own.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only servers need the thread"))]
    pub(crate) fn on_thread() -> Result<Self> {
        Ok(Self::at(HomeThread::Thread(Thread::start()?)))
    }

    /// Runs tasks on the callers' runtimes.
    pub(crate) fn on_callers() -> Self {
        let runtimes = Runtimes::default();
        runtimes.remember_current();
        Self::at(HomeThread::Callers(Arc::new(runtimes)))
    }

    fn at(place: HomeThread) -> Self {
        Self(Arc::new(Home { place, finite: Tasks::default(), endless: Tasks::default() }))
    }

    /// Returns the runtime of the thread, if there is one.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only servers need the thread"))]
    pub(crate) fn runtime(&self) -> Option<&Handle> {
        match &self.0.place {
            HomeThread::Thread(thread) => Some(thread.runtime()),
            HomeThread::Callers(_) => None,
        }
    }

    /// Runs a task that ends by itself. The caller may be anywhere, also outside a runtime. `close` waits for
    /// the task, within its time limit. Returns false and drops the task after `close`, or if there is no
    /// runtime at all.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        self.0.start(Group::Finite, Box::pin(task), Vec::new())
    }

    /// Runs a task as [`spawn`](Self::spawn) does, but polls it once before returning. So a request with
    /// which the task begins is sent, on its connection, before every request that the caller sends
    /// afterwards. Outside a runtime the task is not polled here. The first poll must create no timer: begin
    /// the task with [`begun`].
    pub(crate) fn spawn_begun(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut task: Task = Box::pin(task);
        if Handle::try_current().is_ok() {
            let mut context = Context::from_waker(Waker::noop());
            // The caller's coop budget may be used up, which would keep the request from being sent.
            let first = Pin::new(&mut unconstrained(task.as_mut())).poll(&mut context);
            if first.is_ready() {
                return true;
            }
        }
        self.0.start(Group::Finite, task, Vec::new())
    }

    /// Runs a task as [`spawn`](Self::spawn) does, but one that may take long or never end: `close` ends it.
    pub(crate) fn spawn_until_close(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        self.0.start(Group::Endless, Box::pin(task), Vec::new())
    }

    /// Ends the tasks that do not end by themselves.
    pub(crate) async fn abort_endless(&self, max_wait: Duration) {
        self.0.endless.abort(max_wait).await;
    }

    /// Makes sure that a loop is running, for as long as this value lives, whatever happens to the caller's
    /// runtime. On callers' runtimes the loop begins again on another one when its own ends. It must not hold
    /// a reference to the `Larder` while it waits.
    pub(crate) fn ensure<F, R>(&self, resident: &Resident, make: impl FnOnce() -> R)
    where
        R: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        if let HomeThread::Callers(runtimes) = &self.0.place {
            runtimes.remember_current();
        }
        let running = &resident.0;
        if !running.load(Ordering::Acquire) && !running.swap(true, Ordering::AcqRel) {
            let run = make();
            let make: Make = Arc::new(move || Box::pin(run()));
            self.0.reside(running.clone(), make, Vec::new());
        }
    }

    /// Waits at most `max_wait` until the tasks that end by themselves have ended.
    pub(crate) async fn settle(&self, max_wait: Duration) {
        self.0.finite.settle(max_wait).await;
    }

    /// Waits at most `max_wait` for the tasks that end by themselves, and ends all others. The thread runs on
    /// until [`stop`](Self::stop), for the connections that it drives.
    pub(crate) async fn finish(&self, max_wait: Duration) {
        self.abort_endless(max_wait).await;
        self.0.finite.finish(max_wait).await;
    }

    /// Ends the thread, and waits at most `max_wait` for that.
    pub(crate) async fn stop(&self, max_wait: Duration) {
        if let HomeThread::Thread(thread) = &self.0.place {
            thread.close(max_wait).await;
        }
    }
}

/// Begins a task for [`Background::spawn_begun`]. The first poll of `work` happens where the task is spawned;
/// the rest runs in the background, at most for `max_wait`.
pub(crate) async fn begun<T>(max_wait: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let first = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
    if let Poll::Ready(answer) = first {
        return Some(answer);
    }
    // End the first poll here. A timer belongs to the runtime on which it is created, and that must be the
    // background's.
    tokio::task::yield_now().await;
    tokio::time::timeout(max_wait, work).await.ok()
}

#[derive(Debug, Clone, Copy)]
enum Group {
    Finite,
    Endless,
}

impl Home {
    fn start(self: &Arc<Self>, group: Group, task: Task, mut tried: Vec<Id>) -> bool {
        let tasks = match group {
            Group::Finite => &self.finite,
            Group::Endless => &self.endless,
        };
        match &self.place {
            // Log events go where the caller's events go.
            HomeThread::Thread(thread) => tasks.spawn_on(task.with_current_subscriber(), thread.runtime()),
            HomeThread::Callers(runtimes) => {
                runtimes.remember_current();
                let Some(runtime) = runtimes.pick(&tried) else { return false };
                tried.push(runtime.id());
                let home = Arc::downgrade(self);
                tasks.spawn_on(Unstarted { task: Some(task), started: false, home, group, tried }, &runtime)
            }
        }
    }
}

impl Home {
    fn reside(self: &Arc<Self>, running: Arc<AtomicBool>, make: Make, tried: Vec<Id>) {
        let mut residence = Residence { home: Arc::downgrade(self), running, make, runtime: None };
        let task = async move {
            residence.at(Handle::try_current().ok().map(|runtime| runtime.id()));
            (residence.make)().await;
            residence.at(None);
        };
        self.start(Group::Endless, Box::pin(task), tried);
    }
}

/// A loop and the runtime on which it runs.
struct Residence {
    home: Weak<Home>,
    running: Arc<AtomicBool>,
    make: Make,
    /// Set while the loop runs.
    runtime: Option<Id>,
}

impl Residence {
    fn at(&mut self, runtime: Option<Id>) {
        self.runtime = runtime;
    }
}

impl Drop for Residence {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Release);
        // Either the loop's runtime has ended, or the background is being closed; then `start` accepts
        // nothing more.
        let (Some(ended), Some(home)) = (self.runtime, self.home.upgrade()) else { return };
        if let HomeThread::Callers(runtimes) = &home.place {
            runtimes.forget(ended);
            if !self.running.swap(true, Ordering::AcqRel) {
                home.reside(self.running.clone(), self.make.clone(), vec![ended]);
            }
        }
    }
}

/// A task that moves to another runtime if its own ends before polling it.
struct Unstarted {
    task: Option<Task>,
    started: bool,
    home: Weak<Home>,
    group: Group,
    tried: Vec<Id>,
}

impl Future for Unstarted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.started = true;
        match &mut self.task {
            Some(task) => task.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade().filter(|_| !self.started) else { return };
        if let (Some(task), HomeThread::Callers(runtimes)) = (self.task.take(), &home.place) {
            let tried = std::mem::take(&mut self.tried);
            tried.iter().for_each(|id| runtimes.forget(*id));
            home.start(self.group, task, tried);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tokio::runtime::{Builder, Runtime};

    const LIMIT: Duration = Duration::from_secs(10);

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_task_runs_though_the_runtime_that_spawned_it_has_ended_before_it_began() {
        let (lives, ends) = (runtime(), runtime());
        for background in
            [lives.block_on(async { Background::on_callers() }), Background::on_thread().unwrap()]
        {
            let (tell, done) = tokio::sync::oneshot::channel();
            let ghost = runtime();
            ghost.block_on(async {
                background.spawn(async move { tell.send(()).unwrap() });
            });
            drop(ghost);
            lives.block_on(async {
                tokio::time::timeout(LIMIT, done).await.expect("the task ran").unwrap();
            });
        }
        drop(ends);
    }

    #[test]
    fn a_task_is_accepted_outside_a_runtime() {
        let lives = runtime();
        for background in
            [lives.block_on(async { Background::on_callers() }), Background::on_thread().unwrap()]
        {
            let (tell, done) = tokio::sync::oneshot::channel();
            assert!(background.spawn(async move { tell.send(()).unwrap() }));
            lives.block_on(async { tokio::time::timeout(LIMIT, done).await.unwrap().unwrap() });
        }
    }

    #[test]
    fn the_thread_runs_while_callers_block_and_ends_with_its_home() {
        let background = Background::on_thread().unwrap();
        let (tell, told) = mpsc::channel();
        background.spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            tell.send(std::thread::current().name().map(str::to_owned)).unwrap();
        });
        assert_eq!(told.recv_timeout(LIMIT).unwrap().as_deref(), Some("larder"));
        let (held, gone) = mpsc::channel::<()>();
        background.spawn_until_close(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(background);
        assert_eq!(gone.recv_timeout(LIMIT), Err(mpsc::RecvTimeoutError::Disconnected));
    }

    #[tokio::test]
    async fn closing_waits_for_what_has_an_end_and_ends_what_has_none() {
        let background = Background::on_thread().unwrap();
        let (tell, done) = tokio::sync::oneshot::channel();
        background.spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            tell.send(()).unwrap();
        });
        background.spawn_until_close(std::future::pending());
        background.finish(LIMIT).await;
        background.stop(LIMIT).await;
        done.await.expect("it was waited for");
        assert!(!background.spawn(async {}));
    }
}

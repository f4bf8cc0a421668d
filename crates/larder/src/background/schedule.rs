//! Items that become due again and again, by number, in the order of their times.
//!
//! One loop serves them. It sleeps until the first item is due, and is woken earlier only when an item is
//! added that is due before that. So adding and removing items usually wakes no other thread, however many
//! items there are. Each operation takes time logarithmic in their number.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::Resident;
use crate::clock::{Clock, Tick};

/// The longest sleep between two readings of the clock: timers stop while the machine sleeps, the clock does
/// not.
const SLICE: Duration = Duration::from_millis(250);

/// Items that are renewed until they are removed, and the loop that renews them.
pub(crate) struct Renewals<T> {
    pub(crate) schedule: Arc<Schedule<T>>,
    pub(crate) renewer: Resident,
}

impl<T> Default for Renewals<T> {
    fn default() -> Self {
        Self { schedule: Arc::default(), renewer: Resident::default() }
    }
}

pub(crate) struct Schedule<T> {
    table: Mutex<DueTable<T>>,
    earlier: Notify,
}

struct DueTable<T> {
    items: HashMap<u64, (Tick, T)>,
    order: BTreeSet<(Tick, u64)>,
    /// When the loop wakes by itself; `None` if never.
    wakes_at: Option<Tick>,
}

/// What to do with an item that was visited.
pub(crate) enum Visit<R> {
    /// Leave it as it is.
    Skip,
    Remove,
    /// It is due again at this time, and there is this work to do now.
    Again(Tick, R),
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        let table = DueTable { items: HashMap::new(), order: BTreeSet::new(), wakes_at: None };
        Self { table: Mutex::new(table), earlier: Notify::new() }
    }
}

impl<T> Schedule<T> {
    pub(crate) fn insert(&self, number: u64, due: Tick, item: T) {
        let mut table = self.table();
        if let Some((old, _)) = table.items.insert(number, (due, item)) {
            table.order.remove(&(old, number));
        }
        table.order.insert((due, number));
        self.wake_if_earlier(&table, due);
    }

    /// Removes an item, and returns whether it was there.
    pub(crate) fn remove(&self, number: u64) -> bool {
        let mut table = self.table();
        let Some((due, _)) = table.items.remove(&number) else { return false };
        table.order.remove(&(due, number))
    }

    /// Changes when an item is due, if it is still there.
    pub(crate) fn postpone(&self, number: u64, due: Tick) {
        let mut table = self.table();
        let Some((old, _)) = table.items.get_mut(&number) else { return };
        let old = std::mem::replace(old, due);
        table.order.remove(&(old, number));
        table.order.insert((due, number));
        self.wake_if_earlier(&table, due);
    }

    /// Makes all items due now.
    pub(crate) fn hurry(&self, now: Tick) {
        let mut table = self.table();
        let numbers: Vec<u64> = table.items.keys().copied().collect();
        table.items.values_mut().for_each(|(due, _)| *due = now.min(*due));
        table.order.clear();
        for number in numbers {
            if let Some(due) = table.items.get(&number).map(|(due, _)| *due) {
                table.order.insert((due, number));
            }
        }
        self.earlier.notify_one();
    }

    /// Visits the items that are due by `until`, earliest first. Returns the work to do.
    pub(crate) fn visit<R>(&self, until: Tick, mut visit: impl FnMut(u64, &mut T) -> Visit<R>) -> Vec<R> {
        let mut table = self.table();
        let due: Vec<(Tick, u64)> = table.order.range(..=(until, u64::MAX)).copied().collect();
        let mut work = Vec::new();
        for (at, number) in due {
            let Some((due, item)) = table.items.get_mut(&number) else { continue };
            match visit(number, item) {
                Visit::Skip => {}
                Visit::Remove => {
                    table.items.remove(&number);
                    table.order.remove(&(at, number));
                }
                Visit::Again(next, todo) => {
                    *due = next;
                    table.order.remove(&(at, number));
                    table.order.insert((next, number));
                    work.push(todo);
                }
            }
        }
        work
    }

    /// Waits until an item is due.
    pub(crate) async fn due(&self, clock: &Clock) {
        loop {
            let now = clock.now();
            let sleep = {
                let mut table = self.table();
                match (table.order.first(), table.wakes_at) {
                    (Some((due, _)), _) if *due <= now => return,
                    (Some((due, _)), _) => table.wakes_at = Some(*due),
                    // Keep the wake-up that is set: items that come and go find the loop awake for a while.
                    (None, Some(at)) if at > now => {}
                    (None, _) => table.wakes_at = None,
                }
                table.wakes_at.map(|at| at.since(now).min(SLICE))
            };
            match sleep {
                Some(sleep) => drop(timeout(sleep, self.earlier.notified()).await),
                None => self.earlier.notified().await,
            }
        }
    }

    fn wake_if_earlier(&self, table: &DueTable<T>, due: Tick) {
        if table.wakes_at.is_none_or(|at| due < at) {
            self.earlier.notify_one();
        }
    }

    fn table(&self) -> MutexGuard<'_, DueTable<T>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use futures_util::FutureExt;

    use super::*;

    fn clock() -> (Clock, impl Fn(u64) -> Tick) {
        let clock = Clock::Manual(Arc::new(AtomicU64::new(1_000_000)));
        let start = clock.now();
        (clock, move |millis| start.after(Duration::from_millis(millis)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_loop_is_woken_only_for_what_is_due_earlier() {
        let (clock, at) = clock();
        let woken = |schedule: &Schedule<()>| schedule.earlier.notified().now_or_never().is_some();
        // The schedule is empty: the first item wakes the loop.
        let idle = Schedule::default();
        assert!(idle.due(&clock).now_or_never().is_none());
        idle.insert(1, at(1000), ());
        assert!(woken(&idle));
        // The loop sleeps until the first item is due.
        assert!(idle.due(&clock).now_or_never().is_none());
        for number in 2..100 {
            idle.insert(number, at(1000 + number), ());
            idle.remove(number);
        }
        assert!(!woken(&idle), "woken for what is due later");
        idle.postpone(1, at(2000));
        assert!(!woken(&idle));
        idle.postpone(1, at(500));
        assert!(woken(&idle), "not woken for what is due earlier");
    }

    #[test]
    fn what_is_due_is_visited_in_order_once_and_again_when_it_said() {
        let ((_, at), schedule) = (clock(), Schedule::default());
        for (number, millis) in [(1, 30), (2, 10), (3, 20), (4, 90)] {
            schedule.insert(number, at(millis), ());
        }
        let visited = schedule.visit(at(30), |number, ()| match number {
            3 => Visit::Remove,
            _ => Visit::Again(at(60), number),
        });
        assert_eq!(visited, [2, 1]);
        assert!(schedule.visit(at(59), |number, ()| Visit::Again(at(99), number)).is_empty());
        assert!(schedule.visit(at(60), |_, ()| Visit::<u64>::Skip).is_empty());
        schedule.hurry(at(50));
        let mut all = schedule.visit(at(50), |number, ()| Visit::Again(at(99), number));
        all.sort_unstable();
        assert_eq!(all, [1, 2, 4]);
        assert!(schedule.remove(4) && !schedule.remove(4));
    }
}

//! The memory store is the specification of locks, too: a real server, driven through the same random history, must answer
//! the same. Waiters live for an hour here and claims last as long, so that a slow machine changes nothing; that
//! a lock's time is over is a step of its own.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::equivalence::real_store;
use super::lock::{Attempted, LockStore, Pace, Queue, Ticket, Turn};
use super::memory::{Bounds, MemoryStore};
use crate::clock::Clock;
use crate::near::Changes;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone)]
enum Step {
    Acquire(u8, u8, bool),
    Confirm(u8, u8),
    Listen(u8, u8),
    StandBy(Vec<(u8, u8)>),
    GiveUp(u8, u8),
    Extend(Vec<(u8, u8)>),
    Release(u8, u8),
    /// Takes the lock for a moment, and waits until that is over.
    Brief(u8, u8),
}

#[derive(Debug, PartialEq)]
enum Answer {
    Granted,
    Attempted(Attempted),
    Turns(Vec<Turn>),
    Flag(bool),
    Flags(Vec<bool>),
}

fn steps() -> impl Strategy<Value = Step> {
    let one = || (0..2u8, 0..4u8);
    let many =
        || prop::collection::btree_set((0..2u8, 0..4u8), 1..5).prop_map(|set| set.into_iter().collect());
    prop_oneof![
        4 => (0..2u8, 0..4u8, any::<bool>()).prop_map(|(l, t, q)| Step::Acquire(l, t, q)),
        4 => one().prop_map(|(l, t)| Step::Confirm(l, t)),
        1 => one().prop_map(|(l, t)| Step::Listen(l, t)),
        2 => many().prop_map(Step::StandBy),
        2 => one().prop_map(|(l, t)| Step::GiveUp(l, t)),
        1 => many().prop_map(Step::Extend),
        3 => one().prop_map(|(l, t)| Step::Release(l, t)),
        1 => one().prop_map(|(l, t)| Step::Brief(l, t)),
    ]
}

fn attempted(attempted: Attempted) -> Answer {
    match attempted {
        // Fences come from each store's own clock, and whether a name is listened to from its connections.
        Attempted::Granted { .. } => Answer::Granted,
        Attempted::Waiting { .. } => Answer::Attempted(Attempted::Waiting { told: true }),
        other => Answer::Attempted(other),
    }
}

/// Attempts of a history: a token that is used once more is another one.
struct Tokens {
    history: u64,
    used: Cell<[u64; 8]>,
}

impl Tokens {
    fn lock(&self, lock: u8) -> String {
        format!("~lock.1:{{h{}:{lock}}}", self.history)
    }

    fn current(&self, lock: u8, token: u8) -> u64 {
        let place = usize::from(lock * 4 + token);
        self.history * 1_000_000 + self.used.get()[place] * 8 + u64::from(lock * 4 + token) + 1
    }

    fn next(&self, lock: u8, token: u8) -> u64 {
        let mut used = self.used.get();
        used[usize::from(lock * 4 + token)] += 1;
        self.used.set(used);
        self.current(lock, token)
    }

    fn ticket(&self, (lock, token): (u8, u8)) -> Ticket {
        Ticket { lock: self.lock(lock), token: self.current(lock, token) }
    }
}

async fn take(store: &impl LockStore, tokens: &Tokens, step: &Step) -> crate::Result<Answer> {
    Ok(match step {
        Step::Acquire(lock, token, queue) => {
            let queue = if *queue { Queue::StandInLine } else { Queue::GoAway };
            attempted(store.acquire(&tokens.lock(*lock), tokens.next(*lock, *token), HOUR, queue).await?)
        }
        Step::Confirm(lock, token) => {
            attempted(store.confirm(&tokens.lock(*lock), tokens.current(*lock, *token), HOUR).await?)
        }
        Step::Listen(lock, token) => {
            Answer::Flag(store.listen(&tokens.lock(*lock), tokens.current(*lock, *token)).await?)
        }
        Step::StandBy(waiting) => {
            let waiting: Vec<Ticket> = waiting.iter().map(|ticket| tokens.ticket(*ticket)).collect();
            Answer::Turns(store.stand_by(&waiting, HOUR).await?.into_iter().flatten().collect())
        }
        Step::GiveUp(lock, token) => {
            Answer::Flag(store.give_up(&tokens.lock(*lock), tokens.current(*lock, *token), HOUR).await?)
        }
        Step::Extend(held) => {
            let held: Vec<_> = held.iter().map(|ticket| (tokens.ticket(*ticket), 2 * HOUR)).collect();
            Answer::Flags(store.extend(&held, HOUR).await?.into_iter().flatten().collect())
        }
        Step::Release(lock, token) => {
            Answer::Flag(store.release(&tokens.lock(*lock), tokens.current(*lock, *token)).await?)
        }
        Step::Brief(lock, token) => {
            let (name, token) = (tokens.lock(*lock), tokens.next(*lock, *token));
            let moment = Duration::from_millis(1);
            let answer = attempted(store.acquire(&name, token, moment, Queue::GoAway).await?);
            if answer == Answer::Granted {
                tokio::time::sleep(3 * moment).await;
            }
            answer
        }
    })
}

#[test]
fn both_stores_answer_the_same_to_every_history_of_locks() {
    let histories = std::env::var("LARDER_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pace = Pace { claim: HOUR, live: HOUR };
    let mut server = runtime.block_on(real_store());
    server.pace = pace;
    let mut memory = MemoryStore::new(Bounds::default(), Clock::default(), Arc::new(Changes::default()));
    memory.pace = pace;
    let next = Cell::new(1u64);
    let mut runner =
        TestRunner::new(Config { cases: histories, failure_persistence: None, ..Config::default() });
    runner
        .run(&prop::collection::vec(steps(), 1..32), |history| {
            let number = next.replace(next.get() + 1);
            let tokens = || Tokens { history: number, used: Cell::default() };
            let (of_memory, of_server) = (tokens(), tokens());
            runtime.block_on(async {
                for (at, step) in history.iter().enumerate() {
                    let expected = take(&memory, &of_memory, step).await.unwrap();
                    let found = take(&server, &of_server, step).await.unwrap();
                    prop_assert_eq!(expected, found, "memory left, server right, at step {}: {:?}", at, step);
                }
                Ok(())
            })
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

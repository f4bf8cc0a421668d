//! The memory store is also the specification of locks: a real server that is driven through the same random
//! history must give the same answers, hold each lock for as long, and issue fences that grow. Waiters live
//! for hours here and claims last for hours, so that a slow machine changes nothing; a step of its own ends
//! the time of a lock.
//!
//! A history also has a semaphore, whose number changes and whose callers want one to three permits; and a
//! group of three locks, of which callers want some.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::equivalence::real_store;
use super::group::GroupStore;
use super::lock::{
    Attempted, HeldBy, LockRequest, LockStore, LockToken, QueueStatus, QueueTiming, Renewal, WhenHeld,
};
use super::memory::{Bounds, MemoryStore};
use super::permit::{PermitRequest, PermitStore, Taken, WhenTaken, token_of, weight};
use crate::clock::Clock;
use crate::keyspace::{GROUP as GROUPS, SEMAPHORE as SEMAPHORES};
use crate::store::NoSink;

const HOUR: Duration = Duration::from_secs(3600);
const LOCKS: u8 = 2;
/// Where the tokens of permits are, and which "lock" of a ticket is the semaphore.
const PERMITS: u8 = 2;
/// Where the tokens of a group are, and which "lock" of a ticket is the group.
const GROUP: u8 = 3;
/// The number of permits that a handle sends.
const SEMAPHORE: u64 = 3;

#[derive(Debug, Clone)]
enum Step {
    Acquire(u8, u8, bool),
    Confirm(u8, u8),
    Subscribe(u8, u8),
    Heartbeat(Vec<(u8, u8)>),
    GiveUp(u8, u8),
    Extend(Vec<(u8, u8)>),
    /// Whether no attempt had to wait when the lock was granted, as far as the holder knows.
    Release(u8, u8, bool),
    Holder(u8),
    /// With the last fence, or with another one.
    BreakIf(u8, bool),
    /// Takes the lock for a moment, and waits until that is over.
    Brief(u8, u8),
    /// The holder's time ends, also if others wait.
    End(u8),
    /// An attempt that was cancelled before it arrives.
    Late(u8, u8, bool),
    /// How many permits, and whether it waits, with how many others at most.
    TakePermit(u8, u64, Option<u64>),
    LatePermit(u8, u64, Option<u64>),
    ConfirmPermit(u8),
    RenewPermits(Vec<u8>),
    GivePermit(u8, bool),
    SetPermits(u64, u64),
    /// The permits of one token for those of another, and whether that was cancelled before.
    Exchange(u8, u8, bool),
    InUse,
    /// The time of all permits and claims ends.
    EndPermits,
    /// The semaphore's number is lost. An attempt of a handle with another number may store that then.
    LoseNumber(Option<u64>),
    /// Which of the three locks of the group, as bits, and whether it waits.
    TakeGroup(u8, u8, bool),
    LateGroup(u8, u8, bool),
    ConfirmGroup(u8),
    RenewGroups(Vec<u8>),
    GiveGroup(u8, bool),
    GroupHolder(u8),
    EndGroup,
    /// The server loses the key of what is held, and no other key of the group.
    LoseGroup,
    /// Whether these are held, as asked with replicas.
    Acknowledged(Vec<(u8, u8)>),
}

#[derive(Debug, PartialEq)]
enum Answer {
    Granted,
    /// Granted before, with this fence.
    SameFence,
    FenceFell,
    Taken(Taken),
    Number(u64),
    Attempted(Attempted),
    Turns(Vec<QueueStatus>),
    Flag(bool),
    Flags(Vec<bool>),
    /// Whether it has the last fence, how long it is held, and how many wait.
    Holder(Option<(bool, Duration, u64)>),
    /// Each held, or lost to a holder.
    Renewals(Vec<Answer>),
}

fn steps() -> impl Strategy<Value = Step> {
    let one = || (0..LOCKS, 0..4u8);
    let many = |kinds| {
        let set = prop::collection::btree_set((0..kinds, 0..4u8), 1..5);
        set.prop_map(|set| set.into_iter().collect::<Vec<_>>())
    };
    let wait = || prop::option::weighted(0.8, prop_oneof![1 => 0..3u64, 3 => Just(u64::MAX)]);
    prop_oneof![
        // Locks.
        4 => (0..LOCKS, 0..4u8, any::<bool>()).prop_map(|(l, t, q)| Step::Acquire(l, t, q)),
        4 => one().prop_map(|(l, t)| Step::Confirm(l, t)),
        1 => (0..LOCKS + 2, 0..4u8).prop_map(|(l, t)| Step::Subscribe(l, t)),
        3 => many(LOCKS + 2).prop_map(Step::Heartbeat),
        2 => one().prop_map(|(l, t)| Step::GiveUp(l, t)),
        1 => many(LOCKS).prop_map(Step::Extend),
        3 => (0..LOCKS, 0..4u8, any::<bool>()).prop_map(|(l, t, u)| Step::Release(l, t, u)),
        1 => one().prop_map(|(l, t)| Step::Brief(l, t)),
        1 => (0..LOCKS).prop_map(Step::Holder),
        1 => (0..LOCKS, prop::bool::weighted(0.8)).prop_map(|(l, c)| Step::BreakIf(l, c)),
        2 => (0..LOCKS).prop_map(Step::End),
        1 => (0..LOCKS, 0..4u8, any::<bool>()).prop_map(|(l, t, q)| Step::Late(l, t, q)),
        // Semaphores.
        8 => (0..4u8, 1..4u64, wait()).prop_map(|(t, n, w)| Step::TakePermit(t, n, w)),
        1 => (0..4u8, 1..4u64, wait()).prop_map(|(t, n, w)| Step::LatePermit(t, n, w)),
        5 => (0..4u8).prop_map(Step::ConfirmPermit),
        1 => prop::collection::vec(0..4u8, 1..4).prop_map(Step::RenewPermits),
        4 => (0..4u8, any::<bool>()).prop_map(|(t, u)| Step::GivePermit(t, u)),
        1 => (1..5u64, 0..4u64).prop_map(|(n, v)| Step::SetPermits(n, v)),
        1 => (0..4u8, 0..4u8, prop::bool::weighted(0.2)).prop_map(|(a, b, late)| Step::Exchange(a, b, late)),
        1 => Just(Step::InUse),
        2 => Just(Step::EndPermits),
        1 => prop::option::of(1..4u64).prop_map(Step::LoseNumber),
        // Lock groups.
        8 => (0..4u8, 1..8u8, prop::bool::weighted(0.8)).prop_map(|(t, n, q)| Step::TakeGroup(t, n, q)),
        1 => (0..4u8, 1..8u8, any::<bool>()).prop_map(|(t, n, q)| Step::LateGroup(t, n, q)),
        5 => (0..4u8).prop_map(Step::ConfirmGroup),
        1 => prop::collection::vec(0..4u8, 1..4).prop_map(Step::RenewGroups),
        4 => (0..4u8, any::<bool>()).prop_map(|(t, u)| Step::GiveGroup(t, u)),
        2 => (0..3u8).prop_map(Step::GroupHolder),
        2 => Just(Step::EndGroup),
        1 => Just(Step::LoseGroup),
        1 => many(LOCKS + 2).prop_map(Step::Acknowledged),
    ]
}

/// The attempts of a history at one store: a token that is used again becomes another attempt.
struct MadeTokens {
    history: u64,
    used: Cell<[u64; 16]>,
    weights: Cell<[u64; 4]>,
    permit_fence: Cell<u64>,
    /// The last fence of each lock.
    fences: Cell<[u64; 4]>,
    /// The last fence of each attempt, by its token.
    granted: RefCell<HashMap<u64, u64>>,
}

impl MadeTokens {
    fn lock(&self, lock: u8) -> String {
        if lock == GROUP {
            self.group()
        } else if lock == PERMITS {
            self.semaphore()
        } else {
            format!("~lock.2:{{h{}:{lock}}}", self.history)
        }
    }

    fn semaphore(&self) -> String {
        format!("{SEMAPHORES}{{h{}:s}}", self.history)
    }

    fn group(&self) -> String {
        format!("{GROUPS}{{h{}:g}}", self.history)
    }

    fn current(&self, lock: u8, token: u8) -> u64 {
        let place = usize::from(lock * 4 + token);
        if lock == PERMITS {
            let nonce = (self.history * 1_000 + self.used.get()[place]) * 16 + u64::from(token) + 1;
            return token_of(nonce << 16, self.weights.get()[usize::from(token)]);
        }
        self.history * 1_000_000 + self.used.get()[place] * 16 + u64::from(lock * 4 + token) + 1
    }

    fn next(&self, lock: u8, token: u8) -> u64 {
        let mut used = self.used.get();
        used[usize::from(lock * 4 + token)] += 1;
        self.used.set(used);
        self.current(lock, token)
    }

    /// The next token, for an attempt at some permits.
    fn next_permit(&self, token: u8, weight: u64) -> u64 {
        let mut weights = self.weights.get();
        weights[usize::from(token)] = weight;
        self.weights.set(weights);
        self.next(PERMITS, token)
    }

    fn ticket(&self, (lock, token): (u8, u8)) -> LockToken {
        LockToken { lock: self.lock(lock), token: self.current(lock, token) }
    }

    fn attempted(&self, lock: u8, token: u64, attempted: Attempted) -> Answer {
        match attempted {
            // Fences depend on each store's clock, and whether wake-ups are reported on its connections.
            Attempted::Granted { fence } if self.granted.borrow_mut().insert(token, fence) == Some(fence) => {
                Answer::SameFence
            }
            Attempted::Granted { fence } => {
                let mut fences = self.fences.get();
                let last = std::mem::replace(&mut fences[usize::from(lock)], fence);
                self.fences.set(fences);
                if fence > last { Answer::Granted } else { Answer::FenceFell }
            }
            Attempted::Waiting { .. } => Answer::Attempted(Attempted::Waiting { notified: true }),
            other => Answer::Attempted(other),
        }
    }

    /// The holder of a lock, without what differs between the stores.
    fn seen(&self, lock: u8, by: Option<HeldBy>) -> Answer {
        assert!(by.as_ref().is_none_or(|by| by.process.ends_with(&std::process::id().to_string())));
        let last = self.fences.get()[usize::from(lock)];
        Answer::Holder(by.map(|by| (by.fence == last, hours(by.remaining), by.waiting)))
    }

    fn renewals(&self, locks: impl Iterator<Item = u8>, renewals: Vec<Option<Renewal>>) -> Answer {
        let renewals = locks.zip(renewals.into_iter().flatten()).map(|(lock, renewal)| match renewal {
            Renewal::Held => Answer::Flag(true),
            Renewal::Lost(to) => self.seen(lock, to),
        });
        Answer::Renewals(renewals.collect())
    }
}

/// A span of time, to the hour.
fn hours(span: Duration) -> Duration {
    let hour = HOUR.as_secs();
    Duration::from_secs((span.as_secs() + hour / 2) / hour * hour)
}

/// Requests for all permits have fences.
fn request(wait: Option<u64>, ttl: Duration, token: u64) -> PermitRequest {
    let wait = wait.map_or(WhenTaken::No, |most| WhenTaken::Queue { most });
    PermitRequest { permits: SEMAPHORE, ttl, wait, fenced: weight(token) == SEMAPHORE, quarantine: None }
}

/// Whether wake-ups are reported depends on each store's connections.
fn taken(taken: Taken, tokens: &MadeTokens) -> Answer {
    Answer::Taken(match taken {
        Taken::Granted { permits, fence } if fence > 0 => {
            // Fences depend on each store's clock, and grow.
            let last = tokens.permit_fence.replace(fence);
            Taken::Granted { permits, fence: u64::from(fence > last) }
        }
        Taken::Waiting { permits, .. } => Taken::Waiting { permits, notified: true },
        other => other,
    })
}

/// Some of three names.
fn names(bits: u8) -> String {
    let names: Vec<&str> =
        (0..3).filter(|bit| bits & (1 << bit) != 0).map(|bit| ["a", "b", "c"][bit]).collect();
    names.join("\n")
}

async fn take(
    store: &(impl LockStore + PermitStore + GroupStore),
    tokens: &MadeTokens,
    step: &Step,
) -> crate::Result<Answer> {
    let queue = |enqueue: &bool| if *enqueue { WhenHeld::Enqueue } else { WhenHeld::Return };
    let (semaphore, group) = (tokens.semaphore(), tokens.group());
    Ok(match step {
        Step::Acquire(lock, token, enqueue) => {
            let (name, token) = (tokens.lock(*lock), tokens.next(*lock, *token));
            tokens.attempted(*lock, token, store.acquire(&name, token, HOUR, queue(enqueue)).await?)
        }
        Step::Confirm(lock, token) => {
            let (name, token) = (tokens.lock(*lock), tokens.current(*lock, *token));
            tokens.attempted(*lock, token, store.confirm(&name, token, 3 * HOUR).await?)
        }
        Step::Subscribe(lock, token) => {
            Answer::Flag(store.subscribe(&tokens.lock(*lock), tokens.current(*lock, *token)).await?)
        }
        Step::Heartbeat(waiting) => {
            let waiting: Vec<LockToken> = waiting.iter().map(|ticket| tokens.ticket(*ticket)).collect();
            Answer::Turns(store.heartbeat(&waiting, HOUR).await?.into_iter().flatten().collect())
        }
        Step::GiveUp(lock, token) => {
            Answer::Flag(store.give_up(&tokens.lock(*lock), tokens.current(*lock, *token), HOUR).await?)
        }
        Step::Extend(held) => {
            let asked: Vec<_> = held.iter().map(|ticket| (tokens.ticket(*ticket), 2 * HOUR)).collect();
            tokens.renewals(held.iter().map(|(lock, _)| *lock), store.extend(&asked, HOUR).await?)
        }
        Step::Release(lock, token, unwaited) => {
            let (name, token) = (tokens.lock(*lock), tokens.current(*lock, *token));
            Answer::Flag(match unwaited {
                true => store.release_unwaited(&name, token).await?,
                false => store.release(&name, token).await?,
            })
        }
        Step::Holder(lock) => tokens.seen(*lock, store.holder(&tokens.lock(*lock)).await?),
        Step::BreakIf(lock, current) => {
            let last = tokens.fences.get()[usize::from(*lock)];
            Answer::Flag(store.break_if(&tokens.lock(*lock), last + u64::from(!current)).await?)
        }
        Step::Brief(lock, token) => {
            let (name, token) = (tokens.lock(*lock), tokens.next(*lock, *token));
            let moment = Duration::from_millis(1);
            let attempted = store.acquire(&name, token, moment, WhenHeld::Return).await?;
            let answer = tokens.attempted(*lock, token, attempted);
            if answer == Answer::Granted {
                tokio::time::sleep(3 * moment).await;
            }
            answer
        }
        // The comparison itself tells the stores.
        Step::End(_) | Step::EndPermits | Step::EndGroup | Step::LoseGroup | Step::LoseNumber(None) => {
            Answer::Flag(true)
        }
        Step::LoseNumber(Some(permits)) => {
            let token = tokens.next_permit(3, 1);
            let request = PermitRequest { permits: *permits, ..request(None, HOUR, token) };
            taken(store.take_permit(&semaphore, token, request).await?, tokens)
        }
        Step::Late(lock, token, enqueue) => {
            let (name, token) = (tokens.lock(*lock), tokens.next(*lock, *token));
            store.give_up(&name, token, HOUR).await?;
            tokens.attempted(*lock, token, store.acquire(&name, token, HOUR, queue(enqueue)).await?)
        }
        Step::TakePermit(token, weight, wait) => {
            let token = tokens.next_permit(*token, *weight);
            taken(store.take_permit(&semaphore, token, request(*wait, HOUR, token)).await?, tokens)
        }
        Step::LatePermit(token, weight, wait) => {
            let token = tokens.next_permit(*token, *weight);
            store.give_permit(&semaphore, token, Some(HOUR)).await?;
            taken(store.take_permit(&semaphore, token, request(*wait, HOUR, token)).await?, tokens)
        }
        Step::ConfirmPermit(token) => {
            let token = tokens.current(PERMITS, *token);
            taken(store.confirm_permit(&semaphore, token, request(None, 3 * HOUR, token)).await?, tokens)
        }
        Step::SetPermits(permits, version) => {
            Answer::Flag(store.set_permits(&semaphore, *permits, *version).await?)
        }
        Step::Exchange(token, other, late) => {
            let token = tokens.current(PERMITS, *token);
            let other = tokens.next_permit(*other, 1);
            if *late {
                store.give_permit(&semaphore, other, Some(HOUR)).await?;
            }
            Answer::Flag(store.exchange_permits(&semaphore, token, other, 2 * HOUR).await?)
        }
        Step::InUse => Answer::Number(store.permits_in_use(&semaphore).await?),
        Step::RenewPermits(held) => {
            let ticket =
                |token: &u8| LockToken { lock: semaphore.clone(), token: tokens.current(PERMITS, *token) };
            let held: Vec<_> = held.iter().map(|token| (ticket(token), 2 * HOUR)).collect();
            tokens.renewals(std::iter::repeat(PERMITS), store.renew_permits(&held, HOUR).await?)
        }
        Step::TakeGroup(token, wanted, wait) => {
            let token = tokens.next(GROUP, *token);
            let request = LockRequest::of(HOUR);
            let taken = store.take_group(&group, token, &names(*wanted), request, queue(wait)).await?;
            tokens.attempted(GROUP, token, taken)
        }
        Step::LateGroup(token, wanted, wait) => {
            let token = tokens.next(GROUP, *token);
            store.give_group(&group, token, Some(HOUR)).await?;
            let request = LockRequest::of(HOUR);
            let taken = store.take_group(&group, token, &names(*wanted), request, queue(wait)).await?;
            tokens.attempted(GROUP, token, taken)
        }
        Step::ConfirmGroup(token) => {
            let token = tokens.current(GROUP, *token);
            let confirmed = store.confirm_group(&group, token, LockRequest::of(3 * HOUR)).await?;
            tokens.attempted(GROUP, token, confirmed)
        }
        Step::RenewGroups(held) => {
            let held: Vec<_> = held.iter().map(|token| (tokens.ticket((GROUP, *token)), 2 * HOUR)).collect();
            tokens.renewals(std::iter::repeat(GROUP), store.renew_groups(&held, HOUR).await?)
        }
        Step::GiveGroup(token, up) => {
            let token = tokens.current(GROUP, *token);
            Answer::Flag(store.give_group(&group, token, up.then_some(HOUR)).await?)
        }
        Step::GroupHolder(name) => tokens.seen(GROUP, store.group_holder(&group, &names(1 << name)).await?),
        Step::Acknowledged(held) => {
            let held: Vec<LockToken> = held.iter().map(|ticket| tokens.ticket(*ticket)).collect();
            // Zero replicas are asked for: that there are some is another test.
            Answer::Flags(store.acknowledged(&held, 0, HOUR).await?.into_iter().flatten().collect())
        }
        Step::GivePermit(token, up) => {
            let token = tokens.current(PERMITS, *token);
            Answer::Flag(store.give_permit(&semaphore, token, up.then_some(HOUR)).await?)
        }
    })
}

/// What chance rarely produces: a waiter of a group gives back its claim before it has confirmed it.
fn claim_given_back() -> Vec<Step> {
    vec![
        Step::TakeGroup(0, 3, false),
        Step::TakeGroup(1, 1, true),
        Step::EndGroup,
        Step::TakeGroup(2, 1, false),
        Step::GiveGroup(1, false),
        Step::Subscribe(GROUP, 1),
    ]
}

/// What chance rarely produces: a waiter whose claim ended asks while the next one has a claim.
fn late_waiter() -> Vec<Step> {
    let waits = Some(u64::MAX);
    vec![
        Step::SetPermits(1, 1),
        Step::TakePermit(0, 1, None),
        Step::TakePermit(1, 1, waits),
        Step::TakePermit(2, 1, waits),
        Step::GivePermit(0, false),
        Step::EndPermits,
        Step::Heartbeat(vec![(PERMITS, 2)]),
        Step::ConfirmPermit(1),
        Step::ConfirmPermit(2),
        Step::GivePermit(1, false),
        Step::ConfirmPermit(2),
    ]
}

/// What chance rarely produces: a waiter that wants more than a number that was stored again, while all permits are
/// used.
fn heavy_waiter() -> Vec<Step> {
    vec![
        Step::TakePermit(0, 2, None),
        Step::TakePermit(1, 3, Some(u64::MAX)),
        Step::LoseNumber(Some(2)),
        Step::ConfirmPermit(1),
        Step::ConfirmPermit(1),
        Step::InUse,
    ]
}

#[test]
fn both_stores_answer_the_same_to_every_history_of_locks() {
    let histories = std::env::var("LARDER_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(4_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Claims and heartbeats that last for long: no time passes by itself. A claim is shorter than a lease.
    let timing = QueueTiming { claim: HOUR / 3, live: 5 * HOUR };
    let mut server = runtime.block_on(real_store());
    server.set_timing(timing);
    let mut memory = MemoryStore::new(Bounds::default(), Clock::default(), Arc::new(NoSink));
    memory.timing = timing;
    let next = Cell::new(1u64);
    let mut runner =
        TestRunner::new(Config { cases: histories, failure_persistence: None, ..Config::default() });
    runner
        .run(&prop::collection::vec(steps(), 1..32), |history| {
            let number = next.replace(next.get() + 1);
            let history = match number {
                1 => late_waiter(),
                2 => heavy_waiter(),
                3 => claim_given_back(),
                _ => history,
            };
            // The same names and tokens at both stores.
            let tokens = || MadeTokens {
                history: number,
                used: Cell::default(),
                weights: Cell::new([1; 4]),
                permit_fence: Cell::default(),
                fences: Cell::default(),
                granted: RefCell::default(),
            };
            let (of_memory, of_server) = (tokens(), tokens());
            runtime.block_on(async {
                for (at, step) in history.iter().enumerate() {
                    // Time that ends, in both stores.
                    if let Step::End(lock) = step {
                        let name = of_memory.lock(*lock);
                        memory.end(&name);
                        server.end(&name).await;
                    }
                    if let Step::EndPermits = step {
                        let name = of_memory.semaphore();
                        memory.end_permits(&name);
                        server.end_permits(&name).await;
                    }
                    if let Step::LoseNumber(_) = step {
                        let name = of_memory.semaphore();
                        memory.lose_number(&name);
                        server.lose_number(&name).await;
                    }
                    if let Step::EndGroup = step {
                        let name = of_memory.group();
                        memory.end_group(&name);
                        server.end_group(&name).await;
                    }
                    if let Step::LoseGroup = step {
                        let name = of_memory.group();
                        memory.lose_group(&name);
                        // The key of the held tokens has the group's name.
                        server.end(&name).await;
                    }
                    // The same step in both stores must give the same answer, and leave the same holds.
                    let expected = take(&memory, &of_memory, step).await.unwrap();
                    let found = take(&server, &of_server, step).await.unwrap();
                    prop_assert_ne!(&expected, &Answer::FenceFell);
                    prop_assert_eq!(expected, found, "memory left, server right, at step {}: {:?}", at, step);
                    let name = tokens().lock(u8::try_from(at % usize::from(LOCKS)).unwrap());
                    let left = server.time_left(&name).await.map(hours);
                    prop_assert_eq!(memory.time_left(&name).map(hours), left, "of {} after {:?}", name, step);
                    // A fence is remembered for longer than its lock is held.
                    let remembered = server.fence_left(&name).await;
                    if let Some(held) = server.holder(&name).await.unwrap() {
                        let bar = held.remaining + Duration::from_secs(50);
                        prop_assert!(remembered > bar, "the fence of {} for {:?}", name, remembered);
                    }
                    let group = of_server.group();
                    for held in ["a", "b", "c"] {
                        let Some(held) = server.group_holder(&group, held).await.unwrap() else { continue };
                        let (bar, remembered) =
                            (held.remaining + Duration::from_secs(50), server.fence_left(&group).await);
                        prop_assert!(remembered > bar, "the group's fence for {:?}", remembered);
                        prop_assert!(server.time_left(&group).await.unwrap() > bar);
                    }
                    let in_use = server.permits_in_use(&of_server.semaphore()).await.unwrap();
                    let expected = memory.permits_in_use(&of_memory.semaphore()).await.unwrap();
                    prop_assert_eq!(expected, in_use, "in use, after {:?}", step);
                }
                Ok(())
            })
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

async fn grants_of_a_step(store: &(impl PermitStore + LockStore), name: &str) -> [u64; 2] {
    let request = PermitRequest {
        permits: 1,
        ttl: HOUR,
        wait: WhenTaken::Queue { most: u64::MAX },
        fenced: false,
        quarantine: None,
    };
    let token = |number: u64| token_of(number << 16, 1);
    for number in 0..=100 {
        store.take_permit(name, token(number + 1), request).await.unwrap();
    }
    store.set_permits(name, 101, 1).await.unwrap();
    let at_once = store.permits_in_use(name).await.unwrap();
    let last = [LockToken { lock: name.to_owned(), token: token(101) }];
    store.heartbeat(&last, HOUR).await.unwrap();
    [at_once, store.permits_in_use(name).await.unwrap()]
}

#[tokio::test]
async fn a_step_grants_64_permits_at_most_and_the_next_heartbeat_continues() {
    let timing = QueueTiming { claim: 5 * HOUR, live: 5 * HOUR };
    let mut server = real_store().await;
    server.set_timing(timing);
    let mut memory = MemoryStore::new(Bounds::default(), Clock::default(), Arc::new(NoSink));
    memory.timing = timing;
    let name = format!("{SEMAPHORES}{{many}}");
    assert_eq!(grants_of_a_step(&memory, &name).await, [65, 101]);
    assert_eq!(grants_of_a_step(&server, &name).await, [65, 101]);
}

/// As [`both_stores_answer_the_same_to_every_history_of_locks`], with a loss that the embedded store does not know.
#[tokio::test]
async fn a_waiter_whose_queue_is_lost_while_it_has_a_claim_gets_a_fence_of_its_own() {
    let (server, name) = (real_store().await, "~lock.2:{/lost}");
    let Attempted::Granted { fence } = server.acquire(name, 1, HOUR, WhenHeld::Return).await.unwrap() else {
        panic!("it is held")
    };
    server.acquire(name, 2, HOUR, WhenHeld::Enqueue).await.unwrap();
    server.release(name, 1).await.unwrap();
    server.end(&format!("{name}:line")).await;
    match server.confirm(name, 2, HOUR).await.unwrap() {
        Attempted::Granted { fence: next } => assert!(next > fence, "{next} after {fence}"),
        other => panic!("{other:?}"),
    }
}

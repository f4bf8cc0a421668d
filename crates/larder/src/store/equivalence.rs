//! The memory store is the specification: a real server, driven through the same random history, must answer the same.
//!
//! Histories are short and use few names, so that operations meet. Time is left out, but for an operation that lets an
//! entry expire in both stores; spans of time in answers are compared roughly. Each history has names of its own.
//! LARDER_TEST_HISTORIES sets how many are tried.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_testkit::Server;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::memory::{Bounds, MemoryStore};
use super::redis::{Login, RedisStore};
use super::{Acquired, Expiry, FillStart, Store};
use crate::clock::Clock;
use crate::envelope::Envelope;
use crate::error::ErrorKind;
use crate::url::{self, Target};

const NAMES: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
enum Step {
    Get(usize),
    GetMany(Vec<usize>),
    Peek(usize),
    Set(usize, u8, Expiry),
    SetMany(Vec<(usize, u8, Expiry)>),
    Delete(usize),
    DeleteMany(Vec<usize>),
    Touch(usize, Expiry),
    Remaining(usize),
    /// Stores something for a millisecond and waits until it is gone.
    Lapse(usize),
    BeginFill(usize, u8, Option<u8>),
    CommitFill(usize, u8, u8, Expiry),
    AbandonFill(usize, u8),
    Versions(Vec<usize>, u8),
    KnownVersions(Vec<usize>),
    RenewVersion(usize, u8),
    Acquire(usize, u8),
    Extend(usize, u8),
    Release(usize, u8),
}

/// What a step answered, with spans of time made comparable.
#[derive(Debug, PartialEq)]
enum Answer {
    Nothing,
    Flag(bool),
    Flags(Vec<bool>),
    Bytes(Option<Bytes>),
    ManyBytes(Vec<Option<Bytes>>),
    Kept(Option<(Bytes, Rough)>),
    Begun(FillStart),
    Versions(Vec<u64>),
    KnownVersions(Vec<Option<u64>>),
    Lock(Option<Rough>),
    Failed(ErrorKind),
}

/// A span of time, known to some minutes.
#[derive(Debug, PartialEq)]
enum Rough {
    Never,
    WithinTwoMinutes,
    Longer,
}

fn rough(expiry: Expiry) -> Rough {
    match expiry {
        Expiry::Never => Rough::Never,
        Expiry::After(span) if span <= 2 * MINUTE => Rough::WithinTwoMinutes,
        Expiry::After(_) => Rough::Longer,
    }
}

fn expiries() -> impl Strategy<Value = Expiry> {
    prop_oneof![Just(Expiry::Never), Just(Expiry::After(MINUTE)), Just(Expiry::After(60 * MINUTE))]
}

fn steps() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES;
    let names = || prop::collection::vec(0..NAMES, 0..5);
    let some = || 0..3u8;
    prop_oneof![
        3 => name().prop_map(Step::Get),
        1 => names().prop_map(Step::GetMany),
        1 => name().prop_map(Step::Peek),
        4 => (name(), some(), expiries()).prop_map(|(n, v, e)| Step::Set(n, v, e)),
        1 => prop::collection::vec((name(), some(), expiries()), 0..4).prop_map(Step::SetMany),
        2 => name().prop_map(Step::Delete),
        1 => names().prop_map(Step::DeleteMany),
        2 => (name(), expiries()).prop_map(|(n, e)| Step::Touch(n, e)),
        2 => name().prop_map(Step::Remaining),
        1 => name().prop_map(Step::Lapse),
        3 => (name(), some(), prop::option::of(some())).prop_map(|(n, t, u)| Step::BeginFill(n, t, u)),
        3 => (name(), some(), some(), expiries()).prop_map(|(n, t, v, e)| Step::CommitFill(n, t, v, e)),
        1 => (name(), some()).prop_map(|(n, t)| Step::AbandonFill(n, t)),
        1 => (names(), some()).prop_map(|(n, c)| Step::Versions(n, c)),
        1 => names().prop_map(Step::KnownVersions),
        1 => (name(), some()).prop_map(|(n, v)| Step::RenewVersion(n, v)),
        2 => (name(), some()).prop_map(|(n, t)| Step::Acquire(n, t)),
        1 => (name(), some()).prop_map(|(n, t)| Step::Extend(n, t)),
        1 => (name(), some()).prop_map(|(n, t)| Step::Release(n, t)),
    ]
}

/// Sixteen bytes or so of each kind that a store may hold: text, a placeholder, an envelope's start, nothing.
fn value(which: u8) -> Bytes {
    match which {
        0 => Bytes::from_static(b"{\"plain\":\"json, longer than the forty bytes of a header\"}"),
        1 => placeholder(9),
        _ => Bytes::from_static(b"x"),
    }
}

fn placeholder(token: u8) -> Bytes {
    Bytes::from(Envelope::placeholder(u64::from(token) + 1, 0))
}

async fn take(store: &impl Store, history: u64, step: &Step) -> Answer {
    try_take(store, history, step).await.unwrap_or_else(|error| Answer::Failed(error.kind()))
}

async fn try_take(store: &impl Store, history: u64, step: &Step) -> crate::Result<Answer> {
    let name = |n: &usize| format!("h{history}:{n}");
    let tag = |n: &usize| format!("~tag.1:{{h{history}:{n}}}");
    let lock = |n: &usize| format!("~lock.1:{{h{history}:{n}}}");
    let all = |ns: &[usize], f: &dyn Fn(&usize) -> String| ns.iter().map(f).collect::<Vec<_>>();
    Ok(match step {
        Step::Get(n) => Answer::Bytes(store.get(&name(n)).await?),
        Step::GetMany(ns) => Answer::ManyBytes(store.get_many(&all(ns, &name)).await?),
        Step::Peek(n) => Answer::Bytes(Some(store.peek(&name(n)).await?)),
        Step::Set(n, v, expiry) => {
            store.set(&name(n), value(*v), *expiry).await?;
            Answer::Nothing
        }
        Step::SetMany(entries) => {
            let entries = entries.iter().map(|(n, v, expiry)| (name(n), value(*v), *expiry)).collect();
            store.set_many(entries).await?;
            Answer::Nothing
        }
        Step::Delete(n) => Answer::Flag(store.delete(&name(n)).await?),
        Step::DeleteMany(ns) => Answer::Flags(store.delete_many(&all(ns, &name)).await?),
        Step::Touch(n, expiry) => Answer::Flag(store.touch(&name(n), *expiry).await?),
        Step::Remaining(n) => {
            let kept = store.remaining(&name(n)).await?;
            Answer::Kept(kept.map(|(start, expiry)| (start, rough(expiry))))
        }
        Step::Lapse(n) => {
            store.set(&name(n), value(0), Expiry::After(Duration::from_millis(1))).await?;
            let limit = Instant::now() + Duration::from_secs(10);
            while store.get(&name(n)).await?.is_some() {
                assert!(Instant::now() < limit, "an entry of one millisecond is there after ten seconds");
            }
            Answer::Nothing
        }
        Step::BeginFill(n, token, unreadable) => {
            let (name, unreadable) = (name(n), unreadable.map(value));
            Answer::Begun(store.begin_fill(&name, placeholder(*token), MINUTE, unreadable).await?)
        }
        Step::CommitFill(n, token, v, expiry) => {
            Answer::Flag(store.commit_fill(&name(n), placeholder(*token), value(*v), *expiry).await?)
        }
        Step::AbandonFill(n, token) => {
            store.abandon_fill(&name(n), placeholder(*token)).await?;
            Answer::Nothing
        }
        Step::Versions(ns, candidate) => {
            let candidates = vec![u64::from(*candidate) + 1; ns.len()];
            Answer::Versions(store.versions(&all(ns, &tag), &candidates, MINUTE).await?)
        }
        Step::KnownVersions(ns) => Answer::KnownVersions(store.known_versions(&all(ns, &tag)).await?),
        Step::RenewVersion(n, version) => {
            store.renew_version(&tag(n), u64::MAX - u64::from(*version), MINUTE).await?;
            Answer::Nothing
        }
        Step::Acquire(n, token) => match store.acquire(&lock(n), u64::from(*token), MINUTE).await? {
            // Fences come from each store's own clock.
            Acquired::Granted { .. } => Answer::Lock(None),
            Acquired::Held { remaining } => Answer::Lock(Some(rough(Expiry::After(remaining)))),
        },
        Step::Extend(n, token) => Answer::Flag(store.extend(&lock(n), u64::from(*token), 60 * MINUTE).await?),
        Step::Release(n, token) => Answer::Flag(store.release(&lock(n), u64::from(*token)).await?),
    })
}

async fn real_store() -> RedisStore {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let Target::Server(target) = url::parse(&SERVER.get_or_init(Server::start).url()).unwrap() else {
        panic!("not a server")
    };
    let login = Login {
        username: None,
        password: None,
        database: 0,
        tls: false,
        tls_roots: None,
        connect_timeout: Duration::from_secs(10),
        clock: Clock::default(),
    };
    RedisStore::connect(target.deployment, login.clone(), login, 1).await.unwrap()
}

#[test]
fn both_stores_answer_the_same_to_every_history() {
    let histories =
        std::env::var("LARDER_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(real_store());
    let memory = MemoryStore::new(Bounds { max_bytes: 1 << 30, ..Bounds::default() }, Clock::default());
    let next = std::cell::Cell::new(0u64);
    let mut runner =
        TestRunner::new(Config { cases: histories, failure_persistence: None, ..Config::default() });
    runner
        .run(&prop::collection::vec(steps(), 1..24), |history| {
            let number = next.replace(next.get() + 1);
            runtime.block_on(async {
                for (at, step) in history.iter().enumerate() {
                    let (expected, found) =
                        (take(&memory, number, step).await, take(&server, number, step).await);
                    prop_assert_eq!(expected, found, "memory left, server right, at step {}: {:?}", at, step);
                }
                Ok(())
            })
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

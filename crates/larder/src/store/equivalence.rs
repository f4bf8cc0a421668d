//! The memory store is the specification: a real server that is driven through the same random history must
//! give the same answers.
//!
//! Histories are short and use few names, so that operations meet. Time plays no part, except for an
//! operation that lets an entry expire in both stores; spans of time in answers are compared roughly. Each
//! history has its own names. LARDER_TEST_HISTORIES sets how many histories are tried.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_testkit::Server;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::memory::{Bounds, MemoryStore};
use super::once::{OnceRun, OnceStart, OnceStore};
use super::redis::{Hosts, Login, RedisStore};
use super::{Claim, Expiry, Fencing, FillStart, Force, RefreshClaim, RefreshStart, Store};
use crate::clock::Clock;
use crate::error::ErrorKind;
use crate::name::Name;
use crate::store::NoSink;
use crate::url::{self, Target};
use crate::value::{self, Encoder, Format, WriteStamp};

const NAMES: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
enum Step {
    Get(usize),
    GetTracked(usize),
    GetMany(Vec<usize>),
    Peek(usize),
    Set(usize, u8, Expiry),
    SetMany(Vec<(usize, u8, Expiry)>),
    Delete(usize),
    DeleteMany(Vec<usize>),
    Touch(usize, Expiry),
    Remaining(usize),
    RemainingMany(Vec<usize>),
    /// Stores something for a millisecond and waits until it has expired.
    Lapse(usize),
    BeginFill(usize, u8, Option<u8>),
    CommitFill(usize, u8, u8, Expiry),
    AbandonFill(usize, u8),
    BeginRefresh(usize, u8, u8, bool),
    CommitRefresh(usize, u8, u8, Option<u8>, Expiry),
    AbandonRefresh(usize, u8, u8),
    RenewLoad(usize, u8, u8, bool),
    Restamp(usize, u8, u8, Option<Expiry>),
    Version(usize, u8),
    RenewVersion(usize, u8),
    SetFenced(usize, u8, Expiry, u8),
    SetIfAbsent(usize, u8, Expiry, Option<u8>),
    BeginOnce(usize, u8, Option<u8>, bool),
    /// Begins a run, and waits until it counts as interrupted.
    Interrupt(usize, u8),
    RenewOnce(usize, u8),
    CommitOnce(usize, u8, u8, Expiry),
    AbandonOnce(usize, u8),
}

/// The answer to a step, with spans of time made comparable.
#[derive(Debug, PartialEq)]
enum Answer {
    Nothing,
    Flag(bool),
    Flags(Vec<bool>),
    Bytes(Option<Bytes>),
    ManyBytes(Vec<Option<Bytes>>),
    Kept(Option<(Bytes, Rough)>),
    ManyKept(Vec<Option<Rough>>),
    Begun(FillStart),
    RefreshBegun(RefreshStart),
    Once(OnceStart),
    Version(u64, Rough),
    Failed(ErrorKind),
}

/// A span of time, to within some minutes.
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
    let some = || 0..4u8;
    let what = || 0..KINDS;
    // Refreshes mostly name a nonce that some value has, and use few tokens, so that a begin and its commit
    // meet.
    let (old, few) = (|| prop_oneof![6 => 1..3u8, 1 => 0..4u8], || 0..2u8);
    prop_oneof![
        2 => name().prop_map(Step::Get),
        1 => name().prop_map(Step::GetTracked),
        1 => names().prop_map(Step::GetMany),
        1 => name().prop_map(Step::Peek),
        4 => (name(), what(), expiries()).prop_map(|(n, v, e)| Step::Set(n, v, e)),
        1 => prop::collection::vec((name(), what(), expiries()), 0..4).prop_map(Step::SetMany),
        2 => name().prop_map(Step::Delete),
        1 => names().prop_map(Step::DeleteMany),
        2 => (name(), expiries()).prop_map(|(n, e)| Step::Touch(n, e)),
        2 => name().prop_map(Step::Remaining),
        1 => names().prop_map(Step::RemainingMany),
        1 => name().prop_map(Step::Lapse),
        3 => (name(), some(), prop::option::of(what())).prop_map(|(n, t, u)| Step::BeginFill(n, t, u)),
        3 => (name(), some(), what(), expiries()).prop_map(|(n, t, v, e)| Step::CommitFill(n, t, v, e)),
        1 => (name(), some()).prop_map(|(n, t)| Step::AbandonFill(n, t)),
        4 => (name(), old(), few(), any::<bool>()).prop_map(|(n, o, t, f)| Step::BeginRefresh(n, o, t, f)),
        4 => (name(), old(), few(), prop::option::of(what()), expiries())
            .prop_map(|(n, o, t, v, e)| Step::CommitRefresh(n, o, t, v, e)),
        1 => (name(), old(), few()).prop_map(|(n, o, t)| Step::AbandonRefresh(n, o, t)),
        1 => (name(), some(), some(), any::<bool>()).prop_map(|(n, o, t, p)| Step::RenewLoad(n, o, t, p)),
        1 => (name(), some(), what(), prop::option::of(expiries())).prop_map(|(n, o, v, e)| Step::Restamp(n, o, v, e)),
        1 => (name(), some()).prop_map(|(n, c)| Step::Version(n, c)),
        1 => (name(), some()).prop_map(|(n, v)| Step::RenewVersion(n, v)),
        2 => (name(), what(), expiries(), some()).prop_map(|(n, v, e, f)| Step::SetFenced(n, v, e, f)),
        2 => (name(), what(), expiries(), prop::option::of(what()))
            .prop_map(|(n, v, e, u)| Step::SetIfAbsent(n, v, e, u)),
        3 => (name(), some(), prop::option::of(what()), any::<bool>())
            .prop_map(|(n, t, u, o)| Step::BeginOnce(n, t, u, o)),
        1 => (name(), some()).prop_map(|(n, t)| Step::Interrupt(n, t)),
        1 => (name(), some()).prop_map(|(n, t)| Step::RenewOnce(n, t)),
        2 => (name(), some(), what(), expiries()).prop_map(|(n, t, v, e)| Step::CommitOnce(n, t, v, e)),
        1 => (name(), some()).prop_map(|(n, t)| Step::AbandonOnce(n, t)),
    ]
}

/// A run of work, and its answer without the time that is left.
fn run(token: u8, liveness: Duration, takes_over: bool) -> OnceRun {
    OnceRun { token: u64::from(token) + 1, liveness, kept: 60 * MINUTE, takes_over }
}

fn timeless(start: OnceStart) -> OnceStart {
    match start {
        OnceStart::Running(_) => OnceStart::Running(MINUTE),
        other => other,
    }
}

const KINDS: u8 = 5;

/// One of each kind that a store may hold: text, a placeholder, two values whose nonces refreshes name, the
/// empty string.
fn value(which: u8) -> Bytes {
    match which {
        0 => Bytes::from_static(b"{\"plain\":\"json, longer than the forty bytes of a header\"}"),
        1 => placeholder(2),
        2 | 4 => {
            let stamp = WriteStamp { nonce: if which == 2 { 2 } else { 3 }, ..WriteStamp::default() };
            Bytes::from(Encoder::new(Format::Json, None, 100).encode(&"x".to_owned(), stamp).unwrap())
        }
        _ => Bytes::new(),
    }
}

fn placeholder(token: u8) -> Bytes {
    Bytes::from(value::placeholder(WriteStamp { nonce: u64::from(token) + 1, ..WriteStamp::default() }))
}

fn claim(old: u8, token: u8) -> RefreshClaim {
    RefreshClaim { token: u64::from(token), nonce: u64::from(old) + 1 }
}

async fn take(store: &(impl Store + OnceStore), history: u64, step: &Step) -> Answer {
    try_take(store, history, step).await.unwrap_or_else(|error| Answer::Failed(error.kind()))
}

async fn try_take(store: &(impl Store + OnceStore), history: u64, step: &Step) -> crate::Result<Answer> {
    let name = |n: &usize| format!("h{history}:{n}");
    let tag = |n: &usize| format!("~tag.1:{{h{history}:{n}}}");
    let all = |ns: &[usize], f: &dyn Fn(&usize) -> String| {
        ns.iter().map(|n| Name::from(f(n).as_str())).collect::<Vec<_>>()
    };
    Ok(match step {
        // Reads. A tracked read and a plain one see the same bytes.
        Step::Get(n) => Answer::Bytes(store.get(&name(n)).await?),
        Step::GetMany(ns) => {
            let names = all(ns, &name);
            let tracked: Vec<_> =
                store.get_many_tracked(&names).await?.into_iter().map(|read| read.bytes).collect();
            let plain = store.get_many(&names).await?;
            assert_eq!(plain, tracked, "a tracked read and a plain one differ");
            Answer::ManyBytes(plain)
        }
        Step::GetTracked(n) => Answer::Bytes(store.get_tracked(&name(n)).await?.bytes),
        Step::Peek(n) => Answer::Bytes(Some(store.peek(&name(n)).await?)),
        // Writes, with and without a condition.
        Step::Set(n, v, expiry) => {
            store.set(&name(n), value(*v), *expiry).await?;
            Answer::Nothing
        }
        Step::SetMany(entries) => {
            let entries = entries
                .iter()
                .map(|(n, v, expiry)| (Name::from(name(n).as_str()), value(*v), *expiry))
                .collect();
            store.set_many(entries).await.into_iter().collect::<Result<(), _>>()?;
            Answer::Nothing
        }
        Step::SetFenced(n, v, expiry, fence) => {
            let fence = Fencing { number: u64::from(*fence) + 1, kept: 60 * MINUTE };
            Answer::Flag(store.set_fenced(&name(n), value(*v), *expiry, fence).await?)
        }
        Step::SetIfAbsent(n, v, expiry, in_place_of) => {
            let in_place_of = in_place_of.map(value);
            Answer::Begun(store.set_if_absent(&name(n), value(*v), *expiry, in_place_of).await?)
        }
        // Work that runs once. The real store's times vary, so answers are compared without them.
        Step::BeginOnce(n, token, in_place_of, takes_over) => {
            let run = run(*token, MINUTE, *takes_over);
            Answer::Once(timeless(store.begin_once(&name(n), run, in_place_of.map(value)).await?))
        }
        // A run whose pulse lasts a millisecond: repeated until the store reports it as interrupted.
        Step::Interrupt(n, token) => {
            let run = run(*token, Duration::from_millis(1), false);
            let limit = Instant::now() + Duration::from_secs(10);
            let mut start = store.begin_once(&name(n), run, None).await?;
            if start == OnceStart::Begun {
                start = OnceStart::Running(MINUTE);
                while matches!(start, OnceStart::Running(_)) {
                    assert!(Instant::now() < limit, "a pulse of one millisecond beats after ten seconds");
                    start = store.begin_once(&name(n), run, None).await?;
                }
            }
            Answer::Once(timeless(start))
        }
        Step::RenewOnce(n, token) => {
            Answer::Flag(store.renew_once(&name(n), run(*token, MINUTE, false)).await?)
        }
        Step::CommitOnce(n, token, v, expiry) => {
            Answer::Flag(store.commit_once(&name(n), u64::from(*token) + 1, value(*v), *expiry).await?)
        }
        Step::AbandonOnce(n, token) => {
            store.abandon_once(&name(n), u64::from(*token) + 1).await?;
            Answer::Nothing
        }
        // Deletions and times to live.
        Step::Delete(n) => Answer::Flag(store.delete(&name(n)).await?),
        Step::DeleteMany(ns) => {
            Answer::Flags(store.delete_many(&all(ns, &name)).await.into_iter().collect::<Result<_, _>>()?)
        }
        Step::Touch(n, expiry) => Answer::Flag(store.touch(&name(n), *expiry).await?),
        Step::Remaining(n) => {
            let kept = store.remaining(&name(n)).await?;
            Answer::Kept(kept.map(|(start, expiry)| (start, rough(expiry))))
        }
        Step::RemainingMany(ns) => {
            let left = store.remaining_many(&all(ns, &name)).await?;
            Answer::ManyKept(
                left.into_iter().map(|left| left.map(|left| rough(Expiry::After(left)))).collect(),
            )
        }
        // An entry of a millisecond: read until it is gone, so that both stores have expired it.
        Step::Lapse(n) => {
            store.set(&name(n), value(0), Expiry::After(Duration::from_millis(1))).await?;
            let limit = Instant::now() + Duration::from_secs(10);
            while store.get(&name(n)).await?.is_some() {
                assert!(Instant::now() < limit, "an entry of one millisecond is there after ten seconds");
            }
            Answer::Nothing
        }
        // Fills and refreshes, by their claims.
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
        Step::BeginRefresh(n, old, token, force) => {
            let force = if *force { Force::Yes } else { Force::No };
            Answer::RefreshBegun(store.begin_refresh(&name(n), claim(*old, *token), MINUTE, force).await?)
        }
        Step::CommitRefresh(n, old, token, v, expiry) => {
            let value = v.map(value);
            Answer::Flag(store.commit_refresh(&name(n), claim(*old, *token), value, *expiry).await?)
        }
        Step::AbandonRefresh(n, old, token) => {
            store.abandon_refresh(&name(n), claim(*old, *token)).await?;
            Answer::Nothing
        }
        Step::RenewLoad(n, old, token, placed) => {
            let claim = if *placed {
                Claim::Placeholder(placeholder(*token))
            } else {
                Claim::Refresh(claim(*old, *token))
            };
            Answer::Flag(store.renew_load(&name(n), claim, MINUTE).await?)
        }
        Step::Restamp(n, old, v, expiry) => {
            Answer::Flag(store.restamp(&name(n), u64::from(*old) + 1, value(*v), *expiry).await?)
        }
        // Versions of tags.
        Step::Version(n, candidate) => {
            let kept = store.version(&tag(n), u64::from(*candidate) + 1, MINUTE).await?;
            Answer::Version(kept.version, rough(Expiry::After(kept.left)))
        }
        Step::RenewVersion(n, version) => {
            store.renew_version(&tag(n), u64::MAX - u64::from(*version), MINUTE).await?;
            Answer::Nothing
        }
    })
}

pub(super) async fn real_store() -> RedisStore {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let Target::Server(target) = url::parse(&SERVER.get_or_init(Server::start).url()).unwrap() else {
        panic!("not a server")
    };
    let login = Login {
        username: None,
        password: None,
        credentials: None,
        database: 0,
        tls: None,
        connect_timeout: Duration::from_secs(10),
        client_name: "larder".into(),
        clock: Clock::default(),
        learned: Arc::default(),
        hosts: Hosts::at_home(&tokio::runtime::Handle::current()),
    };
    let store = RedisStore::start(target.deployment, login.clone(), login, 1, Some(Arc::new(NoSink)));
    store.ready().await.unwrap();
    store
}

#[test]
fn both_stores_answer_the_same_to_every_history() {
    let histories =
        std::env::var("LARDER_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(real_store());
    let memory = MemoryStore::new(
        Bounds { max_bytes: 1 << 30, ..Bounds::default() },
        Clock::default(),
        Arc::new(NoSink),
    );
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

/// What a process sends over two connections may arrive in either order.
#[tokio::test]
async fn a_run_that_is_abandoned_before_its_begin_arrives_does_not_begin_and_leaves_the_next_alone() {
    let memory = MemoryStore::new(Bounds::default(), Clock::default(), Arc::new(NoSink));
    no_late_begin(&memory).await;
    no_late_begin(&real_store().await).await;
}

async fn no_late_begin(store: &impl OnceStore) {
    let [late, next, last] = [0, 1, 2].map(|token| run(token, MINUTE, false));
    store.abandon_once("late", late.token).await.unwrap();
    assert_eq!(store.begin_once("late", late, None).await.unwrap(), OnceStart::GivenUp);
    assert_eq!(store.begin_once("late", next, None).await.unwrap(), OnceStart::Begun);
    // An abandon that finds its own mark removes it.
    store.abandon_once("late", next.token).await.unwrap();
    assert_eq!(store.begin_once("late", last, None).await.unwrap(), OnceStart::Begun);
    // An abandon that finds the mark of another run leaves it.
    store.abandon_once("late", next.token).await.unwrap();
    assert_eq!(timeless(store.begin_once("late", late, None).await.unwrap()), OnceStart::GivenUp);
    assert!(store.renew_once("late", last).await.unwrap());
}

/// Work may take longer than its mark was first kept for.
#[tokio::test]
async fn a_run_that_shows_signs_of_life_keeps_its_mark() {
    let memory = MemoryStore::new(Bounds::default(), Clock::default(), Arc::new(NoSink));
    lasting_mark(&memory).await;
    lasting_mark(&real_store().await).await;
}

async fn lasting_mark(store: &(impl Store + OnceStore)) {
    let [first, other] = [0, 1].map(|token| run(token, MINUTE, false));
    let brief = OnceRun { kept: Duration::from_secs(20), ..first };
    assert_eq!(store.begin_once("lasting", brief, None).await.unwrap(), OnceStart::Begun);
    assert!(!store.renew_once("lasting", other).await.unwrap());
    assert!(store.renew_once("lasting", first).await.unwrap());
    let mark = crate::keyspace::Keyspace::once("lasting");
    let (_, left) = store.remaining(&mark).await.unwrap().unwrap();
    assert_eq!(rough(left), Rough::Longer);
    // If enough is left, the mark stays as it is, and no watcher is notified.
    let enough = OnceRun { kept: 90 * MINUTE, ..first };
    assert!(store.renew_once("lasting", enough).await.unwrap());
    let (_, left) = store.remaining(&mark).await.unwrap().unwrap();
    assert!(matches!(left, Expiry::After(left) if left <= 60 * MINUTE), "{left:?}");
}

//! Elections: one leader, who resigns, dies or is lost, and observers who see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use larder::{ErrorKind, Fence, Leaders, Release};
use larder_testkit::{Direction, Proxy, Server};
use support::waiting::InLine;
use support::{each_pair, each_store, namespace, until};

const TTL: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(20);

async fn next(leaders: &mut Leaders) -> Option<(String, Fence)> {
    let leader = tokio::time::timeout(LONG, leaders.next()).await.expect("a change").unwrap();
    leader.map(|leader| (leader.value, leader.fence))
}

/// The next leader, however long nobody leads before.
async fn next_leader(leaders: &mut Leaders) -> (String, Fence) {
    loop {
        if let Some(leader) = next(leaders).await {
            return leader;
        }
    }
}

#[tokio::test]
async fn a_leader_is_seen_with_its_value_and_fence_and_resigning_hands_over() {
    for (store, larder) in each_store().await {
        let election = larder.election("scheduler").ttl(TTL);
        let (one, two) = (election.clone().value("one: a b"), election.clone().value("two"));
        let mut leaders = election.observe();
        assert_eq!(next(&mut leaders).await, None, "{store}");
        let first = one.campaign().await.unwrap();
        assert_eq!(next_leader(&mut leaders).await, ("one: a b".to_owned(), first.fence()), "{store}");
        let leader = election.leader().await.unwrap().expect(store);
        let age = SystemTime::now().duration_since(leader.since).unwrap_or_default();
        assert!(age < LONG, "{store}: {age:?}");
        let in_line = InLine::listen();
        let candidate = tokio::spawn(async move { two.campaign().await.unwrap() });
        in_line.until(1).await;
        assert_eq!(first.resign().await.unwrap(), Release::Released, "{store}");
        let second = tokio::time::timeout(LONG, candidate).await.expect(store).unwrap();
        assert!(second.is_valid() && second.remaining() > TTL / 2);
        assert_eq!(next_leader(&mut leaders).await, ("two".to_owned(), second.fence()), "{store}");
        drop(second);
        assert_eq!(next(&mut leaders).await, None, "{store}");
        let this = election.campaign().await.unwrap();
        let (value, _) = next_leader(&mut leaders).await;
        assert!(value.ends_with(&format!(":{}", std::process::id())), "{store}: {value}");
        drop(this);
        // The lock of the same name is another.
        assert!(larder.lock("scheduler").try_acquire().await.unwrap().is_some(), "{store}");
    }
    let larder = support::connect("memory:").await;
    for value in ["", &"x".repeat(513)] {
        let refused = larder.election("a").value(value).campaign().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidSetting);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_at_a_time_and_each_candidate_leads_in_its_turn() {
    for (store, here, there) in each_pair().await {
        let (leading, led) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let candidates: Vec<_> = (0..8)
            .map(|number| {
                let larder = if number % 2 == 0 { &here } else { &there };
                let election = larder.election("scheduler").ttl(TTL).value(format!("candidate {number}"));
                let (leading, led) = (leading.clone(), led.clone());
                tokio::spawn(async move {
                    let body = async |lease: larder::LockLease| {
                        assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two lead");
                        tokio::task::yield_now().await;
                        led.fetch_add(1, Ordering::SeqCst);
                        leading.fetch_sub(1, Ordering::SeqCst);
                        lease.fence()
                    };
                    election.run(body).await.unwrap()
                })
            })
            .collect();
        let mut fences = Vec::new();
        for candidate in candidates {
            fences.push(tokio::time::timeout(LONG, candidate).await.expect(store).unwrap());
        }
        fences.sort();
        fences.dedup();
        assert_eq!((led.load(Ordering::SeqCst), fences.len()), (8, 8), "{store}");
    }
}

#[tokio::test]
async fn a_leader_that_is_cut_off_is_stopped_before_another_leads_and_leads_again_later() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let space = namespace();
    let (cut, well) =
        (support::connect_as(&proxy.url(), &space).await, support::connect_as(&server.url(), &space).await);
    let ttl = Duration::from_millis(800);
    let terms = Arc::new(AtomicU64::new(0));
    let running = tokio::spawn({
        let (election, terms) = (cut.election("scheduler").ttl(ttl).value("cut"), terms.clone());
        async move {
            let body = async |lease: larder::LockLease| {
                if terms.fetch_add(1, Ordering::SeqCst) == 0 {
                    std::future::pending::<()>().await;
                }
                lease.fence()
            };
            election.run(body).await.unwrap()
        }
    });
    let mut leaders = well.election("scheduler").observe();
    let (value, first) = next_leader(&mut leaders).await;
    assert_eq!(value, "cut");
    // The grant is seen before its answer has passed the proxy.
    until("it leads", async || terms.load(Ordering::SeqCst) == 1).await;
    proxy.silence(Direction::Both);
    let began = Instant::now();
    let other = well.election("scheduler").ttl(TTL).value("well").campaign().await.unwrap();
    assert!(other.fence() > first);
    assert!(began.elapsed() < LONG);
    assert_eq!(next_leader(&mut leaders).await, ("well".to_owned(), other.fence()));
    proxy.restore();
    other.resign().await.unwrap();
    let again = tokio::time::timeout(LONG, running).await.expect("it campaigns again").unwrap();
    assert!(again > first);
    assert_eq!(terms.load(Ordering::SeqCst), 2);
    until("nobody leads", async || well.election("scheduler").leader().await.unwrap().is_none()).await;
}

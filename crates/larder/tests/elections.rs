//! Elections: a leader resigns, dies or loses its leadership, and observers see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use larder::ErrorKind;
use larder::lock::{Fence, Leaders, ReleaseOutcome};
use larder_testkit::worker::{self, Worker};
use larder_testkit::{Direction, Proxy, Server};
use support::waiting::{Lateness, QueuedAttempts};
use support::{each_pair, each_store, namespace, until};
use tokio::sync::mpsc;

const TTL: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(20);

async fn next(leaders: &mut Leaders) -> Option<(String, Fence)> {
    let leader = tokio::time::timeout(LONG, leaders.next()).await.expect("a change").expect("no end");
    leader.map(|leader| (leader.value, leader.fence))
}

/// Waits for the next leader, however long there is none.
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
        let mut leaders = election.observe().await.unwrap();
        assert_eq!(next(&mut leaders).await, None, "{store}");
        let first = one.campaign().await.unwrap();
        assert_eq!(next_leader(&mut leaders).await, ("one: a b".to_owned(), first.fence()), "{store}");
        let leader = election.leader().await.unwrap().expect(store);
        let age = SystemTime::now().duration_since(leader.since).unwrap_or_default();
        assert!(age < LONG, "{store}: {age:?}");
        let queued = QueuedAttempts::listen();
        let candidate = tokio::spawn(async move { two.campaign().await.unwrap() });
        queued.until(1).await;
        assert_eq!(first.resign().await.unwrap(), ReleaseOutcome::Released, "{store}");
        let second = tokio::time::timeout(LONG, candidate).await.expect(store).unwrap();
        assert!(second.is_valid() && second.remaining() > TTL / 2);
        assert_eq!(next_leader(&mut leaders).await, ("two".to_owned(), second.fence()), "{store}");
        drop(second);
        assert_eq!(next(&mut leaders).await, None, "{store}");
        let this = election.campaign().await.unwrap();
        let (value, _) = next_leader(&mut leaders).await;
        assert!(value.ends_with(&format!(":{}", std::process::id())), "{store}: {value}");
        // A lock of the same name is independent of the election.
        assert!(larder.lock("scheduler").try_acquire().await.unwrap().is_some(), "{store}");
        drop(this);
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
                    let body = async |lease: larder::lock::LockHandle| {
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
    let ttl = Duration::from_secs(3);
    let terms = Arc::new(AtomicU64::new(0));
    let running = tokio::spawn({
        let (election, terms) = (cut.election("scheduler").ttl(ttl).value("cut"), terms.clone());
        async move {
            let body = async |lease: larder::lock::LockHandle| {
                if terms.fetch_add(1, Ordering::SeqCst) == 0 {
                    std::future::pending::<()>().await;
                }
                lease.fence()
            };
            election.run(body).await.unwrap()
        }
    });
    let mut leaders = well.election("scheduler").observe().await.unwrap();
    let (value, first) = next_leader(&mut leaders).await;
    assert_eq!(value, "cut");
    // The observer sees the grant before the reply has passed the proxy.
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
    until("there is no leader", async || well.election("scheduler").leader().await.unwrap().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_leader_is_killed_another_leads_within_its_lease_and_seven_tenths_of_a_second() {
    const LEASE: Duration = Duration::from_secs(1);
    if worker::role().is_some() {
        let larder = support::connect_as(&std::env::var("ELECTION_URL").unwrap(), "killed").await;
        let _leadership = larder.election("scheduler").ttl(LEASE).campaign().await.unwrap();
        worker::send_line("leads");
        return std::future::pending().await;
    }
    let server = Server::builder().tcp().start();
    let larder = support::connect_as(&server.url(), "killed").await;
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let test = "after_a_leader_is_killed_another_leads_within_its_lease_and_seven_tenths_of_a_second";
        let leader = Worker::spawn(test, "leader", &[("ELECTION_URL", &server.url())]);
        assert_eq!(leader.read_line(LONG).unwrap(), "leads");
        let late = Lateness::watch();
        let queue = "~election.2:{killed/scheduler}:line";
        let candidate = tokio::spawn({
            let election = larder.election("scheduler").ttl(TTL);
            async move { election.campaign().await.unwrap() }
        });
        until("it waits", async || server.query::<u64>(&["ZCARD", queue]) == 1).await;
        leader.kill();
        let killed = Instant::now();
        let leads = tokio::time::timeout(LONG, candidate).await.expect("a new leader").unwrap();
        let took = killed.elapsed();
        // The heartbeat, the wake-up and the confirmation may each be late on this machine.
        let bar = LEASE + Duration::from_millis(700) + late.of(3);
        assert!(took <= bar, "{took:?} without a leader, of {bar:?}");
        slowest = slowest.max(took);
        leads.resign().await.unwrap();
    }
    println!("without a leader for {slowest:?} at most, after a kill, with leases of {LEASE:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_resigns_is_followed_within_two_and_a_half_round_trips() {
    let server = Server::builder().tcp().start();
    let space = namespace();
    let (mut proxies, mut candidates) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let proxy = Proxy::start(server.addr().unwrap()).await;
        // Long enough that the delays of this machine do not matter.
        proxy.delay(Direction::Both, Duration::from_millis(30));
        candidates.push(support::connect_as(&proxy.url(), &space).await);
        proxies.push(proxy);
    }
    let queue = format!("~election.2:{{{space}/scheduler}}:line");
    let (mut took, mut round_trips) = (Vec::new(), Vec::new());
    let mut leads = candidates[0].election("scheduler").ttl(TTL).campaign().await.unwrap();
    for round in 1..=11 {
        let larder = &candidates[round % 2];
        let next = tokio::spawn({
            let election = larder.election("scheduler").ttl(TTL);
            async move {
                let leads = election.campaign().await.unwrap();
                (leads, Instant::now())
            }
        });
        until("the next waits", async || server.query::<u64>(&["ZCARD", &queue]) == 1).await;
        // Its wake-up name is tracked once a round trip on that connection has completed.
        let pinged = Instant::now();
        larder.ping().await.unwrap();
        round_trips.push(pinged.elapsed());
        let resigned = Instant::now();
        assert_eq!(leads.resign().await.unwrap(), ReleaseOutcome::Released);
        let (next, at) = tokio::time::timeout(LONG, next).await.expect("the next leads").unwrap();
        took.push(at.duration_since(resigned));
        leads = next;
    }
    took.sort();
    round_trips.sort();
    let (median, round_trip) = (took[took.len() / 2], round_trips[round_trips.len() / 2]);
    println!("{median:?} from resigning to the next leader, at {round_trip:?} there and back");
    assert!(median <= round_trip * 5 / 2, "{median:?} at {round_trip:?} there and back");
    drop(leads);
}

#[tokio::test]
async fn a_leadership_is_renewed_beyond_its_lease() {
    // A renewed leadership survives a stall of a busy machine.
    const LEASE: Duration = Duration::from_secs(3);
    let each = each_store().await.into_iter().map(async |(store, larder)| {
        let leadership = larder.election("scheduler").ttl(LEASE).campaign().await.unwrap();
        let lost = tokio::time::timeout(LEASE + LEASE / 4, leadership.lost()).await;
        assert!(lost.is_err() && leadership.is_valid(), "{store}: not renewed");
    });
    futures_util::future::join_all(each).await;
}

#[tokio::test]
async fn a_candidate_that_finds_no_server_campaigns_until_there_is_one() {
    let server = Server::start();
    let larder = support::patient().response_timeout(Duration::from_millis(200)).url(server.url());
    let larder = larder.connect().await.unwrap();
    server.kill();
    until("the outage shows", async || larder.ping().await.is_err()).await;
    let campaign = larder.election("scheduler").ttl(TTL).campaign().await.unwrap_err();
    assert!(campaign.is_retryable(), "{campaign}");
    let running = tokio::spawn({
        let election = larder.election("scheduler").ttl(TTL);
        async move { election.run(async |lease| lease.fence()).await }
    });
    // It has been refused, but not ended, by the time another request is refused.
    for _ in 0..3 {
        assert!(larder.ping().await.is_err());
        tokio::task::yield_now().await;
    }
    server.restart();
    let fence = tokio::time::timeout(LONG, running).await.expect("it leads").unwrap().unwrap();
    assert!(fence.get() > 0);
}

#[tokio::test]
async fn what_observers_see_is_a_stream() {
    for (store, larder) in each_store().await {
        let election = larder.election("scheduler").ttl(TTL).value("a");
        // By the methods of any stream.
        let leaders = election.observe().await.unwrap();
        let mut values = leaders.map(|leader| leader.map(|leader| leader.value));
        let mut next = async || tokio::time::timeout(LONG, values.next()).await.expect(store).expect(store);
        assert_eq!(next().await, None, "{store}");
        let leads = election.campaign().await.unwrap();
        assert_eq!(next().await.as_deref(), Some("a"), "{store}");
        leads.resign().await.unwrap();
        assert_eq!(next().await, None, "{store}");
    }
}

#[tokio::test]
async fn observers_are_notified_and_outlive_an_outage_of_the_server() {
    let server = Server::start();
    let space = namespace();
    let here = support::connect_as(&server.url(), &space).await;
    let there = support::connect_as(&server.url(), &space).await;
    let (tell, mut seen) = mpsc::unbounded_channel();
    let mut leaders = there.election("scheduler").observe().await.unwrap();
    let observer = tokio::spawn(async move {
        loop {
            let leader = leaders.next().await.unwrap();
            tell.send((leader.map(|leader| leader.value), Instant::now())).unwrap();
        }
    });
    let mut next = async || tokio::time::timeout(LONG, seen.recv()).await.expect("a change").unwrap();
    assert_eq!(next().await.0, None);
    let mut took = Vec::new();
    for round in 0..7 {
        // The observer has read again, after these writes, and waits.
        for _ in 0..5 {
            there.ping().await.unwrap();
        }
        let election = here.election("scheduler").ttl(TTL).value(round.to_string());
        let leadership = election.campaign().await.unwrap();
        let led = Instant::now();
        let (value, at) = next().await;
        assert_eq!(value, Some(round.to_string()));
        took.push(at.saturating_duration_since(led));
        leadership.resign().await.unwrap();
        while next().await.0.is_some() {}
    }
    took.sort();
    // Without a notification nothing is read before the lease is over.
    assert!(took[3] < Duration::from_millis(500), "{took:?}");
    server.kill();
    until("the outage shows", async || there.ping().await.is_err()).await;
    // This time must pass: long enough that the observer asks in vain meanwhile.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.restart();
    let election = here.election("scheduler").ttl(TTL).value("after");
    let leadership = loop {
        match election.campaign().await {
            Ok(leadership) => break leadership,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    };
    while next().await.0 != Some("after".to_owned()) {}
    assert!(leadership.is_valid());
    observer.abort();
}

/// Reads of a lock's key, and of its holder by a script.
fn reads(server: &Server) -> u64 {
    server.calls("get") + server.calls("evalsha") + server.calls("eval")
}

#[tokio::test]
async fn while_nothing_changes_an_observer_sends_nothing() {
    let server = Server::start();
    let space = namespace();
    let here = support::connect_as(&server.url(), &space).await;
    let there = support::connect_as(&server.url(), &space).await;
    let mut leaders = there.election("scheduler").observe().await.unwrap();
    let (tell, mut seen) = mpsc::unbounded_channel();
    let observer = tokio::spawn(async move {
        while let Some(leader) = leaders.next().await {
            tell.send(leader.map(|leader| leader.value)).unwrap();
        }
    });
    let mut next = async || tokio::time::timeout(LONG, seen.recv()).await.expect("a change").unwrap();
    assert_eq!(next().await, None);
    for leader in ["none", "first"] {
        // The lease is long enough that no renewal, which is a change, is due in the times below.
        let election = here.election("scheduler").ttl(Duration::from_secs(600)).value(leader);
        let leadership = if leader == "none" { None } else { Some(election.campaign().await.unwrap()) };
        if leadership.is_some() {
            assert_eq!(next().await.as_deref(), Some(leader));
        }
        // Where this machine stands still for longer than a heartbeat may take, the observer is right to ask.
        let mut counts = Vec::new();
        while counts.last() != Some(&0) && counts.len() < 5 {
            there.ping().await.unwrap();
            let before = reads(&server);
            // This time must pass: an observer that polls asks six times.
            tokio::time::sleep(Duration::from_secs(3)).await;
            counts.push(reads(&server) - before);
        }
        assert_eq!(counts.last(), Some(&0), "{leader} leads: {counts:?} reads in 3 s each");
    }
    assert_eq!(next().await, None, "its leadership was dropped");
    observer.abort();
}

#[tokio::test]
async fn a_leader_that_an_operator_pins_by_a_key_without_an_end_is_read_once_a_second() {
    let (server, space) = (Server::start(), namespace());
    let key = format!("~election.2:{{{space}/scheduler}}");
    server.command(&["SET", &key, "00000000000000aa"]);
    server.command(&["SET", &format!("{key}:fence"), "1767225600000000 pinned"]);
    let larder = support::connect_as(&server.url(), &space).await;
    let mut leaders = larder.election("scheduler").observe().await.unwrap();
    assert_eq!(next_leader(&mut leaders).await.0, "pinned");
    let change = tokio::spawn(async move { next(&mut leaders).await });
    let before = reads(&server);
    // This time must pass: an observer that takes the missing end for one that is over reads all the time.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reads = reads(&server) - before;
    assert!(reads < 30 && !change.is_finished(), "{reads} reads in 2 s");
    server.command(&["DEL", &key]);
    assert_eq!(change.await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_sees_that_a_lease_is_over_though_it_was_not_ended() {
    const LEASE: Duration = Duration::from_secs(2);
    for (store, here, there) in each_pair().await {
        let mut leaders = there.election("scheduler").observe().await.unwrap();
        assert_eq!(next(&mut leaders).await, None, "{store}");
        let leadership = here.election("scheduler").ttl(LEASE).campaign().await.unwrap();
        assert_eq!(next_leader(&mut leaders).await.1, leadership.fence(), "{store}");
        let late = Lateness::watch();
        // Neither renewed any more nor resigned.
        here.close().await.unwrap();
        let closed = Instant::now();
        assert_eq!(next(&mut leaders).await, None, "{store}");
        let bar = LEASE + Duration::from_millis(500) + late.of(3);
        assert!(closed.elapsed() <= bar, "{store}: {:?} of {bar:?}", closed.elapsed());
        drop(leadership);
    }
}

#[tokio::test]
async fn an_observer_that_the_server_does_not_notify_asks() {
    let server = Server::builder().tcp().start();
    let forbidden = if server.version().at_least(7, 0) { "-client|tracking" } else { "-client" };
    server.command(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all", forbidden]);
    let space = namespace();
    let here = support::connect_as(&server.url(), &space).await;
    let there = support::connect_as(&format!("redis://ann:pw@{}", server.addr().unwrap()), &space).await;
    let mut leaders = there.election("scheduler").observe().await.unwrap();
    assert_eq!(next(&mut leaders).await, None);
    let leadership = here.election("scheduler").ttl(TTL).campaign().await.unwrap();
    assert_eq!(next_leader(&mut leaders).await.1, leadership.fence());
    leadership.resign().await.unwrap();
    assert_eq!(next(&mut leaders).await, None);
}

//! How stale a near read can be during a fault: never more than `Near::STALENESS`, and near reads resume afterwards.
//!
//! In each test an undisturbed writer sets increasing versions. A reader with a near tier reads them through whatever
//! the test makes fail. Staleness is measured from the end of a write (the server executed it before that) to the start
//! of a read that returns an older version (the reader looks at its copy after that). Both errors make staleness look
//! smaller, by the time of one message, and none makes it look larger. So the documented bound is asserted without any
//! slack.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{Cache, Larder, Near, Source};
use larder_testkit::history::{Event, Kind, Recorder, Summary, bounded_staleness, now, read_files};
use larder_testkit::worker::{self, Worker};
use larder_testkit::{Cluster, Direction, Proxy, Sentinel, Server, eventually};
use support::until;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

const HOUR: Duration = Duration::from_secs(3600);
const KEYS: u32 = 4;
const WRITER: u32 = 1;
const READER: u32 = 2;
const NAMESPACE: &str = "n";

async fn connect(url: &str) -> Larder {
    Larder::builder().url(url).namespace(NAMESPACE).connect().await.unwrap()
}

fn versions(larder: &Larder) -> Cache<u64> {
    larder.cache("v").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap()
}

fn near_hits(larder: &Larder) -> u64 {
    larder.stats().caches["v"].near_hits
}

/// Sets all keys to 1, 2, 3 … as fast as the pace allows, and returns the writes that were acknowledged. While a task
/// holds the gate, no write is in flight.
async fn write_all(
    larder: Larder,
    gate: Arc<tokio::sync::Mutex<()>>,
    stop: watch::Receiver<bool>,
) -> Vec<Event> {
    let cache: Cache<u64> = larder.cache("v").ttl(HOUR).build().unwrap();
    let mut events = Vec::new();
    for version in 1.. {
        for key in 0..KEYS {
            if *stop.borrow() {
                return events;
            }
            let _open = gate.lock().await;
            let start = now();
            if cache.set(key, &version).timeout(Duration::from_millis(500)).await.is_ok() {
                let kind = Kind::Write(version);
                events.push(Event { process: WRITER, task: 0, key, start, end: now(), kind });
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
    events
}

/// Reads a key over and over, and returns what it saw. A failed read is not recorded.
async fn read_one(
    cache: Cache<u64>,
    key: u32,
    stop: watch::Receiver<bool>,
    failed: Arc<AtomicU64>,
    mut see: impl FnMut(Event),
) {
    while !*stop.borrow() {
        let start = now();
        match cache.get(key).timeout(Duration::from_millis(250)).await {
            Ok(seen) => {
                let kind = Kind::Read(seen);
                see(Event { process: READER, task: key, key, start, end: now(), kind });
            }
            Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// A writer and a reader at work.
struct Scene {
    what: &'static str,
    reader: Larder,
    gate: Arc<tokio::sync::Mutex<()>>,
    stop: watch::Sender<bool>,
    writes: JoinHandle<Vec<Event>>,
    reads: Vec<JoinHandle<Vec<Event>>>,
    failed: Arc<AtomicU64>,
    resumed: Vec<Duration>,
    bound: Duration,
}

impl Scene {
    /// Returns once the reader reads from near.
    async fn start(what: &'static str, writer_url: &str, reader_url: &str) -> Self {
        let (writer, reader) = (connect(writer_url).await, connect(reader_url).await);
        let cache = versions(&reader);
        let (stop, stopped) = watch::channel(false);
        let (gate, failed) = (Arc::default(), Arc::<AtomicU64>::default());
        let writes = tokio::spawn(write_all(writer, Arc::clone(&gate), stopped.clone()));
        let reads = (0..KEYS).map(|key| {
            let (cache, stopped, failed) = (cache.clone(), stopped.clone(), failed.clone());
            tokio::spawn(async move {
                let mut events = Vec::new();
                read_one(cache, key, stopped, failed, |event| events.push(event)).await;
                events
            })
        });
        let reads = reads.collect();
        let (resumed, bound) = (Vec::new(), Near::STALENESS);
        let mut scene = Self { what, reader, gate, stop, writes, reads, failed, resumed, bound };
        scene.resumes().await;
        // Reads before this moment are too early to violate the bound.
        sleep(LONG_ENOUGH).await;
        scene.resumed.clear();
        scene
    }

    /// Returns when there is a near copy of every key. Writes wait until the returned guard is dropped, so a fault that
    /// is injected now meets copies that can become stale.
    async fn all_near(&self) -> tokio::sync::OwnedMutexGuard<()> {
        let closed = self.gate.clone().lock_owned().await;
        let cache = versions(&self.reader);
        until("all is near", async || {
            let mut near = 0;
            for key in 0..KEYS {
                let entry = cache.get_entry(key).await;
                near += u32::from(matches!(entry, Ok(Some(entry)) if entry.source() == Source::Near));
            }
            near == KEYS
        })
        .await;
        closed
    }

    /// Waits until reads are served near again, after a fault.
    async fn resumes(&mut self) {
        let (start, hits) = (Instant::now(), near_hits(&self.reader));
        until("near reads resume", async || near_hits(&self.reader) > hits + 20).await;
        self.resumed.push(start.elapsed());
    }

    /// Waits until a copy that survived the fault would be stale beyond the bound; then stops, checks the history and
    /// prints the result.
    async fn finish(self) -> Summary {
        sleep(LONG_ENOUGH).await;
        let Self { what, reader, stop, writes, reads, failed, resumed, bound, .. } = self;
        stop.send_replace(true);
        let mut events = writes.await.unwrap();
        for read in reads {
            events.extend(read.await.unwrap());
        }
        judge(what, bound, &events, near_hits(&reader), failed.load(Ordering::Relaxed), &resumed)
    }
}

fn judge(
    what: &str,
    bound: Duration,
    events: &[Event],
    near_hits: u64,
    failed: u64,
    resumed: &[Duration],
) -> Summary {
    let summary = bounded_staleness(events, bound).unwrap_or_else(|violations| {
        panic!("{what}: {} reads beyond the bound, the first: {}", violations.len(), violations[0])
    });
    let Summary { reads, misses, judged, writes, largest_staleness, .. } = summary;
    eprintln!(
        "{what}: bound {bound:?}, observed at most {largest_staleness:?}; {writes} writes, {reads} reads, {judged} of them \
         judged, {near_hits} near, {misses} misses, {failed} failed; near again after {resumed:.0?}",
    );
    assert!(judged > 100 && near_hits > 100, "{what}: too little was read");
    summary
}

async fn behind_a_proxy(what: &'static str) -> (Arc<Server>, Proxy, Scene) {
    let server = Arc::new(Server::builder().tcp().start());
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let scene = Scene::start(what, &server.url(), &proxy.url()).await;
    (server, proxy, scene)
}

/// Longer than the bound: a stale copy that is still served after this violates it.
const LONG_ENOUGH: Duration = Near::STALENESS.saturating_add(Duration::from_millis(200));

/// How long a fault lasts: longer than the bound, and longer than larder takes to give up a silent connection.
const FAULT: Duration = Duration::from_secs(4);

/// The tracked connection has its own heartbeats, which do not depend on the connections for requests.
#[tokio::test(flavor = "multi_thread")]
async fn near_reads_go_on_while_the_connections_for_requests_are_slow_and_while_they_are_silent() {
    let (_server, proxy, mut scene) = behind_a_proxy("requests are slow, then silent").await;
    let slow = Duration::from_millis(1500);
    for silent in [false, true] {
        let copied = scene.all_near().await;
        proxy.only_untracked();
        if silent {
            proxy.silence(Direction::ToClient)
        } else {
            proxy.delay(Direction::ToClient, slow)
        };
        drop(copied);
        // By now no copy is near because of heartbeats from before the fault.
        sleep(LONG_ENOUGH).await;
        for _ in 0..10 {
            let (begun, hits) = (Instant::now(), near_hits(&scene.reader));
            until("near reads go on", async || near_hits(&scene.reader) > hits).await;
            assert!(begun.elapsed() < Near::STALENESS, "silent: {silent}: {:?}", begun.elapsed());
            sleep(Duration::from_millis(200)).await;
        }
        proxy.restore();
        scene.resumes().await;
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_from_the_server_nothing_stale_is_read() {
    let (_server, proxy, mut scene) = behind_a_proxy("cut").await;
    for _ in 0..2 {
        let closed = scene.all_near().await;
        proxy.cut();
        drop(closed);
        // The copies are dropped as soon as the reader notices that the connection is closed.
        until("near serves nothing", async || scene.reader.stats().caches["v"].near_entries == 0).await;
        let hits = near_hits(&scene.reader);
        sleep(FAULT / 2).await;
        assert_eq!(near_hits(&scene.reader), hits, "served near while cut off");
        proxy.restore();
        scene.resumes().await;
    }
    scene.finish().await;
}

/// A fault without any notification: copies stay valid until the last heartbeat is too old, and no longer.
async fn falls_silent(what: &'static str, fault: impl Fn(&Proxy)) {
    let (_server, proxy, mut scene) = behind_a_proxy(what).await;
    let closed = scene.all_near().await;
    fault(&proxy);
    drop(closed);
    sleep(FAULT).await;
    proxy.restore();
    scene.resumes().await;
    let summary = scene.finish().await;
    // Otherwise the test did not get near the bound, and proves nothing.
    assert!(summary.largest_staleness > Near::STALENESS / 2, "{what}: {:?}", summary.largest_staleness);
}

#[tokio::test(flavor = "multi_thread")]
async fn near_copies_outlive_a_silent_connection_by_no_more_than_the_bound() {
    tokio::join!(
        falls_silent("half-open, tracked connection", |proxy| {
            proxy.only_tracked().silence(Direction::ToClient);
        }),
        falls_silent("half-open, tracked connection, both ways", |proxy| {
            proxy.only_tracked().silence(Direction::Both);
        }),
        falls_silent("half-open, all connections", |proxy| {
            proxy.silence(Direction::Both);
        }),
        falls_silent("replies and pushes lost, tracked connection", |proxy| {
            proxy.only_tracked().swallow(Direction::ToClient);
        }),
    );
}

/// A heartbeat's reply proves that the connection worked when the heartbeat was sent. So if replies are slow, copies
/// expire sooner after the last reply.
#[tokio::test(flavor = "multi_thread")]
async fn trust_counts_from_the_sending_of_a_heartbeat_and_not_from_its_answer() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = connect(&proxy.url()).await;
    let cache = versions(&larder);
    cache.set(1, &7).await.unwrap();
    let is_near = async || {
        // A read that is not served near waits for a reply, and times out.
        let entry = cache.get_entry(1).timeout(Duration::from_millis(400)).await;
        matches!(entry, Ok(Some(entry)) if entry.source() == Source::Near)
    };
    until("it is near", is_near).await;
    let late = Duration::from_millis(700);
    proxy.only_tracked().delay(Direction::ToClient, late);
    // By now the copies are valid only because of replies that came late.
    sleep(LONG_ENOUGH).await;
    until("it is near though answers are late", is_near).await;
    proxy.silence(Direction::ToClient);
    // Every reply that still arrives spent that long on its way, and its heartbeat was sent before that.
    let (silent, mut last) = (Instant::now(), Duration::ZERO);
    while silent.elapsed() < Near::STALENESS {
        let began = silent.elapsed();
        if is_near().await {
            last = began;
        }
    }
    assert!(last <= Near::STALENESS - late, "near {last:?} after the last answer, which came {late:?} late");
}

async fn pushes_arrive_late(what: &'static str, fault: Duration, delays: &[u64]) -> Summary {
    let (_server, proxy, mut scene) = behind_a_proxy(what).await;
    for millis in delays {
        let late = Duration::from_millis(*millis);
        let closed = scene.all_near().await;
        proxy.only_tracked().delay(Direction::ToClient, late);
        drop(closed);
        sleep(fault).await;
        if late > Near::STALENESS {
            let hits = near_hits(&scene.reader);
            sleep(FAULT / 4).await;
            assert_eq!(
                near_hits(&scene.reader),
                hits,
                "{what}: served near by a heartbeat older than the bound"
            );
        }
        proxy.restore();
        scene.resumes().await;
    }
    scene.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_arrive_late_are_not_waited_for_beyond_the_bound() {
    let (none, some, ever, _) = tokio::join!(
        pushes_arrive_late("no fault", FAULT, &[0]),
        pushes_arrive_late("pushes 300 ms late", FAULT, &[300]),
        pushes_arrive_late("pushes later and later", FAULT / 2, &[50, 700, 950, 1050]),
        pushes_arrive_late("pushes 5 s late", Duration::from_secs(6), &[5000]),
    );
    assert!(none.largest_staleness < some.largest_staleness, "{none:?} {some:?}");
    assert!(some.largest_staleness > Duration::from_millis(200), "{some:?}");
    assert!(ever.largest_staleness > Duration::from_millis(600), "{ever:?}");
}

async fn restarts(what: &'static str, server: Server) {
    let server = Arc::new(server);
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let mut scene = Scene::start(what, &server.url(), &proxy.url()).await;
    for _ in 0..2 {
        let closed = scene.all_near().await;
        let restarted = server.clone();
        let restart = spawn_blocking(move || restarted.restart());
        drop(closed);
        restart.await.unwrap();
        scene.resumes().await;
        sleep(LONG_ENOUGH).await;
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_died_and_returned_leaves_nothing_stale() {
    tokio::join!(
        restarts("kill -9, data lost", Server::builder().tcp().start()),
        restarts("kill -9, data kept", Server::builder().tcp().persist().start()),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_tracked_connection_serves_nothing_stale() {
    let (server, _proxy, mut scene) = behind_a_proxy("CLIENT KILL").await;
    for round in 0..20 {
        let clients: String = server.query(&["CLIENT", "LIST"]);
        let field = |line: &str, name: &str| {
            line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap_or_default().to_owned()
        };
        // The flag `t` marks a tracked connection. The writer has such a connection, too.
        for line in clients.lines().filter(|line| field(line, "flags=").contains('t')) {
            let _: Result<i64, _> = server.try_query(&["CLIENT", "KILL", "ID", &field(line, "id=")]);
        }
        // Some attempts leave time to reconnect, others do not.
        sleep(Duration::from_millis(10 * round)).await;
    }
    scene.resumes().await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_server_empties_the_near_tier_within_the_bound() {
    let (server, proxy, mut scene) = behind_a_proxy("FLUSHALL").await;
    for fault in ["none", "pushes 300 ms late", "tracked connection silent"] {
        let cache = versions(&scene.reader);
        let closed = scene.all_near().await;
        proxy.only_tracked();
        match fault {
            "none" => &proxy,
            "pushes 300 ms late" => proxy.delay(Direction::ToClient, Duration::from_millis(300)),
            _ => proxy.silence(Direction::ToClient),
        };
        server.command(&["FLUSHALL"]);
        let (flushed, mut last) = (Instant::now(), Duration::ZERO);
        until("nothing is read", async || {
            for key in 0..KEYS {
                let start = flushed.elapsed();
                // A failed read has observed nothing.
                if let Ok(Some(version)) = cache.get(key).timeout(Duration::from_millis(50)).await {
                    assert!(start < Near::STALENESS, "{fault}: {version} read {start:?} after FLUSHALL");
                    last = start;
                    return false;
                }
            }
            true
        })
        .await;
        eprintln!("FLUSHALL, fault: {fault}: bound {:?}, served until {last:?} after it", Near::STALENESS);
        drop(closed);
        proxy.restore();
        scene.resumes().await;
    }
    scene.finish().await;
}

async fn reader_process() {
    let (url, folder) = (std::env::var("URL").unwrap(), std::env::var("FOLDER").unwrap());
    let larder = connect(&url).await;
    let cache = versions(&larder);
    let recorder = Arc::new(Recorder::create(Path::new(&folder), READER).unwrap());
    let (stop, stopped) = watch::channel(false);
    let failed = Arc::<AtomicU64>::default();
    let reads: Vec<_> = (0..KEYS)
        .map(|key| {
            let see = {
                let recorder = recorder.clone();
                move |event: Event| recorder.record(&event).unwrap()
            };
            tokio::spawn(read_one(cache.clone(), key, stopped.clone(), failed.clone(), see))
        })
        .collect();
    while let Some(line) = spawn_blocking(worker::read_line).await.unwrap() {
        worker::send_line(&near_hits(&larder).to_string());
        if line == "end" {
            break;
        }
    }
    stop.send_replace(true);
    for read in reads {
        read.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_serves_no_stale_copy_when_it_continues() {
    if worker::role().is_some() {
        return reader_process().await;
    }
    let server = Server::builder().tcp().start();
    let folder = tempfile::tempdir().unwrap();
    let (stop, stopped) = watch::channel(false);
    let gate: Arc<tokio::sync::Mutex<()>> = Arc::default();
    let writes = tokio::spawn(write_all(connect(&server.url()).await, gate.clone(), stopped));
    let name = "a_process_that_was_stopped_serves_no_stale_copy_when_it_continues";
    let envs = [("URL", server.url()), ("FOLDER", folder.path().to_str().unwrap().to_owned())];
    let worker = Worker::spawn(name, "reader", &envs.each_ref().map(|(key, value)| (*key, value.as_str())));
    let ask = async |what: &str| -> u64 {
        worker.send_line(what).unwrap();
        worker.read_line(Duration::from_secs(10)).unwrap().parse().unwrap()
    };
    let near_grows = async || {
        let (start, hits) = (Instant::now(), ask("near").await);
        until("the worker reads near", async || ask("near").await > hits + 20).await;
        start.elapsed()
    };
    near_grows().await;
    let mut resumed = Vec::new();
    let mut went_on = 0;
    for stopped in [2100, 4000] {
        sleep(LONG_ENOUGH).await;
        // There are no writes now, so the value that it reads is near.
        let closed = gate.lock().await;
        near_grows().await;
        worker.stop();
        drop(closed);
        sleep(Duration::from_millis(stopped)).await;
        went_on = now();
        worker.resume();
        resumed.push(near_grows().await);
    }
    sleep(LONG_ENOUGH).await;
    let hits = ask("end").await;
    assert!(worker.wait(Duration::from_secs(10)).unwrap().success(), "{}", worker.log());
    stop.send_replace(true);
    let mut events = writes.await.unwrap();
    events.extend(read_files(folder.path()).unwrap());
    assert!(
        events.iter().any(|event| event.process == READER && event.start > went_on),
        "no read after SIGCONT"
    );
    judge("SIGSTOP 4 s, SIGCONT", Near::STALENESS, &events, hits, 0, &resumed);
}

/// Waits until the replica has everything that the master has, because a failover may lose the rest. No task writes
/// meanwhile.
fn in_step(master: &Server, replica: &Server) {
    eventually("the replica is in step", Duration::from_secs(10), || {
        let offset = |server: &Server, field: &str| server.info("replication").get(field).cloned();
        (offset(master, "master_repl_offset")? == offset(replica, "slave_repl_offset")?).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_failover_leaves_nothing_stale() {
    let sentinel = Arc::new(spawn_blocking(Sentinel::start).await.unwrap());
    let mut scene = Scene::start("Sentinel failover", &sentinel.url(), &sentinel.url()).await;
    let closed = scene.all_near().await;
    let set = sentinel.clone();
    spawn_blocking(move || {
        let master = set.master();
        let replica = set.servers().iter().find(|server| server.addr() != master.addr()).unwrap();
        in_step(master, replica);
        set.kill_master();
    })
    .await
    .unwrap();
    drop(closed);
    let set = sentinel.clone();
    spawn_blocking(move || set.wait_for_new_master().addr()).await.unwrap();
    scene.resumes().await;
    scene.finish().await;
}

/// Moves a slot with all its keys to another master, as an operator would.
fn move_slot(cluster: &Cluster, key: &str) {
    let from = cluster.master_of(key);
    let masters = cluster.masters();
    let to = *masters.iter().find(|node| node.addr() != from.addr()).unwrap();
    let slot = from.query::<u16>(&["CLUSTER", "KEYSLOT", key]).to_string();
    let id = |node: &Server| node.query::<String>(&["CLUSTER", "MYID"]);
    let port = to.addr().unwrap().port().to_string();
    to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    loop {
        let keys: Vec<String> = from.query(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
        if keys.is_empty() {
            break;
        }
        for key in keys {
            from.command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
        }
    }
    for node in [to, from].into_iter().chain(masters.iter().copied()) {
        node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
    cluster.wait_until_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_to_another_node_leaves_nothing_stale() {
    let cluster = Arc::new(spawn_blocking(Cluster::start).await.unwrap());
    let mut scene = Scene::start("slot moved", &cluster.url(), &cluster.url()).await;
    // The slots of entries, and of the clear version; one of them twice.
    for key in ["n/v:0", "n/v:1", "~clear.1:{n/v}", "n/v:0"] {
        let nodes = cluster.clone();
        let closed = scene.all_near().await;
        let move_slot = spawn_blocking(move || move_slot(&nodes, key));
        drop(closed);
        move_slot.await.unwrap();
        scene.resumes().await;
    }
    scene.finish().await;
}

/// No key moves, so no push reports anything; and no task reads a key for which the other node would be asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_empties_the_near_tier_though_no_key_is_in_it_and_no_caller_asks() {
    let cluster = Arc::new(spawn_blocking(Cluster::start).await.unwrap());
    let larder = connect(&cluster.url()).await;
    let cache = versions(&larder);
    cache.set(1, &7).await.unwrap();
    until("it is near", async || {
        cache.get_entry(1).await.unwrap().map(|entry| entry.source()) == Some(Source::Near)
    })
    .await;
    assert_eq!(larder.stats().caches["v"].near_entries, 1);
    let nodes = cluster.clone();
    spawn_blocking(move || move_slot(&nodes, "a key that is not there")).await.unwrap();
    until("nothing is near", async || larder.stats().caches["v"].near_entries == 0).await;
    assert_eq!(cache.get(1).await.unwrap(), Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_failover_leaves_nothing_stale() {
    let cluster = Arc::new(spawn_blocking(Cluster::start).await.unwrap());
    let mut scene = Scene::start("cluster failover", &cluster.url(), &cluster.url()).await;
    // docs/guarantees.md: a slot that is handed over as a whole causes no push, and is noticed at the next check of the
    // slots.
    scene.bound = Near::STALENESS * 2;
    // An orderly failover of each master; the old master becomes a replica.
    for i in 0..3 {
        let nodes = cluster.clone();
        let closed = scene.all_near().await;
        let failover = spawn_blocking(move || nodes.failover(i).addr());
        drop(closed);
        failover.await.unwrap();
        scene.resumes().await;
    }
    // Then a master that crashes.
    let closed = scene.all_near().await;
    let nodes = cluster.clone();
    spawn_blocking(move || {
        let master = nodes.master_of("n/v:0");
        in_step(master, nodes.replica_of(master).unwrap());
        master.kill();
    })
    .await
    .unwrap();
    drop(closed);
    let nodes = cluster.clone();
    spawn_blocking(move || nodes.wait_until_ok()).await.unwrap();
    scene.resumes().await;
    scene.finish().await;
}

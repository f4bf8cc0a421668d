//! What a worker does.

pub(crate) mod cache;
pub(crate) mod elections;
pub(crate) mod groups;
pub(crate) mod holding;
pub(crate) mod jobs;
pub(crate) mod limits;
pub(crate) mod locks;
pub(crate) mod rw;
pub(crate) mod semaphores;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder::Larder;
use larder_testkit::history::Notebook;
use larder_testkit::worker;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use crate::fleet::{NOTICED_WITHIN, STALL, nanos, watch};
use crate::soak;
use crate::what::{What, setting};
use holding::Ear;

pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_millis(400);

/// What all tasks of a worker share.
pub(crate) struct Scene {
    pub(crate) larder: Larder,
    pub(crate) book: Arc<Notebook>,
    pub(crate) process: u32,
    pub(crate) slot: u64,
    /// Whether this is the first worker of its slot.
    pub(crate) first: bool,
    pub(crate) what: What,
    /// Whether another server may take over what the master had.
    pub(crate) fails_over: bool,
    stop: Arc<AtomicBool>,
    attempts: AtomicU64,
}

impl Scene {
    pub(crate) fn now(&self) -> u64 {
        self.book.now()
    }

    pub(crate) fn note(&self, word: &str, numbers: &[u64]) {
        self.book.note(word, numbers).unwrap();
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    pub(crate) fn next_attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) fn run() {
    let folder: PathBuf = setting("FOLDER").unwrap();
    let (url, process, seed): (String, u32, u64) =
        (setting("SERVER").unwrap(), setting("PROCESS").unwrap(), setting("SEED").unwrap());
    let what: What = setting("WHAT").unwrap();
    let book = Notebook::create(&folder, process, setting("AHEAD").unwrap()).unwrap();
    let book = Arc::new(if what.is_soak() { book.keep_only(&soak::WORDS) } else { book });
    tracing::subscriber::set_global_default(Ear(book.clone())).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let stop = stop.clone();
        move || {
            drop(worker::read_line());
            stop.store(true, Ordering::SeqCst);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let larder = loop {
            let builder = Larder::builder().url(&url).response_timeout(RESPONSE_TIMEOUT);
            match builder.connect().await {
                Ok(larder) => break larder,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let (slot, first) = (setting("SLOT").unwrap(), setting::<u8>("FIRST").unwrap() == 1);
        let attempts = AtomicU64::new(0);
        let fails_over = ["-cluster:", "-sentinel:"].iter().any(|kind| url.contains(kind));
        let scene = Arc::new(Scene { larder, book, process, slot, first, what, fails_over, stop, attempts });
        scene.note("ready", &[scene.now()]);
        worker::send_line("ready");
        tokio::spawn(watch(scene.book.clone(), process));
        tokio::spawn(watch_link(scene.clone()));
        if what.is_soak() {
            tokio::spawn(soak::sample(scene.clone()));
        }
        let mut tasks = JoinSet::new();
        let mut draws = (0..).map(|task: u64| StdRng::seed_from_u64(seed ^ (task << 32)));
        let mut draw = || draws.next().unwrap();
        if what.has("cache") {
            cache::start(&scene, &mut tasks, &mut draw);
        }
        if what.has("locks") {
            locks::start(&scene, &mut tasks, &mut draw);
        }
        if what.has("semaphores") {
            semaphores::start(&scene, &mut tasks, &mut draw);
        }
        if what.has("rw") {
            rw::start(&scene, &mut tasks, &mut draw);
        }
        if what.has("elections") {
            elections::start(&scene, &mut tasks, &mut draw);
        }
        if what.has("jobs") {
            jobs::start(&scene, &mut tasks, &mut draw);
        }
        if what.has("groups") {
            groups::start(&scene, &mut tasks, &mut draw);
        }
        if what.has("limits") {
            limits::start(&scene, &mut tasks, &mut draw);
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        scene.note("gone", &[scene.now()]);
        scene.note("made", &[scene.book.made()]);
        // A server that has just restarted may not receive everything in time.
        let _ = scene.larder.close().await;
    });
    worker::send_line("done");
}

/// Notes when this process does not reach the server at once over the connection that keeps its places queued. After a
/// fault of its link that may last for seconds, while the other connection, on which attempts are made, is up again.
async fn watch_link(scene: Arc<Scene>) {
    for count in 0_u64.. {
        let last = scene.now();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let sent = scene.now();
        let asked = tokio::time::timeout(STALL, scene.larder.ping()).await;
        if !matches!(asked, Ok(Ok(()))) {
            scene.note("fault", &[last, scene.now() + nanos(NOTICED_WITHIN)]);
        } else if count.is_multiple_of(10) {
            scene.note("round_trip", &[sent, scene.now()]);
        }
    }
}

//! Caches: all processes read all keys, near or not, with loaders that are slow and that fail; each key has one writer.
//!
//! The database is a file with eight bytes for each key. It has no faults. A writer changes the row, and then sets or
//! invalidates the cache's entry.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use larder::{Cache, Error, Larder, Near, Source};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Scene;
use crate::what::setting;

pub(crate) const ROWS: usize = 2000;
const HOUR: Duration = Duration::from_secs(3600);
const READERS: usize = 3;
/// Slots that have keys of their own.
const OWNERS: usize = 5;
/// Keys of each slot, by what becomes of them: see [`Kind`].
const OWN: u64 = 8;
/// Keys that are never written: the promises about loads are judged by these.
pub(crate) const LOADED: std::ops::Range<u64> = 1000..1004;
/// Keys that are never written, and whose loader fails after the first load.
const STALE: std::ops::Range<u64> = 1100..1104;
/// Keys that are stored once, without a time to live.
const STAYS: std::ops::Range<u64> = 1200..1204;

/// How a load ended whose loader may fail: it failed, or the server has the value.
pub(crate) const FAILED: u64 = 2;
pub(crate) const STORED: u64 = 3;

/// How a key is written, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Deleted,
    DeletedPlain,
    Set,
    Tagged,
    Cleared,
    Stale,
}

impl Kind {
    pub(crate) fn of(key: u64) -> Self {
        match key % OWN {
            0 | 6 => Self::Deleted,
            1 => Self::DeletedPlain,
            2 | 7 => Self::Set,
            3 => Self::Tagged,
            4 => Self::Cleared,
            _ => Self::Stale,
        }
    }
}

struct Caches {
    scene: Arc<Scene>,
    rows: File,
    near: Cache<u64>,
    plain: Cache<u64>,
    cleared: Vec<Cache<u64>>,
    stale: Cache<u64>,
    loaded: Cache<u64>,
    stays: Cache<u64>,
}

pub(crate) fn start(scene: &Arc<Scene>, tasks: &mut JoinSet<()>, draw: &mut impl FnMut() -> StdRng) {
    let caches = Arc::new(Caches::new(scene.clone()));
    for _ in 0..READERS {
        tasks.spawn(caches.clone().read(draw()));
    }
    tasks.spawn(caches.clone().write(draw()));
    tasks.spawn(caches.clone().load(draw()));
    tasks.spawn(caches.keep(draw()));
}

impl Caches {
    fn new(scene: Arc<Scene>) -> Self {
        let path: PathBuf = setting("DATABASE").unwrap();
        let rows = File::options().read(true).write(true).open(path).unwrap();
        let near = |larder: &Larder, name: &str| {
            larder.cache(name).ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap()
        };
        let larder = &scene.larder;
        let short = Duration::from_millis(300);
        Self {
            near: near(larder, "near"),
            plain: larder.cache("plain").ttl(HOUR).build().unwrap(),
            cleared: (0..OWNERS).map(|slot| near(larder, &format!("cleared-{slot}"))).collect(),
            stale: larder
                .cache("stale")
                .ttl(short)
                .stale_for(HOUR)
                .near(Near::bytes(1 << 20))
                .build()
                .unwrap(),
            loaded: larder.cache("loaded").ttl(short).build().unwrap(),
            stays: larder.cache("stays").no_expiry().near(Near::bytes(1 << 20)).build().unwrap(),
            rows,
            scene,
        }
    }

    fn of(&self, key: u64) -> &Cache<u64> {
        match Kind::of(key) {
            Kind::Deleted | Kind::Set | Kind::Tagged => &self.near,
            Kind::DeletedPlain => &self.plain,
            Kind::Cleared => &self.cleared[usize::try_from(key / OWN).unwrap()],
            Kind::Stale => &self.stale,
        }
    }

    fn row(&self, key: u64) -> u64 {
        let mut bytes = [0; 8];
        self.rows.read_exact_at(&mut bytes, key * 8).unwrap();
        u64::from_be_bytes(bytes)
    }

    fn write_row(&self, key: u64, version: u64) {
        self.rows.write_all_at(&version.to_be_bytes(), key * 8).unwrap();
    }

    /// Reads the row, and returns it after a while, or fails.
    async fn run_loader(self: Arc<Self>, key: u64, span: Duration, fails: bool) -> Result<u64, &'static str> {
        let start = self.scene.now();
        let version = self.row(key);
        tokio::time::sleep(span).await;
        self.scene.note("load", &[key, start, self.scene.now(), version + 1]);
        if fails { Err("the database is away") } else { Ok(version) }
    }

    async fn get_or_load(
        self: &Arc<Self>,
        cache: &Cache<u64>,
        key: u64,
        rng: &mut StdRng,
        fails: bool,
    ) -> Option<u64> {
        // Sometimes for long enough that other tasks write in that time.
        let span =
            Duration::from_micros(if rng.random_bool(0.02) { 400_000 } else { rng.random_range(0..5000) });
        let caches = self.clone();
        let load = cache.get_or_load(key, move || caches.run_loader(key, span, fails));
        if Kind::of(key) == Kind::Tagged && key < 1000 {
            load.tag(tag_of(key)).await.ok()
        } else {
            load.await.ok()
        }
    }

    /// Reads a key, by a load or not, and notes what it saw.
    async fn read_one(self: &Arc<Self>, key: u64, by_load: bool, rng: &mut StdRng) {
        let cache = self.of(key).clone();
        let fails = Kind::of(key) == Kind::Stale && rng.random_bool(0.5);
        let start = self.scene.now();
        let seen = if by_load {
            self.get_or_load(&cache, key, rng, fails).await.map(Some)
        } else {
            cache.get(key).await.ok()
        };
        let (end, word) = (self.scene.now(), if seen.is_some() { "read" } else { "failed_read" });
        let seen = seen.flatten().map_or(0, |version| version + 1);
        self.scene.note(word, &[key, start, end, seen, u64::from(by_load)]);
    }

    async fn read(self: Arc<Self>, mut rng: StdRng) {
        let keys = OWN * OWNERS as u64;
        while self.scene.goes_on() {
            for _ in 0..8 {
                let (key, by_load) = (rng.random_range(0..keys), rng.random_bool(0.5));
                self.read_one(key, by_load, &mut rng).await;
            }
            // Pause: near reads never wait, and would leave other tasks no time.
            tokio::time::sleep(Duration::from_millis(rng.random_range(5..25))).await;
        }
    }

    async fn write(self: Arc<Self>, mut rng: StdRng) {
        while self.scene.goes_on() {
            let key = self.scene.slot * OWN + rng.random_range(0..OWN);
            let version = self.row(key) + 1;
            let start = self.scene.now();
            self.write_row(key, version);
            let told: Result<(), Error> = match Kind::of(key) {
                Kind::Set => self.near.set(key, &version).await,
                Kind::Tagged => self.scene.larder.tag(tag_of(key)).invalidate().await,
                Kind::Cleared => self.of(key).clear().await,
                _ => self.of(key).delete(key).await.map(drop),
            };
            let state = match told {
                Ok(()) => 0,
                Err(error) if error.is_queued() => 1,
                Err(_) => 2,
            };
            self.scene.note("write", &[key, start, self.scene.now(), version + 1, state]);
            // The writer reads the key at once: this judges C1.
            self.read_one(key, false, &mut rng).await;
            self.read_one(key, true, &mut rng).await;
            tokio::time::sleep(Duration::from_millis(rng.random_range(5..40))).await;
        }
    }

    /// Loads that all processes want at once (C4), and loads that fail (C5).
    async fn load(self: Arc<Self>, mut rng: StdRng) {
        while self.scene.goes_on() {
            let key = rng.random_range(LOADED);
            let start = self.scene.now();
            let loaded = self.get_or_load(&self.loaded, key, &mut rng, false).await;
            self.scene.note("loading", &[key, start, self.scene.now(), u64::from(loaded.is_some())]);
            let key = rng.random_range(STALE);
            // The loader fails if the row says that the key was loaded before.
            let (start, fails) = (self.scene.now(), self.row(key) == 1);
            let caches = self.clone();
            let load =
                self.stale.get_or_load(key, move || caches.run_loader(key, Duration::from_millis(2), fails));
            let verdict = match load.entry().await {
                Ok(entry) if entry.source() == Source::Stale => 1,
                Ok(entry) if entry.source() == Source::Server => STORED,
                Ok(_) => 0,
                Err(_) => FAILED,
            };
            let end = self.scene.now();
            self.scene.note("fallback", &[key, start, end, verdict, u64::from(fails)]);
            if verdict == STORED {
                self.write_row(key, 1);
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(5..30))).await;
        }
    }

    /// Reads a key that was stored once. An outage must not be reported as its absence.
    async fn keep(self: Arc<Self>, mut rng: StdRng) {
        while self.scene.goes_on() && self.scene.first && self.scene.slot == 0 {
            let (mut stored, start) = (true, self.scene.now());
            for key in STAYS {
                stored &= self.stays.set(key, &key).await.is_ok();
            }
            if stored {
                self.scene.note("stays", &[self.scene.now(), start]);
                break;
            }
        }
        while self.scene.goes_on() {
            let key = rng.random_range(STAYS);
            let start = self.scene.now();
            let cache = if rng.random_bool(0.5) { self.stays.fresh() } else { self.stays.clone() };
            let seen = cache.get(key).await;
            let verdict = match seen {
                Ok(Some(_)) => 0,
                Ok(None) => 1,
                Err(_) => 2,
            };
            self.scene.note("kept", &[key, start, self.scene.now(), verdict]);
            tokio::time::sleep(Duration::from_millis(rng.random_range(2..20))).await;
        }
    }
}

fn tag_of(key: u64) -> String {
    format!("tag-{}", key / OWN)
}

//! How long a near copy survives a SET, compared with the bare push that reports it.
//!
//! The value has a type that records when it is dropped. The near copy is the last owner of the value, so that moment
//! is when the copy is gone: nothing is polled. On the bare side the driver's callback records when the push arrived.
//! Both times begin before the SET is encoded and sent, on another connection.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use larder::{Cache, Larder, Near};
use larder_testkit::Server;
use rand::seq::SliceRandom;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, cmd};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::figures::{Bar, Findings, Limit};
use crate::item::Item;
use crate::lane::Outcome;
use crate::machine::{self, Ticks};
use crate::ours::TTL;
use crate::rounds::Flavour;
use crate::statistics::{bootstrap, quantile};
use crate::table::{Table, interval, ratio};

const BAR: Limit = Limit::AtMost(1.2);
/// Samples of each side, in a round.
const SAMPLES: usize = 50;
/// All connections are replaced after this many rounds.
const BLOCK: usize = 5;

static GONE: LazyLock<watch::Sender<Option<Instant>>> = LazyLock::new(|| watch::Sender::new(None));

fn note() {
    GONE.send_replace(Some(Instant::now()));
}

/// Waits for the next moment to be recorded, and returns it.
async fn noted() -> Outcome<Instant> {
    let mut gone = GONE.subscribe();
    let seen = tokio::time::timeout(Duration::from_secs(5), gone.wait_for(Option::is_some)).await;
    let seen = seen.map_err(|_| "no notification of a SET")??;
    (*seen).ok_or_else(|| "nothing was noted".into())
}

#[derive(Serialize, Deserialize)]
struct Watched(Item);

impl Drop for Watched {
    fn drop(&mut self) {
        note();
    }
}

pub(crate) fn run(rounds: usize) -> Outcome<Findings> {
    let began = Ticks::now();
    let mut table = Table::new(&[
        "runtime",
        "near copy gone, p50 µs",
        "p99 µs",
        "bare push, p50 µs",
        "p99 µs",
        "p50: larder / bare",
        "95 % interval",
    ]);
    let mut bounds = Vec::new();
    for flavour in Flavour::BOTH {
        eprintln!("invalidation: {}", flavour.name());
        let (mut larder, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        while ratios.len() < rounds {
            // After each BLOCK of rounds begin again, with a new server, runtime and connections. The first round after
            // that only warms up.
            let server = Server::builder().tcp().start();
            flavour.build()?.block_on(async {
                let mut pair = Pair::connect(&server.url()).await?;
                pair.round().await?;
                for _ in 0..BLOCK.min(rounds - ratios.len()) {
                    let (ours, theirs) = pair.round().await?;
                    ratios.push(quantile(&ours, 0.5) / quantile(&theirs, 0.5));
                    larder.extend(ours);
                    bare.extend(theirs);
                }
                Outcome::Ok(())
            })?;
        }
        let found = bootstrap(&ratios);
        bounds.push((found.high, flavour.name().to_owned()));
        let micros = |samples: &[f64], share: f64| format!("{:.0}", quantile(samples, share) * 1e6);
        table.row(&[
            flavour.name(),
            &micros(&larder, 0.5),
            &micros(&larder, 0.99),
            &micros(&bare, 0.5),
            &micros(&bare, 0.99),
            &ratio(found.median),
            &interval(found),
        ]);
    }
    let mut findings = Findings::default();
    let note = machine::note(began, &format!("{rounds} rounds of {SAMPLES} of each"));
    findings.add("invalidation", table.finish() + &note);
    findings.bars.push(Bar::over("SET sent → another's near copy gone, p50 / bare push", BAR, bounds));
    Ok(findings)
}

#[derive(Clone, Copy)]
enum Side {
    Larder,
    Bare,
}

/// Two Larders and two bare connections: on each side one that writes and one that has a copy.
struct Pair {
    // These keep the connections open.
    _larders: [Larder; 2],
    writes: Cache<Arc<Watched>>,
    reads: Cache<Arc<Watched>>,
    value: Arc<Watched>,
    writer: MultiplexedConnection,
    tracker: MultiplexedConnection,
}

impl Pair {
    async fn connect(url: &str) -> Outcome<Self> {
        let (here, there) = (Larder::connect(url).await?, Larder::connect(url).await?);
        let writes = here.cache("watched").ttl(TTL).build()?;
        let reads = there.cache("watched").ttl(TTL).near(Near::bytes(1 << 20)).build()?;
        let (writer, mut tracker) = (bare(url).await?, bare(url).await?);
        let () = cmd("CLIENT").arg("TRACKING").arg("ON").query_async(&mut tracker).await?;
        let value = Arc::new(Watched(Item::new(500)));
        writes.set(0, &value).await?;
        Ok(Self { _larders: [here, there], writes, reads, value, writer, tracker })
    }

    /// Delays of both sides, in seconds.
    async fn round(&mut self) -> Outcome<(Vec<f64>, Vec<f64>)> {
        let mut order = [[Side::Larder; SAMPLES], [Side::Bare; SAMPLES]].concat();
        order.shuffle(&mut rand::rng());
        let (mut larder, mut bare) = (Vec::new(), Vec::new());
        for side in order {
            match side {
                Side::Larder => larder.push(self.larder().await?.as_secs_f64()),
                Side::Bare => bare.push(self.bare().await?.as_secs_f64()),
            }
        }
        Ok((larder, bare))
    }

    async fn larder(&self) -> Outcome<Duration> {
        // An insert that ran into a change of its stripe was refused; then the next read makes the copy.
        let copy = loop {
            let copy = self.reads.get(0).await?.ok_or("a stored value is gone")?;
            if Arc::strong_count(&copy) == 2 {
                break copy;
            }
        };
        drop(copy);
        GONE.send_replace(None);
        let sent = Instant::now();
        self.writes.set(0, &self.value).await?;
        Ok(noted().await? - sent)
    }

    async fn bare(&mut self) -> Outcome<Duration> {
        let read: Option<Vec<u8>> = cmd("GET").arg("bare:0").query_async(&mut self.tracker).await?;
        drop(read);
        GONE.send_replace(None);
        let sent = Instant::now();
        let json = serde_json::to_vec(&self.value)?;
        let mut set = cmd("SET");
        set.arg("bare:0").arg(json).arg("PX").arg(TTL.as_secs() * 1000);
        let () = set.query_async(&mut self.writer).await?;
        Ok(noted().await? - sent)
    }
}

async fn bare(url: &str) -> Outcome<MultiplexedConnection> {
    let info = url.into_connection_info()?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let config = AsyncConnectionConfig::new().set_push_sender(|push: PushInfo| {
        if push.kind == PushKind::Invalidate {
            note();
        }
        Ok::<_, redis::aio::SendError>(())
    });
    Ok(Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?)
}

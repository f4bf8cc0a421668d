//! larder compared with trypema, which also has sliding windows on Redis, and with a sorted-set log: decisions a
//! second, bytes a key, and how much each admits under bursts around a window's edge.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::{Larder, Quota};
use larder_testkit::Server;
use redis::cmd;
use trypema::hybrid::{HybridRateLimiterProvider, SyncInterval};
use trypema::redis::{RedisKey, RedisRateLimiterProvider};
use trypema::{BucketSize, RateLimit, RateLimitDecision, RateLimiterBuilder, WindowSize};

use super::throughput::connect;
use crate::figures::Findings;
use crate::lane::{Lane, Outcome, Work};
use crate::rounds::{Flavour, compare};
use crate::table::{Table, interval, rate, ratio};

const TASKS: u64 = 64;
const ZSET: &str = "local t = redis.call('TIME') local now = t[1] * 1000000 + t[2] \
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2]) \
    if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end \
    redis.call('ZADD', KEYS[1], now, t[1] .. t[2]) redis.call('PEXPIRE', KEYS[1], ARGV[2] / 1000) return 1";

/// Decides whether one more request of a key may pass.
type Decide = Arc<dyn Fn(u64) -> std::pin::Pin<Box<dyn Future<Output = Outcome<bool>> + Send>> + Send + Sync>;

/// The contenders, each with `limit` in `seconds`.
async fn contenders(url: &str, limit: u32, seconds: u32) -> Outcome<Vec<(&'static str, Decide)>> {
    // larder, with a round trip for each decision and in batches.
    let window = Duration::from_secs(seconds.into());
    let larder = Larder::connect(url).await?;
    let plain = larder.rate_limiter("plain", Quota::new(limit.into(), window))?;
    let batched = larder.rate_limiter("batched", Quota::new(limit.into(), window))?.batched(50)?;
    let of = |limiter: larder::limit::RateLimiter| -> Decide {
        Arc::new(move |id| {
            let limiter = limiter.clone();
            Box::pin(async move { limiter.allow(id).await.map_err(Into::into) })
        })
    };

    // trypema, on Redis and hybrid.
    let per_second = RateLimit::per_second(f64::from(limit) / f64::from(seconds))?;
    let manager = || async { redis::Client::open(url)?.get_connection_manager().await };
    let size = WindowSize::seconds(seconds.into())?;
    let bucket = BucketSize::milliseconds(u64::from(seconds) * 1000 / 60)?;
    let absolute = RedisRateLimiterProvider::builder(manager().await?)
        .prefix(RedisKey::try_from("absolute")?)
        .window_size(size)
        .bucket_size(bucket)
        .build()?;
    let hybrid = HybridRateLimiterProvider::builder(manager().await?)
        .prefix(RedisKey::try_from("hybrid")?)
        .window_size(size)
        .bucket_size(bucket)
        .sync_interval(SyncInterval::milliseconds(10)?)
        .build()?;
    let trypema: Decide = Arc::new(move |id| {
        let absolute = absolute.clone();
        Box::pin(async move {
            let key = RedisKey::try_from(format!("10.0.0.{id}"))?;
            Ok(matches!(absolute.absolute().inc(&key, &per_second, 1).await?, RateLimitDecision::Allowed))
        })
    });
    let hybrid: Decide = Arc::new(move |id| {
        let hybrid = hybrid.clone();
        Box::pin(async move {
            let key = RedisKey::try_from(format!("10.0.0.{id}"))?;
            Ok(matches!(hybrid.absolute().inc(&key, &per_second, 1).await?, RateLimitDecision::Allowed))
        })
    });

    // The log in a sorted set.
    let mut connection = connect(url).await?;
    let hash: String = cmd("SCRIPT").arg("LOAD").arg(ZSET).query_async(&mut connection).await?;
    let micros = u64::from(seconds) * 1_000_000;
    let log: Decide = Arc::new(move |id| {
        let (mut connection, hash) = (connection.clone(), hash.clone());
        Box::pin(async move {
            let mut command = cmd("EVALSHA");
            command.arg(hash).arg(1).arg(format!("log:10.0.0.{id}")).arg(limit).arg(micros);
            Ok(command.query_async::<u64>(&mut connection).await? == 1)
        })
    });
    Ok(vec![
        ("larder", of(plain)),
        ("larder, batched by 50", of(batched)),
        ("trypema", trypema),
        ("trypema, hybrid", hybrid),
        ("sorted-set log", log),
    ])
}

pub(crate) fn run(rounds: usize) -> Outcome<Findings> {
    let mut table = Table::new(&[
        "limiter",
        "decisions, to larder",
        "95 % interval",
        "op/s",
        "bytes a key",
        "most in a window of 100 allowed",
    ]);
    eprintln!("limits: rivals, {TASKS} tasks");
    let standings = compare(Flavour::CurrentThread, rounds, async |url| {
        let lanes = contenders(url, 1_000_000, 60).await?.into_iter().map(|(name, decide)| {
            Lane::new(name, TASKS, move |ids| -> Work {
                let decide = decide.clone();
                Box::pin(async move {
                    for id in ids {
                        decide(id).await?;
                    }
                    Ok(())
                })
            })
        });
        Ok(lanes.collect())
    })?;
    let (bytes, most) = (bytes_a_key()?, at_the_edge()?);
    for (place, standing) in standings.iter().enumerate() {
        table.row(&[
            standing.name,
            &ratio(standing.ratio.median),
            &interval(standing.ratio),
            &rate(standing.rate),
            &bytes.get(place).map_or("–".to_owned(), u64::to_string),
            &most.get(place).map_or("–".to_owned(), usize::to_string),
        ]);
    }
    let mut findings = Findings::default();
    findings.add("limit-rivals", table.finish());
    Ok(findings)
}

/// The bytes that the server keeps for a key with an exhausted limit of 1,000 a minute, over all its names.
fn bytes_a_key() -> Outcome<Vec<u64>> {
    let mut bytes = Vec::new();
    for place in 0..5 {
        let server = Server::builder().tcp().start();
        Flavour::CurrentThread.build()?.block_on(async {
            let contenders = contenders(&server.url(), 1000, 60).await?;
            let (_, decide) = contenders.get(place).ok_or("no such contender")?;
            for _ in 0..1200 {
                decide(7).await?;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            Outcome::Ok(())
        })?;
        let keys: Vec<String> = server.query(&["KEYS", "*"]);
        bytes.push(
            keys.iter().map(|key| server.query::<u64>(&["MEMORY", "USAGE", key, "SAMPLES", "0"])).sum(),
        );
    }
    Ok(bytes)
}

/// Sends one request, the rest of the limit some milliseconds later, and as many as pass when a second has passed since
/// the first. Returns the largest number that any second admitted.
fn at_the_edge() -> Outcome<Vec<usize>> {
    let mut most = Vec::new();
    for place in 0..5 {
        let server = Server::builder().tcp().start();
        let times: Vec<Instant> = Flavour::CurrentThread.build()?.block_on(async {
            let contenders = contenders(&server.url(), 100, 1).await?;
            let (_, decide) = contenders.get(place).ok_or("no such contender")?;
            let mut times = Vec::new();
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(2500)).await;
                let first = Instant::now();
                ask(decide, 1, &mut times).await?;
                tokio::time::sleep(Duration::from_millis(11)).await;
                ask(decide, 120, &mut times).await?;
                while first.elapsed() < Duration::from_millis(1100) {
                    if first.elapsed() > Duration::from_millis(985) {
                        ask(decide, 20, &mut times).await?;
                    } else {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            Outcome::Ok(times)
        })?;
        // Replies arrive up to some milliseconds late. A window that is shorter by that much does not count any
        // contender's permits too high.
        let window = Duration::from_millis(995);
        let held = times.iter().enumerate().map(|(first, start)| {
            times.iter().skip(first).take_while(|time| time.duration_since(*start) < window).count()
        });
        most.push(held.max().unwrap_or(0));
    }
    Ok(most)
}

async fn ask(decide: &Decide, requests: u64, times: &mut Vec<Instant>) -> Outcome<()> {
    let asked = (0..requests).map(|_| decide(7));
    for allowed in futures_util::future::join_all(asked).await {
        times.extend(allowed?.then(Instant::now));
    }
    Ok(())
}

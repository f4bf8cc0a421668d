//! The processor time that the server spends on a decision: `INFO cpu` before and after some thousands of decisions.
//!
//! Every script runs on the same server over one connection, 64 requests in a write, against 1,000 keys, in shuffled
//! rounds. The baselines are scripts that only get and set a value with an expiry. The value is as long as larder's
//! record: of a key whose buckets are all in use, and of a key that is rarely used.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use larder_testkit::Server;
use rand::seq::SliceRandom;
use redis::{Connection, cmd, pipe};

use super::wire::{CHARGE, QuotaSpec, before, charge_together, full, request};
use crate::figures::Findings;
use crate::lane::Outcome;
use crate::statistics::{Spread, bootstrap, quartiles};
use crate::table::{Table, interval, ratio};

const GET_SET: &str = "local v = redis.call('GET', KEYS[1]) \
    redis.call('SET', KEYS[1], v or ARGV[1], 'PX', ARGV[2]) return 1";
/// The rule of go-redis/redis_rate as a script.
const GCRA: &str = include_str!("gcra.lua");
const HASH: &str = "local now = redis.call('TIME')[1] local h = redis.call('HGETALL', KEYS[1]) local sum = 0 \
    for i = 2, #h, 2 do sum = sum + h[i] end \
    if sum >= tonumber(ARGV[1]) then return 0 end \
    redis.call('HINCRBY', KEYS[1], now % 60, 1) redis.call('PEXPIRE', KEYS[1], 60000) return 1";
const ZSET: &str = "local t = redis.call('TIME') local now = t[1] * 1000000 + t[2] \
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 60000000) \
    if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end \
    redis.call('ZADD', KEYS[1], now, t[1] .. t[2]) redis.call('PEXPIRE', KEYS[1], 60000) return 1";

const KEYS: u64 = 1000;
const BATCH: u64 = 64;
const REQUESTS: u64 = 16_000;

struct Script {
    name: &'static str,
    source: Cow<'static, str>,
    arguments: Vec<Vec<u8>>,
    /// The number of keys of a request.
    keys: u64,
    /// What the keys hold before the first request.
    record: Option<Vec<u8>>,
    /// Requests a key before the measurement.
    before: u64,
}

fn scripts(now: u64) -> Vec<Script> {
    let text = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let script = |name, source: &'static str, arguments, before| Script {
        name,
        source: source.into(),
        arguments,
        keys: 1,
        record: None,
        before,
    };
    let get_set = |name, bytes| script(name, GET_SET, vec![vec![b'x'; bytes], b"600000".to_vec()], 1);
    let ours = |name, specs: &[QuotaSpec], before| script(name, CHARGE, vec![request(1, specs)], before);
    let used = |name, specs: &[QuotaSpec]| Script { record: Some(full(specs, now)), ..ours(name, specs, 0) };
    let second = 1_000_000;
    let day = now + 86_400 * second;
    let after = |name, own: &[QuotaSpec], over: &[QuotaSpec], until: (u64, u64)| {
        let record = [before(over, until.0, until.1), full(if over.is_empty() { own } else { over }, now)];
        Script { record: Some(record.concat()), ..ours(name, own, 0) }
    };
    let plain = [(0, 60_000, second)];
    let together = Script {
        source: charge_together().into(),
        arguments: vec![request(1, &plain); 2],
        keys: 2,
        ..used("larder, two keys together, allowed", &plain)
    };
    let one_refuses = Script {
        source: charge_together().into(),
        arguments: [60_000, 61].map(|limit| request(1, &[(0, limit, 1440 * second)])).into(),
        keys: 2,
        ..used("larder, two keys together, refused by one", &[(0, 61, 1440 * second)])
    };
    // Sixty buckets a window. Windows of a second, a minute, an hour and a day; and windows of days only, if no window
    // may end during the measurement.
    let short = [second / 60, second, 60 * second, 1440 * second].map(|width| (0, 60_000, width));
    let long = [(0, 60_000, 1440), (0, 60_000, 1441), (0, 60_000, 1442), (0, 61, 1443)]
        .map(|(kind, limit, width)| (kind, limit, width * second));
    vec![
        get_set("GET and SET of 149 bytes", 149),
        get_set("GET and SET of 29 bytes", 29),
        script("GCRA (redis_rate), allowed", GCRA, text(&["1000000", "60000000", "1"]), 1),
        script("GCRA (redis_rate), refused", GCRA, text(&["1", "600000000", "1"]), 1),
        used("larder, buckets, allowed", &[(0, 60_000, second)]),
        used("larder, buckets, refused", &[(0, 61, 1440 * second)]),
        ours("larder, buckets of a quiet key, allowed", &[(0, 60_000, 1440 * second)], 1),
        ours("larder, buckets of a quiet key, refused", &[(0, 21, 1440 * second)], 21),
        ours("larder, exact for 20, refused", &[(4, 20, 3600 * second)], 20),
        used("larder, four quotas, allowed", &short),
        used("larder, four quotas, refused", &long),
        after("larder, overridden, allowed", &[(0, 61, second)], &plain, (day, 0)),
        after("larder, overridden, refused", &plain, &[(0, 61, 1440 * second)], (day, 0)),
        after("larder, blocked once, allowed", &plain, &[], (0, now - 1)),
        after("larder, blocked, refused", &plain, &[], (0, day)),
        together,
        one_refuses,
        script("hash of 60 buckets, refused", HASH, text(&["60"]), 0),
        script("sorted-set log of 100, refused", ZSET, text(&["100"]), 100),
    ]
}

pub(crate) fn run(rounds: usize) -> Outcome<Findings> {
    eprintln!("limits: the server's processor");
    let server = Server::builder().tcp().start();
    let mut connection = redis::Client::open(server.url())?.get_connection()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    // Load the scripts, and bring their keys into the state that each one is measured in.
    let scripts = scripts(u64::try_from(now)?);
    let mut hashes = Vec::new();
    for (place, script) in scripts.iter().enumerate() {
        hashes.push(cmd("SCRIPT").arg("LOAD").arg(&*script.source).query::<String>(&mut connection)?);
        if script.name.starts_with("hash") {
            fill_hashes(&mut connection, place)?;
        }
        if let Some(record) = &script.record {
            for id in 0..KEYS {
                cmd("SET").arg(key(place, id)).arg(record).arg("PX").arg(86_400_000).exec(&mut connection)?;
            }
        }
        send(&mut connection, script, &hashes, place, script.before * KEYS)?;
    }
    // Each round runs all scripts, in an order of its own.
    let mut micros = vec![Vec::new(); scripts.len()];
    for _ in 0..rounds {
        let mut order: Vec<usize> = (0..scripts.len()).collect();
        order.shuffle(&mut rand::rng());
        for place in order {
            let Some(script) = scripts.get(place) else { continue };
            let before = processor(&server)?;
            send(&mut connection, script, &hashes, place, REQUESTS)?;
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
            let each = (processor(&server)? - before) * 1e6 / REQUESTS as f64;
            if let Some(all) = micros.get_mut(place) {
                all.push(each);
            }
        }
    }
    // The first script is the yardstick.
    let yard = micros.first().cloned().unwrap_or_default();
    let mut table =
        Table::new(&["script", "µs a decision", "to GET and SET", "95 % interval", "bytes a key"]);
    for (place, (script, micros)) in scripts.iter().zip(&micros).enumerate() {
        let ratios: Vec<f64> = micros.iter().zip(&yard).map(|(one, yard)| one / yard).collect();
        let (each, to_yard): (Spread, Spread) = (quartiles(micros), bootstrap(&ratios));
        let bytes: Option<u64> =
            cmd("MEMORY").arg("USAGE").arg(key(place, 7)).arg("SAMPLES").arg(0).query(&mut connection)?;
        table.row(&[
            script.name,
            &format!("{:.1} ({:.1}–{:.1})", each.median, each.low, each.high),
            &ratio(to_yard.median),
            &interval(to_yard),
            &bytes.map_or("–".to_owned(), |bytes| bytes.to_string()),
        ]);
    }
    let mut findings = Findings::default();
    findings.add("limit-scripts", table.finish());
    Ok(findings)
}

/// A name as long as those that programs use.
fn key(place: usize, id: u64) -> String {
    format!("~limit.1:{{shop/api{place:02}:10.0.0.{id}}}")
}

fn send(
    connection: &mut Connection,
    script: &Script,
    hashes: &[String],
    place: usize,
    requests: u64,
) -> Outcome<()> {
    let mut id = 0;
    for _ in 0..requests.div_ceil(BATCH) {
        let mut batch = pipe();
        for _ in 0..BATCH {
            id = (id + 7) % KEYS;
            let keys = (0..script.keys).map(|more| key(place, (id + more * 3) % KEYS));
            batch
                .cmd("EVALSHA")
                .arg(hashes.get(place))
                .arg(script.keys)
                .arg(keys.collect::<Vec<_>>())
                .arg(&script.arguments)
                .ignore();
        }
        batch.exec(connection)?;
    }
    Ok(())
}

/// Sixty buckets, each with one permit: what a minute of use leaves.
fn fill_hashes(connection: &mut Connection, place: usize) -> Outcome<()> {
    for id in 0..KEYS {
        let mut fill = cmd("HSET");
        fill.arg(key(place, id));
        for bucket in 0..60 {
            fill.arg(bucket).arg(1);
        }
        fill.exec(connection)?;
        cmd("PEXPIRE").arg(key(place, id)).arg(600_000).exec(connection)?;
    }
    Ok(())
}

/// Seconds of processor time that the server has used so far.
fn processor(server: &Server) -> Outcome<f64> {
    let info = server.info("cpu");
    let of = |name: &str| {
        info.get(name)
            .ok_or("no such figure")?
            .parse::<f64>()
            .map_err(Box::<dyn std::error::Error + Send + Sync>::from)
    };
    Ok(of("used_cpu_sys")? + of("used_cpu_user")?)
}

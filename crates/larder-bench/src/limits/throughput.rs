//! larder's `check`, compared with the bare driver running the same script with the same request.

use std::time::Duration;

use larder::{Larder, Quota};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, cmd};

use super::wire::{CHARGE, request};
use crate::driver::{plural, row};
use crate::figures::{Bar, Findings, Limit};
use crate::lane::{Lane, Outcome};
use crate::rounds::{Flavour, compare};
use crate::table::Table;

const TASKS: [u64; 3] = [1, 64, 256];
const LEAST: Limit = Limit::AtLeast(0.9);
const LIMIT: u32 = 1_000_000_000;

pub(crate) fn run(rounds: usize) -> Outcome<Findings> {
    let mut table = Table::new(&[
        "operation",
        "tasks",
        "runtime",
        "larder / bare",
        "95 % interval",
        "bare, op/s",
        "larder, op/s",
    ]);
    let mut bounds = Vec::new();
    for tasks in TASKS {
        let flavour = Flavour::CurrentThread;
        eprintln!("limits: check with {tasks} tasks");
        let standings = compare(flavour, rounds, async |url| {
            Ok(vec![bare(url, tasks).await?, larder(url, tasks).await?])
        })?;
        let [bare, larder] = standings.as_slice() else { return Err("two lanes were expected".into()) };
        bounds.push((larder.ratio.low, format!("{}, {}", plural("check", tasks), flavour.name())));
        row(&mut table, "check", tasks, flavour, bare, larder);
    }
    let mut findings = Findings::default();
    findings.add("limit-throughput", table.finish());
    findings.bars.push(Bar::over("`check` / bare driver, same script", LEAST, bounds));
    Ok(findings)
}

pub(crate) async fn connect(url: &str) -> Outcome<MultiplexedConnection> {
    let info = url.into_connection_info()?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(Duration::from_secs(1)))
        .set_pipeline_buffer_size(1024);
    Ok(Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?)
}

async fn bare(url: &str, tasks: u64) -> Outcome<Lane> {
    let mut connection = connect(url).await?;
    let hash: String = cmd("SCRIPT").arg("LOAD").arg(CHARGE).query_async(&mut connection).await?;
    Ok(Lane::new("bare", tasks, move |ids| {
        let (mut connection, hash) = (connection.clone(), hash.clone());
        Box::pin(async move {
            for id in ids {
                let name = format!("~limit.1:{{/bare:{id}}}");
                let asked = request(1, &[(1, LIMIT, 1_000_000)]);
                let mut command = cmd("EVALSHA");
                command.arg(&hash).arg(1).arg(name).arg(asked);
                let answer: Vec<u8> = command.query_async(&mut connection).await?;
                if answer.get(3) != Some(&1) {
                    return Err("refused".into());
                }
            }
            Ok(())
        })
    }))
}

async fn larder(url: &str, tasks: u64) -> Outcome<Lane> {
    let limiter = Larder::connect(url).await?.rate_limiter("larder", Quota::per_minute(LIMIT.into()))?;
    Ok(Lane::new("larder", tasks, move |ids| {
        let limiter = limiter.clone();
        Box::pin(async move {
            for id in ids {
                if !limiter.check(id).await?.is_allowed() {
                    return Err("refused".into());
                }
            }
            Ok(())
        })
    }))
}

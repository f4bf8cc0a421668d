//! Which server Sentinel calls the master.
//!
//! A Sentinel that was cut off, or left behind by a change of the deployment, goes on naming a server that has not been the
//! master for long. It may well be the first to answer. So all are asked at once, and the answers are ordered: what a
//! majority of the configured Sentinels says comes first, then the newest config epoch (a failover raises it), then the most
//! votes. A server that refuses the connection or does not have the role of a master is passed over for the next. The
//! protocol: redis.io, "Guidelines for Redis clients with support for Sentinel".

use std::cmp::Reverse;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};

use super::dial::{Dialled, Events, Login, open, open_master};
use super::error::translate;
use super::wire::{Reply, Request, WireError};
use crate::endpoint::Address;
use crate::error::{Error, ErrorKind, Result};

/// What one Sentinel said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedMaster {
    master: Address,
    /// Zero where it did not say.
    epoch: u64,
}

/// Opens a connection to the master of the service, within the login's `connect_timeout`.
pub(super) async fn open_named(
    (sentinels, service): (&[Address], &str),
    sentinel_login: &Login,
    login: &Login,
    events: &Events,
) -> Result<Dialled> {
    let deadline = Instant::now() + login.connect_timeout;
    // The rest are waited for as long where no majority agrees.
    let max_wait = login.connect_timeout / 4;
    let mut asked: FuturesUnordered<_> =
        sentinels.iter().map(|sentinel| Box::pin(ask(sentinel, service, sentinel_login))).collect();
    let (mut answers, mut tried, mut failed) = (Vec::new(), Vec::new(), None);
    loop {
        gather(&mut asked, &mut answers, &mut failed, sentinels.len(), max_wait).await;
        let Some(master) = next(&answers, sentinels.len(), &tried) else {
            if asked.is_empty() {
                return Err(failed.unwrap_or_else(|| Error::invalid("no sentinel is named")));
            }
            // All that was named so far is no use. Others may know better.
            match asked.next().await {
                Some(Ok(answer)) => answers.push(answer),
                Some(Err(error)) => worse(&mut failed, error),
                None => {}
            }
            continue;
        };
        tried.push(master.clone());
        // A server that does not answer must not use up the time of the next.
        let left = deadline.saturating_duration_since(Instant::now());
        let last = asked.is_empty() && next(&answers, sentinels.len(), &tried).is_none();
        match timeout(if last { left } else { left / 2 }, open_master(&master, login, events.clone())).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => {
                tracing::debug!(target: crate::telemetry::target::CONNECTION, server = %master, %error, "not the master that a sentinel called it");
                failed = Some(error);
            }
            Err(_) => failed = Some(silent(&master)),
        }
    }
}

fn silent(master: &Address) -> Error {
    Error::new(ErrorKind::TimedOut, format!("{master} was named master by Sentinel and does not answer"))
}

/// Takes answers until a majority agrees, all have answered, or `max_wait` is over since the first one answered.
async fn gather<F: Future<Output = Result<NamedMaster>>>(
    asked: &mut FuturesUnordered<F>,
    answers: &mut Vec<NamedMaster>,
    failed: &mut Option<Error>,
    sentinels: usize,
    max_wait: Duration,
) {
    let mut until: Option<Instant> = None;
    while !answers.iter().any(|one| has_majority(answers, &one.master, sentinels)) {
        if !answers.is_empty() && until.is_none() {
            until = Some(Instant::now() + max_wait);
        }
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        match timeout(left, asked.next()).await {
            Ok(Some(Ok(answer))) => answers.push(answer),
            Ok(Some(Err(error))) => worse(failed, error),
            Ok(None) | Err(_) => return,
        }
    }
}

/// Keeps the error that says most: one that does not go away by itself.
fn worse(failed: &mut Option<Error>, error: Error) {
    if failed.as_ref().is_none_or(Error::is_retryable) {
        *failed = Some(error);
    }
}

fn votes(answers: &[NamedMaster], master: &Address) -> usize {
    answers.iter().filter(|one| one.master == *master).count()
}

fn has_majority(answers: &[NamedMaster], master: &Address, sentinels: usize) -> bool {
    votes(answers, master) > sentinels / 2
}

/// The best of those that were not tried.
fn next(answers: &[NamedMaster], sentinels: usize, tried: &[Address]) -> Option<Address> {
    let untried = answers.iter().filter(|one| !tried.contains(&one.master));
    let ranked = untried.map(|one| {
        let (master, votes) = (&one.master, votes(answers, &one.master));
        // The address last, so that all links of a node choose the same of two that are equal.
        (has_majority(answers, master, sentinels), one.epoch, votes, Reverse(master))
    });
    ranked.max().map(|(.., Reverse(master))| master.clone())
}

async fn ask(sentinel: &Address, service: &str, login: &Login) -> Result<NamedMaster> {
    let fail = |failure| translate(&WireError::from(failure), &sentinel.to_string());
    let connection = open(sentinel, login, None).await?.connection;
    let questions = [
        Request::new("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service),
        // It may not be allowed: then the epoch is not known.
        Request::new("SENTINEL").arg("MASTER").arg(service),
    ];
    let mut answers = connection.send_all(&questions).await.map_err(fail)?.into_iter();
    let master = match answers.next().unwrap_or(Reply::Nil).into_result().map_err(fail)? {
        Reply::Nil => {
            return Err(Error::invalid(format!("the sentinel {sentinel} knows no service {service}")));
        }
        Reply::Array(parts) => match parts.as_slice() {
            [host, port] => {
                host.as_str().map(str::to_owned).zip(port.as_u64().and_then(|port| port.try_into().ok()))
            }
            _ => None,
        },
        _ => None,
    };
    let Some((host, port)) = master else {
        let what = format!("the sentinel {sentinel} answered something unknown");
        return Err(Error::new(ErrorKind::Server, what));
    };
    Ok(NamedMaster { master: Address::Tcp { host, port }, epoch: answers.next().map_or(0, epoch) })
}

/// The `config-epoch` among what `SENTINEL MASTER` says.
fn epoch(answer: Reply) -> u64 {
    let pairs: Vec<(Reply, Reply)> = match answer {
        Reply::Map(pairs) => pairs,
        Reply::Array(flat) => {
            let mut parts = flat.into_iter();
            std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect()
        }
        _ => return 0,
    };
    let text = |value: Reply| value.as_str().unwrap_or_default().to_owned();
    let found =
        pairs.into_iter().find_map(|(name, value)| (text(name) == "config-epoch").then(|| text(value)));
    found.and_then(|epoch| epoch.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(named: &[(&str, u64)]) -> Vec<NamedMaster> {
        named.iter().map(|(host, epoch)| NamedMaster { master: at(host), epoch: *epoch }).collect()
    }

    fn at(host: &str) -> Address {
        Address::Tcp { host: host.into(), port: 1 }
    }

    #[test]
    fn a_majority_comes_first_then_the_newest_epoch_then_the_most_votes() {
        let order = |named: &[(&str, u64)], sentinels| {
            let answers = answers(named);
            let mut tried = Vec::new();
            while let Some(master) = next(&answers, sentinels, &tried) {
                tried.push(master);
            }
            tried
        };
        // Left behind by a change of the deployment, with a higher epoch than the new one's.
        assert_eq!(order(&[("stale", 7), ("new", 0), ("new", 0)], 3), [at("new"), at("stale")]);
        assert_eq!(order(&[("stale", 0), ("the new one", 1)], 3), [at("the new one"), at("stale")]);
        assert_eq!(order(&[("a", 1), ("b", 1), ("b", 1), ("c", 0)], 7), [at("b"), at("a"), at("c")]);
        assert_eq!(order(&[], 3), []);
    }

    #[test]
    fn the_epoch_is_read_in_either_form() {
        let text = |text: &str| Reply::Bulk(text.to_owned().into());
        let map = Reply::Map(vec![(text("name"), text("x")), (text("config-epoch"), text("5"))]);
        assert_eq!(epoch(map), 5);
        assert_eq!(epoch(Reply::Array(vec![text("config-epoch"), text("6"), text("odd")])), 6);
        assert_eq!(epoch(Reply::Nil), 0);
    }
}

//! Finds the server that Sentinel names as the master.
//!
//! A Sentinel that was cut off, or left behind by a change of the deployment, may name a server that lost its role
//! long ago, and it may be the first to answer. So all Sentinels are asked at once, and their answers are ranked:
//! first what a majority of the configured Sentinels says, then the newest config epoch (a failover raises it), then
//! the most votes. If a server refuses the connection or is not a master, the next one is tried. For the protocol see
//! "Guidelines for Redis clients with support for Sentinel" at redis.io.

use std::cmp::Reverse;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};

use super::error::translate;
use super::login::Login;
use super::open::{Dialled, Events, open, open_master};
use super::wire::{Reply, Request, WireError};
use crate::endpoint::Address;
use crate::error::{Error, ErrorKind, Result};

/// The answer of one Sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedMaster {
    master: Address,
    /// Zero if the Sentinel did not report it.
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
    // How long the first answer waits for more while no majority agrees.
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
            // Every server named so far has failed. Wait for the answer of another Sentinel.
            match asked.next().await {
                Some(Ok(answer)) => answers.push(answer),
                Some(Err(error)) => worse(&mut failed, error),
                None => {}
            }
            continue;
        };
        tried.push(master.clone());
        // A silent server must leave time for the next candidate, so only the last one gets all of it.
        let left = deadline.saturating_duration_since(Instant::now());
        let last = asked.is_empty() && next(&answers, sentinels.len(), &tried).is_none();
        match timeout(if last { left } else { left / 2 }, open_master(&master, login, events.clone())).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => {
                tracing::debug!(target: crate::telemetry::target::CONNECTION, server = %master, %error, "a sentinel names a server that is not a master");
                failed = Some(error);
            }
            Err(_) => failed = Some(silent(&master)),
        }
    }
}

fn silent(master: &Address) -> Error {
    Error::new(
        ErrorKind::TimedOut,
        format!("Sentinel names {master} as the master, but it does not answer: retry"),
    )
}

/// Collects answers until a majority agrees, all Sentinels have answered, or `max_wait` has passed since the first
/// answer.
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

/// Keeps the more useful error: one that a retry does not cure.
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

/// Returns the best candidate that was not tried.
fn next(answers: &[NamedMaster], sentinels: usize, tried: &[Address]) -> Option<Address> {
    let untried = answers.iter().filter(|one| !tried.contains(&one.master));
    let ranked = untried.map(|one| {
        let (master, votes) = (&one.master, votes(answers, &one.master));
        // Compare the address last, so that all links of a node choose the same of two equal candidates.
        (has_majority(answers, master, sentinels), one.epoch, votes, Reverse(master))
    });
    ranked.max().map(|(.., Reverse(master))| master.clone())
}

/// Asks a Sentinel in one round trip, the login's.
async fn ask(sentinel: &Address, service: &str, login: &Login) -> Result<NamedMaster> {
    let fail = |failure| translate(&WireError::from(failure), &sentinel.to_string());
    let questions = [
        Request::new("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service),
        // The ACL may forbid this command. Then the epoch counts as zero.
        Request::new("SENTINEL").arg("MASTER").arg(service),
    ];
    let mut answers = open(sentinel, login, &questions, None).await?.greeted.answers.into_iter();
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
        let what = format!("the reply of the sentinel {sentinel} is not one that larder expects");
        return Err(Error::new(ErrorKind::Server, what));
    };
    Ok(NamedMaster { master: Address::Tcp { host, port }, epoch: answers.next().map_or(0, epoch) })
}

/// Reads `config-epoch` from the reply to `SENTINEL MASTER`.
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
    fn a_majority_wins_then_the_newest_epoch_then_the_most_votes() {
        let order = |named: &[(&str, u64)], sentinels| {
            let answers = answers(named);
            let mut tried = Vec::new();
            while let Some(master) = next(&answers, sentinels, &tried) {
                tried.push(master);
            }
            tried
        };
        // "stale" is left behind by a change of the deployment, and has a higher epoch than "new".
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

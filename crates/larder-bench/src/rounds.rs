//! Rounds in which every lane runs under the same conditions, as nearly as one machine allows.
//!
//! In a round each lane runs six times: three times in a shuffled order, then in the reverse order. So a machine that
//! slows down meanwhile slows all lanes alike, and no single placement of tasks on threads decides a round. The number
//! of operations is fixed beforehand. After a block of rounds the server, the runtime and the connections are replaced:
//! otherwise a lucky placement of memory or of a connection would favour one lane for the whole measurement.

use std::time::Duration;

use larder_testkit::Server;
use rand::seq::SliceRandom;
use tokio::runtime::{Builder, Runtime};

use crate::lane::{Lane, Outcome};
use crate::statistics::{Spread, bootstrap, quartiles};

const BLOCK: usize = 5;
/// The duration that one run of the first lane should have.
const SLICE: Duration = Duration::from_millis(20);
/// A pass is two runs of each lane.
const PASSES: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    CurrentThread,
    MultiThread,
}

impl Flavour {
    pub(crate) const BOTH: [Self; 2] = [Self::CurrentThread, Self::MultiThread];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CurrentThread => "current-thread",
            Self::MultiThread => "multi-thread (2)",
        }
    }

    pub(crate) fn build(self) -> Outcome<Runtime> {
        let runtime = match self {
            Self::CurrentThread => Builder::new_current_thread().enable_all().build(),
            Self::MultiThread => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        };
        runtime.map_err(Into::into)
    }
}

/// How one lane compares with the first.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) name: &'static str,
    /// Operations a second: the median and the quartiles of the rounds.
    pub(crate) rate: Spread,
    /// The ratio to the first lane's rate in the same round: the median and its 95 % interval.
    pub(crate) ratio: Spread,
    /// Operations a second in each round.
    #[cfg(any(test, feature = "rivals"))]
    rounds: Vec<f64>,
}

#[cfg(any(test, feature = "rivals"))]
impl Standing {
    /// The ratio of this lane's rate to another's in the same round: the median and its 95 % interval.
    pub(crate) fn to(&self, other: &Self) -> Spread {
        bootstrap(&ratios(&self.rounds, &other.rounds))
    }
}

/// Measures lanes on fresh servers. The first lane is the one that the others are compared with.
pub(crate) fn compare(
    flavour: Flavour,
    rounds: usize,
    lanes: impl AsyncFn(&str) -> Outcome<Vec<Lane>>,
) -> Outcome<Vec<Standing>> {
    let mut names = Vec::new();
    let mut rates: Vec<Vec<f64>> = Vec::new();
    let mut each = None;
    while rates.len() < rounds {
        let server = Server::builder().tcp().start();
        flavour.build()?.block_on(async {
            let lanes = lanes(&server.url()).await?;
            let each = match each {
                Some(each) => each,
                None => *each.insert(operations_a_slice(&lanes).await?),
            };
            for lane in &lanes {
                lane.run(each / 2 + 1).await?;
            }
            for _ in 0..BLOCK.min(rounds - rates.len()) {
                rates.push(round(&lanes, each).await?);
            }
            names = lanes.iter().map(|lane| lane.name).collect();
            Outcome::Ok(())
        })?;
    }
    Ok(standings(&names, &rates))
}

/// The rate of each lane.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 operations")]
async fn round(lanes: &[Lane], each: u64) -> Outcome<Vec<f64>> {
    let mut order: Vec<usize> = (0..lanes.len()).collect();
    let mut times = vec![Duration::ZERO; lanes.len()];
    for _ in 0..PASSES {
        order.shuffle(&mut rand::rng());
        for place in order.iter().chain(order.iter().rev()) {
            if let (Some(lane), Some(time)) = (lanes.get(*place), times.get_mut(*place)) {
                *time += lane.run(each).await?;
            }
        }
    }
    let operations = |lane: &Lane| (2 * u64::from(PASSES) * each * lane.operations()) as f64;
    Ok(lanes.iter().zip(times).map(|(lane, time)| operations(lane) / time.as_secs_f64()).collect())
}

async fn operations_a_slice(lanes: &[Lane]) -> Outcome<u64> {
    let first = lanes.first().ok_or("no lane")?;
    let mut each = 4;
    loop {
        let took = first.run(each).await?;
        if took > SLICE / 2 {
            let wanted = u128::from(each) * SLICE.as_nanos() / took.as_nanos().max(1);
            return Ok(u64::try_from(wanted)?.max(1));
        }
        each *= 2;
    }
}

fn standings(names: &[&'static str], rates: &[Vec<f64>]) -> Vec<Standing> {
    let of =
        |place: usize| -> Vec<f64> { rates.iter().filter_map(|round| round.get(place).copied()).collect() };
    let first = of(0);
    let standing = |(place, name): (usize, &&'static str)| {
        let rounds = of(place);
        Standing {
            name,
            rate: quartiles(&rounds),
            ratio: bootstrap(&ratios(&rounds, &first)),
            #[cfg(any(test, feature = "rivals"))]
            rounds,
        }
    };
    names.iter().enumerate().map(standing).collect()
}

fn ratios(lane: &[f64], other: &[f64]) -> Vec<f64> {
    lane.iter().zip(other).map(|(lane, other)| lane / other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        let rates = vec![vec![100.0, 90.0], vec![10.0, 9.0], vec![1000.0, 900.0]];
        let standings = standings(&["first", "second"], &rates);
        let ratios: Vec<f64> = standings.iter().map(|standing| standing.ratio.median).collect();
        assert_eq!(ratios, [1.0, 0.9]);
        // Any two lanes can be compared.
        let first_to_second: Vec<f64> =
            standings.iter().zip(standings.iter().skip(1)).map(|(one, other)| one.to(other).median).collect();
        assert_eq!(first_to_second, [1.0 / 0.9]);
    }
}

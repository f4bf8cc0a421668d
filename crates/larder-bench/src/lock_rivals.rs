//! larder's locks compared with `rslock` and with a token in a list: pairs a second on uncontended locks, and the
//! throughput of ten contenders in two processes for one lock.
//!
//! Each is used as its documentation shows. The token is the simplest lock that hands itself over: popping it takes the
//! lock, and pushing it back releases the lock. It has no time to live, no owner and no fence, and is lost with its
//! holder.

mod contention;
mod rival;

use crate::figures::{Bar, Findings, Limit};
use crate::lane::{Lane, Outcome, Work};
use crate::machine::{self, Ticks};
use crate::rounds::{Flavour, compare};
use crate::statistics::quantile;
use crate::table::{Table, interval, rate, ratio};
use contention::Contention;
pub(crate) use contention::contend;
use rival::{Larder, Rival, Rslock, Token};

const TASKS: [u64; 2] = [1, 64];
const SHARE: Limit = Limit::AtMost(1.5);
/// How often the contention is measured, each rival in turn.
const TRIES: usize = 5;

pub(crate) fn run(rounds: usize) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let began = Ticks::now();
    let rounds = rounds.min(20);
    findings.add(
        "lock-rivals",
        uncontended(rounds)? + &machine::note(began, &format!("{rounds} rounds of each")),
    );
    contended(&mut findings)?;
    Ok(findings)
}

fn uncontended(rounds: usize) -> Outcome<String> {
    let mut table = Table::new(&["lock", "tasks", "pairs, to larder", "95 % interval", "pairs/s"]);
    for tasks in TASKS {
        eprintln!("lock-rivals: uncontended, {tasks} tasks");
        let standings = compare(Flavour::CurrentThread, rounds, async |url| {
            Ok(vec![
                lane::<Larder>(url, tasks).await?,
                lane::<Rslock>(url, tasks).await?,
                lane::<Token>(url, tasks).await?,
            ])
        })?;
        for standing in &standings {
            table.row(&[
                standing.name,
                &tasks.to_string(),
                &ratio(standing.ratio.median),
                &interval(standing.ratio),
                &rate(standing.rate),
            ]);
        }
    }
    Ok(table.finish())
}

/// Every task has a lock of its own.
async fn lane<R: Rival>(url: &str, tasks: u64) -> Outcome<Lane> {
    let process = R::connect(url).await?;
    let mut contenders = Vec::new();
    for task in 0..tasks {
        contenders.push(process.contender(&format!("{}:{task}", R::NAME)).await?);
    }
    Ok(Lane::new(R::NAME, tasks, move |ids| -> Work {
        let (start, pairs) = ids.start_and_count();
        // The tasks begin at positions that are 37 apart.
        let contender = usize::try_from(start / 37).ok().and_then(|task| contenders.get(task)).cloned();
        Box::pin(async move {
            let mut contender = contender.ok_or("no such task")?;
            for _ in 0..pairs {
                let held = contender.acquire().await?;
                contender.release(held).await?;
            }
            Ok(())
        })
    }))
}

fn contended(findings: &mut Findings) -> Outcome<()> {
    let began = Ticks::now();
    let mut table = Table::new(&[
        "lock",
        "locks/s",
        "handover, median µs",
        "99 %, µs",
        "handed to another, %",
        "wait, 99 %, ms",
        "largest / smallest share",
        "requests a lock",
        "commands a lock",
    ]);
    let mut found: [(&str, Vec<Contention>); 3] =
        [(Larder::NAME, Vec::new()), (Rslock::NAME, Vec::new()), (Token::NAME, Vec::new())];
    // The locks take turns, so that a machine that slows down meanwhile slows all of them.
    for _ in 0..TRIES {
        for (name, tries) in &mut found {
            eprintln!("lock-rivals: contention, {name}");
            tries.push(Contention::measure(name)?);
        }
    }
    // Each cell is the median of a lock's tries.
    for (name, tries) in &found {
        let of = |what: fn(&Contention) -> f64| -> Vec<f64> { tries.iter().map(what).collect() };
        table.row(&[
            name,
            &spread(of(|it| it.rate), 0),
            &spread(of(|it| it.median), 0),
            &spread(of(|it| it.tail), 0),
            &spread(of(|it| it.passed_on), 0),
            &spread(of(|it| it.wait), 1),
            &spread(of(|it| it.shares), 2),
            &spread(of(|it| it.requests), 2),
            &spread(of(|it| it.commands), 1),
        ]);
    }
    let rounds =
        format!("{TRIES} times {} s of each in turn: the median (smallest–largest)", contention::SECONDS);
    findings.add("lock-contention", table.finish() + &machine::note(began, &rounds));
    let [(_, ours), ..] = &found;
    let shares = ours.iter().map(|it| (it.shares, "10 contenders in 2 processes".to_owned()));
    findings.bars.push(Bar::over("largest / smallest share of a contended lock", SHARE, shares));
    Ok(())
}

/// `12 (11–14)`.
fn spread(samples: Vec<f64>, digits: usize) -> String {
    let at = |share| quantile(&samples, share);
    let text = |number: f64| {
        if number.is_finite() { format!("{number:.digits$}") } else { "∞".to_owned() }
    };
    format!("{} ({}–{})", text(at(0.5)), text(at(0.0)), text(at(1.0)))
}

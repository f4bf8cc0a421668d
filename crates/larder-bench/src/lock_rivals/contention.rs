//! Ten contenders, five in each of two processes, that all take one lock, hold it for no time, and take it again.
//!
//! The processes are this program again, started with `contend NAME URL`. Each prints when it is ready, and starts on a
//! signal. Afterwards it prints when each of its contenders asked for the lock, got it and began to release it, by the
//! machine's monotonic clock, which both processes share. A handover lasts from before a release is sent until the next
//! grant to another contender is known. A contender that takes the lock again itself hands nothing over.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use larder_testkit::Server;
use larder_testkit::history::now;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::rival::{Larder, Rival, Rslock, Token};
use crate::lane::Outcome;
use crate::rounds::Flavour;
use crate::statistics::quantile;

pub(super) const SECONDS: u64 = 4;
const PROCESSES: usize = 2;
const CONTENDERS: usize = 5;
const LOCK: &str = "gate";

/// The measurements of one rival.
pub(super) struct Contention {
    /// Locks a second.
    pub(super) rate: f64,
    /// The times of the handovers, in microseconds.
    pub(super) median: f64,
    pub(super) tail: f64,
    /// The 99th percentile of waiting, in milliseconds.
    pub(super) wait: f64,
    /// The percentage of locks that went to another contender than the one before.
    pub(super) passed_on: f64,
    /// The largest number of locks that a contender got, divided by the smallest.
    pub(super) shares: f64,
    /// The commands that were sent to the server for each lock.
    pub(super) requests: f64,
    /// The commands that the server ran for each lock, including those inside scripts.
    pub(super) commands: f64,
}

impl Contention {
    pub(super) fn measure(name: &str) -> Outcome<Self> {
        match name {
            Larder::NAME => Self::of::<Larder>(),
            Rslock::NAME => Self::of::<Rslock>(),
            _ => Self::of::<Token>(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
    fn of<R: Rival>() -> Outcome<Self> {
        let server = Server::builder().tcp().start();
        let url = server.url();
        // Start all processes, wait until each is connected, and only then let them contend.
        let mut processes = Vec::new();
        for _ in 0..PROCESSES {
            processes.push(Process::start(R::NAME, &url)?);
        }
        for process in &mut processes {
            process.expect("ready")?;
        }
        server.reset_stats();
        for process in &mut processes {
            process.tell("go")?;
        }
        for process in &mut processes {
            process.expect("done")?;
        }
        let calls = calls(&server);
        // Collect what each contender noted: for each lock when it was wanted, granted and freed.
        let (mut held, mut counts, mut waits) = (Vec::new(), Vec::new(), Vec::new());
        for process in &mut processes {
            for _ in 0..CONTENDERS {
                let count: usize = process.line()?.parse()?;
                counts.push(count as f64);
                for _ in 0..count {
                    let line = process.line()?;
                    let times = line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
                    let [asked, granted, freed] = times.as_slice() else {
                        return Err("a contender says something else".into());
                    };
                    held.push((*granted, *freed, counts.len()));
                    waits.push(granted.saturating_sub(*asked) as f64 / 1e6);
                }
            }
        }
        // A handover is from a release to the next grant, if that is to another contender.
        held.sort_unstable();
        let handovers: Vec<f64> = held
            .iter()
            .zip(held.iter().skip(1))
            .filter(|((_, _, one), (_, _, other))| one != other)
            .map(|((_, freed, _), (granted, _, _))| granted.saturating_sub(*freed) as f64 / 1000.0)
            .collect();
        let (locks, sum) = (held.len() as f64, |names: &dyn Fn(&str) -> bool| -> f64 {
            calls.iter().filter(|(name, _)| names(name)).map(|(_, count)| *count as f64).sum()
        });
        Ok(Self {
            rate: locks / SECONDS as f64,
            median: quantile(&handovers, 0.5),
            tail: quantile(&handovers, 0.99),
            wait: quantile(&waits, 0.99),
            passed_on: 100.0 * handovers.len() as f64 / (locks - 1.0),
            shares: quantile(&counts, 1.0) / quantile(&counts, 0.0),
            requests: sum(&|name| R::SENDS.contains(&name)) / locks,
            commands: sum(&|_| true) / locks,
        })
    }
}

/// How often the server ran each command, without the commands that no lock needs.
fn calls(server: &Server) -> Vec<(String, u64)> {
    let not_theirs = ["time", "info", "config|resetstat", "config", "client|setinfo", "hello", "ping"];
    let stats = server.info("commandstats");
    let calls = |stats: &str| stats.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok();
    stats
        .iter()
        .filter_map(|(name, stats)| Some((name.strip_prefix("cmdstat_")?.to_owned(), calls(stats)?)))
        .filter(|(name, _)| !not_theirs.contains(&name.as_str()))
        .collect()
}

/// The hidden subcommand.
pub(crate) fn contend(arguments: &[String]) -> Outcome<()> {
    let [name, url] = arguments else { return Err("contend NAME URL".into()) };
    match name.as_str() {
        Larder::NAME => as_one::<Larder>(url),
        Rslock::NAME => as_one::<Rslock>(url),
        Token::NAME => as_one::<Token>(url),
        _ => Err("no such lock".into()),
    }
}

fn as_one<R: Rival>(url: &str) -> Outcome<()> {
    let say = |line: &str| {
        println!("{line}");
        io::stdout().flush()
    };
    Flavour::CurrentThread.build()?.block_on(async {
        let process = R::connect(url).await?;
        let mut contenders = Vec::new();
        for number in 0..CONTENDERS {
            // The first call of all does more than later ones.
            let mut warm = process.contender(&format!("warm:{}:{number}", std::process::id())).await?;
            let held = warm.acquire().await?;
            warm.release(held).await?;
            contenders.push(process.contender(LOCK).await?);
        }
        say("ready")?;
        tokio::task::spawn_blocking(|| io::stdin().lines().next()).await?.ok_or("no signal to start")??;
        let end = Instant::now() + Duration::from_secs(SECONDS);
        let mut tasks = JoinSet::new();
        for contender in contenders {
            tasks.spawn(take_turns(contender, end));
        }
        let mut held = Vec::new();
        while let Some(done) = tasks.join_next().await {
            held.push(done??);
        }
        say("done")?;
        let mut out = io::stdout().lock();
        for of_one in held {
            writeln!(out, "{}", of_one.len())?;
            for [asked, granted, freed] in of_one {
                writeln!(out, "{asked} {granted} {freed}")?;
            }
        }
        out.flush().map_err(Into::into)
    })
}

/// When a contender asked for the lock, got it, and began to release it.
async fn take_turns<R: Rival>(mut contender: R, end: Instant) -> Outcome<Vec<[u64; 3]>> {
    let mut held = Vec::new();
    loop {
        let asked = now();
        let Ok(got) = timeout_at(end, contender.acquire()).await else { return Ok(held) };
        let (got, granted) = (got?, now());
        held.push([asked, granted, now()]);
        contender.release(got).await?;
    }
}

struct Process {
    child: Child,
    lines: io::Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(name: &str, url: &str) -> Outcome<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["contend", name, url]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok(Self { child, lines })
    }

    fn tell(&mut self, line: &str) -> Outcome<()> {
        Ok(writeln!(self.child.stdin.as_mut().ok_or("no input")?, "{line}")?)
    }

    fn line(&mut self) -> Outcome<String> {
        Ok(self.lines.next().ok_or("a contending process died")??)
    }

    fn expect(&mut self, wanted: &str) -> Outcome<()> {
        let line = self.line()?;
        if line == wanted { Ok(()) } else { Err(format!("{line}, instead of {wanted}").into()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has usually ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Loads of one cold key that a thousand tasks in each of two processes want at once.
//!
//! The processes are this program again, started with `herd NAME URL`. Each prints when it is ready, and starts on a
//! signal.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::super::multi_tier::TwoTiers;
use super::super::rustis_cache::Rustis;
use super::{NearCache, server};
use crate::lane::Outcome;
use crate::ours::OursNear;
use crate::rounds::Flavour;

pub(super) const TASKS: usize = 1000;
pub(super) const TRIES: usize = 3;

/// The loads of both processes together in each try, and how long the slowest task of each try waited, in milliseconds.
pub(super) fn of<N: NearCache>() -> Outcome<(String, String)> {
    let (mut loads, mut slowest) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        let server = server();
        let mut processes =
            [Process::start(N::NAME, &server.url())?, Process::start(N::NAME, &server.url())?];
        for process in &mut processes {
            process.expect("ready")?;
        }
        for process in &mut processes {
            process.tell("go")?;
        }
        let (mut counted, mut waited) = (0, 0);
        for process in &mut processes {
            let line = process.line()?;
            let (count, millis) = line.split_once(' ').ok_or("a process of the herd says something else")?;
            counted += count.parse::<u64>()?;
            waited = waited.max(millis.parse::<u64>()?);
            process.child.wait()?;
        }
        loads.push(counted.to_string());
        slowest.push(waited.to_string());
    }
    Ok((loads.join(", "), slowest.join(", ")))
}

/// The hidden subcommand.
pub(crate) fn herd(arguments: &[String]) -> Outcome<()> {
    let [name, url] = arguments else { return Err("herd NAME URL".into()) };
    match name.as_str() {
        OursNear::NAME => graze::<OursNear>(url),
        Rustis::NAME => graze::<Rustis>(url),
        TwoTiers::NAME => graze::<TwoTiers>(url),
        _ => Err("no such cache".into()),
    }
}

fn graze<N: NearCache>(url: &str) -> Outcome<()> {
    static LOADS: AtomicU64 = AtomicU64::new(0);
    let say = |line: &str| {
        println!("{line}");
        io::stdout().flush()
    };
    Flavour::MultiThread.build()?.block_on(async {
        let cache = N::connect(url).await?;
        // The first call of all does more than later ones.
        cache.get_or_load(1, &LOADS).await?;
        LOADS.store(0, Relaxed);
        let start = Arc::new(Barrier::new(TASKS + 1));
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let (cache, start) = (cache.clone(), start.clone());
            tasks.spawn(async move {
                start.wait().await;
                cache.get_or_load(0, &LOADS).await.map(drop)
            });
        }
        say("ready")?;
        tokio::task::spawn_blocking(|| io::stdin().lines().next()).await?.ok_or("no signal to start")??;
        let began = Instant::now();
        start.wait().await;
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        say(&format!("{} {}", LOADS.load(Relaxed), began.elapsed().as_millis()))?;
        Ok(())
    })
}

struct Process {
    child: Child,
    lines: io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start(name: &str, url: &str) -> Outcome<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["herd", name, url]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok(Self { child, lines })
    }

    fn tell(&mut self, line: &str) -> Outcome<()> {
        Ok(writeln!(self.child.stdin.as_mut().ok_or("no input")?, "{line}")?)
    }

    fn line(&mut self) -> Outcome<String> {
        Ok(self.lines.next().ok_or("a process of the herd died")??)
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

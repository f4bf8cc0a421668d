//! What an uncontended lock costs, counted: the client's allocations and instructions, and the server's processor time.

use larder::Larder;
use larder_testkit::Server;

use crate::allocations;
use crate::bare::Bare;
use crate::instructions;
use crate::lane::{Lane, Outcome};
use crate::locks::{of_bare, of_larder};
use crate::machine::{self, Ticks};
use crate::miss::main_thread;
use crate::rounds::Flavour;
use crate::statistics::quartiles;
use crate::table::{Table, spread};

/// The argument of the hidden subcommand `spin` that acquires and releases locks.
pub(crate) const SPIN: &str = "locks";
const NAMES: [&str; 2] = ["bare", "larder"];
const COUNTED: u64 = 1_000;
/// Pairs between two readings of the server's processor time.
const PAIRS: u64 = 1_600;

pub(crate) fn run(rounds: usize, instructions: bool) -> Outcome<String> {
    eprintln!("locks: counting");
    let began = Ticks::now();
    let server = Server::builder().tcp().start();
    let url = server.url();
    let counted = instructions && instructions::available();
    let (one, many) = (server_time(rounds, 1)?, server_time(rounds, 64)?);
    let mut table = Table::new(&[
        "one pair",
        "allocations",
        "bytes",
        "instructions",
        "server, 1 task, µs",
        "server, 64 tasks, µs",
    ]);
    // A row for each lock. The first run of the pairs fills buffers; only the second one is counted.
    for (place, name) in NAMES.iter().enumerate() {
        let taken = pairs(place, &url, COUNTED, |work| {
            work()?;
            allocations::start();
            let done = work();
            let taken = allocations::stop();
            done.map(|()| taken)
        })?;
        let executed = if counted {
            instructions::per_turn(&[SPIN, name, &url], COUNTED)?.to_string()
        } else {
            "–".to_owned()
        };
        let tenths = (taken.count * 10 + COUNTED / 2) / COUNTED;
        let of =
            |times: &[Vec<f64>; 2]| times.get(place).map_or(String::new(), |times| spread(quartiles(times)));
        table.row(&[
            name,
            &format!("{}.{}", tenths / 10, tenths % 10),
            &(taken.bytes / COUNTED).to_string(),
            &executed,
            &of(&one),
            &of(&many),
        ]);
    }
    Ok(table.finish() + &machine::note(began, &format!("{rounds} rounds of twice {PAIRS} pairs")))
}

/// What `spin locks` runs under valgrind.
pub(crate) fn spin(which: &str, url: &str, times: u64) -> Outcome<()> {
    let place = NAMES.iter().position(|name| *name == which).ok_or("no such lock")?;
    pairs(place, url, times, |work| work())
}

async fn lanes(url: &str, tasks: u64) -> Outcome<[Lane; 2]> {
    let (bare, larder) = (Bare::connect(url).await?, Larder::connect(url).await?);
    Ok([of_bare(&bare, tasks), of_larder(&larder, tasks)])
}

/// Calls `measured` around this many pairs, by one task on one thread.
fn pairs<T>(
    place: usize,
    url: &str,
    times: u64,
    measured: impl FnOnce(&mut dyn FnMut() -> Outcome<()>) -> Outcome<T>,
) -> Outcome<T> {
    let runtime = Flavour::CurrentThread.build()?;
    let lanes = runtime.block_on(lanes(url, 1))?;
    let lane = lanes.get(place).ok_or("no such lane")?;
    let mut work = || runtime.block_on(lane.run(times)).map(drop);
    measured(&mut work)
}

/// The processor time of the server's main thread for one pair on either side, round by round.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 operations")]
fn server_time(rounds: usize, tasks: u64) -> Outcome<[Vec<f64>; 2]> {
    let server = Server::builder().tcp().start();
    let runtime = Flavour::CurrentThread.build()?;
    let lanes = runtime.block_on(lanes(&server.url(), tasks))?;
    let spent = |lane: &Lane| {
        let before = main_thread(&server)?;
        runtime.block_on(lane.run(PAIRS / tasks))?;
        Outcome::Ok((main_thread(&server)? - before) / PAIRS as f64 * 1e6)
    };
    let [bare, larder] = &lanes;
    let mut times = [Vec::new(), Vec::new()];
    spent(bare)?;
    spent(larder)?;
    for _ in 0..rounds {
        let (first, second, third, fourth) = (spent(bare)?, spent(larder)?, spent(larder)?, spent(bare)?);
        times[0].push((first + fourth) / 2.0);
        times[1].push((second + third) / 2.0);
    }
    Ok(times)
}

//! The project's own commands. `cargo xtask --help` lists them.

mod bench;
mod ci;
mod faults;
mod mutants;
mod prose;
mod run;
mod server;
mod test;

use std::env;
use std::process::ExitCode;

use run::Failure;

const HELP: &str = "\
The project's own commands.

cargo xtask test [--server PATH] [ARGS…]
    Runs all tests on a real server: LARDER_TEST_SERVER or PATH if given, else valkey-server or redis-server on the
    PATH, else (as root, on Debian) it installs one. ARGS go to `cargo test`; with -p they choose the package. Without
    ARGS, larder-bench's tests and compose.yaml in Docker Compose are part of it.
        cargo xtask test
        cargo xtask test --server /opt/valkey/bin/valkey-server -p larder --test cache
        cargo xtask test -- lock

cargo xtask ci [--checks]
    Formatting, clippy, the oldest Rust, documentation, scripts, dependencies, and then the tests; --checks leaves the
    tests out. The oldest Rust and the dependencies (cargo-deny) are checked where they are installed.

cargo xtask prose
    Looks for words that the project does not use, and for comments and pages wider than 120 columns.

cargo xtask server [--tls | --cluster | --sentinel]
    Starts a server, prints its URL, and ends it on Ctrl-C.

cargo xtask servers DIR
    Puts Redis 6.0, Redis 8.0 and Valkey 8.1 into DIR/bin, for `cargo xtask test --server`: on Debian, as root.

cargo xtask faults [--minutes N] [--seed N] [--what WHAT] [--release]
    Everything that larder promises, in five processes under faults drawn from a seed, 10 minutes by default: stopped and
    killed processes and servers (which keep their data, or lose it), cut, half-open and slow links, lost and late answers
    and pushes, flushed scripts and data, clocks that are wrong. WHAT is cache, locks, limits, semaphores, jobs, elections,
    rw, or all (the default). Prints the seed, then after each round of 45 s what was done so far, and at the end tables of
    the operations, the faults, and what was judged and violated of each promise. With `locks` and `all`, and alone with
    `lock-run`, 100,000 attempts at a lock are dropped at any moment after that. `failover` is another run: 200 failovers
    under Sentinel that lose a lock, with quarantine, beside 56 without it, and how many of each made two valid guards.
        cargo xtask faults --minutes 20 --what all --release
        cargo xtask faults --minutes 4 --seed 6739601423967792150 --what locks

cargo xtask mutants [AREA|WORD…]
    Builds mistakes into a copy of larder and checks that the tests find each of them: those of an area
    (locks, semaphores, jobs, elections, rw_locks, several, cache, near, invalidation, connection, formats, limits),
    or those whose names have a WORD in them, or all.

cargo xtask bench [ARGS…]
    Runs larder-bench beside its rivals, in release mode.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<(), Failure> {
    let Some((command, rest)) = arguments.split_first() else {
        return Err(Failure::usage(HELP));
    };
    // Arguments after `--` are for the program that the command runs.
    let asks_help = rest.iter().take_while(|word| *word != "--").any(|word| word == "--help" || word == "-h");
    match command.as_str() {
        "--help" | "-h" | "help" => print_help(),
        "test" | "ci" | "faults" | "mutants" | "prose" | "server" | "servers" if asks_help => print_help(),
        "test" => test::run(rest),
        "ci" => ci::run(rest),
        "faults" => faults::run(rest),
        "mutants" => mutants::run(rest),
        "prose" => prose::run(),
        "server" => server::run(rest),
        "servers" => server::build(rest),
        "bench" => bench::run(rest),
        other => Err(Failure::usage(&format!("there is no `{other}`\n\n{HELP}"))),
    }
}

fn print_help() -> Result<(), Failure> {
    print!("{HELP}");
    Ok(())
}

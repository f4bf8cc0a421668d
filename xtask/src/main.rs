//! The project's own commands. `cargo xtask --help` lists them.

mod bench;
mod ci;
#[cfg(test)]
mod circles;
mod faults;
mod mutants;
mod packages;
#[cfg(test)]
mod pages;
mod programs;
mod prose;
#[cfg(test)]
mod rooms;
mod run;
mod server;
mod test;

use std::env;
use std::process::ExitCode;

use run::Failure;

const HELP: &str = "\
The project's own commands.

cargo xtask test [--server PATH] [ARGS…]
    Runs the tests on a real server: LARDER_TEST_SERVER or PATH if given, else valkey-server or redis-server on the
    PATH, else (as root, on Debian) it installs one. Long tests are left out and counted as ignored. ARGS go to
    `cargo test`; with -p they choose the package. Without ARGS, larder-bench's tests, compose.yaml in Docker Compose
    and the rules of ops/ in promtool are part of it.
        cargo xtask test
        cargo xtask test --server /opt/valkey/bin/valkey-server -p larder --test cache
        cargo xtask test -- lock

cargo xtask ci [--checks]
    Formatting, clippy, the oldest Rust, documentation, packages, scripts, dependencies, and then the tests; --checks
    leaves the tests out. The oldest Rust and the dependencies (cargo-deny) are checked where they are installed.

cargo xtask prose
    Looks for words that the project does not use, and for comments and pages wider than 120 columns.

cargo xtask server [--tls | --cluster | --sentinel]
    Starts a server, prints its URL, and ends it on Ctrl-C.

cargo xtask servers DIR [valkey-server-9.1]
    Puts Redis 6.0, Redis 8.0, Valkey 8.1 and 9.1 into DIR/bin, for `cargo xtask test --server`: on Debian, as root.
    With a name only that one, which needs python3 with pip.

cargo xtask faults [--what WHAT] [--on ON] [--minutes N] [--seed N] [--release]
    Everything that larder promises, in processes under faults drawn from a seed. `cargo xtask faults --help` lists what
    can be used, on which servers, and what a long run has to reach.

cargo xtask mutants [AREA|WORD…]
    Builds mistakes into a copy of larder and checks that the tests find each of them: those of an area
    (locks, semaphores, jobs, elections, rw_locks, several, cache, near, invalidation, connection, formats, limits),
    or those whose names have a WORD in them, or all.

cargo xtask bench [ARGS…]
    Runs larder-bench beside its rivals, in release mode.

cargo xtask bench cli [--keys N] [--write docs/performance.md]
    What `larder ls`, `larder get` and `larder ls CACHE --all` cost at N keys (1,000,000 by default).
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
        "faults" if asks_help => {
            print!("{}", faults::HELP);
            Ok(())
        }
        "test" | "ci" | "mutants" | "prose" | "server" | "servers" if asks_help => print_help(),
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

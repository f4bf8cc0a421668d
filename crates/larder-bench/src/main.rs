//! larder compared with its rivals: ratios with their spread, and exact counts.
//!
//! This program does not pass or fail: it measures, prints, and writes docs/performance.md. See `HELP` in options.rs.

mod allocations;
mod bare;
#[cfg(feature = "rivals")]
mod chart;
#[cfg(feature = "rivals")]
mod codec;
mod commands;
mod count;
mod driver;
mod figures;
mod floor;
#[cfg(feature = "rivals")]
mod formats;
mod instructions;
mod invalidation;
mod item;
mod lane;
mod limits;
mod load;
mod lock_cost;
#[cfg(feature = "rivals")]
mod lock_rivals;
mod locks;
mod machine;
mod many;
mod miss;
mod mixture;
mod near;
mod near_hits;
mod options;
mod ours;
mod page;
mod probe;
#[cfg(feature = "rivals")]
mod rivals;
mod rounds;
mod statistics;
mod table;
mod zipf;

use std::env;
#[cfg(feature = "rivals")]
use std::path::Path;
use std::process::ExitCode;

use count::Instructions;
use figures::Findings;
use lane::Outcome;
use machine::Ticks;
use options::{Options, Subcommand};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == "spin" => instructions::spin(rest),
        Some((first, rest)) if first == "herd" => herd(rest),
        Some((first, rest)) if first == "contend" => contend(rest),
        _ => Options::parse(&arguments).and_then(|options| measure(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Outcome<()> {
    let began = Ticks::now();
    let asked = |subcommand| options.subcommand.includes(subcommand);
    let mut findings = Findings::default();
    // Each part that was asked for adds its tables and bars.
    if asked(Subcommand::Driver) {
        findings.join(driver::run(options.pairs)?);
    }
    if asked(Subcommand::Control) {
        findings.join(driver::control(options.pairs)?);
    }
    if asked(Subcommand::Many) {
        findings.join(many::run(options.pairs)?);
    }
    if asked(Subcommand::Commands) {
        findings.join(commands::run()?);
    }
    if asked(Subcommand::Count) {
        let instructions = if options.instructions { Instructions::Count } else { Instructions::LeaveOut };
        findings.join(count::run(instructions)?);
    }
    if asked(Subcommand::Limits) {
        findings.join(limits::run(options.pairs)?);
    }
    if asked(Subcommand::Load) {
        findings.join(load::run()?);
    }
    if asked(Subcommand::Near) {
        findings.join(near::run(options.pairs, options.instructions)?);
    }
    if asked(Subcommand::NearMiss) {
        findings.join(miss::run(options.pairs, options.instructions)?);
    }
    if asked(Subcommand::Invalidation) {
        findings.join(invalidation::run(options.pairs)?);
    }
    if asked(Subcommand::Zipf) {
        findings.join(mixture::run(options.pairs)?);
    }
    if asked(Subcommand::Locks) {
        findings.join(locks::run(options.pairs, options.instructions)?);
    }
    if asked(Subcommand::LockRivals) {
        findings.join(lock_rivals(options)?);
    }
    if asked(Subcommand::Rivals) {
        findings.join(rivals(options)?);
    }
    if asked(Subcommand::NearRivals) {
        findings.join(near_rivals(options)?);
    }
    if asked(Subcommand::Codec) {
        findings.join(codec(options)?);
    }
    if options.subcommand == Subcommand::All {
        findings.add("machine", machine::describe(began, options.pairs)?);
    }
    // Print the bars, and write the page if one was named.
    let when = machine::utc();
    if !findings.bars.is_empty() {
        println!("\n{}", page::summary("", &findings.bars.iter().collect::<Vec<_>>(), &when));
    }
    match &options.write {
        Some(path) => page::write(path, &findings, &when),
        None => Ok(()),
    }
}

#[cfg(feature = "rivals")]
fn rivals(options: &Options) -> Outcome<Findings> {
    // The plots of docs/performance.md are in docs/performance/.
    let plots = options.write.as_deref().map(|page: &Path| page.with_extension(""));
    rivals::run(options.pairs, plots.as_deref())
}

#[cfg(feature = "rivals")]
fn near_rivals(options: &Options) -> Outcome<Findings> {
    rivals::near::run(options.pairs)
}

#[cfg(feature = "rivals")]
fn lock_rivals(options: &Options) -> Outcome<Findings> {
    lock_rivals::run(options.pairs)
}

#[cfg(feature = "rivals")]
fn codec(options: &Options) -> Outcome<Findings> {
    codec::run(options.pairs)
}

#[cfg(feature = "rivals")]
fn contend(arguments: &[String]) -> Outcome<()> {
    lock_rivals::contend(arguments)
}

#[cfg(feature = "rivals")]
fn herd(arguments: &[String]) -> Outcome<()> {
    rivals::near::herd(arguments)
}

#[cfg(not(feature = "rivals"))]
const NOT_BUILT: &str = "the rivals were not built in: --features rivals";

#[cfg(not(feature = "rivals"))]
fn rivals(_: &Options) -> Outcome<Findings> {
    Err(NOT_BUILT.into())
}

#[cfg(not(feature = "rivals"))]
fn near_rivals(_: &Options) -> Outcome<Findings> {
    Err(NOT_BUILT.into())
}

#[cfg(not(feature = "rivals"))]
fn lock_rivals(_: &Options) -> Outcome<Findings> {
    Err(NOT_BUILT.into())
}

#[cfg(not(feature = "rivals"))]
fn codec(_: &Options) -> Outcome<Findings> {
    Err(NOT_BUILT.into())
}

#[cfg(not(feature = "rivals"))]
fn contend(_: &[String]) -> Outcome<()> {
    Err(NOT_BUILT.into())
}

#[cfg(not(feature = "rivals"))]
fn herd(_: &[String]) -> Outcome<()> {
    Err(NOT_BUILT.into())
}

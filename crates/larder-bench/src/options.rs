//! The command line.

use std::path::PathBuf;

use crate::lane::Outcome;

pub(crate) const HELP: &str = "\
larder-bench SUBCOMMAND [OPTIONS]      larder beside its rivals, on servers that it starts itself

  driver        get and set beside the bare driver: 1, 64 and 256 tasks, on one thread and on two
  control       the bare driver beside itself: what the machine alone makes of a ratio
  many          get_many of 100 beside MGET
  commands      the commands that the server ran for each operation
  count         allocations, and with --instructions also instructions, for each operation
  load          get_or_load beside get: allocations, commands, round trips
  near          a near hit beside a bare quick_cache, and what it is made of
  near-miss     a tracked read beside a plain one, and what it costs the server
  invalidation  from a SET to the near copies that it drops, beside the bare push
  zipf          99 % near hits beside the server alone
  locks         a lock beside SET NX PX and a script, and how long it takes from one holder to the next
  lock-rivals   larder's locks beside rslock and a BLPOP token: uncontended, and 10 contenders in 2 processes (feature `rivals`)
  limits        what a decision of a rate limit costs the server and the client, beside scripts and rivals
  rivals        larder, cached, multi-tier-cache and rustis beside the bare driver (feature `rivals`)
  near-rivals   larder's near tier beside moka, amalgam-cache, rustis and multi-tier-cache (feature `rivals`)
  codec         larder's codec of replies beside the crate redis-protocol, in memory (feature `rivals`)
  all           all of these, with --instructions

  --pairs N        rounds a configuration; default 40, at least 20 to be worth anything
  --instructions   let `count`, `near` and `near-miss` count instructions too, under valgrind
  --write PAGE     put the figures into PAGE, between its <!-- figures:… --> markers, and plots into the folder beside
                   it that is named after it
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subcommand {
    Driver,
    Control,
    Many,
    Commands,
    Count,
    Limits,
    Load,
    Near,
    NearMiss,
    Invalidation,
    Zipf,
    Locks,
    LockRivals,
    Rivals,
    NearRivals,
    Codec,
    All,
}

impl Subcommand {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "driver" => Self::Driver,
            "control" => Self::Control,
            "many" => Self::Many,
            "commands" => Self::Commands,
            "count" => Self::Count,
            "limits" => Self::Limits,
            "load" => Self::Load,
            "near" => Self::Near,
            "near-miss" => Self::NearMiss,
            "invalidation" => Self::Invalidation,
            "zipf" => Self::Zipf,
            "locks" => Self::Locks,
            "lock-rivals" => Self::LockRivals,
            "rivals" => Self::Rivals,
            "near-rivals" => Self::NearRivals,
            "codec" => Self::Codec,
            "all" => Self::All,
            _ => return None,
        })
    }

    pub(crate) fn includes(self, other: Self) -> bool {
        self == other || self == Self::All
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) subcommand: Subcommand,
    pub(crate) pairs: usize,
    pub(crate) instructions: bool,
    pub(crate) write: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Outcome<Self> {
        let (name, mut rest) = match arguments {
            [name, rest @ ..] => (name, rest.iter()),
            [] => return Err(HELP.into()),
        };
        let subcommand = Subcommand::parse(name).ok_or(HELP)?;
        let mut options =
            Self { subcommand, pairs: 40, instructions: subcommand == Subcommand::All, write: None };
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{argument} wants a value"));
            match argument.as_str() {
                "--pairs" => options.pairs = value()?.parse()?,
                "--write" => options.write = Some(value()?.into()),
                "--instructions" => options.instructions = true,
                _ => return Err(format!("{argument}?\n\n{HELP}").into()),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_the_subcommand() -> Outcome<()> {
        let parse = |line: &str| Options::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let options = parse("count --pairs 20 --write a/b.md")?;
        let expected = Options {
            subcommand: Subcommand::Count,
            pairs: 20,
            instructions: false,
            write: Some("a/b.md".into()),
        };
        assert_eq!(options, expected);
        assert!(parse("all")?.instructions);
        assert!(parse("nothing").is_err() && parse("all --pairs").is_err() && parse("all --what").is_err());
        Ok(())
    }
}

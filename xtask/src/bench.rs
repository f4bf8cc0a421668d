//! `cargo xtask bench`: larder compared with its rivals, and what the command line costs.

use crate::run::{Failure, cargo, finish, root};

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    if let [first, rest @ ..] = arguments
        && first == "cli"
    {
        return command_line(rest);
    }
    let bench = ["run", "--release", "--locked", "-p", "larder-bench", "--features", "rivals", "--"];
    finish(cargo(&bench).args(arguments))
}

/// The bars of the command line are a test of it, because a test has the program and servers.
fn command_line(arguments: &[String]) -> Result<(), Failure> {
    let mut command = cargo(&["test", "--release", "--locked", "-p", "larder-cli", "--test", "bars"]);
    command.args(["--", "--ignored", "--nocapture", "the_bars_of_the_command_line"]);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| Failure::new(format!("{word} needs a value")))?;
        match word.as_str() {
            "--keys" => command.env("LARDER_BARS_KEYS", value),
            "--write" => command.env("LARDER_BARS_WRITE", root().join(value)),
            _ => return Err(Failure::new("cargo xtask bench cli [--keys N] [--write docs/performance.md]")),
        };
    }
    finish(&mut command)
}

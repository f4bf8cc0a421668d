//! `cargo xtask bench`: larder compared with its rivals.

use crate::run::{Failure, cargo, finish};

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let bench = ["run", "--release", "--locked", "-p", "larder-bench", "--features", "rivals", "--"];
    finish(cargo(&bench).args(arguments))
}

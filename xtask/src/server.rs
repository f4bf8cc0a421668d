//! `cargo xtask server`: a server to try things on; `cargo xtask servers`: the servers to test on.

use std::process::Command;

use crate::run::{Failure, cargo, finish, root};

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    if arguments.len() > 1
        || arguments.iter().any(|word| !["--tls", "--cluster", "--sentinel"].contains(&word.as_str()))
    {
        return Err(Failure::usage("usage: cargo xtask server [--tls | --cluster | --sentinel]"));
    }
    // A separate program of the testkit, so that building xtask does not build everything that servers need.
    let serve = ["run", "--quiet", "--locked", "-p", "larder-testkit", "--example", "serve", "--"];
    finish(cargo(&serve).args(arguments))
}

pub(crate) fn build(arguments: &[String]) -> Result<(), Failure> {
    if arguments.is_empty() || arguments.len() > 2 {
        return Err(Failure::usage("usage: cargo xtask servers DIR [valkey-server-9.1]"));
    }
    finish(Command::new(root().join("xtask/servers.sh")).args(arguments))
}

//! `cargo xtask ci`: every check that a change must pass.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages;
use crate::prose;
use crate::run::{Failure, cargo, finish, is_installed, root, step};
use crate::test;

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let tests = match arguments {
        [] => true,
        [flag] if flag == "--checks" => false,
        _ => return Err(Failure::usage("usage: cargo xtask ci [--checks]")),
    };
    step("format", || finish(&mut cargo(&["fmt", "--all", "--check"])))?;
    step("clippy", || {
        clippy(&["--workspace", "--exclude", "larder-bench", "--all-targets", "--all-features"])
    })?;
    // Without the rivals, so that running the checks does not build them. With the feature of the guides, so that both
    // steps check the same dependencies once.
    step("clippy, bench", || clippy(&["-p", "larder-bench", "--bins", "--tests", "--features", "guides"]))?;
    // The programs of docs/from that use other libraries. The same profile as the tests, without building them.
    step("guides", || {
        finish(&mut cargo(&["check", "--locked", "-p", "larder-bench", "--features", "guides", "--examples"]))
    })?;
    step("clippy, default features", || clippy(&["-p", "larder"]))?;
    step("clippy, no features", || clippy(&["-p", "larder", "--no-default-features"]))?;
    step("fuzz targets", fuzz_targets)?;
    step("oldest Rust", oldest_rust)?;
    step("documentation", documentation)?;
    step("prose", prose::run)?;
    step("packages", packages::run)?;
    step("scripts", scripts)?;
    step("dependencies", dependencies)?;
    if tests { step("tests", || test::run(&[])) } else { Ok(()) }
}

fn clippy(selection: &[&str]) -> Result<(), Failure> {
    finish(cargo(&["clippy", "--locked"]).args(selection).args(["--", "-D", "warnings"]))
}

/// Checks the fuzz targets, which are a workspace of their own, without libFuzzer.
fn fuzz_targets() -> Result<(), Failure> {
    const MANIFEST: [&str; 2] = ["--manifest-path", "crates/larder/fuzz/Cargo.toml"];
    finish(cargo(&["fmt", "--check"]).args(MANIFEST))?;
    let mut clippy = cargo(&["clippy", "--locked", "--no-default-features", "--target-dir", "target/fuzz"]);
    finish(clippy.args(MANIFEST).args(["--", "-D", "warnings"]))
}

/// Checks that larder builds with the Rust version that Cargo.toml promises, if rustup has it. In any case Clippy's
/// `incompatible_msrv` checks the use of the standard library.
fn oldest_rust() -> Result<(), Failure> {
    let version = env!("CARGO_PKG_RUST_VERSION");
    let mut cargo = Command::new("rustup");
    // The other cargo must not inherit the choices of the one that runs us.
    cargo.current_dir(root()).env_remove("RUSTC").env_remove("RUSTDOC").env_remove("RUSTUP_TOOLCHAIN");
    cargo.args(["run", version, "cargo"]);
    let asked = Command::new("rustup").args(["run", version, "cargo", "--version"]).output();
    if !asked.is_ok_and(|output| output.status.success()) {
        println!("left out, as Rust {version} is not installed: `rustup toolchain install {version}`");
        return Ok(());
    }
    finish(cargo.args([
        "check",
        "--locked",
        "-p",
        "larder",
        "--all-features",
        "--target-dir",
        "target/oldest",
    ]))
}

fn documentation() -> Result<(), Failure> {
    let mut doc = cargo(&[
        "doc",
        "--workspace",
        "--exclude",
        "larder-bench",
        "--no-deps",
        "--all-features",
        "--locked",
    ]);
    finish(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

fn scripts() -> Result<(), Failure> {
    let mut scripts = vec![];
    find_scripts(root(), &mut scripts).map_err(Failure::new)?;
    let ours = root().join(".ci/run");
    if ours.exists() {
        scripts.push(ours);
    }
    if scripts.is_empty() {
        return Ok(());
    }
    if !is_installed("shellcheck") {
        install_shellcheck()?;
    }
    finish(Command::new("shellcheck").args(scripts))
}

fn find_scripts(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !path.is_symlink() {
            if name != "target" && name != ".git" {
                find_scripts(&path, found)?;
            }
        } else if name.ends_with(".sh") {
            found.push(path);
        }
    }
    Ok(())
}

fn install_shellcheck() -> Result<(), Failure> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if !root || !is_installed("apt-get") {
        let line = "sudo apt-get update && sudo apt-get install -y --no-install-recommends shellcheck";
        return Err(Failure::new(format!("ShellCheck is missing; on Debian type `{line}`")));
    }
    println!("installing Debian's shellcheck");
    let apt_get = |arguments: &[&str]| {
        finish(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt_get(&["update", "-qq"])?;
    apt_get(&["install", "-y", "-qq", "--no-install-recommends", "shellcheck"])
}

fn dependencies() -> Result<(), Failure> {
    if !is_installed("cargo-deny") {
        println!("left out, as cargo-deny is not installed: `cargo install --locked cargo-deny`");
        return Ok(());
    }
    finish(&mut cargo(&["deny", "--all-features", "check"]))
}

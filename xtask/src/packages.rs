//! That the crates for publication can be packaged, with their licences and pages.

use std::fs;

use crate::run::{Failure, cargo, describe, finish, root};

/// The crates for publication, and files that each must contain in addition to [`EVERYWHERE`].
const CRATES: [(&str, &[&str]); 3] = [
    ("larder", &["docs/index.md", "src/guide/links.md"]),
    ("larder-macros", &[]),
    ("larder-testkit", &["src/server.rs"]),
];
const EVERYWHERE: [&str; 5] = ["Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "README.md", "src/lib.rs"];
/// The pages of the guide, all of which belong to larder.
const PAGES: &str = "docs";

pub(crate) fn run() -> Result<(), Failure> {
    for (name, files) in CRATES {
        let listed = list(name)?;
        let pages = if name == "larder" { pages()? } else { Vec::new() };
        let wanted = EVERYWHERE.iter().chain(files).map(|file| (*file).to_owned()).chain(pages);
        let missing: Vec<_> = wanted.filter(|file| !listed.contains(file)).collect();
        if !missing.is_empty() {
            return Err(Failure::new(format!("the package of {name} lacks {}", missing.join(", "))));
        }
    }
    // All in one command: cargo then takes the package of larder-macros that it has just made for larder's dependency,
    // as if that were in the registry.
    let names = CRATES.iter().flat_map(|(name, _)| ["-p", name]);
    finish(cargo(&["package", "--no-verify", "--allow-dirty", "--offline", "--quiet"]).args(names))
}

/// Returns the files of a package. `cargo package --list` reads and checks the manifest as a publication does.
fn list(name: &str) -> Result<Vec<String>, Failure> {
    let mut command = cargo(&["package", "--list", "--allow-dirty", "--locked", "-p", name]);
    let output = command.output().map_err(Failure::new)?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("`{}` failed: {why}", describe(&command))));
    }
    // Cargo prints the paths with the system's separator.
    let files = String::from_utf8_lossy(&output.stdout);
    Ok(files.lines().map(|file| file.replace('\\', "/")).collect())
}

fn pages() -> Result<Vec<String>, Failure> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(root().join(PAGES)).map_err(Failure::new)? {
        let name = entry.map_err(Failure::new)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            pages.push(format!("{PAGES}/{name}"));
        }
    }
    Ok(pages)
}

//! The examples as programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// As `cargo xtask test` builds them, so that nothing is built twice.
const BUILD: [&str; 8] = [
    "build",
    "--quiet",
    "--locked",
    "--workspace",
    "--exclude",
    "larder-bench",
    "--all-features",
    "--examples",
];

/// Builds the examples beside these tests, and returns their folder.
pub(crate) fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        // With what cargo says to this test about its package, everything that depends on these variables would be
        // built again: ring and all that uses it.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                build.env_remove(name);
            }
        }
        assert!(build.args(BUILD).status().unwrap().success(), "the examples do not build");
        let tests = std::env::current_exe().unwrap();
        tests.parent().unwrap().parent().unwrap().join("examples")
    })
}

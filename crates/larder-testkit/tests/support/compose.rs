//! Docker Compose, without an engine: it reads files and says what it understood.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

/// A command on one file. LARDER_TEST_COMPOSE is the program by itself; without it, it is docker's plugin.
pub(crate) fn command(words: &[&str], file: &Path) -> Command {
    let mut command = match env::var_os("LARDER_TEST_COMPOSE").filter(|program| !program.is_empty()) {
        Some(program) => Command::new(program),
        None => {
            let mut docker = Command::new("docker");
            docker.arg("compose");
            docker
        }
    };
    command.arg("-f").arg(file).args(words);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("REDIS_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

//! Asks before something is destroyed.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::args::Consent;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::escape;

/// What to do after the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Do it.
    Go,
    /// The person said no.
    No,
    /// Nothing was asked: only say what would be done.
    Dry,
}

/// Asks whether to do it, on a terminal. Without one, `--yes` is needed.
pub(crate) fn ask(consent: Consent, question: &str) -> Result<Answer, Failure> {
    if consent.dry_run {
        return Ok(Answer::Dry);
    }
    if consent.yes {
        return Ok(Answer::Go);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(Exit::USAGE, "this destroys something, and there is no terminal to ask on")
            .fix("give --yes to do it, or --dry-run to see what would be done"));
    }
    let mut err = io::stderr().lock();
    write!(err, "{} [y/N] ", escape::text(question))?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    let yes = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    Ok(if yes { Answer::Go } else { Answer::No })
}

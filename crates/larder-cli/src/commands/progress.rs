//! A progress bar on standard error, for commands that visit every key. Only a person at a terminal sees it.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::app::App;

/// A bar, or nothing.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(crate) fn start(app: &App) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let template = if app.out.colour() {
            " {bar:30.cyan} {percent:>3} %  {human_pos} of {human_len} keys visited"
        } else {
            " {bar:30} {percent:>3} %  {human_pos} of {human_len} keys visited"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    /// Shows how many keys were visited, of how many.
    pub(crate) fn show(&self, progress: Option<(u64, u64)>) {
        if let (Some(bar), Some((visited, total))) = (&self.0, progress) {
            bar.set_length(total);
            bar.set_position(visited);
        }
    }

    /// Runs something that prints while no bar is in its way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

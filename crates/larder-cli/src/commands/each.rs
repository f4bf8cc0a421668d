//! Commands that do the same to several keys.

use larder::admin::Admin;
use serde_json::Value;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Cell, Column, Table};

const COLUMNS: &[Column] = &[Column::text("KEY", "key"), Column::text("RESULT", "done")];

/// What was done to each key.
pub(crate) struct Done {
    verb: &'static str,
    keys: Vec<(String, bool)>,
}

impl Done {
    pub(crate) fn new(verb: &'static str) -> Self {
        Self { verb, keys: Vec::new() }
    }

    /// Adds a key, and whether there was anything to do.
    pub(crate) fn add(&mut self, key: &str, done: bool) {
        self.keys.push((key.to_owned(), done));
    }

    /// Prints the keys of a cache, and returns `NO` if nothing was done to any.
    pub(crate) fn print(&self, cache: &str, app: &App) -> Result<Exit, Failure> {
        let mut table = Table::new(COLUMNS, "keys");
        for (key, done) in &self.keys {
            let words = if *done { self.verb.to_owned() } else { format!("no such entry of {cache}") };
            table.row(vec![Cell::text(key), Cell::value(words, Value::Bool(*done))]);
        }
        app.out.table(&table)?;
        Ok(if self.keys.iter().any(|(_, done)| *done) { Exit::OK } else { Exit::NO })
    }
}

/// Prints what would be done to the keys.
pub(crate) async fn would(
    admin: &Admin,
    cache: &str,
    keys: &[String],
    verb: &'static str,
    app: &App,
) -> Result<Exit, Failure> {
    let mut done = Done::new(verb);
    for key in keys {
        done.add(key, admin.entry(cache, key).await?.is_some());
    }
    done.print(cache, app)
}

//! Commands that do the same to several keys of a cache.

use clap::Args;
use larder::admin::Admin;
use serde_json::Value;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Cell, Column, Table};

/// Keys of a cache, and whether to change them.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// The cache: `user`, or `user@2` for schema 2
    cache: String,
    /// The keys as they are stored
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

const COLUMNS: &[Column] = &[Column::text("KEY", "key"), Column::text("RESULT", "done")];

impl Keys {
    /// Does something to each key, which says whether there was anything to do, and prints that in these words. Returns
    /// `NO` if nothing was done to any.
    pub(crate) async fn each(
        &self,
        app: &App,
        (done, would): (&str, &str),
        act: impl AsyncFn(&Admin, &str, &str) -> larder::Result<bool>,
    ) -> Result<Exit, Failure> {
        app.may_write()?;
        let larder = app.open()?;
        let (admin, cache) = (larder.admin(), self.cache.as_str());
        let words = if self.dry_run { would } else { done };
        let mut any = false;
        let mut table = Table::new(COLUMNS, "keys");
        for key in &self.keys {
            let found = if self.dry_run {
                admin.entry(cache, key).await?.is_some()
            } else {
                act(&admin, cache, key).await?
            };
            any |= found;
            let result = if found { words.to_owned() } else { format!("no such entry of {cache}") };
            table.row(vec![Cell::text(key), Cell::value(result, Value::Bool(found))]);
        }
        app.out.table(&table)?;
        Ok(if any { Exit::OK } else { Exit::NO })
    }
}

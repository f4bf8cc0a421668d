//! What commands print: tables on a terminal, tab-separated lines in a pipe, JSON on request.

pub(crate) mod escape;
mod table;
pub(crate) mod units;

use std::env;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use crate::args::{Colour, Form};
use crate::failure::Failure;

pub(crate) use table::{Cell, Column, Table};

/// Where and how a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    form: Form,
    colour: bool,
    terminal: bool,
}

impl Output {
    /// Decides the form: as asked for, else a table on a terminal and tab-separated lines elsewhere.
    pub(crate) fn new(form: Option<Form>, colour: Colour) -> Self {
        let terminal = io::stdout().is_terminal();
        let form = form.unwrap_or(if terminal { Form::Table } else { Form::Tsv });
        // https://no-color.org: any value but an empty one.
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => terminal && !refused && !dumb,
        };
        Self { form, colour, terminal }
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Whether the output is JSON of either form.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.form, Form::Json | Form::Ndjson)
    }

    /// Whether to use colours.
    pub(crate) fn colour(&self) -> bool {
        self.colour
    }

    /// Whether a person sees the output.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints a table in the form that was asked for.
    pub(crate) fn table(&self, table: &Table) -> Result<(), Failure> {
        match self.form {
            Form::Table => self.text(&table.for_people(self.colour)),
            Form::Tsv => self.text(&table.as_tsv()),
            Form::Json => self.json(&table.as_json()),
            Form::Ndjson => {
                let lines: String = table.json_rows().iter().map(|row| format!("{row}\n")).collect();
                self.text(&escape::json(&lines))
            }
        }
    }

    /// Prints the rows of a table without the line of names: more of a table that was begun before.
    pub(crate) fn rows(&self, table: &Table) -> Result<(), Failure> {
        match self.form {
            Form::Tsv => self.text(&table.rows_as_tsv()),
            _ => self.table(table),
        }
    }

    /// Prints one thing: as JSON if that was asked for, else as the text given.
    pub(crate) fn one(&self, text: &str, json: &Value) -> Result<(), Failure> {
        if self.is_json() { self.json(json) } else { self.text(&format!("{text}\n")) }
    }

    /// Prints a JSON document: on several lines, or on one for `ndjson`.
    pub(crate) fn json(&self, json: &Value) -> Result<(), Failure> {
        let text = if self.form == Form::Ndjson { format!("{json}\n") } else { format!("{json:#}\n") };
        self.text(&escape::json(&text))
    }

    /// Prints text as it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        self.raw(text.as_bytes())
    }

    /// Prints bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }
}

/// Prints text for a person to standard error, as it is.
pub(crate) fn note(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Prints a line for a person to standard error. There is no other place to report that this failed.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "larder: {}", escape::text(text));
}

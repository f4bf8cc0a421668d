//! A table: for people, for pipes and as JSON.

use comfy_table::{Attribute, CellAlignment, ContentArrangement, presets};
use serde_json::Value;

use super::escape;

/// A column: its name for people, its name for programs, and how it is aligned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    field: &'static str,
    right: bool,
}

impl Column {
    /// A column of text.
    pub(crate) const fn text(title: &'static str, field: &'static str) -> Self {
        Self { title, field, right: false }
    }

    /// A column of numbers.
    pub(crate) const fn number(title: &'static str, field: &'static str) -> Self {
        Self { title, field, right: true }
    }
}

/// A cell: what people read, and what programs read.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    people: String,
    program: Value,
}

impl Cell {
    /// A cell that people and programs read alike.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { people: escape::text(&text).into_owned(), program: Value::String(text) }
    }

    /// A number that people read in another form.
    pub(crate) fn number(people: impl Into<String>, number: u64) -> Self {
        Self { people: people.into(), program: Value::from(number) }
    }

    /// Anything that people read in another form.
    pub(crate) fn value(people: impl AsRef<str>, program: Value) -> Self {
        Self { people: escape::text(people.as_ref()).into_owned(), program }
    }

    /// Nothing: an empty cell, and `null`.
    pub(crate) fn none() -> Self {
        Self { people: String::new(), program: Value::Null }
    }

    fn tsv(&self) -> String {
        match &self.program {
            Value::Null => String::new(),
            Value::String(text) => escape::text(text).into_owned(),
            Value::Array(items) => {
                let items: Vec<_> = items
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                    .collect();
                escape::text(&items.join(",")).into_owned()
            }
            other => other.to_string(),
        }
    }
}

/// Rows of the same columns, and a line about them all.
#[derive(Debug)]
pub(crate) struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<Cell>>,
    json: Vec<Value>,
    /// A remark under the table, for people only.
    note: Option<String>,
    /// More fields of the JSON document, beside the rows.
    rows_field: &'static str,
    fields: Vec<(&'static str, Value)>,
}

impl Table {
    /// A table without rows. In JSON the rows are an array; with [`field`](Self::field), an object with that array
    /// as `rows_field`.
    pub(crate) fn new(columns: &'static [Column], rows_field: &'static str) -> Self {
        Self { columns, rows: Vec::new(), json: Vec::new(), note: None, rows_field, fields: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        let fields = self.columns.iter().zip(&cells);
        let object = fields.map(|(column, cell)| (column.field.to_owned(), cell.program.clone())).collect();
        self.json.push(Value::Object(object));
        self.rows.push(cells);
    }

    /// Removes the rows, which were printed.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.json.clear();
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.note = Some(note.into());
    }

    pub(crate) fn field(&mut self, name: &'static str, value: Value) {
        self.fields.push((name, value));
    }

    pub(crate) fn json_rows(&self) -> &[Value] {
        &self.json
    }

    pub(crate) fn as_json(&self) -> Value {
        let rows = Value::Array(self.json.clone());
        if self.fields.is_empty() {
            return rows;
        }
        let mut object: serde_json::Map<_, _> =
            self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        object.insert(self.rows_field.to_owned(), rows);
        Value::Object(object)
    }

    pub(crate) fn as_tsv(&self) -> String {
        let names = self.columns.iter().map(|column| column.field).collect::<Vec<_>>().join("\t");
        format!("{names}\n{}", self.rows_as_tsv())
    }

    pub(crate) fn rows_as_tsv(&self) -> String {
        let mut out = String::new();
        for row in &self.rows {
            out.push_str(&row.iter().map(Cell::tsv).collect::<Vec<_>>().join("\t"));
            out.push('\n');
        }
        out
    }

    pub(crate) fn for_people(&self, colour: bool) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(self.columns.iter().map(|column| {
            let cell = comfy_table::Cell::new(column.title);
            if colour { cell.add_attribute(Attribute::Bold) } else { cell }
        }));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| cell.people.as_str()));
        }
        for (index, column) in self.columns.iter().enumerate() {
            if let (Some(out), true) = (table.column_mut(index), column.right) {
                out.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut out = String::new();
        for line in table.to_string().lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
        if let Some(note) = &self.note {
            out.push_str(&format!(" {note}\n"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[Column::text("KEY", "key"), Column::number("SIZE", "bytes")];

    fn table() -> Table {
        let mut table = Table::new(COLUMNS, "keys");
        table.row(vec![Cell::text("a\tb"), Cell::number("1.0 KiB", 1024)]);
        table.row(vec![Cell::text("c"), Cell::none()]);
        table
    }

    #[test]
    fn people_read_aligned_columns_and_programs_exact_values() {
        let table = table();
        assert_eq!(table.for_people(false), " KEY      SIZE\n a\\tb  1.0 KiB\n c\n");
        assert_eq!(table.as_tsv(), "key\tbytes\na\\tb\t1024\nc\t\n");
        assert_eq!(table.as_json().to_string(), r#"[{"bytes":1024,"key":"a\tb"},{"bytes":null,"key":"c"}]"#);
    }

    #[test]
    fn a_fact_about_all_rows_is_a_field_beside_them() {
        let mut table = table();
        table.field("sampled", Value::from(2));
        table.note("(all)");
        assert!(table.as_json().get("keys").is_some_and(Value::is_array));
        assert!(table.for_people(false).ends_with(" (all)\n"));
    }
}

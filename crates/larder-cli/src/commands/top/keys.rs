//! What the keys do, and what the user has chosen.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::data::{Cell, Data, Key, Pane};

/// What the user has chosen.
#[derive(Debug, Clone)]
pub(crate) struct Ui {
    pub(crate) pane: Pane,
    /// The column that each pane is sorted by, and whether the largest is first.
    sort: [(usize, bool); 4],
    selected: [usize; 4],
    pub(crate) filter: String,
    /// Whether keys go into the filter.
    pub(crate) editing: bool,
    pub(crate) help: bool,
    pub(crate) paused: bool,
    pub(crate) colour: bool,
}

/// Whether to go on after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Draw,
    Nothing,
    Quit,
}

/// How far a page goes.
const PAGE: usize = 10;

impl Ui {
    pub(crate) fn new(colour: bool) -> Self {
        Self {
            pane: Pane::Caches,
            // Caches by bytes, locks by waiters, limits by keys, processes by name.
            sort: [(2, true), (4, true), (1, true), (0, false)],
            selected: [0; 4],
            filter: String::new(),
            editing: false,
            help: false,
            paused: false,
            colour,
        }
    }

    /// The column that a pane is sorted by, and whether the largest is first.
    pub(crate) fn sorting(&self, pane: Pane) -> (usize, bool) {
        self.sort.get(pane.index()).copied().unwrap_or_default()
    }

    /// The row that is selected in a pane of so many rows.
    pub(crate) fn selected(&self, pane: Pane, rows: usize) -> Option<usize> {
        let selected = self.selected.get(pane.index()).copied().unwrap_or_default();
        rows.checked_sub(1).map(|last| selected.min(last))
    }

    /// The rows of a pane that pass the filter, sorted.
    pub(crate) fn rows<'a>(&self, data: &'a Data, pane: Pane) -> Vec<&'a Vec<Cell>> {
        let wanted = self.filter.to_lowercase();
        let passes = |row: &&Vec<Cell>| {
            wanted.is_empty() || row.iter().any(|cell| cell.text.to_lowercase().contains(&wanted))
        };
        let mut rows: Vec<&Vec<Cell>> = data.sheet(pane).rows.iter().filter(passes).collect();
        let (column, descending) = self.sorting(pane);
        let key = |row: &&Vec<Cell>| row.get(column).map(|cell| cell.key.clone());
        rows.sort_by(|a, b| {
            let order = compare(key(a).as_ref(), key(b).as_ref());
            if descending { order.reverse() } else { order }
        });
        rows
    }

    /// Handles a key.
    pub(crate) fn press(&mut self, event: KeyEvent, data: &Data) -> After {
        if event.kind == KeyEventKind::Release {
            return After::Nothing;
        }
        let control = event.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(event.code, KeyCode::Char('c' | 'd')) {
            return After::Quit;
        }
        if self.editing {
            return self.edit(event.code, control);
        }
        if self.help {
            // Any key closes the help; q does not end the program by mistake.
            self.help = false;
            return After::Draw;
        }
        let rows = self.rows(data, self.pane).len();
        match event.code {
            KeyCode::Char('q') => return After::Quit,
            KeyCode::Esc if self.filter.is_empty() => return After::Nothing,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = true,
            KeyCode::Char('/') => self.editing = true,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char(digit @ '1'..='4') => {
                let index = usize::try_from(digit.to_digit(10).unwrap_or(1)).unwrap_or(1) - 1;
                self.pane = Pane::ALL.get(index).copied().unwrap_or(Pane::Caches);
            }
            KeyCode::Tab | KeyCode::Right => self.step(1),
            KeyCode::BackTab | KeyCode::Left => self.step(Pane::ALL.len() - 1),
            KeyCode::Char('s') => {
                let columns = self.pane.columns().len();
                self.change_sort(|(column, _)| ((column + 1) % columns, true));
            }
            KeyCode::Char('S') => {
                let columns = self.pane.columns().len();
                self.change_sort(|(column, _)| ((column + columns - 1) % columns, true));
            }
            KeyCode::Char('r') => self.change_sort(|(column, descending)| (column, !descending)),
            KeyCode::Down | KeyCode::Char('j') => self.select(rows, |row| row + 1),
            KeyCode::Up | KeyCode::Char('k') => self.select(rows, |row| row.saturating_sub(1)),
            KeyCode::PageDown => self.select(rows, |row| row + PAGE),
            KeyCode::PageUp => self.select(rows, |row| row.saturating_sub(PAGE)),
            KeyCode::Home | KeyCode::Char('g') => self.select(rows, |_| 0),
            KeyCode::End | KeyCode::Char('G') => self.select(rows, |_| usize::MAX),
            _ => return After::Nothing,
        }
        After::Draw
    }

    fn edit(&mut self, code: KeyCode, control: bool) -> After {
        match code {
            KeyCode::Enter => self.editing = false,
            KeyCode::Esc => {
                self.editing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char('u') if control => self.filter.clear(),
            KeyCode::Char(_) if control => return After::Nothing,
            KeyCode::Char(c) => self.filter.push(c),
            _ => return After::Nothing,
        }
        After::Draw
    }

    fn step(&mut self, by: usize) {
        let next = (self.pane.index() + by) % Pane::ALL.len();
        self.pane = Pane::ALL.get(next).copied().unwrap_or(Pane::Caches);
    }

    fn change_sort(&mut self, change: impl FnOnce((usize, bool)) -> (usize, bool)) {
        if let Some(sort) = self.sort.get_mut(self.pane.index()) {
            *sort = change(*sort);
        }
    }

    fn select(&mut self, rows: usize, change: impl FnOnce(usize) -> usize) {
        let last = rows.saturating_sub(1);
        if let Some(selected) = self.selected.get_mut(self.pane.index()) {
            *selected = change((*selected).min(last)).min(last);
        }
    }
}

/// Numbers before text; what cannot be compared is equal.
fn compare(a: Option<&Key>, b: Option<&Key>) -> std::cmp::Ordering {
    match (a, b) {
        (Some(Key::Number(a)), Some(Key::Number(b))) => a.total_cmp(b),
        (a, b) => a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal),
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::{Sheet, Update};
    use super::*;

    fn press(ui: &mut Ui, data: &Data, keys: &str) -> After {
        let mut after = After::Nothing;
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\t' => KeyCode::Tab,
                c => KeyCode::Char(c),
            };
            after = ui.press(KeyEvent::new(code, KeyModifiers::NONE), data);
        }
        after
    }

    fn data() -> Data {
        let row = |name: &str, entries: f64, bytes: f64| {
            vec![Cell::text(name), Cell::number(entries.to_string(), entries), Cell::number("", bytes)]
        };
        let rows = vec![row("user", 10.0, 1.0), row("Page", 20.0, 3.0), row("order", 5.0, 2.0)];
        let mut data = Data::default();
        data.apply(Update::Rows(Pane::Caches, Sheet { rows, ..Sheet::default() }));
        data
    }

    fn names(ui: &Ui, data: &Data) -> Vec<String> {
        ui.rows(data, Pane::Caches).iter().map(|row| row[0].text.clone()).collect()
    }

    #[test]
    fn rows_are_sorted_by_the_chosen_column_in_either_direction() {
        let (mut ui, data) = (Ui::new(false), data());
        assert_eq!(names(&ui, &data), ["Page", "order", "user"]);
        press(&mut ui, &data, "r");
        assert_eq!(names(&ui, &data), ["user", "order", "Page"]);
        press(&mut ui, &data, "S");
        assert_eq!(names(&ui, &data), ["Page", "user", "order"], "by entries, the largest first");
        press(&mut ui, &data, "Sr");
        assert_eq!(names(&ui, &data), ["order", "Page", "user"], "names ignore case");
    }

    #[test]
    fn a_filter_is_typed_kept_and_cleared_and_q_in_it_is_a_letter() {
        let (mut ui, data) = (Ui::new(false), data());
        assert_eq!(press(&mut ui, &data, "/R"), After::Draw);
        assert_eq!(names(&ui, &data), ["order", "user"]);
        assert_eq!(press(&mut ui, &data, "q"), After::Draw);
        assert!(names(&ui, &data).is_empty());
        press(&mut ui, &data, "\n");
        assert_eq!((ui.editing, ui.filter.as_str()), (false, "Rq"));
        press(&mut ui, &data, "\x1b");
        assert_eq!(names(&ui, &data).len(), 3);
        assert_eq!(press(&mut ui, &data, "q"), After::Quit);
    }

    #[test]
    fn the_selection_stays_within_the_rows_and_panes_go_round() {
        let (mut ui, data) = (Ui::new(false), data());
        press(&mut ui, &data, "jjjjj");
        assert_eq!(ui.selected(Pane::Caches, 3), Some(2));
        assert_eq!(ui.selected(Pane::Caches, 1), Some(0), "after rows have gone");
        press(&mut ui, &data, "\t\t\t");
        assert_eq!(ui.pane, Pane::Processes);
        press(&mut ui, &data, "\t");
        assert_eq!(ui.pane, Pane::Caches);
        press(&mut ui, &data, "?");
        assert!(ui.help);
        assert_eq!(press(&mut ui, &data, "q"), After::Draw, "the first key closes the help");
    }
}

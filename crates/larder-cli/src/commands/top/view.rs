//! Draws the view: three lines about the server, a table (or all four, where there is room), and a line of keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Margin, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell as TableCell, Clear, Paragraph, Row, Table, TableState, Wrap};

use super::data::{Column, Data, Pane, Server};
use super::keys::Ui;
use super::rows::per_second;
use crate::output::units;

/// From this size on all four panes are shown.
const WIDE: (u16, u16) = (140, 30);
/// The room between two columns.
const SPACING: u16 = 2;
/// Below this size nothing fits.
const LEAST: (u16, u16) = (40, 8);

/// Colours, or their replacement by bold and reversed text.
#[derive(Debug, Clone, Copy)]
struct Theme(bool);

impl Theme {
    fn colour(self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new() }
    }

    fn title(self) -> Style {
        self.colour(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// Dim text in the terminal's own colour. The dark grey of many palettes cannot be read on their background, and
    /// the meaning of the keys is written so.
    fn faint(self) -> Style {
        if self.0 { Style::new().add_modifier(Modifier::DIM) } else { Style::new() }
    }

    fn header(self) -> Style {
        self.colour(Color::Cyan).add_modifier(if self.0 { Modifier::empty() } else { Modifier::UNDERLINED })
    }

    fn alert(self) -> Style {
        self.colour(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    fn problem(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame<'_>, data: &Data, ui: &Ui) {
    let area = frame.area();
    let theme = Theme(ui.colour);
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("needs {} × {} characters; q quits", LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let wide = area.width >= WIDE.0 && area.height >= WIDE.1;
    let head = head(data, ui, theme, area.width);
    let lines = u16::try_from(head.len()).unwrap_or(4);
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(lines), Constraint::Min(3), Constraint::Length(1)]).areas(area);
    frame.render_widget(Paragraph::new(head), top);
    if wide {
        let [left, right] =
            Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(middle);
        let halves = |area: Rect| -> [Rect; 2] {
            Layout::vertical([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(area)
        };
        let ([caches, limits], [locks, processes]) = (halves(left), halves(right));
        for (pane, area) in [
            (Pane::Caches, caches),
            (Pane::Locks, locks),
            (Pane::Limits, limits),
            (Pane::Processes, processes),
        ] {
            framed(frame, area, data, ui, theme, pane);
        }
    } else {
        let [tabs, area] = Layout::vertical([Constraint::Length(1), Constraint::Min(2)]).areas(middle);
        frame.render_widget(Paragraph::new(tab_line(data, ui, theme)), tabs);
        table(frame, area, data, ui, theme, ui.pane);
    }
    frame.render_widget(Paragraph::new(key_line(ui, theme, area.width)), bottom);
    if ui.help {
        help(frame, area, theme);
    }
}

fn head(data: &Data, ui: &Ui, theme: Theme, width: u16) -> Vec<Line<'static>> {
    let server = &data.caches;
    let clock = clock();
    let mut first = vec![Span::styled(" larder top", theme.title()), Span::raw(format!("  {}", data.title))];
    if !server.product.is_empty() {
        first.push(Span::styled(format!("  {}", facts(server)), theme.faint()));
    }
    let mut lines = vec![right_aligned(first, Span::raw(format!("{clock} ")), width)];
    let wide = width >= WIDE.0;
    lines.push(memory_line(server, theme, if wide { 24 } else { 6 }));
    lines.push(rate_line(data, theme, wide));
    if let Some(second) = &data.coordination {
        let mut line = vec![
            Span::styled(" locks and limits  ", theme.title()),
            Span::raw(format!("{}  ", second.name)),
            Span::styled(facts(second), theme.faint()),
        ];
        line.push(Span::raw(format!("  memory {}", units::size(second.used))));
        if let Some(rates) = second.rates {
            line.push(Span::raw(format!("  commands {}/s", per_second(rates.commands))));
        }
        lines.push(Line::from(line));
    }
    let mut status = Vec::new();
    if !ui.filter.is_empty() && !ui.editing {
        status.push(Span::styled(format!(" filter: {} ", ui.filter), theme.alert()));
    }
    if let Some((since, why)) = &data.away {
        // The number of the system's error follows its text, and would cut off more than it tells.
        let why = why.split_once(" (os error").map_or(why.as_str(), |(text, _)| text);
        let text = format!(" not reached for {}: {why}", seconds(since.elapsed()));
        let used: usize = status.iter().map(Span::width).sum();
        let left = width.saturating_sub(u16::try_from(used).unwrap_or(u16::MAX));
        status.push(Span::styled(cut(&text, left), theme.problem()));
    } else if ui.paused {
        status.push(Span::styled(" paused: space continues", theme.alert()));
    }
    lines.push(Line::from(status));
    lines
}

fn facts(server: &Server) -> String {
    let mut parts = vec![server.product.clone()];
    if !server.role.is_empty() {
        parts.push(server.role.clone());
    }
    if let Some(uptime) = server.uptime {
        parts.push(format!("up {}", seconds(uptime)));
    }
    parts.join(", ")
}

fn memory_line(server: &Server, theme: Theme, bar: usize) -> Line<'static> {
    let mut spans = vec![Span::styled(" memory ", theme.faint()), Span::raw(units::size(server.used))];
    if server.limit > 0 {
        let share = server.used as f64 / server.limit as f64;
        let style = if share > 0.9 { theme.alert() } else { theme.colour(Color::Green) };
        spans.push(Span::raw(format!(" of {} ", units::size(server.limit))));
        spans.push(Span::styled(meter(share, bar), style));
        spans.push(Span::raw(format!(" {:.0} %", share * 100.0)));
    }
    spans.push(Span::styled("  keys ", theme.faint()));
    spans.push(Span::raw(units::count(server.keys)));
    if let Some(clients) = server.clients {
        spans.push(Span::styled("  clients ", theme.faint()));
        spans.push(Span::raw(units::count(clients)));
    }
    // Last, as the least important: where it is narrow, it is cut off.
    if !server.policy.is_empty() {
        spans.push(Span::styled(format!("  {}", server.policy), theme.faint()));
    }
    Line::from(spans)
}

fn rate_line(data: &Data, theme: Theme, wide: bool) -> Line<'static> {
    let Some(rates) = data.caches.rates else {
        return Line::styled(" measuring …", theme.faint());
    };
    let label = |text: &'static str| Span::styled(text, theme.faint());
    let mut spans = vec![label(" commands "), Span::raw(format!("{}/s ", per_second(rates.commands)))];
    spans.push(Span::styled(sparkline(data, if wide { 60 } else { 16 }), theme.colour(Color::Green)));
    if let Some(hits) = rates.hits {
        spans.extend([label("  hits "), Span::raw(format!("{:.0} %", hits * 100.0))]);
    }
    let evicted = format!("{}/s", per_second(rates.evicted));
    let style = if rates.evicted > 0.0 { theme.alert() } else { Style::new() };
    spans.extend([label("  evicted "), Span::styled(evicted, style)]);
    spans.extend([label("  expired "), Span::raw(format!("{}/s", per_second(rates.expired)))]);
    if !wide {
        return Line::from(spans);
    }
    spans.extend([label("  in "), Span::raw(format!("{}/s", units::size(rates.bytes_in as u64)))]);
    spans.extend([label("  out "), Span::raw(format!("{}/s", units::size(rates.bytes_out as u64)))]);
    Line::from(spans)
}

/// A bar of full and light blocks.
fn meter(share: f64, width: usize) -> String {
    let full = ((share.clamp(0.0, 1.0) * width as f64).round() as usize).min(width);
    "█".repeat(full) + &"░".repeat(width - full)
}

/// The last rates, the largest as high as the line.
fn sparkline(data: &Data, width: usize) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = data.commands.iter().copied().fold(1.0_f64, f64::max);
    let skipped = data.commands.len().saturating_sub(width);
    let shown = data.commands.iter().skip(skipped);
    shown
        .map(|rate| {
            let level = (rate / highest * 7.0).round().max(0.0) as usize;
            LEVELS.get(level).copied().unwrap_or('█')
        })
        .collect()
}

fn tab_line(data: &Data, ui: &Ui, theme: Theme) -> Line<'static> {
    let mut spans = Vec::new();
    for pane in Pane::ALL {
        let label = format!(" {} {} {} ", pane.index() + 1, pane.name(), ui.rows(data, pane).len());
        let style =
            if pane == ui.pane { theme.selected().add_modifier(Modifier::BOLD) } else { Style::new() };
        spans.push(Span::styled(label, style));
        spans.push(Span::raw(" "));
    }
    let note = &data.sheet(ui.pane).note;
    spans.push(Span::styled(note.clone(), theme.faint()));
    Line::from(spans)
}

fn framed(frame: &mut Frame<'_>, area: Rect, data: &Data, ui: &Ui, theme: Theme, pane: Pane) {
    let active = pane == ui.pane;
    let sheet = data.sheet(pane);
    let title = format!(" {} {} {} ", pane.index() + 1, pane.name(), ui.rows(data, pane).len());
    let title = Line::styled(title, if active { theme.title() } else { Style::new() });
    let mut block = Block::bordered().title(title).border_style(if active {
        theme.colour(Color::Cyan)
    } else {
        theme.faint()
    });
    if !theme.0 && active {
        // Without colours a thick line shows which pane the keys are for.
        block = block.border_type(ratatui::widgets::BorderType::Thick);
    }
    if !sheet.note.is_empty() {
        block = block.title_bottom(Line::styled(format!(" {} ", sheet.note), theme.faint()).right_aligned());
    }
    let inner = block.inner(area);
    frame.render_widget(block, area);
    table(frame, inner, data, ui, theme, pane);
}

fn table(frame: &mut Frame<'_>, area: Rect, data: &Data, ui: &Ui, theme: Theme, pane: Pane) {
    let sheet = data.sheet(pane);
    let rows = ui.rows(data, pane);
    let mut area = area.inner(Margin::new(1, 0));
    // An error takes the first line. Rows that were read before it stay visible.
    if let Some(error) = &sheet.error {
        let [line, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
        frame.render_widget(Line::styled(cut(error, line.width), theme.problem()), line);
        area = rest;
    }
    if rows.is_empty() {
        let text = match (sheet.known, ui.filter.is_empty()) {
            (false, _) if sheet.error.is_some() => "",
            (false, _) => "reading …",
            (true, true) => pane.empty(),
            (true, false) => "nothing matches the filter",
        };
        frame.render_widget(Paragraph::new(format!("\n{text}")).style(theme.faint()), area);
        return;
    }
    let columns = fitting(pane.columns(), area.width);
    let (sorted, descending) = ui.sorting(pane);
    let header = columns.iter().map(|&(index, column)| {
        let arrow = match (index == sorted, descending) {
            (true, true) => "▼",
            (true, false) => "▲",
            (false, _) => "",
        };
        aligned(format!("{}{arrow}", column.title), column)
    });
    // The first column has the room that the others leave.
    let others: u16 = columns.iter().skip(1).map(|(_, column)| column.width + SPACING).sum();
    let widths: Vec<u16> = columns
        .iter()
        .enumerate()
        .map(|(place, (_, column))| if place == 0 { area.width.saturating_sub(others) } else { column.width })
        .collect();
    let body = rows.iter().map(|row| {
        Row::new(columns.iter().zip(&widths).map(|(&(index, column), &width)| {
            let Some(cell) = row.get(index) else { return TableCell::new("") };
            let shown = aligned(cut(&cell.text, width), column);
            if cell.alert { shown.style(theme.alert()) } else { shown }
        }))
    });
    // Only the pane that has the focus shows its selection.
    let mut state = TableState::new();
    if pane == ui.pane {
        state.select(ui.selected(pane, rows.len()));
    }
    let table = Table::new(body, widths.iter().map(|width| Constraint::Length(*width)))
        .header(Row::new(header).style(theme.header()))
        .column_spacing(SPACING)
        .row_highlight_style(theme.selected());
    frame.render_stateful_widget(table, area, &mut state);
}

fn aligned(text: String, column: &Column) -> TableCell<'static> {
    let line = Line::raw(text);
    TableCell::new(if column.right { line.right_aligned() } else { line })
}

/// The columns that fit: those of the highest rank leave first.
fn fitting(columns: &'static [Column], width: u16) -> Vec<(usize, &'static Column)> {
    let mut kept: Vec<(usize, &Column)> = columns.iter().enumerate().collect();
    // Two columns between two, and the arrow of the one that sorts.
    let needed = |kept: &[(usize, &Column)]| kept.iter().map(|(_, column)| column.width + 2).sum::<u16>();
    while kept.len() > 1 && needed(&kept) > width + 2 {
        let Some(place) = (0..kept.len()).max_by_key(|&place| kept.get(place).map(|(_, column)| column.rank))
        else {
            break;
        };
        kept.remove(place);
    }
    kept
}

fn key_line(ui: &Ui, theme: Theme, width: u16) -> Line<'static> {
    if ui.editing {
        return Line::from(vec![
            Span::styled(" filter: ", theme.title()),
            Span::raw(ui.filter.clone()),
            Span::styled("▏", theme.title()),
            Span::styled("  Enter keeps it, Esc clears it", theme.faint()),
        ]);
    }
    let mut keys = vec![
        ("Tab", "pane"),
        ("↑↓", "row"),
        ("s", "sort"),
        ("r", "reverse"),
        ("/", "filter"),
        ("space", "pause"),
        ("?", "help"),
        ("q", "quit"),
    ];
    // Where it is narrow, the help and the way out stay.
    let room = |keys: &[(&str, &str)]| {
        keys.iter().map(|(key, what)| key.chars().count() + what.len() + 3).sum::<usize>()
    };
    while room(&keys) > usize::from(width) && keys.len() > 2 {
        keys.remove(keys.len() - 3);
    }
    let spans = keys.into_iter().flat_map(|(key, what)| {
        [Span::styled(format!(" {key}"), theme.title()), Span::styled(format!(" {what} "), theme.faint())]
    });
    Line::from(spans.collect::<Vec<_>>())
}

const HELP: &[(&str, &str)] = &[
    ("1 2 3 4", "caches, locks, limits, processes"),
    ("Tab, ← →", "the next or the previous of them"),
    ("↑ ↓ j k", "select a row; PgUp, PgDn, Home, End"),
    ("s, S", "sort by the next or the previous column"),
    ("r", "reverse the order"),
    ("/", "filter all tables by a text; Esc clears it"),
    ("space", "stop and continue updates"),
    ("q, Ctrl-C", "quit"),
    ("", ""),
    ("~", "an estimate from a sample of the keys"),
    ("HELD 2/4", "permits in use, of a semaphore"),
    ("(limits)", "keys that are no entries of a cache"),
];

fn help(frame: &mut Frame<'_>, area: Rect, theme: Theme) {
    let height = u16::try_from(HELP.len() + 2).unwrap_or(12).min(area.height);
    let width = 62.min(area.width);
    let popup =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    let lines = HELP.iter().map(|(key, what)| {
        Line::from(vec![Span::styled(format!(" {key:<12}"), theme.title()), Span::raw(*what)])
    });
    let block = Block::bordered()
        .title(Line::styled(" Keys ", theme.title()))
        .title_bottom(Line::styled(" any key closes this ", theme.faint()).right_aligned());
    frame.render_widget(Clear, popup);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), popup);
}

/// A line with something at its right end, if there is room for both.
fn right_aligned(mut left: Vec<Span<'static>>, right: Span<'static>, width: u16) -> Line<'static> {
    let used: usize = left.iter().map(Span::width).sum();
    if let Some(gap) = usize::from(width).checked_sub(used + right.width() + 1) {
        left.push(Span::raw(" ".repeat(gap + 1)));
        left.push(right);
    }
    Line::from(left)
}

/// A text that is cut where the line ends.
fn cut(text: &str, width: u16) -> String {
    let width = usize::from(width);
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A time in whole seconds at least.
pub(super) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        "0s".to_owned()
    } else {
        units::time(Duration::from_secs(time.as_secs()))
    }
}

/// The time of day, by this machine's clock.
fn clock() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;

//! The view at both sizes, drawn by ratatui's test backend.

use std::time::Instant;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::commands::top::data::{Cell, Rates, Sheet, Update};

fn caches() -> Sheet {
    let row = |name: &str, entries: u64, bytes: u64, share: f64, ttl: u64, format: &str| {
        vec![
            Cell::text(name),
            Cell::number(format!("~{}", units::count(entries)), entries as f64),
            Cell::number(units::size(bytes), bytes as f64),
            Cell::number(format!("{:.0} %", share * 100.0), share),
            Cell::number(units::time(Duration::from_secs(ttl)), ttl as f64),
            Cell::number("0", 0.0),
            Cell::text(format),
        ]
    };
    Sheet {
        rows: vec![
            row("page@2", 390_000, 240 << 20, 0.35, 240, "msgpack+lz4"),
            row("user", 731_000, 412 << 20, 0.61, 2_460, "json"),
            row("(limits)", 83_000, 11 << 20, 0.04, 60, ""),
        ],
        note: "sample of 1,000 of 1,204,551 keys".to_owned(),
        ..Sheet::default()
    }
}

fn locks() -> Sheet {
    let row = |name: &str, kind: &str, holder: &str, remaining: u64, waiting: u64, held: &str| {
        vec![
            Cell::text(name),
            Cell::text(kind),
            Cell::text(holder),
            Cell::number(units::time(Duration::from_secs(remaining)), remaining as f64),
            Cell::number(waiting.to_string(), waiting as f64).alert_if(waiting > 0),
            Cell::number(held, 1.0),
            Cell::number("1764565623000123", 1.764_565_623_000_123e15),
        ]
    };
    Sheet {
        rows: vec![
            row("checkout", "lock", "web-3", 28, 0, "1"),
            row("exports", "semaphore", "worker-1 +1", 12, 7, "2/2"),
        ],
        ..Sheet::default()
    }
}

fn data() -> Data {
    let mut data = Data::new("shop @ redis://10.0.0.1".to_owned());
    for round in 0..30 {
        let caches = Server {
            name: "10.0.0.1:6379".to_owned(),
            product: "Valkey 8.1.4".to_owned(),
            role: "master".to_owned(),
            uptime: Some(Duration::from_secs(273_600)),
            used: 663 << 20,
            limit: 1 << 30,
            policy: "allkeys-lfu".to_owned(),
            clients: Some(31),
            keys: 1_204_551,
            rates: Some(Rates {
                commands: f64::from(10_000 + 400 * (round % 7)),
                hits: Some(0.971),
                evicted: 0.0,
                expired: 41.0,
                bytes_in: 1.2e6,
                bytes_out: 8.8e6,
            }),
        };
        data.apply(Update::Servers(Box::new(caches), None));
    }
    data.apply(Update::Rows(Pane::Caches, caches()));
    data.apply(Update::Rows(Pane::Locks, locks()));
    let limit = |name: &str, keys: u64, share: f64| {
        vec![
            Cell::text(name),
            Cell::number(units::count(keys), keys as f64),
            Cell::number(format!("{:.0} %", share * 100.0), share),
        ]
    };
    let rows = vec![limit("api", 82_000, 0.99), limit("login", 1_000, 0.01)];
    data.apply(Update::Rows(Pane::Limits, Sheet { rows, ..Sheet::default() }));
    data.apply(Update::Rows(Pane::Processes, Sheet::default()));
    data
}

fn drawn(data: &Data, ui: &Ui, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, data, ui)).unwrap();
    terminal
}

fn lines(terminal: &Terminal<TestBackend>) -> Vec<String> {
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width);
    let cells: Vec<&str> = buffer.content.iter().map(ratatui::buffer::Cell::symbol).collect();
    cells.chunks(width).map(|line| line.concat().trim_end().to_owned()).collect()
}

fn line_with<'a>(lines: &'a [String], text: &str) -> &'a str {
    lines.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text:?} in {lines:#?}"))
}

#[test]
fn at_80_by_24_there_is_one_table_with_tabs_above_and_keys_below() {
    let (data, ui) = (data(), Ui::new(false));
    let lines = lines(&drawn(&data, &ui, 80, 24));
    assert!(lines[0].starts_with(" larder top  shop @ redis://10.0.0.1"), "{lines:#?}");
    assert_eq!(lines[1], " memory 663 MiB of 1.0 GiB ████░░ 65 %  keys 1,204,551  clients 31  allkeys-lfu");
    line_with(&lines, "hits 97 %");
    let tabs = line_with(&lines, " 1 Caches 3 ");
    assert!(tabs.contains(" 2 Locks 2 ") && tabs.contains(" 4 Processes 0 "), "{tabs}");
    let header = line_with(&lines, "ENTRIES");
    assert!(header.contains("BYTES▼"), "{header}");
    let user = lines.iter().position(|line| line.contains("user ")).unwrap();
    let page = lines.iter().position(|line| line.contains("page@2")).unwrap();
    assert!(user < page, "the largest is first: {lines:#?}");
    assert!(lines[23].starts_with(" Tab pane  ↑↓ row  s sort"), "{lines:#?}");
    assert!(lines[23].ends_with("q quit"), "{lines:#?}");
}

#[test]
fn at_200_by_50_all_four_tables_are_there_with_all_their_columns() {
    let (data, ui) = (data(), Ui::new(false));
    let lines = lines(&drawn(&data, &ui, 200, 50));
    for text in ["1 Caches 3", "2 Locks 2", "3 Limits 2", "4 Processes 0", "NO EXPIRY", "FORMAT", "FENCE"] {
        line_with(&lines, text);
    }
    line_with(&lines, "no process announced itself");
    line_with(&lines, "sample of 1,000 of 1,204,551 keys");
    assert!(lines[0].ends_with("UTC"), "{}", lines[0]);
}

#[test]
fn a_title_and_the_arrow_of_its_order_fit_into_each_column() {
    for pane in Pane::ALL {
        for column in pane.columns() {
            assert!(usize::from(column.width) > column.title.len(), "{}", column.title);
        }
    }
}

#[test]
fn without_colour_nothing_is_coloured_and_the_selection_is_reversed() {
    let data = data();
    let coloured = |ui: &Ui| {
        let terminal = drawn(&data, ui, 80, 24);
        let buffer = terminal.backend().buffer().clone();
        let coloured = buffer.content.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        let reversed = buffer.content.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED));
        (coloured, reversed)
    };
    assert_eq!(coloured(&Ui::new(false)), (false, true));
    assert_eq!(coloured(&Ui::new(true)), (true, true));
}

/// Bright black is the background's own colour in some palettes.
#[test]
fn faint_text_is_dim_and_has_the_colour_of_the_terminal() {
    let terminal = drawn(&data(), &Ui::new(true), 200, 50);
    let buffer = terminal.backend().buffer();
    assert!(buffer.content.iter().all(|cell| cell.fg != Color::DarkGray));
    assert!(buffer.content.iter().any(|cell| cell.modifier.contains(Modifier::DIM)));
}

#[test]
fn an_outage_a_pause_a_filter_and_the_help_are_seen() {
    let (mut data, mut ui) = (data(), Ui::new(false));
    ui.paused = true;
    line_with(&lines(&drawn(&data, &ui, 80, 24)), "paused: space continues");
    data.away = Some((Instant::now(), "x".repeat(200)));
    assert_eq!(line_with(&lines(&drawn(&data, &ui, 80, 24)), "not reached").chars().last(), Some('…'));
    data.away = Some((
        Instant::now(),
        "cannot connect to 127.0.0.1:6379: Connection refused (os error 111)".to_owned(),
    ));
    let away = lines(&drawn(&data, &ui, 80, 24));
    line_with(&away, "0s: cannot connect to 127.0.0.1:6379: Connection refused");
    assert!(!away.iter().any(|line| line.contains("(os")), "{away:#?}");
    line_with(&away, "page@2");
    for key in ['/', 'u', 's', 'e', 'r'] {
        ui.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE), &data);
    }
    let filtered = lines(&drawn(&data, &ui, 80, 24));
    line_with(&filtered, " filter: user▏");
    assert!(!filtered.iter().any(|line| line.contains("page@2")), "{filtered:#?}");
    ui.press(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE), &data);
    line_with(&lines(&drawn(&data, &ui, 80, 24)), " filter: user  not reached for");
    ui.help = true;
    line_with(&lines(&drawn(&data, &ui, 80, 24)), "any key closes this");
    // Too small for anything, and no panic at any size.
    for (width, height) in [(1, 1), (39, 24), (80, 7), (40, 8), (140, 30), (141, 29), (500, 200)] {
        drawn(&data, &ui, width, height);
    }
    line_with(&lines(&drawn(&data, &ui, 39, 24)), "needs 40 × 8 characters; q quits");
}

#[test]
fn what_does_not_fit_is_marked_and_the_help_and_the_way_out_stay() {
    let mut data = data();
    let mut sheet = locks();
    sheet.rows[0][0] = Cell::text("a-name-that-is-longer-than-its-column");
    data.apply(Update::Rows(Pane::Locks, sheet));
    let mut ui = Ui::new(false);
    ui.pane = Pane::Locks;
    let narrow = lines(&drawn(&data, &ui, 60, 16));
    line_with(&narrow, "a-name-that-is-l…");
    line_with(&narrow, "? help  q quit");
}

//! The examples of docs/cli.md, run on a real server: each line after `$` is typed at a terminal, and what is printed
//! must be what the page shows, but for numbers and times. With LARDER_BLESS=1 the page gets what was printed.

use std::fs;
use std::time::Duration;

use larder::{Format, Larder};
use larder_testkit::Server;
use serde_json::{Value, json};

use crate::support::screen::Screen;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");

/// A command of the page and what it prints.
struct Example {
    command: String,
    shown: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_the_page_print_what_it_shows() {
    let server = Server::builder().tcp().start();
    // What the page's programs have stored, and hold, while its examples run.
    let _programs = Programs::start(&server.url()).await;
    let page = fs::read_to_string(PAGE).unwrap();
    let bless = std::env::var_os("LARDER_BLESS").is_some();
    let mut out = String::new();
    let mut wrong = Vec::new();
    for (index, part) in page.split("```console\n").enumerate() {
        if index == 0 {
            out.push_str(part);
            continue;
        }
        let (block, rest) = part.split_once("```\n").unwrap();
        out.push_str("```console\n");
        for example in examples(block) {
            let printed = print(&server.url(), &example);
            if masked(&printed) != masked(&example.shown) {
                wrong.push(format!("$ {}\n{printed}\n--- the page has\n{}", example.command, example.shown));
            }
            let kept = if masked(&printed) == masked(&example.shown) { example.shown } else { printed };
            let end = if kept.is_empty() { "" } else { "\n" };
            out.push_str(&format!("$ {}\n{kept}{end}", example.command));
        }
        out.push_str("```\n");
        out.push_str(rest);
    }
    if bless {
        fs::write(PAGE, out).unwrap();
    } else {
        assert!(wrong.is_empty(), "LARDER_BLESS=1 updates the page:\n{}", wrong.join("\n\n"));
    }
}

fn examples(block: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), examples.last_mut()) {
            (Some(command), _) => {
                examples.push(Example { command: command.to_owned(), shown: String::new() });
            }
            (None, Some(example)) => {
                if !example.shown.is_empty() {
                    example.shown.push('\n');
                }
                example.shown.push_str(line);
            }
            (None, None) => panic!("a block begins with `$`: {block}"),
        }
    }
    examples
}

/// Types the command at a terminal, and `y` if it asks.
fn print(url: &str, example: &Example) -> String {
    let mut screen = Screen::start(url, &example.command);
    if example.command.starts_with("larder tag invalidate") {
        screen.until("[y/N]");
        screen.type_in("y\n");
    }
    let (text, _) = screen.ended();
    let text = text.replace(url, "redis://127.0.0.1");
    // This machine's name, as locks and processes have it.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if host.trim().is_empty() { text } else { text.replace(host.trim(), "db-1") }
}

/// Replaces each word that contains a digit or is a unit by `#`, several by one, and runs of spaces by one space. Sorts
/// the lines, because a server lists its keys in any order.
fn masked(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let mut words: Vec<&str> = Vec::new();
        for word in line.split_whitespace() {
            let is_number =
                word.contains(|c: char| c.is_ascii_digit()) || matches!(word, "B" | "KiB" | "MiB");
            let word = if is_number { "#" } else { word };
            if word != "#" || words.last() != Some(&"#") {
                words.push(word);
            }
        }
        words.join(" ")
    };
    let mut lines: Vec<String> = text.lines().map(line).collect();
    lines.sort();
    lines
}

/// The programs whose data the page shows.
struct Programs {
    _held: Vec<Box<dyn std::any::Any + Send>>,
}

impl Programs {
    async fn start(url: &str) -> Self {
        let builder = Larder::builder().url(url).namespace("shop").presence("web-3");
        let larder = builder.connect().await.unwrap();
        let hour = Duration::from_secs(3600);
        let users = larder.cache::<Value>("user").ttl(hour).build().unwrap();
        users.set("123", &json!({ "name": "Ann", "team": 7 })).tag("team:7").await.unwrap();
        users.set("124", &json!({ "name": "Eve", "team": 8 })).tag("team:8").await.unwrap();
        users.set("127", &json!({ "name": "Kim", "team": 7 })).await.unwrap();
        larder.tag("team:8").invalidate().await.unwrap();
        let pages = larder.cache::<Value>("page").schema(2).ttl(Duration::from_secs(240));
        let pages = pages.format(Format::MessagePack).compress_above(100).build().unwrap();
        let text = json!({ "title": "News", "words": vec!["lorem"; 100] });
        pages.set(("b", 1), &text).await.unwrap();
        pages.set(("a", 1), &json!({ "title": "News", "lines": [1, 2] })).await.unwrap();
        let limiter = larder.rate_limiter("api", larder::Quota::per_minute(100)).unwrap();
        limiter.check("kim").await.unwrap();
        let checkout = larder.lock("checkout").ttl(Duration::from_secs(3600)).acquire().await.unwrap();
        let permit = larder.semaphore("pool", 4).acquire().await.unwrap();
        Self { _held: vec![Box::new(checkout), Box::new(permit), Box::new(larder)] }
    }
}

#[test]
fn numbers_and_times_are_not_compared_and_words_are() {
    assert_eq!(masked("user   ~3  1h 30m  json"), masked("user 731,000 41m json"));
    assert_ne!(masked("user 3 json"), masked("user 3 raw"));
    let found = examples("$ larder ls\n a\n b\n$ larder ps\n");
    assert_eq!((found.len(), found[0].shown.as_str(), found[1].shown.as_str()), (2, " a\n b", ""));
}

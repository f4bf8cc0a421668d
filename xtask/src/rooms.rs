//! That no room of larder imports an upper one: the order is that of "Rooms" in ARCHITECTURE.md.

#![allow(clippy::unwrap_used, reason = "a test of the sources")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::run::root;

/// The rooms, upper ones first. A room imports only rooms of later rows: those of one row do not import each other.
const ROOMS: &[&[&str]] = &[
    &["testing"],
    &["larder"],
    &["builder", "http", "admin"],
    &["cache", "lock", "limit"],
    &["value"],
    &["recency", "presence"],
    &["context"],
    &["caches", "tokens"],
    &["near"],
    &["invalidation"],
    &["background"],
    &["store"],
    // The rooms without opinions.
    &["url", "write", "credentials", "keyspace"],
    &["call", "endpoint", "key", "health", "clock"],
    &["telemetry", "envelope"],
    &["error", "stats", "name", "fence", "backoff", "random", "runtimes", "tasks", "sync"],
];

/// Files that are no room: the list of modules, the pages, and what the interleaving tests share.
const NO_ROOMS: &[&str] = &["lib", "guide", "metrics", "interleavings"];

/// What tests may import all the same: the file, the room, and the reason.
const TESTS_MAY: &[(&str, &str, &str)] = &[
    ("limit/acquire.rs", "testing", "the clock of a world passes the hours until a far turn"),
    ("limit/key_change.rs", "larder", WHOLE),
    ("limit/outage.rs", "larder", WHOLE),
    ("limit/programs/mod.rs", "larder", WHOLE),
    ("limit/request.rs", "larder", WHOLE),
    ("limit/skewed.rs", "larder", WHOLE),
    ("limit/turn.rs", "larder", WHOLE),
    ("limit/turn.rs", "testing", "the clock of a world decides when a turn is over"),
    ("limit/wait_queue.rs", "larder", WHOLE),
    ("store/equivalence.rs", "value", "the stores compare the headers of values as the caches write them"),
];
const WHOLE: &str = "limiters of several processes are made as a program makes them";

/// An import: the line, counted from 1, and the room.
type Import = (usize, String);

/// Returns the names after `crate::`, with their lines. `text` may hold groups over several lines.
fn imports(text: &str) -> Vec<Import> {
    let mut found = vec![];
    let code: Vec<&str> =
        text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect();
    let code = code.join("\n");
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                for (offset, part) in parts(group) {
                    found.push((line + group[..offset].matches('\n').count(), name(part)));
                }
            }
            None => found.push((line, name(rest))),
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// Splits the inside of a group, up to its closing brace, at the commas outside of inner groups.
fn parts(group: &str) -> Vec<(usize, &str)> {
    let (mut depth, mut start, mut parts) = (0, 0, vec![]);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push((start, &group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push((start, &group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    // The line of a part is that of its name.
    parts.into_iter().map(|(start, part)| (start + part.len() - part.trim_start().len(), part)).collect()
}

fn name(path: &str) -> String {
    path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Returns the rooms of the names that `lib.rs` shows at the root.
fn shown_at_the_root(lib: &str) -> BTreeMap<String, String> {
    let mut shown = BTreeMap::new();
    for statement in lib.split("pub use ").skip(1) {
        let (path, _) = statement.split_once(';').unwrap();
        let Some((room, names)) = path.split_once("::") else { continue };
        for name in names.split(|c: char| !c.is_alphanumeric()).filter(|name| !name.is_empty()) {
            shown.insert(name.to_owned(), room.to_owned());
        }
    }
    shown
}

fn row(rooms: &[&[&str]], room: &str) -> Option<usize> {
    rooms.iter().position(|row| row.contains(&room))
}

/// The room of a file below `src`.
fn room_of(file: &str) -> &str {
    file.split_once('/').map_or_else(|| file.trim_end_matches(".rs"), |(room, _)| room)
}

/// Returns the line where the tests of a file begin: 0 if its parent declares the file as tests.
fn tests_begin(sources: &BTreeMap<String, String>, file: &str) -> usize {
    let for_tests = |line: &str| line == "#[cfg(test)]" || line.starts_with("#[cfg(all(test,");
    let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
    if let Some((parent, module)) = module.rsplit_once('/') {
        let declaration = format!("mod {module};");
        let parents = [format!("{parent}/mod.rs"), format!("{parent}.rs")];
        for text in parents.iter().filter_map(|path| sources.get(path)) {
            if text
                .lines()
                .zip(text.lines().skip(1))
                .any(|(line, next)| for_tests(line) && next == declaration)
            {
                return 0;
            }
        }
    }
    sources[file].lines().position(for_tests).unwrap_or(usize::MAX)
}

fn read(folder: &Path, under: &str, sources: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{under}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            read(&path, &format!("{name}/"), sources);
        } else if name.ends_with(".rs") {
            sources.insert(name, fs::read_to_string(path).unwrap());
        }
    }
}

fn sources() -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    read(&root().join("crates/larder/src"), "", &mut sources);
    sources
}

/// Returns a line for each import of a room that is not below, and for each room that is in no row.
fn upward(rooms: &[&[&str]], may: &[(&str, &str, &str)], sources: &BTreeMap<String, String>) -> Vec<String> {
    let shown = shown_at_the_root(&sources["lib.rs"]);
    let mut wrong = vec![];
    for (file, text) in sources {
        let room = room_of(file);
        if NO_ROOMS.contains(&room) {
            continue;
        }
        let Some(own) = row(rooms, room) else {
            wrong.push(format!("{file}: the room {room} is in no row"));
            continue;
        };
        for (line, name) in imports(text) {
            let other = shown.get(&name).unwrap_or(&name);
            let allowed = || {
                may.iter().any(|(of, to, _)| of == file && to == other) && line >= tests_begin(sources, file)
            };
            if other != room && row(rooms, other).is_some_and(|row| row <= own) && !allowed() {
                wrong.push(format!("{file}:{line}: {room} imports {other}, which is not below it"));
            }
        }
    }
    wrong
}

#[test]
fn no_room_imports_an_upper_one() {
    let wrong = upward(ROOMS, TESTS_MAY, &sources());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_exception_is_used_and_has_a_reason() {
    let sources = sources();
    for (index, (file, room, reason)) in TESTS_MAY.iter().enumerate() {
        assert!(!reason.is_empty(), "{file}: {room}");
        let mut others = TESTS_MAY.to_vec();
        others.remove(index);
        let needed = upward(ROOMS, &others, &sources).iter().any(|line| line.starts_with(file));
        assert!(needed, "{file} does not import {room} any more");
    }
}

#[test]
fn the_rooms_stand_in_architecture_in_this_order() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, text) = text.split_once("\n## Rooms\n").unwrap();
    let (diagram, rest) = text.split_once("A room imports only").unwrap();
    let (base, _) = rest.split_once("\n\n").unwrap();
    let (mut above, mut wrong) = ((0, 0), vec![]);
    for (number, row) in ROOMS.iter().enumerate() {
        for room in *row {
            let at = [format!("{room}/"), format!("{room}.rs")].iter().find_map(|name| {
                diagram.find(&format!(" {name}")).map(|at| diagram[..at].matches('\n').count())
            });
            match at {
                _ if base.contains(&format!("`{room}`")) => {}
                // `testing` is no part of what a program runs.
                None if *room == "testing" => {}
                None => wrong.push(format!("{room} is missing")),
                Some(at) if at < above.0 && number > above.1 => {
                    wrong.push(format!("{room} is drawn above a room that may not be imported by it"));
                }
                Some(at) => above = (at.max(above.0), number),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upward_import_is_found_with_its_file_and_line() {
        let sources = [
            ("lib.rs", "pub use top::{One, Two};\npub use base::Three;\n"),
            ("top.rs", "use crate::base::Three;\n"),
            (
                "base/mod.rs",
                "//! See crate::top.\nuse crate::{\n    Three,\n    side::{a, b},\n    Two,\n};\n",
            ),
            (
                "base/deep.rs",
                "fn f() {\n    crate::top::f()\n}\n#[cfg(test)]\nmod tests { use crate::One; }\n",
            ),
            ("side.rs", "use crate::base;\n"),
            ("new.rs", ""),
        ];
        let sources = sources.map(|(file, text)| (file.to_owned(), text.to_owned())).into();
        let rooms: &[&[&str]] = &[&["top"], &["base", "side"]];
        let may = [("base/deep.rs", "top", "its tests make one")];
        let expected = [
            "base/deep.rs:2: base imports top, which is not below it",
            "base/mod.rs:4: base imports side, which is not below it",
            "base/mod.rs:5: base imports top, which is not below it",
            "new.rs: the room new is in no row",
            "side.rs:1: side imports base, which is not below it",
        ];
        assert_eq!(upward(rooms, &may, &sources), expected);
    }
}

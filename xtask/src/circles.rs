//! That the files of a folder of larder do not import each other in a circle.
//!
//! In each folder, a file and a folder below it are one node each. The folder's own `mod.rs` is a node too, unless
//! [`SPREAD`] names the folder. An import counts for the file that has the item, not for the file that re-exports it;
//! a name that a `mod.rs` only re-exports is no import of its own. Tests are left out. The top folder is no folder of
//! this check: which rooms may import which is another one.

#![allow(clippy::unwrap_used, reason = "a test of the sources")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::run::root;

/// The folders whose `mod.rs` has a type whose methods are spread over the folder's files: it has fields of their
/// types, and they have its methods. There the `mod.rs` is left out.
const SPREAD: [(&str, &str); 6] = [
    ("limit", "RateLimiter"),
    ("store", "AnyStore"),
    ("store/memory", "MemoryStore"),
    ("store/memory/limits", "MemoryLimits"),
    ("store/redis", "RedisStore"),
    ("store/redis/supervisor", "Supervisor"),
];

type Module = Vec<String>;

/// What one file names.
#[derive(Default)]
struct File {
    /// Names from `use`, with their paths from the crate's root; for re-exports as well.
    names: BTreeMap<String, Module>,
    /// The paths that its items use.
    uses: BTreeSet<Module>,
}

type Files = BTreeMap<Module, File>;

/// A file's text without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let whole = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = whole.collect::<Vec<_>>().join("\n");
    let tests = ["#[cfg(test)]\nmod ", "#[cfg(all(test, feature = \"redis\"))]\nmod "];
    let is_block = |at: &usize| {
        let rest = code.get(*at..).unwrap_or_default();
        rest.find('{').is_some_and(|block| rest.find(';').is_none_or(|end| block < end))
    };
    let starts = tests.iter().flat_map(|start| code.match_indices(start).map(|(at, _)| at));
    let end = starts.filter(is_block).min().unwrap_or(code.len());
    code.get(..end).unwrap_or_default().to_owned()
}

/// The modules that a file declares for tests only.
fn test_modules(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test"] {
        for (at, _) in code.match_indices(attribute) {
            let rest = code.get(at..).unwrap_or_default().lines().nth(1).unwrap_or_default();
            if let Some((_, name)) = rest.trim_end_matches(';').split_once("mod ") {
                found.insert(name.trim().to_owned());
            }
        }
    }
    found
}

/// The paths of a `use`, each with the name that it gives.
fn paths(tree: &str) -> Vec<(String, Module)> {
    let tree = tree.trim();
    if let Some((start, inside)) = tree.split_once('{') {
        let prefix: Module =
            start.split("::").map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect();
        let inside = inside.trim_end().strip_suffix('}').unwrap_or(inside);
        let (mut depth, mut parts) = (0, vec![String::new()]);
        for c in inside.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            match (c, parts.last_mut()) {
                (',', _) if depth == 0 => parts.push(String::new()),
                (c, Some(part)) => part.push(c),
                _ => {}
            }
        }
        let below = parts.iter().filter(|part| !part.trim().is_empty()).flat_map(|part| paths(part));
        return below
            .map(|(name, path)| match path.as_slice() {
                [own] if own == "self" => (prefix.last().cloned().unwrap_or_default(), prefix.clone()),
                _ => (name, [prefix.clone(), path].concat()),
            })
            .collect();
    }
    let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
    let path: Module = path.split("::").map(|part| part.trim().to_owned()).collect();
    let name =
        if name.is_empty() { path.last().cloned().unwrap_or_default() } else { name.trim().to_owned() };
    vec![(name, path)]
}

/// A path from the crate's root; `None` for one of another crate.
fn absolute(module: &[String], path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let first = path.first()?;
    let child = [module, std::slice::from_ref(first)].concat();
    let (mut base, mut rest) = match first.as_str() {
        "crate" => (vec![], path.get(1..)?),
        "self" => (module.to_vec(), path.get(1..)?),
        "super" => (module.to_vec(), path),
        _ if modules.contains(&child) => (module.to_vec(), path),
        _ => return None,
    };
    while let Some((first, more)) = rest.split_first().filter(|(first, _)| *first == "super") {
        debug_assert_eq!(first, "super");
        base.pop();
        rest = more;
    }
    Some([base, rest.to_vec()].concat())
}

/// The words of some code, each with what is before it and after it.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The paths in code, as lists of words: `a::b` is one, and so is `a`.
fn words(code: &str) -> Vec<Module> {
    let separated: String = code.chars().map(|c| if is_word(c) || c == ':' { c } else { ' ' }).collect();
    let tokens = separated.split_whitespace();
    tokens
        .map(|token| token.split("::").map(|part| part.trim_matches(':').to_owned()).collect::<Module>())
        .filter(|path| path.iter().all(|part| !part.is_empty()))
        .collect()
}

fn read(module: &[String], code: &str, modules: &BTreeSet<Module>) -> File {
    let mut file = File::default();
    let mut body = String::new();
    for statement in code.split_inclusive(';') {
        let start = statement.rfind("use ").filter(|at| {
            let before = statement.get(..*at).unwrap_or_default();
            let line = before.rsplit('\n').next().unwrap_or_default().trim();
            line.is_empty() || line.starts_with("pub")
        });
        let Some(at) = start else {
            body.push_str(statement);
            continue;
        };
        let (before, tree) = statement.split_at(at);
        body.push_str(before.rsplit_once('\n').map_or("", |(whole, _)| whole));
        let exported = before.rsplit('\n').next().unwrap_or_default().trim().starts_with("pub");
        let tree = tree.trim_start_matches("use ").trim_end_matches(';');
        for (name, path) in paths(tree) {
            if let Some(path) = absolute(module, &path, modules) {
                if !exported {
                    file.uses.insert(path.clone());
                }
                file.names.insert(name, path);
            }
        }
    }
    // `pub(in crate::limit)` imports nothing.
    let mut rest = String::new();
    for (place, part) in body.split("pub(in ").enumerate() {
        rest.push_str(if place == 0 { part } else { part.split_once(')').map_or("", |(_, after)| after) });
    }
    for path in words(&rest) {
        let Some(first) = path.first() else { continue };
        if let Some(whole) = file.names.get(first) {
            file.uses.insert([whole.as_slice(), path.get(1..).unwrap_or_default()].concat());
        } else if path.len() > 1
            && let Some(whole) = absolute(module, &path, modules)
        {
            file.uses.insert(whole);
        }
    }
    file
}

/// All files below a folder, by their modules.
fn sources(folder: &Path, module: &Module, found: &mut BTreeMap<Module, String>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            sources(&path, &[module.as_slice(), &[name]].concat(), found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let own = if name == "mod" || name == "lib" { vec![] } else { vec![name] };
            found.insert([module.as_slice(), &own].concat(), code(&fs::read_to_string(&path).unwrap()));
        }
    }
}

fn files(mut sources: BTreeMap<Module, String>) -> Files {
    let of_tests: Vec<Module> = sources
        .iter()
        .flat_map(|(module, code)| {
            test_modules(code).into_iter().map(|name| [module.as_slice(), &[name]].concat())
        })
        .collect();
    sources.retain(|module, _| !of_tests.iter().any(|test| module.starts_with(test)));
    let modules: BTreeSet<Module> = sources.keys().cloned().collect();
    sources.iter().map(|(module, code)| (module.clone(), read(module, code, &modules))).collect()
}

/// Returns the file that has what a path names, through re-exports.
fn owner(files: &Files, path: &[String], depth: u8) -> Option<Module> {
    let longest =
        (0..=path.len()).rev().find_map(|end| path.get(..end).filter(|start| files.contains_key(*start)));
    let (module, rest) = path.split_at(longest?.len());
    let file = files.get(module)?;
    match rest.split_first().and_then(|(name, more)| Some((file.names.get(name)?, more))) {
        Some((path, more)) if depth < 8 => owner(files, &[path.as_slice(), more].concat(), depth + 1),
        _ => Some(module.to_vec()),
    }
}

/// The circles in one folder, each as the lines `a imports b`.
fn circles(files: &Files, folder: &[String], with_mod: bool) -> Vec<String> {
    let node = |module: &[String]| -> Option<String> {
        let below = module.strip_prefix(folder)?;
        match below.first() {
            Some(first) => Some(first.clone()),
            None => with_mod.then(|| "mod".to_owned()),
        }
    };
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, file) in files {
        let Some(from) = node(module) else { continue };
        let to = file.uses.iter().filter_map(|path| node(&owner(files, path, 0)?));
        arrows.entry(from.clone()).or_default().extend(to.filter(|to| *to != from));
    }
    // A node that nothing of the rest imports, or that imports nothing of the rest, is in no circle.
    loop {
        let imported: BTreeSet<String> = arrows.values().flatten().cloned().collect();
        let importing: BTreeSet<String> = arrows.keys().cloned().collect();
        let before = arrows.values().map(BTreeSet::len).sum::<usize>() + arrows.len();
        arrows.retain(|from, to| imported.contains(from) && !to.is_empty());
        arrows.values_mut().for_each(|to| to.retain(|to| importing.contains(to)));
        if arrows.values().map(BTreeSet::len).sum::<usize>() + arrows.len() == before {
            break;
        }
    }
    let name = folder.join("/");
    arrows
        .iter()
        .flat_map(|(from, to)| to.iter().map(move |to| (from, to)))
        .map(|(from, to)| format!("{name}/{from} imports {name}/{to}"))
        .collect()
}

fn library() -> Files {
    let mut found = BTreeMap::new();
    sources(&root().join("crates/larder/src"), &vec![], &mut found);
    files(found)
}

#[test]
fn no_files_of_one_folder_import_each_other_in_a_circle() {
    let files = library();
    let folders: BTreeSet<Module> = files
        .keys()
        .filter(|module| module.len() > 1)
        .flat_map(|module| (1..module.len()).map(|end| module.iter().take(end).cloned().collect()))
        .collect();
    assert!(folders.len() > 10 && files.len() > 150, "{} folders, {} files", folders.len(), files.len());
    let mut found = vec![];
    for folder in &folders {
        let spread = SPREAD.iter().any(|(spread, _)| *spread == folder.join("/"));
        found.extend(circles(&files, folder, !spread));
        let with_mod = circles(&files, folder, true);
        assert!(!spread || !with_mod.is_empty(), "{folder:?} needs no exception: take it out of SPREAD");
    }
    assert!(found.is_empty(), "these imports are parts of circles, or lie between two of them: {found:#?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[(&str, &str)], with_mod: bool) -> Vec<String> {
        let module = |path: &str| path.split('/').filter(|part| *part != "mod").map(str::to_owned).collect();
        let sources = texts.iter().map(|(path, text)| (module(path), code(text))).collect();
        circles(&files(sources), &["a".to_owned()], with_mod)
    }

    #[test]
    fn a_circle_is_found_through_re_exports_folders_and_paths_in_code() {
        let circle = [
            ("a/mod", "mod one;\nmod two;\nmod three;\npub use three::Three;\n"),
            ("a/one", "use super::two::{self, Two};\nfn one(_: Two) {}"),
            ("a/two/mod", "mod inner;\npub(super) use inner::Two;"),
            ("a/two/inner", "use super::super::Three;\npub struct Two(Three);"),
            ("a/three", "pub struct Three;\nfn three() { super::one::one() }\n"),
        ];
        let arrows = ["a/one imports a/two", "a/three imports a/one", "a/two imports a/three"];
        assert_eq!(found(&circle, true), arrows);
        let mut cured = circle;
        cured[4].1 = "// super::one::one()\npub struct Three;\n#[cfg(test)]\nmod tests {\n use super::super::one::one;\n}";
        assert!(found(&cured, true).is_empty());
    }

    #[test]
    fn a_mod_file_is_in_a_circle_only_if_it_uses_what_it_declares() {
        let text = "mod one;\npub use one::One;\npub(crate) struct Shared;\n";
        let one = ("a/one", "use super::Shared;\npub(in crate::a) struct One(Shared);");
        assert!(found(&[("a/mod", text), one], true).is_empty());
        let uses = format!("{text}struct Handle(One);");
        assert_eq!(found(&[("a/mod", &uses), one], true), ["a/mod imports a/one", "a/one imports a/mod"]);
        assert!(found(&[("a/mod", &uses), one], false).is_empty());
    }
}

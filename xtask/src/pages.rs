//! That the links in the documentation lead somewhere: on disk, and in `larder::guide`.

#![allow(clippy::unwrap_used, reason = "a test of the pages")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::run::root;

/// The references to pages, defined with the modules of the guide.
const LINKS: &str = "crates/larder/src/guide/links.md";

/// A document without its code.
struct Page {
    path: PathBuf,
    lines: Vec<String>,
}

impl Page {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let mut fenced = false;
        let mut lines = vec![];
        for line in text.lines() {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            let prose = if fenced || fence { String::new() } else { without_code(line) };
            lines.push(prose);
        }
        Self { path, lines }
    }

    fn anchors(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(root().join(&self.path)).unwrap();
        let fences = text.lines().scan(false, |fenced, line| {
            *fenced ^= line.trim_start().starts_with("```");
            Some((*fenced, line))
        });
        let headings = fences.filter(|(fenced, line)| !fenced && line.starts_with('#'));
        headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
    }

    /// The targets of `[text](target)`.
    fn inline(&self) -> Vec<String> {
        let mut targets = vec![];
        for line in &self.lines {
            targets
                .extend(line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
        }
        targets
    }

    /// The targets by reference, of `[reference]: target`.
    fn defined(&self) -> BTreeMap<String, String> {
        let definitions = self.lines.iter().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
        definitions.map(|(reference, target)| (reference.to_owned(), target.trim().to_owned())).collect()
    }

    /// The references to pages that are used, by `[text][reference]` or `[reference]`.
    fn used(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        for line in self.lines.iter().filter(|line| !line.contains("]: ")) {
            let inside = line.split('[').skip(1).filter_map(|rest| Some(rest.split_once(']')?.0));
            used.extend(inside.filter(|inside| is_page(inside)).map(str::to_owned));
        }
        used
    }
}

fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// What GitHub and rustdoc make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn is_page(target: &str) -> bool {
    let file = target.split('#').next().unwrap_or_default();
    let name = file.strip_prefix("from/").unwrap_or(file);
    name.ends_with(".md") && !name.contains([' ', '/'])
}

/// The folders whose pages are modules of the guide.
const FOLDERS: [&str; 2] = ["docs", "docs/from"];

fn guide() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in FOLDERS {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        paths.extend(entries.map(|entry| Path::new(folder).join(entry.unwrap().file_name())));
    }
    paths.sort();
    paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "md")).map(Page::read).collect()
}

/// A page's path below docs/, as references to it say.
fn below_docs(path: &Path) -> String {
    tidy(path).strip_prefix("docs").unwrap().to_str().unwrap().to_owned()
}

fn all() -> Vec<Page> {
    let mut pages = guide();
    pages.extend(
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"]
            .map(|name| Page::read(name.into())),
    );
    pages
}

/// `docs/../README.md` as `README.md`.
fn tidy(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut tidied, part| {
        match part {
            Component::ParentDir => {
                tidied.pop();
            }
            part => tidied.push(part),
        }
        tidied
    })
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let mut broken = vec![];
    for page in all() {
        for target in page.inline().into_iter().chain(page.defined().into_values()) {
            if target.starts_with("https://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let path = match file {
                "" => page.path.clone(),
                file => tidy(&page.path.with_file_name("").join(file)),
            };
            let there = root().join(&path).exists();
            if !there || !heading.is_empty() && !Page::read(path).anchors().contains(heading) {
                broken.push(format!("{}: {target}", page.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
}

#[test]
fn no_address_of_a_repository_or_a_release_that_does_not_exist_yet_is_given() {
    for page in all() {
        for line in &page.lines {
            let invented = ["github.com/larder", "docs.rs/larder", "crates.io/crates/larder"];
            assert!(
                !invented.iter().any(|address| line.contains(address)),
                "{}: {line}",
                page.path.display()
            );
        }
    }
}

#[test]
fn pages_of_the_guide_refer_to_each_other_so_that_rustdoc_can_follow() {
    let (mut wrong, mut references) = (vec![], BTreeSet::new());
    for page in guide() {
        let name = page.path.display();
        for target in
            page.inline().iter().filter(|target| !target.starts_with(['#']) && !target.starts_with("https:"))
        {
            if Path::new(target).extension().is_none_or(|end| end != "svg") {
                wrong.push(format!("{name}: write [text][{target}] and, at the end, [{target}]: {target}"));
            }
        }
        let defined = page.defined();
        for (reference, target) in &defined {
            if *reference != below_docs(&page.path.with_file_name("").join(target)) || !is_page(reference) {
                wrong.push(format!("{name}: [{reference}] is not a page's name, with or without a heading"));
            }
        }
        let used = page.used();
        for reference in used.iter().filter(|reference| !defined.contains_key(*reference)) {
            wrong.push(format!("{name}: [{reference}] is not defined at the end"));
        }
        for reference in defined.keys().filter(|reference| !used.contains(*reference)) {
            wrong.push(format!("{name}: [{reference}] is not used"));
        }
        references.extend(defined.into_keys());
    }
    let links = Page::read(LINKS.into()).defined();
    for reference in &references {
        let (file, heading) = reference.split_once(".md").unwrap_or((reference, ""));
        let module = format!("crate::guide::{}{heading}", file.replace('-', "_").replace('/', "::"));
        if links.get(reference) != Some(&module) {
            wrong.push(format!("{LINKS}: [{reference}]: {module} is missing"));
        }
    }
    wrong.extend(
        links
            .keys()
            .filter(|link| !references.contains(*link))
            .map(|link| format!("{LINKS}: [{link}] is not used")),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_page_is_a_module_of_the_guide_and_in_its_index() {
    let modules = fs::read_to_string(root().join("crates/larder/src/guide.rs")).unwrap();
    let index = fs::read_to_string(root().join("docs/index.md")).unwrap();
    for page in guide() {
        let name = below_docs(&page.path);
        assert!(modules.contains(&format!("include_str!(\"../docs/{name}\")")), "{name} is not in guide.rs");
        assert!(name == "index.md" || index.contains(&format!("[{name}]")), "{name} is not in index.md");
    }
}

/// Where the programs are that the guides in docs/from start from.
const BEFORE: &str = "crates/larder-bench/examples/from";

#[test]
fn what_a_guide_starts_from_is_a_program_that_is_compiled_or_one_of_another_language() {
    let (mut wrong, mut programs) = (vec![], BTreeSet::new());
    for page in guide().iter().filter(|page| page.path.starts_with("docs/from")) {
        let text = fs::read_to_string(root().join(&page.path)).unwrap();
        let name = page.path.display();
        let blocks: Vec<(&str, &str)> = text
            .split("\n```")
            .skip(1)
            .step_by(2)
            .filter_map(|block| block.split_once('\n'))
            .filter(|(language, _)| !["rust", "toml", "sh"].contains(language))
            .collect();
        match blocks.as_slice() {
            [("rust,ignore", before)] => {
                let program = page.path.with_extension("rs");
                let program = Path::new(BEFORE).join(program.file_name().unwrap());
                let compiled = fs::read_to_string(root().join(&program)).unwrap_or_default();
                if !compiled.contains(before) {
                    wrong.push(format!("{name}: {} has not its text", program.display()));
                }
                programs.insert(root().join(program));
            }
            [("csharp" | "java", _)] if text.contains("no test compiles it") => {}
            other => wrong.push(format!("{name}: the program before larder is missing among {other:?}")),
        }
    }
    let there: BTreeSet<PathBuf> =
        fs::read_dir(root().join(BEFORE)).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(there, programs);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Splits text at the commas that stand outside braces.
fn parts(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, vec![]);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// `a/{b,c}` as `a/b` and `a/c`.
fn expanded(text: &str) -> Vec<String> {
    match text.strip_suffix('}').and_then(|text| text.split_once('{')) {
        Some((before, inside)) => parts(inside).iter().map(|part| format!("{before}{part}")).collect(),
        None => vec![text.to_owned()],
    }
}

/// The files of a list in Markdown: `` `limit/{check,mod}`, *link* ``.
fn listed(list: &str) -> Vec<String> {
    let list = list
        .trim()
        .trim_end_matches('.')
        .replace("*link*", "`store/redis/{network,node,link}`")
        .replace('\n', " ");
    parts(&list).iter().flat_map(|part| expanded(part.trim().trim_matches('`'))).collect()
}

/// Where a file of a call path is.
fn source(file: &str) -> PathBuf {
    let sources = root().join("crates/larder/src");
    match file.strip_suffix(".lua") {
        Some(_) => sources.join("store/redis").join(file),
        None => sources.join(format!("{file}.rs")),
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    text.split_once(start).unwrap().1.split_once(end).unwrap().0
}

#[test]
fn the_call_paths_name_as_many_files_as_they_say_and_all_of_them_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let text = between(&text, "<!-- call paths -->", "<!-- /call paths -->");
    let left_out = listed(between(text, "<!-- left out -->", "<!-- /left out -->"));
    let (mut totals, mut wrong) = (vec![], vec![]);
    for paragraph in text.split("\n\n") {
        // "18 files. On the way: `limit/{check,mod}`, …, *link*, … . Leaves: …, `limit/decision`."
        let paragraph = paragraph.trim().replace('\n', " ");
        let Some((count, lists)) = paragraph.split_once(" files") else { continue };
        let Ok(count) = count.parse::<usize>() else { continue };
        let (on_the_way, leaves) =
            lists.split_once("On the way: ").unwrap().1.split_once("Leaves: ").unwrap();
        let on_the_way = listed(on_the_way);
        totals.push((count, on_the_way.len()));
        let files = [on_the_way, listed(leaves)].concat();
        let all: BTreeSet<&String> = files.iter().collect();
        if files.len() != count || all.len() != count {
            wrong.push(format!("{} files ({} different), not {count}: {files:?}", files.len(), all.len()));
        }
        wrong.extend(
            left_out.iter().filter(|file| all.contains(file)).map(|file| format!("{file} is left out")),
        );
        wrong.extend(
            files.iter().filter(|file| !source(file).exists()).map(|file| format!("{file} is missing")),
        );
    }
    wrong.extend(
        left_out.iter().filter(|file| !source(file).exists()).map(|file| format!("{file} is missing")),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    let [_, load, acquire, check]: [(usize, usize); 4] = totals.try_into().unwrap();
    let said = format!(
        "it is {}, {} and {}, of which {}, {} and {} are on the way",
        load.0, acquire.0, check.0, load.1, acquire.1, check.1
    );
    assert!(text.replace('\n', " ").contains(&said), "the section does not say: {said}");
}

//! Every link in the Markdown of the repository leads somewhere, and every path that it names is there.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use wirefall_tests::documents::{Document, documents, files};

/// The parts of a line between `open` and `close`.
fn between<'a>(line: &'a str, open: &str, close: char) -> Vec<&'a str> {
    let parts = line.split(open).skip(1);
    parts
        .filter_map(|part| part.split_once(close).map(|(inside, _)| inside))
        .collect()
}

/// What is written as code in a line.
fn codes(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The name under which a heading can be linked to, as code forges make it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(document: &Document) -> HashSet<String> {
    let headings = document
        .prose
        .iter()
        .filter(|(_, line)| line.starts_with('#'));
    headings
        .map(|(_, line)| anchor(line.trim_start_matches('#')))
        .collect()
}

/// `path` seen from `folder`, without `..`; `None` where that leads out of the repository.
fn resolve(folder: &Path, path: &str) -> Option<PathBuf> {
    let mut resolved = folder.to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => resolved.pop().then_some(())?,
            Component::Normal(name) => resolved.push(name),
            _ => {}
        }
    }
    Some(resolved)
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    let files: HashSet<PathBuf> = files().into_iter().collect();
    let anchors: HashMap<&Path, HashSet<String>> = documents
        .iter()
        .map(|document| (document.path.as_path(), anchors(document)))
        .collect();
    let mut wrong = Vec::new();
    let mut followed = 0;
    for document in &documents {
        let folder = document.path.parent().expect("a file is in a folder");
        for (number, line) in &document.prose {
            for link in between(line, "](", ')') {
                if link.contains("://") {
                    continue;
                }
                followed += 1;
                let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = match path {
                    "" => Some(document.path.clone()),
                    path => resolve(folder, path),
                };
                let leads = target.is_some_and(|target| {
                    files.contains(&target)
                        && (anchor.is_empty()
                            || anchors
                                .get(target.as_path())
                                .is_some_and(|all| all.contains(anchor)))
                });
                if !leads {
                    wrong.push(format!("{}:{number}: {link}", document.path.display()));
                }
            }
        }
    }
    assert!(followed > 5, "README.md has links");
    assert!(
        wrong.is_empty(),
        "these lead nowhere:\n{}",
        wrong.join("\n")
    );
}

/// What ends so is a file, as far as the documents speak of the repository.
const SOURCES: [&str; 6] = [".rs", ".md", ".wit", ".yaml", ".toml", ".py"];

/// Names that stand for whatever a user has.
const PLACEHOLDERS: [&str; 4] = ["NAME", "FILE", "PATH", "target/"];

/// What starts so is a media type, and no path.
const MEDIA_TYPES: [&str; 2] = ["application/", "text/"];

fn is_path(code: &str) -> bool {
    code.starts_with(|first: char| first.is_ascii_alphanumeric())
        && code
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
        && (code.contains('/') || SOURCES.iter().any(|end| code.ends_with(end)))
        && !PLACEHOLDERS
            .iter()
            .chain(&MEDIA_TYPES)
            .any(|start| code.starts_with(start))
        && !is_network(code)
}

/// As `10.0.0.0/8`.
fn is_network(code: &str) -> bool {
    let address = code.split('/').next();
    address.is_some_and(|address| address.parse::<IpAddr>().is_ok())
}

/// A path may be named by its last parts, as one says it, and a module without `.rs`.
#[test]
fn every_path_that_is_named_is_there() {
    let mut known = HashSet::new();
    for file in files() {
        for path in [file.with_extension(""), file] {
            let parts: Vec<_> = path.iter().collect();
            known.extend((0..parts.len()).map(|from| parts[from..].iter().collect::<PathBuf>()));
        }
    }
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in documents() {
        for (number, line) in &document.prose {
            for code in codes(line).filter(|code| is_path(code)) {
                seen += 1;
                if !known.contains(Path::new(code.trim_end_matches('/'))) {
                    wrong.push(format!("{}:{number}: `{code}`", document.path.display()));
                }
            }
        }
    }
    assert!(seen > 20, "ARCHITECTURE.md names files");
    assert!(
        wrong.is_empty(),
        "these are not there:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn headings_are_linked_to_as_forges_do() {
    for (heading, expected) in [
        (" source `file`", "source-file"),
        (
            " What \"delivered\" means, and why",
            "what-delivered-means-and-why",
        ),
        (" `wirefall.v1`", "wirefallv1"),
    ] {
        assert_eq!(anchor(heading), expected);
    }
}

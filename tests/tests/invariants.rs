//! ARCHITECTURE.md says of each invariant which files enforce it: each of them cites it by its number, what
//! it says of them is in them, and the name of a test begins with the number.

use std::path::{Path, PathBuf};

use wirefall_tests::documents::{documents, files};
use wirefall_tests::workspace::root;

/// An invariant of the list.
struct Invariant {
    /// `I1`.
    name: String,
    /// What is written as code behind *Enforced:*.
    enforced: Vec<String>,
}

/// The invariants that are built.
fn invariants() -> Vec<Invariant> {
    let documents = documents();
    let architecture = documents
        .iter()
        .find(|document| document.path == Path::new("ARCHITECTURE.md"))
        .expect("ARCHITECTURE.md");
    let mut items: Vec<String> = Vec::new();
    for (_, line) in &architecture.prose {
        match items.last_mut() {
            _ if line.starts_with("- **I") => items.push(line.clone()),
            Some(item) if line.starts_with("  ") => *item += line,
            _ => {}
        }
    }
    let built = items
        .iter()
        .filter(|item| !item.contains("*Not built yet:*"));
    let invariant = |item: &String| {
        let name = item.split("**").nth(1).expect("a name").to_owned();
        let enforced = item.split_once("*Enforced:*");
        let (_, enforced) = enforced.unwrap_or_else(|| panic!("{name} says nowhere where"));
        let codes = enforced.split('`').skip(1).step_by(2);
        let enforced = codes.map(str::to_owned).collect();
        Invariant { name, enforced }
    };
    built.map(invariant).collect()
}

/// Sources by their path, and their text.
fn sources() -> Vec<(PathBuf, String)> {
    let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path)).expect("a source");
        (path, text)
    };
    files().into_iter().filter(is_source).map(read).collect()
}

/// Whether a text has a word, and not as a part of another.
fn has_word(text: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word)
    })
}

#[test]
fn every_invariant_is_cited_in_each_file_that_enforces_it() {
    let sources = sources();
    let mut cited = 0;
    for Invariant { name, enforced } in invariants() {
        // What is in parentheses behind a file is in that file.
        let mut last: Vec<&(PathBuf, String)> = Vec::new();
        for code in &enforced {
            if !code.contains('/') && !code.ends_with(".rs") {
                let known = last.iter().any(|(_, text)| has_word(text, code));
                assert!(known, "{name}: `{code}` is not in the file before it");
                continue;
            }
            let place = Path::new("runtime/src");
            last = sources
                .iter()
                .filter(|(path, _)| match code.strip_suffix('/') {
                    Some(folder) => path.starts_with(place.join(folder)),
                    None => path.starts_with(place) && path.ends_with(code),
                })
                .collect();
            let is_one = last.len() == 1 || (code.ends_with('/') && !last.is_empty());
            assert!(is_one, "{name}: `{code}` means {} files", last.len());
            let cites = last.iter().any(|(_, text)| has_word(text, &name));
            assert!(cites, "{code} does not say that it enforces {name}");
            cited += 1;
        }
    }
    assert!(cited > 20, "ARCHITECTURE.md names files");
}

#[test]
fn every_invariant_is_tested_by_its_name() {
    let sources = sources();
    let invariants = invariants();
    assert!(invariants.len() > 5, "ARCHITECTURE.md has invariants");
    for Invariant { name, .. } in invariants {
        let test = format!("fn {}_", name.to_lowercase());
        let tested = sources.iter().any(|(_, text)| text.contains(&test));
        assert!(tested, "no test is named {}_", name.to_lowercase());
    }
}

//! Every dependency that a manifest of the repository names has a line in `docs/adr`: what for, why this
//! one, what it costs.

use std::collections::BTreeSet;

use wirefall_tests::documents::{documents, files};
use wirefall_tests::workspace::root;

/// The external dependencies of all manifests.
fn dependencies() -> BTreeSet<String> {
    let manifests = files()
        .into_iter()
        .filter(|path| path.ends_with("Cargo.toml"));
    let mut names = BTreeSet::new();
    for manifest in manifests {
        let text = std::fs::read_to_string(root().join(manifest)).expect("a manifest");
        let mut lists = false;
        for line in text.lines() {
            if line.starts_with('[') {
                lists = line.trim_end().ends_with("dependencies]");
            } else if lists && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
                let end = line.find(['.', '=', ' ']).unwrap_or(line.len());
                names.insert(line[..end].to_owned());
            }
        }
    }
    names.retain(|name| !name.starts_with("wirefall"));
    names
}

#[test]
fn every_dependency_has_a_line_in_a_decision() {
    let decisions: Vec<String> = documents()
        .into_iter()
        .filter(|document| document.path.starts_with("docs/adr"))
        .flat_map(|document| document.prose)
        .map(|(_, line)| line)
        .collect();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let words: BTreeSet<&str> = decisions
        .iter()
        .flat_map(|line| line.split(|c| !is_name(c)))
        .collect();
    let dependencies = dependencies();
    assert!(dependencies.len() > 40, "the manifests were found");
    let missing: Vec<_> = dependencies
        .iter()
        .filter(|name| !words.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "no decision tells of {missing:?}");
}

//! Every pipeline and JSON value in the Markdown of the repository is checked or run; its commands are in
//! `commands.rs`.
//!
//! A ```` ```yaml ```` block is a pipeline, or a part of one that is made whole here; it must pass
//! `wirefall check`. Rust is compiled by the SDK's doctests.

use std::path::Path;

use wirefall_tests::documents::{Block, documents};
use wirefall_tests::process::{Ended, command};
use wirefall_tests::workspace::root;
use wirefall_tests::{Folder, Process};

/// All blocks of these languages in all documents.
fn all(languages: &[&str]) -> Vec<Block> {
    let blocks = documents().into_iter().flat_map(|document| document.blocks);
    blocks
        .filter(|block| languages.contains(&block.language.as_str()))
        .collect()
}

/// Languages whose blocks are tried (`js` by the client's own tests), and `text`, which claims nothing.
const LANGUAGES: [&str; 7] = ["yaml", "sh", "console", "json", "rust", "js", "text"];

#[test]
fn every_block_says_what_it_is() {
    for block in documents().into_iter().flat_map(|document| document.blocks) {
        let language = block.language.as_str();
        assert!(
            LANGUAGES.contains(&language),
            "{}: `{language}`",
            block.place
        );
    }
}

/// A folder that looks like the repository to a pipeline in `examples/NAME`.
fn like_the_repository() -> Folder {
    let folder = Folder::new();
    for name in ["plugins", "sdk", "Cargo.toml", "Cargo.lock"] {
        let link = std::os::unix::fs::symlink(root().join(name), folder.path(name));
        link.expect("a link in a temporary folder");
    }
    std::fs::create_dir_all(folder.path("examples/docs")).expect("a folder");
    folder
}

fn run(place: &str, arguments: &[&str], folder: &Path) -> Ended {
    let mut wirefall = command(arguments);
    wirefall.current_dir(folder);
    for (name, value) in [
        ("WEBSOCKET_URL", "ws://127.0.0.1:9/"),
        ("TOKEN", "secret"),
        ("STREAM_TOKEN", "secret"),
    ] {
        wirefall.env(name, value);
    }
    let ended = Process::start(&mut wirefall).wait();
    assert_eq!(
        ended.code,
        Some(0),
        "{place}: wirefall {}\n{}{}",
        arguments.join(" "),
        ended.stdout,
        ended.stderr
    );
    ended
}

/// A pipeline around a part of one, which begins with a section or with a key of the sink's config.
fn whole(part: &str) -> String {
    let mut sections = vec![
        ("service:", "service: { pipeline_id: part }\n".to_owned()),
        ("source:", "source: { driver: stdin }\n".to_owned()),
        ("sink:", "sink: { driver: stdout }\n".to_owned()),
    ];
    let has = |name: &str| part.lines().any(|line| line.starts_with(name));
    let names = [
        "service:",
        "source:",
        "processors:",
        "sink:",
        "failover:",
        "journal:",
    ];
    if names.iter().any(|name| has(name)) {
        sections.retain(|(name, _)| !has(name));
        return part.to_owned()
            + &sections
                .into_iter()
                .map(|(_, text)| text)
                .collect::<String>();
    }
    let lines = part.lines().map(|line| format!("    {line}\n"));
    let sink = "sink:\n  driver: websocket\n  config:\n    url: ws://127.0.0.1:9\n".to_owned();
    sections[2].1 = sink + &lines.collect::<String>();
    sections.into_iter().map(|(_, text)| text).collect()
}

#[test]
fn every_pipeline_in_the_docs_is_right() {
    let folder = like_the_repository();
    let mut checked = 0;
    for block in all(&["yaml"]) {
        // Relative paths are those of a file in the repository's root, or of an example.
        let file = match block.text.contains("../../") {
            true => "examples/docs/pipeline.yaml",
            false => "pipeline.yaml",
        };
        folder.write(file, whole(&block.text));
        run(&block.place, &["check", file], &folder.path(""));
        checked += 1;
    }
    assert!(checked > 0, "README.md shows a pipeline");
}

#[test]
fn every_json_value_in_the_docs_is_one() {
    for block in all(&["json"]) {
        let parsed = serde_json::from_str::<serde_json::Value>(&block.text);
        assert!(parsed.is_ok(), "{}: {parsed:?}", block.place);
    }
}

/// A plugin's README that shows two values shows what becomes of the first with the default config.
#[test]
fn what_a_plugin_is_said_to_make_of_a_record_it_makes() {
    let mut shown = 0;
    for document in documents() {
        let Ok(path) = document.path.strip_prefix("plugins") else {
            continue;
        };
        let values: Vec<&Block> = document
            .blocks
            .iter()
            .filter(|b| b.language == "json")
            .collect();
        let [record, made] = values.as_slice() else {
            continue;
        };
        let folder = Folder::new();
        let plugin = root()
            .join("plugins")
            .join(path.parent().expect("a folder"));
        folder.write("record.ndjson", &record.text);
        let part = format!(
            "source: {{ driver: file, config: {{ path: record.ndjson }} }}\n\
             processors: [{{ driver: wasm, config: {{ plugin: {} }} }}]\n",
            plugin.display()
        );
        folder.write("pipeline.yaml", whole(&part));
        let ended = run(&record.place, &["run", "pipeline.yaml"], &folder.path(""));
        assert_eq!(ended.stdout, made.text, "{}", made.place);
        shown += 1;
    }
    assert!(shown > 0, "flight-delays shows what it makes of a record");
}

/// rustdoc compiles what the SDK includes, in `cargo test` of the whole.
#[test]
fn all_rust_in_the_docs_is_compiled() {
    let sdk = std::fs::read_to_string(root().join("sdk/src/lib.rs")).expect("the SDK");
    let mut compiled = 0;
    for document in documents() {
        if document.blocks.iter().any(|block| block.language == "rust") {
            let path = document.path.display();
            let included = format!("include_str!(\"../../{path}\")");
            assert!(
                sdk.contains(&included),
                "sdk/src/lib.rs does not include {path}"
            );
            compiled += 1;
        }
    }
    assert!(compiled > 0, "README.md shows a formatter");
}

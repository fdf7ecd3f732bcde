//! Every pipeline and every command in README.md and docs/ is checked or run.
//!
//! A ```` ```yaml ```` block with a `sink:` is a whole pipeline and must pass `wirefall check`. A line of
//! a ```` ```sh ```` block is a command: what ends by itself is run; what serves until it is stopped is
//! looked at for its flags and its file. A command that this test does not know fails it.

use std::path::{Path, PathBuf};

use wirefall_tests::process::{Ended, command};
use wirefall_tests::workspace::root;
use wirefall_tests::{Folder, Process};

/// A fenced block of a document.
struct Block {
    /// Document and line, for messages.
    place: String,
    language: String,
    text: String,
}

fn documents() -> Vec<PathBuf> {
    let mut documents = vec![root().join("README.md")];
    let docs = std::fs::read_dir(root().join("docs"));
    let docs = docs
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    documents.extend(docs.filter(|path| path.extension().is_some_and(|e| e == "md")));
    documents
}

fn blocks(path: &Path) -> Vec<Block> {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let name = path.strip_prefix(root()).expect("inside").display();
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                open = true;
                blocks.push(Block {
                    place: format!("{name}:{}", index + 1),
                    language: language.trim().to_owned(),
                    text: String::new(),
                });
            }
            None if open => {
                let block = blocks.last_mut().expect("a block is open");
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => (),
        }
    }
    blocks
}

/// All blocks of these languages in all documents.
fn all(languages: &[&str]) -> Vec<Block> {
    let documents = documents();
    let blocks = documents.iter().flat_map(|path| blocks(path));
    blocks
        .filter(|block| languages.contains(&block.language.as_str()))
        .collect()
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

#[test]
fn every_pipeline_in_the_docs_is_right() {
    let folder = like_the_repository();
    let mut checked = 0;
    for block in all(&["yaml", "yml"]) {
        if block.text.lines().any(|line| line.starts_with("sink:")) {
            folder.write("examples/docs/pipeline.yaml", &block.text);
            let file = "examples/docs/pipeline.yaml";
            run(&block.place, &["check", file], &folder.path(""));
            checked += 1;
        }
    }
    assert!(checked > 0, "README.md shows a pipeline");
}

/// Programs whose commands are not ours to run here.
const OTHERS: [&str; 9] = [
    "git", "cd", "curl", "rustup", "kill", "docker", "python3", "node", "websocat",
];

#[test]
fn every_command_in_the_docs_is_right() {
    let scratch = Folder::new();
    let mut seen = 0;
    for block in all(&["sh", "bash", "shell"]) {
        for line in block.text.lines() {
            let line = line.split(" #").next().unwrap_or_default().trim();
            let line = line.trim_start_matches("$ ");
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            try_command(&block.place, line, &scratch);
            seen += 1;
        }
    }
    assert!(seen > 0, "README.md shows commands");
}

fn try_command(place: &str, line: &str, scratch: &Folder) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let arguments = match words.as_slice() {
        ["wirefall", rest @ ..] => rest,
        ["cargo", "run", "--release", "--", rest @ ..] => rest,
        ["cargo", "xtask", verb, ..] => {
            assert!(["test", "bench", "peers"].contains(verb), "{place}: {line}");
            return;
        }
        ["cargo", "test" | "build" | "install", ..] => return,
        [".ci/run"] => return,
        [program, ..] if OTHERS.contains(program) => return,
        [pipe, ..] if pipe.starts_with("cat") || line.contains('|') => {
            let ours = line.split('|').map(str::trim);
            let ours: Vec<_> = ours.filter(|part| part.starts_with("wirefall ")).collect();
            assert!(!ours.is_empty(), "{place}: what is this? {line}");
            return ours
                .iter()
                .for_each(|part| try_command(place, part, scratch));
        }
        _ => panic!("{place}: this test does not know how to try: {line}"),
    };
    match arguments {
        ["run", file, ..] | ["check", file, ..] if file.ends_with(".yaml") => {
            if root().join(file).is_file() {
                run(place, &["check", file], root());
            } else {
                assert!(!file.contains('/'), "{place}: there is no {file}");
            }
        }
        ["schema", ..] | ["--version" | "--help", ..] => {
            run(place, arguments, &scratch.path(""));
        }
        [verb, ..] => {
            let help = run(place, &[verb, "--help"], &scratch.path("")).stdout;
            for flag in arguments.iter().filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap_or(flag);
                assert!(help.contains(flag), "{place}: `{verb}` has no {flag}");
            }
        }
        [] => panic!("{place}: {line}"),
    }
}

//! Every pipeline, command and JSON value in the Markdown of the repository is checked or run.
//!
//! A ```` ```yaml ```` block is a pipeline, or a part of one that is made whole here; it must pass
//! `wirefall check`. A line of a ```` ```sh ```` block, or one with `$` of a ```` ```console ```` block, is
//! a command: what ends by itself is run, what serves until it is stopped is looked at for its flags and
//! its file. What a console block shows below a command must be what the command prints. Rust is compiled
//! by the SDK's doctests. What this test does not know how to try fails it.

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

/// Programs whose commands are not ours to run here.
const OTHERS: [&str; 9] = [
    "git", "cd", "curl", "rustup", "kill", "docker", "python3", "node", "websocat",
];

/// A command of a document, and what it is shown to print.
struct Shown {
    place: String,
    line: String,
    output: String,
}

fn commands(block: &Block) -> Vec<Shown> {
    let mut commands: Vec<Shown> = Vec::new();
    for line in block.text.lines() {
        let line = match (block.language.as_str(), line.strip_prefix("$ ")) {
            ("console", None) => {
                let command = commands.last_mut();
                let command = command.unwrap_or_else(|| panic!("{}: no `$`", block.place));
                command.output.push_str(line);
                command.output.push('\n');
                continue;
            }
            (_, stripped) => stripped.unwrap_or(line),
        };
        let line = line.split(" #").next().unwrap_or_default().trim();
        if !line.is_empty() && !line.starts_with('#') {
            commands.push(Shown {
                place: block.place.clone(),
                line: line.to_owned(),
                output: String::new(),
            });
        }
    }
    commands
}

#[test]
fn every_command_in_the_docs_is_right() {
    let scratch = Folder::new();
    let mut seen = 0;
    for shown in all(&["sh", "console"]).iter().flat_map(commands) {
        let ended = try_command(&shown.place, &shown.line, &scratch);
        if !shown.output.is_empty() {
            let ended = ended.unwrap_or_else(|| {
                panic!(
                    "{}: `{}` is not run, so show no output",
                    shown.place, shown.line
                )
            });
            assert_eq!(
                ended.stdout + &ended.stderr,
                shown.output,
                "{}",
                shown.place
            );
        }
        seen += 1;
    }
    assert!(seen > 0, "README.md shows commands");
}

/// Looks at a command, and runs it if it ends by itself.
fn try_command(place: &str, line: &str, scratch: &Folder) -> Option<Ended> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let arguments = match words.as_slice() {
        ["wirefall", rest @ ..] => rest,
        ["cargo", "run", "--release", "--", rest @ ..] => rest,
        ["cargo", "xtask", verb, ..] => {
            let xtask = std::fs::read_to_string(root().join("xtask/src/main.rs")).expect("xtask");
            assert!(xtask.contains(&format!("\"{verb}\" =>")), "{place}: {line}");
            return None;
        }
        ["cargo", "test" | "build" | "install", options @ ..] => {
            if let ["-p", package, ..] = options {
                let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("a lock");
                let name = format!("name = \"{package}\"");
                assert!(
                    lock.contains(&name),
                    "{place}: there is no package {package}"
                );
            }
            return None;
        }
        [program, ..] if OTHERS.contains(program) => return None,
        [path, ..] if path.contains('/') && root().join(path).is_file() => return None,
        [pipe, ..] if pipe.starts_with("cat") || line.contains('|') => {
            let ours = line.split('|').map(str::trim);
            let ours: Vec<_> = ours.filter(|part| part.starts_with("wirefall ")).collect();
            assert!(!ours.is_empty(), "{place}: what is this? {line}");
            for part in ours {
                try_command(place, part, scratch);
            }
            return None;
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
            None
        }
        ["schema", ..] | ["--version" | "--help", ..] => {
            Some(run(place, arguments, &scratch.path("")))
        }
        ["credentials", ..] => {
            look_at_arguments(place, &arguments[..2], arguments, scratch);
            None
        }
        [_, ..] => {
            look_at_arguments(place, &arguments[..1], arguments, scratch);
            None
        }
        [] => panic!("{place}: {line}"),
    }
}

/// A verb has the flags that it is shown with, and a folder of the repository is there.
fn look_at_arguments(place: &str, verb: &[&str], arguments: &[&str], scratch: &Folder) {
    let flags = flags_of(place, verb, &scratch.path(""));
    for word in arguments {
        let flag = word.split('=').next().unwrap_or(word);
        if word.starts_with("--") {
            let has = flags.iter().any(|one| one == flag);
            assert!(has, "{place}: `{}` has no {flag}", verb.join(" "));
        } else if word.contains('/') && !word.contains("://") {
            assert!(root().join(word).exists(), "{place}: there is no {word}");
        }
    }
}

/// What `--help` of a verb tells as its flags.
fn flags_of(place: &str, verb: &[&str], folder: &Path) -> Vec<String> {
    let help = run(place, &[verb, &["--help"]].concat(), folder).stdout;
    let flags = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"));
    flags.map(str::to_owned).collect()
}

/// Flags that every verb has.
const GLOBAL: [&str; 5] = ["--json", "--color", "--log", "--help", "--version"];

#[test]
fn the_table_of_what_receive_can_do_is_whole() {
    let documents = documents();
    let delivery = documents
        .iter()
        .find(|document| document.path.ends_with("docs/delivery.md"))
        .expect("docs/delivery.md");
    let rows = delivery.prose.iter().map(|(_, line)| line.as_str());
    let table: String = rows.filter(|line| line.starts_with("| `--")).collect();
    let folder = Folder::new();
    for flag in flags_of("docs/delivery.md", &["receive"], &folder.path("")) {
        let told = GLOBAL.contains(&flag.as_str()) || table.contains(&flag);
        assert!(told, "docs/delivery.md does not tell of `receive {flag}`");
    }
}

//! Every command in the Markdown of the repository is run, through the real binary.
//!
//! A line of a ```` ```sh ```` block, or one with `$` of a ```` ```console ```` block, is a command. The
//! commands of a document are run from its top to its end, in a folder that looks like the repository;
//! what serves stays until the end, as in a terminal of its own, and is stopped as a person does. What a
//! console block shows below a command must be what the command prints. What this test does not know how
//! to run fails it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use wirefall_tests::documents::{Block, Document, documents};
use wirefall_tests::peers::free_address;
use wirefall_tests::pipelines::plugin;
use wirefall_tests::process::{Ended, command};
use wirefall_tests::workspace::root;
use wirefall_tests::{Folder, Process, Signal, wait_until};

/// Commands that are not run here, and what shows that they are right: a file, and what is in it.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    // It is what runs this test.
    ("cargo xtask test", "xtask/src/main.rs", "\"test\" =>"),
    // Parts of it.
    (
        "cargo test -p flight-delays",
        "plugins/flight-delays/Cargo.toml",
        "name = \"flight-delays\"",
    ),
    (
        "cargo test -p json-select",
        "plugins/json-select/Cargo.toml",
        "name = \"json-select\"",
    ),
    // It compiles a crate of its own, with a target folder that is kept for it.
    (
        "wirefall new my-formatter",
        NEW,
        "[\"new\", \"my-formatter\"]",
    ),
    ("cd my-formatter", NEW, "scratch.join(\"my-formatter\")"),
    ("cargo test", NEW, "native.arg(\"test\")"),
    ("wirefall test", NEW, "wirefall(&[\"test\"])"),
    (
        "wirefall run pipeline.yaml",
        NEW,
        "wirefall(&[\"run\", \"pipeline.yaml\"])",
    ),
    ("wirefall inspect .", NEW, "wirefall(&[\"inspect\", \".\"])"),
    // It wants Node, which the test that runs it looks for.
    (
        "node --test clients/js/test/*.test.js",
        "tests/tests/clients.rs",
        "[\"--test\", ",
    ),
    // No example has keys.
    (
        "wirefall subscribe ws://127.0.0.1:9400/v1/streams/orders --key AAPL --key MSFT",
        "tests/tests/resume.rs",
        "\"--key\", \"own\", \"--key\", \"other\"",
    ),
];

const NEW: &str = "tests/tests/new.rs";

/// Programs that are not ours; what they do is not ours to test.
const OTHERS: [&str; 1] = ["python3"];

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

/// A folder that looks like the repository, with the examples on free ports and at full speed, and what
/// runs in it.
struct Desk {
    folder: Folder,
    /// The address that stands for one of the documents.
    addresses: BTreeMap<String, SocketAddr>,
    /// What serves, and the command that started it.
    running: Vec<(String, Process)>,
    /// What the documents call `ID`: the credential that was made last.
    id: String,
}

/// What `pipeline.yaml` stands for in a document that does not make one.
const PIPELINE: &str = "service: { pipeline_id: shown, state: state }\nsource: { driver: stdin }\n\
    sink: { driver: websocket, config: { listen: 127.0.0.1:0 } }\n";

impl Desk {
    fn new() -> Self {
        let folder = Folder::new();
        for name in ["plugins", "sdk", "Cargo.toml", "Cargo.lock"] {
            let link = std::os::unix::fs::symlink(root().join(name), folder.path(name));
            link.expect("a link in a temporary folder");
        }
        // Built before any clock runs.
        plugin("flight-delays");
        let mut desk = Self {
            folder,
            addresses: BTreeMap::new(),
            running: Vec::new(),
            id: String::new(),
        };
        desk.folder.write("pipeline.yaml", PIPELINE);
        for example in std::fs::read_dir(root().join("examples")).expect("a folder") {
            let from = example.expect("an entry").path();
            let to = format!("examples/{}", from.file_name().expect("a name").display());
            std::fs::create_dir_all(desk.folder.path(&to)).expect("a folder");
            for file in std::fs::read_dir(from).expect("an example is a folder") {
                let file = file.expect("an entry").path();
                let to = format!("{to}/{}", file.file_name().expect("a name").display());
                match file
                    .extension()
                    .is_some_and(|extension| extension == "yaml")
                {
                    true => desk.copy_pipeline(&file, &to),
                    false if file.is_file() => {
                        std::fs::copy(&file, desk.folder.path(&to)).expect("a copy");
                    }
                    false => {}
                }
            }
        }
        desk
    }

    fn copy_pipeline(&mut self, file: &std::path::Path, to: &str) {
        let text = std::fs::read_to_string(file).expect("a pipeline");
        let lines = text.lines().map(|line| match line.split_once("rate: ") {
            Some((before, _)) => format!("{before}rate: 4000\n"),
            None => format!("{line}\n"),
        });
        let text = self.elsewhere(&lines.collect::<String>());
        self.folder.write(to, text);
    }

    /// A text with each address of this machine replaced by a free one, the same each time.
    fn elsewhere(&mut self, text: &str) -> String {
        const HOST: &str = "127.0.0.1:";
        let mut parts = text.split(HOST);
        let mut moved = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len());
            let shown = format!("{HOST}{}", &part[..end]);
            let address = self.addresses.entry(shown).or_insert_with(free_address);
            moved += &format!("{address}{}", &part[end..]);
        }
        moved
    }

    fn start(&mut self, words: &[&str]) -> Process {
        let words: Vec<String> = words.iter().map(|word| self.elsewhere(word)).collect();
        let mut command = command(&words);
        let mut process = Process::start(command.current_dir(self.folder.path("")));
        process.close_stdin();
        process
    }

    /// Runs a command; what it printed, if it is at its end.
    fn run(&mut self, place: &str, words: &[&str]) -> Option<Ended> {
        match words {
            ["receive", ..] => {
                // As a person would do before another at the same address.
                self.stop(|running| running.starts_with("receive"));
                let mut receiver = self.start(words);
                receiver.wait_for_line("receiving on ");
                self.running.push((words.join(" "), receiver));
                None
            }
            ["run", ..] => {
                let mut run = self.start(words);
                wait_until("a pipeline that serves, or its end", || {
                    run.stderr().contains("/v1/streams/") || !run.is_running()
                });
                if run.is_running() {
                    self.running.push((words.join(" "), run));
                    return None;
                }
                Some(done(place, words, run.wait()))
            }
            ["subscribe", url, ..] => {
                self.serve(place, url);
                Some(self.subscribe(place, words))
            }
            _ => {
                // What names a plugin of the repository builds it there.
                let in_place = words.iter().any(|word| word.starts_with("plugins/"));
                let folder = match in_place {
                    true => root().to_owned(),
                    false => self.folder.path(""),
                };
                let id = self.id.clone();
                let named = words
                    .iter()
                    .map(|word| if *word == "ID" { &id } else { *word });
                let ended = Process::start(command(named).current_dir(folder)).wait_for_build();
                let ended = done(place, words, ended);
                let id = ended
                    .stdout
                    .lines()
                    .find_map(|line| line.strip_prefix("id "));
                self.id = id.map_or(self.id.clone(), |id| id.trim().to_owned());
                Some(ended)
            }
        }
    }

    /// Starts the example that publishes at this URL, unless it runs.
    fn serve(&mut self, place: &str, url: &str) {
        let address = self.elsewhere(url);
        let address = address.split('/').nth(2).expect("an address in a URL");
        let examples = std::fs::read_dir(self.folder.path("examples")).expect("a folder");
        let files = examples.flat_map(|entry| {
            let name = entry.expect("an entry").file_name();
            let folder = format!("examples/{}", name.display());
            let files = std::fs::read_dir(self.folder.path(&folder)).expect("a folder");
            let names = files.map(|file| file.expect("an entry").file_name());
            let paths = names.map(|name| format!("{folder}/{}", name.display()));
            paths.collect::<Vec<_>>()
        });
        let files = files.filter(|file| file.ends_with(".yaml"));
        let listens = format!("listen: {address}");
        let mut files = files.filter(|file| self.folder.read(file).contains(&listens));
        let file = files.next();
        let file = file.unwrap_or_else(|| panic!("{place}: no example listens at {url}"));
        let words = ["run", file.as_str()];
        if !self
            .running
            .iter()
            .any(|(running, _)| *running == words.join(" "))
        {
            assert!(self.run(place, &words).is_none(), "{file} serves");
        }
    }

    /// Subscribes until records have come, as a person looks at them. A count is told at the end only,
    /// so one that has no limit gets one.
    fn subscribe(&mut self, place: &str, words: &[&str]) -> Ended {
        let out = words.iter().position(|word| *word == "--out");
        let out = out.map(|at| words[at + 1]);
        let before = out.map_or(0, |out| self.folder.read(out).len());
        let counts = words.contains(&"--count") && !words.contains(&"--limit");
        let limit: &[&str] = if counts { &["--limit", "100"] } else { &[] };
        let mut subscriber = self.start(&[words, limit].concat());
        wait_until(&format!("records of {}", words.join(" ")), || {
            let kept = out.map_or_else(|| subscriber.stdout(), |out| self.folder.read(out));
            kept.len() > before || !subscriber.is_running()
        });
        if subscriber.is_running() {
            subscriber.signal(Signal::Interrupt);
        }
        let ended = done(place, words, subscriber.wait());
        let kept = out.map_or_else(|| ended.stdout.clone(), |out| self.folder.read(out));
        assert!(kept.len() > before, "{place}: nothing came to {words:?}");
        ended
    }

    /// Stops what serves, as a person does.
    fn stop(&mut self, which: impl Fn(&str) -> bool) {
        for at in (0..self.running.len()).rev() {
            if which(&self.running[at].0) {
                let (words, process) = self.running.remove(at);
                process.signal(Signal::Interrupt);
                done("at its end", &[words.as_str()], process.wait());
            }
        }
    }
}

#[track_caller]
fn done(place: &str, words: &[&str], ended: Ended) -> Ended {
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert_eq!(
        ended.code,
        Some(0),
        "{place}: wirefall {}\n{said}",
        words.join(" ")
    );
    ended
}

/// Runs the commands of a document; returns those of [`ELSEWHERE`] that it has.
fn play(document: &Document) -> BTreeSet<&'static str> {
    let mut elsewhere = BTreeSet::new();
    let blocks = document.blocks.iter();
    let blocks = blocks.filter(|block| ["sh", "console"].contains(&block.language.as_str()));
    let shown: Vec<Shown> = blocks.flat_map(commands).collect();
    if shown.is_empty() {
        return elsewhere;
    }
    let mut desk = Desk::new();
    for Shown {
        place,
        line,
        output,
    } in &shown
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let known = ELSEWHERE.iter().find(|(known, ..)| known == line);
        let ended = match (known, words.as_slice()) {
            (Some((known, file, part)), _) => {
                let text = std::fs::read_to_string(root().join(file)).expect("a file");
                assert!(
                    text.contains(part),
                    "{file} does not show `{known}` any more"
                );
                elsewhere.insert(*known);
                None
            }
            (None, ["wirefall", words @ ..] | ["cargo", "run", "--release", "--", words @ ..]) => {
                desk.run(place, words)
            }
            (None, [program, ..]) if OTHERS.contains(program) => None,
            _ => panic!("{place}: this test does not know how to run: {line}"),
        };
        if !output.is_empty() {
            let ended = ended.unwrap_or_else(|| panic!("{place}: `{line}` shows what it prints"));
            assert_eq!(&(ended.stdout + &ended.stderr), output, "{place}");
        }
    }
    // Who pushes ends by itself, and who is pushed to last.
    desk.stop(|words| words.starts_with("run"));
    desk.stop(|_| true);
    elsewhere
}

#[test]
fn every_command_in_the_docs_runs() {
    let documents = documents();
    let played: BTreeSet<&str> = documents.iter().flat_map(play).collect();
    let listed: BTreeSet<&str> = ELSEWHERE.iter().map(|(line, ..)| *line).collect();
    assert_eq!(played, listed, "no document shows the rest any more");
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
    let help = Process::start(&mut command(["receive", "--help"])).wait();
    let help = done("docs/delivery.md", &["receive", "--help"], help).stdout;
    for flag in help
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
    {
        let told = GLOBAL.contains(&flag) || table.contains(flag);
        assert!(told, "docs/delivery.md does not tell of `receive {flag}`");
    }
}

//! Pipeline files of tests, the bundled plugins they name, and runs of them.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::process::{Ended, Process, command, wirefall};
use crate::records::numbers;
use crate::workspace::{Folder, root};

/// Writes a pipeline that pushes the file `input.ndjson` of the folder to `address`. `source` and
/// `sink` are lines that are added to the two configs, as `key: value`.
pub fn push(folder: &Folder, address: SocketAddr, source: &[&str], sink: &[&str]) -> PathBuf {
    let mut source_config = vec!["path: input.ndjson".to_owned()];
    source_config.extend(source.iter().map(|line| (*line).to_owned()));
    pipeline(folder, "file", &source_config, &to(address, sink), "")
}

/// The config of a sink that pushes to `address`, with these lines.
pub fn to(address: SocketAddr, sink: &[&str]) -> Vec<String> {
    let tls = sink.iter().any(|line| line.starts_with("tls:"));
    let scheme = if tls { "wss" } else { "ws" };
    let mut config = vec![
        format!("url: {scheme}://{address}/"),
        "reconnect: { min: 10ms, max: 200ms }".to_owned(),
    ];
    config.extend(sink.iter().map(|line| (*line).to_owned()));
    config
}

/// Writes a pipeline that publishes what comes on standard input, on a free port.
pub fn publish(folder: &Folder, sink: &[&str]) -> PathBuf {
    publish_at(folder, SocketAddr::from(([127, 0, 0, 1], 0)), sink)
}

/// The same, at an address that it can come back to.
pub fn publish_at(folder: &Folder, address: SocketAddr, sink: &[&str]) -> PathBuf {
    let mut sink_config = vec![format!("listen: {address}")];
    sink_config.extend(sink.iter().map(|line| (*line).to_owned()));
    pipeline(folder, "stdin", &[], &sink_config, "")
}

/// Writes a pipeline. `more` is added at its end.
pub fn pipeline(
    folder: &Folder,
    source: &str,
    source_config: &[String],
    sink_config: &[String],
    more: &str,
) -> PathBuf {
    let config = |lines: &[String]| match lines {
        [] => "  config: {}\n".to_owned(),
        lines => {
            let lines: String = lines.iter().map(|line| format!("    {line}\n")).collect();
            format!("  config:\n{lines}")
        }
    };
    let text = format!(
        "service:\n  pipeline_id: test\n  state: state\n\
         source:\n  driver: {source}\n{}\
         sink:\n  driver: websocket\n{}{more}",
        config(source_config),
        config(sink_config),
    );
    folder.write("pipeline.yaml", text)
}

/// Runs the pipeline of a folder.
pub fn start(folder: &Folder) -> Process {
    wirefall(["run".as_ref(), folder.path("pipeline.yaml").as_os_str()])
}

/// The stream of a pipeline that publishes at `address`.
pub fn stream(address: SocketAddr) -> String {
    format!("ws://{address}/v1/streams/test")
}

/// Subscribes to it from its earliest record on, into a file of the folder; waits for it as long as it takes.
pub fn subscribe(folder: &Folder, address: SocketAddr) -> Process {
    let out = folder.path("out.ndjson");
    let mut subscribe = command([
        "subscribe",
        &stream(address),
        "--wait",
        "--from",
        "earliest",
    ]);
    Process::start(subscribe.arg("--out").arg(out))
}

/// The numbers of the records that have come so far.
pub fn received(folder: &Folder) -> Vec<u64> {
    numbers(&folder.read("out.ndjson"))
}

/// The folder of a bundled plugin, built once before the clock of any test runs.
pub fn plugin(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let folder = |name| root().join("plugins").join(name);
    BUILT.get_or_init(|| {
        for name in ["hostile", "flight-delays"] {
            let mut build = command(["build".as_ref(), folder(name).as_os_str()]);
            assert!(build.status().expect("it runs").success(), "{name} builds");
        }
    });
    folder(name)
}

/// Runs a pipeline to its end with `--json` and these flags.
pub fn run(pipeline: &Path, flags: &[&str]) -> Ended {
    let mut words = vec!["run".as_ref(), pipeline.as_os_str(), "--json".as_ref()];
    words.extend(flags.iter().map(|flag| OsStr::new(*flag)));
    wirefall(words).wait()
}

/// The account that a run printed with `--json`; every input must be in exactly one place (I2).
#[track_caller]
pub fn account(ended: &Ended) -> serde_json::Value {
    let line = ended
        .stderr
        .lines()
        .rfind(|line| line.contains("\"account\""));
    let line = line.unwrap_or_else(|| panic!("no account in: {}", ended.stderr));
    let told: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
    let account = told["account"].clone();
    let count = |place: &str| account[place].as_u64().expect("a number");
    let places = [
        "delivered",
        "published",
        "filtered",
        "failed_over",
        "dropped",
        "unconfirmed",
    ];
    assert_eq!(
        count("read"),
        places.map(count).iter().sum::<u64>(),
        "{account}"
    );
    account
}

//! Pipeline files of tests.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::workspace::Folder;

/// Writes a pipeline that pushes the file `input.ndjson` of the folder to `address`. `source` and
/// `sink` are lines that are added to the two configs, as `key: value`.
pub fn push(folder: &Folder, address: SocketAddr, source: &[&str], sink: &[&str]) -> PathBuf {
    let mut source_config = vec!["path: input.ndjson".to_owned()];
    source_config.extend(source.iter().map(|line| (*line).to_owned()));
    let mut sink_config = vec![
        format!("url: ws://{address}/"),
        "reconnect: { min: 10ms, max: 200ms }".to_owned(),
    ];
    sink_config.extend(sink.iter().map(|line| (*line).to_owned()));
    pipeline(folder, "file", &source_config, &sink_config, "")
}

/// Writes a pipeline that publishes what comes on standard input, on a free port.
pub fn publish(folder: &Folder, sink: &[&str]) -> PathBuf {
    let mut sink_config = vec!["listen: 127.0.0.1:0".to_owned()];
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

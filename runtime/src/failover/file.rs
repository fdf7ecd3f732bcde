//! The `file` failover: a line of JSON for each record, synced before the run goes on.
//!
//! Owns the line's shape and the promise that a line is whole: what a full disk cuts off is taken back.

use std::io::{self, SeekFrom};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::{Failed, Failover, FailoverError, FailoverPlan};
use crate::driver::{self, BoxFuture, Driver, Facts, Problem};
use crate::files;

/// The table entry.
pub static DRIVER: Driver<Box<dyn FailoverPlan>> = Driver {
    name: "file",
    about: "a file of JSON lines, synced before the run goes on",
    schema: |_| schemars::schema_for!(Config),
    check,
    ignored_keys: &[],
};

/// Config of the `file` failover.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The file that failed records are appended to, relative to the pipeline file.
    path: String,
}

#[derive(Clone, Debug)]
struct Plan {
    path: PathBuf,
}

fn check(config: Value, facts: &Facts) -> Result<Box<dyn FailoverPlan>, Vec<Problem>> {
    let config: Config = driver::read(config)?;
    Ok(Box::new(Plan {
        path: facts.path(&config.path),
    }))
}

impl FailoverPlan for Plan {
    fn describe(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn drops(&self) -> bool {
        false
    }

    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Failover>, FailoverError>> {
        Box::pin(async move {
            let opened = async {
                if let Some(folder) = self.path.parent() {
                    tokio::fs::create_dir_all(folder).await?;
                }
                let mut file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&self.path)
                    .await?;
                files::sync_folder(&self.path)?;
                if files::ends_in_mid_line(&self.path)? {
                    file.write_all(b"\n").await?; // what a crash cut off stays a line of its own
                    file.flush().await?;
                }
                let whole = file.seek(SeekFrom::End(0)).await?;
                Ok(FailoverFile {
                    path: self.path.clone(),
                    file,
                    whole,
                })
            };
            let context = || format!("file {}", self.path.display());
            let file = opened.await.map_err(|error| FailoverError {
                context: context(),
                error,
            })?;
            Ok(Box::new(file) as Box<dyn Failover>)
        })
    }
}

struct FailoverFile {
    path: PathBuf,
    file: File,
    /// Length up to which every line is whole and synced.
    whole: u64,
}

impl FailoverFile {
    async fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all(lines).await?;
        self.file.flush().await?;
        self.file.sync_data().await?;
        self.whole += lines.len() as u64;
        Ok(())
    }
}

impl Failover for FailoverFile {
    fn write<'a>(
        &'a mut self,
        failed: &'a [Failed<'a>],
    ) -> BoxFuture<'a, Result<(), FailoverError>> {
        Box::pin(async move {
            let mut lines = Vec::new();
            failed
                .iter()
                .for_each(|failed| push_line(&mut lines, failed));
            let Err(error) = self.append(&lines).await else {
                return Ok(());
            };
            // A torn last line would be taken for a record by whoever replays the file. Where even
            // this fails there is nothing left to do but to report the first error.
            let _ = self.file.set_len(self.whole).await;
            Err(FailoverError {
                context: format!("file {}", self.path.display()),
                error,
            })
        })
    }
}

/// A failed record as it is written: by this driver and by `stderr`.
#[derive(Serialize)]
struct Line<'a> {
    when: String,
    stage: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    partition: &'a str,
    position: u64,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record_base64: Option<String>,
}

/// Writes a failed record as a line of JSON: `record` where it is text, else `record_base64`.
pub(super) fn push_line(into: &mut Vec<u8>, failed: &Failed<'_>) {
    let text = std::str::from_utf8(failed.record).ok();
    let line = Line {
        when: humantime::format_rfc3339_millis(failed.when).to_string(),
        stage: failed.stage,
        plugin: failed.plugin.map(|(name, _)| name),
        digest: failed.plugin.map(|(_, digest)| digest),
        partition: failed.partition,
        position: failed.position,
        reason: failed.reason,
        record: text,
        record_base64: text.is_none().then(|| STANDARD.encode(failed.record)),
    };
    serde_json::to_writer(&mut *into, &line).expect("writing to memory does not fail");
    into.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn failed(record: &[u8]) -> Failed<'_> {
        Failed {
            when: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
            stage: "format",
            plugin: Some(("p", "sha256:00")),
            partition: "in.ndjson",
            position: 7,
            reason: "no",
            record,
        }
    }

    #[test]
    fn a_line_has_all_that_is_needed_to_replay() {
        let mut line = Vec::new();
        push_line(&mut line, &failed(b"{\"a\":1}"));
        assert_eq!(
            std::str::from_utf8(&line).unwrap(),
            r#"{"when":"1970-01-01T00:00:01.500Z","stage":"format","plugin":"p","digest":"sha256:00","partition":"in.ndjson","position":7,"reason":"no","record":"{\"a\":1}"}"#
                .to_owned()
                + "\n"
        );
        let mut line = Vec::new();
        push_line(&mut line, &failed(b"\xff"));
        assert!(
            std::str::from_utf8(&line)
                .unwrap()
                .contains(r#""record_base64":"/w==""#)
        );
    }

    #[tokio::test]
    async fn i1_what_is_written_is_in_the_file_when_write_returns() {
        let folder = tempfile::tempdir().unwrap();
        let facts = Facts {
            folder: folder.path().to_owned(),
            ..Facts::default()
        };
        let plan = check(serde_json::json!({"path": "sub/failed.ndjson"}), &facts).unwrap();
        for _ in 0..2 {
            let mut failover = plan.open().await.unwrap();
            failover.write(&[failed(b"1"), failed(b"2")]).await.unwrap();
        }
        let text = std::fs::read_to_string(folder.path().join("sub/failed.ndjson")).unwrap();
        assert_eq!(text.lines().count(), 4);
    }
}

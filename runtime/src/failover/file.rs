//! The `file` failover: a line of JSON for each record, synced before the run goes on and so before the
//! source commits it (I1).
//!
//! Owns the promise that a line is whole: what a full disk cuts off is taken back.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::entry;
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
    #[schemars(length(min = 1))]
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

    fn writes(&self) -> Option<&Path> {
        Some(&self.path)
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
            let Err(error) = self.append(&entry::lines(failed)).await else {
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

#[cfg(test)]
mod tests {
    use super::entry::tests::failed;
    use super::*;

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

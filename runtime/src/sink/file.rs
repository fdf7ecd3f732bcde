//! The `file` sink: a record a line, with rotation by size.
//!
//! Owns the file and its rotation, and the promise that a line is whole: what a full disk cuts off is
//! taken back. A record is confirmed when the file is synced, so it outlives a crash of the machine.

use std::io;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

use super::framing::Framing;
use super::plain::{self, Lines};
use super::{Delivered, Delivery, Sink, SinkContext, SinkError, SinkPlan};
use crate::driver::{self, BoxFuture, Driver, Facts, Problem};
use crate::files;
use crate::journal::{Chunk, Cursor, Position};
use crate::units::ByteSize;

/// The table entry.
pub static DRIVER: Driver<Box<dyn SinkPlan>> = Driver {
    name: "file",
    about: "a record a line in a file, with rotation by size",
    schema: |_| schemars::schema_for!(Config),
    check,
    ignored_keys: &[],
};

/// Config of the `file` sink.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The file, relative to the pipeline file. Records are appended.
    path: String,
    /// Once the file has so many bytes it is renamed to `NAME.000001.EXT` and so on, and a new one is
    /// begun. A record is never split. Unset: it grows without end.
    rotate: Option<ByteSize>,
}

#[derive(Clone, Debug)]
struct Plan {
    path: PathBuf,
    rotate: Option<u64>,
}

fn check(config: Value, facts: &Facts) -> Result<Box<dyn SinkPlan>, Vec<Problem>> {
    let config: Config = driver::read(config)?;
    if config.rotate.is_some_and(|size| size.0 == 0) {
        return Err(vec![Problem::error(
            "/rotate",
            "a file cannot be rotated at 0 bytes",
        )]);
    }
    let rotate = config.rotate.map(|size| size.0);
    Ok(Box::new(Plan {
        path: facts.path(&config.path),
        rotate,
    }))
}

impl SinkPlan for Plan {
    fn describe(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn delivery(&self) -> Delivery {
        Delivery::Confirmed
    }

    fn guarantee(&self) -> String {
        "at least once: a record is confirmed when the file is synced to its disk".to_owned()
    }

    fn framing(&self) -> Framing {
        plain::framing()
    }

    fn writes(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn open(&self, context: SinkContext) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>> {
        Box::pin(async move {
            let out = Out::open(self).await.map_err(|error| self.failed(error))?;
            let cursor = context.journal.pin(Position::default());
            Ok(Box::new(FileSink {
                plan: self.clone(),
                context,
                cursor,
                out,
            }) as Box<dyn Sink>)
        })
    }
}

impl Plan {
    fn failed(&self, error: io::Error) -> SinkError {
        SinkError::Io {
            context: format!("writing {}", self.path.display()),
            error,
        }
    }
}

struct FileSink {
    plan: Plan,
    context: SinkContext,
    cursor: Cursor,
    out: Out,
}

impl Sink for FileSink {
    fn run(self: Box<Self>) -> BoxFuture<'static, Result<Delivered, SinkError>> {
        Box::pin(async move {
            let carried = plain::carry(self.context, self.cursor, self.out).await;
            carried.map_err(|error| self.plan.failed(error))
        })
    }
}

impl Lines for Out {
    const UNSAFE_BYTES_MAX: usize = 4 << 20;

    async fn write(&mut self, chunk: &Chunk) -> io::Result<()> {
        for frame in 0..chunk.frames.len() {
            let written = self.write_line(&chunk.wire[chunk.frame_wire(frame)]).await;
            self.whole(written).await?;
        }
        Ok(())
    }

    async fn make_safe(&mut self) -> io::Result<()> {
        let synced = self.sync().await;
        self.whole(synced).await
    }
}

/// The open file.
struct Out {
    path: PathBuf,
    rotate: Option<u64>,
    file: tokio::io::BufWriter<File>,
    bytes: u64,
    /// Bytes that are synced: whole lines.
    synced: u64,
    rotations: u32,
}

impl Out {
    async fn open(plan: &Plan) -> io::Result<Self> {
        if let Some(folder) = plan.path.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&plan.path)
            .await?;
        let bytes = file.metadata().await?.len();
        files::sync_folder(&plan.path)?;
        let torn = files::ends_in_mid_line(&plan.path)?;
        let mut out = Self {
            path: plan.path.clone(),
            rotate: plan.rotate,
            file: tokio::io::BufWriter::with_capacity(256 << 10, file),
            bytes,
            synced: bytes,
            rotations: 0,
        };
        if torn {
            // What a crash cut off must not take the next record with it.
            out.write_line(b"\n").await?;
        }
        Ok(out)
    }

    async fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let full = self
            .rotate
            .is_some_and(|limit| self.bytes + line.len() as u64 > limit);
        if full && self.bytes > 0 {
            self.rotate().await?;
        }
        self.file.write_all(line).await?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    async fn sync(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.get_ref().sync_data().await?;
        self.synced = self.bytes;
        Ok(())
    }

    /// After a failure, takes back what is not synced: it is not confirmed and comes again, and a torn
    /// line would be taken for a record. Where even this fails there is nothing left to do.
    async fn whole(&mut self, written: io::Result<()>) -> io::Result<()> {
        if written.is_err() {
            let _ = self.file.get_mut().set_len(self.synced).await;
        }
        written
    }

    /// Renames the full file, synced, to the next free number.
    async fn rotate(&mut self) -> io::Result<()> {
        self.sync().await?;
        let next = loop {
            self.rotations += 1;
            let name = numbered(&self.path, self.rotations);
            if !tokio::fs::try_exists(&name).await? {
                break name;
            }
        };
        tokio::fs::rename(&self.path, next).await?;
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&self.path)
            .await?;
        self.file = tokio::io::BufWriter::with_capacity(256 << 10, file);
        self.bytes = 0;
        self.synced = 0;
        files::sync_folder(&self.path)
    }
}

/// `out.ndjson` → `out.000001.ndjson`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some(extension) => path.with_extension(format!("{number:06}.{extension}")),
        None => path.with_extension(format!("{number:06}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rotation_splits_no_record_and_loses_none() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan {
            path: folder.path().join("out.ndjson"),
            rotate: Some(20),
        };
        let mut out = Out::open(&plan).await.unwrap();
        for n in 0..10 {
            out.write_line(format!("record {n}\n").as_bytes())
                .await
                .unwrap();
        }
        out.sync().await.unwrap();
        let mut names: Vec<PathBuf> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        assert_eq!(names.len(), 5);
        let all: String = names
            .iter()
            .map(|name| std::fs::read_to_string(name).unwrap())
            .collect();
        let expected: String = (0..10).map(|n| format!("record {n}\n")).collect();
        assert_eq!(all, expected);
        assert!(names[0].ends_with("out.000001.ndjson"));
    }
}

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
use crate::journal::{Chunk, Cursor};
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
    #[schemars(length(min = 1))]
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
            let cursor = context.journal.pin(context.from);
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
    /// The number that the last full file got, in this run or an earlier one.
    last: u32,
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
            last: last_number(&plan.path).await?,
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

    /// Renames the full file, synced, to the next number, and begins another. A crash in between leaves
    /// no file of the name, and the next run begins it.
    async fn rotate(&mut self) -> io::Result<()> {
        self.sync().await?;
        let next = loop {
            self.last += 1;
            let name = numbered(&self.path, self.last);
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

/// The highest number of a full file: numbers below may be free again, because somebody took the files
/// away, but the order of the numbers is the order of the records (I3).
async fn last_number(path: &Path) -> io::Result<u32> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let mut entries = tokio::fs::read_dir(folder).await?;
    let mut last = 0;
    while let Some(entry) = entries.next_entry().await? {
        last = last.max(number_of(path, &entry.path()).unwrap_or(0));
    }
    Ok(last)
}

/// The number of a full file, by its name; `None` where it is another file.
fn number_of(path: &Path, full: &Path) -> Option<u32> {
    let stem = match path.extension() {
        Some(extension) if full.extension() == Some(extension) => Path::new(full.file_stem()?),
        Some(_) => return None,
        None => full,
    };
    let number = stem.extension()?.to_str()?.parse().ok()?;
    (numbered(path, number).file_name() == full.file_name()).then_some(number)
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

    #[test]
    fn full_files_are_known_by_their_names() {
        for (path, full, number) in [
            ("a/out.ndjson", "a/out.000012.ndjson", Some(12)),
            ("a/out", "a/out.000003", Some(3)),
            ("out.ndjson", "./out.000004.ndjson", Some(4)),
            ("a/out.ndjson", "a/out.1000000.ndjson", Some(1_000_000)),
            ("a/out.ndjson", "a/out.ndjson", None),
            ("a/out.ndjson", "a/out.12.ndjson", None),
            ("a/out.ndjson", "a/put.000012.ndjson", None),
            ("a/out.ndjson", "a/out.000012.json", None),
            ("a/out", "a/out.ndjson", None),
        ] {
            let known = number_of(Path::new(path), Path::new(full));
            assert_eq!(known, number, "{full} of {path}");
        }
    }
}

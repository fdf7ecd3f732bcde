//! The `file` source: lines of one file or of all that match a glob, plain or compressed.
//!
//! Owns the config and where a run begins. Each file is a partition whose positions are byte offsets of
//! the plain (unpacked) text; where one file takes the place of another, or the same is read again, they
//! go on rising.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::lines::LINE_MAX;
use super::position_file::Trail;
use super::{Committer, Forgetful, Source, SourceContext, SourceError, SourcePlan};
use crate::checkpoint::Checkpoint;
use crate::driver::{self, BoxFuture, Driver, Facts, Problem, within};
use crate::files;
use crate::record::Partition;
use crate::units::ByteSize;
use piece::Piece;
use reader::{FileReader, unreadable};

mod input;
mod pace;
mod piece;
mod reader;

#[cfg(test)]
mod tests;

/// The table entry.
pub static DRIVER: Driver<Box<dyn SourcePlan>> = Driver {
    name: "file",
    about: "lines of a file or of files that match a glob, also .gz and .zst",
    schema: |_| schemars::schema_for!(Config),
    check,
    ignored_keys: &[],
};

/// Config of the `file` source.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// A path or a glob, relative to the pipeline file. Files are read in the order of their names;
    /// `.gz` and `.zst` are unpacked. A file of exactly this name is that file, whatever is in its name.
    #[schemars(length(min = 1))]
    path: String,
    /// Most records a second; unset: as fast as they go out.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 1_000_000_000))]
    rate: Option<f64>,
    /// Start again at the end: `true` for ever, or how many times the input is read in all.
    #[serde(default)]
    repeat: Repeat,
    /// At the end of the last file wait for more, as `tail -F` does: a file that is not there yet is
    /// waited for, one that takes its name is read once the old one is at its end, a file that was cut
    /// is read from its beginning. Of a glob, the files that are there at the start are read, and the
    /// last of them by name is followed.
    #[serde(default)]
    follow: bool,
    /// Go on where the last run had everything confirmed. The default is `true`, and `false` with
    /// `repeat`.
    #[serde(default)]
    resume: Option<bool>,
    /// Longest line; a longer one ends the run with its place.
    #[serde(default = "line_max")]
    line_max: ByteSize,
}

/// How often the input is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Repeat {
    /// For ever, or once.
    Forever(bool),
    /// So many times in all.
    Times(NonZeroU32),
}

impl Default for Repeat {
    fn default() -> Self {
        Self::Forever(false)
    }
}

impl Repeat {
    fn times(self) -> Option<u32> {
        match self {
            Self::Forever(true) => None,
            Self::Forever(false) => Some(1),
            Self::Times(times) => Some(times.get()),
        }
    }
}

fn line_max() -> ByteSize {
    ByteSize(1 << 20)
}

/// A checked `file` source.
#[derive(Clone, Debug)]
struct Plan {
    config: Config,
    path: PathBuf,
    /// The path as a glob, if it is one; of the folder's own name nothing is meant as a glob.
    pattern: Option<Pattern>,
    folder: PathBuf,
    resume: bool,
}

fn check(config: Value, facts: &Facts) -> Result<Box<dyn SourcePlan>, Vec<Problem>> {
    let config: Config = driver::read(config)?;
    let repeats = config.repeat.times() != Some(1);
    let mut problems = Vec::new();
    if repeats && config.follow {
        problems.push(
            Problem::error("/repeat", "`repeat` and `follow` exclude each other")
                .help("a followed file has no end at which to start again"),
        );
    }
    if repeats && config.resume == Some(true) {
        problems.push(
            Problem::error("/resume", "`resume` and `repeat` exclude each other")
                .help("a repeated file has no one place to go on from"),
        );
    }
    within("/line_max", config.line_max, LINE_MAX, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Box::new(Plan {
        path: facts.path(&config.path),
        pattern: pattern(&facts.folder, &config.path),
        folder: facts.folder.clone(),
        resume: config.resume.unwrap_or(!repeats),
        config,
    }))
}

/// A path as a glob; `None` where it cannot be one.
fn pattern(folder: &Path, path: &str) -> Option<Pattern> {
    let folder = match Path::new(path).is_absolute() || folder.as_os_str().is_empty() {
        true => String::new(),
        false => Pattern::escape(&folder.to_string_lossy()) + "/",
    };
    Pattern::new(&(folder + path)).ok()
}

impl Plan {
    /// The files that the path names now, in order.
    fn files(&self) -> Result<Vec<PathBuf>, SourceError> {
        let name = || self.path.display().to_string();
        let files: Vec<PathBuf> = match &self.pattern {
            Some(pattern) if !self.path.exists() => glob::glob(pattern.as_str())
                .map_err(|error| SourceError::io(name(), io::Error::other(error)))?
                .filter_map(Result::ok)
                .filter(|path| path.is_file())
                .collect(),
            _ => vec![self.path.clone()],
        };
        if files.is_empty() {
            let error = io::Error::new(io::ErrorKind::NotFound, "no such file");
            return Err(SourceError::io(name(), error));
        }
        Ok(files)
    }

    fn partition(&self, path: &Path) -> Partition {
        let name = path.strip_prefix(&self.folder).unwrap_or(path);
        Partition::new(name.to_string_lossy())
    }

    /// What there is to read of a file after what the last run had settled: by the journal where that
    /// knows it, else by what `trail` remembers.
    fn left(
        &self,
        path: &Path,
        trail: Option<&Trail>,
        files: &[PathBuf],
        context: &SourceContext,
    ) -> Result<Vec<Piece>, SourceError> {
        let partition = self.partition(path);
        let resume_at = context.resume_at(&partition);
        let remembered = trail.and_then(|trail| trail.remembered(partition.name()));
        let Some(remembered) = remembered else {
            // Which file it was that the journal knows of, nobody knows.
            let mut whole = Piece::whole(path);
            whole.position = resume_at.unwrap_or(0);
            return Ok(vec![whole]);
        };
        let failed = |error| unreadable(path, error);
        let mut pieces = piece::left(path, &remembered, files).map_err(failed)?;
        let is_there = pieces[0].identity.as_ref() == Some(&remembered.file);
        match resume_at {
            Some(to) if is_there => {
                piece::seek(&mut pieces, remembered.at(), to).map_err(failed)?
            }
            _ => pieces[0].position = resume_at.unwrap_or(0).max(remembered.at()),
        }
        let position = pieces[0].offset;
        if position > 0 {
            tracing::info!(
                file = partition.name(),
                position,
                "going on where the last run ended; --fresh starts over"
            );
        }
        Ok(pieces)
    }
}

impl SourcePlan for Plan {
    fn describe(&self) -> String {
        format!("file {}", self.config.path)
    }

    fn replayable(&self) -> bool {
        true
    }

    fn begins_anew(&self) -> bool {
        !self.resume
    }

    fn warnings(&self) -> Vec<Problem> {
        let path = &self.config.path;
        let is_glob = self.pattern.is_some() && Pattern::escape(path) != *path;
        if !self.config.follow || !is_glob {
            return Vec::new();
        }
        let message = "of the files of a glob only the last by name is followed";
        vec![
            Problem::warning("/path", message).help(
                "the others are read to their end; name one file, or run a pipeline for each",
            ),
        ]
    }

    fn reads(&self, path: &Path) -> bool {
        let (own, path) = (files::plain(&self.path), files::plain(path));
        let options = MatchOptions {
            require_literal_separator: true,
            ..MatchOptions::default()
        };
        let matches = |pattern: &Pattern| {
            let pattern = files::plain(Path::new(pattern.as_str()));
            Pattern::new(&pattern.to_string_lossy())
                .is_ok_and(|pattern| pattern.matches_path_with(&path, options))
        };
        own == path || self.pattern.as_ref().is_some_and(matches)
    }

    fn open(&self, context: SourceContext) -> BoxFuture<'_, Result<Source, SourceError>> {
        Box::pin(async move {
            let files = match self.files() {
                Err(SourceError::Io { context, error })
                    if self.config.follow && error.kind() == io::ErrorKind::NotFound =>
                {
                    tracing::info!(file = context, "not there yet; waiting for it");
                    Vec::new()
                }
                files => files?,
            };
            if self.config.follow && files.len() > 1 {
                tracing::warn!(
                    files = files.len(),
                    "only the last of these files is followed: {}",
                    files[files.len() - 1].display()
                );
            }
            let trail = match self.resume {
                true => {
                    let path = context.state_dir.join("positions.json");
                    Some(Trail::open(path, context.fresh)?)
                }
                false => None,
            };
            let mut start = Checkpoint::default();
            let mut left = VecDeque::new();
            for path in &files {
                let pieces = self.left(path, trail.as_ref(), &files, &context)?;
                if pieces[0].position > 0 {
                    start.start_at(self.partition(path), pieces[0].position);
                }
                left.extend(pieces);
            }
            let committer: Box<dyn Committer> = match &trail {
                Some(trail) => Box::new(trail.clone()),
                None => Box::new(Forgetful),
            };
            let reader = FileReader::new(self.clone(), context, files, left, trail)?;
            Ok(Source {
                reader: Box::new(reader),
                committer,
                start,
            })
        })
    }
}

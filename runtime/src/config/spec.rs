//! The spec: a pipeline file as it was written, every value and every key with its place.
//!
//! Owns the tree of values and the lines they stand on. Never expands a name and knows no key: `expand`
//! and `check` do. Only this module and its parts name the YAML crate.

use std::path::{Path, PathBuf};

use serde_json::{Number, Value};
use serde_yaml::granit_parser::Span;

use super::diagnostic::{Diagnostic, Severity};

mod build;
mod scalar;
mod syntax;

pub(super) use scalar::resolve;

/// Largest pipeline file.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Where something stands in the file; lines and columns from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its first line.
    pub line: usize,
    /// The column on it, in characters.
    pub column: usize,
    /// How many characters of the first line it takes.
    pub width: usize,
    /// Its last line.
    pub line_end: usize,
}

impl Place {
    /// Whether a line and column are inside it.
    pub(super) fn contains(&self, (line, column): (usize, usize)) -> bool {
        line == self.line && (self.column..self.column + self.width).contains(&column)
            || (self.line + 1..=self.line_end).contains(&line)
    }
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub kind: Kind,
    /// Where it is written.
    pub place: Place,
    /// The scalar as written, when names in it were expanded: it may be shown, the value may not (I7).
    pub written: Option<String>,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text; whether it was quoted is not remembered.
    Text(String),
    /// A list; `true`: in brackets, on its own lines otherwise.
    List(Vec<Node>, bool),
    /// A map, in the order written; `true`: in braces.
    Map(Vec<(Key, Node)>, bool),
}

/// A key of a map with its place.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key.
    pub name: String,
    /// Where it is written.
    pub place: Place,
}

impl Node {
    /// The value as JSON.
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(truth) => Value::Bool(*truth),
            Kind::Number(number) => Value::Number(number.clone()),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(items, _) => items.iter().map(Node::to_json).collect(),
            Kind::Map(entries, _) => entries
                .iter()
                .map(|(key, node)| (key.name.clone(), node.to_json()))
                .collect(),
        }
    }

    /// The value of `key`, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    /// Key and value of `key`.
    pub fn entry(&self, name: &str) -> Option<(&Key, &Node)> {
        match &self.kind {
            Kind::Map(entries, _) => entries
                .iter()
                .find(|(key, _)| key.name == name)
                .map(|(key, node)| (key, node)),
            _ => None,
        }
    }

    /// What a JSON pointer leads to: the nearest value that is there, its key, and whether the whole
    /// pointer was followed.
    pub fn locate(&self, pointer: &str) -> Located<'_> {
        let mut found = Located {
            node: self,
            key: None,
            whole: true,
        };
        for segment in pointer.split('/').skip(1) {
            let name = segment.replace("~1", "/").replace("~0", "~");
            let next = match &found.node.kind {
                Kind::Map(..) => found.node.entry(&name).map(|(key, node)| (Some(key), node)),
                Kind::List(items, _) => name
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index))
                    .map(|node| (None, node)),
                _ => None,
            };
            match next {
                Some((key, node)) => {
                    found.node = node;
                    found.key = key;
                }
                None => {
                    found.whole = false;
                    break;
                }
            }
        }
        found
    }

    /// Whether any scalar in it was expanded from a name.
    pub fn expanded(&self) -> bool {
        match &self.kind {
            Kind::List(items, _) => items.iter().any(Node::expanded),
            Kind::Map(entries, _) => entries.iter().any(|(_, node)| node.expanded()),
            _ => self.written.is_some(),
        }
    }
}

/// What [`Node::locate`] finds.
#[derive(Clone, Copy, Debug)]
pub struct Located<'a> {
    /// The value.
    pub node: &'a Node,
    /// Its key, where it is the value of one.
    pub key: Option<&'a Key>,
    /// Whether the pointer led to it, not only near it.
    pub whole: bool,
}

impl Located<'_> {
    /// Where to point: at a value on one line, at the key of a block.
    pub fn place(&self) -> Place {
        match (&self.node.kind, self.key) {
            (Kind::List(_, false) | Kind::Map(_, false) | Kind::Null, Some(key)) => key.place,
            _ => self.node.place,
        }
    }

    /// Where to point when something is missing in it.
    pub fn owner(&self) -> Place {
        self.key.map_or_else(|| self.node.place, |key| key.place)
    }
}

/// A pipeline file as written.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Its lines.
    lines: Vec<String>,
    /// The document.
    pub root: Node,
}

impl Spec {
    /// Reads `text`. What can be told beside the rest (a duplicate key) comes with the spec.
    ///
    /// # Errors
    /// Text that is no YAML, or more than a pipeline file may be.
    pub fn parse(file: &Path, text: &[u8]) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut spec = Self {
            file: file.to_owned(),
            lines: Vec::new(),
            root: Node {
                kind: Kind::Null,
                place: Place::default(),
                written: None,
            },
        };
        if text.len() > FILE_BYTES_MAX {
            let problem = spec
                .error(
                    Place::default(),
                    "the file has more than 1 MiB, which is the most of a pipeline file",
                )
                .help("records belong into a source, long texts into files read with ${file:PATH}");
            return Err(vec![problem]);
        }
        let text = match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(error) => {
                let before = String::from_utf8_lossy(&text[..error.valid_up_to()]);
                spec.lines = lines_of(&before);
                let place = Place {
                    line: spec.lines.len().max(1),
                    column: spec.lines.last().map_or(0, |line| line.chars().count()) + 1,
                    width: 1,
                    line_end: 0,
                };
                let problem = spec
                    .error(place, "the file is not UTF-8 from here on")
                    .help("save it as UTF-8");
                return Err(vec![problem]);
            }
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        spec.lines = lines_of(text);
        let (built, problems) = build::build(&spec, text);
        match built {
            Ok(root) => {
                spec.root = root;
                Ok((spec, problems))
            }
            Err(problem) => Err(problems.into_iter().chain([*problem]).collect()),
        }
    }

    /// An error at a place of this file.
    pub fn error(&self, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            file: self.file.display().to_string(),
            line: place.line,
            column: place.column,
            message: message.into(),
            help: None,
            source: self.line(place.line).to_owned(),
            width: place.width,
        }
    }

    /// A warning at a place of this file.
    pub fn warning(&self, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            ..self.error(place, message)
        }
    }

    /// A line as written, without its end; empty past the end.
    pub fn line(&self, line: usize) -> &str {
        line.checked_sub(1)
            .and_then(|index| self.lines.get(index))
            .map_or("", String::as_str)
    }

    /// Where `needle` is written inside `place`; `place` itself where it is not written literally.
    pub fn find(&self, place: Place, needle: &str) -> Place {
        for line in place.line..=place.line_end.max(place.line) {
            let text = self.line(line);
            let skip = if line == place.line {
                place.column - 1
            } else {
                0
            };
            let from = text
                .char_indices()
                .nth(skip)
                .map_or(text.len(), |(at, _)| at);
            if let Some(at) = text[from..].find(needle) {
                return Place {
                    line,
                    column: text[..from + at].chars().count() + 1,
                    width: needle.chars().count(),
                    line_end: line,
                };
            }
        }
        place
    }

    fn place(&self, span: Span, block: bool) -> Place {
        let (start, end) = (span.start, span.end);
        let line_length = self.line(start.line()).trim_end().chars().count();
        let width = if block {
            line_length.saturating_sub(start.col())
        } else if end.line() == start.line() {
            end.col().saturating_sub(start.col())
        } else {
            line_length.saturating_sub(start.col())
        };
        Place {
            line: start.line(),
            column: start.col() + 1,
            width: width.max(1),
            line_end: end.line(),
        }
    }
}

fn lines_of(text: &str) -> Vec<String> {
    text.split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned())
        .collect()
}

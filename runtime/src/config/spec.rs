//! The spec: a pipeline file as it was written, every value and every key with its place.
//!
//! Owns the tree of values and the lines they stand on. Never expands a name and knows no key: `expand`
//! and `check` do. Only this module and its parts name the YAML crate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Number, Value};
use serde_yaml::granit_parser::Span;

use super::diagnostic::{Diagnostic, Excerpt, Severity};

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
    /// A scalar without quotes that stands for no text, as written: `007`, `1.50`, `True`.
    pub plain: Option<String>,
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

    /// The value that a JSON pointer leads to.
    pub(super) fn at(&self, pointer: &str) -> Option<&Node> {
        let located = self.locate(pointer);
        located.whole.then_some(located.node)
    }

    /// Every scalar in it that was expanded, as it is written, by its JSON pointer.
    pub(super) fn all_written(&self) -> BTreeMap<String, String> {
        fn gather(node: &Node, pointer: &str, written: &mut BTreeMap<String, String>) {
            match &node.kind {
                Kind::List(items, _) => items.iter().enumerate().for_each(|(index, item)| {
                    gather(item, &format!("{pointer}/{index}"), written);
                }),
                Kind::Map(entries, _) => entries.iter().for_each(|(key, value)| {
                    let name = key.name.replace('~', "~0").replace('/', "~1");
                    gather(value, &format!("{pointer}/{name}"), written);
                }),
                _ => written.extend(
                    node.written
                        .iter()
                        .map(|as_written| (pointer.to_owned(), as_written.clone())),
                ),
            }
        }
        let mut written = BTreeMap::new();
        gather(self, "", &mut written);
        written
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
    lines: Vec<Line>,
    /// The document.
    pub root: Node,
}

/// A line of the file.
#[derive(Clone, Debug, Default)]
struct Line {
    text: String,
    /// Characters without the white space at its end: counted once, since a thousand values may stand on
    /// one line.
    chars: usize,
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
                plain: None,
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
                    column: spec
                        .lines
                        .last()
                        .map_or(0, |line| line.text.chars().count())
                        + 1,
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
            excerpt: Excerpt::of(
                self.line(place.line),
                self.line_chars(place.line),
                place.column,
            ),
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
            .map_or("", |line| line.text.as_str())
    }

    /// How many characters a line has, without the white space at its end.
    fn line_chars(&self, line: usize) -> usize {
        line.checked_sub(1)
            .and_then(|index| self.lines.get(index))
            .map_or(0, |line| line.chars)
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
        let line_length = self.line_chars(start.line());
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

fn lines_of(text: &str) -> Vec<Line> {
    text.split('\n')
        .map(|line| {
            let line = line.strip_suffix('\r').unwrap_or(line);
            Line {
                text: line.to_owned(),
                chars: line.trim_end().chars().count(),
            }
        })
        .collect()
}

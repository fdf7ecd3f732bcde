//! The spec: a pipeline file as it was written, every value and every key with its place.
//!
//! Owns reading YAML and its bounds (size, depth, aliases), so no text makes it hang or panic. Never
//! expands a name and knows no key: `expand` and `check` do. The only file that names the YAML crate.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Number, Value};
use serde_yaml::granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::diagnostic::{Diagnostic, Severity};

/// Largest pipeline file.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of lists and maps.
const DEPTH_MAX: usize = 64;
/// Most values in a file once its aliases are written out.
const NODES_MAX: usize = 100_000;

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
                    format!(
                        "the file has {} bytes; a pipeline file has at most 1 MiB",
                        text.len()
                    ),
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
        let mut builder = Builder::new(&spec);
        let built = builder.build(text);
        let problems = builder.problems;
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

impl Diagnostic {
    /// The same with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

fn lines_of(text: &str) -> Vec<String> {
    text.split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned())
        .collect()
}

/// How much a value holds, so that aliases cannot multiply without bound.
#[derive(Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    height: usize,
}

/// A list or map that is being read.
struct Open {
    node: Node,
    key: Option<Key>,
    anchor: usize,
    weight: Weight,
    lines_by_key: HashMap<String, usize>,
}

struct Builder<'a> {
    spec: &'a Spec,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, Weight)>,
    nodes: usize,
    root: Option<Node>,
    documents: usize,
    problems: Vec<Diagnostic>,
}

type Fatal = Box<Diagnostic>;

impl<'a> Builder<'a> {
    fn new(spec: &'a Spec) -> Self {
        Self {
            spec,
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            root: None,
            documents: 0,
            problems: Vec::new(),
        }
    }

    fn build(&mut self, text: &str) -> Result<Node, Fatal> {
        let mut options = serde_yaml::granit_parser::options! {
            flow_nesting_limit: DEPTH_MAX,
            block_nesting_limit: DEPTH_MAX,
        };
        options.set_emit_comments(false);
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|error| self.syntax(&error))?;
            self.event(event, span)?;
        }
        self.root.take().ok_or_else(|| {
            Box::new(
                self.spec
                    .error(Place::default(), "the file is empty")
                    .help("a pipeline has at least `service`, `source` and `sink`"),
            )
        })
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Fatal> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(self.fatal(
                        self.spec.place(span, true),
                        "a second document starts here",
                        "a pipeline file is one document: put each pipeline into its own file",
                    ));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let place = self.spec.place(span, false);
                let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
                let kind = match tag.as_deref() {
                    Some("tag:yaml.org,2002:str" | "!") => Kind::Text(text.into_owned()),
                    Some(tag) if !tag.starts_with("tag:yaml.org,2002:") => {
                        return Err(self.tagged(span.tag_span().unwrap_or(span), tag));
                    }
                    _ if style == ScalarStyle::Plain => resolve(&text),
                    _ => Kind::Text(text.into_owned()),
                };
                let written = None;
                self.close(
                    Node {
                        kind,
                        place,
                        written,
                    },
                    anchor,
                    Weight::default(),
                )?;
            }
            Event::SequenceStart(style, anchor, tag) => {
                let flow = style == serde_yaml::granit_parser::StructureStyle::Flow;
                let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
                self.start(Kind::List(Vec::new(), flow), span, flow, anchor, tag)?;
            }
            Event::MappingStart(style, anchor, tag) => {
                let flow = style == serde_yaml::granit_parser::StructureStyle::Flow;
                let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
                self.start(Kind::Map(Vec::new(), flow), span, flow, anchor, tag)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let mut open = self.open.pop().expect("the parser balances its events");
                if matches!(open.node.kind, Kind::List(_, true) | Kind::Map(_, true)) {
                    let end: Marker = span.end;
                    let place = &mut open.node.place;
                    place.line_end = end.line();
                    place.width = if end.line() == place.line {
                        (end.col() + 1).saturating_sub(place.column).max(1)
                    } else {
                        1
                    };
                }
                self.close(open.node, open.anchor, open.weight)?;
            }
            Event::Alias(anchor) => {
                let place = self.spec.place(span, false);
                let Some((node, weight)) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.fatal(
                        place,
                        "this alias stands inside the value that it names",
                        "write the value out",
                    ));
                };
                self.grow(weight.nodes, place)?;
                self.close(node, 0, weight)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn start(
        &mut self,
        kind: Kind,
        span: Span,
        flow: bool,
        anchor: usize,
        tag: Option<String>,
    ) -> Result<(), Fatal> {
        let place = self.spec.place(span, !flow);
        if let Some(tag) = tag.filter(|tag| !tag.starts_with("tag:yaml.org,2002:")) {
            return Err(self.tagged(span.tag_span().unwrap_or(span), &tag));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(self.too_deep(place));
        }
        if let Some(Open {
            node, key: None, ..
        }) = self.open.last()
            && matches!(node.kind, Kind::Map(..))
        {
            return Err(self.fatal(
                place,
                "a list or map cannot be a key",
                "a key is text; was a quote forgotten around a value with { or [ in it?",
            ));
        }
        self.open.push(Open {
            node: Node {
                kind,
                place,
                written: None,
            },
            key: None,
            anchor,
            weight: Weight::default(),
            lines_by_key: HashMap::new(),
        });
        Ok(())
    }

    /// A value is complete: it becomes a key, an entry, an item or the root.
    fn close(&mut self, node: Node, anchor: usize, inner: Weight) -> Result<(), Fatal> {
        let weight = Weight {
            nodes: inner.nodes + 1,
            height: inner.height + 1,
        };
        self.grow(1, node.place)?;
        if anchor != 0 {
            self.grow(weight.nodes, node.place)?;
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        if self.open.len() + weight.height > DEPTH_MAX + 1 {
            return Err(self.too_deep(node.place));
        }
        let spec = self.spec;
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.weight.nodes += weight.nodes;
        open.weight.height = open.weight.height.max(weight.height);
        match &mut open.node.kind {
            Kind::List(items, _) => items.push(node),
            Kind::Map(entries, _) => match open.key.take() {
                None => open.key = Some(Key::of(&node, spec)),
                Some(key) => {
                    if key.name == "<<" {
                        self.problems.push(
                            spec.error(key.place, "merge keys (`<<`) are not supported")
                                .help("write the keys out, or use an alias for a whole value"),
                        );
                    } else if let Some(first) = open.lines_by_key.get(&key.name) {
                        self.problems.push(
                            spec.error(key.place, format!("duplicate key `{}`", key.name))
                                .help(format!("it is first on line {first}; keep one of them")),
                        );
                    } else {
                        open.lines_by_key.insert(key.name.clone(), key.place.line);
                        entries.push((key, node));
                    }
                }
            },
            _ => unreachable!("only lists and maps are opened"),
        }
        Ok(())
    }

    fn grow(&mut self, nodes: usize, place: Place) -> Result<(), Fatal> {
        self.nodes += nodes;
        if self.nodes <= NODES_MAX {
            return Ok(());
        }
        Err(self.fatal(
            place,
            format!("with this the file holds more than {NODES_MAX} values"),
            "aliases (`*name`) count as what they stand for",
        ))
    }

    fn fatal(&self, place: Place, message: impl Into<String>, help: &str) -> Fatal {
        Box::new(self.spec.error(place, message).help(help))
    }

    fn too_deep(&self, place: Place) -> Fatal {
        self.fatal(place, too_deep_words(), TOO_DEEP_HELP)
    }

    fn tagged(&self, span: Span, tag: &str) -> Fatal {
        self.fatal(
            self.spec.place(span, false),
            format!("the tag `{tag}` means nothing here"),
            "remove it; quote the value if it should start with `!`",
        )
    }

    fn syntax(&self, error: &ScanError) -> Fatal {
        let marker = error.marker();
        let line = marker.line().clamp(1, self.spec.lines.len().max(1));
        let text = self.spec.line(line);
        let length = text.chars().count();
        let mut place = Place {
            line,
            column: marker.col().min(length) + 1,
            width: 1,
            line_end: line,
        };
        let indent = text.chars().take_while(|c| c.is_whitespace());
        if let Some(tab) = indent.clone().position(|c| c == '\t') {
            place.column = tab + 1;
            return self.fatal(
                place,
                "a tab is used for indentation",
                "YAML is indented with spaces",
            );
        }
        // `[a: b` holds a map without a bracket of its own.
        let bracket = self.open.iter().rev().find(|open| {
            let place = open.node.place;
            let written = self.spec.line(place.line).chars().nth(place.column - 1);
            matches!(open.node.kind, Kind::List(_, true) | Kind::Map(_, true))
                && matches!(written, Some('[' | '{'))
                && place.line < line
        });
        if let Some(bracket) = bracket {
            let place = Place {
                width: 1,
                ..bracket.node.place
            };
            return self.fatal(
                place,
                format!("this bracket is not closed before line {line}"),
                "close it, or put quotes around a value that starts with a bracket",
            );
        }
        let (message, help) = syntax_words(error);
        match help {
            Some(help) => self.fatal(place, message, help),
            None => Box::new(self.spec.error(place, message)),
        }
    }
}

impl Key {
    /// A scalar as a key: as it is written, so that `1`, `on` and `null` are keys too.
    fn of(node: &Node, spec: &Spec) -> Self {
        let name = match &node.kind {
            Kind::Text(text) => text.clone(),
            _ => {
                let line = spec.line(node.place.line);
                let written = line.chars().skip(node.place.column - 1);
                written.take(node.place.width).collect()
            }
        };
        Self {
            name,
            place: node.place,
        }
    }
}

/// What a scan error means for the person who wrote the line.
fn syntax_words(error: &ScanError) -> (String, Option<&'static str>) {
    use ErrorKind::{
        DocumentIndicatorInQuotedScalar, ExpectedBlockMappingKey, ExpectedBlockSequenceEntry,
        InvalidIndentation, InvalidQuotedScalarIndent, InvalidSimpleKey, MappingValueNotAllowed,
        MisplacedFlowCollectionEnd, RecursionLimitExceeded, SimpleKeyExpected, TabInPlainScalar,
        TabNotAllowed, UnclosedQuotedScalar, UnknownAnchor, UnknownQuotedScalarEscape,
    };
    let info = error.info();
    let (message, help) = match error.kind() {
        TabNotAllowed | TabInPlainScalar => ("a tab stands where only spaces may", "use spaces"),
        UnknownAnchor => (
            "this alias names no anchor above it",
            "an anchor is written `&name` before the value; quote a value that starts with `*`",
        ),
        MappingValueNotAllowed => (
            "a key cannot start here: this line already has a value",
            "quote a value with `: ` in it, or start a new line",
        ),
        ExpectedBlockMappingKey | ExpectedBlockSequenceEntry | InvalidIndentation => (
            "the indentation fits none of the lines above",
            "keys of one map, and items of one list, start in the same column",
        ),
        UnclosedQuotedScalar | InvalidQuotedScalarIndent | DocumentIndicatorInQuotedScalar => (
            "a quote that is opened above is not closed before this",
            "close it; a text of several lines is indented, or written after `|`",
        ),
        UnknownQuotedScalarEscape => (
            "this backslash escapes nothing that YAML knows",
            "write `\\\\` for a backslash, or use single quotes",
        ),
        MisplacedFlowCollectionEnd => (
            "this bracket closes nothing",
            "remove it, or put quotes around the value",
        ),
        SimpleKeyExpected | InvalidSimpleKey => (
            "a `:` is missing after this key",
            "write `key: value`, with a space after the colon",
        ),
        RecursionLimitExceeded => return (too_deep_words(), Some(TOO_DEEP_HELP)),
        _ if info.contains("nest") || info.contains("recursion") => {
            return (too_deep_words(), Some(TOO_DEEP_HELP));
        }
        _ => {
            let what = info
                .rsplit_once(", ")
                .map_or(info.as_str(), |(_, what)| what);
            return (format!("this is not YAML: {what}"), None);
        }
    };
    (message.to_owned(), Some(help))
}

const TOO_DEEP_HELP: &str =
    "no pipeline needs that: look for a bracket or an indentation gone wrong";

fn too_deep_words() -> String {
    format!("lists and maps are nested deeper than {DEPTH_MAX} levels")
}

/// What a plain scalar stands for (YAML 1.2 core schema).
pub(super) fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    match number(text) {
        Some(number) => Kind::Number(number),
        None => Kind::Text(text.to_owned()),
    }
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().map(Number::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).ok().map(Number::from);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !unsigned.contains(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let signed = text.strip_prefix('+').unwrap_or(text);
        if let Ok(number) = signed.parse::<u64>() {
            return Some(number.into());
        }
        if let Ok(number) = signed.parse::<i64>() {
            return Some(number.into());
        }
    }
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !unsigned.chars().all(plain) {
        return None;
    }
    text.parse::<f64>().ok().and_then(Number::from_f64)
}

//! From YAML events to the tree of values.
//!
//! Owns the bounds of a document (depth, values, aliases), so that no text makes it hang or panic, and
//! what YAML allows and a pipeline file does not (tags, duplicate keys, several documents).

use std::collections::HashMap;

use serde_yaml::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::scalar::resolve;
use super::syntax::{TOO_DEEP_HELP, syntax_words, too_deep_words};
use super::{Key, Kind, Node, Place, Spec};
use crate::config::diagnostic::{Diagnostic, FINDINGS_MAX};

/// Deepest nesting of lists and maps.
pub(super) const DEPTH_MAX: usize = 64;
/// Most values in a file once its aliases are written out.
const NODES_MAX: usize = 100_000;

/// Reads `text`, whose lines `spec` has. Problems that do not end the reading come beside.
pub(super) fn build(spec: &Spec, text: &str) -> (Result<Node, Fatal>, Vec<Diagnostic>) {
    let mut builder = Builder::new(spec);
    let built = builder.build(text);
    (built, builder.problems)
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

/// What ends the reading.
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
                    Some("tag:yaml.org,2002:str" | "!") => Kind::Text(text.clone().into_owned()),
                    Some(tag) if !tag.starts_with("tag:yaml.org,2002:") => {
                        return Err(self.tagged(span.tag_span().unwrap_or(span), tag));
                    }
                    _ if style == ScalarStyle::Plain => resolve(&text),
                    _ => Kind::Text(text.clone().into_owned()),
                };
                let plain = (!matches!(kind, Kind::Text(_))).then(|| text.into_owned());
                self.close(
                    Node {
                        kind,
                        place,
                        written: None,
                        plain,
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
                plain: None,
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
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.weight.nodes += weight.nodes;
        open.weight.height = open.weight.height.max(weight.height);
        match &mut open.node.kind {
            Kind::List(items, _) => items.push(node),
            Kind::Map(entries, _) => match open.key.take() {
                None => open.key = Some(Key::of(node)),
                Some(key) => {
                    let problem = if key.name == "<<" {
                        Some((
                            "merge keys (`<<`) are not supported".to_owned(),
                            "write the keys out, or use an alias for a whole value".to_owned(),
                        ))
                    } else {
                        open.lines_by_key.get(&key.name).map(|first| {
                            (
                                format!("duplicate key `{}`", key.name),
                                format!("it is first on line {first}; keep one of them"),
                            )
                        })
                    };
                    if let Some((message, help)) = problem {
                        if self.problems.len() <= FINDINGS_MAX {
                            let problem = self.spec.error(key.place, message);
                            self.problems.push(problem.help(help));
                        }
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
    fn of(node: Node) -> Self {
        let name = match node.kind {
            Kind::Text(text) => text,
            _ => node.plain.unwrap_or_default(),
        };
        Self {
            name,
            place: node.place,
        }
    }
}

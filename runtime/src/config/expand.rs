//! Names in values: `${NAME}`, `${NAME:-default}`, `${file:PATH}`, and `$${` for a literal `${`.
//!
//! Owns their grammar and the redaction of what they stood for (I7). Expands parsed scalars only,
//! never YAML text, and never keys. Does no I/O: the environment and the file reader are given.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, FINDINGS_MAX};
use super::spec::{Kind, Node, Place, Spec};

/// Looks up a variable of the environment.
pub type Variable = dyn Fn(&str) -> Option<String> + Send + Sync;
/// Reads a file that a value names, or says why it cannot.
pub type ReadFile = dyn Fn(&Path) -> Result<String, String> + Send + Sync;

/// Where names get their values.
#[derive(Clone)]
pub struct Environment {
    /// `${NAME}`; an empty variable is set.
    pub variable: Arc<Variable>,
    /// `${file:PATH}`, the path already relative to the pipeline file.
    pub file: Arc<ReadFile>,
}

impl Environment {
    /// An environment with these variables and no files.
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            variable: Arc::new(move |wanted| {
                let mut all = variables.iter();
                all.find(|(name, _)| name == wanted)
                    .map(|(_, value)| value.clone())
            }),
            file: Arc::new(|_| Err("no files here".to_owned())),
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

/// What was expanded, so that no message repeats it (I7).
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets {
    /// Value and how it was written, longest value first.
    pairs: Vec<(String, String)>,
}

/// Shorter values are words like `1` or `eu` that may stand in a message by chance.
const REDACTED_ANYWHERE_CHARS_MIN: usize = 6;

impl Secrets {
    fn add(&mut self, value: &str, written: &str) {
        let known = |pair: &(String, String)| pair.0 == value && pair.1 == written;
        if !value.is_empty() && value != written && !self.pairs.iter().any(known) {
            let longer = |pair: &(String, String)| pair.0.len() >= value.len();
            let at = self.pairs.partition_point(longer);
            self.pairs
                .insert(at, (value.to_owned(), written.to_owned()));
        }
    }

    /// `text` with every expanded value as it was written; short values only where `near`, in what
    /// is said of an expanded value itself.
    pub(super) fn redact(&self, text: &str, near: bool) -> String {
        let mut text = text.to_owned();
        for (value, written) in &self.pairs {
            let enough = near || value.chars().count() >= REDACTED_ANYWHERE_CHARS_MIN;
            if enough && text.contains(value.as_str()) && !written.contains(value.as_str()) {
                text = text.replace(value.as_str(), written);
            }
        }
        text
    }
}

/// A copy of `node` with every name expanded; names that cannot be are reported at their place and
/// left as written.
pub(super) fn expand(
    spec: &Spec,
    node: &Node,
    environment: &Environment,
    secrets: &mut Secrets,
    problems: &mut Vec<Diagnostic>,
) -> Node {
    let mut copy = node.clone();
    let mut expander = Expander {
        spec,
        environment,
        secrets,
        problems,
    };
    expander.node(&mut copy);
    copy
}

struct Expander<'a> {
    spec: &'a Spec,
    environment: &'a Environment,
    secrets: &'a mut Secrets,
    problems: &'a mut Vec<Diagnostic>,
}

impl Expander<'_> {
    fn node(&mut self, node: &mut Node) {
        match &mut node.kind {
            Kind::List(items, _) => items.iter_mut().for_each(|item| self.node(item)),
            Kind::Map(entries, _) => entries.iter_mut().for_each(|(_, value)| self.node(value)),
            Kind::Text(text) if text.contains("${") => {
                let written = text.clone();
                let (value, named) = self.text(&written, node.place);
                if named {
                    self.secrets.add(&value, &written);
                    node.written = Some(written);
                }
                node.kind = Kind::Text(value);
            }
            _ => {}
        }
    }

    /// The text with its names expanded, and whether there was one.
    fn text(&mut self, written: &str, place: Place) -> (String, bool) {
        let mut value = String::new();
        let mut named = false;
        let mut rest = written;
        while let Some(at) = rest.find("${") {
            if let Some(before) = rest[..at].strip_suffix('$') {
                value.push_str(before);
                value.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            value.push_str(&rest[..at]);
            named = true;
            let Some(end) = rest[at..].find('}') else {
                let help = "end the name with `}`; write `$${` for a literal `${`";
                self.problem(place, &rest[at..], "`${` is not closed", help);
                value.push_str(&rest[at..]);
                return (value, named);
            };
            let whole = &rest[at..=at + end];
            match self.lookup(&whole[2..whole.len() - 1]) {
                Ok(found) => {
                    self.secrets.add(&found, whole);
                    value.push_str(&found);
                }
                Err((message, help)) => {
                    self.problem(place, whole, &message, &help);
                    value.push_str(whole);
                }
            }
            rest = &rest[at + end + 1..];
        }
        value.push_str(rest);
        (value, named)
    }

    /// Notes what is wrong with `part`, which stands inside `place`.
    fn problem(&mut self, place: Place, part: &str, message: &str, help: &str) {
        if self.problems.len() <= FINDINGS_MAX {
            let place = self.spec.find(place, part);
            self.problems
                .push(self.spec.error(place, message).help(help));
        }
    }

    /// The value of what stands between the braces, or what is wrong and what to do.
    fn lookup(&self, inside: &str) -> Result<String, (String, String)> {
        if let Some(path) = inside.strip_prefix("file:") {
            let folder = self.spec.file.parent().unwrap_or(Path::new(""));
            let full = folder.join(path);
            return match (self.environment.file)(&full) {
                Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
                Err(why) => Err((
                    format!("cannot read `{path}`: {why}"),
                    "the path is relative to the pipeline file".to_owned(),
                )),
            };
        }
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.chars().all(legal)
        {
            return Err((
                format!("`{name}` is not a name of an environment variable"),
                "write ${NAME}, ${NAME:-default} or ${file:PATH}; `$${` is a literal `${`"
                    .to_owned(),
            ));
        }
        match ((self.environment.variable)(name), default) {
            (Some(value), None) => Ok(value),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value),
            (_, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err((
                format!("the environment variable `{name}` is not set"),
                format!("set it, or give a default: ${{{name}:-default}}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_expanded_is_put_back_as_written_i7() {
        let mut secrets = Secrets::default();
        secrets.add("hunter2-hunter2", "${TOKEN}");
        secrets.add("Bearer hunter2-hunter2", "Bearer ${TOKEN}");
        secrets.add("eu", "${REGION}");
        let told = "no peer for Bearer hunter2-hunter2 in eu: hunter2-hunter2 is refused";
        assert_eq!(
            secrets.redact(told, false),
            "no peer for Bearer ${TOKEN} in eu: ${TOKEN} is refused"
        );
        assert_eq!(
            secrets.redact("eu is no port", true),
            "${REGION} is no port"
        );
    }

    #[test]
    fn names_expand_in_one_pass_and_dollars_stay() {
        let text = b"a: \"$${A} ${A} ${NO:-d} ${EMPTY:-e}$\"\n";
        let (spec, _) = Spec::parse(Path::new("p.yaml"), text).unwrap();
        let environment = Environment::of([("A", "${B}"), ("B", "never"), ("EMPTY", "")]);
        let mut problems = Vec::new();
        let root = expand(
            &spec,
            &spec.root,
            &environment,
            &mut Secrets::default(),
            &mut problems,
        );
        assert_eq!(root.to_json()["a"], "${A} ${B} d e$");
        assert!(problems.is_empty());
    }
}

//! What the check says: values against their schemas, problems at their places, secrets out of both.

use serde_json::Value;

use super::Checker;
use crate::config::diagnostic::{FINDINGS_MAX, Severity};
use crate::config::scalars;
use crate::config::spec::{Kind, Located, Node, Place};
use crate::config::words::{self, At, Finding};
use crate::driver::Problem;

impl Checker {
    /// Reports everything in `value` that does not fit and takes it out, so that what is left can be
    /// checked further; expanded values become what is asked for. Whether what is left fits.
    pub(super) fn validate(&mut self, pointer: &str, schema: &Value, value: &mut Value) -> bool {
        let part = self.root.locate(pointer);
        let empty = Node {
            kind: Kind::Null,
            place: Place::default(),
            written: None,
            plain: None,
        };
        let part = if part.whole { part.node.clone() } else { empty };
        scalars::coerce(schema, value, &|at| part.at(at));
        let shown = |at: &str| {
            let located = part.locate(at);
            located
                .whole
                .then(|| located.node.written.clone())
                .flatten()
        };
        match words::findings(&dotted(pointer), schema, value, &shown) {
            Ok(findings) => {
                if findings.is_empty() {
                    return true;
                }
                for finding in findings {
                    let cut = cut(value, &finding);
                    self.finding(pointer, finding);
                    self.cut.extend(cut.map(|cut| format!("{pointer}{cut}")));
                }
                words::fits(schema, value)
            }
            Err(error) => {
                let message = format!("the schema of {} is wrong: {error}", dotted(pointer));
                let problem =
                    Problem::error("", message).help("the plugin's author has to mend it");
                self.problem(pointer, problem);
                false
            }
        }
    }

    /// Whether what is said of the value at `pointer` only follows from what was cut out there or beside it.
    fn follows_a_cut(&self, pointer: &str, message: &str) -> bool {
        self.cut.iter().any(|cut| {
            let (owner, key) = cut.rsplit_once('/').unwrap_or_default();
            let inside = pointer
                .strip_prefix(cut.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            let beside =
                pointer == owner || pointer.rsplit_once('/').is_some_and(|(of, _)| of == owner);
            inside || beside && message.contains(&format!("`{key}`"))
        })
    }

    pub(super) fn finding(&mut self, prefix: &str, finding: Finding) {
        let pointer = format!("{prefix}{}", finding.pointer);
        if self.follows_a_cut(&pointer, "") {
            return;
        }
        let located = self.root.locate(&pointer);
        let place = match &finding.at {
            At::Value => value_place(located),
            At::Missing(_) if prefix.is_empty() && finding.pointer.is_empty() => Place::default(),
            At::Missing(_) => located.owner(),
            At::Unknown(key, _) => match located.node.entry(key) {
                Some((key, _)) => key.place,
                None => located.owner(),
            },
        };
        self.report(
            place,
            finding.message,
            finding.help,
            false,
            located.node.expanded(),
        );
    }

    pub(super) fn problem(&mut self, prefix: &str, problem: Problem) {
        // `../stream_schema`: beside the config.
        let pointer = match problem.pointer.strip_prefix("..") {
            Some(beside) => {
                let component = prefix
                    .rsplit_once('/')
                    .map_or("", |(component, _)| component);
                format!("{component}{beside}")
            }
            None => format!("{prefix}{}", problem.pointer),
        };
        if self.follows_a_cut(&pointer, &problem.message) {
            return;
        }
        let located = self.root.locate(&pointer);
        let near = located.node.expanded();
        self.report(
            value_place(located),
            problem.message,
            problem.help,
            problem.warning,
            near,
        );
    }

    pub(super) fn report(
        &mut self,
        place: Place,
        message: String,
        help: Option<String>,
        warning: bool,
        near_expanded: bool,
    ) {
        if self.found.len() > FINDINGS_MAX || self.unset.iter().any(|at| place.contains(*at)) {
            return;
        }
        // Whatever a driver or a plugin says: no expanded value in it (I7).
        let message = self.secrets.redact(&message, near_expanded);
        let mut diagnostic = self.spec.error(place, message);
        diagnostic.help = help.map(|help| self.secrets.redact(&help, near_expanded));
        if warning {
            diagnostic.severity = Severity::Warning;
        }
        self.found.push(diagnostic);
    }

    /// Whether a name in the value at `pointer` could not be expanded.
    pub(super) fn is_unset(&self, pointer: &str) -> bool {
        fn holds(node: &Node, unset: &[(usize, usize)]) -> bool {
            match &node.kind {
                Kind::List(items, _) => items.iter().any(|item| holds(item, unset)),
                Kind::Map(entries, _) => entries.iter().any(|(_, value)| holds(value, unset)),
                _ => unset.iter().any(|at| node.place.contains(*at)),
            }
        }
        let located = self.root.locate(pointer);
        located.whole && holds(located.node, &self.unset)
    }
}

/// Takes out of `value` what was found to be wrong in it. The pointer to what is gone.
fn cut(value: &mut Value, finding: &Finding) -> Option<String> {
    let (owner, key) = match &finding.at {
        At::Missing(_) => return None,
        At::Unknown(key, _) => (finding.pointer.as_str(), key.clone()),
        At::Value => {
            let (owner, key) = finding.pointer.rsplit_once('/')?;
            (owner, key.replace("~1", "/").replace("~0", "~"))
        }
    };
    match value.pointer_mut(owner)? {
        Value::Object(map) => drop(map.remove(&key)),
        Value::Array(items) => *items.get_mut(key.parse::<usize>().ok()?)? = Value::Null, // the others keep their places
        _ => {}
    }
    Some(format!("{owner}/{key}"))
}

/// Where a wrong value stands; where it is missing, what should have it.
fn value_place(located: Located<'_>) -> Place {
    if located.whole {
        located.place()
    } else {
        located.owner()
    }
}

/// `/sink/config` → `` `sink.config` ``, `/processors/0/config` → `` `processors[0].config` ``.
fn dotted(pointer: &str) -> String {
    let mut text = String::new();
    for segment in pointer.split('/').skip(1) {
        match segment.parse::<usize>() {
            Ok(index) => text.push_str(&format!("[{index}]")),
            Err(_) if text.is_empty() => text.push_str(segment),
            Err(_) => {
                text.push('.');
                text.push_str(segment);
            }
        }
    }
    if text.is_empty() {
        "the file".to_owned()
    } else {
        format!("`{text}`")
    }
}

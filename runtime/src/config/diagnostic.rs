//! Diagnostics: what is wrong with a pipeline file, where, and what to do about it.
//!
//! Owns their shape and how a person and a machine see them. Shows lines as they were written, so an
//! expanded secret is never in one (I7). Made by the other files of `config`, printed by `cli`.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

/// Whether the pipeline may run all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It may not.
    Error,
    /// It may, but should be looked at.
    Warning,
}

/// One finding with its place; lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The pipeline file as the user named it.
    pub file: String,
    /// Line of the offending value or key; 0 when the whole file is meant.
    pub line: usize,
    /// Column in it.
    pub column: usize,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The line as written, or the part of a long one around the place.
    #[serde(skip)]
    pub excerpt: Excerpt,
    /// How many characters of the line are meant.
    #[serde(skip)]
    pub width: usize,
}

/// Most findings that are told at once (I4); whoever has mended so many learns of the rest.
pub const FINDINGS_MAX: usize = 100;

/// Longest piece of a line that is shown; the rest of a longer one is cut around the place.
const SHOWN_CHARS_MAX: usize = 160;

/// A part of a line, tabs and control characters made plain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    text: String,
    /// How many characters of it are before the place.
    before: usize,
}

impl Excerpt {
    /// What is shown of a line of `chars` characters for a place at `column`, from 1.
    pub fn of(line: &str, chars: usize, column: usize) -> Self {
        let at = column.saturating_sub(1);
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let from = match chars.checked_sub(SHOWN_CHARS_MAX) {
            Some(beyond) => at.saturating_sub(SHOWN_CHARS_MAX / 2).min(beyond),
            None => 0,
        };
        let piece: String = line
            .chars()
            .skip(from)
            .take(SHOWN_CHARS_MAX)
            .map(plain)
            .collect();
        let before = if from > 0 { "…" } else { "" };
        let after = if from + SHOWN_CHARS_MAX < chars {
            "…"
        } else {
            ""
        };
        let shift = before.chars().count();
        Self {
            text: format!("{before}{}{after}", piece.trim_end()),
            before: at - from + shift,
        }
    }
}

/// The first [`FINDINGS_MAX`] of all that was found, which are in the order of the file, with a word
/// about the rest.
pub fn told(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    if let Some(first) = found.get(FINDINGS_MAX) {
        let file = first.file.clone();
        let message = format!("there is more than these {FINDINGS_MAX} findings");
        let last = Diagnostic::of_file(Path::new(&file), message);
        found.truncate(FINDINGS_MAX);
        found.push(last.help("mend these first; the rest is told then"));
    }
    found
}

impl Diagnostic {
    /// The same with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// An error about the file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.display().to_string(),
            line: 0,
            column: 0,
            message: message.into(),
            help: None,
            excerpt: Excerpt::default(),
            width: 0,
        }
    }

    /// The finding for a person: message, place, line, caret, help. Ends with a newline.
    pub fn render(&self, color: bool) -> String {
        let paint = |code: &'static str| if color { code } else { "" };
        let (bold, blue, green, reset) = (
            paint("\x1b[1m"),
            paint("\x1b[1;34m"),
            paint("\x1b[1;32m"),
            paint("\x1b[0m"),
        );
        let (name, hue) = match self.severity {
            Severity::Error => ("error", paint("\x1b[1;31m")),
            Severity::Warning => ("warning", paint("\x1b[1;33m")),
        };
        let mut text = format!("{hue}{name}{reset}{bold}: {}{reset}\n", self.message);
        let gutter = self.line.to_string().len();
        let pad = " ".repeat(gutter);
        if self.line == 0 {
            writeln!(text, "{pad}{blue}-->{reset} {}", self.file).expect("a string grows");
        } else {
            let Excerpt {
                text: shown,
                before,
            } = &self.excerpt;
            let indent = " ".repeat(*before);
            let room = shown.chars().count().saturating_sub(*before).max(1);
            let caret = "^".repeat(self.width.clamp(1, room));
            write!(
                text,
                "{pad}{blue}-->{reset} {file}:{line}:{column}\n\
                 {pad} {blue}|{reset}\n\
                 {blue}{line} |{reset} {shown}\n\
                 {pad} {blue}|{reset} {indent}{hue}{caret}{reset}\n",
                file = self.file,
                line = self.line,
                column = self.column,
            )
            .expect("a string grows");
        }
        if let Some(help) = &self.help {
            let mut lines = help.lines();
            let first = lines.next().unwrap_or_default();
            writeln!(text, "{pad} {green}={reset} {bold}help{reset}: {first}")
                .expect("a string grows");
            for line in lines {
                writeln!(text, "{pad}         {line}").expect("a string grows");
            }
        }
        text
    }
}

/// All findings for a person, in the order of their places, with a closing count.
pub fn render_all(diagnostics: &[Diagnostic], color: bool) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&diagnostic.render(color));
        text.push('\n');
    }
    let count = |severity| {
        diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count()
    };
    let plural = |count: usize, noun: &str| match count {
        0 => None,
        1 => Some(format!("1 {noun}")),
        count => Some(format!("{count} {noun}s")),
    };
    let counts: Vec<String> = [
        plural(count(Severity::Error), "error"),
        plural(count(Severity::Warning), "warning"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !counts.is_empty() {
        text.push_str(&counts.join(", "));
        text.push('\n');
    }
    text
}

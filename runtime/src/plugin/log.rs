//! What plugins say, on its way to the host's log.
//!
//! Owns the cap: a bounded number of lines a call, each bounded and without control characters, so
//! that a plugin can neither flood a log nor forge its lines (I4, I5).

use std::sync::Arc;

/// How loud a line is; the ABI's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Longest line that is kept; the rest of it is cut.
const LINE_BYTES_MAX: usize = 2048;

/// The log of one instance.
#[derive(Debug)]
pub(super) struct Log {
    plugin: Arc<str>,
    lines_max: u32,
    lines: u32,
    /// Text without its newline yet, from standard output and error.
    partial: [Vec<u8>; 2],
}

impl Log {
    pub(super) fn new(plugin: Arc<str>, lines_max: u32) -> Self {
        Self {
            plugin,
            lines_max,
            lines: 0,
            partial: Default::default(),
        }
    }

    /// A line; told to the log while the call has lines left.
    pub(super) fn line(&mut self, level: Level, text: &str) {
        self.lines = self.lines.saturating_add(1);
        if self.lines > self.lines_max {
            return;
        }
        let plugin = &*self.plugin;
        let line = printable(text, LINE_BYTES_MAX);
        match level {
            Level::Error => tracing::error!(plugin, "{line}"),
            Level::Warn => tracing::warn!(plugin, "{line}"),
            Level::Info => tracing::info!(plugin, "{line}"),
            Level::Debug => tracing::debug!(plugin, "{line}"),
            Level::Trace => tracing::trace!(plugin, "{line}"),
        }
    }

    /// Text on standard output (`info`) or error (`warn`), cut into lines.
    pub(super) fn stream(&mut self, stderr: bool, bytes: &[u8]) {
        let level = if stderr { Level::Warn } else { Level::Info };
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            let partial = &mut self.partial[usize::from(stderr)];
            let room = LINE_BYTES_MAX.saturating_sub(partial.len());
            partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if pieces.peek().is_some() {
                let line = std::mem::take(partial);
                self.line(level, &String::from_utf8_lossy(&line));
            }
        }
    }

    /// The call has ended: half a line is told as it is, and what was cut is counted.
    pub(super) fn call_ended(&mut self) {
        for stderr in [false, true] {
            let partial = std::mem::take(&mut self.partial[usize::from(stderr)]);
            if !partial.is_empty() {
                let level = if stderr { Level::Warn } else { Level::Info };
                self.line(level, &String::from_utf8_lossy(&partial));
            }
        }
        let cut = self.lines.saturating_sub(self.lines_max);
        if cut > 0 {
            let plugin = &*self.plugin;
            tracing::warn!(
                plugin,
                "{cut} more lines were cut (limits.log_lines: {})",
                self.lines_max
            );
        }
        self.lines = 0;
    }
}

/// `text` in one line of at most `bytes_max` bytes, without control characters.
pub(super) fn printable(text: &str, bytes_max: usize) -> String {
    let cut = text.floor_char_boundary(bytes_max);
    let mut line: String = text[..cut]
        .trim_end()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if cut < text.len() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_and_cannot_forge_another() {
        assert_eq!(printable("a\nERROR b\x1b[0m\n", 100), "a ERROR b [0m");
        assert_eq!(printable("ééé", 3), "é…");
    }

    #[test]
    fn streams_are_cut_into_lines_and_bounded() {
        let mut log = Log::new("p".into(), 2);
        log.stream(true, b"one\ntw");
        assert_eq!((log.lines, log.partial[1].as_slice()), (1, &b"tw"[..]));
        log.stream(true, &[b'x'; 3 * LINE_BYTES_MAX]);
        assert_eq!(log.partial[1].len(), LINE_BYTES_MAX);
        log.call_ended();
        assert_eq!(log.lines, 0);
    }
}

//! What is no YAML at all, in words.
//!
//! Pure. Called by `build`.

use serde_yaml::granit_parser::{ErrorKind, ScanError};

use super::build::DEPTH_MAX;

/// What a scan error means for the person who wrote the line.
pub(super) fn syntax_words(error: &ScanError) -> (String, Option<&'static str>) {
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

pub(super) const TOO_DEEP_HELP: &str =
    "no pipeline needs that: look for a bracket or an indentation gone wrong";

pub(super) fn too_deep_words() -> String {
    format!("lists and maps are nested deeper than {DEPTH_MAX} levels")
}

//! Words for what a JSON Schema finds wrong.
//!
//! Owns the validation of a value against a schema (a driver's, a plugin's, our own) and says each
//! error as a person would. Knows JSON pointers only; `check` turns them into places in the YAML.

use jsonschema::error::{TypeKind, ValidationError, ValidationErrorKind as Wrong};
use serde_json::{Map, Value};

use super::diagnostic::FINDINGS_MAX;
use super::meant::{similar, with_known_unit, yes_or_no};
use super::shape::{choices, first_sentence, follow, parent, properties, type_names, type_words};
use crate::units::{AsWritten, ByteSize, Percent, Span};

/// One thing wrong in a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// JSON pointer to the value.
    pub(super) pointer: String,
    /// What about it is meant.
    pub(super) at: At,
    /// What is wrong.
    pub(super) message: String,
    /// What to do.
    pub(super) help: Option<String>,
}

/// What about a value is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// The value itself.
    Value,
    /// A key in it that should not be there, and the one that was probably meant.
    Unknown(String, Option<String>),
    /// A key that it lacks.
    Missing(String),
}

/// Everything in `value`, called `name`, that does not fit `schema`. `shown` gives a scalar as written, where it may
/// not be shown as it is (I7).
///
/// # Errors
/// The schema itself is wrong.
pub(super) fn findings(
    name: &str,
    schema: &Value,
    value: &Value,
    shown: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Finding>, String> {
    let validator = validator(schema)?;
    let mut words = Words {
        name,
        schema,
        value,
        shown,
        beside: String::new(),
        found: Vec::new(),
    };
    for error in validator.iter_errors(value) {
        words.word(&error);
    }
    Ok(words.finish())
}

/// The maps among several forms, each by the keys that it cannot lack.
fn maps(root: &Value, schema: &Value, keyword: &str) -> String {
    let branches = schema.get(keyword).and_then(Value::as_array);
    let maps = branches.into_iter().flatten().filter_map(|branch| {
        let branch = follow(root, branch);
        let keys = branch.get("required").and_then(Value::as_array);
        let keys = keys.into_iter().flatten().filter_map(Value::as_str);
        let keys: Vec<String> = keys.map(|key| format!("`{key}`")).collect();
        let is_map = branch.get("properties").is_some();
        let with = if keys.is_empty() { "" } else { " with " };
        is_map.then(|| format!(", or a map{with}{}", keys.join(", ")))
    });
    maps.collect()
}

/// Whether `value` fits `schema`.
pub(super) fn fits(schema: &Value, value: &Value) -> bool {
    validator(schema).is_ok_and(|validator| validator.is_valid(value))
}

pub(super) fn validator(schema: &Value) -> Result<jsonschema::Validator, String> {
    jsonschema::options()
        .offline()
        .should_validate_formats(true)
        .with_format(AsWritten::FORMAT, |_| true)
        .with_format("byte-size", |text| text.parse::<ByteSize>().is_ok())
        .with_format("duration-with-unit", |text| text.parse::<Span>().is_ok())
        .with_format("percent", |text| text.parse::<Percent>().is_ok())
        .build(schema)
        .map_err(|error| error.to_string())
}

struct Words<'a> {
    name: &'a str,
    schema: &'a Value,
    value: &'a Value,
    shown: &'a dyn Fn(&str) -> Option<String>,
    /// What a value may be beside the words among which it is looked for.
    beside: String,
    found: Vec<Finding>,
}

impl Words<'_> {
    fn word(&mut self, error: &ValidationError<'_>) {
        let pointer = error.instance_path().as_str();
        let schema = parent(self.schema, error.schema_path().as_str());
        if let Some(format) = schema.get("format").and_then(Value::as_str)
            && let Some((message, help)) = self.quantity(pointer, format)
        {
            self.push(pointer, At::Value, message, Some(help));
            return;
        }
        let subject = self.subject(pointer);
        match error.kind() {
            Wrong::AdditionalProperties { unexpected }
            | Wrong::UnevaluatedProperties { unexpected } => {
                for key in unexpected {
                    self.unknown(pointer, key, schema);
                }
            }
            Wrong::Required { property } => {
                let key = property.as_str().unwrap_or_default();
                let help = properties(self.schema, schema)
                    .into_iter()
                    .find(|(name, _)| name == key)
                    .and_then(|(_, schema)| first_sentence(schema))
                    .map(|about| format!("`{key}`: {about}"));
                let message = format!("{subject} lacks the key `{key}`");
                self.push(pointer, At::Missing(key.to_owned()), message, help);
            }
            Wrong::Type { kind } => self.mistyped(pointer, schema, &types(kind)),
            Wrong::Enum { .. } | Wrong::Constant { .. } => {
                self.choice(pointer, &choices(self.schema, schema).unwrap_or_default());
            }
            Wrong::AnyOf { context } => self.alternatives(pointer, schema, "anyOf", context),
            Wrong::OneOfNotValid { context } => {
                self.alternatives(pointer, schema, "oneOf", context);
            }
            // A map that may have no keys at all is refused as a whole.
            Wrong::FalseSchema if self.value.pointer(pointer).is_some_and(Value::is_object) => {
                let map = self.value.pointer(pointer).and_then(Value::as_object);
                for key in map.into_iter().flat_map(Map::keys) {
                    let message = format!("unknown key `{key}`");
                    let help = Some(format!("{subject} has no keys"));
                    self.push(pointer, At::Unknown(key.clone(), None), message, help);
                }
            }
            Wrong::FalseSchema => {
                let message = format!("{subject} is not allowed here");
                self.push(pointer, At::Value, message, Some("remove it".to_owned()));
            }
            // A rule that brings words of its own.
            Wrong::Not { .. } if schema.get("title").is_some() => {
                let word = |key| schema.get(key).and_then(Value::as_str).map(str::to_owned);
                let message = word("title").unwrap_or_default();
                self.push(pointer, At::Value, message, word("description"));
            }
            kind => {
                let message = self.bound(pointer, &subject, kind);
                self.push(pointer, At::Value, message, first_sentence(schema));
            }
        }
    }

    /// Bounds and shapes that read alike: the subject, the rule, what was found.
    fn bound(&self, pointer: &str, subject: &str, kind: &Wrong) -> String {
        let found = self.found(pointer);
        match kind {
            Wrong::Minimum { limit } => format!("{subject} must be at least {limit}, not {found}"),
            Wrong::Maximum { limit } => format!("{subject} must be at most {limit}, not {found}"),
            Wrong::ExclusiveMinimum { limit } => {
                format!("{subject} must be more than {limit}, not {found}")
            }
            Wrong::ExclusiveMaximum { limit } => {
                format!("{subject} must be less than {limit}, not {found}")
            }
            Wrong::MultipleOf { multiple_of } => {
                format!("{subject} must be a multiple of {multiple_of}, not {found}")
            }
            Wrong::MinLength { limit: 1 } => format!("{subject} must not be empty"),
            Wrong::MinLength { limit } => format!("{subject} must have {limit} characters or more"),
            Wrong::MaxLength { limit } => format!("{subject} must have at most {limit} characters"),
            Wrong::MinItems { limit: 1 } => format!("{subject} must have an item"),
            Wrong::MinItems { limit } => format!("{subject} must have {limit} items or more"),
            Wrong::MaxItems { limit } | Wrong::MaxProperties { limit } => {
                format!("{subject} must have at most {limit} {}", entries(*limit))
            }
            Wrong::MinProperties { limit } => {
                format!("{subject} must have {limit} {} or more", entries(*limit))
            }
            Wrong::UniqueItems => format!("{subject} has an item twice"),
            Wrong::Pattern { pattern } => {
                format!("{subject} is {found}, which does not fit {pattern}")
            }
            Wrong::Format { format } => format!("{subject} is {found}, which is no {format}"),
            Wrong::PropertyNames { .. } => format!("{subject} has a key that is not allowed"),
            Wrong::OneOfMultipleValid { .. } => format!("{subject} fits several forms at once"),
            kind => format!("{subject} does not fit the schema ({})", kind.keyword()),
        }
    }

    fn unknown(&mut self, pointer: &str, key: &str, schema: &Value) {
        let known: Vec<String> = properties(self.schema, schema)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let meant = similar(key, known.iter().map(String::as_str));
        let help = match &meant {
            Some(meant) => Some(format!("did you mean `{meant}`?")),
            None if known.is_empty() => None,
            None => Some(format!("known keys: {}", known.join(", "))),
        };
        let message = format!("unknown key `{key}`");
        self.push(pointer, At::Unknown(key.to_owned(), meant), message, help);
    }

    fn mistyped(&mut self, pointer: &str, schema: &Value, expected: &[&str]) {
        let expected: Vec<&str> = expected
            .iter()
            .copied()
            .filter(|name| *name != "null")
            .collect();
        let names = list(
            &expected
                .iter()
                .map(|name| type_words(name))
                .collect::<Vec<_>>(),
        );
        let subject = self.subject(pointer);
        let value = self.value.pointer(pointer).unwrap_or(&Value::Null);
        if value.is_null() {
            let message = format!("{subject} has no value; it must be {names}");
            let help = self.about(pointer, schema, expected.contains(&"object"));
            self.push(pointer, At::Value, message, help);
            return;
        }
        let text = value.as_str().unwrap_or_default();
        let wants = |name| expected.contains(&name);
        let help = match value {
            Value::Number(_) | Value::Bool(_) if wants("string") => {
                Some(format!("put it in quotes: \"{value}\""))
            }
            Value::String(_) if wants("boolean") && yes_or_no(text).is_some() => {
                yes_or_no(text).map(|truth| format!("write {truth}"))
            }
            Value::String(_)
                if (wants("integer") || wants("number")) && text.trim().parse::<f64>().is_ok() =>
            {
                Some("write it without quotes".to_owned())
            }
            Value::Object(_) if wants("array") => {
                Some("start each item with `- `, or put the list in brackets".to_owned())
            }
            value if wants("array") && expected.len() == 1 && !value.is_object() => {
                Some(format!("put it in brackets: [{}]", self.raw(pointer)))
            }
            Value::Array(_) if !wants("object") => {
                Some("write one value, without brackets".to_owned())
            }
            _ => self.about(pointer, schema, wants("object")),
        };
        let message = format!("{subject} must be {names}, not {}", self.found(pointer));
        self.push(pointer, At::Value, message, help);
    }

    /// What a value is for: the keys of a map, or what its schema says.
    fn about(&self, pointer: &str, schema: &Value, map: bool) -> Option<String> {
        let schema = follow(self.schema, schema);
        if !map {
            let about = first_sentence(schema)?;
            return Some(match pointer.rsplit('/').next() {
                Some(key) if key.parse::<usize>().is_err() => format!("`{key}`: {about}"),
                _ => about,
            });
        }
        let needed = schema.get("required").and_then(Value::as_array);
        let needed = needed.into_iter().flatten().filter_map(Value::as_str);
        let needed: Vec<&str> = needed.collect();
        let known = properties(self.schema, schema).into_iter();
        let known: Vec<String> = known.map(|(name, _)| name).collect();
        Some(match (needed.is_empty(), known.is_empty()) {
            (false, _) => format!("it has at least `{}`", needed.join("`, `")),
            (true, false) => format!("known keys: {}", known.join(", ")),
            (true, true) => "write `KEY: VALUE`, without quotes around both".to_owned(),
        })
    }

    fn choice(&mut self, pointer: &str, choices: &[Value]) {
        let names: Vec<String> = choices.iter().map(plain).collect();
        let subject = self.subject(pointer);
        let value = self.value.pointer(pointer).unwrap_or(&Value::Null);
        let known = format!("{subject} is one of {}{}", names.join(", "), self.beside);
        let help = match similar(&plain(value), names.iter().map(String::as_str)) {
            Some(meant) if (self.shown)(pointer).is_none() => {
                format!("did you mean `{meant}`? {known}")
            }
            _ => known,
        };
        let message = if value.is_null() {
            format!("{subject} has no value")
        } else {
            format!("{subject} cannot be {}", self.found(pointer))
        };
        self.push(pointer, At::Value, message, Some(help));
    }

    /// One of several forms: say what is wrong with the one that was probably meant.
    fn alternatives(
        &mut self,
        pointer: &str,
        schema: &Value,
        keyword: &str,
        context: &[Vec<ValidationError<'static>>],
    ) {
        if let Some(choices) = choices(self.schema, schema)
            && !self
                .value
                .pointer(pointer)
                .is_some_and(|value| value.is_array() || value.is_object())
        {
            self.choice(pointer, &choices);
            return;
        }
        let far = |errors: &Vec<ValidationError<'_>>| {
            let misfit = errors.iter().map(|error| misfit(error, pointer)).max();
            (misfit.unwrap_or(Misfit::Inside), errors.len())
        };
        let meant = context.iter().min_by_key(|errors| far(errors));
        if let Some(errors) = meant
            && far(errors).0 < Misfit::Type
        {
            let is_word = self.value.pointer(pointer).is_some_and(Value::is_string);
            let beside = match is_word {
                true => maps(self.schema, schema, keyword),
                false => String::new(),
            };
            let beside = std::mem::replace(&mut self.beside, beside);
            errors.iter().for_each(|error| self.word(error));
            self.beside = beside;
            return;
        }
        let mut expected = Vec::new();
        let branches = schema.get(keyword).and_then(Value::as_array);
        for branch in branches.into_iter().flatten() {
            for name in type_names(self.schema, branch) {
                if !expected.contains(&name) {
                    expected.push(name);
                }
            }
        }
        self.mistyped(pointer, schema, &expected);
    }

    /// Words for sizes, durations and percentages, whichever rule of theirs is broken.
    fn quantity(&self, pointer: &str, format: &str) -> Option<(String, String)> {
        let (noun, example) = match format {
            "byte-size" => ("a size", "64KiB, 10MB or 1GiB"),
            "duration-with-unit" => ("a duration", "250ms, 5s, 10m or 1h"),
            "percent" => ("a percentage", "60%"),
            _ => return None,
        };
        let value = self.value.pointer(pointer).unwrap_or(&Value::Null);
        let subject = self.subject(pointer);
        let found = self.found(pointer);
        let help = match value {
            _ if (self.shown)(pointer).is_some() => format!("write it like {example}"),
            Value::Number(number) => match format {
                "duration-with-unit" => format!("write {number}ms or {number}s"),
                "percent" => {
                    let share = number.as_f64().unwrap_or_default();
                    let percent = if share <= 1.0 { share * 100.0 } else { share };
                    format!("write {percent}%")
                }
                _ => format!("write it like {example}"),
            },
            Value::String(text) => match with_known_unit(text, format) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("write it like {example}"),
            },
            _ => format!("write it like {example}"),
        };
        let message = match value {
            Value::Number(number) if number.as_f64() >= Some(0.0) && format != "byte-size" => {
                format!("{subject} has no unit: {found}")
            }
            Value::Null => format!("{subject} has no value; it must be {noun}"),
            _ => format!("{subject} must be {noun}, not {found}"),
        };
        Some((message, help))
    }

    /// The value in words: `` `url` ``, ``item 2 of `headers` ``.
    fn subject(&self, pointer: &str) -> String {
        let name = |segment: &str| segment.replace("~1", "/").replace("~0", "~");
        let Some((owner, last)) = pointer.rsplit_once('/') else {
            return self.name.to_owned();
        };
        match last.parse::<usize>() {
            Ok(index) => {
                let owner = owner
                    .rsplit_once('/')
                    .map(|(_, owner)| format!("`{}`", name(owner)));
                let owner = owner.unwrap_or_else(|| self.name.to_owned());
                format!("item {} of {owner}", index + 1)
            }
            Err(_) => format!("`{}`", name(last)),
        }
    }

    /// What stands there, in words, never an expanded value (I7).
    fn found(&self, pointer: &str) -> String {
        match self.value.pointer(pointer) {
            Some(Value::Array(_)) => "a list".to_owned(),
            Some(Value::Object(_)) => "a map".to_owned(),
            None | Some(Value::Null) => "nothing".to_owned(),
            Some(Value::String(text)) if text.is_empty() => "empty text".to_owned(),
            Some(Value::String(_)) => format!("`{}`", self.raw(pointer)),
            Some(_) => self.raw(pointer),
        }
    }

    /// The scalar as it may be shown, at most a line of it.
    fn raw(&self, pointer: &str) -> String {
        const CHARS_MAX: usize = 60;
        let text = (self.shown)(pointer)
            .unwrap_or_else(|| self.value.pointer(pointer).map(plain).unwrap_or_default());
        let line = text.lines().next().unwrap_or_default();
        if line.chars().count() > CHARS_MAX || line.len() < text.trim_end().len() {
            let start: String = line.chars().take(CHARS_MAX).collect();
            return format!("{start}…");
        }
        line.to_owned()
    }

    fn push(&mut self, pointer: &str, at: At, message: String, help: Option<String>) {
        let finding = Finding {
            pointer: pointer.to_owned(),
            at,
            message,
            help,
        };
        if self.found.len() <= FINDINGS_MAX && !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    /// A misspelt key is one mistake, not an unknown key and a missing one.
    fn finish(self) -> Vec<Finding> {
        let meant: Vec<(String, String)> = self
            .found
            .iter()
            .filter_map(|finding| match &finding.at {
                At::Unknown(_, Some(meant)) => Some((finding.pointer.clone(), meant.clone())),
                _ => None,
            })
            .collect();
        let misspelt = |finding: &Finding| match &finding.at {
            At::Missing(key) => meant
                .iter()
                .any(|(pointer, meant)| *pointer == finding.pointer && meant == key),
            _ => false,
        };
        self.found
            .into_iter()
            .filter(|finding| !misspelt(finding))
            .collect()
    }
}

/// How far a value is from one form of several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Misfit {
    /// It is of that form, with something wrong inside.
    Inside,
    /// It is of the type, but none of the values.
    Choice,
    /// It is of another type.
    Type,
}

fn misfit(error: &ValidationError<'_>, pointer: &str) -> Misfit {
    let here = error.instance_path().as_str() == pointer;
    match error.kind() {
        Wrong::Type { .. } if here => Misfit::Type,
        Wrong::Constant { .. } | Wrong::Enum { .. } => Misfit::Choice,
        Wrong::AnyOf { context } | Wrong::OneOfNotValid { context } => {
            let form = |errors: &Vec<ValidationError<'_>>| {
                errors.iter().map(|error| misfit(error, pointer)).max()
            };
            context
                .iter()
                .filter_map(form)
                .min()
                .unwrap_or(Misfit::Inside)
        }
        _ => Misfit::Inside,
    }
}

/// A scalar without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn entries(count: u64) -> &'static str {
    if count == 1 { "entry" } else { "entries" }
}

/// `a`, `a or b`, `a, b or c`; `true or false, or a`.
fn list(names: &[&str]) -> String {
    if names.len() > 1 && names.iter().any(|name| name.contains(" or ")) {
        return names.join(", or ");
    }
    match names {
        [] => "something else".to_owned(),
        [one] => (*one).to_owned(),
        [start @ .., last] => format!("{} or {last}", start.join(", ")),
    }
}

fn types(kind: &TypeKind) -> Vec<&'static str> {
    match kind {
        TypeKind::Single(one) => vec![one.as_str()],
        TypeKind::Multiple(several) => several.iter().map(|one| one.as_str()).collect(),
    }
}

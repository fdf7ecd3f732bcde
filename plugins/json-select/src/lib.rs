//! Keeps, renames, drops and compares the fields of JSON records: what most pipelines need without
//! writing code.
//!
//! Values are carried as they are written: no number is rounded, no string escaped anew.

mod compare;
mod fields;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use wirefall_sdk::prelude::*;

use compare::Comparison;
use fields::{Fields, Path};

/// What `config:` takes.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Only these fields go on, in this order; one that a record lacks is left out. A field is a name,
    /// or a JSON pointer (`/user/name`), which goes on under its last part.
    #[serde(default)]
    keep: Vec<String>,
    /// These fields do not go on.
    #[serde(default)]
    drop: BTreeSet<String>,
    /// New names for fields, after `keep` and `drop`.
    #[serde(default)]
    rename: BTreeMap<String, String>,
    /// The field of the record, before `keep`, `drop` and `rename`, that is its key: what subscribers ask
    /// for with `keys`. A text, number or truth value; a record without it, or with null there, has no key.
    #[serde(default)]
    key: Option<String>,
    /// Only records for which all of these hold go on.
    #[serde(default, rename = "where")]
    conditions: Vec<Comparison>,
}

/// The formatter.
pub struct JsonSelect {
    keep: Vec<Path>,
    drop: BTreeSet<String>,
    rename: BTreeMap<String, String>,
    key: Option<Path>,
    conditions: Vec<(Path, Comparison)>,
}

#[formatter]
impl Formatter for JsonSelect {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if !config.keep.is_empty() && !config.drop.is_empty() {
            return Err(ConfigError::new(
                "give `keep` or `drop`, not both: what is not kept is dropped",
            ));
        }
        let keep: Vec<Path> = config.keep.iter().map(|field| Path::new(field)).collect();
        let mut names = BTreeSet::new();
        for path in &keep {
            let name = config
                .rename
                .get(path.name())
                .map_or(path.name(), |name| name);
            if !names.insert(name) {
                return Err(ConfigError::new(format_args!(
                    "two of the kept fields go on as `{name}`; rename one"
                )));
            }
        }
        let conditions = config.conditions.into_iter();
        let conditions = conditions.map(|condition| {
            condition.check()?;
            Ok((Path::new(&condition.field), condition))
        });
        Ok(Self {
            conditions: conditions.collect::<Result<_, ConfigError>>()?,
            keep,
            drop: config.drop,
            rename: config.rename,
            key: config.key.as_deref().map(Path::new),
        })
    }

    fn format(&mut self, record: &Record, out: &mut Output) -> Result<(), Reject> {
        let fields: Fields = record.json()?;
        for (path, condition) in &self.conditions {
            if !condition.holds(path.find(&fields)?) {
                return Ok(());
            }
        }
        let key = match &self.key {
            Some(path) => Some(path.find(&fields)?.map_or(Ok(Cow::Borrowed("")), key)?),
            None => None,
        };
        let write = |bytes: &mut Vec<u8>| {
            let mut first = true;
            let mut write = |name: &str, value: &str| -> Result<(), Reject> {
                bytes.push(if first { b'{' } else { b',' });
                first = false;
                let name = self.rename.get(name).map_or(name, |name| name);
                wirefall_sdk::serde_json::to_writer(&mut *bytes, name)?;
                bytes.push(b':');
                bytes.extend_from_slice(value.as_bytes());
                Ok(())
            };
            if self.keep.is_empty() {
                let going_on = fields.iter().filter(|(name, _)| !self.drop.contains(*name));
                going_on
                    .into_iter()
                    .try_for_each(|(name, value)| write(name, value))?;
            }
            for path in &self.keep {
                if let Some(value) = path.find(&fields)? {
                    write(path.name(), value)?;
                }
            }
            bytes.extend_from_slice(if first { b"{}" } else { b"}" });
            Ok(())
        };
        match key {
            Some(key) => out.keyed(&*key).build(write),
            None => out.build(write),
        }
    }
}

/// The key that a value is: a text without its quotes and escapes, anything else as it is written. An empty
/// one is none.
fn key(value: &str) -> Result<Cow<'_, str>, Reject> {
    match value.as_bytes().first() {
        Some(b'n') => Ok(Cow::Borrowed("")),
        Some(b'"') => Ok(Cow::Owned(wirefall_sdk::serde_json::from_str(value)?)),
        Some(b'{' | b'[') => Err(Reject::new("the key is an object or an array")),
        _ => Ok(Cow::Borrowed(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"a":1.50,"b":{"c":[1,"x/y"],"d/e":null},"f":"\u0041"}"#;

    fn check(config: &str, frames: &[&str]) {
        let run = wirefall_sdk::testing::run::<JsonSelect>(config, RECORD).unwrap();
        assert_eq!(run.frames(), frames, "{config}");
        assert_eq!(run.rejected, []);
    }

    #[test]
    fn values_go_on_as_they_are_written() {
        check("{}", &[RECORD]);
    }

    #[test]
    fn fields_are_kept_in_the_order_of_the_config() {
        check(r#"{"keep":["f","a","z"]}"#, &[r#"{"f":"\u0041","a":1.50}"#]);
        check(
            r#"{"keep":["/b/c/1","/b/d~1e"]}"#,
            &[r#"{"1":"x/y","d/e":null}"#],
        );
        check(r#"{"keep":["z"]}"#, &["{}"]);
    }

    #[test]
    fn fields_are_dropped_and_renamed() {
        check(r#"{"drop":["b","f"]}"#, &[r#"{"a":1.50}"#]);
        check(
            r#"{"keep":["a","/b/c/0"],"rename":{"a":"q\"","0":"n"}}"#,
            &[r#"{"q\"":1.50,"n":1}"#],
        );
    }

    #[test]
    fn conditions_filter() {
        for (condition, holds) in [
            (r#"{"field":"a","op":">","value":1}"#, true),
            (r#"{"field":"a","op":">","value":1.5}"#, false),
            (r#"{"field":"a","op":">=","value":1.5}"#, true),
            (r#"{"field":"a","value":1.5}"#, true),
            (r#"{"field":"f","op":"==","value":"A"}"#, true),
            (r#"{"field":"f","op":"<","value":"B"}"#, true),
            (r#"{"field":"f","op":"<","value":2}"#, false),
            (r#"{"field":"f","op":"!=","value":2}"#, true),
            (r#"{"field":"f","op":"in","value":["x","A"]}"#, true),
            (r#"{"field":"f","op":"in","value":["x"]}"#, false),
            (r#"{"field":"/b/d~1e","op":"exists"}"#, true),
            (r#"{"field":"z","op":"exists"}"#, false),
            (r#"{"field":"z","op":"missing"}"#, true),
            (r#"{"field":"z","op":"!=","value":1}"#, true),
            (r#"{"field":"z","op":"<","value":1}"#, false),
        ] {
            let config = format!(r#"{{"keep":["a"],"where":[{condition}]}}"#);
            let frames: &[&str] = if holds { &[r#"{"a":1.50}"#] } else { &[] };
            check(&config, frames);
        }
    }

    #[test]
    fn a_field_is_the_key() {
        for (field, key) in [
            ("f", Some("A")),
            ("a", Some("1.50")),
            ("/b/c/1", Some("x/y")),
            ("z", Some("")),
            ("/b/d~1e", Some("")),
            ("b", None), // no key, so rejected
        ] {
            let config = format!(r#"{{"keep":["a"],"key":"{field}"}}"#);
            let run = wirefall_sdk::testing::run::<JsonSelect>(&config, RECORD).unwrap();
            let keys = run.outputs.iter().map(|frame| frame.key.as_deref());
            let expected = key.map(|key| Some(key.as_bytes()));
            assert!(keys.eq(expected), "{field}: {run:?}");
        }
    }

    #[test]
    fn configs_that_cannot_be_meant_are_refused() {
        for (config, reason) in [
            (r#"{"keep":["a"],"drop":["b"]}"#, "not both"),
            (r#"{"keep":["a","/b/a"]}"#, "go on as `a`"),
            (r#"{"keep":["a","b"],"rename":{"b":"a"}}"#, "go on as `a`"),
            (r#"{"where":[{"field":"a","op":"<"}]}"#, "needs a `value`"),
            (r#"{"where":[{"field":"a","op":"in","value":1}]}"#, "a list"),
            (
                r#"{"where":[{"field":"a","op":"<","value":[1]}]}"#,
                "a number or a text",
            ),
            (
                r#"{"where":[{"field":"a","op":"exists","value":1}]}"#,
                "takes no `value`",
            ),
            (r#"{"kepe":["a"]}"#, "unknown field `kepe`"),
        ] {
            let refused = wirefall_sdk::testing::run::<JsonSelect>(config, "").unwrap_err();
            assert!(refused.to_string().contains(reason), "{config}: {refused}");
        }
    }

    #[test]
    fn what_is_no_object_is_rejected() {
        let run = wirefall_sdk::testing::run::<JsonSelect>("{}", "[1]\n7\n{\"a\":1\n{}").unwrap();
        assert_eq!(run.rejected.len(), 3);
        assert_eq!(run.frames(), ["{}"]);
    }

    #[test]
    fn golden() {
        wirefall_sdk::testing::golden::<JsonSelect>("tests/golden");
    }
}

//! Comparing a field with a value from the config.

use std::cmp::Ordering;

use serde::Deserialize;
use wirefall_sdk::prelude::{ConfigError, JsonSchema, schemars};
use wirefall_sdk::serde_json::{self, Value};

/// A condition on one field.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Comparison {
    /// A name, or a JSON pointer (`/user/name`).
    pub(crate) field: String,
    /// How to compare; `==` if left out. Only numbers with numbers and texts with texts are less or
    /// greater; a field that is missing or of another kind only satisfies `!=` and `missing`.
    #[serde(default)]
    op: Op,
    /// What to compare with; a list for `in`, nothing for `exists` and `missing`.
    #[serde(default)]
    value: Option<Value>,
}

/// How to compare.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
enum Op {
    #[default]
    #[serde(rename = "==")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = "<")]
    Less,
    #[serde(rename = "<=")]
    LessOrEqual,
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = ">=")]
    GreaterOrEqual,
    #[serde(rename = "in")]
    In,
    #[serde(rename = "exists")]
    Exists,
    #[serde(rename = "missing")]
    Missing,
}

impl Comparison {
    /// Whether the value fits the comparison.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |what: &str| {
            let field = &self.field;
            Err(ConfigError::new(format_args!(
                "the condition on `{field}` {what}"
            )))
        };
        match (self.op, &self.value) {
            (Op::Exists | Op::Missing, None) => Ok(()),
            (Op::Exists | Op::Missing, Some(_)) => wrong("takes no `value`"),
            (Op::Equal | Op::NotEqual, _) => Ok(()),
            (_, None) => wrong("needs a `value`"),
            (Op::In, Some(Value::Array(_))) => Ok(()),
            (Op::In, Some(_)) => wrong("needs a list as `value`"),
            (_, Some(Value::Number(_) | Value::String(_))) => Ok(()),
            (_, Some(_)) => wrong("needs a number or a text as `value`"),
        }
    }

    /// Whether it holds for a field as it is written; `None` where the record lacks it.
    pub(crate) fn holds(&self, field: Option<&str>) -> bool {
        let Some(field) = field else {
            return matches!(self.op, Op::NotEqual | Op::Missing);
        };
        let parsed: Value = match self.op {
            Op::Exists => return true,
            Op::Missing => return false,
            // It is part of a record that was read as JSON.
            _ => serde_json::from_str(field).unwrap_or_default(),
        };
        let value = self.value.as_ref().unwrap_or(&Value::Null);
        let order = order(&parsed, value);
        match self.op {
            Op::Equal => equal(&parsed, value),
            Op::NotEqual => !equal(&parsed, value),
            Op::Less => order == Some(Ordering::Less),
            Op::LessOrEqual => order.is_some_and(Ordering::is_le),
            Op::Greater => order == Some(Ordering::Greater),
            Op::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
            Op::In => value
                .as_array()
                .is_some_and(|list| list.iter().any(|one| equal(&parsed, one))),
            Op::Exists | Op::Missing => unreachable!("answered above"),
        }
    }
}

/// Numbers are equal by value (`1` and `1.0`), the rest as JSON is.
fn equal(one: &Value, other: &Value) -> bool {
    one == other || order(one, other) == Some(Ordering::Equal)
}

fn order(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => Some(one.cmp(&other)),
            _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
        },
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

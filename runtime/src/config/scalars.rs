//! What a scalar becomes where a schema asks for it.
//!
//! Pure; never takes what a person wrote for something that it only resembles. Called by `check` before a
//! value is validated (`coerce`) and before it is read into its type (`whole_numbers`).

use jsonschema::error::{ValidationError, ValidationErrorKind as Wrong};
use serde_json::{Number, Value};

use super::shape::parent;
use super::spec::{Kind, Node, resolve};
use super::words::validator;
use crate::units::AsWritten;

/// Turns expanded texts into the numbers and booleans that `schema` asks for (`${SIZE}` is text once
/// expanded, whatever stands in it), and scalars without quotes into the text that they are written as,
/// where it asks for that (`X-Shard: 007`). `node` gives what is written at a pointer.
pub(super) fn coerce<'n>(
    schema: &Value,
    value: &mut Value,
    node: &dyn Fn(&str) -> Option<&'n Node>,
) {
    let Ok(validator) = validator(schema) else {
        return;
    };
    let mut pointers = Vec::new();
    for error in validator.iter_errors(value) {
        mistyped(schema, &error, &mut pointers);
    }
    for (pointer, as_written) in pointers {
        let (Some(node), Some(slot)) = (node(&pointer), value.pointer_mut(&pointer)) else {
            continue;
        };
        if as_written && let Some(plain) = &node.plain {
            *slot = Value::String(plain.clone());
        } else if node.written.is_some()
            && let Some(text) = slot.as_str()
        {
            match resolve(text) {
                Kind::Number(number) => *slot = Value::Number(number),
                Kind::Bool(truth) => *slot = Value::Bool(truth),
                _ => {}
            }
        }
    }
}

/// Whole numbers that are written as `10.0`, as whole numbers; for values that fit a schema of ours.
pub(super) fn whole_numbers(value: &mut Value) {
    /// Every whole number up to this is a float of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().filter(|float| float.abs() <= EXACT_MAX);
            if let Some(float) = float.filter(|float| float.fract() == 0.0) {
                *number = Number::from(float as i64);
            }
        }
        _ => {}
    }
}

/// Where a value has the wrong type, and whether it is one that is taken as it is written.
fn mistyped(schema: &Value, error: &ValidationError<'_>, found: &mut Vec<(String, bool)>) {
    match error.kind() {
        Wrong::Type { .. } => {
            let format = parent(schema, error.schema_path().as_str()).get("format");
            let as_written = format.is_some_and(|format| format == AsWritten::FORMAT);
            found.push((error.instance_path().as_str().to_owned(), as_written));
        }
        Wrong::AnyOf { context } | Wrong::OneOfNotValid { context } => {
            for error in context.iter().flatten() {
                mistyped(schema, error, found);
            }
        }
        _ => {}
    }
}

//! What a JSON Schema says of a value: its types, choices and properties, through references.
//!
//! Pure, and lenient: of a keyword that it does not know it says nothing. Used for the words of the
//! check and for the reference in `docs`.

use serde_json::Value;

/// A JSON type as a person calls it.
pub(super) fn type_words(name: &str) -> &'static str {
    match name {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a map",
        _ => "nothing",
    }
}

/// The JSON types that a schema names, through references and alternatives.
pub(super) fn type_names(root: &Value, schema: &Value) -> Vec<&'static str> {
    const NAMES: [&str; 6] = ["string", "integer", "number", "boolean", "array", "object"];
    let schema = follow(root, schema);
    let named = |value: &Value| NAMES.iter().copied().find(|name| value == name);
    match schema.get("type") {
        Some(Value::Array(several)) => return several.iter().filter_map(named).collect(),
        Some(one) => return named(one).into_iter().collect(),
        None => {}
    }
    if choices(root, schema).is_some() {
        return vec!["string"];
    }
    let alternatives = ["anyOf", "oneOf"]
        .into_iter()
        .filter_map(|key| schema.get(key));
    alternatives
        .filter_map(Value::as_array)
        .flatten()
        .flat_map(|branch| type_names(root, branch))
        .collect()
}

/// The values that a schema allows, where it lists them; `null` of an optional one left out.
pub(super) fn choices(root: &Value, schema: &Value) -> Option<Vec<Value>> {
    let schema = follow(root, schema);
    if let Some(value) = schema.get("const") {
        return Some(vec![value.clone()]);
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return Some(
            values
                .iter()
                .filter(|value| !value.is_null())
                .cloned()
                .collect(),
        );
    }
    let branches = schema
        .get("oneOf")
        .or_else(|| schema.get("anyOf"))
        .and_then(Value::as_array)?;
    let mut all = Vec::new();
    for branch in branches {
        if follow(root, branch).get("type") == Some(&Value::from("null")) {
            continue;
        }
        all.extend(choices(root, branch)?);
    }
    Some(all)
}

/// The properties that a schema names, through references and combinations.
pub(super) fn properties<'a>(root: &'a Value, schema: &'a Value) -> Vec<(String, &'a Value)> {
    let schema = follow(root, schema);
    let mut all: Vec<(String, &Value)> = Vec::new();
    if let Some(named) = schema.get("properties").and_then(Value::as_object) {
        all.extend(named.iter().map(|(name, schema)| (name.clone(), schema)));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let branches = schema.get(key).and_then(Value::as_array);
        for branch in branches.into_iter().flatten() {
            for (name, schema) in properties(root, branch) {
                if !all.iter().any(|(known, _)| *known == name) {
                    all.push((name, schema));
                }
            }
        }
    }
    all
}

/// The schema behind a `$ref` into the same document.
pub(super) fn follow<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    const HOPS_MAX: usize = 16;
    let mut schema = schema;
    for _ in 0..HOPS_MAX {
        let target = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| reference.strip_prefix('#'))
            .and_then(|pointer| root.pointer(pointer));
        match target {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}

/// The schema that holds the keyword at `path`.
pub(super) fn parent<'a>(root: &'a Value, path: &str) -> &'a Value {
    let mut schema = root;
    let path = path.rsplit_once('/').map_or("", |(start, _)| start);
    for segment in path.split('/').skip(1) {
        let segment = segment.replace("~1", "/").replace("~0", "~");
        if segment == "$ref" {
            schema = follow(root, schema);
            continue;
        }
        let step = |schema: &'a Value| match schema {
            Value::Array(items) => segment
                .parse()
                .ok()
                .and_then(|index: usize| items.get(index)),
            other => other.get(&segment),
        };
        schema = match step(schema).or_else(|| step(follow(root, schema))) {
            Some(next) => next,
            None => return &Value::Null,
        };
    }
    schema
}

/// What a schema says of itself, up to the first full stop.
pub(super) fn first_sentence(schema: &Value) -> Option<String> {
    let text = schema.get("description")?.as_str()?;
    let text = text.split("\n\n").next()?.replace('\n', " ");
    let end = text.find(". ").unwrap_or(text.len());
    Some(text[..end].trim_end_matches('.').to_owned())
}

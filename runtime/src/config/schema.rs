//! The JSON Schema of a pipeline file, put together from the driver tables.
//!
//! Owns the shape around the drivers: the whole for editors (`wirefall schema`), and the envelope
//! that `check` validates before it looks at each component. Names no driver.

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use crate::driver::{Driver, inline_schema};
use crate::failover;
use crate::sink;
use crate::source;
use crate::units::AsWritten;

use super::types::{Journal, SERVICE_IGNORED, Service, TOP_IGNORED, Wasm};

/// The one processor driver: WebAssembly.
pub(super) const WASM: &str = "wasm";

/// A driver's entry without what its config becomes.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) schema: Value,
    pub(super) ignored_keys: &'static [&'static str],
}

pub(super) fn entries<P>(drivers: &[&'static Driver<P>]) -> Vec<Entry> {
    let entry = |driver: &&'static Driver<P>| Entry {
        name: driver.name,
        about: driver.about,
        schema: of(driver, None),
        ignored_keys: driver.ignored_keys,
    };
    drivers.iter().map(entry).collect()
}

/// The schema of a driver's config; see [`Driver::schema`].
pub(super) fn of<P>(driver: &Driver<P>, config: Option<&Value>) -> Value {
    let mut schema = (driver.schema)(config).to_value();
    bound_integers(&mut schema);
    schema
}

/// Every component with its drivers, in the order of a file.
pub(super) fn components() -> Vec<(&'static str, Vec<Entry>)> {
    let wasm = Entry {
        name: WASM,
        about: "run a formatter or filter that was compiled to WebAssembly",
        schema: schema_of::<Wasm>(),
        ignored_keys: &[],
    };
    vec![
        ("source", entries(source::DRIVERS)),
        ("processors", vec![wasm]),
        ("sink", entries(sink::DRIVERS)),
        ("failover", entries(failover::DRIVERS)),
    ]
}

/// What each top-level key is for.
pub(super) const SECTIONS: &[(&str, &str)] = &[
    ("service", "What concerns the whole pipeline"),
    ("source", "Where records come from"),
    (
        "processors",
        "What formats and filters them, in order; without any they go through unchanged",
    ),
    ("sink", "Where they go"),
    (
        "failover",
        "Where records go that could not be formatted or delivered",
    ),
    (
        "journal",
        "The log of formatted frames between processors and sink",
    ),
];

/// A type's schema with everything in place, no references.
pub(super) fn schema_of<T: JsonSchema>() -> Value {
    let mut schema = inline_schema::<T>().to_value();
    bound_integers(&mut schema);
    schema
}

/// Gives whole numbers the bounds of their types, of which a derived schema has only the name.
fn bound_integers(schema: &mut Value) {
    let highest = match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => Some(u64::from(u8::MAX)),
        Some("uint16") => Some(u64::from(u16::MAX)),
        Some("uint32") => Some(u64::from(u32::MAX)),
        Some("uint64" | "uint") => Some(u64::MAX),
        _ => None,
    };
    match schema {
        Value::Object(object) => {
            if let Some(highest) = highest {
                object.entry("maximum").or_insert_with(|| highest.into());
            }
            object.values_mut().for_each(bound_integers);
        }
        Value::Array(items) => items.iter_mut().for_each(bound_integers),
        _ => {}
    }
}

/// The file around its components: which keys there are, and that each component names a driver.
pub(super) fn envelope() -> Value {
    let drivers = components();
    let component = |name: &str, extra: &[&str]| {
        let entries = drivers.iter().find(|(component, _)| *component == name);
        let names = entries.into_iter().flat_map(|(_, entries)| entries);
        let names: Vec<&str> = names.map(|entry| entry.name).collect();
        let driver = json!({"type": "string", "minLength": 1, "description": names.join(", ")});
        let mut properties = Map::new();
        properties.insert("driver".into(), driver);
        properties.insert("config".into(), json!({"type": ["object", "null"]}));
        for key in extra {
            properties.insert((*key).to_owned(), Value::Bool(true));
        }
        json!({
            "type": "object",
            "properties": properties,
            "required": ["driver"],
            "additionalProperties": false,
        })
    };
    json!({
        "type": "object",
        "properties": {
            "service": {"description": "What concerns the whole pipeline, at least its `pipeline_id`"},
            "source": described("Where records come from", component("source", &["stream_schema"])),
            "processors": {"type": ["array", "null"], "items": component("processors", &[])},
            "sink": described("Where records go", component("sink", &[])),
            "failover": component("failover", &[]),
            "journal": {},
        },
        "required": ["service", "source", "sink"],
        "additionalProperties": false,
    })
}

fn described(about: &str, mut schema: Value) -> Value {
    schema["description"] = about.into();
    schema
}

/// The JSON Schema of a whole pipeline file, for editors and other tools.
pub fn schema() -> Value {
    let mut defs = Map::new();
    let mut properties = Map::new();
    let mut service = schema_of::<Service>();
    service["properties"]["stream_schema"] = Value::Bool(true);
    ignore(&mut service, SERVICE_IGNORED);
    strip(&mut service);
    properties.insert("service".into(), service);
    for (component, drivers) in components() {
        let forms: Vec<Value> = drivers
            .into_iter()
            .map(|driver| form(component, driver, &mut defs))
            .collect();
        let forms = json!({ "oneOf": forms });
        let schema = if component == "processors" {
            json!({"type": "array", "items": forms})
        } else {
            forms
        };
        properties.insert(component.into(), schema);
    }
    let mut journal = schema_of::<Journal>();
    strip(&mut journal);
    properties.insert("journal".into(), journal);
    for (name, about) in SECTIONS {
        properties[*name]["description"] = (*about).into();
    }
    for key in TOP_IGNORED {
        properties.insert((*key).to_owned(), json!({"deprecated": true}));
    }
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Wirefall pipeline",
        "type": "object",
        "properties": properties,
        "required": ["service", "source", "sink"],
        "additionalProperties": false,
        "$defs": defs,
    });
    as_written(&mut schema);
    schema
}

/// What may be written where a value is asked for: `${NAME}` for any scalar, and a number or a truth
/// value for a text that is taken as it is written.
fn as_written(schema: &mut Value) {
    let Value::Object(map) = schema else {
        if let Value::Array(items) = schema {
            items.iter_mut().for_each(as_written);
        }
        return;
    };
    if map
        .get("format")
        .is_some_and(|format| format == AsWritten::FORMAT)
    {
        map.remove("format");
        map.insert("type".into(), json!(["string", "number", "boolean"]));
        return;
    }
    let is_scalar = |name: &Value| {
        name.as_str()
            .is_some_and(|name| ["string", "integer", "number", "boolean"].contains(&name))
    };
    let scalar = match map.get("type") {
        Some(Value::Array(names)) => names.iter().any(is_scalar),
        Some(name) => is_scalar(name),
        None => map.contains_key("enum"),
    };
    let bare = map
        .keys()
        .all(|key| ["type", "description", "default", "title"].contains(&key.as_str()));
    let bare_text = bare && map.get("type").is_some_and(|name| name == "string");
    if scalar && !bare_text {
        let mut outside = Map::new();
        for key in ["description", "default", "title"] {
            outside.extend(map.remove(key).map(|value| (key.to_owned(), value)));
        }
        let asked = std::mem::take(schema);
        outside.insert(
            "anyOf".into(),
            json!([asked, {"type": "string", "pattern": r"\$\{"}]),
        );
        *schema = Value::Object(outside);
        return;
    }
    for (key, value) in map.iter_mut() {
        if !["const", "default", "enum", "required"].contains(&key.as_str()) {
            as_written(value);
        }
    }
}

/// One driver of a component, with its definitions moved to the file's own.
fn form(component: &str, driver: Entry, defs: &mut Map<String, Value>) -> Value {
    let prefix = format!("{component}.{}", driver.name);
    let mut config = driver.schema;
    ignore(&mut config, driver.ignored_keys);
    strip(&mut config);
    hoist(&mut config, &prefix, defs);
    let required = config
        .get("required")
        .and_then(Value::as_array)
        .is_some_and(|required| !required.is_empty());
    let mut schema = json!({
        "type": "object",
        "description": driver.about,
        "properties": {"driver": {"const": driver.name}, "config": config},
        "required": if required { vec!["driver", "config"] } else { vec!["driver"] },
        "additionalProperties": false,
    });
    if component == "source" {
        schema["properties"]["stream_schema"] = Value::Bool(true);
    }
    schema
}

fn ignore(schema: &mut Value, keys: &[&str]) {
    for key in keys {
        if let Some(properties) = schema.get_mut("properties") {
            properties[*key] = json!({"deprecated": true});
        }
    }
}

/// Removes what only a root has.
fn strip(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
        object.remove("title");
    }
}

/// Moves the `$defs` of a root that becomes a part, and the references to them, to the file's own.
/// A driver of several forms has such roots inside its schema.
fn hoist(schema: &mut Value, prefix: &str, defs: &mut Map<String, Value>) {
    for key in ["anyOf", "oneOf"] {
        let forms = schema.get_mut(key).and_then(Value::as_array_mut);
        for (index, form) in forms.into_iter().flatten().enumerate() {
            if form.get("$defs").is_some() {
                hoist(form, &format!("{prefix}.{index}"), defs);
                strip(form);
            }
        }
    }
    let own = schema
        .as_object_mut()
        .and_then(|object| object.remove("$defs"));
    if let Some(Value::Object(own)) = own {
        rename(schema, prefix);
        for (name, mut definition) in own {
            rename(&mut definition, prefix);
            defs.insert(format!("{prefix}.{name}"), definition);
        }
    }
}

fn rename(schema: &mut Value, prefix: &str) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                match value {
                    Value::String(reference) if key == "$ref" => {
                        // One that has a dot was moved before.
                        if let Some(name) = reference.strip_prefix("#/$defs/")
                            && !name.contains('.')
                        {
                            *reference = format!("#/$defs/{prefix}.{name}");
                        }
                    }
                    value => rename(value, prefix),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, prefix)),
        _ => {}
    }
}

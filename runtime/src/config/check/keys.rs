//! Keys that are not where they belong: ignored ones, misplaced ones, misspelt ones.

use serde_json::{Map, Value};

use super::Checker;
use crate::config::meant;
use crate::config::schema::{entries, schema_of};
use crate::config::shape;
use crate::config::types::Service;
use crate::config::words::{At, Finding};
use crate::failover;
use crate::sink;
use crate::source;

impl Checker {
    /// A driver of several forms that cannot tell which one is meant still knows all its keys.
    /// Whether there is a misspelt one, which explains that.
    pub(super) fn unknown_in_all_forms(
        &mut self,
        pointer: &str,
        schema: &Value,
        config: &Value,
    ) -> bool {
        let known = shape::properties(schema, schema);
        if known.is_empty() {
            return false;
        }
        let mut misspelt = false;
        for (key, _) in config.as_object().into_iter().flatten() {
            if known.iter().any(|(name, _)| name == key) {
                continue;
            }
            let meant = meant::similar(key, known.iter().map(|(name, _)| name.as_str()));
            misspelt |= meant.is_some();
            let finding = Finding {
                pointer: String::new(),
                help: meant
                    .as_ref()
                    .map(|meant| format!("did you mean `{meant}`?")),
                at: At::Unknown(key.clone(), meant),
                message: format!("unknown key `{key}`"),
            };
            self.finding(pointer, finding);
        }
        misspelt
    }

    /// Keys one level too high: said once, with where they belong.
    pub(super) fn misplaced(&mut self, file: &mut Value) {
        let service = schema_of::<Service>();
        let tables = [
            ("source", entries(source::DRIVERS)),
            ("sink", entries(sink::DRIVERS)),
            ("failover", entries(failover::DRIVERS)),
        ];
        let mut belongs: Vec<(String, String)> = shape::properties(&service, &service)
            .into_iter()
            .map(|(key, _)| (format!("/{key}"), "/service".to_owned()))
            .collect();
        for (component, drivers) in tables {
            let Some(name) = file[component]["driver"].as_str() else {
                continue;
            };
            let driver = drivers.into_iter().find(|driver| driver.name == name);
            for (key, _) in driver
                .iter()
                .flat_map(|driver| shape::properties(&driver.schema, &driver.schema))
            {
                belongs.push((
                    format!("/{component}/{key}"),
                    format!("/{component}/config"),
                ));
            }
        }
        for (pointer, owner) in belongs {
            let located = self.root.locate(&pointer);
            let (Some(key), true) = (located.key, located.whole) else {
                continue;
            };
            let (name, message) = (key.name.clone(), format!("unknown key `{}`", key.name));
            let place = (key.place.line, key.place.column);
            let owner_name = owner.trim_start_matches('/').replace('/', ".");
            for one in &mut self.found {
                if (one.line, one.column) == place && one.message == message {
                    one.help = Some(format!("`{name}` belongs under `{owner_name}`"));
                }
            }
            put(file, &owner, name, located.node.to_json());
        }
    }

    /// Warns of keys that mean nothing here and takes them out.
    pub(super) fn ignore(&mut self, pointer: &str, value: &mut Value, keys: &[&str], why: &str) {
        let Some(map) = value.as_object_mut() else {
            return;
        };
        for key in keys {
            if map.remove(*key).is_none() {
                continue;
            }
            let located = self.root.locate(&format!("{pointer}/{key}"));
            let place = located.owner();
            let warning = self
                .spec
                .warning(place, format!("`{key}` {why}: it is ignored"));
            self.found.push(warning);
        }
    }
}

/// Puts a misplaced value where it belongs, so that it is not missed there as well.
fn put(file: &mut Value, owner: &str, key: String, value: Value) {
    let (parent, last) = owner.rsplit_once('/').unwrap_or_default();
    let Some(parent) = file.pointer_mut(parent).and_then(Value::as_object_mut) else {
        return;
    };
    let map = parent.entry(last).or_insert(Value::Null);
    if map.is_null() {
        *map = Value::Object(Map::new());
    }
    if let Some(map) = map.as_object_mut() {
        map.entry(key).or_insert(value);
    }
}

//! The exports, with answers that do not add up.
//!
//! Owns what `#[formatter]` would write, and mangling what the SDK answers. Called by the host.

use std::cell::{Cell, RefCell};

use wirefall_sdk::__private::{self as sdk, bindings};
use wirefall_sdk::serde_json;

use bindings::exports::wirefall::plugin::formatter as wit;

use super::{Config, Does, Hostile, early};

thread_local! {
    static PLUGIN: RefCell<Option<Hostile>> = const { RefCell::new(None) };
    static DOES: Cell<Option<Does>> = const { Cell::new(None) };
    static WHEN: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Exports;

impl wit::Guest for Exports {
    fn describe() -> wit::Description {
        early::in_describe();
        sdk::describe::<Hostile>("hostile", "0.1.0", "Breaks")
    }

    fn configure(config: String) -> Result<(), String> {
        if let Ok(config) = serde_json::from_str::<Config>(&config) {
            DOES.set(Some(config.does));
            WHEN.replace(config.when);
        }
        PLUGIN.with(|plugin| sdk::configure(plugin, &config))
    }

    fn format(batch: wit::Batch) -> wit::Outputs {
        let records = batch.payload_ends.len() as u32;
        match DOES.get() {
            Some(Does::Nothing) => return PLUGIN.with(|plugin| sdk::format(plugin, &batch)),
            Some(Does::CountColumns) => return count_columns(&batch),
            _ => {}
        }
        let hit = WHEN
            .with_borrow(|when| String::from_utf8_lossy(&batch.payloads).contains(when.as_str()));
        let mut outputs = PLUGIN.with(|plugin| sdk::format(plugin, &batch));
        if hit {
            mangle(DOES.get(), &mut outputs, records);
        }
        outputs
    }
}

/// How many values and bytes each column has, as one output of the first record.
fn count_columns(batch: &wit::Batch) -> wit::Outputs {
    let counts = format!(
        "payloads {}, keys {}/{}, timestamps {}, attributes {}/{}",
        batch.payload_ends.len(),
        batch.key_ends.len(),
        batch.keys.len(),
        batch.timestamps.len(),
        batch.attribute_ends.len(),
        batch.attributes.len(),
    );
    wit::Outputs {
        ends: vec![counts.len() as u32],
        payloads: counts.into_bytes(),
        sources: vec![0],
        keys: Vec::new(),
        key_ends: Vec::new(),
        rejections: Vec::new(),
    }
}

fn mangle(does: Option<Does>, outputs: &mut wit::Outputs, records: u32) {
    match does {
        Some(Does::Lie) => {
            bindings::wirefall::plugin::log::panicked(Some(records + 7), "not me");
            core::arch::wasm32::unreachable();
        }
        Some(Does::EndsDecrease) => {
            outputs.sources.insert(0, 0);
            outputs.ends.insert(0, u32::MAX);
        }
        Some(Does::EndsShort) => outputs.payloads.push(b'x'),
        Some(Does::SourcesDecrease) => {
            outputs.sources.insert(0, 1);
            outputs.ends.insert(0, 0);
        }
        Some(Does::SourcesBeyond) => {
            outputs.sources.push(records);
            outputs.ends.push(outputs.payloads.len() as u32);
        }
        Some(Does::KeysMissing) => {
            outputs.key_ends = vec![0; outputs.ends.len() + 1];
            outputs.keys.clear();
        }
        Some(Does::RejectAndEmit) => outputs.rejections.push(reject(0)),
        Some(Does::RejectBeyond) => outputs.rejections.push(reject(records)),
        _ => (),
    }
}

fn reject(index: u32) -> wit::Rejection {
    wit::Rejection {
        index,
        reason: String::from("no"),
    }
}

bindings::export!(Exports with_types_in bindings);

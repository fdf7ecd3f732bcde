//! The component's side of the boundary; wasm only.
//!
//! Owns the bridge from the generated bindings to the trait, and the panic hook. Called by the
//! exports that `#[formatter]` writes.

use std::cell::RefCell;
use std::sync::Once;

use crate::Formatter;
use crate::batch::{self, Batch};

use crate::bindings::exports::wirefall::plugin::formatter as wit;
use crate::bindings::wirefall::plugin::log as host;

/// A panic aborts the instance: tell the host where, so that one retry is enough.
fn hook_panics() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let message = panic.payload_as_str().unwrap_or("no message");
            let place = panic.location().map(|at| format!(" at {at}"));
            let told = format!("{message}{}", place.unwrap_or_default());
            host::panicked(batch::at(), &told);
        }));
    });
}

/// `describe` of formatter `F`, which the crate `name` at `version` holds.
pub fn describe<F: Formatter>(name: &str, version: &str, about: &str) -> wit::Description {
    hook_panics();
    let mut columns = wit::Columns::empty();
    columns.set(wit::Columns::KEYS, F::COLUMNS.keys);
    columns.set(wit::Columns::TIMESTAMPS, F::COLUMNS.timestamps);
    columns.set(wit::Columns::ATTRIBUTES, F::COLUMNS.attributes);
    let about = if F::ABOUT.is_empty() { about } else { F::ABOUT };
    wit::Description {
        name: name.to_owned(),
        version: version.to_owned(),
        about: about.to_owned(),
        config_schema: schemars::schema_for!(F::Config).as_value().to_string(),
        columns,
    }
}

/// `configure`: makes the formatter into `slot`.
///
/// # Errors
/// What keeps it from being made.
pub fn configure<F: Formatter>(slot: &RefCell<Option<F>>, config: &str) -> Result<(), String> {
    hook_panics();
    let config = serde_json::from_str(config).map_err(|error| error.to_string())?;
    let formatter = F::new(config).map_err(|error| error.to_string())?;
    *slot.borrow_mut() = Some(formatter);
    Ok(())
}

/// `format`.
///
/// # Panics
/// If the host did not configure first.
pub fn format<F: Formatter>(slot: &RefCell<Option<F>>, batch: &wit::Batch) -> wit::Outputs {
    let mut slot = slot.borrow_mut();
    let formatter = slot
        .as_mut()
        .expect("the host configures before it formats");
    let outputs = batch::format(
        formatter,
        &Batch {
            payloads: &batch.payloads,
            payload_ends: &batch.payload_ends,
            keys: &batch.keys,
            key_ends: &batch.key_ends,
            timestamps: &batch.timestamps,
            attributes: &batch.attributes,
            attribute_ends: &batch.attribute_ends,
        },
    );
    let rejections = outputs.rejections.into_iter();
    wit::Outputs {
        payloads: outputs.payloads,
        ends: outputs.ends,
        sources: outputs.sources,
        keys: outputs.keys,
        key_ends: outputs.key_ends,
        rejections: rejections
            .map(|(index, reason)| wit::Rejection { index, reason })
            .collect(),
    }
}

//! Server mode: `listen:` publishes to subscribers.

use schemars::Schema;
use serde_json::Value;

use crate::driver::{Facts, Problem};
use crate::sink::SinkPlan;

/// The JSON Schema of this form of the config.
pub(super) fn schema() -> Schema {
    Schema::default()
}

/// Checks a config that has `listen`.
pub(super) fn check(_config: Value, _facts: &Facts) -> Result<Box<dyn SinkPlan>, Vec<Problem>> {
    Err(vec![Problem::error("/listen", "not built yet")])
}

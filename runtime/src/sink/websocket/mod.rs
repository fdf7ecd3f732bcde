//! The `websocket` sink: `url:` dials out and pushes, `listen:` publishes to subscribers.
//!
//! Owns the choice between the two; the only place, with `source/websocket`, that names the WebSocket
//! library. `session` is the one state machine of both; `client` and `server` are its shells.

use serde_json::Value;

use crate::driver::{Driver, Facts, Problem};
use crate::sink::SinkPlan;

pub mod server;

/// The table entry.
pub static DRIVER: Driver<Box<dyn SinkPlan>> = Driver {
    name: "websocket",
    about: "push to a WebSocket server (url) or publish to subscribers (listen)",
    schema: |_| schemars::Schema::default(),
    check,
    ignored_keys: &[],
};

fn check(_config: Value, _facts: &Facts) -> Result<Box<dyn SinkPlan>, Vec<Problem>> {
    Err(Vec::new())
}

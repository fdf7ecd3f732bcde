//! The `websocket` sink: `url:` dials out and pushes, `listen:` publishes to subscribers.
//!
//! Owns the choice between the two; the only place, with `source/websocket`, that names the WebSocket
//! library. `session` is the one state machine of both; `client` and `server` are its shells.

use serde_json::Value;

use crate::driver::{Driver, Facts, Problem};
use crate::sink::SinkPlan;

mod server;
pub mod session;
pub mod subscription;

/// The table entry.
pub static DRIVER: Driver<Box<dyn SinkPlan>> = Driver {
    name: "websocket",
    about: "push to a WebSocket server (url) or publish to subscribers (listen)",
    schema,
    check,
    ignored_keys: &[],
};

fn schema(_config: Option<&Value>) -> schemars::Schema {
    server::schema()
}

fn check(config: Value, facts: &Facts) -> Result<Box<dyn SinkPlan>, Vec<Problem>> {
    server::check(config, facts)
}

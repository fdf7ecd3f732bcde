//! The `websocket` sink: `url:` dials out and pushes, `listen:` publishes to subscribers.
//!
//! Owns the choice between the two; the only place, with `source/websocket`, that names the WebSocket
//! library. `session` is the one state machine of both; `client` and `server` are its shells.

use schemars::{Schema, json_schema};
use serde_json::Value;

use crate::driver::{Driver, Facts, Problem};
use crate::sink::SinkPlan;

mod address;
mod client;
mod config;
mod connect;
mod endpoint;
mod framing_keys;
mod handshake;
mod inbound;
pub mod kept;
mod layers;
mod line;
mod outbound;
mod probe;
pub mod protocol;
pub mod receiver;
mod replies;
mod server;
pub mod session;
pub mod subscription;
mod tls;
mod wire;
mod words;

/// The table entry.
pub static DRIVER: Driver<Box<dyn SinkPlan>> = Driver {
    name: "websocket",
    about: "push to a WebSocket server (url) or publish to subscribers (listen)",
    schema,
    check,
    ignored_keys: &[],
};

/// Which form a config has.
enum Form {
    Client,
    Server,
    /// Neither key or both: `check` says so.
    Unclear,
}

fn form(config: &Value) -> Form {
    match (config.get("url"), config.get("listen")) {
        (Some(_), None) => Form::Client,
        (None, Some(_)) => Form::Server,
        _ => Form::Unclear,
    }
}

fn schema(config: Option<&Value>) -> Schema {
    match config.map(form) {
        Some(Form::Client) => config::schema(),
        Some(Form::Server) => server::schema(),
        Some(Form::Unclear) => json_schema!({ "type": "object" }),
        None => json_schema!({ "anyOf": [config::schema(), server::schema()] }),
    }
}

fn check(config: Value, facts: &Facts) -> Result<Box<dyn SinkPlan>, Vec<Problem>> {
    match form(&config) {
        Form::Client => Ok(Box::new(config::check(config, facts)?)),
        Form::Server => server::check(config, facts),
        Form::Unclear if config.get("url").is_some() => Err(vec![
            Problem::error("/listen", "`url` and `listen` exclude each other")
                .help("keep `url` to push to a server, or `listen` to publish to subscribers"),
        ]),
        Form::Unclear => Err(vec![
            Problem::error("", "the websocket sink needs `url` or `listen`")
                .help("`url: wss://host/path` pushes, `listen: 127.0.0.1:9400` publishes"),
        ]),
    }
}

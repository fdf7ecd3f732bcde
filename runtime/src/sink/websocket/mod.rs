//! The `websocket` sink: `url:` dials out and pushes, `listen:` publishes to subscribers.
//!
//! Owns the choice between the two; the only place, with `source/websocket`, that names the WebSocket
//! library. `session` is the one state machine of both; `client` and `server` are its shells.

use schemars::{Schema, json_schema};
use serde_json::{Map, Value, json};

use crate::driver::{Driver, Facts, Problem};
use crate::sink::SinkPlan;

mod address;
mod client;
mod config;
#[cfg(test)]
mod conformance;
mod connect;
mod credentials;
pub mod endpoint;
mod framing_keys;
mod handshake;
mod inbound;
pub mod kept;
mod layers;
mod line;
mod outbound;
mod places;
pub mod probe;
pub mod protocol;
mod push;
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
    /// Neither key, as `check` says, or both, as the schema does.
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
        Some(Form::Unclear) => unclear(config.is_some_and(|config| config.get("url").is_some())),
        None => json_schema!({ "anyOf": [config::schema(), server::schema()] }),
    }
}

/// Where it cannot be told which form is meant, what is wrong beside that is told all the same.
fn unclear(both: bool) -> Schema {
    let mut properties = Map::new();
    for form in [server::schema(), config::schema()] {
        let mut form = form.to_value();
        if let Some(Value::Object(keys)) = form.get_mut("properties").map(Value::take) {
            properties.extend(keys);
        }
    }
    if !both {
        return json_schema!({ "type": "object", "properties": properties });
    }
    let one_of_them = json!({
        "not": {},
        "title": "`url` and `listen` exclude each other",
        "description": "keep `url` to push to a server, or `listen` to publish to subscribers",
    });
    properties.insert("listen".to_owned(), one_of_them);
    // Without the one that is refused it is no config either: `check` is not asked.
    json_schema!({ "type": "object", "properties": properties, "required": ["url", "listen"] })
}

fn check(config: Value, facts: &Facts) -> Result<Box<dyn SinkPlan>, Vec<Problem>> {
    match form(&config) {
        Form::Client => Ok(Box::new(config::check(config, facts)?)),
        Form::Server => server::check(config, facts),
        Form::Unclear => Err(vec![
            Problem::error("", "the websocket sink needs `url` or `listen`")
                .help("`url: wss://host/path` pushes, `listen: 127.0.0.1:9400` publishes"),
        ]),
    }
}

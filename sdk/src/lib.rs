//! Write formatters and filters for Wirefall: a struct, one trait, one attribute.
//!
//! ```
//! use wirefall_sdk::prelude::*;
//!
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     above: f64,
//! }
//!
//! #[derive(Deserialize)]
//! struct Trade<'a> {
//!     symbol: &'a str,
//!     price: f64,
//! }
//!
//! struct Dear {
//!     above: f64,
//! }
//!
//! #[formatter]
//! impl Formatter for Dear {
//!     type Config = Config;
//!
//!     fn new(config: Config) -> Result<Self, ConfigError> {
//!         Ok(Self { above: config.above })
//!     }
//!
//!     fn format(&mut self, record: &Record, out: &mut Output) -> Result<(), Reject> {
//!         let trade: Trade = record.json()?;
//!         if trade.price <= self.above {
//!             return Ok(()); // nothing emitted: filtered
//!         }
//!         out.text(format_args!("{} {}", trade.symbol, trade.price))
//!     }
//! }
//!
//! let run = wirefall_sdk::testing::run::<Dear>(
//!     r#"{"above": 10}"#,
//!     r#"{"symbol": "ABC", "price": 12.5}
//!        {"symbol": "XYZ", "price": 3}"#,
//! )?;
//! assert_eq!(run.frames(), ["ABC 12.5"]);
//! # Ok::<(), ConfigError>(())
//! ```
//!
//! `cargo build --release --target wasm32-wasip2` makes the component (the crate is a `cdylib`);
//! natively the same impl runs under `cargo test`, through [`testing`].
//!
//! # Layout
//!
//! | module | what it owns |
//! | --- | --- |
//! | `formatter` | the trait, and how it says no: [`Reject`], [`ConfigError`] |
//! | `record`, `fields`, [`attributes`] | what a formatter reads |
//! | `output` | what it emits |
//! | [`log`] | lines for the host's log |
//! | [`testing`], [`golden`] | the native run, and its form as files |
//! | `batch` | the loop over a batch, the same natively and in wasm |
//! | `bindings` | the boundary as generated from the WIT; wasm only |
//! | `guest` | the component's exports and the panic hook; wasm only |

mod batch;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;
mod fields;
mod formatter;
#[cfg(target_family = "wasm")]
mod guest;
mod output;
mod record;

pub mod attributes;
pub mod golden;
pub mod log;
pub mod testing;

pub use fields::Field;
pub use formatter::{Columns, ConfigError, Formatter, NoConfig, Reject};
pub use output::{Keyed, Output};
pub use record::Record;
pub use wirefall_sdk_macros::formatter;

// So that a plugin crate need not name them itself; the derives of serde want `serde` as a dependency.
pub use schemars;
pub use serde;
pub use serde_json;

/// What a plugin needs; `use wirefall_sdk::prelude::*`.
pub mod prelude {
    pub use crate::{Columns, ConfigError, Formatter, NoConfig, Output, Record, Reject, formatter};
    pub use crate::{log, schemars};
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
}

/// For the code that `#[formatter]` writes; not for users, and free to change.
#[doc(hidden)]
#[cfg(target_family = "wasm")]
pub mod __private {
    pub use crate::bindings;
    pub use crate::guest::{configure, describe, format};
}

/// The Rust that the guides show, compiled by `cargo test`: what users copy has to build.
#[cfg(doctest)]
mod shown {
    #[doc = include_str!("../../README.md")]
    struct Readme;

    #[doc = include_str!("../../docs/plugins.md")]
    struct Plugins;
}

//! The pipeline engine: joins source, plugins, journal, sink and failover.
//!
//! [`build`] opens what a plan names; `run` is the one loop, the only caller of acknowledge and
//! commit. `books` keeps its accounts. `workers` runs the plugin chain on threads of its own and gives batches back in the
//! order in which they were read. There is one engine for every source and every sink.

mod account;
mod books;
mod build;
mod error;
mod operations;
mod run;
mod tolerance;
mod workers;

pub use account::Account;
pub use build::{Pipeline, build};
pub use error::RunError;
pub use run::Ended;

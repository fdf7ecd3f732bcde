//! Runs a formatter natively: NDJSON in, frames out.
pub use std::convert::Infallible;

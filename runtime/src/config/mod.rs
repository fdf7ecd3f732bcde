//! Pipeline configuration: spec (YAML as written, with places) → check → plan (validated).
//!
//! The only place that names the YAML library. Does no I/O and reads no clock: it is given the text,
//! the environment and what plugins say of themselves.

pub mod plan;

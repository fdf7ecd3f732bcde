//! Another plugin in this one: tells what arrived with each record.
//!
//! Owns its one line a record. Called by the exports where the component is marked as it.

use std::fmt::Write;

use wirefall_sdk::prelude::*;

use crate::Config;

/// The formatter.
pub struct Witness;

impl Formatter for Witness {
    type Config = Config;
    const COLUMNS: Columns = Columns::KEYS
        .and(Columns::TIMESTAMPS)
        .and(Columns::ATTRIBUTES);

    fn new(_: Config) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn format(&mut self, record: &Record, out: &mut Output) -> Result<(), Reject> {
        let or_none = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => String::from("none"),
        };
        let at = record.timestamp().map(|at| at.to_string().into_bytes());
        let mut line = format!(
            "{} key={} at={}",
            record.text()?,
            or_none(record.key()),
            or_none(at.as_deref())
        );
        for (name, value) in record.attributes() {
            write!(line, " {name}={}", String::from_utf8_lossy(value))?;
        }
        out.text(line)
    }
}

//! Uses all of the plugin interface, and tells what arrives with each record; for the tests.
//!
//! Built once for each version of the interface, it is what later hosts must run: see
//! docs/compatibility.md.

use std::fmt::Write;

use wirefall_sdk::prelude::*;

/// What it puts before each line.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The first word of each line.
    #[serde(default)]
    word: String,
}

/// The formatter.
pub struct Witness(Config);

#[formatter]
impl Formatter for Witness {
    type Config = Config;
    const COLUMNS: Columns = Columns::KEYS
        .and(Columns::TIMESTAMPS)
        .and(Columns::ATTRIBUTES);

    fn new(config: Config) -> Result<Self, ConfigError> {
        match config.word.as_str() {
            "refused" => Err(ConfigError::new("`refused` is refused")),
            _ => Ok(Self(config)),
        }
    }

    fn format(&mut self, record: &Record, out: &mut Output) -> Result<(), Reject> {
        match record.text()?.split(' ').next() {
            Some("skip") => return Ok(()),
            Some("reject") => return Err(Reject::new("asked to reject")),
            Some("panic") => panic!("asked to panic"),
            Some("log") => tell(),
            Some("twice") => {
                out.keyed("own").json(&["a line", "of its own"])?;
                out.keyed("own").bytes(record.payload())?;
            }
            _ => {}
        }
        out.text(self.line(record)?)
    }
}

impl Witness {
    /// The record with all that came beside it.
    fn line(&self, record: &Record) -> Result<String, Reject> {
        let or_none = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => String::from("none"),
        };
        let at = record.timestamp().map(|at| at.to_string().into_bytes());
        let mut line = format!(
            "{}{} key={} at={}",
            self.0.word,
            record.text()?,
            or_none(record.key()),
            or_none(at.as_deref())
        );
        for (name, value) in record.attributes() {
            write!(line, " {name}={}", String::from_utf8_lossy(value))?;
        }
        Ok(line)
    }
}

fn tell() {
    log::error!("an error");
    log::warn!("a warning");
    log::info!("a word");
    log::debug!("a detail");
    log::trace!("a step");
}

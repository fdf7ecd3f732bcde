//! Breaks in every way that a plugin can, on records that contain a text; for the tests.
//!
//! Writes its exports itself where a formatter would take `#[formatter]`: the answers that do not add
//! up cannot be made with the SDK.

use std::hint::black_box;

use wirefall_sdk::prelude::*;

#[cfg(target_family = "wasm")]
mod early;
#[cfg(target_family = "wasm")]
mod exports;

/// What to break, and on which records.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How to break.
    does: Does,
    /// On records that contain this text; empty means on every record.
    #[serde(default)]
    when: String,
    /// Do it in `configure`, before any record.
    #[serde(default)]
    at_configure: bool,
}

/// Ways to break.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Does {
    /// Nothing: every record goes through unread, which is what the boundary alone costs.
    Nothing,
    /// Panics, which the SDK tells.
    Panic,
    /// Traps without a word.
    Trap,
    /// Never comes back.
    Loop,
    /// Takes memory without end.
    Grow,
    /// Keeps a mebibyte of every such record.
    Leak,
    /// Recurses without end.
    Stack,
    /// Ends the process.
    Exit,
    /// Emits 64 KiB a thousand times.
    HugeOutput,
    /// Logs ten thousand lines.
    FloodLog,
    /// Writes to standard error.
    Stderr,
    /// Rejects.
    Reject,
    /// Emits what is no UTF-8.
    InvalidUtf8,
    /// Emits the record twice, the second time with a key.
    Twice,
    /// Blames a record that is not there, then traps.
    Lie,
    /// Ends go down.
    EndsDecrease,
    /// The last end is not the end of the bytes.
    EndsShort,
    /// Sources go down.
    SourcesDecrease,
    /// A source is not in the batch.
    SourcesBeyond,
    /// Fewer keys than outputs.
    KeysMissing,
    /// Rejects a record and emits for it.
    RejectAndEmit,
    /// Rejects a record that is not in the batch.
    RejectBeyond,
    /// Emits how many values each column of the batch has, and nothing else.
    CountColumns,
}

/// The formatter.
pub struct Hostile {
    config: Config,
    kept: Vec<Vec<u8>>,
}

impl Formatter for Hostile {
    type Config = Config;
    const COLUMNS: Columns = Columns::KEYS;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.when == "refuse" {
            return Err(ConfigError::new("when: refuse is refused"));
        }
        let at_configure = config.at_configure;
        let mut hostile = Self {
            config,
            kept: Vec::new(),
        };
        if at_configure {
            let broken = hostile.break_on("its config", &mut Output::default());
            broken.map_err(|reject| ConfigError::new(reject.reason()))?;
        }
        Ok(hostile)
    }

    fn format(&mut self, record: &Record, out: &mut Output) -> Result<(), Reject> {
        if self.config.does == Does::Nothing {
            return out.bytes(record.payload());
        }
        let text = String::from_utf8_lossy(record.payload());
        if text.contains(&self.config.when) {
            self.break_on(&text, out)?;
        }
        out.bytes(record.payload())
    }
}

impl Hostile {
    fn break_on(&mut self, text: &str, out: &mut Output) -> Result<(), Reject> {
        match self.config.does {
            Does::Panic => panic!("cannot bear {text}"),
            Does::Trap => trap(),
            Does::Loop => endless(),
            Does::Grow => grow(),
            Does::Leak => self.kept.push(vec![1; 1 << 20]),
            Does::Stack => return Err(Reject::new(recurse(self.kept.len() as u64))),
            Does::Exit => std::process::exit(7),
            Does::HugeOutput => {
                for _ in 0..1000 {
                    out.bytes(vec![b'x'; 64 << 10])?;
                }
            }
            Does::FloodLog => {
                for line in 0..10_000 {
                    log::info!("line {line}\nforged");
                }
            }
            Does::Stderr => eprintln!("a word on {text}"),
            Does::Reject => return Err(Reject::new(format_args!("will not take {text}"))),
            Does::InvalidUtf8 => out.bytes(b"\xff\xfe")?,
            Does::Twice => out.keyed("own").text(text)?,
            _ => (), // done to the answer as a whole
        }
        Ok(())
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}

fn endless() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn grow() -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(vec![1_u8; 1 << 20]));
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let pad = black_box([depth; 64]);
    recurse(pad[0] + 1) + black_box(pad)[1]
}

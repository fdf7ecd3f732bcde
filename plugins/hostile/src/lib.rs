//! Breaks in every way that a plugin can, on records that contain a text; for the tests.
//!
//! Writes its exports itself where a formatter would take `#[formatter]`: the answers that do not add
//! up cannot be made with the SDK.

use wirefall_sdk::prelude::*;

/// What to break, and on which records.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How to break.
    does: Does,
    /// On records that contain this text; empty means on every record.
    #[serde(default)]
    when: String,
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
        Ok(Self {
            config,
            kept: Vec::new(),
        })
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
            Does::Loop => loop {
                std::hint::spin_loop();
            },
            Does::Grow => loop {
                self.kept.push(vec![1; 1 << 20]);
            },
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

fn trap() {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let pad = std::hint::black_box([depth; 64]);
    recurse(pad[0] + 1) + std::hint::black_box(pad)[1]
}

/// The exports, with answers that do not add up.
#[cfg(target_family = "wasm")]
mod exports {
    use std::cell::{Cell, RefCell};

    use wirefall_sdk::__private::{self as sdk, bindings};
    use wirefall_sdk::serde_json;

    use bindings::exports::wirefall::plugin::formatter as wit;

    use super::{Config, Does, Hostile};

    thread_local! {
        static PLUGIN: RefCell<Option<Hostile>> = const { RefCell::new(None) };
        static DOES: Cell<Option<Does>> = const { Cell::new(None) };
        static WHEN: RefCell<String> = const { RefCell::new(String::new()) };
    }

    struct Exports;

    impl wit::Guest for Exports {
        fn describe() -> wit::Description {
            sdk::describe::<Hostile>("hostile", "0.1.0", "Breaks")
        }

        fn configure(config: String) -> Result<(), String> {
            if let Ok(config) = serde_json::from_str::<Config>(&config) {
                DOES.set(Some(config.does));
                WHEN.replace(config.when);
            }
            PLUGIN.with(|plugin| sdk::configure(plugin, &config))
        }

        fn format(batch: wit::Batch) -> wit::Outputs {
            let records = batch.payload_ends.len() as u32;
            if DOES.get() == Some(Does::Nothing) {
                return PLUGIN.with(|plugin| sdk::format(plugin, &batch));
            }
            let hit = WHEN.with_borrow(|when| {
                String::from_utf8_lossy(&batch.payloads).contains(when.as_str())
            });
            let mut outputs = PLUGIN.with(|plugin| sdk::format(plugin, &batch));
            if hit {
                mangle(DOES.get(), &mut outputs, records);
            }
            outputs
        }
    }

    fn mangle(does: Option<Does>, outputs: &mut wit::Outputs, records: u32) {
        match does {
            Some(Does::Lie) => {
                bindings::wirefall::plugin::log::panicked(Some(records + 7), "not me");
                core::arch::wasm32::unreachable();
            }
            Some(Does::EndsDecrease) => {
                outputs.sources.insert(0, 0);
                outputs.ends.insert(0, u32::MAX);
            }
            Some(Does::EndsShort) => outputs.payloads.push(b'x'),
            Some(Does::SourcesDecrease) => {
                outputs.sources.insert(0, 1);
                outputs.ends.insert(0, 0);
            }
            Some(Does::SourcesBeyond) => {
                outputs.sources.push(records);
                outputs.ends.push(outputs.payloads.len() as u32);
            }
            Some(Does::KeysMissing) => {
                outputs.key_ends = vec![0; outputs.ends.len() + 1];
                outputs.keys.clear();
            }
            Some(Does::RejectAndEmit) => outputs.rejections.push(reject(0)),
            Some(Does::RejectBeyond) => outputs.rejections.push(reject(records)),
            _ => (),
        }
    }

    fn reject(index: u32) -> wit::Rejection {
        wit::Rejection {
            index,
            reason: String::from("no"),
        }
    }

    bindings::export!(Exports with_types_in bindings);
}

//! Runs a formatter natively: NDJSON in, frames out.
//!
//! Owns the native run; the form of input and output is that of [`golden`](mod@crate::golden). Called
//! by the tests of plugins.
//!
//! ```
//! # use wirefall_sdk::prelude::*;
//! # struct Upper;
//! # impl Formatter for Upper {
//! #     type Config = NoConfig;
//! #     fn new(_: NoConfig) -> Result<Self, ConfigError> { Ok(Self) }
//! #     fn format(&mut self, record: &Record, out: &mut Output) -> Result<(), Reject> {
//! #         out.text(record.text()?.to_uppercase())
//! #     }
//! # }
//! let run = wirefall_sdk::testing::run::<Upper>("{}", "one\ntwo")?;
//! assert_eq!(run.frames(), ["ONE", "TWO"]);
//! assert!(run.rejected.is_empty());
//! # Ok::<(), ConfigError>(())
//! ```

use std::path::Path;

use crate::batch::{self, Batch};
use crate::golden::{Input, cases, expected, rejected};
use crate::{ConfigError, Formatter};

pub use crate::golden::{Frame, Run};

/// Formats `input` (NDJSON) with a formatter made from `config` (JSON), in one batch.
///
/// # Errors
/// Where the formatter refuses its config.
///
/// # Panics
/// Where the formatter does, and on an input line that is not in the golden form.
pub fn run<F: Formatter>(config: &str, input: &str) -> Result<Run, ConfigError> {
    let mut formatter = F::new(serde_json::from_str(config)?)?;
    let lines = Input::read(input).expect("the input is in the golden form");
    let outputs = batch::format(&mut formatter, &batch_for::<F>(&lines));
    let value = |bytes: &[u8], ends: &[u32], index: usize| {
        let start = if index == 0 {
            0
        } else {
            ends[index - 1] as usize
        };
        bytes[start..ends[index] as usize].to_vec()
    };
    let frames = outputs.sources.iter().enumerate();
    let frames = frames.map(|(index, source)| Frame {
        source: *source as usize,
        key: (!outputs.key_ends.is_empty()).then(|| value(&outputs.keys, &outputs.key_ends, index)),
        payload: value(&outputs.payloads, &outputs.ends, index),
    });
    let rejected = outputs.rejections.into_iter();
    Ok(Run {
        outputs: frames.collect(),
        rejected: rejected
            .map(|(index, reason)| (index as usize, reason))
            .collect(),
    })
}

/// Runs the golden cases in `folder` natively, as `wirefall test` does with the component: for each
/// `NAME.ndjson` with its `NAME.config.json`, the frames in `NAME.expected.ndjson` and the reasons in
/// `NAME.rejected.ndjson`.
///
/// # Panics
/// On the first case that differs, with both sides; and where there is no case at all.
pub fn golden<F: Formatter>(folder: impl AsRef<Path>) {
    let folder = folder.as_ref();
    let names = cases(folder);
    assert!(!names.is_empty(), "no golden case in {}", folder.display());
    for name in names {
        let read = |suffix: &str| {
            std::fs::read_to_string(folder.join(format!("{name}.{suffix}"))).unwrap_or_default()
        };
        let config = read("config.json");
        let config = if config.is_empty() { "{}" } else { &config };
        let run = run::<F>(config, &read("ndjson")).expect("the config is taken");
        assert_eq!(
            expected(&run),
            read("expected.ndjson"),
            "{name}.expected.ndjson"
        );
        assert_eq!(
            rejected(&run),
            read("rejected.ndjson"),
            "{name}.rejected.ndjson"
        );
    }
}

/// What the host would carry across to `F`.
fn batch_for<F: Formatter>(input: &Input) -> Batch<'_> {
    let mut batch = Batch {
        payloads: &input.payloads,
        payload_ends: &input.payload_ends,
        ..Batch::default()
    };
    if F::COLUMNS.keys {
        (batch.keys, batch.key_ends) = (&input.keys, &input.key_ends);
    }
    if F::COLUMNS.timestamps {
        batch.timestamps = &input.timestamps;
    }
    if F::COLUMNS.attributes {
        (batch.attributes, batch.attribute_ends) = (&input.attributes, &input.attribute_ends);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    /// Emits what the record says: `key value` pairs; rejects `no`, filters an empty payload.
    struct Echo;

    impl Formatter for Echo {
        type Config = NoConfig;
        const COLUMNS: Columns = Columns::KEYS
            .and(Columns::TIMESTAMPS)
            .and(Columns::ATTRIBUTES);

        fn new(_: NoConfig) -> Result<Self, ConfigError> {
            Ok(Self)
        }

        fn format(&mut self, record: &Record, out: &mut Output) -> Result<(), Reject> {
            for word in record.text()?.split(' ') {
                match word.split_once('=') {
                    Some((key, value)) => out.keyed(key).text(value)?,
                    None if word == "no" => return Err(Reject::new("said no")),
                    None if word == "-" => (),
                    None if word == "time" => out.json(&record.timestamp())?,
                    None => out.bytes(record.attributes().get(word).unwrap_or(word.as_bytes()))?,
                }
            }
            Ok(())
        }
    }

    fn check(input: &str, frames: &str, reasons: &str) {
        let run = run::<Echo>("{}", input).unwrap();
        assert_eq!(
            (expected(&run).as_str(), rejected(&run).as_str()),
            (frames, reasons)
        );
    }

    #[test]
    fn several_outputs_a_record_and_none() {
        check("a b\n-\nc", "a\nb\nc\n", "");
    }

    #[test]
    fn a_rejection_takes_back_what_was_emitted() {
        check(
            "a\nb x=c no\nd",
            "a\nd\n",
            "{\"reason\":\"said no\",\"record\":1}\n",
        );
    }

    #[test]
    fn outputs_without_a_key_inherit_it_where_others_have_one() {
        check(
            "{\"$payload\":\"a x=b\",\"$key\":\"k\"}\n{\"$payload\":\"c\",\"$key\":\"l\"}",
            "{\"$key\":\"k\",\"$payload\":\"a\"}\n{\"$key\":\"x\",\"$payload\":\"b\"}\n{\"$key\":\"l\",\"$payload\":\"c\"}\n",
            "",
        );
    }

    #[test]
    fn timestamps_and_attributes_arrive() {
        check(
            "{\"$payload\":\"topic time\",\"$timestamp\":7,\"$attributes\":{\"topic\":\"t\"}}",
            "t\n7\n",
            "",
        );
        check("time", "null\n", "");
    }

    #[test]
    #[should_panic(expected = "add `const COLUMNS: Columns = Columns::KEYS;`")]
    fn a_column_that_is_read_but_not_declared_is_loud() {
        struct Forgot;
        impl Formatter for Forgot {
            type Config = NoConfig;
            fn new(_: NoConfig) -> Result<Self, ConfigError> {
                Ok(Self)
            }
            fn format(&mut self, record: &Record, out: &mut Output) -> Result<(), Reject> {
                out.bytes(record.key().unwrap_or_default())
            }
        }
        let _ = run::<Forgot>("{}", "a");
    }
}

//! The `stdout` sink: a record a line on standard output.
//!
//! Owns the writing and nothing else. A record is confirmed when the system took it.

use std::io;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::framing::{Batching, Carrier, Framing};
use super::{Delivered, Delivery, Sink, SinkContext, SinkError, SinkPlan};
use crate::driver::{self, BoxFuture, Driver, Facts, Problem};
use crate::journal::{Cursor, Followed, Follower, Position};

/// The table entry.
pub static DRIVER: Driver<Box<dyn SinkPlan>> = Driver {
    name: "stdout",
    about: "a record a line on standard output",
    schema: |_| schemars::schema_for!(Config),
    check,
    ignored_keys: &[],
};

/// Longest record that a line may be.
pub(super) const LINE_BYTES_MAX: usize = 256 << 20;

/// Config of the `stdout` sink: it has none.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

fn check(config: Value, _facts: &Facts) -> Result<Box<dyn SinkPlan>, Vec<Problem>> {
    Ok(Box::new(driver::read::<Config>(config)?))
}

/// How the plain sinks frame: a line each.
pub(super) fn lines() -> Framing {
    Framing {
        carrier: Carrier::Line,
        batch: Batching::Record,
        envelope: false,
        frame_bytes_max: LINE_BYTES_MAX,
    }
}

impl SinkPlan for Config {
    fn describe(&self) -> String {
        "stdout".to_owned()
    }

    fn delivery(&self) -> Delivery {
        Delivery::Confirmed
    }

    fn guarantee(&self) -> String {
        "at least once: a record is confirmed when the system took the line; a pipe behind it may \
         still lose it"
            .to_owned()
    }

    fn framing(&self) -> Framing {
        lines()
    }

    fn open(&self, context: SinkContext) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>> {
        Box::pin(async {
            let cursor = context.journal.pin(Position::default());
            Ok(Box::new(Stdout { context, cursor }) as Box<dyn Sink>)
        })
    }
}

struct Stdout {
    context: SinkContext,
    cursor: Cursor,
}

impl Sink for Stdout {
    fn run(self: Box<Self>) -> BoxFuture<'static, Result<Delivered, SinkError>> {
        Box::pin(async move {
            let SinkContext {
                journal,
                confirmed,
                stop,
                ..
            } = self.context;
            let mut cursor = self.cursor;
            let mut follower = Follower::new(Arc::clone(&journal), Position::default());
            let mut stdout = tokio::io::stdout();
            let failed = |error: io::Error| SinkError::Io {
                context: "writing to standard output".to_owned(),
                error,
            };
            loop {
                let chunk = tokio::select! {
                    biased;
                    () = stop.abort.cancelled() => break,
                    followed = follower.next() => match followed {
                        Followed::Chunk(chunk) => chunk,
                        Followed::Lost { .. } => unreachable!("the cursor pins what is not written"),
                        Followed::End => break,
                    },
                };
                stdout.write_all(&chunk.wire).await.map_err(failed)?;
                stdout.flush().await.map_err(failed)?;
                cursor.advance(chunk.end());
                confirmed.send_replace(chunk.end());
            }
            Ok(Delivered {
                confirmed: cursor.position(),
                ..Delivered::default()
            })
        })
    }
}

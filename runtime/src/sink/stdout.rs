//! The `stdout` sink: a record a line on standard output.
//!
//! Owns the writing and nothing else. A record is confirmed when the system took it.

use std::io;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::framing::Framing;
use super::plain::{self, Lines};
use super::{Delivered, Delivery, Sink, SinkContext, SinkError, SinkPlan};
use crate::driver::{self, BoxFuture, Driver, Facts, Problem};
use crate::journal::{Chunk, Cursor};

/// The table entry.
pub static DRIVER: Driver<Box<dyn SinkPlan>> = Driver {
    name: "stdout",
    about: "a record a line on standard output",
    schema: |_| schemars::schema_for!(Config),
    check,
    ignored_keys: &[],
};

/// Config of the `stdout` sink: it has none.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

fn check(config: Value, _facts: &Facts) -> Result<Box<dyn SinkPlan>, Vec<Problem>> {
    Ok(Box::new(driver::read::<Config>(config)?))
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
        plain::framing()
    }

    fn open(&self, context: SinkContext) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>> {
        Box::pin(async {
            let cursor = context.journal.pin(context.from);
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
            let carried = plain::carry(self.context, self.cursor, tokio::io::stdout()).await;
            carried.map_err(|error| SinkError::Io {
                context: "writing to standard output".to_owned(),
                error,
            })
        })
    }
}

impl Lines for tokio::io::Stdout {
    // Whoever reads the pipe is to see records as they come.
    const UNSAFE_BYTES_MAX: usize = 0;

    async fn write(&mut self, chunk: &Chunk) -> io::Result<()> {
        self.write_all(&chunk.wire).await
    }

    async fn make_safe(&mut self) -> io::Result<()> {
        self.flush().await
    }
}

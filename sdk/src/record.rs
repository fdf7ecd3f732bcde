//! What a formatter reads.
//!
//! Owns the view of one record in a batch; copies nothing.

use serde::Deserialize;

use crate::attributes::Attributes;
use crate::fields::{self, Field};
use crate::{Columns, Reject};

/// One input record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) attributes: Option<&'a [u8]>,
    pub(crate) declared: Columns,
}

impl<'a> Record<'a> {
    /// The record's bytes, as the source read them.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The payload as text.
    ///
    /// # Errors
    /// Where it is not UTF-8.
    pub fn text(&self) -> Result<&'a str, Reject> {
        std::str::from_utf8(self.payload)
            .map_err(|error| Reject::new(format_args!("the record is not UTF-8: {error}")))
    }

    /// The payload as JSON. `T` may borrow: `&str` fields (without escapes), `Cow<str>`, `&RawValue`.
    ///
    /// # Errors
    /// Where it is no JSON or no `T`, with column and reason.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, Reject> {
        serde_json::from_slice(self.payload)
            .map_err(|error| Reject::new(format_args!("the record is not as expected: {error}")))
    }

    /// A few fields of a JSON object, found without parsing the rest: several times as fast as
    /// [`json`](Self::json) where a record is larger than what is read of it.
    ///
    /// The scan ends at the last of the fields; what it steps over is not validated, and where a name is
    /// there twice the first counts.
    ///
    /// ```
    /// # use wirefall_sdk::prelude::*;
    /// # fn f(record: &Record, out: &mut Output) -> Result<(), Reject> {
    /// let [symbol, price] = record.fields(["symbol", "price"])?;
    /// if price.get::<f64>()? > 10.0 {
    ///     out.text(symbol.text()?)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the payload is no JSON object, as far as it was looked at.
    pub fn fields<'n, const N: usize>(
        &self,
        names: [&'n str; N],
    ) -> Result<[Field<'a, 'n>; N], Reject> {
        fields::find(self.payload, names)
    }

    /// The key, where the source has keys. Needs `COLUMNS` to name [`Columns::KEYS`].
    ///
    /// # Panics
    /// If `COLUMNS` does not: the host would never send one.
    pub fn key(&self) -> Option<&'a [u8]> {
        declared(self.declared.keys, "keys", "KEYS");
        self.key
    }

    /// Microseconds since the Unix epoch, where the source has timestamps. Needs `COLUMNS` to name
    /// [`Columns::TIMESTAMPS`].
    ///
    /// # Panics
    /// If `COLUMNS` does not: the host would never send one.
    pub fn timestamp(&self) -> Option<i64> {
        declared(self.declared.timestamps, "timestamps", "TIMESTAMPS");
        self.timestamp
    }

    /// What the source knows beside (topic, headers …); empty where it knows nothing. Needs `COLUMNS`
    /// to name [`Columns::ATTRIBUTES`].
    ///
    /// # Panics
    /// If `COLUMNS` does not: the host would never send any.
    pub fn attributes(&self) -> Attributes<'a> {
        declared(self.declared.attributes, "attributes", "ATTRIBUTES");
        Attributes::new(self.attributes.unwrap_or_default())
    }
}

/// A column that was not asked for looks like one that is absent: better loud, in the first test.
fn declared(declared: bool, column: &str, name: &str) {
    assert!(
        declared,
        "this formatter reads {column} but does not declare it: add `const COLUMNS: Columns = Columns::{name};`"
    );
}

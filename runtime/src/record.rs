//! Records in flat columns: the one shape in which they travel from source to journal.
//!
//! Owns the column layout that also crosses the plugin boundary (see `sdk/wit`). Never parses a
//! payload. Sources build batches, plugins turn them into outputs, the framing reads those.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A variable-length column: all values end to end, and where each ends (exclusive).
///
/// An empty column (`ends` empty) means "absent for every record".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// The values, end to end.
    pub bytes: Vec<u8>,
    /// The exclusive end of each value in `bytes`; never decreasing.
    pub ends: Vec<u32>,
}

impl Column {
    /// An empty column with room for `values` values of `bytes` bytes in all.
    pub fn with_capacity(values: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(values),
        }
    }

    /// How many values the column has.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the column has no value, which means absent for all.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Where value `index` starts in `bytes`.
    pub fn start(&self, index: usize) -> usize {
        if index == 0 {
            0
        } else {
            self.ends[index - 1] as usize
        }
    }

    /// The bytes of value `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..self.ends[index] as usize]
    }

    /// Adds a value at the end.
    pub fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.close();
    }

    /// Ends the value whose bytes were written to `bytes` directly.
    pub fn close(&mut self) {
        self.ends
            .push(u32::try_from(self.bytes.len()).expect("a batch is bounded below 4 GiB"));
    }

    /// Takes the values from `at` on off the end.
    pub fn split_off(&mut self, at: usize) -> Self {
        if self.is_empty() {
            return Self::default();
        }
        let start = self.start(at);
        let mut ends = self.ends.split_off(at);
        ends.iter_mut().for_each(|end| *end -= start as u32);
        Self {
            bytes: self.bytes.split_off(start),
            ends,
        }
    }

    /// The values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.get(index))
    }
}

impl<V: AsRef<[u8]>> FromIterator<V> for Column {
    fn from_iter<T: IntoIterator<Item = V>>(values: T) -> Self {
        let mut column = Self::default();
        values
            .into_iter()
            .for_each(|value| column.push(value.as_ref()));
        column
    }
}

/// Records side by side in columns. Every column but `payloads` may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The record bodies; shared, so that an empty chain and the failover copy nothing.
    pub payloads: Arc<Column>,
    /// Keys, where the source has them.
    pub keys: Column,
    /// Microseconds since the Unix epoch, where the source has them.
    pub timestamps: Vec<i64>,
    /// Attributes (topic, headers …), each value encoded as the plugin guide says.
    pub attributes: Column,
}

impl Records {
    /// Records that have a payload and nothing else.
    pub fn of_payloads(payloads: Column) -> Self {
        Self {
            payloads: Arc::new(payloads),
            ..Self::default()
        }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.payloads.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.payloads.is_empty()
    }

    /// The key of record `index`; `None` where keys are absent.
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        (!self.keys.is_empty()).then(|| self.keys.get(index))
    }

    /// Takes the records from `at` on off the end.
    fn split_off(&mut self, at: usize) -> Self {
        Self {
            payloads: Arc::new(Arc::make_mut(&mut self.payloads).split_off(at)),
            keys: self.keys.split_off(at),
            timestamps: self.timestamps.split_off(at.min(self.timestamps.len())),
            attributes: self.attributes.split_off(at),
        }
    }

    /// The timestamp of record `index` in microseconds since the Unix epoch, if there is one.
    pub fn timestamp(&self, index: usize) -> Option<i64> {
        self.timestamps.get(index).copied()
    }
}

/// An ordered part of a source: a file, a topic partition, a connection. Order holds inside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition(Arc<str>);

impl Partition {
    /// The partition that the source calls `name`.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name that the source gave it.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// What a source reads at once: records of one partition, in its order.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The number of the batch in reading order, from 0 without gaps, given by the reader.
    pub number: u64,
    /// Where the records are from.
    pub partition: Partition,
    /// The position before the first record.
    pub start: u64,
    /// For each record the position *after* it: where reading goes on once it is settled.
    pub positions: Vec<u64>,
    /// The records.
    pub records: Records,
}

impl Batch {
    /// The position after the last record; `start` where there is none.
    pub fn end(&self) -> u64 {
        self.positions.last().copied().unwrap_or(self.start)
    }

    /// The position before record `index`: what names the record in errors and in the failover.
    pub fn position_of(&self, index: usize) -> u64 {
        if index == 0 {
            self.start
        } else {
            self.positions[index - 1]
        }
    }

    /// Takes the records from `at` on off the end, as a batch that begins where this one ends.
    pub fn split_off(&mut self, at: usize) -> Self {
        Self {
            number: self.number,
            partition: self.partition.clone(),
            start: self.position_of(at),
            positions: self.positions.split_off(at),
            records: self.records.split_off(at),
        }
    }
}

/// What the plugin chain made of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// The formatted records.
    pub payloads: Arc<Column>,
    /// Their keys; empty means each output has its input's.
    pub keys: Column,
    /// The input index of each output; never decreasing. An absent input was filtered or failed.
    pub sources: Vec<u32>,
}

impl Outputs {
    /// The outputs of an empty chain: every record as it is.
    pub fn unchanged(records: &Records) -> Self {
        let payloads = Arc::clone(&records.payloads);
        let sources = (0..payloads.len() as u32).collect();
        Self {
            payloads,
            keys: Column::default(),
            sources,
        }
    }

    /// How many outputs there are.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The key of output `index`: its own, or its input's. No key is an empty one as soon as another
    /// record of its batch has a key (a column cannot tell them apart), so an empty one is none: what a
    /// record has must not depend on its company.
    pub fn key<'a>(&'a self, batch: &'a Batch, index: usize) -> Option<&'a [u8]> {
        let key = match self.keys.is_empty() {
            true => batch.records.key(self.sources[index] as usize),
            false => Some(self.keys.get(index)),
        };
        key.filter(|key| !key.is_empty())
    }

    /// Keeps the outputs of the inputs below `input`.
    pub fn truncate(&mut self, input: u32) {
        let kept = self.sources.partition_point(|source| *source < input);
        self.sources.truncate(kept);
        let _ = Arc::make_mut(&mut self.payloads).split_off(kept);
        let _ = self.keys.split_off(kept);
    }

    /// Removes every output of the inputs in `withdrawn` (ascending, unique).
    pub fn withdraw(&mut self, withdrawn: &[u32]) {
        if withdrawn.is_empty() {
            return;
        }
        let mut payloads = Column::default();
        let mut keys = Column::default();
        let mut sources = Vec::new();
        for (index, &source) in self.sources.iter().enumerate() {
            if withdrawn.binary_search(&source).is_err() {
                payloads.push(self.payloads.get(index));
                if !self.keys.is_empty() {
                    keys.push(self.keys.get(index));
                }
                sources.push(source);
            }
        }
        *self = Self {
            payloads: Arc::new(payloads),
            keys,
            sources,
        };
    }
}

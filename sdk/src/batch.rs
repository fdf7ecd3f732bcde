//! The loop over a batch, the same natively and in wasm.
//!
//! Owns the column layout on the plugin's side and which record is at hand when one panics.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Columns, Formatter, Output, Record};

/// No record is at hand.
const NONE: u32 = u32::MAX;

/// The record at hand, for the panic hook.
static AT: AtomicU32 = AtomicU32::new(NONE);

/// Which record of the batch is being formatted, if one is.
#[cfg_attr(not(target_family = "wasm"), allow(dead_code))]
pub(crate) fn at() -> Option<u32> {
    let at = AT.load(Ordering::Relaxed);
    (at != NONE).then_some(at)
}

/// A batch in flat columns, borrowed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Batch<'a> {
    pub(crate) payloads: &'a [u8],
    pub(crate) payload_ends: &'a [u32],
    pub(crate) keys: &'a [u8],
    pub(crate) key_ends: &'a [u32],
    pub(crate) timestamps: &'a [i64],
    pub(crate) attributes: &'a [u8],
    pub(crate) attribute_ends: &'a [u32],
}

/// Value `index` of a column; `None` where the column is absent.
#[inline]
fn value<'a>(bytes: &'a [u8], ends: &[u32], index: usize) -> Option<&'a [u8]> {
    let end = *ends.get(index)? as usize;
    let start = if index == 0 {
        0
    } else {
        ends[index - 1] as usize
    };
    bytes.get(start..end)
}

impl<'a> Batch<'a> {
    #[inline]
    fn record(&self, index: usize, declared: Columns) -> Record<'a> {
        Record {
            payload: value(self.payloads, self.payload_ends, index).unwrap_or_default(),
            key: value(self.keys, self.key_ends, index),
            timestamp: self.timestamps.get(index).copied(),
            attributes: value(self.attributes, self.attribute_ends, index),
            declared,
        }
    }
}

/// Formatted columns and what was rejected, by input index.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub(crate) payloads: Vec<u8>,
    pub(crate) ends: Vec<u32>,
    pub(crate) sources: Vec<u32>,
    pub(crate) keys: Vec<u8>,
    pub(crate) key_ends: Vec<u32>,
    pub(crate) rejections: Vec<(u32, String)>,
}

/// Formats every record of a batch in order.
pub(crate) fn format<F: Formatter>(formatter: &mut F, batch: &Batch) -> Outputs {
    let records = batch.payload_ends.len();
    let mut out = Output::with_capacity(records, batch.payloads.len() / 2);
    let mut rejections = Vec::new();
    for index in 0..records {
        let at = index as u32;
        AT.store(at, Ordering::Relaxed);
        let kept = out.next(at);
        if let Err(reject) = formatter.format(&batch.record(index, F::COLUMNS), &mut out) {
            out.withdraw(kept);
            rejections.push((at, reject.reason().to_owned()));
        }
    }
    AT.store(NONE, Ordering::Relaxed);
    let (keys, key_ends) = out
        .take_keys(|source| value(batch.keys, batch.key_ends, source as usize).unwrap_or_default());
    Outputs {
        payloads: out.payloads,
        ends: out.ends,
        sources: out.sources,
        keys,
        key_ends,
        rejections,
    }
}

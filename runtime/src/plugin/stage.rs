//! One plugin of a worker, contained.
//!
//! Owns what happens when a call fails: the instance is replaced, the record that did it is found and
//! failed, everything else is formatted all the same (I5). Called by `chain`.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::abi::v0_1::{Batch, Checked};
use super::instance::{Fault, FaultKind, Instance, Loaded};
use super::{Columns, OnError};
use crate::record::Column;

/// Calls without a time-out after which batches may grow again.
const CALM_CALLS: u32 = 32;

/// Pieces are unbounded again from this many records on.
const PIECE_RECORDS_MAX: usize = 1 << 16;

/// A plugin with its place in the chain; shared by all workers.
pub(super) struct StagePlan {
    pub(super) loaded: Loaded,
    pub(super) config: String,
    pub(super) columns: Columns,
    pub(super) on_error: OnError,
}

/// What goes into a stage: only the columns that its plugin reads.
pub(super) struct Input<'a> {
    pub(super) payloads: &'a Column,
    pub(super) keys: Cow<'a, Column>,
    pub(super) timestamps: Cow<'a, [i64]>,
    pub(super) attributes: Cow<'a, Column>,
}

/// A record that failed in a stage.
pub(super) struct Failed {
    /// Index in the stage's input.
    pub(super) index: u32,
    pub(super) reason: String,
    /// The plugin failed, rather than rejected.
    pub(super) fault: bool,
}

/// What a stage made of its input; indices are those of the input.
#[derive(Default)]
pub(super) struct Formatted {
    pub(super) payloads: Column,
    pub(super) sources: Vec<u32>,
    /// Empty, or one for each output.
    pub(super) keys: Column,
    /// Ascending.
    pub(super) failed: Vec<Failed>,
}

/// A plugin of one worker.
pub(super) struct Stage {
    plan: Arc<StagePlan>,
    /// `None` after a fault, until the next call.
    instance: Option<Instance>,
    /// Most records a call; lowered by time-outs.
    piece_max: usize,
    calm_calls: u32,
}

impl Stage {
    pub(super) fn start(plan: &Arc<StagePlan>) -> Result<Self, Fault> {
        Ok(Self {
            instance: Some(plan.loaded.start_configured(&plan.config)?),
            plan: Arc::clone(plan),
            piece_max: usize::MAX,
            calm_calls: 0,
        })
    }

    pub(super) fn plan(&self) -> &StagePlan {
        &self.plan
    }

    /// Formats `input`; `key` gives the key that record has now, for outputs that inherit it.
    pub(super) fn run<'k>(
        &mut self,
        input: &Input<'_>,
        key: impl Fn(u32) -> &'k [u8],
    ) -> Formatted {
        let mut formatted = Formatted::default();
        let whole = 0..input.payloads.len();
        let mut todo = vec![whole];
        // Ends: a range is formatted, or its record failed, or what is put back is shorter; a single
        // record is put back once at most, for an instance that is fresh.
        while let Some(mut range) = todo.pop() {
            if range.len() > self.piece_max {
                todo.push(range.start + self.piece_max..range.end);
                range.end = range.start + self.piece_max;
            }
            if range.is_empty() {
                continue;
            }
            let fresh = self.instance.as_ref().is_none_or(Instance::is_fresh);
            match self.call(input, range.clone()) {
                Ok(checked) => {
                    self.calm();
                    formatted.append(checked, &range, &key);
                }
                Err(fault) => {
                    if fault.kind == FaultKind::Time {
                        self.piece_max = (self.piece_max.min(range.len()) / 2).max(1);
                        self.calm_calls = 0;
                    }
                    formatted.isolate(fault, range, fresh, &mut todo);
                }
            }
        }
        formatted.failed.sort_unstable_by_key(|failed| failed.index);
        formatted
    }

    /// Calls the plugin; after a fault its instance is gone.
    fn call(&mut self, input: &Input<'_>, range: Range<usize>) -> Result<Checked, Fault> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => {
                let started = self.plan.loaded.start_configured(&self.plan.config);
                started.map_err(|fault| Fault {
                    reason: format!("the plugin does not start again: {}", fault.reason),
                    kind: FaultKind::Other,
                })?
            }
        };
        let (payloads, payload_ends) = piece(input.payloads, &range);
        let (keys, key_ends) = piece(&input.keys, &range);
        let (attributes, attribute_ends) = piece(&input.attributes, &range);
        let timestamps = input.timestamps.get(range).unwrap_or_default();
        let checked = instance.format(Batch {
            payloads,
            payload_ends: &payload_ends,
            keys,
            key_ends: &key_ends,
            timestamps,
            attributes,
            attribute_ends: &attribute_ends,
        })?;
        self.instance = Some(instance);
        Ok(checked)
    }

    /// A call went well: after enough of them, batches that time-outs had cut grow again.
    fn calm(&mut self) {
        if self.piece_max == usize::MAX {
            return;
        }
        self.calm_calls += 1;
        if self.calm_calls >= CALM_CALLS {
            self.calm_calls = 0;
            self.piece_max = match self.piece_max * 2 {
                PIECE_RECORDS_MAX.. => usize::MAX,
                doubled => doubled,
            };
        }
    }
}

impl Formatted {
    /// Takes in what a call made of `range`.
    fn append<'k>(
        &mut self,
        checked: Checked,
        range: &Range<usize>,
        key: impl Fn(u32) -> &'k [u8],
    ) {
        let offset = range.start as u32;
        let failed = checked
            .rejections
            .into_iter()
            .map(|(index, reason)| Failed {
                index: offset + index,
                reason: super::log::printable(&reason, super::abi::v0_1::REASON_BYTES_MAX),
                fault: false,
            });
        self.failed.extend(failed);
        if self.sources.is_empty() && offset == 0 {
            self.payloads = checked.payloads;
            self.sources = checked.sources;
            self.keys = checked.keys;
            return;
        }
        let kept = self.sources.len();
        let first = checked.sources.len();
        self.sources
            .extend(checked.sources.iter().map(|index| offset + index));
        append_column(&mut self.payloads, &checked.payloads);
        // One piece may set keys where another inherits them: then all are written out.
        if checked.keys.is_empty() && self.keys.is_empty() {
            return;
        }
        if self.keys.is_empty() {
            self.keys = self.sources[..kept]
                .iter()
                .map(|index| key(*index))
                .collect();
        }
        if checked.keys.is_empty() {
            let inherited = self.sources[kept..kept + first].iter();
            inherited.for_each(|index| self.keys.push(key(*index)));
        } else {
            append_column(&mut self.keys, &checked.keys);
        }
    }

    /// A call for `range` failed: fails its record where that is known, else halves the range.
    fn isolate(
        &mut self,
        fault: Fault,
        range: Range<usize>,
        fresh: bool,
        todo: &mut Vec<Range<usize>>,
    ) {
        let (before, after) = match fault.kind {
            FaultKind::At(index) => {
                let at = range.start + index as usize;
                self.fail(at, fault);
                (range.start..at, at + 1..range.end)
            }
            // Perhaps the instance was full of what earlier records left behind.
            FaultKind::Memory if !fresh && range.len() == 1 => {
                (range.clone(), range.end..range.end)
            }
            _ if range.len() == 1 => return self.fail(range.start, fault),
            _ => {
                let middle = range.start + range.len() / 2;
                (range.start..middle, middle..range.end)
            }
        };
        todo.push(after);
        todo.push(before);
    }

    fn fail(&mut self, index: usize, fault: Fault) {
        self.failed.push(Failed {
            index: index as u32,
            reason: fault.reason,
            fault: true,
        });
    }
}

/// The part of a column for the records in `range`; an absent column stays absent.
fn piece<'a>(column: &'a Column, range: &Range<usize>) -> (&'a [u8], Cow<'a, [u32]>) {
    let Some(ends) = column.ends.get(range.clone()) else {
        return Default::default();
    };
    let start = column.start(range.start);
    let end = ends.last().map_or(start, |end| *end as usize);
    let ends = match start as u32 {
        0 => Cow::Borrowed(ends),
        start => ends.iter().map(|end| end - start).collect(),
    };
    (&column.bytes[start..end], ends)
}

fn append_column(column: &mut Column, more: &Column) {
    let start = u32::try_from(column.bytes.len()).expect("a batch is bounded below 4 GiB");
    column.bytes.extend_from_slice(&more.bytes);
    column.ends.extend(more.ends.iter().map(|end| start + end));
}

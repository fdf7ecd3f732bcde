//! Acknowledgements: which inputs the confirmed outputs settle.
//!
//! Owns the way back from journal positions to source positions. Pure. Only the pipeline calls it: it
//! tells what a batch became, then how far the outputs are confirmed, and gets the checkpoint steps
//! and the counts that follow (I1, I2).

use std::collections::{BTreeSet, VecDeque};

use crate::checkpoint::Delta;
use crate::journal::Position;
use crate::record::Partition;

/// Batches that are kept with the place of each input; what a durable journal holds beyond is summed up
/// (I4): its readers may lag by gigabytes.
const DETAILED_MAX: usize = 1024;

/// Batches whose outputs are not all confirmed, oldest first. Bounded by what a journal in memory holds,
/// or by `DETAILED_MAX` where batches are settled before they are confirmed.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    /// How many of them are settled, though not confirmed: those at the front.
    settled: usize,
    confirmed: Position,
}

/// A batch whose outputs have positions, or a sum of such.
#[derive(Debug)]
struct Entry {
    first: Position,
    outputs: u64,
    /// Inputs that have outputs.
    inputs: u64,
    detail: Option<Detail>,
    /// Inputs of which an output went to the failover instead; of a sum, outputs.
    poisoned: BTreeSet<u32>,
}

#[derive(Debug)]
struct Detail {
    delta: Delta,
    /// The input of each output; never decreasing.
    sources: Vec<u32>,
    /// The source position after each input.
    positions: Vec<u64>,
}

impl Entry {
    fn end(&self) -> Position {
        self.first.plus(self.outputs)
    }

    /// Distinct inputs among the first `outputs` outputs that are complete there. Of a part of a sum
    /// only known where every input has one output; else none counts before all do.
    fn complete_inputs(&self, outputs: u64) -> Inputs {
        let Some(detail) = &self.detail else {
            let complete = match outputs == self.outputs || self.inputs == self.outputs {
                true => outputs.min(self.inputs),
                false => 0,
            };
            let poisoned = self.poisoned.range(..outputs as u32).count() as u64;
            return Inputs {
                delivered: complete.saturating_sub(poisoned),
                poisoned: poisoned.min(complete),
            };
        };
        let sources = &detail.sources;
        let done = &sources[..outputs as usize];
        let partial = sources.get(outputs as usize);
        let mut count = Inputs::default();
        for (index, input) in done.iter().enumerate() {
            let last_of_input = done.get(index + 1).or(partial) != Some(input);
            if last_of_input {
                match self.poisoned.contains(input) {
                    true => count.poisoned += 1,
                    false => count.delivered += 1,
                }
            }
        }
        count
    }

    /// Adds a settled one that follows.
    fn add(&mut self, next: &Self) {
        let base = self.outputs as u32;
        self.poisoned
            .extend(next.poisoned.iter().map(|output| base + output));
        self.outputs += next.outputs;
        self.inputs += next.inputs;
    }
}

/// Inputs, counted once each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// All outputs confirmed.
    pub delivered: u64,
    /// An output went to the failover.
    pub poisoned: u64,
}

/// What a confirmation settled.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Source ranges that are done, in order.
    pub deltas: Vec<Delta>,
    /// Inputs in them that were delivered.
    pub delivered: u64,
    /// Inputs in them of which an output went to the failover.
    pub poisoned: u64,
}

/// Inputs whose batch is not settled yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Delivered all the same: their outputs are below the confirmed position.
    pub delivered: u64,
    /// Sent to the failover by the sink.
    pub poisoned: u64,
    /// Not confirmed.
    pub unconfirmed: u64,
    /// Of these: settled all the same, because the journal keeps them for the next run.
    pub kept: u64,
}

impl Ledger {
    /// A ledger of what an earlier run left in the journal: the records `from..to`, each an input of
    /// its own, since nobody knows any more what they were made of.
    pub fn carried_in(from: Position, to: Position) -> Self {
        let mut ledger = Self {
            confirmed: from,
            ..Self::default()
        };
        if from < to {
            ledger.settled = 1;
            ledger.entries.push_back(Entry {
                first: from,
                outputs: to.since(from),
                inputs: to.since(from),
                detail: None,
                poisoned: BTreeSet::new(),
            });
        }
        ledger
    }

    /// Notes a batch: where its inputs are from, and the inputs of its outputs, of which the first
    /// gets position `first`. Batches come in order.
    pub fn appended(
        &mut self,
        delta: Delta,
        positions: Vec<u64>,
        first: Position,
        sources: Vec<u32>,
    ) {
        self.entries.push_back(Entry {
            first,
            outputs: sources.len() as u64,
            inputs: distinct(&sources),
            detail: Some(Detail {
                delta,
                sources,
                positions,
            }),
            poisoned: BTreeSet::new(),
        });
    }

    fn index_at(&self, position: Position) -> usize {
        self.entries
            .partition_point(|entry| entry.end() <= position)
    }

    /// Notes that the output at `position` went to the failover.
    pub fn poisoned(&mut self, position: Position) {
        let index = self.index_at(position);
        if let Some(entry) = self.entries.get_mut(index) {
            let output = position.since(entry.first);
            let input = match &entry.detail {
                Some(detail) => detail.sources[output as usize],
                None => output as u32,
            };
            entry.poisoned.insert(input);
        }
    }

    /// The partition of the output at `position` and the source position before its input, where they
    /// are known.
    pub fn origin(&self, position: Position) -> Option<(&Partition, u64)> {
        let entry = self.entries.get(self.index_at(position))?;
        let detail = entry.detail.as_ref()?;
        let input = detail.sources[position.since(entry.first) as usize] as usize;
        let place = if input == 0 {
            detail.delta.from
        } else {
            detail.positions[input - 1]
        };
        Some((&detail.delta.partition, place))
    }

    /// Everything below `durable` outlives a crash of the process: the source ranges that this settles,
    /// although their outputs are still to be confirmed.
    pub fn durable(&mut self, durable: Position) -> Vec<Delta> {
        let mut deltas = Vec::new();
        while let Some(entry) = self.entries.get(self.settled)
            && entry.end() <= durable
        {
            let detail = entry.detail.as_ref().expect("it is not settled yet");
            deltas.push(detail.delta.clone());
            self.settled += 1;
            self.sum_up();
        }
        deltas
    }

    /// Sums up the newest settled batches where there are many.
    fn sum_up(&mut self) {
        if self.settled <= DETAILED_MAX {
            return;
        }
        let newest = self.settled - 1;
        self.entries[newest].detail = None;
        if self.entries[newest - 1].detail.is_none() {
            let entry = self.entries.remove(newest).expect("it is there");
            self.entries[newest - 1].add(&entry);
            self.settled -= 1;
        }
    }

    /// Everything below `confirmed` is: what does that settle?
    pub fn confirm(&mut self, confirmed: Position) -> Settled {
        self.confirmed = self.confirmed.max(confirmed);
        let mut settled = Settled::default();
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.end() <= self.confirmed)
        {
            let entry = self.entries.pop_front().expect("it was looked at");
            let inputs = entry.complete_inputs(entry.outputs);
            settled.delivered += inputs.delivered;
            settled.poisoned += inputs.poisoned;
            match self.settled {
                0 => settled
                    .deltas
                    .extend(entry.detail.map(|detail| detail.delta)),
                _ => self.settled -= 1,
            }
        }
        settled
    }

    /// Inputs of batches that are not all confirmed.
    pub fn open(&self) -> Open {
        let mut open = Open::default();
        for (index, entry) in self.entries.iter().enumerate() {
            let confirmed = self.confirmed.since(entry.first).min(entry.outputs);
            let done = entry.complete_inputs(confirmed);
            let all = entry.complete_inputs(entry.outputs);
            let left = all.delivered + all.poisoned - done.delivered - done.poisoned;
            open.delivered += done.delivered;
            open.poisoned += done.poisoned;
            open.unconfirmed += left;
            open.kept += if index < self.settled { left } else { 0 };
        }
        open
    }

    /// Everything below this is confirmed.
    pub fn confirmed(&self) -> Position {
        self.confirmed
    }

    /// Whether every batch is settled.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// How many different inputs there are among never decreasing `sources`.
pub fn distinct(sources: &[u32]) -> u64 {
    let steps = sources.windows(2).filter(|pair| pair[0] != pair[1]).count();
    steps as u64 + u64::from(!sources.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    fn delta(from: u64, to: u64) -> Delta {
        Delta {
            partition: Partition::new("p"),
            from,
            to,
        }
    }

    fn append(ledger: &mut Ledger, delta: Delta, first: u64, sources: Vec<u32>) {
        let positions = (delta.from + 1..=delta.to).collect();
        ledger.appended(delta, positions, Position(first), sources);
    }

    #[test]
    fn i1_a_batch_is_settled_when_its_last_output_is_confirmed() {
        let mut ledger = Ledger::default();
        append(&mut ledger, delta(0, 3), 0, vec![0, 2]);
        append(&mut ledger, delta(3, 6), 2, vec![0, 0, 1]);
        assert_eq!(ledger.confirm(Position(1)), Settled::default());
        assert_eq!(
            ledger.open(),
            Open {
                delivered: 1,
                unconfirmed: 3,
                ..Open::default()
            }
        );
        let settled = ledger.confirm(Position(4));
        assert_eq!((settled.deltas, settled.delivered), (vec![delta(0, 3)], 2));
        let settled = ledger.confirm(Position(5));
        assert_eq!((settled.deltas, settled.delivered), (vec![delta(3, 6)], 2));
        assert!(ledger.is_empty());
    }

    #[test]
    fn i2_an_input_with_several_outputs_counts_once_and_when_all_are_confirmed() {
        let mut ledger = Ledger::default();
        append(&mut ledger, delta(0, 2), 0, vec![0, 0, 0, 1]);
        ledger.confirm(Position(2));
        assert_eq!(
            ledger.open(),
            Open {
                unconfirmed: 2,
                ..Open::default()
            }
        );
        ledger.confirm(Position(3));
        assert_eq!(
            ledger.open(),
            Open {
                delivered: 1,
                unconfirmed: 1,
                ..Open::default()
            }
        );
    }

    #[test]
    fn a_batch_without_outputs_waits_for_those_before_it() {
        let mut ledger = Ledger::default();
        append(&mut ledger, delta(0, 2), 0, vec![0]);
        append(&mut ledger, delta(2, 4), 1, vec![]);
        assert_eq!(ledger.confirm(Position(0)).deltas, []);
        assert_eq!(
            ledger.confirm(Position(1)).deltas,
            [delta(0, 2), delta(2, 4)]
        );
    }

    #[test]
    fn i2_a_poisoned_output_takes_its_whole_input_from_delivered() {
        let mut ledger = Ledger::default();
        append(&mut ledger, delta(0, 2), 0, vec![0, 0, 1]);
        ledger.poisoned(Position(1));
        assert_eq!(ledger.origin(Position(2)), Some((&Partition::new("p"), 1)));
        let settled = ledger.confirm(Position(3));
        assert_eq!((settled.delivered, settled.poisoned), (1, 1));
    }

    #[test]
    fn i1_what_is_durable_is_settled_once_and_counts_when_it_is_confirmed() {
        let mut ledger = Ledger::default();
        append(&mut ledger, delta(0, 3), 0, vec![0, 2]);
        append(&mut ledger, delta(3, 6), 2, vec![0]);
        assert_eq!(ledger.durable(Position(1)), []);
        assert_eq!(ledger.durable(Position(2)), [delta(0, 3)]);
        let open = ledger.open();
        assert_eq!((open.unconfirmed, open.kept), (3, 2));
        // The sink may have confirmed what the ledger does not know yet to be durable.
        let settled = ledger.confirm(Position(3));
        assert_eq!((settled.deltas, settled.delivered), (vec![delta(3, 6)], 3));
        assert_eq!(ledger.durable(Position(3)), []);
    }

    #[test]
    fn i2_what_is_carried_in_counts_record_by_record() {
        let mut ledger = Ledger::carried_in(Position(5), Position(9));
        append(&mut ledger, delta(0, 2), 9, vec![0, 1]);
        assert_eq!(ledger.confirm(Position(7)), Settled::default());
        let open = ledger.open();
        assert_eq!((open.delivered, open.unconfirmed, open.kept), (2, 4, 2));
        ledger.poisoned(Position(7));
        let settled = ledger.confirm(Position(9));
        assert_eq!((settled.delivered, settled.poisoned), (3, 1));
        assert_eq!(settled.deltas, []);
    }

    /// A reader that lags by many batches costs no memory for each, and no input is counted twice.
    #[test]
    fn i4_a_long_backlog_is_summed_up() {
        let mut ledger = Ledger::default();
        let batches = 10 * DETAILED_MAX as u64;
        for n in 0..batches {
            append(&mut ledger, delta(n * 2, n * 2 + 2), n * 2, vec![0, 1]);
            assert_eq!(ledger.durable(Position(n * 2 + 2)).len(), 1);
        }
        assert!(ledger.entries.len() <= DETAILED_MAX + 1);
        assert_eq!(ledger.open().kept, batches * 2);
        assert_eq!(ledger.confirm(Position(10)).delivered, 10);
        assert_eq!(ledger.open().kept, batches * 2 - 10);
        assert_eq!(
            ledger.confirm(Position(batches * 2)).delivered,
            batches * 2 - 10
        );
        assert!(ledger.is_empty());
    }
}

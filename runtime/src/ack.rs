//! Acknowledgements: which inputs the confirmed outputs settle.
//!
//! Owns the way back from journal positions to source positions. Pure. Only the pipeline calls it: it
//! tells what a batch became, then how far the outputs are confirmed, and gets the checkpoint steps
//! and the counts that follow (I1, I2).

use std::collections::{BTreeSet, VecDeque};

use crate::checkpoint::Delta;
use crate::journal::Position;
use crate::record::Partition;

/// Batches whose outputs are not all confirmed, oldest first. Bounded by what the journal holds.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    confirmed: Position,
}

/// A batch whose outputs have positions.
#[derive(Debug)]
struct Entry {
    delta: Delta,
    first: Position,
    /// The input of each output; never decreasing.
    sources: Vec<u32>,
    /// The source position after each input.
    positions: Vec<u64>,
    /// Inputs of which an output went to the failover instead.
    poisoned: BTreeSet<u32>,
}

impl Entry {
    fn end(&self) -> Position {
        self.first.plus(self.sources.len() as u64)
    }

    /// Distinct inputs among the first `outputs` outputs that are complete there.
    fn complete_inputs(&self, outputs: usize) -> Inputs {
        let done = &self.sources[..outputs];
        let partial = self.sources.get(outputs);
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
}

impl Ledger {
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
            delta,
            first,
            sources,
            positions,
            poisoned: BTreeSet::new(),
        });
    }

    /// Notes that the output at `position` went to the failover.
    pub fn poisoned(&mut self, position: Position) {
        let index = self
            .entries
            .partition_point(|entry| entry.end() <= position);
        if let Some(entry) = self.entries.get_mut(index) {
            let output = position.since(entry.first) as usize;
            entry.poisoned.insert(entry.sources[output]);
        }
    }

    /// The partition and the source position of the output at `position`, if it is not settled yet.
    pub fn origin(&self, position: Position) -> Option<(&Partition, u64)> {
        let index = self
            .entries
            .partition_point(|entry| entry.end() <= position);
        let entry = self.entries.get(index)?;
        let input = entry.sources[position.since(entry.first) as usize] as usize;
        let place = if input == 0 {
            entry.delta.from
        } else {
            entry.positions[input - 1]
        };
        Some((&entry.delta.partition, place))
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
            let inputs = entry.complete_inputs(entry.sources.len());
            settled.delivered += inputs.delivered;
            settled.poisoned += inputs.poisoned;
            settled.deltas.push(entry.delta);
        }
        settled
    }

    /// Inputs of unsettled batches.
    pub fn open(&self) -> Open {
        let mut open = Open::default();
        for entry in &self.entries {
            let confirmed = self
                .confirmed
                .since(entry.first)
                .min(entry.sources.len() as u64);
            let done = entry.complete_inputs(confirmed as usize);
            let all = entry.complete_inputs(entry.sources.len());
            open.delivered += done.delivered;
            open.poisoned += done.poisoned;
            open.unconfirmed += all.delivered + all.poisoned - done.delivered - done.poisoned;
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
                poisoned: 0,
                unconfirmed: 3
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
                delivered: 0,
                poisoned: 0,
                unconfirmed: 2
            }
        );
        ledger.confirm(Position(3));
        assert_eq!(
            ledger.open(),
            Open {
                delivered: 1,
                poisoned: 0,
                unconfirmed: 1
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
}

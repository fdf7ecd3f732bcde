//! How far each partition is settled: the only thing a source may commit (I1).
//!
//! Owns the arithmetic of positions: ranges in, furthest position out. Pure; reads no clock and does
//! no I/O. The pipeline feeds it, the journal stores it, the source commits and seeks by it.
//!
//! The idea of moving a checkpoint only by checked deltas is from quickwit's metastore.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::Partition;

/// Most ranges kept beyond a gap in one partition (I4).
pub const RANGES_MAX: usize = 4096;

/// The settled part of each partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    partitions: BTreeMap<Partition, Settled>,
}

/// What is settled in one partition: everything below `below`, and ranges beyond a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Settled {
    below: u64,
    beyond: BTreeMap<u64, u64>,
}

/// A step of the checkpoint: positions `from..to` of one partition are settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The partition.
    pub partition: Partition,
    /// The position before the first settled record.
    pub from: u64,
    /// The position after the last.
    pub to: u64,
}

/// A delta that cannot be: the engine's accounting is wrong, and the run must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Something in the range was settled before.
    #[error("{partition}: {from}..{to} was settled before (settled below {below})")]
    Overlap {
        /// Partition name.
        partition: String,
        /// Start of the offending range.
        from: u64,
        /// End of the offending range.
        to: u64,
        /// The position below which all is settled.
        below: u64,
    },
    /// More ranges beyond a gap than [`RANGES_MAX`].
    #[error("{partition}: more than {RANGES_MAX} settled ranges beyond a gap at {below}")]
    TooManyGaps {
        /// Partition name.
        partition: String,
        /// The position of the gap.
        below: u64,
    },
}

impl Checkpoint {
    /// The position from which `partition` has to be read, if anything is known of it.
    pub fn position(&self, partition: &Partition) -> Option<u64> {
        self.partitions.get(partition).map(|settled| settled.below)
    }

    /// Each partition with the position below which all is settled.
    pub fn positions(&self) -> impl Iterator<Item = (&Partition, u64)> {
        self.partitions
            .iter()
            .map(|(partition, settled)| (partition, settled.below))
    }

    /// Says that reading of `partition` starts at `position`. What was known of it is forgotten.
    pub fn start_at(&mut self, partition: Partition, position: u64) {
        self.partitions.insert(
            partition,
            Settled {
                below: position,
                ..Settled::default()
            },
        );
    }

    /// Settles a range. A first range of an unknown partition starts it.
    ///
    /// # Errors
    /// [`CheckpointError`] where the range was settled before, or too many gaps are open.
    pub fn settle(&mut self, delta: &Delta) -> Result<(), CheckpointError> {
        let Delta {
            partition,
            from,
            to,
        } = delta;
        if from >= to {
            return Ok(());
        }
        if !self.partitions.contains_key(partition) {
            self.start_at(partition.clone(), *from);
        }
        let settled = self
            .partitions
            .get_mut(partition)
            .expect("it was inserted above");
        let before = settled.beyond.range(..to).next_back();
        if *from < settled.below || before.is_some_and(|(_, end)| end > from) {
            return Err(CheckpointError::Overlap {
                partition: partition.name().to_owned(),
                from: *from,
                to: *to,
                below: settled.below,
            });
        }
        if *from == settled.below {
            settled.below = *to;
        } else {
            // Joined with the range before it, so that only gaps count towards the bound.
            match settled
                .beyond
                .range_mut(..*from)
                .next_back()
                .filter(|(_, end)| **end == *from)
            {
                Some((_, end)) => *end = *to,
                None => drop(settled.beyond.insert(*from, *to)),
            }
        }
        while let Some(entry) = settled.beyond.first_entry() {
            if *entry.key() != settled.below {
                break;
            }
            settled.below = entry.remove();
        }
        if settled.beyond.len() > RANGES_MAX {
            return Err(CheckpointError::TooManyGaps {
                partition: partition.name().to_owned(),
                below: settled.below,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(checkpoint: &mut Checkpoint, from: u64, to: u64) -> Result<(), CheckpointError> {
        checkpoint.settle(&Delta {
            partition: Partition::new("p"),
            from,
            to,
        })
    }

    fn below(checkpoint: &Checkpoint) -> Option<u64> {
        checkpoint.position(&Partition::new("p"))
    }

    #[test]
    fn i1_a_gap_holds_the_position_back() {
        let mut checkpoint = Checkpoint::default();
        settle(&mut checkpoint, 0, 10).unwrap();
        settle(&mut checkpoint, 20, 30).unwrap();
        settle(&mut checkpoint, 30, 40).unwrap();
        assert_eq!(below(&checkpoint), Some(10));
        settle(&mut checkpoint, 10, 20).unwrap();
        assert_eq!(below(&checkpoint), Some(40));
    }

    #[test]
    fn overlap_is_refused_on_both_sides_of_the_gap() {
        let mut checkpoint = Checkpoint::default();
        settle(&mut checkpoint, 0, 10).unwrap();
        settle(&mut checkpoint, 20, 30).unwrap();
        for (from, to) in [(5, 6), (9, 11), (25, 26), (15, 21), (29, 35)] {
            assert!(
                matches!(
                    settle(&mut checkpoint, from, to),
                    Err(CheckpointError::Overlap { .. })
                ),
                "{from}..{to}"
            );
        }
        settle(&mut checkpoint, 10, 20).unwrap();
        assert_eq!(below(&checkpoint), Some(30));
    }

    /// Any order of the same ranges ends at the same position, and never runs ahead of a gap.
    #[test]
    fn order_of_settling_does_not_matter() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut cuts: Vec<u64> = (0..random.usize(1..40))
                .map(|_| random.u64(1..1000))
                .collect();
            cuts.extend([0, 1000]);
            cuts.sort_unstable();
            cuts.dedup();
            let mut ranges: Vec<(u64, u64)> = cuts.windows(2).map(|w| (w[0], w[1])).collect();
            random.shuffle(&mut ranges);
            let mut checkpoint = Checkpoint::default();
            checkpoint.start_at(Partition::new("p"), 0);
            let mut done = vec![false; 1000];
            for (from, to) in ranges {
                settle(&mut checkpoint, from, to).unwrap();
                done[from as usize..to as usize].fill(true);
                let first_gap = done.iter().position(|done| !done).unwrap_or(1000);
                assert_eq!(below(&checkpoint), Some(first_gap as u64), "seed {seed}");
            }
        }
    }

    #[test]
    fn ranges_beyond_a_gap_are_bounded() {
        let mut checkpoint = Checkpoint::default();
        checkpoint.start_at(Partition::new("p"), 0);
        let error = (1..)
            .find_map(|n| settle(&mut checkpoint, 2 * n, 2 * n + 1).err())
            .unwrap();
        assert!(matches!(
            error,
            CheckpointError::TooManyGaps { below: 0, .. }
        ));
    }
}

//! Lines: cuts a stream of bytes into batches of records.
//!
//! Owns what a line is: bytes up to `\n`, a `\r` before it taken off, empty lines skipped and counted,
//! the last one valid without a newline, none longer than `line_max` (I4). Invalid UTF-8 goes through;
//! framing decides. Does no I/O. Used by `stdin` and `file`.

use std::ops::RangeInclusive;

use super::{BatchLimits, Oddities, SourceError};
use crate::record::{Batch, Column, Partition, Records};
use crate::units::ByteSize;

/// What `line_max` may be; a column of records counts its bytes with 32 bits.
pub const LINE_MAX: RangeInclusive<ByteSize> = ByteSize(1)..=ByteSize(1 << 30);

/// Cuts one partition into batches. Positions are byte offsets.
pub struct Lines {
    partition: Partition,
    limits: BatchLimits,
    line_max: usize,
    /// Offset of the next byte that is fed.
    offset: u64,
    /// Offset before the first record of the batch in the making.
    start: u64,
    column: Column,
    positions: Vec<u64>,
    oddities: Oddities,
}

impl Lines {
    /// Cuts what comes from byte `offset` of `partition` on.
    pub fn new(partition: Partition, limits: BatchLimits, line_max: usize, offset: u64) -> Self {
        Self {
            partition,
            limits,
            line_max,
            offset,
            start: offset,
            column: Column::default(),
            positions: Vec::new(),
            oddities: Oddities::default(),
        }
    }

    /// Takes bytes from the front of `block` until a batch is full or the block is used up.
    ///
    /// # Errors
    /// A line longer than `line_max`: the input is not what the config says.
    pub fn feed(
        &mut self,
        block: &mut &[u8],
        records_max: usize,
    ) -> Result<Option<Batch>, SourceError> {
        let mut taken = 0;
        let bytes = *block;
        for newline in memchr::memchr_iter(b'\n', bytes) {
            self.add(&bytes[taken..newline])?;
            taken = newline + 1;
            self.offset += 1;
            self.end_line();
            let full = self.column.len() >= records_max.min(self.limits.records_max)
                || self.column.bytes.len() >= self.limits.bytes_max;
            if full {
                *block = &bytes[taken..];
                return Ok(self.take());
            }
        }
        self.add(&bytes[taken..])?;
        *block = &[];
        Ok(None)
    }

    /// Adds bytes of the line in the making.
    fn add(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        let line_start = self.column.start(self.column.len());
        let line_bytes = self.column.bytes.len() - line_start + bytes.len();
        // A carriage return at the end may belong to the newline that follows.
        let last = bytes.last().or(self.column.bytes.last());
        let carriage_return = usize::from(line_bytes > 0 && last == Some(&b'\r'));
        if line_bytes - carriage_return > self.line_max {
            let position = self.offset - (self.column.bytes.len() - line_start) as u64;
            return Err(SourceError::input(
                &self.partition,
                position,
                format!(
                    "a line of more than {} bytes (raise `line_max` to allow it)",
                    self.line_max
                ),
            ));
        }
        self.column.bytes.extend_from_slice(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Closes the line in the making as a record.
    fn end_line(&mut self) {
        let line_start = self.column.start(self.column.len());
        if self.column.bytes.len() > line_start && self.column.bytes.ends_with(b"\r") {
            self.column.bytes.pop();
        }
        if self.column.bytes.len() == line_start {
            self.oddities.empty_lines += 1;
            return;
        }
        self.column.close();
        self.positions.push(self.offset);
    }

    /// Whole lines waiting for a batch.
    pub fn waiting(&self) -> usize {
        self.column.len()
    }

    /// Whether a line has begun that has no newline yet.
    pub fn has_partial(&self) -> bool {
        self.column.bytes.len() > self.column.start(self.column.len())
    }

    /// The whole lines so far as a batch, if there are any; a partial line stays for the next.
    pub fn take(&mut self) -> Option<Batch> {
        if self.column.is_empty() {
            return None;
        }
        let end = self.column.start(self.column.len());
        let partial = self.column.bytes.split_off(end);
        let room = (
            self.column.len(),
            self.column.bytes.len().min(self.limits.bytes_max),
        );
        let mut next = Column::with_capacity(room.0, room.1 + partial.len());
        next.bytes.extend_from_slice(&partial);
        let column = std::mem::replace(&mut self.column, next);
        let positions = std::mem::replace(&mut self.positions, Vec::with_capacity(room.0));
        let start = self.start;
        self.start = *positions.last().expect("a record has a position");
        Some(Batch {
            number: 0,
            partition: self.partition.clone(),
            start,
            positions,
            records: Records::of_payloads(column),
        })
    }

    /// The end of the input: a last line without a newline is a line.
    pub fn finish(&mut self) -> Option<Batch> {
        if self.has_partial() {
            let records = self.column.len();
            self.end_line();
            self.oddities.unended_lines += (self.column.len() - records) as u64;
        }
        self.take()
    }

    /// What was met beside records.
    pub fn oddities(&self) -> Oddities {
        self.oddities
    }

    /// The position after the last record that was taken: the next batch starts here.
    pub fn taken_to(&self) -> u64 {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lines(records_max: usize, line_max: usize) -> Lines {
        let limits = BatchLimits {
            records_max,
            bytes_max: 1 << 20,
            wait: Duration::ZERO,
        };
        Lines::new(Partition::new("p"), limits, line_max, 0)
    }

    fn texts(batch: &Batch) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        batch.records.payloads.iter().map(text).collect()
    }

    /// However the bytes are cut into blocks, the same records come out at the same offsets.
    #[test]
    fn blocks_do_not_matter() {
        let input = b"one\r\n\n\ntwo\nthree\n\r\nlast without newline";
        for size in 1..input.len() {
            let mut lines = lines(2, 1000);
            let mut records = Vec::new();
            let mut positions = Vec::new();
            let mut note = |batch: Batch| {
                assert!(batch.records.len() <= 2);
                records.extend(texts(&batch));
                positions.extend(batch.positions);
            };
            for mut block in input.chunks(size) {
                while !block.is_empty() {
                    lines
                        .feed(&mut block, 2)
                        .unwrap()
                        .into_iter()
                        .for_each(&mut note);
                }
            }
            lines.finish().into_iter().for_each(&mut note);
            assert_eq!(
                records,
                ["one", "two", "three", "last without newline"],
                "{size}"
            );
            assert_eq!(positions, [5, 11, 17, input.len() as u64], "{size}");
            assert_eq!(lines.oddities().empty_lines, 3);
        }
    }

    #[test]
    fn ranges_of_batches_join_without_gaps() {
        let mut lines = lines(1, 1000);
        let mut block: &[u8] = b"a\n\n\nb\nc\n";
        let mut at = 0;
        while let Some(batch) = lines.feed(&mut block, 1).unwrap() {
            assert_eq!(batch.start, at);
            at = batch.end();
        }
        assert_eq!(at, 8);
    }

    #[test]
    fn a_last_line_without_a_newline_is_counted_if_it_is_a_record() {
        for (input, unended, empty) in [("a\nb", 1, 0), ("a\n", 0, 0), ("a\n\r", 0, 1), ("", 0, 0)]
        {
            let mut lines = lines(10, 100);
            lines.feed(&mut input.as_bytes(), 10).unwrap();
            lines.finish();
            let expected = Oddities {
                empty_lines: empty,
                unended_lines: unended,
                ..Oddities::default()
            };
            assert_eq!(lines.oddities(), expected, "{input:?}");
        }
    }

    /// Where the newline is two bytes, the first of them is none of the line's.
    #[test]
    fn a_carriage_return_does_not_make_a_line_too_long() {
        for input in ["12345678\r\n", "12345678\r", "12345678"] {
            let mut lines = lines(10, 8);
            for byte in input.as_bytes().chunks(1) {
                assert!(lines.feed(&mut &*byte, 10).unwrap().is_none());
            }
            assert_eq!(texts(&lines.finish().unwrap()), ["12345678"]);
        }
        for input in ["12345678\rx\n", "123456789\r\n"] {
            assert!(lines(10, 8).feed(&mut input.as_bytes(), 10).is_err());
        }
    }

    #[test]
    fn i4_a_line_without_end_is_refused_with_its_place() {
        let mut lines = lines(10, 8);
        let mut block: &[u8] = b"fine\n0123456";
        assert!(lines.feed(&mut block, 10).unwrap().is_none());
        let error = lines
            .feed(&mut b"789".as_slice(), 10)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "p at 5: a line of more than 8 bytes (raise `line_max` to allow it)"
        );
    }
}

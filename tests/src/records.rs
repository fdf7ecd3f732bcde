//! Numbered records, and the account of what arrived of them.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write};
use std::ops::Range;
use std::path::Path;

/// Writes the records 0 to `count`, one JSON object a line, each padded to some 100 bytes.
pub fn write_numbered(path: &Path, count: u64) {
    write_padded(path, count, PAD);
}

/// The same, with a padding of so many bytes.
pub fn write_padded(path: &Path, count: u64, pad: usize) {
    let file = std::fs::File::create(path).expect("a file");
    let mut file = BufWriter::new(file);
    for number in 0..count {
        writeln!(file, "{}", padded(number, pad)).expect("written");
    }
    file.flush().expect("written");
}

/// One record of [`write_numbered`].
pub fn numbered(number: u64) -> String {
    padded(number, PAD)
}

/// Records of [`write_numbered`], a line each.
pub fn lines(numbers: Range<u64>) -> String {
    numbers.map(|number| numbered(number) + "\n").collect()
}

/// Bytes that records are padded with.
const PAD: usize = 80;

fn padded(number: u64, pad: usize) -> String {
    format!(r#"{{"n":{number},"pad":"{number:0pad$}"}}"#)
}

/// The numbers of the records in a text, a line each, in order. What is no such record fails the test,
/// but for what a killed writer left unfinished: at the end, or with the next writer's line behind it.
pub fn numbers(text: &str) -> Vec<u64> {
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().flat_map(numbers_of_line).collect()
}

fn numbers_of_line(line: &str) -> Vec<u64> {
    let starts: Vec<usize> = line.match_indices(START).map(|(at, _)| at).collect();
    let before = starts.first().map(|first| &line[..*first]);
    let is_record = before.is_some_and(|before| START.starts_with(before)) && line.ends_with('}');
    assert!(is_record, "not a record: {line}");
    let ends = starts.iter().skip(1).copied().chain([line.len()]);
    let pieces = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &line[*start..end]);
    let finished = pieces.filter(|piece| piece.ends_with('}'));
    finished.map(number).collect()
}

fn number(piece: &str) -> u64 {
    piece[START.len()..]
        .split_once(',')
        .and_then(|(digits, _)| digits.parse().ok())
        .unwrap_or_else(|| panic!("not a record: {piece}"))
}

/// The numbers of the records that are whole in a text, to their last byte, whatever stands around them: a
/// batch, an envelope, or a part of what a killed writer left unfinished.
pub fn whole(text: &str) -> Vec<u64> {
    let starts = text.match_indices(START).map(|(at, _)| at);
    let record = |at: usize| {
        let digits = text[at + START.len()..].split(',').next()?;
        let number = digits.parse().ok()?;
        text[at..].starts_with(&numbered(number)).then_some(number)
    };
    starts.filter_map(record).collect()
}

/// The records of a file that is written to, whatever else strangers had written into it.
pub struct Tail {
    file: File,
    /// A line that is not whole yet.
    rest: Vec<u8>,
    numbers: Vec<u64>,
}

impl Tail {
    /// Of a file that is there.
    pub fn of(path: &Path) -> Self {
        Self {
            file: File::open(path).expect("it is there"),
            rest: Vec::new(),
            numbers: Vec::new(),
        }
    }

    /// The numbers of all records that are whole by now.
    pub fn look(&mut self) -> &[u64] {
        self.file.read_to_end(&mut self.rest).expect("a file");
        let end = memchr::memrchr(b'\n', &self.rest).map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        let whole = String::from_utf8_lossy(&whole);
        let lines = whole.split_inclusive('\n');
        let records: String = lines.filter(|line| line.starts_with(START)).collect();
        self.numbers.extend(numbers(&records));
        &self.numbers
    }
}

/// The number of the last record that begins in a text.
pub fn last(text: &str) -> Option<u64> {
    let starts = text.rmatch_indices(START).map(|(at, _)| &text[at..]);
    let mut numbers = starts.filter_map(|rest| rest[START.len()..].split_once(',')?.0.parse().ok());
    numbers.next()
}

/// What each record begins with.
const START: &str = "{\"n\":";

/// Fails unless every number below `count` is there, and in the order of the source (I3) but for what
/// was sent again after a break; returns how many came more than once.
#[track_caller]
pub fn all_there(numbers: &[u64], count: u64) -> u64 {
    let mut seen = vec![false; count as usize];
    let mut again = 0;
    let mut next = 0;
    for &number in numbers {
        assert!(number < count, "{number} was never sent");
        // A gap would be a record that came too early, before the one that precedes it.
        assert!(number <= next, "{number} came before {next}");
        if std::mem::replace(&mut seen[number as usize], true) {
            again += 1;
        }
        next = next.max(number + 1);
    }
    let missing: Vec<_> = (0..count).filter(|n| !seen[*n as usize]).take(5).collect();
    assert!(missing.is_empty(), "missing, among others: {missing:?}");
    again
}

/// The runs of numbers below `count` that are not there.
pub fn missing(numbers: &[u64], count: u64) -> Vec<Range<u64>> {
    let mut seen = numbers.to_vec();
    seen.sort_unstable();
    seen.dedup();
    seen.push(count);
    let mut next = 0;
    let mut missing = Vec::new();
    for number in seen {
        if next < number {
            missing.push(next..number);
        }
        next = number + 1;
    }
    missing
}

/// Each number once, where it came first.
pub fn first_times(numbers: &[u64]) -> Vec<u64> {
    let mut seen = std::collections::BTreeSet::new();
    let first = numbers.iter().filter(|number| seen.insert(**number));
    first.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_writer_left_unfinished_is_no_record_and_hides_none() {
        let (one, two) = (numbered(1), numbered(2));
        let whole = format!("{one}\n{two}\n");
        assert_eq!(numbers(&whole), [1, 2]);
        for cut in 0..=one.len() {
            let seen = numbers(&format!("{}{two}\n{}", &one[..cut], &one[..cut]));
            let expected: &[u64] = if cut == one.len() { &[1, 2] } else { &[2] };
            assert_eq!(seen, expected, "cut at {cut}");
        }
    }

    #[test]
    #[should_panic(expected = "not a record")]
    fn anything_else_fails() {
        numbers("{\"n\":1,\"pad\":\"\"}\nelse\n");
    }
}

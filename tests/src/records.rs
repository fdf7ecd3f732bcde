//! Numbered records, and the account of what arrived of them.

use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes the records 0 to `count`, one JSON object a line, each padded to some 100 bytes.
pub fn write_numbered(path: &Path, count: u64) {
    let file = std::fs::File::create(path).expect("a file");
    let mut file = BufWriter::new(file);
    for number in 0..count {
        writeln!(file, "{}", numbered(number)).expect("written");
    }
    file.flush().expect("written");
}

/// One such record.
pub fn numbered(number: u64) -> String {
    format!(r#"{{"n":{number},"pad":"{:080}"}}"#, number)
}

/// The numbers of the records in a text, a line each, in order. What is no such record fails the test,
/// but for a last line that a killed writer left unfinished.
pub fn numbers(text: &str) -> Vec<u64> {
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().map(number).collect()
}

fn number(line: &str) -> u64 {
    line.strip_prefix("{\"n\":")
        .and_then(|rest| rest.split_once(',')?.0.parse().ok())
        .unwrap_or_else(|| panic!("not a record: {line}"))
}

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

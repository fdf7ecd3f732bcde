//! Framing: how outputs become frames.
//!
//! Owns the WebSocket frame header of the shared bytes, batch frames, the envelope, and the verdict on
//! what cannot be framed. Pure. Sinks choose a [`Framing`]; workers ask it for a verdict; the pipeline
//! drives one [`Framer`] before the journal.
//!
//! Frame layout: RFC 6455, section 5.2, final frames without a mask. A client masks when it writes.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::de::IgnoredAny;

use crate::journal::{Chunk, Frame, Position};
use crate::record::{Batch, Column, Outputs};

/// How outputs become frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// What carries a frame.
    pub carrier: Carrier,
    /// One record a frame, or several.
    pub batch: Batching,
    /// Wrap each record in `{"id","ts","key","data"}`.
    pub envelope: bool,
    /// Most payload bytes in a frame; a longer record is rejected.
    pub frame_bytes_max: usize,
}

/// What carries a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A WebSocket text message: must be UTF-8.
    Text,
    /// A WebSocket binary message.
    Binary,
    /// A line of a file or of standard output: no header, a newline after each record.
    Line,
}

/// How many records share a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// One record a frame.
    Record,
    /// Records separated by newlines.
    Ndjson(BatchBounds),
    /// A JSON array of records.
    JsonArray(BatchBounds),
}

/// When a batch frame is closed, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchBounds {
    /// Most records.
    pub records_max: usize,
    /// Most payload bytes.
    pub bytes_max: usize,
    /// Longest wait of its first record.
    pub wait: Duration,
}

/// An output that cannot be framed, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unframeable {
    /// Index of the output.
    pub output: usize,
    /// Why, in a sentence that names the setting.
    pub reason: String,
}

/// Bytes that an envelope and a JSON array add at most beside key and data.
const ENVELOPE_BYTES: usize = 256;

impl Framing {
    /// What of `outputs` cannot be framed. Usually nothing, and then each column is looked at once.
    pub fn check(&self, outputs: &Outputs) -> Vec<Unframeable> {
        let column = &outputs.payloads;
        let utf8 = (self.carrier == Carrier::Text || self.envelope) && !is_utf8(column);
        let newline = self.forbids_newlines() && memchr::memchr(b'\n', &column.bytes).is_some();
        // In an envelope a text that is no JSON becomes a string, each byte at most six.
        let growth = if self.envelope { 6 } else { 1 };
        let most = growth * (column.bytes.len() + outputs.keys.bytes.len()) + ENVELOPE_BYTES;
        let long = most > self.frame_bytes_max;
        let json = matches!(self.batch, Batching::JsonArray(_)) && !self.envelope;
        if !(utf8 || newline || long || json) {
            return Vec::new();
        }
        (0..column.len())
            .filter_map(|output| {
                let key = if outputs.keys.is_empty() {
                    b""
                } else {
                    outputs.keys.get(output)
                };
                let reason = self.verdict(column.get(output), key)?;
                Some(Unframeable { output, reason })
            })
            .collect()
    }

    /// Whether a newline inside a record would end it.
    fn forbids_newlines(&self) -> bool {
        !self.envelope
            && (self.carrier == Carrier::Line || matches!(self.batch, Batching::Ndjson(_)))
    }

    fn verdict(&self, record: &[u8], key: &[u8]) -> Option<String> {
        let bytes = match self.envelope {
            true => in_envelope(record) + in_envelope(key) + ENVELOPE_BYTES,
            false => record.len() + 2,
        };
        if bytes > self.frame_bytes_max {
            return Some(format!(
                "the record of {} bytes does not fit a frame of {} bytes (`frame_max`)",
                record.len(),
                self.frame_bytes_max
            ));
        }
        if (self.carrier == Carrier::Text || self.envelope)
            && let Err(error) = simdutf8::compat::from_utf8(record)
        {
            return Some(format!(
                "invalid UTF-8 at byte {} in a text frame (use `format: binary` for other bytes)",
                error.valid_up_to()
            ));
        }
        if self.forbids_newlines() && memchr::memchr(b'\n', record).is_some() {
            return Some("a newline inside a record, where newlines separate records".to_owned());
        }
        if matches!(self.batch, Batching::JsonArray(_))
            && !self.envelope
            && let Err(error) = serde_json::from_slice::<IgnoredAny>(record)
        {
            return Some(format!(
                "no JSON ({error}), so it cannot be in a JSON array"
            ));
        }
        None
    }
}

/// How long a text is inside an envelope: as it is where it is JSON, else as a JSON string.
fn in_envelope(text: &[u8]) -> usize {
    if serde_json::from_slice::<IgnoredAny>(text).is_ok() {
        return text.len();
    }
    let text = String::from_utf8_lossy(text);
    serde_json::to_string(&text).map_or(usize::MAX / 4, |string| string.len())
}

/// Whether every value of the column is UTF-8: one pass, then a look at each boundary.
fn is_utf8(column: &Column) -> bool {
    let continues = |end: &u32| {
        column
            .bytes
            .get(*end as usize)
            .is_some_and(|b| b & 0xC0 == 0x80)
    };
    simdutf8::basic::from_utf8(&column.bytes).is_ok() && !column.ends.iter().any(continues)
}

/// Writes the header of an unmasked, final frame.
pub fn push_header(wire: &mut Vec<u8>, carrier: Carrier, payload_bytes: usize) {
    let opcode = match carrier {
        Carrier::Text => 0x81,
        Carrier::Binary => 0x82,
        Carrier::Line => return,
    };
    match payload_bytes {
        0..=125 => wire.extend_from_slice(&[opcode, payload_bytes as u8]),
        126..=65535 => {
            let length = (payload_bytes as u16).to_be_bytes();
            wire.extend_from_slice(&[opcode, 126, length[0], length[1]]);
        }
        _ => {
            wire.extend_from_slice(&[opcode, 127]);
            wire.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

/// Builds frames from outputs, in order. A batch frame may stay open between batches.
pub struct Framer {
    framing: Framing,
    wire: Vec<u8>,
    frames: Vec<Frame>,
    records: Vec<(u32, u32)>,
    open: Open,
    next: Position,
    wire_bytes_last: usize,
}

/// A batch frame that is not closed yet: its payload, and its records' places in it.
#[derive(Default)]
struct Open {
    payload: Vec<u8>,
    records: Vec<(u32, u32)>,
    since: Option<Duration>,
}

impl Framer {
    /// A framer whose first record will be at `next`.
    pub fn new(framing: Framing, next: Position) -> Self {
        Self {
            framing,
            wire: Vec::new(),
            frames: Vec::new(),
            records: Vec::new(),
            open: Open::default(),
            next,
            wire_bytes_last: 0,
        }
    }

    /// The position of the next record that is pushed.
    pub fn next(&self) -> Position {
        self.next
    }

    /// Whether there are closed frames to take.
    pub fn has_frames(&self) -> bool {
        !self.frames.is_empty()
    }

    /// The position below which every record is in a closed frame.
    pub fn closed_below(&self) -> Position {
        Position(self.next.0 - self.open.records.len() as u64)
    }

    /// When the open frame has to be closed, if there is one.
    pub fn deadline(&self) -> Option<Duration> {
        let (Batching::Ndjson(bounds) | Batching::JsonArray(bounds)) = self.framing.batch else {
            return None;
        };
        self.open.since.map(|since| since + bounds.wait)
    }

    /// Adds the outputs of a batch, all of which passed [`Framing::check`].
    pub fn push(&mut self, batch: &Batch, outputs: &Outputs, now: Duration) {
        if self.wire.capacity() == 0 {
            self.wire.reserve(
                self.wire_bytes_last
                    .max(outputs.payloads.bytes.len() + outputs.len() * 4),
            );
        }
        let mut wrapped = Vec::new();
        for index in 0..outputs.len() {
            let mut record = outputs.payloads.get(index);
            if self.framing.envelope {
                wrapped.clear();
                wrap(&mut wrapped, batch, outputs, index);
                record = &wrapped;
            }
            match self.framing.batch {
                Batching::Record => self.push_frame(record),
                Batching::Ndjson(bounds) | Batching::JsonArray(bounds) => {
                    self.push_to_batch(record, bounds, now);
                }
            }
        }
        self.next = self.next.plus(outputs.len() as u64);
    }

    fn push_frame(&mut self, record: &[u8]) {
        push_header(&mut self.wire, self.framing.carrier, record.len());
        let start = self.wire.len() as u32;
        self.wire.extend_from_slice(record);
        let end = self.wire.len() as u32;
        if self.framing.carrier == Carrier::Line {
            self.wire.push(b'\n');
        }
        self.records.push((start, end));
        self.frames.push(Frame {
            wire_end: self.wire.len() as u32,
            payload_start: start,
            records_end: self.records.len() as u32,
        });
    }

    fn push_to_batch(&mut self, record: &[u8], bounds: BatchBounds, now: Duration) {
        let bytes_max = bounds.bytes_max.min(self.framing.frame_bytes_max);
        // The separator before the record and the bracket after the last one.
        if !self.open.records.is_empty() && self.open.payload.len() + record.len() + 2 > bytes_max {
            self.close();
        }
        let array = matches!(self.framing.batch, Batching::JsonArray(_));
        match (self.open.records.is_empty(), array) {
            (true, true) => self.open.payload.push(b'['),
            (true, false) => {}
            (false, true) => self.open.payload.push(b','),
            (false, false) => self.open.payload.push(b'\n'),
        }
        let start = self.open.payload.len() as u32;
        self.open.payload.extend_from_slice(record);
        self.open
            .records
            .push((start, self.open.payload.len() as u32));
        self.open.since.get_or_insert(now);
        if self.open.records.len() >= bounds.records_max {
            self.close();
        }
    }

    /// Closes the open batch frame, if there is one.
    pub fn close(&mut self) {
        let Open {
            mut payload,
            records,
            ..
        } = std::mem::take(&mut self.open);
        if records.is_empty() {
            return;
        }
        if matches!(self.framing.batch, Batching::JsonArray(_)) {
            payload.push(b']');
        }
        push_header(&mut self.wire, self.framing.carrier, payload.len());
        let base = self.wire.len() as u32;
        self.wire.extend_from_slice(&payload);
        self.records.extend(
            records
                .iter()
                .map(|(start, end)| (base + start, base + end)),
        );
        self.frames.push(Frame {
            wire_end: self.wire.len() as u32,
            payload_start: base,
            records_end: self.records.len() as u32,
        });
    }

    /// The closed frames as a chunk, if there are any. The journal sets its position.
    pub fn take(&mut self) -> Option<Chunk> {
        if self.frames.is_empty() {
            return None;
        }
        self.wire_bytes_last = self.wire.len();
        let chunk = Chunk {
            wire: std::mem::take(&mut self.wire).into(),
            frames: Arc::from(&self.frames[..]),
            records: Arc::from(&self.records[..]),
            ..Chunk::default()
        };
        self.frames.clear();
        self.records.clear();
        Some(chunk)
    }
}

/// Writes `{"id","ts","key","data"}`. `id` is the record's place in the source, the same in every run
/// that reads it again; `data` is the record itself where it is JSON, else as a JSON string.
fn wrap(into: &mut Vec<u8>, batch: &Batch, outputs: &Outputs, index: usize) {
    let input = outputs.sources[index] as usize;
    let place = batch.position_of(input);
    let nth = outputs.sources[..index]
        .iter()
        .rev()
        .take_while(|s| **s as usize == input)
        .count();
    let id = match nth {
        0 => format!("{}:{place}", batch.partition.name()),
        nth => format!("{}:{place}:{nth}", batch.partition.name()),
    };
    let key = match outputs.keys.is_empty() {
        true => batch.records.key(input),
        false => Some(outputs.keys.get(index)),
    };
    let record = outputs.payloads.get(index);
    let written = "writing to memory does not fail";
    into.extend_from_slice(b"{\"id\":");
    serde_json::to_writer(&mut *into, &id).expect(written);
    match batch.records.timestamp(input) {
        Some(micros) => write!(into, ",\"ts\":{micros}").expect(written),
        None => into.extend_from_slice(b",\"ts\":null"),
    }
    into.extend_from_slice(b",\"key\":");
    serde_json::to_writer(&mut *into, &key.map(String::from_utf8_lossy)).expect(written);
    into.extend_from_slice(b",\"data\":");
    if serde_json::from_slice::<IgnoredAny>(record).is_ok() {
        // Newlines between tokens are white space in JSON and would end a line of NDJSON.
        into.extend(
            record
                .iter()
                .map(|byte| if *byte == b'\n' { b' ' } else { *byte }),
        );
    } else {
        serde_json::to_writer(&mut *into, &String::from_utf8_lossy(record)).expect(written);
    }
    into.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Partition, Records};

    const WAIT: Duration = Duration::from_millis(100);

    fn framing(carrier: Carrier, batch: Batching) -> Framing {
        Framing {
            carrier,
            batch,
            envelope: false,
            frame_bytes_max: 1 << 20,
        }
    }

    fn bounds(records_max: usize) -> BatchBounds {
        BatchBounds {
            records_max,
            bytes_max: 1 << 20,
            wait: WAIT,
        }
    }

    fn batch_of(records: &[&str]) -> (Batch, Outputs) {
        let records = Records::of_payloads(records.iter().collect());
        let outputs = Outputs::unchanged(&records);
        let batch = Batch {
            number: 0,
            partition: Partition::new("p"),
            start: 0,
            positions: (1..=records.len() as u64).collect(),
            records,
        };
        (batch, outputs)
    }

    fn frames(framing: Framing, records: &[&str]) -> Vec<String> {
        let (batch, outputs) = batch_of(records);
        assert_eq!(framing.check(&outputs), []);
        let mut framer = Framer::new(framing, Position(0));
        framer.push(&batch, &outputs, Duration::ZERO);
        framer.close();
        let chunk = framer.take().expect("there are frames");
        let record = |index| std::str::from_utf8(chunk.record(index)).unwrap().to_owned();
        assert_eq!((0..records.len()).map(record).collect::<Vec<_>>(), records);
        (0..chunk.frames.len())
            .map(|index| String::from_utf8(chunk.frame_payload(index).to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn a_record_a_frame() {
        assert_eq!(
            frames(framing(Carrier::Text, Batching::Record), &["a", "", "ccc"]),
            ["a", "", "ccc"]
        );
    }

    #[test]
    fn ndjson_and_arrays_close_at_their_count() {
        let ndjson = framing(Carrier::Text, Batching::Ndjson(bounds(2)));
        assert_eq!(frames(ndjson, &["1", "2", "3"]), ["1\n2", "3"]);
        let array = framing(Carrier::Text, Batching::JsonArray(bounds(2)));
        assert_eq!(frames(array, &["1", "{}", "3"]), ["[1,{}]", "[3]"]);
    }

    #[test]
    fn batches_close_before_their_bytes_are_passed() {
        let small = BatchBounds {
            bytes_max: 8,
            ..bounds(100)
        };
        let array = framing(Carrier::Text, Batching::JsonArray(small));
        assert_eq!(frames(array, &["111", "222", "3"]), ["[111]", "[222,3]"]);
    }

    #[test]
    fn an_open_frame_spans_batches_and_has_a_deadline() {
        let (batch, outputs) = batch_of(&["1"]);
        let mut framer = Framer::new(
            framing(Carrier::Text, Batching::Ndjson(bounds(10))),
            Position(5),
        );
        framer.push(&batch, &outputs, Duration::from_secs(1));
        framer.push(&batch, &outputs, Duration::from_secs(2));
        assert!(framer.take().is_none());
        assert_eq!(framer.deadline(), Some(Duration::from_secs(1) + WAIT));
        assert_eq!(
            (framer.closed_below(), framer.next()),
            (Position(5), Position(7))
        );
        framer.close();
        assert_eq!(framer.closed_below(), Position(7));
        assert_eq!(framer.deadline(), None);
        assert_eq!(framer.take().unwrap().frame_payload(0), b"1\n1");
    }

    #[test]
    fn what_cannot_be_framed_is_told() {
        let check = |framing: Framing, record: &[u8]| {
            let records = Records::of_payloads([b"ok".as_slice(), record].into_iter().collect());
            let found = framing.check(&Outputs::unchanged(&records));
            assert!(
                found.len() <= 1 && found.iter().all(|f| f.output == 1),
                "{found:?}"
            );
            found.into_iter().next().map(|f| f.reason)
        };
        let text = framing(Carrier::Text, Batching::Record);
        assert!(
            check(text.clone(), b"\xff")
                .unwrap()
                .starts_with("invalid UTF-8 at byte 0")
        );
        assert_eq!(check(text.clone(), b"a\nb"), None);
        assert!(check(framing(Carrier::Line, Batching::Record), b"a\nb").is_some());
        let tiny = Framing {
            frame_bytes_max: 300,
            ..text
        };
        assert!(check(tiny, &[b'x'; 300]).unwrap().contains("`frame_max`"));
        let binary = framing(Carrier::Binary, Batching::Record);
        assert_eq!(check(binary, b"\xff"), None);
    }

    /// An envelope is JSON, so what it carries must be text, whatever carries the envelope.
    #[test]
    fn an_envelope_counts_what_it_adds_and_takes_text_only() {
        let check = |record: &[u8], frame_bytes_max| {
            let records = Records::of_payloads([record].into_iter().collect());
            let plain = framing(Carrier::Binary, Batching::Record);
            let wrapped = Framing {
                envelope: true,
                frame_bytes_max,
                ..plain
            };
            wrapped.check(&Outputs::unchanged(&records)).len()
        };
        assert_eq!(check(b"\xff", 1 << 20), 1);
        assert_eq!(
            check(&[b'\n'; 300], 600),
            1,
            "each newline becomes two bytes"
        );
        assert_eq!(check(&[b'x'; 300], 600), 0);
    }

    #[test]
    fn only_json_goes_into_an_array() {
        let array = framing(Carrier::Text, Batching::JsonArray(bounds(9)));
        let records = Records::of_payloads(["{}", "nope"].iter().collect());
        let found = array.check(&Outputs::unchanged(&records));
        assert_eq!(found.len(), 1);
        assert!(found[0].reason.starts_with("no JSON"), "{found:?}");
    }

    #[test]
    fn a_character_split_between_records_is_no_utf8() {
        let column: Column = [b"\xc3".as_slice(), b"\xa9"].into_iter().collect();
        assert!(!is_utf8(&column));
        assert!(is_utf8(&["é", "é"].iter().collect()));
    }

    #[test]
    fn the_envelope_names_the_place() {
        let (mut batch, mut outputs) = batch_of(&["{\"a\":1}", "no json"]);
        batch.records.timestamps = vec![7, 8];
        outputs.sources = vec![1, 1];
        let mut framer = Framer::new(
            Framing {
                envelope: true,
                ..framing(Carrier::Text, Batching::Record)
            },
            Position(0),
        );
        framer.push(&batch, &outputs, Duration::ZERO);
        let chunk = framer.take().unwrap();
        assert_eq!(
            std::str::from_utf8(chunk.record(0)),
            Ok(r#"{"id":"p:1","ts":8,"key":null,"data":{"a":1}}"#)
        );
        assert_eq!(
            std::str::from_utf8(chunk.record(1)),
            Ok(r#"{"id":"p:1:1","ts":8,"key":null,"data":"no json"}"#)
        );
    }

    #[test]
    fn headers_have_the_three_lengths() {
        let header = |bytes| {
            let mut wire = Vec::new();
            push_header(&mut wire, Carrier::Text, bytes);
            wire
        };
        assert_eq!(header(125), [0x81, 125]);
        assert_eq!(header(126), [0x81, 126, 0, 126]);
        assert_eq!(header(65536), [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}

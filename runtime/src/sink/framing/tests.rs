//! What becomes of records in each framing.

use super::*;
use crate::journal::Position;
use crate::record::{Batch, Partition, Records};

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

fn check_all(framing: &Framing, records: Records) -> Vec<Unframeable> {
    let (batch, outputs) = batch_with(records);
    framing.check(&batch, &outputs)
}

fn batch_of(records: &[&str]) -> (Batch, Outputs) {
    batch_with(Records::of_payloads(records.iter().collect()))
}

fn batch_with(records: Records) -> (Batch, Outputs) {
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
    assert_eq!(framing.check(&batch, &outputs), []);
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
        (framer.taken_below(), framer.next()),
        (Position(5), Position(7))
    );
    framer.close();
    assert_eq!(framer.deadline(), None);
    assert_eq!(framer.take().unwrap().frame_payload(0), b"1\n1");
    assert_eq!(framer.taken_below(), Position(7));
}

#[test]
fn what_cannot_be_framed_is_told() {
    let check = |framing: Framing, record: &[u8]| {
        let records = Records::of_payloads([b"ok".as_slice(), record].into_iter().collect());
        let found = check_all(&framing, records);
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
        check_all(&wrapped, records).len()
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
    let found = check_all(&array, records);
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

/// Keys stay beside their records, whichever of them have one and however frames are cut.
#[test]
fn a_chunk_has_the_keys_of_its_records() {
    let keyed = |keys: &[&str]| {
        let (mut batch, outputs) = batch_of(&["1", "2"]);
        batch.records.keys = keys.iter().collect();
        (batch, outputs)
    };
    for batch in [Batching::Record, Batching::Ndjson(bounds(3))] {
        let mut framer = Framer::new(framing(Carrier::Text, batch), Position(0));
        for keys in [&[][..], &["", "b"], &["c", ""]] {
            let (batch, outputs) = keyed(keys);
            framer.push(&batch, &outputs, Duration::ZERO);
        }
        framer.close();
        let chunk = framer.take().unwrap();
        let keys: Vec<_> = (0..6).map(|index| chunk.key(index)).collect();
        let (b, c) = (Some(&b"b"[..]), Some(&b"c"[..]));
        assert_eq!(keys, [None, None, None, b, c, None], "{batch:?}");

        let (batch, outputs) = keyed(&[]);
        framer.push(&batch, &outputs, Duration::ZERO);
        framer.close();
        assert!(
            framer.take().unwrap().keys.is_none(),
            "and nothing of it stays"
        );
    }
}

/// Whatever a batch becomes, no chunk is larger than the largest frame, places included, and nothing is
/// lost between two.
#[test]
fn i4_chunks_are_bounded_by_the_largest_frame() {
    for batch in [Batching::Record, Batching::Ndjson(bounds(7))] {
        let tight = framing(Carrier::Text, batch).in_journal(2048);
        let records: Vec<String> = (0..500).map(|n| "x".repeat(n % 90)).collect();
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        let (batch, outputs) = batch_of(&records);
        assert_eq!(tight.check(&batch, &outputs), []);
        let mut framer = Framer::new(tight, Position(0));
        framer.push(&batch, &outputs, Duration::ZERO);
        framer.close();
        let mut back = Vec::new();
        while let Some(chunk) = framer.take() {
            assert!(chunk.bytes() <= 1024 + 256, "{}", chunk.bytes());
            back.extend((0..chunk.records.len()).map(|index| chunk.record(index).to_vec()));
            assert_eq!(framer.taken_below(), Position(back.len() as u64));
        }
        assert!(
            back.iter()
                .eq(records.iter().map(|record| record.as_bytes()))
        );
    }
}

#[test]
fn a_record_that_the_journal_cannot_take_is_told() {
    let framing = framing(Carrier::Text, Batching::Record).in_journal(1000);
    let mut records = Records::of_payloads(["x".repeat(490)].iter().collect());
    assert_eq!(check_all(&framing, records.clone()), []);
    records.keys = ["a key of some length"].iter().collect();
    let found = check_all(&framing, records);
    assert!(
        found[0]
            .reason
            .contains("510 bytes does not fit a frame of 500"),
        "{found:?}"
    );
    assert!(found[0].reason.contains("`journal.bytes`"), "{found:?}");
}

#[test]
fn headers_have_the_three_lengths() {
    let header = |bytes| {
        let mut wire = Vec::new();
        push_header(&mut wire, 0x1, bytes);
        wire
    };
    assert_eq!(header(125), [0x81, 125]);
    assert_eq!(header(126), [0x81, 126, 0, 126]);
    assert_eq!(header(65536), [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
}

//! Any sequence of marks, gaps and breaks: whoever resumes at its place loses and repeats nothing but
//! what it is told.
//!
//! A journal of a few chunks with frames of any size; a sender that follows it by the protocol's own
//! rules; a receiver that is cut off after any frame. Each seed is one run.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::*;
use crate::journal::{Chunk, Frame, Position};
use crate::record::Column;

const EPOCH: u64 = 0xe;
const KEYS: [&str; 3] = ["a", "b", ""];

/// A record is its position and its key.
struct Journal {
    chunks: VecDeque<Chunk>,
    head: Position,
    random: fastrand::Rng,
}

impl Journal {
    fn append(&mut self) {
        let records = self.random.u32(1..12);
        let first = self.head;
        let mut frames = Vec::new();
        let mut end = 0;
        while end < records {
            end = (end + self.random.u32(1..5)).min(records);
            frames.push(Frame {
                wire_end: end,
                payload_start: end - 1,
                records_end: end,
            });
        }
        let keys: Column = (0..records)
            .map(|_| KEYS[self.random.usize(0..KEYS.len())])
            .collect();
        self.head = first.plus(u64::from(records));
        self.chunks.push_back(Chunk {
            first,
            wire: vec![b'x'; records as usize].into(),
            frames: frames.into(),
            records: (0..records).map(|start| (start, start + 1)).collect(),
            keys: Some(keys.into()),
            made_at: None,
        });
    }

    fn tail(&self) -> Position {
        self.chunks.front().map_or(self.head, |chunk| chunk.first)
    }

    fn facts(&self) -> Facts {
        Facts {
            epoch: EPOCH,
            tail: self.tail(),
            head: self.head,
            frame_is_record: false,
        }
    }

    fn read(&self, from: Position) -> Option<&Chunk> {
        let index = self.chunks.partition_point(|chunk| chunk.end() <= from);
        self.chunks.get(index).filter(|chunk| chunk.first <= from)
    }

    fn keys_in(&self, from: Position, to: Position) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let chunks = self.chunks.iter();
        chunks.flat_map(move |chunk| {
            (0..chunk.records.len()).filter_map(move |index| {
                let position = chunk.first.plus(index as u64);
                let key = chunk.key(index).unwrap_or_default().to_vec();
                (from <= position && position < to).then_some((position.0, key))
            })
        })
    }
}

/// The frames that go out from `from` on, as the positions of their records: what the server does in
/// `gathered` and `alone`.
fn frames(chunk: &Chunk, from: Position, keys: Option<&Keys>) -> (Vec<Vec<u64>>, Position) {
    let (records, is_taken) = alone(chunk, from, keys);
    let position = |index: usize| chunk.first.0 + index as u64;
    let end = records.end;
    let mut frames: Vec<_> = records
        .filter(|index| is_taken(*index))
        .map(|index| vec![position(index)])
        .collect();
    for frame in 0..chunk.frames.len() {
        let records = chunk.frame_records(frame);
        if records.start >= end {
            frames.push(records.map(position).collect());
        }
    }
    (frames, chunk.end())
}

/// One connection: where the sender is, and what is under way to the receiver.
struct Session {
    sender: Sender,
    keys: Option<Keys>,
    at: Position,
    under_way: VecDeque<(Kind, Vec<u8>)>,
}

impl Session {
    fn begin(journal: &Journal, request: &Request) -> Self {
        let Ok(Request::Subscribe(subscribe)) = Request::parse(request.encode().as_bytes()) else {
            panic!("{request:?}");
        };
        let facts = journal.facts();
        let mut start = Start::of(&subscribe, None, facts);
        if let Start::Behind(steps) = start {
            let mut walk = Walk::new(steps, subscribe.keys.as_ref());
            while !walk.is_done()
                && let Some(chunk) = journal.read(walk.at())
            {
                walk.over(chunk);
            }
            start = Start::walked(walk.is_done().then_some(walk.at()), facts);
        }
        let Start::At {
            from,
            resumed,
            lost,
        } = start
        else {
            panic!("it is walked");
        };
        let mut sender = Sender::new(EPOCH, Kind::Text, Duration::from_secs(1));
        let mut out = Vec::new();
        let start = (from, resumed, lost);
        sender.hello(Duration::ZERO, "s", start, facts.head, &mut out);
        let mut session = Self {
            sender,
            keys: subscribe.keys,
            at: from,
            under_way: VecDeque::new(),
        };
        session.control(&out);
        session
    }

    fn control(&mut self, frame: &[u8]) {
        if !frame.is_empty() {
            let start = if frame[1] < 126 { 2 } else { 4 };
            let payload = frame[start..].to_vec();
            self.under_way.push_back((Kind::Binary, payload));
        }
    }

    /// Sends the next chunk, or a gap; a mark behind it, or not.
    fn send(&mut self, journal: &Journal, marks: bool) {
        let mut out = Vec::new();
        if self.at < journal.tail() {
            let lost = self.keys.is_none().then(|| journal.tail().since(self.at));
            self.sender
                .gap(Duration::ZERO, journal.tail(), lost, &mut out);
            self.at = journal.tail();
        } else if let Some(chunk) = journal.read(self.at) {
            let (frames, end) = frames(chunk, self.at, self.keys.as_ref());
            for frame in frames {
                let payload: Vec<u8> = frame.iter().flat_map(|n| n.to_be_bytes()).collect();
                self.under_way.push_back((Kind::Text, payload));
            }
            self.at = end;
            if marks {
                self.sender.settle(Duration::ZERO, end, &mut out);
            }
        }
        self.control(&out);
    }
}

/// What the receiver made of it: the records that it has, and those that it was told to be missing.
#[derive(Default)]
struct Kept {
    records: Vec<u64>,
    /// Where in `records` something is missing, and how much.
    gaps: Vec<(usize, Option<u64>)>,
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut journal = Journal {
        chunks: VecDeque::new(),
        head: Position(0),
        random: random.fork(),
    };
    (0..random.u32(1..4)).for_each(|_| journal.append());
    let keys = random
        .bool()
        .then(|| Keys::new(["a".to_owned(), "zz".to_owned()]));
    let from = match random.u8(0..3) {
        0 => From::Earliest,
        1 => From::Newest(random.u64(1..9)),
        _ => From::Latest,
    };
    let wanted = Wanted {
        from: Some(from),
        name: None,
        keys: keys.clone(),
    };
    let forgets = random.bool();
    let mut receiver = Receiver::new(wanted, None);
    let mut session = Session::begin(&journal, &receiver.subscribe());
    let start = session.at;
    // All that was ever published, by its key: retention may drop it.
    let mut published: Vec<(u64, Vec<u8>)> = journal.keys_in(start, journal.head).collect();
    let mut kept = Kept::default();
    let mut take =
        |receiver: &mut Receiver, (kind, payload): (Kind, Vec<u8>), first: bool| match receiver
            .hear(kind, &payload)
            .expect("the protocol is kept")
        {
            Heard::Data => {
                let numbers = payload.as_chunks::<8>().0.iter().copied();
                kept.records.extend(numbers.map(u64::from_be_bytes));
            }
            Heard::Hello(hello) => {
                assert_eq!(hello.resumed, hello.lost == Some(0));
                if !hello.resumed && !first {
                    kept.gaps.push((kept.records.len(), hello.lost));
                }
            }
            Heard::Gap(lost) => kept.gaps.push((kept.records.len(), lost)),
            Heard::Bye(_) | Heard::Mark | Heard::Life => {}
        };
    // The first `hello` always arrives: before it there is no place to lose.
    let hello = session.under_way.pop_front().expect("hello");
    take(&mut receiver, hello, true);
    for _ in 0..random.u32(10..60) {
        match random.u8(0..6) {
            0 | 1 => {
                let before = journal.head;
                journal.append();
                published.extend(journal.keys_in(before, journal.head));
            }
            2 if forgets && journal.chunks.len() > 1 => drop(journal.chunks.pop_front()),
            3 => {
                session = Session::begin(&journal, &receiver.subscribe());
            }
            _ => session.send(&journal, random.bool()),
        }
        // A part of what is under way arrives.
        for _ in 0..random.usize(0..=session.under_way.len()) {
            let frame = session.under_way.pop_front().expect("counted");
            take(&mut receiver, frame, false);
        }
    }
    // And in the end all of it, at the latest on a new connection.
    session = Session::begin(&journal, &receiver.subscribe());
    while session.at < journal.head {
        session.send(&journal, true);
    }
    while let Some(frame) = session.under_way.pop_front() {
        take(&mut receiver, frame, false);
    }
    judge(seed, start, &published, keys.as_ref(), &kept);
}

/// Between what was kept, nothing is missing but where a gap was told, and nothing comes twice but
/// after a `hello` that could not resume.
fn judge(
    seed: u64,
    start: Position,
    published: &[(u64, Vec<u8>)],
    keys: Option<&Keys>,
    kept: &Kept,
) {
    let wanted = |key: &[u8]| keys.is_none() || key == b"a";
    let expected: Vec<u64> = published
        .iter()
        .filter(|(position, key)| *position >= start.0 && wanted(key))
        .map(|(position, _)| *position)
        .collect();
    let mut gaps = kept.gaps.iter().peekable();
    let mut next = 0;
    let mut lost = 0;
    let mut lost_by_gaps = 0;
    let mut all_known = true;
    for index in 0..=kept.records.len() {
        let mut gap = false;
        while let Some((_, told)) = gaps.next_if(|(place, _)| *place == index) {
            gap = true;
            match told {
                Some(told) => lost_by_gaps += told,
                None => all_known = false,
            }
        }
        let Some(record) = kept.records.get(index) else {
            break;
        };
        let found = expected.binary_search(record);
        let found = found.unwrap_or_else(|_| panic!("seed {seed}: {record} was not asked for"));
        match gap {
            true => lost += found.saturating_sub(next) as u64,
            false => assert_eq!(found, next, "seed {seed}: record {record}"),
        }
        next = found + 1;
    }
    if all_known && keys.is_none() {
        // What is missing at the very end, behind a gap, has no record after it to be seen by.
        lost += expected.len() as u64 - next as u64;
        assert_eq!(lost, lost_by_gaps, "seed {seed}");
    } else if kept.gaps.is_empty() {
        assert_eq!(next, expected.len(), "seed {seed}: the end is missing");
    }
}

#[test]
fn i2_whoever_resumes_at_its_place_loses_and_repeats_nothing() {
    (0..20_000).for_each(run);
}

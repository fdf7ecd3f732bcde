//! What the simulation does not show: exact times, exact Pings, what is refused.

use super::*;
use crate::journal::{Chunk, Frame, Marks};

mod giving_up;
mod places;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One frame of ten bytes a record.
fn chunk(records: u32) -> Chunk {
    Chunk {
        wire: vec![0; records as usize * 10].into(),
        frames: (1..=records)
            .map(|n| Frame {
                wire_end: n * 10,
                payload_start: n * 10 - 8,
                records_end: n,
            })
            .collect(),
        records: (0..records).map(|n| (n * 10 + 2, n * 10 + 10)).collect(),
        ..Chunk::default()
    }
}

fn marks(head: u64, closed: bool) -> Marks {
    Marks {
        durable: Position(head),
        head: Position(head),
        closed,
        ..Marks::default()
    }
}

/// A session with a journal of a thousand records, and the time.
struct Bench {
    session: Session,
    chunk: Chunk,
    marks: Marks,
    now: Duration,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        Self {
            session: Session::new(rules, Position(0), 7),
            chunk: chunk(1000),
            marks: marks(1000, false),
            now: Duration::ZERO,
        }
    }

    fn step(&mut self) -> Step {
        self.session.next(self.now, 100_000, self.marks)
    }

    /// Steps until it waits: positions before each span sent, and the Pings.
    fn steps(&mut self) -> (Vec<(u64, usize)>, Vec<[u8; PING_BYTES]>) {
        let (mut spans, mut pings) = (Vec::new(), Vec::new());
        loop {
            match self.step() {
                Step::Send(order) => {
                    let piece = order.cut(&self.chunk);
                    spans.push((order.from.0, piece.records(&self.chunk).len()));
                    self.session.sent(self.now, &self.chunk, &piece);
                }
                Step::Ping(payload) => pings.push(payload),
                Step::Wait(_) => {
                    let to = self.session.position();
                    self.session.written(self.now, to, true);
                    return (spans, pings);
                }
                step => panic!("{step:?}"),
            }
        }
    }

    /// Connects and answers the probe.
    fn open(&mut self) {
        assert!(matches!(self.step(), Step::Dial { .. }));
        self.session.connected(self.now);
        let (spans, pings) = self.steps();
        assert_eq!(spans, [], "nothing before the probe's answer");
        self.session.pong(self.now, &pings[0]);
    }

    /// The connection is lost; time passes until the next dial.
    fn break_and_wait(&mut self) {
        self.session.broken(self.now);
        match self.step() {
            Step::Wait(wait) => self.now = wait.until.expect("a time to dial at"),
            step => panic!("{step:?}"),
        }
    }
}

fn rules(window: u64) -> Rules {
    Rules {
        window_records_max: window,
        ..Rules::default()
    }
}

#[test]
fn i4_the_window_bounds_what_is_in_flight_and_a_ping_goes_out_every_quarter() {
    let mut bench = Bench::new(rules(100));
    bench.open();
    let (spans, pings) = bench.steps();
    assert_eq!(spans.iter().map(|(_, n)| n).sum::<usize>(), 100);
    assert!(pings.len() <= 4, "{} Pings", pings.len());
    assert!(!pings.is_empty());
    let (spans, _) = bench.steps();
    assert_eq!(spans, [], "the window is full");
}

#[test]
fn i1_a_pong_confirms_everything_before_its_ping_and_nothing_behind() {
    let mut bench = Bench::new(rules(100));
    bench.marks = marks(30, false);
    bench.open();
    let (_, first) = bench.steps();
    assert_eq!(first.len(), 1, "nothing follows: a Ping at once");
    bench.marks = marks(50, false);
    bench.now = ms(20);
    let (_, second) = bench.steps();
    // Only the later one is answered, as the protocol allows.
    bench.session.pong(bench.now, second.last().unwrap());
    assert_eq!(bench.session.confirmed(), Position(50));
    bench.session.pong(bench.now, &first[0]);
    assert_eq!(bench.session.confirmed(), Position(50), "a late one");
}

#[test]
fn i1_pongs_that_answer_no_ping_of_this_connection_confirm_nothing() {
    let mut bench = Bench::new(rules(100));
    bench.open();
    let (_, pings) = bench.steps();
    let mut future = pings[0];
    future[15] = 0xff;
    let mut foreign = pings[0];
    foreign[0] ^= 1;
    for payload in [&b""[..], b"keep-alive", &future, &foreign, &pings[0][..15]] {
        bench.session.pong(bench.now, payload);
        assert_eq!(bench.session.confirmed(), Position(0), "{payload:?}");
    }
    bench.break_and_wait();
    bench.open();
    bench.steps();
    bench.session.pong(bench.now, pings.last().unwrap());
    assert_eq!(
        bench.session.confirmed(),
        Position(0),
        "of an earlier connection"
    );
}

#[test]
fn i3_after_a_break_everything_unconfirmed_comes_first() {
    let mut bench = Bench::new(rules(100));
    bench.open();
    let (_, pings) = bench.steps();
    bench.session.pong(bench.now, &pings[0]);
    let confirmed = bench.session.confirmed().0;
    assert!(confirmed > 0);
    bench.break_and_wait();
    bench.open();
    let (spans, _) = bench.steps();
    assert_eq!(spans[0].0, confirmed);
    let account = bench.session.account();
    assert_eq!(account.resent, 100 - confirmed);
    assert_eq!(account.reconnects, 1);
}

#[test]
fn the_waits_between_dials_double_up_to_a_bound_and_start_again_after_a_confirmation() {
    let mut longest = vec![Duration::ZERO; 12];
    for seed in 0..300 {
        let mut session = Session::new(Rules::default(), Position(0), seed);
        let mut now = Duration::ZERO;
        for longest in &mut longest {
            assert!(matches!(
                session.next(now, 0, marks(1, false)),
                Step::Dial { .. }
            ));
            session.dial_failed(now, DialFailure::default());
            let at = session.dials_at().unwrap();
            *longest = (*longest).max(at - now);
            now = at;
        }
    }
    for (attempt, longest) in longest.iter().enumerate() {
        let bound = ms(100 << attempt).min(Duration::from_secs(30));
        assert!(*longest <= bound, "attempt {attempt}: {longest:?}");
        assert!(*longest > bound / 2, "attempt {attempt}: {longest:?}");
    }
    let mut bench = Bench::new(rules(10));
    bench.session.failures = 10;
    bench.open();
    let (_, pings) = bench.steps();
    bench.session.pong(bench.now, &pings[0]);
    bench.break_and_wait();
    assert!(bench.now <= ms(100), "{:?}", bench.now);
}

#[test]
fn retry_after_is_honoured() {
    let mut session = Session::new(Rules::default(), Position(0), 1);
    session.next(ms(0), 0, marks(1, false));
    let busy = DialFailure {
        retry_after: Some(ms(7000)),
        ..DialFailure::default()
    };
    session.dial_failed(ms(0), busy);
    assert_eq!(session.dials_at(), Some(ms(7000)));
}

#[test]
fn a_permanent_refusal_ends_the_run_before_the_first_success_only() {
    let refusal = || DialFailure {
        message: "http: 403: go away".into(),
        permanent: true,
        unauthorized: true,
        ..DialFailure::default()
    };
    let mut fresh = Bench::new(rules(10));
    fresh.step();
    fresh.session.dial_failed(fresh.now, refusal());
    assert_eq!(
        fresh.step(),
        Step::Fail(Failure::Refused("http: 403: go away".into()))
    );
    let mut proven = Bench::new(rules(10));
    proven.open();
    proven.break_and_wait();
    proven.step();
    proven.session.dial_failed(proven.now, refusal());
    proven.now = proven.session.dials_at().unwrap();
    assert_eq!(
        proven.step(),
        Step::Dial { reread: true },
        "with fresh credentials"
    );
}

#[test]
fn i1_a_close_from_the_peer_confirms_nothing_and_ours_waits_for_the_last_pong() {
    let mut bench = Bench::new(rules(2000));
    bench.marks = marks(10, true);
    bench.open();
    let (_, pings) = bench.steps();
    bench.break_and_wait();
    assert_eq!(bench.session.confirmed(), Position(0));
    bench.open();
    let (_, again) = bench.steps();
    assert_ne!(pings, again);
    assert!(matches!(bench.step(), Step::Wait(_)), "no Close yet");
    bench.session.pong(bench.now, again.last().unwrap());
    assert_eq!(bench.step(), Step::Close);
    bench.session.broken(bench.now);
    assert_eq!(bench.step(), Step::Done);
}

#[test]
fn a_peer_that_does_not_answer_the_close_is_left_in_time() {
    let mut bench = Bench::new(Rules::accepted());
    bench.marks = marks(10, true);
    bench.session.connected(bench.now);
    bench.steps();
    assert_eq!(bench.session.confirmed(), Position(10), "written");
    assert_eq!(bench.step(), Step::Close);
    bench.now = ms(5000);
    assert_eq!(bench.step(), Step::Done);
}

#[test]
fn an_accepted_peer_that_goes_is_not_dialled() {
    let mut bench = Bench::new(Rules::accepted());
    bench.session.connected(bench.now);
    bench.steps();
    bench.session.broken(bench.now);
    assert_eq!(bench.step(), Step::Done);
}

#[test]
fn i1_messages_confirm_by_order_by_count_or_by_position() {
    let rules = Rules {
        confirm: Confirm::Message,
        ..rules(100)
    };
    let mut bench = Bench::new(rules);
    bench.open();
    bench.steps();
    bench.session.replied(bench.now, 1);
    assert_eq!(bench.session.confirmed(), Position(1));
    bench.session.counted(bench.now, 5);
    assert_eq!(bench.session.confirmed(), Position(5), "5 in all");
    bench.session.counted(bench.now, 4);
    bench.session.counted(bench.now, 4_000_000);
    assert_eq!(bench.session.confirmed(), Position(5), "stale and nonsense");
    bench.session.acknowledged(bench.now, Position(9));
    bench.session.acknowledged(bench.now, Position(999_999));
    assert_eq!(bench.session.confirmed(), Position(9));
    bench.session.replied(bench.now, 1);
    assert_eq!(bench.session.confirmed(), Position(10), "the next in order");
}

#[test]
fn a_begun_frame_is_finished_record_by_record() {
    let chunk = Chunk {
        wire: vec![0; 24].into(),
        frames: [(12, 3), (24, 6)]
            .map(|(wire_end, records_end)| Frame {
                wire_end,
                payload_start: wire_end - 10,
                records_end,
            })
            .into(),
        records: [(2, 4), (5, 7), (8, 10), (14, 16), (17, 19), (20, 22)].into(),
        ..Chunk::default()
    };
    let order = |from, records_max, alone| Order {
        from: Position(from),
        records_max,
        bytes_max: 1000,
        alone,
    };
    assert_eq!(order(0, 9, false).cut(&chunk), Piece::Frames(0..2));
    assert_eq!(order(0, 3, false).cut(&chunk), Piece::Frames(0..1));
    assert_eq!(
        order(0, 1, false).cut(&chunk),
        Piece::Frames(0..1),
        "at least one"
    );
    assert_eq!(order(1, 9, false).cut(&chunk), Piece::Record(1));
    assert_eq!(order(3, 9, false).cut(&chunk), Piece::Frames(1..2));
    assert_eq!(order(3, 9, true).cut(&chunk), Piece::Record(3));
    assert_eq!(Piece::Record(4).wire(&chunk), 17..19);
    assert_eq!(Piece::Frames(1..2).records(&chunk), 3..6);
}

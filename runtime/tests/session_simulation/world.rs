//! One run: the shell that drives the session as the session's module says, and time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use wirefall::journal::{Chunk, Marks, Position};
use wirefall::sink::websocket::session::{
    Confirm, DialFailure, Failure, GivenUp, Order, Piece, Rules, Session, Step, Wait,
};

use crate::judge::Judge;
use crate::ms;
use crate::network::{Back, Connection, Faults, Sent};
use crate::peer::{Keeper, Replies};

const STEPS_MAX: u64 = 400_000;
/// The shell's buffer.
const ROOM: u64 = 2_000;
/// Unanswered probes in a row, before the first answer, of a peer that may be refused.
const PROBES_UNANSWERED_MAX: u32 = 3;

/// What happened in a run, and how often.
pub type Seen = BTreeMap<&'static str, u64>;

/// See the module.
pub struct World {
    pub seed: u64,
    pub random: fastrand::Rng,
    now: Duration,
    pub rules: Rules,
    session: Session,
    journal: Vec<Chunk>,
    records: u64,
    appended: u64,
    pub faults: Faults,
    /// Records that kill the peer when it reads them.
    pub poisons: BTreeSet<u64>,
    pub replies: Replies,
    pub keeper: Keeper,
    /// Where a session that dies now begins again at the earliest.
    written_down: u64,
    pub judge: Judge,
    pub connection: Option<Connection>,
    dialing: Option<Duration>,
    /// The next dial must be with fresh credentials, and not before this.
    reread: bool,
    dial_not_before: Duration,
    connected_once: bool,
    /// A probe was answered once.
    pub proven: bool,
    /// The present connection's was.
    probed: bool,
    probes_unanswered: u32,
    steps: u64,
    /// What happened, and how often.
    seen: Seen,
    pub trace: bool,
}

impl World {
    #[expect(clippy::too_many_arguments, reason = "each is drawn on its own")]
    pub fn new(
        seed: u64,
        random: fastrand::Rng,
        rules: Rules,
        session: Session,
        journal: Vec<Chunk>,
        faults: Faults,
        poisons: BTreeSet<u64>,
        replies: Replies,
        judge: Judge,
    ) -> Self {
        Self {
            seed,
            random,
            now: Duration::ZERO,
            rules,
            session,
            records: journal.last().map_or(0, |chunk| chunk.end().0),
            journal,
            appended: 0,
            faults,
            poisons,
            replies,
            keeper: Keeper::default(),
            written_down: 0,
            judge,
            connection: None,
            dialing: None,
            reread: false,
            dial_not_before: Duration::ZERO,
            connected_once: false,
            proven: false,
            probed: false,
            probes_unanswered: 0,
            steps: 0,
            seen: Seen::new(),
            trace: std::env::var_os("SEED").is_some(),
        }
    }

    pub fn happens(&mut self, thousandths: u32) -> bool {
        self.now < self.faults.calm_at && self.random.u32(0..1000) < thousandths
    }

    pub fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn latency(&mut self) -> Duration {
        ms(self.random.u64(0..=self.faults.latency_max_ms))
    }

    fn marks(&self) -> Marks {
        Marks {
            tail: Position(0),
            durable: Position(self.appended),
            head: Position(self.appended),
            closed: self.appended == self.records,
        }
    }

    fn chunk_at(&self, position: u64) -> &Chunk {
        let index = self
            .journal
            .partition_point(|chunk| chunk.end().0 <= position);
        &self.journal[index]
    }

    /// Payload bytes of records of one frame.
    pub fn bytes_of(&self, records: Range<u64>) -> u64 {
        let chunk = self.chunk_at(records.start);
        let bytes = |record: u64| {
            let (start, end) = chunk.records[(record - chunk.first.0) as usize];
            u64::from(end - start)
        };
        records.map(bytes).sum()
    }

    /// Runs to the end and checks what must hold there.
    pub fn run(mut self) -> Seen {
        if !self.rules.dials {
            self.connected();
        }
        loop {
            let seed = self.seed;
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "seed {seed}: it does not end (I4)");
            self.tell();
            let room = self.connection.as_ref().map_or(0, |c| c.room(ROOM));
            let step = self.session.next(self.now, room, self.marks());
            if self.trace && !matches!(step, Step::Wait(_)) {
                eprintln!("{:?} {step:?}, {:?}", self.now, self.session.confirmed());
            }
            match step {
                Step::Dial { reread } => {
                    assert_eq!(reread, self.reread, "seed {seed}: fresh credentials");
                    assert!(self.now >= self.dial_not_before, "seed {seed}: Retry-After");
                    self.reread = false;
                    self.dialing = Some(self.now + self.latency());
                }
                Step::Send(order) => self.send(order),
                Step::Ping(payload) => self.push(Sent::Ping(payload.to_vec()), 22),
                Step::Close => {
                    let confirmed = self.session.confirmed().0;
                    assert_eq!(confirmed, self.records, "seed {seed}: closed too early");
                    self.push(Sent::Close, 8);
                }
                Step::Drop(why) => self.given_up(why),
                Step::Poison { position, breaks } => {
                    let good = !self.poisons.contains(&position.0);
                    assert!(
                        !good,
                        "seed {seed}: {position:?} is good and was failed over"
                    );
                    assert!((3..=12).contains(&breaks), "seed {seed}: {breaks} breaks");
                    self.connection = None;
                    self.see("poison");
                    self.judge.fails_over(position.0);
                    let took = self.latency();
                    self.now += took;
                    self.session.settled(self.now);
                }
                Step::Wait(wait) => self.wait(wait),
                Step::Done => return self.done(),
                Step::Fail(failure) => {
                    let hopeless = self.probes_unanswered >= PROBES_UNANSWERED_MAX && !self.proven;
                    let expected = hopeless && matches!(failure, Failure::NoPongs { .. });
                    assert!(expected, "seed {seed}: {failure:?}");
                    self.judge.accounts(&self.session);
                    self.see("refused for good");
                    return self.seen;
                }
            }
            self.judge.confirms(&self.session);
        }
    }

    /// Before each `next`: what has left, and before a deadline passes what has come.
    fn tell(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let (moved, all) = connection.leaving(self.now);
        self.session.leaving(self.now, moved, all);
        while self.session.is_overdue(self.now)
            && self
                .connection
                .as_ref()
                .and_then(|c| c.back_at())
                .is_some_and(|at| at <= self.now)
        {
            self.see("read before giving up");
            self.shell_reads();
        }
    }

    fn send(&mut self, order: Order) {
        let chunk = self.chunk_at(order.from.0).clone();
        let piece = order.cut(&chunk);
        let first = chunk.first.0;
        let place =
            |records: Range<usize>| first + records.start as u64..first + records.end as u64;
        // Each frame on its own, as the peer sees them.
        let frames: Vec<(Range<u64>, u64)> = match &piece {
            Piece::Record(_) => {
                vec![(
                    place(piece.records(&chunk)),
                    piece.wire(&chunk).len() as u64,
                )]
            }
            Piece::Frames(frames) => frames
                .clone()
                .map(|index| {
                    let bytes = chunk.frame_wire(index).len() as u64;
                    (place(chunk.frame_records(index)), bytes)
                })
                .collect(),
        };
        for (records, bytes) in frames {
            self.judge
                .sends(self.now, records.clone(), bytes, &self.session);
            self.push(Sent::Records(records), bytes);
        }
        self.session.sent(self.now, &chunk, &piece);
    }

    fn push(&mut self, sent: Sent, bytes: u64) {
        let seed = self.seed;
        let early = matches!(sent, Sent::Records(_)) && !self.probed;
        assert!(!early, "seed {seed}: sent before the probe's answer");
        let Some(connection) = &mut self.connection else {
            panic!("seed {seed}: sent without a connection");
        };
        connection.push(sent, bytes);
    }

    fn given_up(&mut self, why: GivenUp) {
        self.see(match why {
            GivenUp::ProbeUnanswered { .. } => "given up: probe",
            GivenUp::ConfirmTimeout => "given up: confirm",
            GivenUp::WriteTimeout => "given up: write",
            GivenUp::Silent => "given up: silent",
            GivenUp::NeverSubscribed => "given up: subscribe",
        });
        if matches!(why, GivenUp::ProbeUnanswered { .. }) {
            self.probes_unanswered += 1;
        }
        self.lost();
    }

    fn lost(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.judge.leaves(self.now, connection.silent_since);
        }
    }

    fn done(mut self) -> Seen {
        self.lost();
        let all = self.session.confirmed().0 == self.records && self.appended == self.records;
        if all {
            let poisons: Vec<u64> = self.poisons.iter().copied().collect();
            self.judge.ends(&self.session, &poisons);
            self.see("carried to the end");
        } else {
            let seed = self.seed;
            assert!(!self.rules.dials, "seed {seed}: the end came too early");
            self.judge.accounts(&self.session);
            self.see("an accepted peer that went");
        }
        if self.session.account().resent > 0 {
            self.see("sent again");
        }
        self.seen
    }

    /// One thing happens: the next in time, or one of several at random.
    fn wait(&mut self, wait: Wait) {
        let seed = self.seed;
        if let Some(until) = wait.until {
            assert!(until > self.now, "seed {seed}: a wait that is over");
        }
        if self.happens(self.faults.held_up) {
            return self.held_up();
        }
        // A record may go to the failover once more than it should where this is not known any more.
        let dies = self.rules.confirm == Confirm::Place && self.poisons.is_empty();
        if dies && self.happens(self.faults.crash) {
            return self.crash();
        }
        if self.appended < self.records && self.random.u32(..3) == 0 {
            self.appended = self.chunk_at(self.appended).end().0;
            return;
        }
        if let Some(at) = self.dialing.take() {
            self.now = self.now.max(at);
            return self.dialed();
        }
        let late = ms(self.random.u64(0..=self.faults.late_max_ms));
        let timer = wait.until.map(|until| until + late);
        let Some(connection) = &self.connection else {
            self.now = timer.unwrap_or(self.now + ms(1)).max(self.now);
            return;
        };
        let times = [
            connection.there_at(),
            connection.back_at(),
            connection.writes_at(self.now),
            timer,
        ];
        let Some(next) = times.iter().flatten().min().copied() else {
            // Only the journal can go on.
            self.now += ms(1);
            return;
        };
        self.now = self.now.max(next);
        // Of what is due, any may come first.
        let due: Vec<usize> = (0..times.len())
            .filter(|index| times[*index].is_some_and(|at| at <= self.now))
            .collect();
        match due[self.random.usize(0..due.len())] {
            0 => self.peer_reads(self.now),
            1 => self.shell_reads(),
            2 => self.kernel_takes(),
            _ => {}
        }
    }

    /// The process dies, and another begins where the notes say: they are written a little later.
    fn crash(&mut self) {
        self.see("session crashed");
        self.lost();
        let confirmed = self.session.confirmed().0;
        self.written_down = self.random.u64(self.written_down..=confirmed);
        let (rules, from) = (self.rules.clone(), Position(self.written_down));
        self.session = Session::new(rules, from, self.random.u64(..));
        self.judge.restarts();
        self.dialing = None;
        self.reread = false;
        self.dial_not_before = Duration::ZERO;
        self.connected_once = false;
        self.proven = false;
        self.probes_unanswered = 0;
    }

    /// The process stands still, and the world does not: what has come meanwhile waits in the kernel.
    fn held_up(&mut self) {
        self.see("held up");
        let until = self.now + ms(self.random.u64(100..10_000));
        while let Some(at) = self.connection.as_ref().and_then(|c| c.there_at())
            && at <= until
        {
            self.peer_reads(at);
        }
        // A line that fell silent meanwhile could not be left meanwhile.
        self.judge.silence_max += until - self.now;
        self.now = until;
    }

    fn dialed(&mut self) {
        if self.happens(self.faults.refused) {
            let kind = self.random.u32(..3);
            let why = DialFailure {
                message: "refused".into(),
                // Before the first success these end the run: that is another test.
                permanent: kind > 0 && self.connected_once,
                unauthorized: kind == 1 && self.connected_once,
                retry_after: self.random.bool().then(|| ms(self.random.u64(0..9_000))),
            };
            self.see(match kind {
                0 => "not now",
                1 => "credentials refused",
                _ => "refused although it never changes",
            });
            self.reread |= why.unauthorized;
            self.dial_not_before = self.now + why.retry_after.unwrap_or_default();
            return self.session.dial_failed(self.now, why);
        }
        self.connected();
    }

    fn connected(&mut self) {
        self.connected_once = true;
        self.connection = Some(Connection::new(self.session.confirmed()));
        self.session.connected(self.now);
        self.probed = self.session.is_open();
        self.judge.connected(self.now, &self.session);
        if self.rules.confirm == Confirm::Place {
            let at = self.now + self.latency();
            self.keeper_subscribes(at);
        }
    }

    fn kernel_takes(&mut self) {
        let stall = self.happens(self.faults.stall);
        let by = ms(self.random.u64(1..3_000));
        let latency = self.latency();
        let bytes_max = match self.random.bool() {
            true => u64::MAX,
            false => self.random.u64(1..=ROOM),
        };
        let Some(connection) = &mut self.connection else {
            return;
        };
        if stall {
            return connection.stall(self.now, by);
        }
        connection.write(self.now, bytes_max, self.faults.bytes_per_ms, latency);
        let (to, drained) = (connection.written_to, connection.is_drained());
        self.judge.taken(to.0);
        self.session.written(self.now, to, drained);
    }

    fn shell_reads(&mut self) {
        let Some(back) = self.connection.as_mut().and_then(|c| c.hear()) else {
            return;
        };
        if self.trace {
            eprintln!("{:?} the shell reads {back:?}", self.now);
        }
        match back {
            Back::Pong(payload) => {
                self.session.pong(self.now, &payload);
                self.probed |= self.session.is_open();
                self.proven |= self.session.is_open();
                if self.session.is_open() {
                    self.probes_unanswered = 0;
                }
            }
            Back::Subscribed(to) => {
                if Position(to) > self.session.confirmed() {
                    self.see("a place ahead of what was confirmed");
                }
                self.session.subscribed(self.now, Position(to));
                // Further on only where the record there went to the failover.
                let from = self.session.position().0;
                let seed = self.seed;
                let told = (to..from).all(|record| self.poisons.contains(&record));
                assert!(told, "seed {seed}: {from} instead of {to}");
                self.keeper.starts_at(from);
                self.judge.subscribed(&self.session);
                self.probed |= self.session.is_open();
                self.proven = true;
                self.probes_unanswered = 0;
            }
            Back::Reply => self.session.replied(self.now, 1),
            Back::Counted(frames) => self.session.counted(self.now, frames),
            Back::Below(to) => self.session.acknowledged(self.now, Position(to)),
            Back::Reset | Back::Close => {
                self.lost();
                self.session.broken(self.now);
            }
        }
        self.judge.confirms(&self.session);
    }
}

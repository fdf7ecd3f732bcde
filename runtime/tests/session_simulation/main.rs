//! The delivery session against a made-up network, thousands of seeded runs in virtual time.
//!
//! The network delays, stalls, cuts writes anywhere, resets, and falls silent without a word; the peer
//! loses, garbles and repeats its Pongs, says some that nobody asked for, refuses for a while or until
//! the credentials are read again, closes, and dies of chosen records; timers are late, and the process
//! is held up for seconds. Both roles, and all that confirms. A peer that keeps its place forgets at each
//! break what it has not kept, and there the session dies as well, and begins again at what was written
//! down of it. What must hold is in `judge`: nothing is lost (I1), nothing is kept twice by a peer that
//! keeps its place, order is kept (I3), the window holds in records and bytes, what is sent twice stays inside
//! one window at each break, the account is what was really sent (I2), no good record is failed over, a
//! silent line is left in time, and the run ends (I4).
//!
//! `SEED=n cargo test -p wirefall --test session_simulation -- --nocapture` shows one run.

use std::collections::BTreeSet;
use std::time::Duration;

use wirefall::journal::Position;
use wirefall::sink::websocket::session::{Confirm, Rules, SUBSCRIBE_TIMEOUT, Session};

mod journal;
mod judge;
mod network;
mod peer;
mod world;

use judge::Judge;
use network::Faults;
use peer::Replies;
use world::{Seen, World};

const SEEDS: u64 = 6_000;
/// What all seeds together must meet so often.
const OFTEN: u64 = 50;
const EXPECTED: &[&str] = &[
    "a place ahead of what was confirmed",
    "an accepted peer that went",
    "carried to the end",
    "credentials refused",
    "given up: confirm",
    "given up: silent",
    "given up: subscribe",
    "given up: write",
    "held up",
    "not now",
    "poison",
    "read before giving up",
    "refused although it never changes",
    "reset or close",
    "sent again",
    "session crashed",
    "silence",
];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Rules of any kind.
fn rules(random: &mut fastrand::Rng) -> Rules {
    let role = match random.u32(..10) {
        0 => Rules::accepted(),
        1 => Rules {
            confirm: Confirm::Written,
            ..Rules::default()
        },
        2 | 3 => Rules {
            confirm: Confirm::Message,
            ..Rules::default()
        },
        8 | 9 => Rules {
            confirm: Confirm::Place,
            ..Rules::default()
        },
        _ => Rules::default(),
    };
    Rules {
        window_records_max: random.u64(1..64),
        window_bytes_max: match random.bool() {
            true => random.u64(1..3_000),
            false => 8 << 20,
        },
        confirm_timeout: ms(random.u64(100..2_000)),
        write_timeout: ms(random.u64(100..2_000)),
        close_timeout: ms(random.u64(100..2_000)),
        ping_interval: ms(random.u64(0..3) * 200),
        ping_gap: ms(random.u64(0..20)),
        backoff_max: ms(random.u64(100..5_000)),
        ..role
    }
}

fn faults(random: &mut fastrand::Rng) -> Faults {
    let mut chance = |most: u32| match random.bool() {
        true => random.u32(0..=most),
        false => 0,
    };
    Faults {
        reset: chance(12),
        silence: chance(3),
        lost_pong: chance(200),
        garbled_pong: chance(200),
        doubled_pong: chance(200),
        own_pong: chance(200),
        garbled_reply: chance(200),
        stall: chance(10),
        refused: chance(500),
        held_up: chance(4),
        crash: chance(4),
        latency_max_ms: u64::from(chance(40)),
        late_max_ms: u64::from(chance(60)),
        bytes_per_ms: match chance(3) {
            1 => 10,
            2 => 100,
            _ => 100_000,
        },
        calm_at: Duration::from_secs(120),
    }
}

/// The world that a seed makes.
fn world(seed: u64) -> World {
    let mut random = fastrand::Rng::with_seed(seed);
    let rules = rules(&mut random);
    let faults = faults(&mut random);
    let records = random.u64(1..400);
    let frame_records_max = if random.bool() { 1 } else { random.u64(1..10) };
    let record_bytes_max = *random.choice([8, 200, 2_000].iter()).expect("one of three");
    let mut poisons = BTreeSet::new();
    if rules.dials && rules.confirm != Confirm::Written && random.u32(..4) == 0 {
        (0..random.u64(1..4)).for_each(|_| {
            poisons.insert(random.u64(0..records));
        });
    }
    let replies = match random.u32(..3) {
        0 => Replies::InOrder,
        1 => Replies::Count,
        _ => Replies::Name,
    };
    // The keep-alive Ping goes out, or the first that is written, and then one of the timeouts passes;
    // all that is seen late, or after a process that was held up.
    let greeting_max = match rules.confirm {
        Confirm::Place => SUBSCRIBE_TIMEOUT,
        _ => Duration::ZERO,
    };
    let silence_max = greeting_max
        + rules.ping_interval
        + rules.confirm_timeout * 2
        + rules.write_timeout * 2
        + rules.close_timeout
        + ms(faults.late_max_ms) * 4;
    let session = Session::new(rules.clone(), Position(0), seed);
    let judge = Judge::new(seed, rules.clone(), records, silence_max);
    let journal = journal::journal(&mut random, records, frame_records_max, record_bytes_max);
    World::new(
        seed, random, rules, session, journal, faults, poisons, replies, judge,
    )
}

#[test]
fn i1_i2_i3_i4_nothing_is_lost_reordered_or_endless_whatever_the_network_does() {
    let only = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    if let Some(seed) = only {
        let seen = world(seed).run();
        return eprintln!("{seen:?}");
    }
    let (mut seen, mut failed) = (Seen::new(), Vec::new());
    for seed in 0..SEEDS {
        match std::panic::catch_unwind(|| world(seed).run()) {
            Ok(of_seed) => of_seed
                .into_iter()
                .for_each(|(what, times)| *seen.entry(what).or_default() += times),
            Err(_) => failed.push(seed),
        }
    }
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
    // A simulation that meets nothing shows nothing.
    let met = |what: &&str| seen.get(what).is_some_and(|times| *times >= OFTEN);
    let missed: Vec<_> = EXPECTED.iter().filter(|what| !met(what)).collect();
    assert!(missed.is_empty(), "seldom met: {missed:?}, of {seen:#?}");
}

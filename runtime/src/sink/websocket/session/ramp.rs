//! How much may be in flight now: more for as long as more makes the line faster.
//!
//! Owns the window of one connection below the rules' own. A window that is larger than the line needs
//! gains nothing: what is in flight waits in buffers, is no longer in the processor's cache when it is
//! confirmed and let go, and comes twice after a break. One that is smaller holds a long line up. Which it
//! is shows in the rate, as in the start-up of BBR (draft-ietf-ccwg-bbr, 5.3.1.2): once doubling the window
//! twice has not raised it by a quarter, the line is full. Pure.

use std::time::Duration;

use super::Rules;

/// The window of a fresh connection.
const RECORDS_MIN: u64 = 256;
/// See [`RECORDS_MIN`].
const BYTES_MIN: u64 = 80 * 1024;
/// So often the window doubles without a question, to 2,048 records and 640 KiB: that is little to send
/// twice, and fits into a cache.
const DOUBLED_UNASKED: u32 = 3;
/// A rate is taken over a window that is confirmed, and over so long at least: what lasts less is noise.
const ROUND_MIN: Duration = Duration::from_millis(100);
/// Rounds without gain after which the line is full.
const VAIN_ROUNDS: u32 = 2;
/// When it is tried again whether the line has become longer.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ramp {
    records_max: u64,
    bytes_max: u64,
    /// How often the window has doubled.
    doubled: u32,
    round: Round,
    /// The best rate in bytes a second, and how often the window had doubled then.
    best: (f64, u32),
    vain_rounds: u32,
    /// When the line was found to be full.
    full_at: Option<Duration>,
}

/// A window on its way from its first byte to its confirmation.
#[derive(Debug, Default)]
struct Round {
    began_at: Duration,
    /// Bytes that were confirmed when it began, and those that are once it is over.
    from: u64,
    to: u64,
    /// The window held back something that could have been sent.
    is_limited: bool,
}

impl Ramp {
    pub(super) fn new(now: Duration, rules: &Rules) -> Self {
        Self {
            records_max: rules.window_records_max,
            bytes_max: rules.window_bytes_max,
            round: Round {
                began_at: now,
                ..Round::default()
            },
            ..Self::default()
        }
    }

    /// How much may be in flight: records and bytes.
    pub(super) fn window(&self) -> (u64, u64) {
        let records = RECORDS_MIN.saturating_mul(1 << self.doubled);
        let bytes = BYTES_MIN.saturating_mul(1 << self.doubled);
        (records.min(self.records_max), bytes.min(self.bytes_max))
    }

    /// The window holds back what could be sent.
    pub(super) fn limited(&mut self) {
        self.round.is_limited = true;
    }

    /// More is confirmed: so many of the bytes that were sent on this connection.
    pub(super) fn confirmed(&mut self, now: Duration, confirmed: u64, sent: u64) {
        if confirmed < self.round.to {
            return;
        }
        let is_unasked = self.doubled < DOUBLED_UNASKED;
        let took = now.saturating_sub(self.round.began_at);
        if took < ROUND_MIN && !is_unasked {
            return;
        }
        if self.round.is_limited {
            let bytes = confirmed.saturating_sub(self.round.from);
            let rate = bytes as f64 / took.as_secs_f64().max(1e-6);
            self.judge(now, rate, is_unasked);
        }
        self.round = Round {
            began_at: now,
            from: confirmed,
            to: sent,
            is_limited: false,
        };
    }

    /// What becomes of the window after a round at this rate.
    fn judge(&mut self, now: Duration, rate: f64, is_unasked: bool) {
        let (best, best_doubled) = self.best;
        match self.full_at {
            _ if is_unasked => self.double(),
            Some(at) if now < at + TRY_AGAIN => {}
            Some(_) => {
                self.full_at = None;
                self.best = (rate, self.doubled);
                self.vain_rounds = 0;
                self.double();
            }
            None if rate > best * 1.25 => {
                self.best = (rate, self.doubled);
                self.vain_rounds = 0;
                self.double();
            }
            None => {
                self.vain_rounds += 1;
                if self.vain_rounds < VAIN_ROUNDS {
                    self.double();
                } else {
                    self.doubled = best_doubled;
                    self.full_at = Some(now);
                }
            }
        }
    }

    fn double(&mut self) {
        let (records, bytes) = self.window();
        if records < self.records_max || bytes < self.bytes_max {
            self.doubled += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD_BYTES: u64 = 300;

    /// What a window gives on a line after a while: it is filled, and confirmed a round trip later or as
    /// fast as the line is, whichever takes longer. The share of what the line could do, and the window.
    fn after(seconds: u64, round_trip: Duration, bytes_per_second: u64) -> (f64, u64) {
        let mut ramp = Ramp::new(Duration::ZERO, &Rules::default());
        let (mut now, mut bytes) = (Duration::ZERO, 0);
        let mut last = 0.0;
        while now < Duration::from_secs(seconds) {
            let (records_max, bytes_max) = ramp.window();
            let window = bytes_max.min(records_max * RECORD_BYTES);
            let at_line = Duration::from_secs_f64(window as f64 / bytes_per_second as f64);
            let took = round_trip.max(at_line);
            ramp.limited();
            now += took;
            ramp.confirmed(now, bytes + window, bytes + 2 * window);
            bytes += window;
            last = window as f64 / took.as_secs_f64() / bytes_per_second as f64;
        }
        (last, ramp.window().0)
    }

    #[test]
    fn the_window_is_as_large_as_the_line_needs() {
        let ms = Duration::from_millis;
        for (round_trip, bytes_per_second, records) in [
            (Duration::from_micros(100), 2_000_000_000, 2048..=2048),
            (ms(1), 125_000_000, 2048..=2048),
            (ms(10), 125_000_000, 4096..=8192),
            (ms(50), 50_000_000, 8192..=16_384),
        ] {
            for seconds in [2, 30] {
                let (share, window) = after(seconds, round_trip, bytes_per_second);
                let told = format!("{round_trip:?} {seconds} s: {share} with {window}");
                assert!(records.contains(&window), "{told}");
                assert!(share > 0.9, "{told}");
            }
        }
    }

    #[test]
    fn a_line_that_becomes_longer_is_found_out() {
        let mut ramp = Ramp::new(Duration::ZERO, &Rules::default());
        let (mut now, mut bytes) = (Duration::ZERO, 0);
        for round in 0..10_000 {
            let round_trip = if round < 2000 { 1 } else { 50 };
            let window = ramp.window().0 * RECORD_BYTES;
            ramp.limited();
            now += Duration::from_millis(round_trip);
            ramp.confirmed(now, bytes + window, bytes + 2 * window);
            bytes += window;
        }
        assert_eq!(ramp.window().0, 16_384);
    }

    #[test]
    fn i4_the_window_is_never_beyond_the_rules_and_stays_where_it_holds_nothing_back() {
        let rules = Rules {
            window_records_max: 5000,
            window_bytes_max: 90 * 1024,
            ..Rules::default()
        };
        let mut ramp = Ramp::new(Duration::ZERO, &rules);
        let first = ramp.window();
        assert_eq!(first, (RECORDS_MIN, BYTES_MIN));
        for round in 1..100 {
            ramp.confirmed(Duration::from_secs(round), round, round);
            assert_eq!(ramp.window(), first, "nothing waited for it");
        }
        for round in 100..200 {
            ramp.limited();
            ramp.confirmed(Duration::from_secs(round), round * round, round * round);
            let (records, bytes) = ramp.window();
            assert!(records <= 5000 && bytes <= 90 * 1024);
        }
    }
}

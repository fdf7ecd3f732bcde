//! How often an address may fail to show a good credential.
//!
//! Owns a bounded table of addresses. Slows nobody who shows a good one: behind one address may be a
//! whole office, or a proxy. Pure: the time is given. Called by `gate`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failures of an address in a window, after which it is told to wait.
const FAILURES_MAX: u32 = 20;
/// The window; an address is logged once in it.
const WINDOW: Duration = Duration::from_secs(60);
/// Most addresses that are remembered (I4); beyond, those that began first are forgotten.
const ADDRESSES_MAX: usize = 4096;

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The first of its window: worth a line in the log.
    First,
    /// One more.
    Again,
    /// Too many; the address is to wait so long.
    TooMany {
        /// Until its window is over.
        wait: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    failures: u32,
}

/// The addresses that failed lately.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    windows: HashMap<IpAddr, Window>,
}

impl Throttle {
    /// Notes a failure.
    pub(super) fn failed(&mut self, address: IpAddr, now: Instant) -> Failure {
        let key = network(address);
        if !self.windows.contains_key(&key) && self.windows.len() >= ADDRESSES_MAX {
            self.make_room(now);
        }
        let fresh = Window {
            began: now,
            failures: 0,
        };
        let window = self.windows.entry(key).or_insert(fresh);
        if now.duration_since(window.began) >= WINDOW {
            *window = fresh;
        }
        window.failures = window.failures.saturating_add(1);
        match window.failures {
            1 => Failure::First,
            failures if failures <= FAILURES_MAX => Failure::Again,
            _ => Failure::TooMany {
                wait: WINDOW.saturating_sub(now.duration_since(window.began)),
            },
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.windows
            .retain(|_, window| now.duration_since(window.began) < WINDOW);
        if self.windows.len() >= ADDRESSES_MAX {
            // A quarter at once, so that a flood of addresses costs little each.
            let mut began: Vec<Instant> =
                self.windows.values().map(|window| window.began).collect();
            began.sort_unstable();
            let cut = began[ADDRESSES_MAX / 4];
            self.windows.retain(|_, window| window.began > cut);
        }
    }
}

/// Whom an address stands for: an IPv6 network of 64 bits is one party's, addresses in it are free.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let high = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(high))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_logged_once_a_window_and_slowed_after_many() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        let one = address("192.0.2.1");
        assert_eq!(throttle.failed(one, now), Failure::First);
        for _ in 1..FAILURES_MAX {
            assert_eq!(throttle.failed(one, now), Failure::Again);
        }
        let later = now + Duration::from_secs(20);
        let wait = Duration::from_secs(40);
        assert_eq!(throttle.failed(one, later), Failure::TooMany { wait });
        assert_eq!(throttle.failed(address("192.0.2.2"), later), Failure::First);
        assert_eq!(throttle.failed(one, now + WINDOW), Failure::First);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        for host in 1..=FAILURES_MAX {
            throttle.failed(address(&format!("2001:db8::{host:x}")), now);
        }
        let more = throttle.failed(address("2001:db8::ffff"), now);
        assert!(matches!(more, Failure::TooMany { .. }));
        let mapped = throttle.failed(address("::ffff:192.0.2.1"), now);
        assert_eq!(mapped, Failure::First);
        assert_eq!(throttle.failed(address("192.0.2.1"), now), Failure::Again);
    }

    #[test]
    fn i4_the_table_of_addresses_is_bounded() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        for number in 0..3 * ADDRESSES_MAX as u32 {
            let address = IpAddr::V4(number.into());
            throttle.failed(address, now + Duration::from_millis(number.into()));
            assert!(throttle.windows.len() <= ADDRESSES_MAX);
        }
    }
}

//! When a connection, a peer or a record is given up, and when none of them is.

use super::*;

#[test]
fn a_connection_is_given_up_after_three_more_pings() {
    let mut bench = Bench::new(Rules {
        confirm_timeout: ms(400),
        ping_interval: Duration::ZERO,
        ..rules(10)
    });
    bench.open();
    bench.steps();
    let mut seen = Vec::new();
    loop {
        match bench.step() {
            Step::Wait(wait) => {
                let to = bench.session.position();
                bench.session.written(bench.now, to, true);
                bench.now = wait.until.expect("a deadline");
            }
            Step::Ping(_) => seen.push(bench.now.as_millis()),
            Step::Drop(why) => {
                assert_eq!(why, GivenUp::ConfirmTimeout);
                break;
            }
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(bench.now, ms(400));
    assert!(seen.ends_with(&[100, 200, 300]), "{seen:?}");
}

/// A line that is slow and moves: no deadline passes, however long one record takes. Once it is away the
/// deadline is as near as ever, and Pings that leave behind it do not put it off.
#[test]
fn i4_a_line_that_moves_is_not_given_up_and_one_that_stands_is() {
    for held_by_shell in [false, true] {
        let mut bench = Bench::new(Rules {
            confirm_timeout: ms(400),
            write_timeout: ms(400),
            ping_interval: ms(300),
            ..rules(1)
        });
        bench.open();
        let waits = |bench: &mut Bench, until: u64, moved: bool, all: bool| {
            while bench.now < ms(until) {
                bench.session.leaving(bench.now, moved, all);
                match bench.step() {
                    Step::Send(order) => {
                        let piece = order.cut(&bench.chunk);
                        bench.session.sent(bench.now, &bench.chunk, &piece);
                    }
                    Step::Ping(_) => {}
                    Step::Wait(wait) => {
                        if !held_by_shell || all {
                            let to = bench.session.position();
                            bench.session.written(bench.now, to, true);
                        }
                        bench.now = wait.until.expect("a deadline").min(ms(until));
                    }
                    Step::Drop(why) => return Some(why),
                    step => panic!("{step:?}"),
                }
            }
            None
        };
        assert_eq!(waits(&mut bench, 60_000, true, false), None);
        assert_eq!(waits(&mut bench, 60_001, true, true), None, "all is away");
        let end = waits(&mut bench, 70_000, true, true);
        assert!(
            matches!(end, Some(GivenUp::ConfirmTimeout | GivenUp::Silent)),
            "{end:?}"
        );
        assert!(bench.now <= ms(60_401), "{:?}", bench.now);
    }
}

/// A line that stands with bytes on this side is given up, whatever moved before.
#[test]
fn a_line_that_stops_moving_is_given_up_a_confirm_timeout_later() {
    let mut bench = Bench::new(Rules {
        confirm_timeout: ms(400),
        ping_interval: Duration::ZERO,
        ..rules(10)
    });
    bench.open();
    bench.steps();
    bench.now = ms(399);
    bench.session.leaving(bench.now, true, false);
    loop {
        match bench.step() {
            Step::Ping(_) => {}
            Step::Wait(wait) => {
                let to = bench.session.position();
                bench.session.written(bench.now, to, true);
                bench.now = wait.until.expect("a deadline");
                bench.session.leaving(bench.now, false, false);
            }
            Step::Drop(why) => {
                assert_eq!((why, bench.now), (GivenUp::ConfirmTimeout, ms(799)));
                return;
            }
            step => panic!("{step:?}"),
        }
    }
}

#[test]
fn a_kernel_that_takes_nothing_ends_the_connection() {
    let mut bench = Bench::new(Rules {
        write_timeout: ms(50),
        ..rules(10)
    });
    bench.open();
    let Step::Send(order) = bench.step() else {
        panic!("nothing to send");
    };
    let piece = order.cut(&bench.chunk);
    bench.session.sent(bench.now, &bench.chunk, &piece);
    bench.now = ms(50);
    assert_eq!(bench.step(), Step::Drop(GivenUp::WriteTimeout));
}

#[test]
fn an_idle_line_is_kept_alive_and_a_silent_peer_is_left() {
    let mut bench = Bench::new(Rules {
        ping_interval: ms(1000),
        confirm_timeout: ms(300),
        ..rules(10)
    });
    bench.marks = marks(0, false);
    bench.open();
    assert!(matches!(bench.step(), Step::Wait(wait) if wait.until == Some(ms(1000))));
    bench.now = ms(1000);
    let (_, pings) = bench.steps();
    bench.session.pong(bench.now, &pings[0]);
    bench.now = ms(2000);
    let (_, pings) = bench.steps();
    assert_eq!(pings.len(), 1);
    bench.now = ms(2300);
    assert_eq!(bench.step(), Step::Drop(GivenUp::Silent));
}

/// Pongs that nobody asked for are legal: beside them a slow peer has as many tries as a silent one.
#[test]
fn a_peer_is_refused_after_three_probes_whatever_other_pongs_came() {
    for other_pongs in [&[][..], &[&b""[..], b"keep-alive"], &[&[7; PING_BYTES]]] {
        let mut bench = Bench::new(rules(10));
        for connection in 1..=3 {
            bench.now += Duration::from_secs(60);
            assert!(matches!(bench.step(), Step::Dial { .. }));
            bench.session.connected(bench.now);
            bench.steps();
            for payload in other_pongs {
                bench.session.pong(bench.now, payload);
            }
            bench.now += PROBE_TIMEOUT_MAX;
            let wrong_pongs = other_pongs.len() as u32;
            let why = GivenUp::ProbeUnanswered { wrong_pongs };
            assert_eq!(bench.step(), Step::Drop(why), "connection {connection}");
        }
        let wrong_pongs = other_pongs.len() as u32;
        let failure = Failure::NoPongs { wrong_pongs };
        assert_eq!(bench.step(), Step::Fail(failure));
    }
}

#[test]
fn a_peer_whose_program_is_mute_convicts_no_record() {
    let rules = Rules {
        confirm: Confirm::Message,
        ..rules(8)
    };
    let mut bench = Bench::new(rules);
    for _ in 0..100 {
        bench.open();
        // Its stack answers every Ping; no message comes.
        loop {
            match bench.step() {
                Step::Send(order) => {
                    let piece = order.cut(&bench.chunk);
                    bench.session.sent(bench.now, &bench.chunk, &piece);
                }
                Step::Ping(payload) => {
                    bench.now += ms(1);
                    bench.session.pong(bench.now, &payload);
                }
                Step::Wait(wait) => {
                    let to = bench.session.position();
                    bench.session.written(bench.now, to, true);
                    bench.now = wait.until.expect("it does not wait for ever");
                }
                Step::Drop(why) => {
                    assert_eq!(why, GivenUp::ConfirmTimeout);
                    break;
                }
                step => panic!("{step:?}"),
            }
        }
        bench.now = bench.session.dials_at().expect("it dials again");
    }
    assert_eq!(bench.session.confirmed(), Position(0));
}

#[test]
fn breaks_before_the_probe_is_answered_say_nothing_about_a_record() {
    let mut bench = Bench::new(rules(100));
    bench.open();
    bench.steps();
    bench.break_and_wait();
    for _ in 0..20 {
        assert!(matches!(bench.step(), Step::Dial { .. }));
        bench.session.connected(bench.now);
        bench.step();
        bench.break_and_wait();
    }
    assert!(!bench.session.is_isolating());
}

/// Breaks with one record alone in flight, on connections that had answered the probe, until poison.
#[test]
fn only_a_record_alone_in_flight_at_three_breaks_is_poison() {
    let mut bench = Bench::new(rules(100));
    for _ in 0..2 {
        bench.open();
        bench.steps();
        assert!(bench.session.in_flight() > 1);
        bench.break_and_wait();
    }
    for alone in 1..=3 {
        bench.open();
        // The control: the connection must stand without the suspect, and answers once more.
        loop {
            let (spans, pings) = bench.steps();
            if !spans.is_empty() {
                assert_eq!(spans, [(0, 1)], "one record a Ping");
                assert_eq!(pings.len(), 1);
                break;
            }
            match pings.first() {
                Some(ping) => bench.session.pong(bench.now, ping),
                None => bench.now += ms(10),
            }
        }
        bench.now += ms(30);
        bench.session.broken(bench.now);
        if alone < 3 {
            bench.now = bench.session.dials_at().expect("not poison yet");
        }
    }
    let poison = Step::Poison {
        position: Position(0),
        breaks: 3,
    };
    assert_eq!(bench.step(), poison);
    assert!(matches!(bench.step(), Step::Wait(_)), "until it is settled");
    bench.session.settled(bench.now);
    assert_eq!(bench.session.confirmed(), Position(1));
    bench.open();
    let (spans, _) = bench.steps();
    assert_eq!(spans[0].0, 1);
    assert!(spans[0].1 > 1, "back to the usual");
}

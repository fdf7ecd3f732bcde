//! A peer that keeps its place: what it confirms, and when it is given up.

use super::*;

fn bench() -> Bench {
    Bench::new(Rules {
        confirm: Confirm::Place,
        ..rules(100)
    })
}

/// Dials and is connected; nothing goes out before the peer says where it is.
fn connect(bench: &mut Bench) {
    assert!(matches!(bench.step(), Step::Dial { .. }));
    bench.session.connected(bench.now);
    assert_eq!(bench.steps(), (vec![], vec![]));
}

#[test]
fn i1_a_place_confirms_what_is_before_it_and_is_where_it_goes_on() {
    let mut bench = bench();
    connect(&mut bench);
    // Beyond all that this session ever sent: an earlier one has.
    bench.session.subscribed(bench.now, Position(300));
    assert_eq!(bench.session.confirmed(), Position(300));
    let (spans, pings) = bench.steps();
    assert_eq!((spans[0].0, pings.len()), (300, 0));
    assert_eq!(bench.session.position(), Position(400), "a window");
    bench.session.counted(bench.now, 30);
    assert_eq!(bench.session.confirmed(), Position(330));
    // More than was sent is nonsense, and a second place on one connection means nothing.
    bench.session.counted(bench.now, 1000);
    bench.session.subscribed(bench.now, Position(390));
    assert_eq!(bench.session.confirmed(), Position(330));
    // It had more than it could say, and it comes back.
    bench.break_and_wait();
    connect(&mut bench);
    bench.session.subscribed(bench.now, Position(350));
    assert_eq!(bench.session.confirmed(), Position(350));
    assert_eq!(bench.steps().0[0].0, 350);
    assert_eq!(bench.session.account().resent, 50, "350 to 400");
    // It has less than it said: that is over.
    bench.break_and_wait();
    connect(&mut bench);
    bench.session.subscribed(bench.now, Position(10));
    assert_eq!(bench.steps().0[0].0, 350);
}

#[test]
fn i4_a_peer_that_never_says_where_it_is_is_left_and_in_the_end_refused() {
    let mut bench = bench();
    for connections in 1..=PROBES_UNANSWERED_MAX {
        connect(&mut bench);
        let connected = bench.now;
        match bench.step() {
            Step::Wait(wait) => bench.now = wait.until.expect("a deadline"),
            step => panic!("{step:?}"),
        }
        assert_eq!(bench.now, connected + SUBSCRIBE_TIMEOUT);
        assert!(bench.session.is_overdue(bench.now));
        assert_eq!(bench.step(), Step::Drop(GivenUp::NeverSubscribed));
        match bench.step() {
            Step::Wait(wait) => bench.now = wait.until.expect("a time to dial at"),
            step => {
                assert_eq!(step, Step::Fail(Failure::NoPlace));
                assert_eq!(connections, PROBES_UNANSWERED_MAX);
            }
        }
    }
}

#[test]
fn a_peer_that_talks_nonsense_is_dialled_again_if_it_ever_did_not() {
    let talk = |bench: &mut Bench| {
        bench.session.offended(bench.now);
        match bench.step() {
            Step::Wait(wait) => bench.now = wait.until.expect("a time to dial at"),
            step => return Some(step),
        }
        None
    };
    let mut stranger = bench();
    for _ in 1..PROBES_UNANSWERED_MAX {
        connect(&mut stranger);
        assert_eq!(talk(&mut stranger), None);
    }
    connect(&mut stranger);
    assert_eq!(talk(&mut stranger), Some(Step::Fail(Failure::NoPlace)));

    let mut friend = bench();
    for _ in 0..20 {
        connect(&mut friend);
        friend.session.subscribed(friend.now, Position(0));
        friend.steps();
        assert_eq!(talk(&mut friend), None);
        assert!(!friend.session.is_isolating(), "it convicts nobody");
    }
}

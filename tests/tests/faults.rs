//! Client mode: lines and peers that break, stall, drop what they took or refuse. Whatever happens,
//! nothing is lost, and no good record goes to the failover. Peers that are killed are in `kills.rs`.
//!
//! The receivers of Python and Node write each record to a file before they read on, so the file is
//! what was really received.

use std::net::SocketAddr;

use wirefall_tests::peers::{Language, Receiver};
use wirefall_tests::pushing::{
    RECORDS, all_delivered, nothing_is_lost, push, push_with, receive, received, wait_for_record,
};
use wirefall_tests::records::{all_there, first_times, numbered};
use wirefall_tests::{Fault, Folder, Process, Proxy, numbers, wait_until};

const LANGUAGES: [Language; 2] = [Language::Python, Language::Node];

/// Breaks the line to a peer in mid-run, so many times, each time for as long as `lifted` says.
fn breaks(
    folder: &Folder,
    (address, ack): (SocketAddr, &str),
    (fault, rounds): (Fault, u64),
    lifted: impl Fn(&Proxy, &mut Process),
) {
    let proxy = Proxy::start(address);
    let mut run = push(folder, proxy.address(), RECORDS, &[ack]);
    for round in 1..=rounds {
        wait_for_record(folder, &mut run, RECORDS * round / (rounds + 2));
        proxy.fault(fault);
        lifted(&proxy, &mut run);
        proxy.fault(Fault::None);
    }
    let ended = run.wait();
    if fault != Fault::Delay {
        assert!(ended.account("reconnects") >= 1, "{}", ended.stderr);
    }
    // A peer of others may answer the Ping behind the last record before it has written it.
    wait_until("the last record at the peer", || {
        received(folder).contains(&(RECORDS - 1))
    });
    let again = ended.account_or_none("sent again");
    let twice = nothing_is_lost(ended, folder);
    // Each copy that was told went out, or died in a buffer of ours; each that came has been here.
    let [frames, _] = proxy.frames();
    let possible = RECORDS + twice..=RECORDS + again;
    assert!(possible.contains(&frames), "{frames} of {possible:?}");
}

/// Five times with `receive`, which handles a record before it reads on; and with peers of others, by
/// their replies and by their Pongs. Nobody is killed, so a stack gives what it has taken to its
/// program, and with Pongs nothing is lost either.
fn a_fault_loses_nothing(fault: Fault, lifted: impl Fn(&Proxy, &mut Process)) {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &[]);
    breaks(&folder, (address, "ack: pong"), (fault, 5), &lifted);
    for language in LANGUAGES {
        for (ack, words) in [("ack: message", &["reply"][..]), ("ack: pong", &[])] {
            let folder = Folder::new();
            let test = format!("a_fault_loses_nothing ({fault:?}, {language:?}, {ack})");
            let out = folder.path("out.ndjson");
            let Some(peer) = Receiver::start(&test, language, &out, words) else {
                continue;
            };
            breaks(&folder, (peer.address, ack), (fault, 2), &lifted);
        }
    }
}

/// Waits until Wirefall has dialled so often again, or has everything delivered all the same.
fn dials(times: u64) -> impl Fn(&Proxy, &mut Process) {
    move |proxy, run| {
        let until = proxy.accepted() + times;
        wait_until("another connection", || {
            proxy.accepted() >= until || !run.is_running()
        });
    }
}

#[test]
fn i1_resets_lose_nothing() {
    a_fault_loses_nothing(Fault::Reset, dials(3));
}

#[test]
fn i1_ends_of_the_connection_lose_nothing() {
    a_fault_loses_nothing(Fault::Close, dials(3));
}

#[test]
fn i1_a_stalled_line_loses_nothing() {
    a_fault_loses_nothing(Fault::Stall, dials(1));
}

#[test]
fn i1_a_line_that_drops_everything_loses_nothing() {
    a_fault_loses_nothing(Fault::HalfOpen, dials(1));
}

#[test]
fn i1_a_gateway_that_is_unavailable_for_a_while_loses_nothing() {
    a_fault_loses_nothing(Fault::Unavailable, dials(3));
}

#[test]
fn i1_a_slow_line_loses_nothing() {
    a_fault_loses_nothing(Fault::Delay, |proxy, run| {
        let until = proxy.passed() + 100_000;
        wait_until("bytes through the proxy", || {
            proxy.passed() >= until || !run.is_running()
        });
    });
}

/// What goes out on a line that loses all answers comes twice; on a line that loses everything, it is
/// lost: nothing else is told as sent again, and not a record less (I2).
#[test]
fn i2_what_is_told_as_sent_again_is_what_went_out_again() {
    for fault in [Fault::Mute, Fault::HalfOpen] {
        let folder = Folder::new();
        let (_receiver, address) = receive(&folder, &[]);
        let proxy = Proxy::start(address);
        let mut run = push(&folder, proxy.address(), RECORDS, &[]);
        for round in 1..=2 {
            wait_for_record(&folder, &mut run, RECORDS * round / 4);
            proxy.fault(fault);
            dials(1)(&proxy, &mut run);
            proxy.fault(Fault::None);
        }
        let ended = all_delivered(run.wait(), RECORDS);
        let again = ended.account("sent again");
        let twice = all_there(&received(&folder), RECORDS);
        let [frames, lost] = proxy.frames();
        assert_eq!(frames, RECORDS + again, "{fault:?}: each was counted");
        assert_eq!(again, twice + lost, "{fault:?}: where they are");
        let told = if fault == Fault::Mute { twice } else { lost };
        assert!(told > 0, "{fault:?} has come in mid-run");
    }
}

const EVERY: u64 = 4000;
/// Breaks of one run; behind the last record nothing may be left to send.
const BREAKS_MIN: u64 = RECORDS / EVERY - 1;

/// The breaks that `receive` makes itself; returns how many records came twice of each kind.
fn the_list_of_breaks(flags: &[&str], sink: &[&str]) -> [(&'static str, u64); 5] {
    ["reset", "close", "stall", "half-open", "refuse-503"].map(|how| {
        let folder = Folder::new();
        let every = EVERY.to_string();
        let breaks = ["--break-every", &every, "--break-how", how];
        let (_receiver, address) = receive(&folder, &[&breaks, flags].concat());
        let ended = push(&folder, address, RECORDS, sink).wait();
        let reconnects = ended.account("reconnects");
        assert!(reconnects >= BREAKS_MIN, "{how}: {}", ended.stderr);
        (how, nothing_is_lost(ended, &folder))
    })
}

/// The record at which `receive` breaks is handled, and no Ping behind it is answered: so each break
/// sends at least that one again.
#[test]
fn i1_the_list_of_breaks_of_receive_itself() {
    for (how, twice) in the_list_of_breaks(&[], &[]) {
        assert!(twice >= BREAKS_MIN, "{how}: {twice} came twice");
    }
}

/// Here the record at which it breaks is answered: nothing that was answered comes again, but where an
/// RST takes the answers with it.
#[test]
fn i1_the_list_of_breaks_of_receive_when_it_replies() {
    let ack = "ack: { message: { pointer: /received } }";
    for (how, twice) in the_list_of_breaks(&["--ack", "message"], &[ack]) {
        if ["close", "stall", "half-open"].contains(&how) {
            assert_eq!(twice, 0, "{how}");
        }
    }
}

/// A slow peer is waited for: nothing is given up, and nothing comes twice.
#[test]
fn i1_a_slow_receiver_gets_everything_once() {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &["--slow", "1ms"]);
    let ended = all_delivered(push_with(&folder, address, 1000, &[], &[]).wait(), 1000);
    assert_eq!(ended.account_or_none("reconnects"), 0, "{}", ended.stderr);
    assert_eq!(ended.account_or_none("sent again"), 0, "{}", ended.stderr);
    assert!(received(&folder).into_iter().eq(0..1000));
}

/// A record at which the peer breaks is found, goes to the failover with its reason, and costs no other.
#[test]
fn i1_a_record_that_breaks_its_peer_goes_to_the_failover_and_the_rest_arrives() {
    const RECORDS: u64 = 2000;
    const POISON: u64 = 1234;
    /// What a fresh connection may have in flight before a first confirmation.
    const RAMP: u64 = 256;
    let impatient = ["confirm_timeout: 500ms", "write_timeout: 500ms"];
    for how in ["reset", "close", "stall", "half-open"] {
        let folder = Folder::new();
        let breaks = ["--break-on", "{\"n\":1234,", "--break-how", how];
        let (_receiver, address) = receive(&folder, &breaks);
        let run = push_with(&folder, address, RECORDS, &[], &impatient);
        let ended = run.wait().expect(0);
        assert_eq!(ended.account("delivered"), RECORDS - 1, "{}", ended.stderr);
        assert_eq!(ended.account("failed over"), 1, "{}", ended.stderr);
        let failed = folder.read("failover.ndjson");
        let failed: serde_json::Value = serde_json::from_str(&failed).expect("one line of JSON");
        assert_eq!(failed["record"], numbered(POISON));
        assert_eq!(failed["stage"], "deliver");
        let reason = failed["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("alone in flight"), "{reason}");
        let seen = numbers(&folder.read("out.ndjson"));
        let rest = (0..RECORDS).filter(|number| *number != POISON);
        assert!(first_times(&seen).into_iter().eq(rest), "{how}: in order");
        let twice = seen.len() as u64 - (RECORDS - 1);
        let again = ended.account("sent again");
        // Besides what came twice: the offender at each break but the first, and what went out with it.
        let breaks = ended.account("reconnects");
        let possible = twice + 1..=twice + breaks * RAMP;
        assert!(possible.contains(&again), "{how}: {again} of {possible:?}");
    }
}

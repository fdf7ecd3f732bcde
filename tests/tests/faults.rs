//! Client mode: peers and lines that break, are killed, stall or drop what they took. Whatever
//! happens, nothing is lost, and no good record goes to the failover.
//!
//! The receivers of Python and Node write each record to a file before they read on, so the file is
//! what was really received.

use std::net::SocketAddr;

use wirefall_tests::peers::{Language, Receiver, free_address};
use wirefall_tests::process::Ended;
use wirefall_tests::pushing::{
    RECORDS, RSS_KIB_MAX, all_delivered, push, push_with, receive, received, wait_for_records,
};
use wirefall_tests::records::{all_there, first_times, missing, numbered};
use wirefall_tests::{Fault, Folder, Process, Proxy, numbers, wait_until, wirefall};

const LANGUAGES: [Language; 2] = [Language::Python, Language::Node];

/// How far the run is: what was sent again says nothing about that, so the furthest record does.
fn wait_for_part(folder: &Folder, run: &mut Process, part: u64, of: u64) {
    wait_until("a part of the records", || {
        let furthest = received(folder).into_iter().max();
        furthest >= Some(RECORDS * part / of) || !run.is_running()
    });
}

/// All is delivered and there, and the account tells no fewer that were sent again than came twice (a
/// record can be sent and not arrive, but not the other way round). Returns how many came twice.
#[track_caller]
fn nothing_is_lost(ended: Ended, folder: &Folder) -> u64 {
    let ended = all_delivered(ended, RECORDS);
    let twice = all_there(&received(folder), RECORDS);
    let again = ended.account_or_none("sent again");
    assert!(again >= twice, "{twice} came twice: {}", ended.stderr);
    twice
}

/// Kills a foreign peer in mid-run, so many times, each time once it has so much more. Returns the run
/// and what the peer had handled at most at each kill.
fn kill(folder: &Folder, receiver: &mut Receiver, kills: u64, ack: &str) -> (Process, Vec<u64>) {
    let mut run = push(folder, receiver.address, RECORDS, &[ack]);
    let mut handled = Vec::new();
    for kill in 1..=kills {
        wait_for_part(folder, &mut run, kill, kills + 1);
        receiver.kill();
        handled.extend(received(folder).into_iter().max());
        receiver.restart();
        assert!(run.rss_kib() < RSS_KIB_MAX, "{} KiB", run.rss_kib());
    }
    (run, handled)
}

#[test]
fn i1_ten_kills_of_a_peer_that_answers_each_record_lose_nothing() {
    for language in LANGUAGES {
        let folder = Folder::new();
        let test = format!("ten_kills_of_a_peer_that_answers ({language:?})");
        let out = folder.path("out.ndjson");
        let Some(mut receiver) = Receiver::start(&test, language, &out, &["reply"]) else {
            continue;
        };
        let (run, _) = kill(&folder, &mut receiver, 10, "ack: message");
        nothing_is_lost(run.wait(), &folder);
    }
}

/// Node's `ws` gives a message to the program before it looks at the next frame, a Ping included, and
/// the program has written it when it returns: so its Pong means handled, and nothing at all is lost.
#[test]
fn i1_ten_kills_of_a_node_peer_that_only_answers_pings_lose_nothing() {
    let folder = Folder::new();
    let test = "ten_kills_of_a_node_peer_with_pongs";
    let out = folder.path("out.ndjson");
    let Some(mut receiver) = Receiver::start(test, Language::Node, &out, &[]) else {
        return;
    };
    let (run, _) = kill(&folder, &mut receiver, 10, "ack: pong");
    nothing_is_lost(run.wait(), &folder);
}

/// Python's `websockets` answers the Pings of what it has read at once, and gives the messages before
/// them to the program later. A kill in between loses what the stack had taken and the program had
/// not: that is the line that `ack: pong` draws. So a gap begins right behind the last record that was
/// handled before a kill, and is no longer than what the stack reads at once; anywhere else, and
/// anything longer, would be ours.
#[test]
fn i1_ten_kills_of_a_python_peer_lose_only_what_its_stack_had_confirmed() {
    /// What asyncio reads at once, in records (of more than 100 bytes with their frame), and the
    /// messages that `websockets` queues before it stops reading.
    const TAKEN_MAX: u64 = 256 * 1024 / 100 + 16;
    let folder = Folder::new();
    let test = "ten_kills_of_a_python_peer_with_pongs";
    let out = folder.path("out.ndjson");
    let Some(mut receiver) = Receiver::start(test, Language::Python, &out, &[]) else {
        return;
    };
    let (run, handled) = kill(&folder, &mut receiver, 10, "ack: pong");
    all_delivered(run.wait(), RECORDS);
    // What is confirmed last may still be on its way from the stack to the program.
    wait_until("the last record", || {
        received(&folder).contains(&(RECORDS - 1))
    });
    let seen = received(&folder);
    let order = first_times(&seen);
    assert!(order.is_sorted(), "in the order of the source (I3)");
    for gap in missing(&seen, RECORDS) {
        let behind_a_kill = handled.iter().any(|last| last + 1 == gap.start);
        assert!(behind_a_kill, "{gap:?} is missing; handled: {handled:?}");
        assert!(gap.end - gap.start <= TAKEN_MAX, "{gap:?} is missing");
    }
}

/// The README's promise: kill and restart the receiver as often as you like. It handles a record before
/// it reads on, so nothing at all is lost with `pong`, the account says what was sent twice, and ten
/// kills convict no record.
#[test]
fn i1_a_receiver_killed_and_restarted_ten_times_loses_nothing() {
    const KILLS: u64 = 10;
    let folder = Folder::new();
    let address = free_address();
    let out = folder.path("out.ndjson");
    let start = || {
        let address = address.to_string();
        let mut receiver = wirefall(["receive", &address, "--out", out.to_str().expect("UTF-8")]);
        receiver.wait_for_line("receiving on ");
        receiver
    };
    let mut receiver = start();
    let run = push(&folder, address, RECORDS, &["ack: pong"]);
    for kill in 1..=KILLS {
        wait_for_records(&folder, (kill * RECORDS / (KILLS + 2)) as usize);
        receiver.kill();
        receiver = start();
    }
    let ended = all_delivered(run.wait(), RECORDS);
    assert_eq!(folder.read("failover.ndjson"), "");
    // What a kill cut in two was not confirmed: it came again, behind its first part.
    let text = folder.read("out.ndjson");
    let last = |line: &str| line.rfind("{\"n\":").map(|start| line[start..].to_owned());
    let lines: Vec<String> = text.lines().filter_map(last).collect();
    let once: std::collections::BTreeSet<&String> = lines.iter().collect();
    assert_eq!(once.len() as u64, RECORDS);
    let twice = lines.len() - once.len();
    let again = ended.account("sent again");
    assert!(again >= twice as u64, "{twice} came twice, {again} told");
}

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
        wait_for_part(folder, &mut run, round, rounds + 2);
        proxy.fault(fault);
        lifted(&proxy, &mut run);
        proxy.fault(Fault::None);
        assert!(run.rss_kib() < RSS_KIB_MAX, "{} KiB", run.rss_kib());
    }
    let ended = run.wait();
    if fault != Fault::Delay {
        assert!(ended.account("reconnects") >= 1, "{}", ended.stderr);
    }
    nothing_is_lost(ended, folder);
}

/// Five times with `receive`, which handles a record before it reads on, so nothing is lost with Pongs
/// either; and with peers of others, whose replies are what tells that a record is handled.
fn a_fault_loses_nothing(fault: Fault, lifted: impl Fn(&Proxy, &mut Process)) {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &[]);
    breaks(&folder, (address, "ack: pong"), (fault, 5), &lifted);
    for language in LANGUAGES {
        let folder = Folder::new();
        let test = format!("a_fault_loses_nothing ({fault:?}, {language:?})");
        let out = folder.path("out.ndjson");
        let Some(peer) = Receiver::start(&test, language, &out, &["reply"]) else {
            continue;
        };
        breaks(&folder, (peer.address, "ack: message"), (fault, 2), &lifted);
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

/// The record at which `receive` breaks is handled, and no Ping behind it is answered: so each break
/// sends at least that one again.
#[test]
fn i1_the_list_of_breaks_of_receive_itself() {
    const EVERY: u64 = 4000;
    for how in ["reset", "close", "stall", "refuse-503"] {
        let folder = Folder::new();
        let every = EVERY.to_string();
        let breaks = ["--break-every", &every, "--break-how", how];
        let (_receiver, address) = receive(&folder, &breaks);
        let ended = push(&folder, address, RECORDS, &[]).wait();
        // At the last record there may be nothing left to send again.
        let least = RECORDS / EVERY - 1;
        assert!(ended.account("reconnects") >= least, "{}", ended.stderr);
        let twice = nothing_is_lost(ended, &folder);
        assert!(twice >= least, "{how}: {twice} came twice");
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
    let impatient = ["confirm_timeout: 500ms", "write_timeout: 500ms"];
    for how in ["reset", "close", "stall"] {
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
        let twice = (seen.len() as u64).saturating_sub(RECORDS - 1);
        let again = ended.account("sent again");
        assert!(again >= twice, "{twice} came twice, {again} told");
    }
}

//! Client mode: peers, and what stands before them, that are killed in mid-run and come back. Nothing is
//! lost but what a peer's stack had confirmed and its program had not handled, and no good record goes
//! to the failover.
//!
//! The receivers of Python and Node write each message to a file before they read on, so the file is
//! what was really received.

use std::net::SocketAddr;

use wirefall_tests::peers::{Language, Nginx, Receiver, certificate, free_address};
use wirefall_tests::process::Ended;
use wirefall_tests::pushing::{
    RECORDS, WINDOW, all_delivered, nothing_is_lost, push, push_fed, receive, received,
    sent_again_is_told, wait_for_record,
};
use wirefall_tests::records::{all_there, first_times, lines, missing, whole};
use wirefall_tests::{Folder, Process, wait_until, wirefall};

/// A peer's program answers each message, or its stack answers Pings.
const REPLIES: (&str, &[&str]) = ("ack: message", &["reply"]);
const PONGS: (&str, &[&str]) = ("ack: pong", &[]);

/// A foreign peer that confirms so, and its folder. `None`: not here.
fn peer(test: &str, language: Language, words: &[&str]) -> Option<(Folder, Receiver)> {
    let folder = Folder::new();
    let test = format!("{test} ({language:?})");
    let peer = Receiver::start(&test, language, &folder.path("out.ndjson"), words)?;
    Some((folder, peer))
}

/// Kills what `restart` restarts, so many times, each time once the peer has so much, and something since
/// the last kill. `restart` returns what had been written when all was dead: the next process may write
/// before anybody looks. Returns what the peer had handled at most at each kill.
fn kill(
    folder: &Folder,
    run: &mut Process,
    kills: u64,
    mut restart: impl FnMut() -> String,
) -> Vec<u64> {
    let mut handled = Vec::new();
    let mut bytes = 0;
    for kill in 1..=kills {
        // At the last one more is left than a peer's stack takes: none comes when all is confirmed.
        wait_for_record(folder, run, RECORDS * kill / (kills + 2));
        wait_until("something since the last kill", || {
            folder.read("out.ndjson").len() > bytes || !run.is_running()
        });
        let text = restart();
        bytes = text.len();
        handled.extend(whole(&text).into_iter().max());
    }
    handled
}

/// Kills a peer and starts it again; what it had written.
fn restart(folder: &Folder, peer: &mut Receiver) -> String {
    peer.kill();
    let text = folder.read("out.ndjson");
    peer.restart();
    text
}

/// Python's `websockets` answers the Pings of what it has read at once, and gives the messages before
/// them to the program later. A kill in between loses what the stack had taken and the program had
/// not: that is the line that `ack: pong` draws. So a gap begins right behind the last record that was
/// handled before a kill, and is no longer than what the stack reads at once; anywhere else, and
/// anything longer, would be ours.
#[track_caller]
fn only_what_the_stack_had_confirmed_is_lost(ended: Ended, folder: &Folder, handled: &[u64]) {
    /// What asyncio reads at once, in records (of more than 100 bytes with their frame), and the
    /// messages that `websockets` queues before it stops reading.
    const TAKEN_MAX: u64 = 256 * 1024 / 100 + 16;
    // Neither the window nor the end of the records is what bounds a gap.
    const { assert!(TAKEN_MAX < WINDOW && TAKEN_MAX < RECORDS * 2 / 12) };
    all_delivered(ended, RECORDS);
    // What is confirmed last may still be on its way from the stack to the program.
    wait_until("the last record", || {
        received(folder).contains(&(RECORDS - 1))
    });
    let seen = received(folder);
    assert!(first_times(&seen).is_sorted(), "in the source's order (I3)");
    for gap in missing(&seen, RECORDS) {
        let behind_a_kill = handled.iter().any(|last| last + 1 == gap.start);
        assert!(behind_a_kill, "{gap:?} is missing; handled: {handled:?}");
        assert!(gap.end - gap.start <= TAKEN_MAX, "{gap:?} is missing");
    }
}

/// A foreign peer that is killed in mid-run, with what a kill of such a peer may cost.
fn kills_of_a_peer(test: &str, language: Language, (ack, words): (&str, &[&str])) {
    let Some((folder, mut peer)) = peer(test, language, words) else {
        return;
    };
    let mut run = push(&folder, peer.address, RECORDS, &[ack]);
    let handled = kill(&folder, &mut run, 10, || restart(&folder, &mut peer));
    if (language, ack) == (Language::Python, PONGS.0) {
        only_what_the_stack_had_confirmed_is_lost(run.wait(), &folder, &handled);
    } else {
        nothing_is_lost(run.wait(), &folder);
    }
}

#[test]
fn i1_ten_kills_of_a_peer_that_answers_each_record_lose_nothing() {
    for language in [Language::Python, Language::Node] {
        kills_of_a_peer("ten_kills_of_a_peer_that_answers", language, REPLIES);
    }
}

/// Node's `ws` gives a message to the program before it looks at the next frame, a Ping included, and
/// the program has written it when it returns: so its Pong means handled, and nothing at all is lost.
#[test]
fn i1_ten_kills_of_a_node_peer_that_only_answers_pings_lose_nothing() {
    kills_of_a_peer("ten_kills_of_a_node_peer", Language::Node, PONGS);
}

#[test]
fn i1_ten_kills_of_a_python_peer_lose_only_what_its_stack_had_confirmed() {
    kills_of_a_peer("ten_kills_of_a_python_peer", Language::Python, PONGS);
}

/// Several records a message, or each in an envelope: the peer writes whole messages, and in what it has
/// at the end each record is whole. Each kill comes at the first record of the next part, so that
/// messages of many records cannot outrun it.
fn kills_lose_nothing_framed(framing: &str) {
    let peers = [
        (Language::Node, 10, REPLIES),
        (Language::Node, 10, PONGS),
        (Language::Python, 5, REPLIES),
    ];
    for (language, kills, (ack, words)) in peers {
        let test = format!("kills_lose_nothing_framed ({framing}, {ack})");
        let Some((folder, mut peer)) = peer(&test, language, words) else {
            continue;
        };
        let mut run = push_fed(&folder, peer.address, &[ack, framing]);
        let part = RECORDS / (kills + 1);
        for kill in 0..kills {
            assert!(run.write(lines(kill * part..(kill + 1) * part).as_bytes()));
            wait_for_record(&folder, &mut run, kill * part);
            peer.restart();
        }
        assert!(run.write(lines(kills * part..RECORDS).as_bytes()));
        run.close_stdin();
        let ended = all_delivered(run.wait(), RECORDS);
        assert!(ended.account("reconnects") >= kills, "{}", ended.stderr);
        let text = folder.read("out.ndjson");
        sent_again_is_told(&ended, all_there(&whole(&text), RECORDS));
        // What a kill cut in two stands before the message that came next.
        let is_message = |line: &&str| is_framed(line, framing);
        let torn = text.lines().filter(|line| !is_message(line)).count();
        assert!(torn as u64 <= kills, "{torn} lines are no {framing}");
    }
}

/// Whether a line of the file is a message of this framing, or a line of one.
fn is_framed(line: &str, framing: &str) -> bool {
    let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
    value.is_some_and(|value| match framing {
        "framing: json-array" => value.as_array().is_some_and(|records| !records.is_empty()),
        "envelope: true" => value["data"]["n"].is_u64() && value["id"].is_string(),
        _ => value["n"].is_u64(),
    })
}

#[test]
fn i1_kills_lose_nothing_of_ndjson_messages() {
    kills_lose_nothing_framed("framing: ndjson");
}

#[test]
fn i1_kills_lose_nothing_of_json_arrays() {
    kills_lose_nothing_framed("framing: json-array");
}

#[test]
fn i1_kills_lose_nothing_of_envelopes() {
    kills_lose_nothing_framed("envelope: true");
}

/// An nginx between, and the peer behind it or the nginx itself killed.
fn kills_at_nginx_lose_nothing(
    test: &str,
    start: fn(&str, SocketAddr) -> Option<Nginx>,
    (language, (ack, words)): (Language, (&str, &[&str])),
    more: &[&str],
) {
    for of_nginx in [false, true] {
        let Some((folder, mut peer)) = peer(test, language, words) else {
            return;
        };
        let Some(mut nginx) = start(test, peer.address) else {
            return;
        };
        let sink = [&[ack], more].concat();
        let mut run = push(&folder, nginx.address, RECORDS, &sink);
        let handled = kill(&folder, &mut run, 3, || match of_nginx {
            true => {
                nginx.restart();
                folder.read("out.ndjson")
            }
            false => restart(&folder, &mut peer),
        });
        let stack = (language, ack) == (Language::Python, PONGS.0);
        match (stack, of_nginx) {
            (true, false) => {
                only_what_the_stack_had_confirmed_is_lost(run.wait(), &folder, &handled);
            }
            // Who is not killed gives its program what it has taken.
            (true, true) => only_what_the_stack_had_confirmed_is_lost(run.wait(), &folder, &[]),
            (false, _) => {
                nothing_is_lost(run.wait(), &folder);
            }
        }
    }
}

#[test]
fn i1_through_nginx_kills_lose_nothing() {
    for language in [Language::Python, Language::Node] {
        for confirms in [REPLIES, PONGS] {
            let test = format!("through_nginx_kills_lose_nothing ({})", confirms.0);
            kills_at_nginx_lose_nothing(&test, Nginx::start, (language, confirms), &[]);
        }
    }
}

#[test]
fn i1_through_tls_kills_lose_nothing() {
    let test = "through_tls_kills_lose_nothing";
    let tls = format!("tls: {{ ca: {} }}", certificate().display());
    let peer = (Language::Python, REPLIES);
    kills_at_nginx_lose_nothing(test, Nginx::start_tls, peer, &[&tls]);
}

/// An nginx is told to read its configuration again while a push goes through it: its old workers cut what
/// they have. So it does under TLS.
#[test]
fn i1_pongs_through_an_nginx_that_is_reloaded_lose_nothing() {
    let test = "pongs_through_an_nginx_that_is_reloaded";
    let tls = format!("tls: {{ ca: {} }}", certificate().display());
    type Start = fn(&str, SocketAddr) -> Option<Nginx>;
    let ways: [(Start, Vec<&str>); 2] = [
        (Nginx::start, vec!["ack: pong"]),
        (Nginx::start_tls, vec!["ack: pong", &tls]),
    ];
    for (start, sink) in ways {
        let folder = Folder::new();
        let (_receiver, address) = receive(&folder, &[]);
        let Some(nginx) = start(test, address) else {
            return;
        };
        let mut nginx = nginx.with_workers();
        let mut run = push(&folder, nginx.address, RECORDS, &sink);
        let mut kills = 0;
        kill(&folder, &mut run, 4, || {
            kills += 1;
            match kills % 2 {
                0 => nginx.restart(),
                _ => nginx.reload(),
            }
            folder.read("out.ndjson")
        });
        let ended = run.wait();
        assert!(ended.account("reconnects") >= 4, "{}", ended.stderr);
        nothing_is_lost(ended, &folder);
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
    let mut receiver = Some(start());
    let mut run = push(&folder, address, RECORDS, &["ack: pong"]);
    kill(&folder, &mut run, KILLS, || {
        receiver.take().expect("one runs").kill();
        let text = folder.read("out.ndjson");
        receiver = Some(start());
        text
    });
    let ended = all_delivered(run.wait(), RECORDS);
    assert_eq!(folder.read("failover.ndjson"), "");
    // What a kill cut in two was not confirmed: it came again, behind its first part.
    let twice = all_there(&whole(&folder.read("out.ndjson")), RECORDS);
    sent_again_is_told(&ended, twice);
}

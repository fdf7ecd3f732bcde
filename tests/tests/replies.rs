//! Client mode, what the peer says: replies that name records, and messages nobody asked for.

use wirefall_tests::Folder;
use wirefall_tests::peers::{Language, Receiver};
use wirefall_tests::pushing::{RECORDS, all_delivered, push, receive, received, wait_for_records};
use wirefall_tests::records::all_there;

const LANGUAGES: [Language; 2] = [Language::Python, Language::Node];

/// A foreign peer that answers as `words` say.
fn peer(test: &str, language: Language, folder: &Folder, words: &[&str]) -> Option<Receiver> {
    let test = format!("{test} ({language:?})");
    Receiver::start(&test, language, &folder.path("out.ndjson"), words)
}

/// `{"ack": 17}` confirms the record whose `n` is 17, and all before it; what the peer says beside it
/// confirms nothing, or the kills would lose records.
#[test]
fn i1_replies_that_name_a_record_confirm_it() {
    let ack = "ack: { message: { pointer: /ack, id: /n } }";
    for language in LANGUAGES {
        let folder = Folder::new();
        let Some(mut peer) = peer("replies_that_name", language, &folder, &["id"]) else {
            continue;
        };
        let run = push(&folder, peer.address, RECORDS, &[ack]);
        for kill in 1..=3 {
            wait_for_records(&folder, RECORDS as usize * kill / 5);
            peer.restart();
        }
        let ended = all_delivered(run.wait(), RECORDS);
        assert!(ended.account("reconnects") >= 3, "{}", ended.stderr);
        all_there(&received(&folder), RECORDS);
    }
}

/// The replies of `receive` count: `{"received": 120}`.
#[test]
fn i1_replies_that_count_confirm() {
    let folder = Folder::new();
    let breaks = ["--ack", "message", "--break-every", "3000"];
    let (_receiver, address) = receive(&folder, &breaks);
    let ack = "ack: { message: { pointer: /received } }";
    all_delivered(push(&folder, address, RECORDS, &[ack]).wait(), RECORDS);
    all_there(&received(&folder), RECORDS);
}

/// A message beyond `message_max` ends the connection with a word that names the key; what is
/// unconfirmed is sent again, however often the peer does it.
#[test]
fn i1_a_message_that_is_too_long_breaks_the_connection_and_loses_nothing() {
    for language in LANGUAGES {
        let folder = Folder::new();
        let words = ["reply", "say=3000,2000000"];
        let Some(peer) = peer("a_message_that_is_too_long", language, &folder, &words) else {
            continue;
        };
        let run = push(&folder, peer.address, RECORDS, &["ack: message"]);
        let ended = all_delivered(run.wait(), RECORDS);
        assert!(ended.account("reconnects") >= 5, "{}", ended.stderr);
        let said = "the peer sent a message of 2000000 bytes; the bound is 1048576 (`message_max`)";
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
        all_there(&received(&folder), RECORDS);
    }
}

/// With `ack: pong` what the peer says means nothing: it is read and dropped, so that its Pongs behind
/// it are found, and memory does not grow with it.
#[test]
fn i4_messages_that_nobody_asked_for_are_drained() {
    for language in LANGUAGES {
        let folder = Folder::new();
        // 100 MB in all.
        let words = ["say=200,1000000"];
        let Some(peer) = peer("messages_that_nobody_asked_for", language, &folder, &words) else {
            continue;
        };
        let run = push(&folder, peer.address, RECORDS, &["ack: pong"]);
        let ended = all_delivered(run.wait(), RECORDS);
        assert_eq!(ended.account_or_none("reconnects"), 0, "{}", ended.stderr);
        wait_for_records(&folder, RECORDS as usize);
        assert_eq!(all_there(&received(&folder), RECORDS), 0, "nothing twice");
    }
}

//! Posts that come again with the key that they had.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use wirefall_tests::peers::free_address;
use wirefall_tests::pipelines::start;
use wirefall_tests::tiny::Tiny;
use wirefall_tests::{Folder, PATIENCE, Signal, pipelines, wirefall};

/// A pipeline that is posted to at one address and publishes at another.
fn posted(folder: &Folder, at: SocketAddr, journal: &str) {
    let config = [format!("listen: {at}")];
    let sink = [format!("listen: {}", free_address())];
    pipelines::pipeline(folder, "http", &config, &sink, journal);
}

/// Posts numbers, each with a key of its own, over one connection; gives all answers.
fn post(at: SocketAddr, numbers: Range<u64>) -> String {
    let mut stream = TcpStream::connect(at).expect("a port");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut writer = stream.try_clone().expect("a socket can be cloned");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in numbers.clone() {
                let (body, last) = (format!("{{\"n\":{n}}}"), n + 1 == numbers.end);
                let close = if last { "Connection: close\r\n" } else { "" };
                let length = body.len();
                let request = format!(
                    "POST /v1/ingest/test HTTP/1.1\r\nHost: {at}\r\nContent-Type: text/plain\r\n\
                     Idempotency-Key: of {n}\r\n{close}Content-Length: {length}\r\n\r\n{body}"
                );
                writer.write_all(request.as_bytes()).expect("sent");
            }
        });
        let mut answers = String::new();
        stream.read_to_string(&mut answers).expect("answers");
        answers
    })
}

const TAKEN: &str = "HTTP/1.1 200";
const REPLAYED: &str = "\"replayed\":true";

fn count(answers: &str, words: &str) -> u64 {
    answers.matches(words).count() as u64
}

/// More than are known whatever the journal keeps: the key of a record that it keeps is known, and that of
/// one that it has dropped is not.
#[test]
fn i1_keys_are_known_as_long_as_the_journal_keeps_their_records() {
    const POSTS: u64 = 130_000;
    const CLIENTS: u64 = 16;
    for (bytes, first_is_known) in [("64MiB", true), ("2MiB", false)] {
        let folder = Folder::new();
        let at = free_address();
        posted(&folder, at, &format!("journal: {{ bytes: {bytes} }}\n"));
        let mut run = start(&folder);
        run.wait_for_line("post    ");
        std::thread::scope(|scope| {
            let each = POSTS / CLIENTS;
            for client in 0..CLIENTS {
                scope.spawn(move || {
                    let answers = post(at, client * each..(client + 1) * each);
                    let told = [TAKEN, REPLAYED].map(|words| count(&answers, words));
                    assert_eq!(told, [each, 0]);
                });
            }
        });
        // Of each client the first; the last are among the newest.
        let first: u64 = (0..CLIENTS)
            .map(|client| client * (POSTS / CLIENTS))
            .map(|n| count(&post(at, n..n + 1), REPLAYED))
            .sum();
        assert_eq!(first, if first_is_known { CLIENTS } else { 0 }, "{bytes}");
        let last = post(at, POSTS - 10..POSTS);
        assert_eq!(count(&last, REPLAYED), 10, "{bytes}");
        run.signal(Signal::Terminate);
        let published = run.wait().expect(0).account("published");
        assert_eq!(published, POSTS + CLIENTS - first, "{bytes}");
    }
}

/// Where keys cannot be written down nothing is taken; once they can, all goes on, over a kill as well.
#[test]
fn i1_while_keys_have_no_room_posts_are_refused() {
    let folder = Folder::new();
    let at = free_address();
    posted(&folder, at, "journal: { driver: disk, path: journal }\n");
    let state = folder.path("state");
    let Some(_disk) = Tiny::mount(&state, 4096) else {
        return;
    };
    let mut run = start(&folder);
    run.wait_for_line("post    ");
    assert_eq!(count(&post(at, 0..10), TAKEN), 10);
    let hog = state.join("hog");
    let mut file = std::fs::File::create(&hog).expect("a file");
    while file.write_all(&[1; 1024]).is_ok() {}
    drop(file);
    // There is room in the file for a while, and again for some when it was opened again.
    let answers: String = (10..1000).map(|n| post(at, n..n + 1)).collect();
    let taken = 10 + count(&answers, TAKEN);
    let refused = count(&answers, "Idempotency-Keys cannot be written down now");
    assert_eq!(taken + refused, 1000);
    assert!(refused > 100, "{refused}");
    std::fs::remove_file(&hog).expect("it was made");
    let answers = post(at, 0..2000);
    let told = [TAKEN, REPLAYED].map(|words| count(&answers, words));
    assert_eq!(told, [2000, taken]);
    run.signal(Signal::Kill);
    let said = run.wait().stderr;
    assert_eq!(count(&said, "No space left on device"), 1, "{said}");
    let mut run = start(&folder);
    run.wait_for_line("post    ");
    assert_eq!(count(&post(at, 0..2000), REPLAYED), 2000);
    run.signal(Signal::Terminate);
    let ended = run.wait().expect(0);
    assert_eq!(ended.account("read"), 0);
}

/// What is there is not what was written: told before anything listens, with what to do.
#[test]
fn keys_that_are_damaged_are_told_at_the_start() {
    let folder = Folder::new();
    posted(
        &folder,
        free_address(),
        "journal: { driver: disk, path: journal }\n",
    );
    std::fs::create_dir_all(folder.path("state/test")).expect("a folder");
    folder.write("state/test/posts.redb", "no database at all".repeat(1000));
    let file = folder.path("pipeline.yaml");
    let run = |words: &[&str]| {
        let words = words.iter().map(std::ffi::OsStr::new);
        wirefall(words.chain([file.as_os_str()])).wait()
    };
    let ended = run(&["run"]).expect(3);
    assert!(ended.stderr.contains("posts.redb"), "{}", ended.stderr);
    assert!(ended.stderr.contains("move it away"), "{}", ended.stderr);
}

//! Records that are posted, by clients that we did not write.

use std::net::SocketAddr;
use std::process::Command;

use wirefall_tests::peers::{free_address, poster, skip};
use wirefall_tests::pipelines::{received, start, subscribe};
use wirefall_tests::process::command;
use wirefall_tests::raw::Raw;
use wirefall_tests::records::all_there;
use wirefall_tests::{Folder, Process, Signal, pipelines, wait_until, wirefall};

const JOURNAL: &str = "journal: { driver: disk, path: journal }\n";

/// How often Wirefall is killed; `WIREFALL_KILLS` says another number.
fn kills() -> u64 {
    let more = std::env::var("WIREFALL_KILLS").ok();
    more.and_then(|more| more.parse().ok()).unwrap_or(6)
}

/// Writes a pipeline that is posted to at one address and publishes at another.
fn posted(folder: &Folder, at: SocketAddr, source: &[&str], publish: SocketAddr, more: &str) {
    let mut config = vec![format!("listen: {at}")];
    config.extend(source.iter().map(|line| (*line).to_owned()));
    let sink = [format!("listen: {publish}")];
    pipelines::pipeline(folder, "http", &config, &sink, more);
}

/// Kills the run again and again while a client posts, and each time starts it again. What was received
/// at the end.
fn kills_while_posting(test: &str, count: u64, words: &[&str]) -> Option<Vec<u64>> {
    let folder = Folder::new();
    let (at, publish) = (free_address(), free_address());
    posted(&folder, at, &[], publish, JOURNAL);
    let mut run = start(&folder);
    run.wait_for_line("post    ");
    let subscriber = subscribe(&folder, publish);
    let count_word = count.to_string();
    let address = at.to_string();
    let arguments = [&[&*address, "/v1/ingest/test", &count_word, "7"], words].concat();
    let posting = poster(test, &arguments)?;
    let answered = |posting: &Process| {
        let text = posting.stdout();
        text.lines()
            .last()
            .and_then(|last| last.parse().ok())
            .unwrap_or(0_u64)
    };
    for kill in 1..=kills() {
        let enough = count * kill / (kills() + 1);
        wait_until("some more answers", || answered(&posting) >= enough);
        run.signal(Signal::Kill);
        // All that was answered so far is in the journal, whatever becomes of this process.
        let before = answered(&posting);
        assert_eq!(run.wait().code, None);
        run = start(&folder);
        wait_until("what was answered", || {
            received(&folder).iter().any(|n| *n >= before)
        });
    }
    let ended = posting.wait().expect(0);
    assert!(!ended.stderr.contains("again 0\n"), "no kill was noticed");
    wait_until("the last record", || {
        received(&folder).contains(&(count - 1))
    });
    // One that was just started listens to no signal yet.
    run.wait_for_line("post    ");
    run.signal(Signal::Terminate);
    run.wait().expect(0);
    subscriber.signal(Signal::Terminate);
    subscriber.wait();
    Some(received(&folder))
}

#[test]
fn i1_what_was_answered_is_published_through_kills() {
    let count = 7000;
    if let Some(received) = kills_while_posting("what_was_answered", count, &[]) {
        let again = all_there_in_posts(&received, count);
        // A post without an answer is posted again, and each kill breaks one.
        assert!(again <= kills() * 7, "{again} came again");
    }
}

/// How many came again; every number is there.
fn all_there_in_posts(received: &[u64], count: u64) -> u64 {
    let mut again = 0;
    let mut next = 0;
    for &number in received {
        assert!(number <= next, "{number} came before {next}");
        again += u64::from(number < next);
        next = next.max(number + 1);
    }
    assert_eq!(next, count);
    again
}

#[test]
fn i1_with_keys_what_was_posted_is_published_once_through_kills() {
    let count = 7000;
    if let Some(received) = kills_while_posting("with_keys", count, &["--keys"]) {
        assert_eq!(all_there(&received, count), 0, "none came again");
    }
}

/// Posts with curl: the status, and the body.
fn curl(test: &str, url: &str, arguments: &[&str]) -> Option<(u16, String)> {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--max-time",
        "30",
        "--write-out",
        "\n%{http_code}",
    ]);
    let Ok(told) = curl.args(arguments).arg(url).output() else {
        return skip(test, "curl");
    };
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a line with the status");
    Some((status.parse().expect("a status"), body.to_owned()))
}

/// One bad record of one sender ends no run, although nothing keeps it and nothing says `on_error`.
#[test]
fn i2_curl_is_told_what_became_of_each_record() {
    let test = "curl_is_told";
    let folder = Folder::new();
    let (at, publish) = (free_address(), free_address());
    let plugin = pipelines::plugin("hostile");
    let processors = format!(
        "processors:\n  - driver: wasm\n    config:\n      plugin: {}\n      config: {{ does: reject, when: bad }}\n",
        plugin.display()
    );
    posted(&folder, at, &["body_max: 1KiB"], publish, &processors);
    let mut run = start(&folder);
    run.wait_for_line("post    ");
    let url = format!("http://{at}/v1/ingest/test");
    let json = ["--header", "Content-Type: application/json"];
    let reject = r#"[{"n":1}, "bad", {"n":2}]"#;
    let Some((status, body)) = curl(test, &url, &[&json[..], &["--data", reject]].concat()) else {
        return;
    };
    assert_eq!(status, 200, "{body}");
    let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!([&told["records"], &told["accepted"]], [3, 2], "{body}");
    assert_eq!(told["rejected"][0]["index"], 1, "{body}");
    folder.write("no_text", b"a\n\xff\nb\n");
    let no_text = format!("@{}", folder.path("no_text").display());
    let lines = ["--header", "Content-Type: application/x-ndjson"];
    let no_text = [&lines[..], &["--data-binary", &no_text]].concat();
    let (status, body) = curl(test, &url, &no_text).expect("it was here");
    assert_eq!(status, 200, "{body}");
    let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!([&told["records"], &told["accepted"]], [3, 2], "{body}");
    assert_eq!(told["rejected"][0]["index"], 1, "{body}");
    let ask = |arguments: &[&str]| curl(test, &url, arguments).expect("it was here").0;
    assert_eq!(ask(&["--data", "a=b"]), 415);
    assert_eq!(ask(&[&json[..], &["--data", "{"]].concat()), 400);
    let long = "x".repeat(2000);
    let text = ["--header", "Content-Type: text/plain"];
    assert_eq!(ask(&[&text[..], &["--data", &long]].concat()), 413);
    assert_eq!(ask(&[]), 405);
    run.signal(Signal::Terminate);
    let ended = run.wait().expect(0);
    let account = ["published", "dropped", "invalid UTF-8"].map(|name| ended.account(name));
    assert_eq!(account, [4, 2, 1]);
}

#[test]
fn a_credential_opens_where_one_is_asked_for() {
    let test = "a_credential_opens";
    let folder = Folder::new();
    let (at, publish) = (free_address(), free_address());
    posted(&folder, at, &["auth: required"], publish, "");
    let file = folder.path("pipeline.yaml");
    let create = ["credentials".as_ref(), "create".as_ref(), file.as_os_str()];
    let made = Process::start(command(create).args(["--scope", "ingest", "--json"])).wait();
    let made = made.expect(0).stdout;
    let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
    let mut run = start(&folder);
    run.wait_for_line("post    ");
    let url = format!("http://{at}/v1/ingest/test");
    let text = ["--header", "Content-Type: text/plain", "--data", "a"];
    let Some((status, _)) = curl(test, &url, &text) else {
        return;
    };
    assert_eq!(status, 401);
    let bearer = format!(
        "Authorization: Bearer {}",
        made["secret"].as_str().expect("text")
    );
    let shown = [&text[..], &["--header", &bearer]].concat();
    let (status, body) = curl(test, &url, &shown).expect("it was here");
    assert_eq!(
        (status, body.trim()),
        (200, r#"{"records":1,"accepted":1,"rejected":[]}"#)
    );
    let guid = format!(
        "http://{at}/v1/ingest/{}",
        made["stream"].as_str().expect("text")
    );
    assert_eq!(curl(test, &guid, &shown).expect("it was here").0, 200);
    run.signal(Signal::Terminate);
    let ended = run.wait().expect(0);
    assert!(
        !ended
            .stderr
            .contains(made["secret"].as_str().expect("text")),
        "I7"
    );
}

/// The peer that is pushed to confirms nothing: what is not safe is answered 503 in the end, and the run
/// says that it is unconfirmed.
#[test]
fn i1_what_is_not_safe_is_never_answered_200() {
    let test = "what_is_not_safe";
    let folder = Folder::new();
    let (at, nobody) = (free_address(), free_address());
    let sink = pipelines::to(nobody, &[]);
    let config = [format!("listen: {at}"), "requests_max: 1".to_owned()];
    let file = pipelines::pipeline(&folder, "http", &config, &sink, "");
    let text = folder.read("pipeline.yaml").replace(
        "  state: state\n",
        "  state: state\n  shutdown_timeout: 1s\n",
    );
    folder.write("pipeline.yaml", text);
    let mut run = wirefall(["run".as_ref(), file.as_os_str()]);
    run.wait_for_line("post    ");
    let check = ["check".as_ref(), "--connect".as_ref(), file.as_os_str()];
    let checked = wirefall(check).wait().expect(3).stdout;
    let taken = "failed source, listen: cannot listen on";
    assert!(checked.contains(taken), "{checked}");
    let url = format!("http://{at}/v1/ingest/test");
    let post = move || {
        let text = ["--header", "Content-Type: text/plain", "--data", "a"];
        curl(test, &url, &text)
    };
    // There is room for one of two: once the other is answered, it is in flight.
    let posts = [post.clone(), post].map(std::thread::spawn);
    wait_until("a post that waits", || {
        posts.iter().any(|one| one.is_finished())
    });
    run.signal(Signal::Terminate);
    let ended = run.wait();
    let answers = posts.map(|one| one.join().expect("it does not panic"));
    let mut statuses: Vec<u16> = answers
        .into_iter()
        .flatten()
        .map(|(status, _)| status)
        .collect();
    statuses.sort_unstable();
    // Told so, or cut off: never that it is safe.
    assert!(
        [&[][..], &[429, 503], &[0, 429]].contains(&&*statuses),
        "{statuses:?}"
    );
    if !statuses.is_empty() {
        assert_eq!(ended.expect(1).account("unconfirmed"), 1);
    }
}

/// Many clients send all of a post before they read an answer; one that comes too early is read all the same.
#[test]
fn who_is_refused_may_send_all_of_it_first() {
    let folder = Folder::new();
    let at = free_address();
    posted(&folder, at, &["body_max: 1KiB"], free_address(), "");
    let mut run = start(&folder);
    run.wait_for_line("post    ");
    let mut raw = Raw::dial(at);
    let body = "x".repeat(16 << 20);
    let request = format!(
        "POST /v1/ingest/test HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    raw.send(request.as_bytes()).expect("all of it is taken");
    assert_eq!(raw.status(), Ok(413));
    run.signal(Signal::Terminate);
    run.wait().expect(0);
}

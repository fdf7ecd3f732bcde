//! The source as those who post see it: real sockets on loopback, and an engine that says what is safe
//! when a test wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::partition;
use crate::checkpoint::Checkpoint;
use crate::credentials::store::now;
use crate::credentials::{Issued, Limits, Scope, Store, Wanted};
use crate::metrics::Metrics;
use crate::source::Source;
use crate::source::compliance::{open_counted, plan, read, read_on};

/// Longest wait for anything: far beyond what any of it takes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("in time")
}

fn at(position: u64) -> Checkpoint {
    let mut checkpoint = Checkpoint::default();
    checkpoint.start_at(partition(), position);
    checkpoint
}

async fn source(folder: &tempfile::TempDir, keys: Value, resume_at: Option<u64>) -> (Source, Door) {
    counted(folder, keys, resume_at, &Arc::default()).await
}

/// The same, with what it counts.
async fn counted(
    folder: &tempfile::TempDir,
    keys: Value,
    resume_at: Option<u64>,
    metrics: &Arc<Metrics>,
) -> (Source, Door) {
    let mut config = json!({"listen": "127.0.0.1:0", "path": "/in"});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    let plan = plan("http", config, folder.path());
    assert!(plan.replayable());
    let source = open_counted(&*plan, folder.path(), resume_at.map(at), metrics.clone()).await;
    let greeting = source.reader.greeting();
    let address = greeting[0].split('/').nth(2).unwrap();
    let address = address.parse().unwrap();
    (source, Door { address })
}

/// Where to post.
#[derive(Clone, Copy)]
struct Door {
    address: SocketAddr,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Door {
    /// Says these bytes and reads to the end.
    async fn say(self, request: Vec<u8>) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // Who is refused early may not be heard to the end.
        let _ = stream.write_all(&request).await;
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn request(self, method: &str, path: &str, headers: &[&str], body: &str) -> Vec<u8> {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            self.address
        );
        let length = format!("Content-Length: {}", body.len());
        for header in headers.iter().copied().chain([length.as_str()]) {
            head.push_str(&format!("{header}\r\n"));
        }
        format!("{head}\r\n{body}").into_bytes()
    }

    async fn ask(self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        soon(self.say(self.request(method, path, headers, body))).await
    }

    fn post(self, headers: &[&str], body: &str) -> JoinHandle<Answer> {
        tokio::spawn(self.say(self.request("POST", "/in", headers, body)))
    }
}

const TEXT: &str = "Content-Type: text/plain";
const LINES: &str = "Content-Type: application/x-ndjson";
const JSON: &str = "Content-Type: application/json";

#[tokio::test]
async fn i1_a_post_is_answered_by_the_commit_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, door) = source(&folder, json!({}), Some(7)).await;
    let first = door.post(&[LINES], "a\nb\nc");
    let (mut records, mut checkpoint) = read(&mut source, 3).await;
    let second = door.post(&[JSON], r#"[{"d":1}]"#);
    records.extend(read_on(&mut source, 1, &mut checkpoint).await);
    assert_eq!(records, ["a", "b", "c", r#"{"d":1}"#]);
    assert_eq!(checkpoint.position(&partition()), Some(11));
    source.committer.commit(&at(9)).await.unwrap();
    assert!(!first.is_finished() && !second.is_finished());
    source.committer.failed(&partition(), 8, "no good");
    source.committer.commit(&at(10)).await.unwrap();
    let answer = soon(first).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let told =
        json!({"records": 3, "accepted": 2, "rejected": [{"index": 1, "reason": "no good"}]});
    assert_eq!(answer.json(), told);
    assert!(!second.is_finished());
    source.committer.commit(&at(11)).await.unwrap();
    let told = json!({"records": 1, "accepted": 1, "rejected": []});
    assert_eq!(soon(second).await.unwrap().json(), told);
}

#[tokio::test]
async fn what_cannot_be_taken_is_told_by_its_status() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = json!({"body_max": 20, "record_max": 10, "read_timeout": "200ms"});
    let (_source, door) = source(&folder, bounds, None).await;
    for (method, path, headers, body, status) in [
        ("GET", "/healthz", vec![], "", 200),
        ("GET", "/readyz", vec![], "", 200),
        ("GET", "/in", vec![], "", 405),
        ("POST", "/", vec![TEXT], "a", 404),
        ("POST", "/in", vec![], "a", 415),
        ("POST", "/in", vec!["Content-Type: text/html"], "a", 415),
        (
            "POST",
            "/in",
            vec![TEXT, "Content-Encoding: gzip"],
            "a",
            415,
        ),
        ("POST", "/in", vec![JSON], "{", 400),
        ("POST", "/in", vec![TEXT], "", 400),
        ("POST", "/in", vec![TEXT, "Idempotency-Key: "], "a", 400),
        ("POST", "/in", vec![TEXT], "12345678901", 413),
        (
            "POST",
            "/in",
            vec![LINES],
            "1\n2\n3\n4\n5\n6\n7\n8\n9\n0\n1",
            413,
        ),
        (
            "POST",
            "/in",
            vec![TEXT, "Origin: https://evil.example"],
            "a",
            403,
        ),
    ] {
        let answer = door.ask(method, path, &headers, body).await;
        assert_eq!(answer.status, status, "{method} {path} {headers:?} {body}");
    }
    let request = "POST /in HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1\r\n\r\na";
    assert_eq!(soon(door.say(request.into())).await.status, 403);
    // A body of unknown length, and one that never ends.
    let head = format!("POST /in HTTP/1.1\r\nHost: {}\r\n{TEXT}\r\n", door.address);
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n15\r\n{}\r\n0\r\n\r\n",
        "x".repeat(21)
    );
    assert_eq!(soon(door.say(chunked.into())).await.status, 413);
    let slow = format!("{head}Content-Length: 5\r\n\r\nabc");
    assert_eq!(soon(door.say(slow.into())).await.status, 408);
}

#[tokio::test]
async fn i4_what_is_in_flight_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    for (bounds, counts) in [
        (json!({"requests_max": 1}), (1, 0)),
        (json!({"body_max": "2KiB", "in_flight": "2KiB"}), (0, 1)),
    ] {
        let metrics = Arc::default();
        let (mut source, door) = counted(&folder, bounds.clone(), None, &metrics).await;
        let waits = door.post(&[TEXT], &"x".repeat(1025));
        assert_eq!(read(&mut source, 1).await.0.len(), 1);
        let answer = door.ask("POST", "/in", &[TEXT], "y").await;
        assert_eq!(answer.status, 429, "{bounds}");
        assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
        let too_many = &metrics.too_many;
        let counted = (too_many.requests.get(), too_many.in_flight.get());
        assert_eq!(counted, counts, "{bounds}");
        source.committer.commit(&at(1)).await.unwrap();
        assert_eq!(soon(waits).await.unwrap().status, 200);
        let next = door.post(&[TEXT], "y");
        assert_eq!(
            soon(source.reader.next())
                .await
                .unwrap()
                .unwrap()
                .records
                .len(),
            1
        );
        source.committer.commit(&at(2)).await.unwrap();
        assert_eq!(soon(next).await.unwrap().status, 200);
    }
}

/// Records of one byte cost what is remembered of them.
#[tokio::test]
async fn i4_tiny_records_count_as_what_they_cost() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = json!({"body_max": "2KiB", "in_flight": "4KiB"});
    let (mut source, door) = source(&folder, bounds, None).await;
    let answer = door.ask("POST", "/in", &[LINES], &"x\n".repeat(513)).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    let waits = door.post(&[LINES], &"x\n".repeat(512));
    let (records, checkpoint) = read(&mut source, 512).await;
    assert_eq!(records, vec!["x"; 512]);
    assert_eq!(door.ask("POST", "/in", &[TEXT], "y").await.status, 429);
    source.committer.commit(&checkpoint).await.unwrap();
    assert_eq!(soon(waits).await.unwrap().status, 200);
}

#[tokio::test]
async fn i4_of_long_reasons_it_is_remembered_how_many_there_were() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, door) = source(&folder, json!({}), None).await;
    let keyed = [LINES, "Idempotency-Key: k"];
    let first = door.post(&keyed, "a\nb\nc\nd");
    read(&mut source, 4).await;
    for position in 0..3 {
        let reason = "why ".repeat(1000);
        source.committer.failed(&partition(), position, &reason);
    }
    source.committer.commit(&at(4)).await.unwrap();
    let told = soon(first).await.unwrap().json();
    assert_eq!(told["rejected"][2]["reason"].as_str().unwrap().len(), 512);
    let again = door.ask("POST", "/in", &keyed, "a\nb\nc\nd").await;
    let told = json!({"records": 4, "accepted": 1, "replayed": true});
    assert_eq!((again.status, again.json()), (200, told));
}

#[tokio::test]
async fn i1_a_key_is_taken_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, door) = source(&folder, json!({}), Some(0)).await;
    let keyed = [LINES, "Idempotency-Key: k 1"];
    let first = door.post(&keyed, "a\nb");
    assert_eq!(read(&mut source, 2).await.0, ["a", "b"]);
    let answer = door.ask("POST", "/in", &keyed, "a\nb").await;
    assert_eq!(answer.status, 409);
    source.committer.commit(&at(2)).await.unwrap();
    assert_eq!(soon(first).await.unwrap().json()["accepted"], 2);
    let again = door.ask("POST", "/in", &keyed, "a\nb").await;
    let told = json!({"records": 2, "accepted": 2, "rejected": [], "replayed": true});
    assert_eq!((again.status, again.json()), (200, told));
    assert_eq!(door.ask("POST", "/in", &keyed, "a\nc").await.status, 422);
    // Nobody read any of these.
    let other = door.post(&[TEXT], "c");
    assert_eq!(soon(source.reader.next()).await.unwrap().unwrap().start, 2);
    drop(source);
    assert_eq!(soon(other).await.unwrap().status, 503);
}

/// Killed when the journal had one of the two: posted again, the other is taken.
#[tokio::test]
async fn i1_over_a_crash_a_key_is_taken_once_too() {
    let folder = tempfile::tempdir().unwrap();
    let keyed = [LINES, "Idempotency-Key: k"];
    let (mut first, door) = source(&folder, json!({}), Some(0)).await;
    let _gone = door.post(&keyed, "a\nb");
    assert_eq!(read(&mut first, 2).await.0, ["a", "b"]);
    drop(first);
    let (mut second, door) = source(&folder, json!({}), Some(1)).await;
    let rest = door.post(&keyed, "a\nb");
    assert_eq!(read(&mut second, 1).await.0, ["b"]);
    second.committer.commit(&at(2)).await.unwrap();
    // What became of the first one only the first run knew.
    let told = json!({"records": 2});
    assert_eq!(soon(rest).await.unwrap().json(), told);
    drop(second);
    let (_third, door) = source(&folder, json!({}), Some(2)).await;
    let again = door.ask("POST", "/in", &keyed, "a\nb").await;
    let told = json!({"records": 2, "replayed": true});
    assert_eq!((again.status, again.json()), (200, told));
}

#[tokio::test]
async fn while_a_run_ends_nothing_is_taken_and_what_was_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, door) = source(&folder, json!({}), None).await;
    let taken = door.post(&[TEXT], "a");
    let mut checkpoint = Checkpoint::default();
    assert_eq!(read_on(&mut source, 1, &mut checkpoint).await, ["a"]);
    let lost = door.post(&[TEXT], "b");
    assert_eq!(read_on(&mut source, 1, &mut checkpoint).await, ["b"]);
    source.reader.close();
    let answer = door.ask("POST", "/in", &[TEXT], "c").await;
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("retry-after: 5"), "{answer:?}");
    assert_eq!(door.ask("GET", "/readyz", &[], "").await.status, 503);
    assert!(soon(source.reader.next()).await.unwrap().is_none());
    source.committer.commit(&at(1)).await.unwrap();
    assert_eq!(soon(taken).await.unwrap().status, 200);
    drop(source.committer);
    assert_eq!(soon(lost).await.unwrap().status, 503);
}

fn issue(folder: &tempfile::TempDir, scope: Scope) -> Issued {
    issue_within(folder, scope, Limits::default())
}

fn issue_within(folder: &tempfile::TempDir, scope: Scope, limits: Limits) -> Issued {
    let wanted = Wanted {
        scopes: vec![scope],
        lifetime: None,
        limits,
    };
    let store = Store::of(&folder.path().join("state"));
    store.change(|ring| ring.create(wanted, now())).unwrap()
}

#[tokio::test]
async fn only_a_credential_for_ingest_opens_where_one_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (ingest, subscribe) = (
        issue(&folder, Scope::Ingest),
        issue(&folder, Scope::Subscribe),
    );
    let (mut source, door) = source(&folder, json!({"auth": "required"}), None).await;
    let bearer = |secret: &str| format!("Authorization: Bearer {secret}");
    for (header, status) in [
        ("X: y".to_owned(), 401),
        (bearer("wf_wrong"), 401),
        (bearer(subscribe.secret.reveal()), 403),
    ] {
        let answer = door.ask("POST", "/in", &[TEXT, &header], "a").await;
        assert_eq!(answer.status, status);
    }
    let query = format!("/in?token={}", ingest.secret.reveal());
    assert_eq!(door.ask("POST", &query, &[TEXT], "a").await.status, 400);
    let good = bearer(ingest.secret.reveal());
    let by_guid = format!("/v1/ingest/{}", ingest.stream);
    let posted = tokio::spawn(door.say(door.request("POST", &by_guid, &[TEXT, &good], "a")));
    assert_eq!(read(&mut source, 1).await.0, ["a"]);
    source.committer.commit(&at(1)).await.unwrap();
    assert_eq!(soon(posted).await.unwrap().status, 200);
}

/// Of sessions, and of bytes: `limits` of the credential are those of who posts with it too.
#[tokio::test]
async fn i4_who_posts_more_than_a_credential_allows_is_told_when_to_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        sessions: Some(1),
        bytes_per_second: Some(1),
    };
    let issued = issue_within(&folder, Scope::Ingest, limits);
    let metrics = Arc::default();
    let asks = json!({"auth": "required"});
    let (mut source, door) = counted(&folder, asks, None, &metrics).await;
    let secret = format!("Authorization: Bearer {}", issued.secret.reveal());
    let headers = [TEXT, &secret];
    let first = door.post(&headers, &"x".repeat(100));
    assert_eq!(read(&mut source, 1).await.0.len(), 1);
    let second = door.ask("POST", "/in", &headers, "x").await;
    assert_eq!(second.status, 429);
    assert!(second.body.contains("all 1 sessions"), "{second:?}");
    source.committer.commit(&at(1)).await.unwrap();
    assert_eq!(soon(first).await.unwrap().status, 200);
    // What was posted is looked at once a second.
    let refused = soon(async {
        loop {
            let answer = door.ask("POST", "/in", &[&secret], "").await;
            if answer.status != 415 {
                break answer;
            }
        }
    });
    let refused = refused.await;
    assert_eq!(refused.status, 429);
    let told = "more than 1 bytes a second";
    assert!(refused.body.contains(told), "{refused:?}");
    let too_many = &metrics.too_many;
    let counted = (too_many.sessions.get(), too_many.bytes.get());
    assert!(matches!(counted, (1.., 1..)), "{counted:?}");
    assert!(refused.head.contains("retry-after: "), "{refused:?}");
}

/// A browser asks before it posts JSON for a page of another origin, and shows the page no answer that does
/// not name it.
#[tokio::test]
async fn a_page_of_an_allowed_origin_can_post() {
    let folder = tempfile::tempdir().unwrap();
    issue(&folder, Scope::Ingest);
    let keys = json!({"auth": "required", "origins": ["https://ok.example"]});
    let (_source, door) = source(&folder, keys, None).await;
    for (method, origin, status, is_shared) in [
        ("OPTIONS", "https://ok.example", 204, true),
        ("POST", "https://ok.example", 401, true),
        ("OPTIONS", "https://evil.example", 403, false),
        ("POST", "https://evil.example", 403, false),
    ] {
        let header = format!("Origin: {origin}");
        let answer = door.ask(method, "/in", &[JSON, &header], "1").await;
        assert_eq!(answer.status, status, "{method} {origin}: {answer:?}");
        let allowed = answer
            .head
            .contains(&format!("access-control-allow-origin: {origin}\r\n"));
        assert_eq!(allowed, is_shared, "{method} {origin}: {answer:?}");
        let headers = "access-control-allow-headers: authorization, content-type, idempotency-key";
        assert_eq!(answer.head.contains(headers), is_shared, "{answer:?}");
    }
}

#[tokio::test]
async fn posts_that_come_together_share_a_batch_and_long_ones_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, door) = source(&folder, json!({}), None).await;
    let many: Vec<String> = (0..35).map(|n| n.to_string()).collect();
    let posted = door.post(&[LINES], &many.join("\n"));
    let (records, checkpoint) = read(&mut source, 35).await;
    assert_eq!(records, many);
    source.committer.commit(&checkpoint).await.unwrap();
    assert_eq!(soon(posted).await.unwrap().json()["accepted"], 35);
}

#[test]
fn i6_a_path_that_is_none_or_the_ports_own_is_refused() {
    let driver = &super::DRIVER;
    for (path, said) in [
        ("in", "`in` is not a path"),
        ("/a?b", "`/a?b` is not a path"),
        ("/a\"b", "`/a\"b` is not a path"),
        ("/healthz", "`/healthz` is taken"),
    ] {
        let config = json!({"listen": "127.0.0.1:0", "path": path});
        let problems = (driver.check)(config, &Default::default()).unwrap_err();
        assert_eq!(problems[0].message, said);
    }
}

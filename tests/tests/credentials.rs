//! Credentials as an operator has them, and a search for secrets wherever they may not be (I7).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use wirefall_tests::peers::{certificate, free_address, tls_keys};
use wirefall_tests::process::command;
use wirefall_tests::{Folder, Process, Signal, pipelines, raw, wait_for, wait_until, wirefall};

/// What nobody may find. Not one that could come about by chance.
const WRONG: &str = "wf_wrongwrongwrongwrongwrongwrongwrongwrongwro";

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Makes a credential; what is told of it.
fn create(pipeline: &Path, scope: &str) -> Value {
    let arguments = [
        "credentials",
        "create",
        text(pipeline),
        "--scope",
        scope,
        "--json",
    ];
    let ended = wirefall(arguments).wait().expect(0);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

fn word(told: &Value, key: &str) -> String {
    told[key].as_str().expect("a text").to_owned()
}

/// Starts a run with all that it can log, and returns it with the address of its stream.
fn run(pipeline: &Path) -> (Process, String) {
    let mut run = wirefall(["run", "--log", "trace", text(pipeline)]);
    let url = run.wait_for_line("stream  ");
    (run, url)
}

/// `HOST:PORT` and path of an address.
fn parts(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").expect("an address").1;
    let slash = rest.find('/').expect("a path");
    rest.split_at(slash)
}

/// What a request is answered, however it is answered. With a body or after an upgrade: what there is.
fn ask(url: &str, request_line: &str, headers: &str) -> String {
    raw::ask(parts(url).0, request_line, headers)
}

const UPGRADE: &str = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

/// The arguments of every process of this machine.
fn arguments_of_all() -> String {
    let processes = std::fs::read_dir("/proc").expect("a system with /proc");
    let arguments = processes.filter_map(|entry| {
        let bytes = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    });
    arguments.collect::<Vec<_>>().join("\n")
}

/// Every file below a folder, as text.
fn files_below(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => {
                let bytes = std::fs::read(&path).expect("a file");
                found.push((path, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
    }
    found
}

fn subscribe(url: &str, more: &[&str], secret: &str) -> Process {
    let mut subscribe = command(["subscribe", url].iter().chain(more));
    Process::start(subscribe.env("WIREFALL_SECRET", secret))
}

#[test]
fn i7_a_secret_is_nowhere_but_where_it_was_shown() {
    let folder = Folder::new();
    let pipeline = pipelines::publish(&folder, &["auth: required"]);
    let told = create(&pipeline, "subscribe,operate");
    let secret = word(&told, "secret");
    let kept = folder.write("secret", &secret);
    let (mut run, url) = run(&pipeline);
    let (_, path) = parts(&url);
    let mut answers = String::new();
    for shown in [secret.as_str(), WRONG] {
        for (request, headers) in [
            (format!("GET {path}?token={shown}"), UPGRADE.to_owned()),
            (format!("GET {path}/{shown}"), String::new()),
            (
                format!("GET /{shown}"),
                "Origin: https://evil.example\r\n".to_owned(),
            ),
            (
                format!("GET {path}"),
                format!("{UPGRADE}Authorization: {shown}\r\n"),
            ),
            (
                format!("POST {path}/tickets"),
                format!("Authorization: Bearer {shown}x\r\n"),
            ),
            (
                format!("GET {path}"),
                format!(
                    "{UPGRADE}Sec-WebSocket-Protocol: wirefall.v1, wirefall.ticket.{shown}\r\n"
                ),
            ),
            (
                format!("GET {path}"),
                format!("{UPGRADE}Sec-WebSocket-Protocol: wirefall.secret.{shown}x\r\n"),
            ),
            (
                "GET /metrics".to_owned(),
                format!("Via: 1.1 a\r\nAuthorization: Bearer {shown}\r\n"),
            ),
            (
                "GET /".to_owned(),
                format!("Authorization: Bearer {shown}\r\n"),
            ),
        ] {
            answers.push_str(&ask(&url, &request, &headers));
        }
    }
    let ticket = ask(
        &url,
        &format!("POST {path}/tickets"),
        &format!("Authorization: Bearer {secret}\r\n"),
    );
    let body = ticket.split("\r\n\r\n").nth(1).expect("a body");
    let ticket = word(&serde_json::from_str(body).expect("JSON"), "ticket");
    // Used, in a session that ends by itself; then used again.
    let once = format!(
        "{UPGRADE}Sec-WebSocket-Protocol: wirefall.v1, wirefall.ticket.{ticket}\r\nOrigin: http://{}\r\n",
        parts(&url).0
    );
    let again = {
        let (host, _) = parts(&url);
        let mut stream = TcpStream::connect(host).expect("a port");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{once}\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 101");
        ask(&url, &format!("GET {path}"), &once)
    };
    assert!(again.contains("the ticket was used before"), "{again}");
    let mut good = [
        subscribe(&url, &["--limit", "1"], &secret),
        subscribe(&url, &["--limit", "1", "--secret-file", text(&kept)], WRONG),
    ];
    wait_until("a record", || {
        assert!(run.write(b"{}\n"));
        good.iter_mut().all(|one| !one.is_running())
    });
    let arguments = arguments_of_all();
    assert!(arguments.contains(text(&pipeline)), "the run is among them");
    let mut said = answers + &again + &arguments;
    for one in good {
        said.push_str(&one.wait().expect(0).stderr);
    }
    said.push_str(&subscribe(&url, &[], WRONG).wait().expect(3).stderr);
    let metrics = ask(
        &url,
        "GET /metrics",
        &format!("Authorization: Bearer {secret}\r\n"),
    );
    assert!(
        metrics.contains("wirefall_auth_failures_total"),
        "{metrics}"
    );
    said.push_str(&metrics);
    let list = wirefall(["credentials", "list", text(&pipeline)])
        .wait()
        .expect(0);
    said.push_str(&(list.stdout + &list.stderr));
    run.signal(Signal::Terminate);
    let ended = run.wait().expect(0);
    said.push_str(&(ended.stdout + &ended.stderr));
    for (path, content) in files_below(&folder.path("state")) {
        said.push_str(&format!("{}\n{content}\n", path.display()));
    }
    assert!(said.contains("not let in: "), "failures are logged");
    for hidden in [secret.as_str(), WRONG, &ticket] {
        let line = said.lines().find(|line| line.contains(hidden));
        assert_eq!(line, None);
    }
}

#[test]
fn i7_the_secret_of_a_first_run_goes_to_a_file_where_nobody_looks_at_a_terminal() {
    let folder = Folder::new();
    let pipeline = pipelines::publish(&folder, &["auth: required"]);
    let (mut first, url) = run(&pipeline);
    let path = folder.path("state/test/first-secret.json");
    let mode = std::fs::metadata(&path)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let told: Value =
        serde_json::from_str(&folder.read("state/test/first-secret.json")).expect("JSON");
    let secret = word(&told, "secret");
    let by_guid = url.replace("/test", &format!("/{}", word(&told, "stream")));
    let mut reader = subscribe(&by_guid, &["--limit", "1"], &secret);
    wait_until("a record", || {
        assert!(first.write(b"{}\n"));
        !reader.is_running()
    });
    reader.wait().expect(0);
    first.signal(Signal::Terminate);
    let ended = first.wait().expect(0);
    assert!(ended.stderr.contains(text(&path)), "{}", ended.stderr);
    assert!(!ended.stderr.contains(&secret), "{}", ended.stderr);
    std::fs::remove_file(&path).expect("moved to where secrets are kept");
    let (second, _) = run(&pipeline);
    second.signal(Signal::Terminate);
    second.wait().expect(0);
    assert!(!path.exists(), "only a first run makes one");
}

#[test]
fn a_rotation_ends_the_sessions_of_the_old_secret_after_its_grace() {
    let folder = Folder::new();
    let pipeline = pipelines::publish(&folder, &["auth: required", &tls_keys()]);
    let told = create(&pipeline, "subscribe");
    let (mut run, url) = run(&pipeline);
    assert!(url.starts_with("wss://"), "{url}");
    let ca = certificate();
    let trust = ["--ca", text(&ca)];
    let old = subscribe(&url, &trust, &word(&told, "secret"));
    wait_until("a record", || {
        assert!(run.write(b"{}\n"));
        !old.stdout().is_empty()
    });
    let id = word(&told, "id");
    let rotate = [
        "credentials",
        "rotate",
        text(&pipeline),
        &id,
        "--grace",
        "1s",
        "--json",
    ];
    let rotated = wirefall(rotate).wait().expect(0);
    let rotated: Value = serde_json::from_str(&rotated.stdout).expect("JSON");
    assert_eq!(rotated["secrets"], 2);
    let ended = old.wait().expect(1);
    assert!(ended.stderr.contains("4401"), "{}", ended.stderr);
    subscribe(&url, &trust, &word(&told, "secret"))
        .wait()
        .expect(3);
    let new = subscribe(&url, &trust, &word(&rotated, "secret"));
    wait_until("a record by the new secret", || {
        assert!(run.write(b"{}\n"));
        !new.stdout().is_empty()
    });
    wirefall(["credentials", "revoke", text(&pipeline), &id])
        .wait()
        .expect(0);
    let ended = new.wait().expect(1);
    assert!(
        ended.stderr.contains("the credential was revoked"),
        "{}",
        ended.stderr
    );
    run.signal(Signal::Terminate);
    run.wait().expect(0);
}

/// As a journal that is damaged: nothing runs, and it is told what to do.
#[test]
fn credentials_that_are_damaged_are_told_at_the_start() {
    let folder = Folder::new();
    let pipeline = pipelines::publish(&folder, &["auth: required"]);
    create(&pipeline, "subscribe");
    let (path, _) = files_below(&folder.path("state"))
        .into_iter()
        .find(|(path, _)| path.ends_with("credentials.json"))
        .expect("the file");
    std::fs::write(&path, "{").expect("written");
    for verb in [&["run"][..], &["credentials", "list"]] {
        let words = verb.iter().copied().chain([text(&pipeline)]);
        let ended = wirefall(words).wait().expect(3);
        for part in [text(&path), "line 1 column 1", "restore the file"] {
            assert!(ended.stderr.contains(part), "{verb:?}: {}", ended.stderr);
        }
    }
    assert_eq!(std::fs::read_to_string(&path).expect("text"), "{");
}

/// At the source and at the sink, and while others show wrong ones.
#[test]
fn a_credential_opens_from_when_it_is_made() {
    let folder = Folder::new();
    let source = ["listen: 127.0.0.1:0", "auth: required"].map(str::to_owned);
    let pipeline = pipelines::pipeline(&folder, "http", &source, &source, "");
    create(&pipeline, "operate");
    let mut run = wirefall(["run", text(&pipeline)]);
    let stream = run.wait_for_line("stream  ");
    let post = run.wait_for_line("post    ");
    let status = |url: &str, path: &str, secret: &str| {
        let request = format!("POST {path}");
        let shown =
            format!("Authorization: Bearer {secret}\r\nContent-Length: 0\r\nConnection: close\r\n");
        let answer = ask(url, &request, &shown);
        let status = answer.split(' ').nth(1).expect("a status");
        status.to_owned()
    };
    let ingest = parts(&post).1;
    let tickets = format!("{}/tickets", parts(&stream).1);
    for _ in 0..5 {
        assert_eq!(status(&post, ingest, WRONG), "401");
        let secret = word(&create(&pipeline, "ingest,subscribe"), "secret");
        // Its media type is asked about once it is let in.
        assert_eq!(status(&post, ingest, &secret), "415");
        assert_eq!(status(&stream, &tickets, &secret), "200");
    }
    run.signal(Signal::Terminate);
    let log = run.wait().expect(0).stderr;
    let told = log.matches("credentials were read again").count();
    assert_eq!(told, 5, "once a change: {log}");
}

/// Of every listener; one that is not in the network is not believed.
#[test]
fn the_proxies_of_a_trusted_network_say_whom_they_speak_for() {
    for (network, told) in [
        ("127.0.0.0/8", "203.0.113.9"),
        ("127.0.0.2/31", "127.0.0.1"),
    ] {
        let folder = Folder::new();
        let proxies = format!("trusted_proxies: [10.0.0.7, {network}, 'fd00::/8']");
        let keys = ["listen: 127.0.0.1:0", "auth: required", &proxies].map(str::to_owned);
        let pipeline = pipelines::pipeline(&folder, "http", &keys, &keys, "");
        let mut run = wirefall(["run", text(&pipeline)]);
        for (line, more) in [("stream  ", "/tickets"), ("post    ", "")] {
            let url = run.wait_for_line(line);
            let request = format!("POST {}{more}", parts(&url).1);
            let forwarded = "X-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n";
            ask(&url, &request, forwarded);
        }
        run.signal(Signal::Terminate);
        let log = run.wait().expect(0).stderr;
        let refused = format!("address={told}\n");
        assert_eq!(log.matches(&refused).count(), 2, "{network}: {log}");
    }
}

/// Over a rotation and a kill, and until it is revoked.
#[test]
fn a_name_stays_with_the_credential_that_used_it_first() {
    const NAMED: [&str; 2] = ["--name", "archive"];
    let folder = Folder::new();
    let sink = ["listen: 127.0.0.1:0", "auth: required"].map(str::to_owned);
    let pipeline = pipelines::pipeline(&folder, "stdin", &[], &sink, "journal: { driver: disk }\n");
    let [mine, other] = [(); 2].map(|()| create(&pipeline, "subscribe"));
    let (id, other) = (word(&mine, "id"), word(&other, "secret"));
    let refused = |url: &str| {
        let ended = subscribe(url, &NAMED, &other).wait();
        assert_ne!(ended.code, Some(0));
        let told = "this name belongs to another credential";
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
    };
    let (mut first, url) = run(&pipeline);
    let holder = subscribe(&url, &NAMED, &word(&mine, "secret"));
    wait_until("a record", || {
        assert!(first.write(b"{\"n\":0}\n"));
        !holder.stdout().is_empty()
    });
    refused(&url);
    assert!(first.write(b"{\"n\":1}\n"));
    wait_until("the next record", || {
        holder.stdout().contains("{\"n\":1}\n")
    });
    holder.signal(Signal::Terminate);
    holder.wait().expect(0);
    refused(&url);
    // While it is away; seen by somebody without a name, so it is in the journal.
    assert!(first.write(b"{\"n\":2}\n"));
    let anybody = subscribe(&url, &["--from", "earliest"], &other);
    wait_until("it is published", || {
        anybody.stdout().contains("{\"n\":2}\n")
    });
    // It has acknowledged all but the last.
    let acked = format!("\"at\":{}", anybody.stdout().lines().count() - 1);
    wait_until("the place is written down", || {
        let files = files_below(&folder.path("state"));
        let mut cursors = files
            .iter()
            .filter(|(path, _)| path.ends_with("cursors.json"));
        cursors.any(|(_, text)| {
            [&*acked, "archive", &id]
                .iter()
                .all(|one| text.contains(one))
        })
    });
    first.signal(Signal::Kill);
    first.wait();
    drop(anybody);
    let rotate = ["credentials", "rotate", text(&pipeline), &id, "--json"];
    let rotated = wirefall(rotate).wait().expect(0);
    let rotated: Value = serde_json::from_str(&rotated.stdout).expect("JSON");
    let (mut second, url) = run(&pipeline);
    refused(&url);
    let one = [&NAMED[..], &["--limit", "1"]].concat();
    let came = subscribe(&url, &one, &word(&rotated, "secret")).wait();
    assert_eq!(came.expect(0).stdout, "{\"n\":2}\n", "it goes on");
    assert!(second.write(b"{\"n\":3}\n"));
    wirefall(["credentials", "revoke", text(&pipeline), &id])
        .wait()
        .expect(0);
    // The process takes note of it within a second.
    let came = wait_for("the name is free", || {
        let ended = subscribe(&url, &one, &other).wait();
        (ended.code == Some(0)).then_some(ended.stdout)
    });
    assert_eq!(came, "{\"n\":3}\n", "from where the name stood");
    second.signal(Signal::Terminate);
    second.wait().expect(0);
}

/// Who rotates has neither the pipeline's other secrets nor its plugins.
#[test]
fn the_verbs_need_nothing_of_a_pipeline_but_its_service() {
    let folder = Folder::new();
    let pipeline = folder.write(
        "pipeline.yaml",
        "service: { pipeline_id: test, state: state }\n\
         source: { driver: file, config: { path: \"${NOT_SET}\" } }\n\
         processors: [{ driver: wasm, config: { plugin: ./nowhere } }]\n\
         sink: { driver: websocket, config: { listen: 127.0.0.1:0 } }\n",
    );
    let told = create(&pipeline, "ingest");
    let id = word(&told, "id");
    let list = wirefall(["credentials", "list", text(&pipeline), "--json"])
        .wait()
        .expect(0);
    let listed: Value = serde_json::from_str(&list.stdout).expect("one line");
    assert_eq!(
        (&listed["id"], &listed["scopes"][0]),
        (&told["id"], &"ingest".into())
    );
    for (arguments, code) in [
        (vec!["revoke", text(&pipeline), "nobody"], 2),
        (vec!["rotate", text(&pipeline), "nobody"], 2),
        (vec!["create", text(&pipeline), "--scope", "everything"], 2),
        (vec!["create", text(&pipeline), "--expires", "0s"], 2),
        (
            vec!["create", text(&pipeline), "--bytes-per-second", "0"],
            2,
        ),
        (vec!["list", "nowhere.yaml"], 2),
        (vec!["revoke", text(&pipeline), &id], 0),
        (vec!["revoke", text(&pipeline), &id], 2),
    ] {
        let verb = ["credentials"].into_iter().chain(arguments);
        wirefall(verb).wait().expect(code);
    }
}

/// A push shows what it was given to nobody but the peer: not while the peer refuses, breaks or takes.
#[test]
fn i7_the_secrets_of_a_push_go_to_the_peer_alone() {
    const KEYS: [&str; 4] = ["IN_HEADER", "IN_PATH", "IN_QUERY", "IN_FILE"];
    let secret = |key: &str| format!("{WRONG}{key}");
    let folder = Folder::new();
    folder.write("token", secret("IN_FILE"));
    folder.write("input.ndjson", "{}\n".repeat(100));
    let address = free_address();
    let pipeline = folder.write(
        "pipeline.yaml",
        format!(
            "service: {{ pipeline_id: test, state: state }}\n\
             source: {{ driver: file, config: {{ path: input.ndjson }} }}\n\
             sink:\n  driver: websocket\n  config:\n    \
             url: 'ws://{address}/${{IN_PATH}}?token=${{IN_QUERY}}'\n    \
             reconnect: {{ min: 10ms, max: 20ms }}\n    ack: message\n    \
             headers: {{ Authorization: 'Bearer ${{IN_HEADER}}', X-Key: '${{file:token}}' }}\n"
        ),
    );
    let variables = KEYS.map(|key| (key, secret(key)));
    let of_ours = |arguments: &[&str]| {
        let mut command = command(arguments);
        Process::start(command.envs(variables.clone()))
    };
    let run = of_ours(&["run", "--log", "trace", text(&pipeline)]);
    wait_until("a refusal", || run.stderr().contains("refused"));
    let address = address.to_string();
    let faults = ["--ack", "message", "--break-every", "30", "--count"];
    let receiver = wirefall(["receive", &address].into_iter().chain(faults));
    let arguments = arguments_of_all();
    let ended = run.wait().expect(0);
    assert_eq!(ended.account("delivered"), 100);
    receiver.signal(Signal::Interrupt);
    let mut said = vec![
        arguments,
        ended.stdout,
        ended.stderr,
        receiver.wait().stderr,
    ];
    let checked = of_ours(&["check", "--connect", text(&pipeline)])
        .wait()
        .expect(3);
    said.extend([checked.stdout, checked.stderr]);
    let kept = files_below(&folder.path("state"));
    said.extend(
        kept.into_iter()
            .map(|(path, text)| format!("{path:?}{text}")),
    );
    for words in said {
        assert!(!words.contains(WRONG), "{words}");
    }
}

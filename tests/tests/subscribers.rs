//! Server mode with subscribers that we did not write.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use wirefall_tests::peers::{
    Language, Nginx, browser, certificate, free_address, subscriber, websocat,
};
use wirefall_tests::process::command;
use wirefall_tests::records::numbered;
use wirefall_tests::workspace::root;
use wirefall_tests::{Folder, Process, Signal, numbers, pipelines, wait_until, wirefall};

const RECORDS: u64 = 20_000;

/// Starts `wirefall run`, and returns it with the address of its stream.
fn run(folder: &Folder, sink: &[&str]) -> (Process, String) {
    let pipeline = pipelines::publish(folder, sink);
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    let url = run.wait_for_line("stream  ");
    (run, url)
}

/// The address in `ws://ADDRESS/…`.
fn address(url: &str) -> SocketAddr {
    let address = url.trim_start_matches("ws://").split('/').next();
    address.and_then(|a| a.parse().ok()).expect("an address")
}

fn write_records(run: &mut Process, count: u64) {
    let lines: String = (0..count).map(|n| numbered(n) + "\n").collect();
    assert!(run.write(lines.as_bytes()), "standard input is read");
}

/// Every record once and in order, then a Close 1000; and the run ends by itself.
fn everything_arrives(mut run: Process, subscribers: Vec<Process>) {
    write_records(&mut run, RECORDS);
    run.close_stdin();
    for subscriber in subscribers {
        let ended = subscriber.wait().expect(0);
        assert!(numbers(&ended.stdout).iter().copied().eq(0..RECORDS));
        assert!(ended.stderr.contains("closed 1000"), "{}", ended.stderr);
    }
    let ended = run.wait().expect(0);
    assert_eq!(ended.account("published"), RECORDS);
    assert_eq!(ended.account("unconfirmed"), 0);
}

#[test]
fn i3_python_and_node_see_every_record_in_order() {
    let folder = Folder::new();
    let (run, url) = run(&folder, &["at_end: exit"]);
    let test = "python_and_node_see_every_record";
    let subscribers: Vec<_> = [Language::Python, Language::Node, Language::Python]
        .into_iter()
        .filter_map(|language| subscriber(test, language, &url))
        .collect();
    everything_arrives(run, subscribers);
}

#[test]
fn i3_websocat_sees_every_record_in_order() {
    let folder = Folder::new();
    let (mut run, url) = run(&folder, &["at_end: exit"]);
    let Some(subscriber) = websocat("websocat_sees_every_record", &url) else {
        return;
    };
    write_records(&mut run, RECORDS);
    run.close_stdin();
    let ended = subscriber.wait().expect(0);
    assert!(numbers(&ended.stdout).iter().copied().eq(0..RECORDS));
    assert_eq!(run.wait().expect(0).account("published"), RECORDS);
}

#[test]
fn i3_through_nginx_nothing_changes() {
    let folder = Folder::new();
    let (run, url) = run(&folder, &["at_end: exit"]);
    let test = "through_nginx_nothing_changes";
    let Some(nginx) = Nginx::start(test, address(&url)) else {
        return;
    };
    let url = url.replace(&address(&url).to_string(), &nginx.address.to_string());
    let subscribers: Vec<_> = [Language::Python, Language::Node]
        .into_iter()
        .filter_map(|language| subscriber(test, language, &url))
        .collect();
    everything_arrives(run, subscribers);
}

/// What `GET PATH` at an address is answered.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a port");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let patience = Some(wirefall_tests::PATIENCE);
    stream.set_read_timeout(patience).expect("a socket");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// With no header of its own this one makes every visitor look like a program on this machine.
#[test]
fn metrics_do_not_pass_through_a_proxy_on_this_machine() {
    let folder = Folder::new();
    let (run, url) = run(&folder, &["hosts: [records.example.com]"]);
    let Some(nginx) = Nginx::start("metrics_do_not_pass_through", address(&url)) else {
        return;
    };
    for path in ["/metrics", "/v1/streams/test/status"] {
        let answer = get(nginx.address, path);
        assert!(answer.starts_with("HTTP/1.1 403"), "{path}: {answer}");
        assert!(answer.contains("operate: loopback"), "{path}: {answer}");
    }
    let page = get(nginx.address, "/");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    drop(run);
}

#[test]
fn subscribe_prints_what_is_published_and_ends_with_the_stream() {
    let folder = Folder::new();
    let (mut run, url) = run(&folder, &["at_end: exit"]);
    let out = folder.path("out.ndjson");
    let subscribe = [
        "subscribe".as_ref(),
        url.as_ref(),
        "--out".as_ref(),
        out.as_os_str(),
    ];
    let all = wirefall(subscribe);
    let first = wirefall(["subscribe", &url, "--limit", "3"]);
    // Both are in once a record that is repeated until then has reached both.
    let mut first = Some(first);
    wait_until("two subscribers", || {
        assert!(run.write(b"{\"n\":0,}\n"));
        let limited = first.as_mut().is_some_and(|first| !first.is_running());
        limited && !folder.read("out.ndjson").is_empty()
    });
    let limited = first.take().expect("it was started").wait().expect(0);
    assert_eq!(limited.stdout, "{\"n\":0,}\n".repeat(3));
    write_records(&mut run, RECORDS);
    run.close_stdin();
    all.wait().expect(0);
    let seen = numbers(&folder.read("out.ndjson"));
    let start = seen.len() - RECORDS as usize;
    assert!(seen[start..].iter().copied().eq(0..RECORDS));
    run.wait().expect(0);
}

#[test]
fn subscribe_goes_through_tls_that_it_is_told_to_trust() {
    let folder = Folder::new();
    let (mut run, url) = run(&folder, &["at_end: exit"]);
    let test = "subscribe_goes_through_tls_that_it_is_told_to_trust";
    let Some(nginx) = Nginx::start_tls(test, address(&url)) else {
        return;
    };
    let url = url
        .replace(&address(&url).to_string(), &nginx.address.to_string())
        .replace("ws://", "wss://");
    let distrusts = wirefall(["subscribe", &url]).wait().expect(3);
    assert!(
        distrusts
            .stderr
            .contains("tls: 127.0.0.1: invalid peer certificate"),
        "{}",
        distrusts.stderr
    );
    let certificate = certificate();
    let certificate = certificate.to_str().expect("a path in UTF-8");
    let mut subscribe = wirefall(["subscribe", &url, "--ca", certificate, "--limit", "3"]);
    wait_until("three records", || {
        assert!(run.write(b"{\"n\":0}\n"));
        !subscribe.is_running()
    });
    let ended = subscribe.wait().expect(0);
    assert_eq!(ended.stdout, "{\"n\":0}\n".repeat(3));
}

/// As where an authority is replaced: the run behind it shows another certificate from one restart on.
#[test]
fn subscribe_trusts_what_its_file_of_authorities_says_today() {
    let folder = Folder::new();
    let place = |from: &str, to: &str| {
        let from = root().join(from);
        folder.write(to, std::fs::read(from).expect("a file"));
    };
    let serve = |certificate: &str, key: &str, address: SocketAddr| {
        place(certificate, "port.pem");
        place(key, "port.key");
        let tls = "tls: { cert: port.pem, key: port.key }";
        pipelines::publish_at(&folder, address, &[tls]);
        let mut run = pipelines::start(&folder);
        run.wait_for_line("stream  ");
        run
    };
    let address = free_address();
    let mut run = serve(
        "runtime/tests/tls/server.pem",
        "runtime/tests/tls/server.key",
        address,
    );
    place("runtime/tests/tls/ca.pem", "trust.pem");
    let url = format!("wss://localhost:{}/v1/streams/test", address.port());
    let trust = folder.path("trust.pem");
    let trust = trust.to_str().expect("a path in UTF-8");
    let subscribe = wirefall(["subscribe", &url, "--ca", trust]);
    wait_until("a record", || {
        assert!(run.write(b"{\"of\":1}\n"));
        subscribe.stdout().contains("1")
    });
    run.kill();
    run = serve(
        "tests/peers/localhost.pem",
        "tests/peers/localhost.key",
        address,
    );
    wait_until("it is not trusted", || {
        subscribe.stderr().contains("UnknownIssuer")
    });
    place("tests/peers/localhost.pem", "trust.pem");
    wait_until("a record of the other run", || {
        assert!(run.write(b"{\"of\":2}\n"));
        subscribe.stdout().contains("2")
    });
    subscribe.signal(Signal::Terminate);
    subscribe.wait().expect(0);
}

/// At the start and when it comes, and no more once it is renewed.
#[test]
fn a_certificate_that_has_ended_is_warned_of() {
    let folder = Folder::new();
    let place = |from: &str, to: &str| {
        let from = root().join("runtime/tests/tls").join(from);
        folder.write(to, std::fs::read(from).expect("a file"));
    };
    place("ended.pem", "port.pem");
    place("server.key", "port.key");
    let tls = "tls: { cert: port.pem, key: port.key }";
    let pipeline = pipelines::publish(&folder, &[tls, "at_end: exit"]);
    let check = ["check", "--connect", pipeline.to_str().expect("UTF-8")];
    let told = "port.pem ended at 2021-01-01T00:00:00Z, and clients refuse it: renew it";
    let checked = wirefall(check).wait().expect(3);
    assert!(checked.stdout.contains(told), "{}", checked.stdout);
    let mut run = pipelines::start(&folder);
    wait_until("the warning", || run.stderr().contains(told));
    let renewals = |run: &Process| run.stderr().matches("was renewed").count();
    let warnings = |log: &str| log.matches(told).count();
    place("server.pem", "port.pem");
    wait_until("the renewal", || renewals(&run) == 1);
    assert_eq!(warnings(&run.stderr()), 1);
    place("ended.pem", "port.pem");
    wait_until("another warning", || warnings(&run.stderr()) == 2);
    place("server.pem", "port.pem");
    wait_until("another renewal", || renewals(&run) == 3);
    run.close_stdin();
    let ended = run.wait().expect(0);
    assert_eq!(warnings(&ended.stderr), 2, "{}", ended.stderr);
    wirefall(check).wait().expect(0);
}

/// Which file, and what to do (I6).
#[test]
fn i6_a_certificate_that_is_not_there_is_told_at_the_start() {
    let folder = Folder::new();
    let tls = "tls: { cert: port.pem, key: port.key }";
    let pipeline = pipelines::publish(&folder, &[tls]);
    let pipeline = pipeline.to_str().expect("UTF-8");
    let ran = wirefall(["run", pipeline]).wait().expect(3).stderr;
    let checked = ["check", "--connect", pipeline];
    let checked = wirefall(checked).wait().expect(3).stdout;
    for told in [ran, checked] {
        for part in ["port.pem", "`tls.key` that of its key", "readable"] {
            assert!(told.contains(part), "{told}");
        }
    }
}

#[test]
fn a_run_that_publishes_nothing_tells_of_nothing_delivered() {
    let (mut run, _) = run(&Folder::new(), &["at_end: exit"]);
    run.close_stdin();
    let ended = run.wait().expect(0);
    assert_eq!(ended.account("published"), 0);
    assert!(!ended.stderr.contains("delivered 0"), "{}", ended.stderr);
}

#[test]
fn subscribe_says_what_is_wrong() {
    let nobody = wirefall_tests::peers::free_address();
    let ended = wirefall(["subscribe", &format!("ws://{nobody}/")]).wait();
    let ended = ended.expect(3);
    assert!(
        ended.stderr.contains("does the pipeline run?"),
        "{}",
        ended.stderr
    );
    let ended = wirefall(["subscribe", "http://localhost/"])
        .wait()
        .expect(2);
    assert!(
        ended.stderr.contains("is written `ws://`"),
        "{}",
        ended.stderr
    );

    let ended = wirefall(["subscribe", "ws://localhost/", "--key", ""]).wait();
    assert!(
        ended.expect(2).stderr.contains("1 to 256 bytes"),
        "before it dials"
    );

    let folder = Folder::new();
    let (_run, url) = run(&folder, &[]);
    let ended = wirefall(["subscribe", &url.replace("streams/", "stream/")])
        .wait()
        .expect(3);
    assert!(ended.stderr.contains("404"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("/v1/streams/test"),
        "it tells the right path: {}",
        ended.stderr
    );
}

#[test]
fn a_signal_tells_subscribers_to_come_again() {
    let folder = Folder::new();
    let (mut run, url) = run(&folder, &[]);
    let test = "a_signal_closes_subscribers";
    let Some(subscriber) = subscriber(test, Language::Python, &url) else {
        return;
    };
    write_records(&mut run, 100);
    wait_until("100 records", || numbers(&subscriber.stdout()).len() == 100);
    run.signal(Signal::Terminate);
    let ended = subscriber.wait().expect(0);
    assert!(
        ended.stderr.contains("closed 1012 restart"),
        "{}",
        ended.stderr
    );
    assert_eq!(run.wait().expect(0).account("published"), 100);
}

#[test]
fn a_foreign_page_cannot_read_the_stream() {
    let folder = Folder::new();
    let (mut run, url) = run(&folder, &[]);
    let Some(browser) = browser("a_foreign_page_cannot_read", &["foreign", &url]) else {
        return;
    };
    let ended = browser.wait().expect(0);
    assert!(
        ended.stdout.contains(r#"seen "refused""#),
        "{}",
        ended.stdout
    );
    run.wait_for_line("may not read this");
}

#[test]
fn i6_an_address_that_others_reach_is_refused_before_anything_runs() {
    let folder = Folder::new();
    let pipeline = pipelines::publish(&folder, &[]);
    let text = folder
        .read("pipeline.yaml")
        .replace("127.0.0.1:0", "0.0.0.0:9400");
    std::fs::write(&pipeline, text).expect("written");
    let ended = wirefall(["check".as_ref(), pipeline.as_os_str()]).wait();
    let ended = ended.expect(2);
    let said = ended.stdout + &ended.stderr;
    assert!(said.contains("reached from other machines"), "{said}");
}

#[test]
fn the_port_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = Folder::new();
    let pipeline = pipelines::publish(&folder, &[]);
    let text = folder
        .read("pipeline.yaml")
        .replace("127.0.0.1:0", &address);
    std::fs::write(&pipeline, text).expect("written");
    let mut run: Command = command(["run".as_ref(), pipeline.as_os_str()]);
    let ended = Process::start(run.stdin(Stdio::null())).wait().expect(3);
    assert!(
        ended.stderr.contains("another process does"),
        "{}",
        ended.stderr
    );
    let check = ["check".as_ref(), "--connect".as_ref(), pipeline.as_os_str()];
    let ended = wirefall(check).wait().expect(3);
    let step = "failed listen: cannot listen on";
    assert!(ended.stdout.contains(step), "{}", ended.stdout);
}

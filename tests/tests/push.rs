//! Client mode: what confirms, what is refused, and how a run ends. What breaks on the way is in
//! `faults.rs`.

use wirefall_tests::peers::{Language, Receiver, free_address};
use wirefall_tests::pushing::{
    RATE, RECORDS, all_delivered, memory_is_flat, push, receive, received, wait_for_records,
};
use wirefall_tests::records::all_there;
use wirefall_tests::tiny::Tiny;
use wirefall_tests::{Fault, Folder, Proxy, Signal, pipelines, wirefall, write_numbered};

#[test]
fn i1_pongs_of_real_peers_confirm() {
    for language in [Language::Python, Language::Node] {
        let folder = Folder::new();
        let out = folder.path("out.ndjson");
        let test = format!("pongs_of_real_peers_confirm ({language:?})");
        let Some(receiver) = Receiver::start(&test, language, &out, &[]) else {
            continue;
        };
        all_delivered(
            push(&folder, receiver.address, RECORDS, &[]).wait(),
            RECORDS,
        );
        wait_for_records(&folder, RECORDS as usize);
        assert_eq!(all_there(&received(&folder), RECORDS), 0, "nothing twice");
    }
}

#[test]
fn a_peer_that_is_not_there_yet_is_waited_for() {
    let folder = Folder::new();
    let address = free_address();
    let run = push(&folder, address, 1000, &[]);
    // Memory stays flat however often it dials.
    let dialled = std::net::TcpListener::bind(address).expect("it was free");
    for _ in 0..10 {
        drop(dialled.accept().expect("a connection"));
    }
    drop(dialled);
    let out = folder.path("out.ndjson");
    let (address, out) = (address.to_string(), out.display().to_string());
    let mut receiver = wirefall(["receive", &address, "--out", &out]);
    receiver.wait_for_line("receiving on");
    all_delivered(run.wait(), 1000);
    all_there(&received(&folder), 1000);
}

/// Nothing could ever be confirmed: the run fails (exit code 1), says what to do instead, and keeps
/// what it read with the source.
#[test]
fn a_peer_that_answers_no_ping_or_wrongly_is_refused_loudly() {
    let message = "use `ack: message` if it answers";
    for (fault, ack, said, advised) in [
        ("--wrong-pongs", "ack: pong", "(4 other Pongs came)", true),
        ("--no-pong", "ack: pong", "(0 other Pongs came)", true),
        // What is in use already is not advised.
        ("--no-pong", "ack: message", "(0 other Pongs came)", false),
    ] {
        let folder = Folder::new();
        let (_receiver, address) = receive(&folder, &["--ack", "message", fault]);
        let ended = push(&folder, address, 1000, &[ack]).wait().expect(1);
        for part in [
            "does not answer a Ping with its payload",
            said,
            "use `ack: written`",
        ] {
            assert!(ended.stderr.contains(part), "`{part}`: {}", ended.stderr);
        }
        assert_eq!(ended.stderr.contains(message), advised, "{}", ended.stderr);
        assert_eq!(ended.account("delivered"), 0, "{}", ended.stderr);
        assert!(ended.account("unconfirmed") > 0, "{}", ended.stderr);
        assert!(received(&folder).is_empty(), "no record before the answer");
    }
}

#[test]
fn a_refusal_before_the_first_success_ends_the_run() {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &["--status", "403"]);
    let ended = push(&folder, address, 1000, &[]).wait().expect(3);
    assert!(ended.stderr.contains("403"), "{}", ended.stderr);
}

#[test]
fn i1_a_signal_sends_what_was_read_and_the_next_run_goes_on() {
    for signal in [Signal::Terminate, Signal::Interrupt] {
        let folder = Folder::new();
        let (_receiver, address) = receive(&folder, &[]);
        let run = push(&folder, address, RECORDS, &[]);
        wait_for_records(&folder, RECORDS as usize / 4);
        run.signal(signal);
        let first = run.wait().expect(0);
        memory_is_flat(&first);
        let read = first.account("read");
        assert!(read < RECORDS, "the signal came in mid-run");
        assert_eq!(first.account("delivered"), read);
        assert_eq!(first.account("unconfirmed"), 0);
        assert_eq!(all_there(&received(&folder), read), 0);
        let pipeline = folder.path("pipeline.yaml");
        let second = wirefall(["run".as_ref(), pipeline.as_os_str()]).wait();
        all_delivered(second, RECORDS - read);
        assert_eq!(all_there(&received(&folder), RECORDS), 0, "nothing twice");
    }
}

#[test]
fn i2_two_signals_leave_at_once_and_say_what_is_unconfirmed() {
    for (first, second) in [
        (Signal::Terminate, Signal::Terminate),
        (Signal::Interrupt, Signal::Interrupt),
        (Signal::Interrupt, Signal::Terminate),
    ] {
        let folder = Folder::new();
        let (_receiver, address) = receive(&folder, &[]);
        let proxy = Proxy::start(address);
        // Longer than any wait of a test: only the second signal ends this run.
        let patient = ["confirm_timeout: 1h", "write_timeout: 1h"];
        write_numbered(&folder.path("input.ndjson"), RECORDS);
        let pipeline = pipelines::push(&folder, proxy.address(), &[RATE], &patient);
        let service = "pipeline_id: test\n  shutdown_timeout: 1h";
        let text = folder.read("pipeline.yaml");
        folder.write("pipeline.yaml", text.replace("pipeline_id: test", service));
        let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
        wait_for_records(&folder, 1000);
        proxy.fault(Fault::HalfOpen);
        run.signal(first);
        run.wait_for_line("stopping");
        run.signal(second);
        let ended = run.wait().expect(1);
        memory_is_flat(&ended);
        assert!(ended.account("unconfirmed") > 0, "{}", ended.stderr);
        // What is unconfirmed is read again by the next run.
        proxy.fault(Fault::None);
        let again = wirefall(["run".as_ref(), pipeline.as_os_str()]).wait();
        again.expect(0);
        all_there(&received(&folder), RECORDS);
    }
}

#[test]
fn i1_a_kill_of_wirefall_itself_loses_nothing() {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &[]);
    let run = push(&folder, address, RECORDS, &[]);
    wait_for_records(&folder, RECORDS as usize / 2);
    run.signal(Signal::Kill);
    assert_eq!(run.wait().code, None);
    let pipeline = folder.path("pipeline.yaml");
    wirefall(["run".as_ref(), pipeline.as_os_str()])
        .wait()
        .expect(0);
    let seen = received(&folder);
    let missing = (0..RECORDS).find(|n| !seen.contains(n));
    assert_eq!(missing, None);
}

#[test]
fn the_end_of_standard_input_ends_the_run() {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &[]);
    let sink = [format!("url: ws://{address}/")];
    let pipeline = pipelines::pipeline(&folder, "stdin", &[], &sink, "");
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    run.write(b"{\"n\":0,}\n{\"n\":1,}\n{\"n\":2,}");
    run.close_stdin();
    all_delivered(run.wait(), 3);
    assert_eq!(received(&folder), [0, 1, 2]);
}

#[test]
fn i1_a_full_disk_under_the_sink_ends_the_run_with_whole_lines() {
    let folder = Folder::new();
    let disk = folder.path("disk");
    let Some(_disk) = Tiny::mount(&disk, 64) else {
        return;
    };
    write_numbered(&folder.path("input.ndjson"), 5000);
    let pipeline = folder.write(
        "pipeline.yaml",
        "service: { pipeline_id: full }\n\
         source: { driver: file, config: { path: input.ndjson } }\n\
         sink: { driver: file, config: { path: disk/out.ndjson } }\n",
    );
    let ended = wirefall(["run".as_ref(), pipeline.as_os_str()])
        .wait()
        .expect(1);
    assert!(ended.stderr.contains("No space left"), "{}", ended.stderr);
    memory_is_flat(&ended);
    let kept = folder.read("disk/out.ndjson");
    assert!(kept.is_empty() || kept.ends_with('\n'), "a torn line");
    assert!(ended.account("delivered") <= kept.matches('\n').count() as u64);
}

#[test]
fn i1_a_full_disk_under_the_failover_ends_the_run_and_commits_nothing_beyond() {
    let folder = Folder::new();
    let disk = folder.path("disk");
    let Some(_disk) = Tiny::mount(&disk, 64) else {
        return;
    };
    let (_receiver, address) = receive(&folder, &[]);
    write_numbered(&folder.path("input.ndjson"), 5000);
    let pipeline = {
        let source = ["path: input.ndjson".to_owned()];
        // No record fits its frame: each goes to the failover.
        let sink = [format!("url: ws://{address}/"), "frame_max: 64B".to_owned()];
        let more = "failover:\n  driver: file\n  config: { path: disk/failover.ndjson }\n";
        pipelines::pipeline(&folder, "file", &source, &sink, more)
    };
    let ended = wirefall(["run".as_ref(), pipeline.as_os_str()])
        .wait()
        .expect(1);
    assert!(ended.stderr.contains("No space left"), "{}", ended.stderr);
    memory_is_flat(&ended);
    assert!(
        ended.stderr.contains("not acknowledged"),
        "{}",
        ended.stderr
    );
    let kept = folder.read("disk/failover.ndjson");
    let kept = kept.matches('\n').count() as u64;
    assert!(ended.account("failed over") <= kept, "{}", ended.stderr);
    assert_eq!(ended.account("delivered"), 0);
}

//! Client mode: peers that break, are killed, lie or stall. Whatever happens, nothing is lost.
//!
//! The receivers of Python and Node write each record to a file before they read on, so the file is
//! what was really received.

use std::net::SocketAddr;
use std::path::Path;

use wirefall_tests::peers::{Language, Nginx, Receiver, free_address, skip};
use wirefall_tests::process::Ended;
use wirefall_tests::records::all_there;
use wirefall_tests::{
    Fault, Folder, Process, Proxy, Signal, numbers, pipelines, wait_until, wirefall, write_numbered,
};

const RECORDS: u64 = 20_000;
/// Slow enough that a fault comes in mid-run, fast enough that a run takes seconds.
const RATE: &str = "rate: 10000";
/// Give a silent peer up soon.
const IMPATIENT: [&str; 3] = [
    "confirm_timeout: 1s",
    "write_timeout: 1s",
    "ping_interval: 1s",
];
/// Resident memory that no run may pass, in KiB.
const RSS_KIB_MAX: u64 = 120 * 1024;

/// Starts a run that pushes numbered records to `address`.
fn push(folder: &Folder, address: SocketAddr, records: u64, sink: &[&str]) -> Process {
    write_numbered(&folder.path("input.ndjson"), records);
    let sink = [&IMPATIENT, sink].concat();
    let pipeline = pipelines::push(folder, address, &[RATE], &sink);
    wirefall(["run".as_ref(), pipeline.as_os_str()])
}

/// Starts `wirefall receive` with these arguments; it writes to `out.ndjson`.
fn receive(folder: &Folder, arguments: &[&str]) -> (Process, SocketAddr) {
    let out = folder.path("out.ndjson");
    let mut words = vec!["receive".as_ref(), "127.0.0.1:0".as_ref()];
    words.extend(["--out".as_ref(), out.as_os_str()]);
    words.extend(arguments.iter().map(|word| std::ffi::OsStr::new(*word)));
    let mut receiver = wirefall(words);
    let address = receiver.wait_for_line("receiving on ws://");
    let address = address.split(',').next().and_then(|a| a.parse().ok());
    (receiver, address.expect("an address"))
}

fn received(folder: &Folder) -> Vec<u64> {
    numbers(&folder.read("out.ndjson"))
}

fn wait_for_records(folder: &Folder, count: usize) {
    wait_until("records at the receiver", || {
        received(folder).len() >= count
    });
}

/// The run is at its end, and says that every record is delivered (I2).
#[track_caller]
fn all_delivered(ended: Ended, records: u64) {
    let ended = ended.expect(0);
    assert_eq!(ended.account("delivered"), records, "{}", ended.stderr);
    assert_eq!(ended.account("unconfirmed"), 0, "{}", ended.stderr);
}

fn a_kill_loses_nothing(language: Language, kills: usize) {
    let folder = Folder::new();
    let test = format!("a_kill_loses_nothing ({language:?})");
    let out = folder.path("out.ndjson");
    let Some(mut receiver) = Receiver::start(&test, language, &out, true) else {
        return;
    };
    let run = push(&folder, receiver.address, RECORDS, &["ack: message"]);
    let step = RECORDS as usize / (kills + 1);
    for kill in 1..=kills {
        wait_for_records(&folder, kill * step);
        receiver.restart();
        assert!(run.rss_kib() < RSS_KIB_MAX, "{} KiB", run.rss_kib());
    }
    all_delivered(run.wait(), RECORDS);
    all_there(&received(&folder), RECORDS);
}

#[test]
fn i1_ten_kills_of_a_python_peer_lose_nothing() {
    a_kill_loses_nothing(Language::Python, 10);
}

#[test]
fn i1_ten_kills_of_a_node_peer_lose_nothing() {
    a_kill_loses_nothing(Language::Node, 10);
}

#[test]
fn i1_pongs_of_real_peers_confirm() {
    for language in [Language::Python, Language::Node] {
        let folder = Folder::new();
        let out = folder.path("out.ndjson");
        let test = format!("pongs_of_real_peers_confirm ({language:?})");
        let Some(receiver) = Receiver::start(&test, language, &out, false) else {
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
fn i1_through_nginx_a_kill_of_the_peer_behind_it_loses_nothing() {
    let folder = Folder::new();
    let test = "through_nginx_a_kill_loses_nothing";
    let out = folder.path("out.ndjson");
    let Some(mut receiver) = Receiver::start(test, Language::Python, &out, true) else {
        return;
    };
    let Some(nginx) = Nginx::start(test, receiver.address) else {
        return;
    };
    let run = push(&folder, nginx.address, RECORDS, &["ack: message"]);
    for quarter in 1..4 {
        wait_for_records(&folder, RECORDS as usize * quarter / 4);
        receiver.restart();
    }
    all_delivered(run.wait(), RECORDS);
    all_there(&received(&folder), RECORDS);
}

/// Breaks the line in mid-run again and again, for as long as `lifted` says, and looks that nothing is
/// lost: `receive` handles a record before it reads on, so not with Pongs either.
fn a_fault_loses_nothing(fault: Fault, lifted: impl Fn(&Proxy, &mut Process)) {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &[]);
    let proxy = Proxy::start(address);
    let mut run = push(&folder, proxy.address(), RECORDS, &[]);
    for round in 1..=5 {
        // The furthest record, since what was sent again says nothing about how far the run is.
        wait_until("a part of the records", || {
            let furthest = received(&folder).into_iter().max();
            furthest >= Some(RECORDS * round / 7) || !run.is_running()
        });
        proxy.fault(fault);
        lifted(&proxy, &mut run);
        proxy.fault(Fault::None);
        assert!(run.rss_kib() < RSS_KIB_MAX, "{} KiB", run.rss_kib());
    }
    let ended = run.wait();
    if fault != Fault::Delay {
        assert!(ended.account("reconnects") >= 1, "{}", ended.stderr);
    }
    all_delivered(ended, RECORDS);
    all_there(&received(&folder), RECORDS);
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

#[test]
fn i1_the_list_of_breaks_of_receive_itself() {
    for how in ["reset", "close", "refuse-503"] {
        let folder = Folder::new();
        let breaks = ["--break-every", "2000", "--break-how", how];
        let (_receiver, address) = receive(&folder, &breaks);
        all_delivered(push(&folder, address, RECORDS, &[]).wait(), RECORDS);
        all_there(&received(&folder), RECORDS);
    }
}

/// The README's promise: kill and restart the receiver as often as you like. It handles a record before
/// it reads on, so nothing at all is lost with `pong`, and the account says what was sent twice.
#[test]
fn i1_a_receiver_killed_and_restarted_five_times_loses_nothing() {
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
    for kill in 1..=5 {
        wait_for_records(&folder, kill * RECORDS as usize / 7);
        receiver.kill();
        receiver = start();
    }
    let ended = run.wait();
    let told = ended.stderr.clone();
    all_delivered(ended, RECORDS);
    // What a kill cut in two was not confirmed: it came again, behind its first part.
    let text = folder.read("out.ndjson");
    let last = |line: &str| line.rfind("{\"n\":").map(|start| line[start..].to_owned());
    let lines: std::collections::BTreeSet<String> = text.lines().filter_map(last).collect();
    assert_eq!(lines.len() as u64, RECORDS);
    assert!(told.contains("sent again"), "{told}");
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
        assert!(run.rss_kib() < RSS_KIB_MAX, "{} KiB", run.rss_kib());
    }
    drop(dialled);
    let out = folder.path("out.ndjson");
    let (address, out) = (address.to_string(), out.display().to_string());
    let mut receiver = wirefall(["receive", &address, "--out", &out]);
    receiver.wait_for_line("receiving on");
    all_delivered(run.wait(), 1000);
    all_there(&received(&folder), 1000);
}

#[test]
fn a_peer_that_answers_pings_wrongly_is_refused_loudly() {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &["--wrong-pongs"]);
    let ended = push(&folder, address, 1000, &[]).wait();
    assert_ne!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("Pong"), "{}", ended.stderr);
    assert!(ended.account("unconfirmed") > 0, "{}", ended.stderr);
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
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &[]);
    let proxy = Proxy::start(address);
    let patient = ["confirm_timeout: 1h", "write_timeout: 1h"];
    write_numbered(&folder.path("input.ndjson"), RECORDS);
    let pipeline = pipelines::push(&folder, proxy.address(), &[RATE], &patient);
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    wait_for_records(&folder, 1000);
    proxy.fault(Fault::HalfOpen);
    run.signal(Signal::Terminate);
    run.wait_for_line("stopping");
    run.signal(Signal::Terminate);
    let ended = run.wait().expect(1);
    assert!(ended.account("unconfirmed") > 0, "{}", ended.stderr);
    // What is unconfirmed is read again by the next run.
    proxy.fault(Fault::None);
    let again = wirefall(["run".as_ref(), pipeline.as_os_str()]).wait();
    again.expect(0);
    all_there(&received(&folder), RECORDS);
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

/// Mounts a tiny file system for a test, where that is allowed; unmounted when dropped.
struct Tiny<'a>(&'a Path);

impl<'a> Tiny<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir(at).expect("a folder");
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(at);
        let mounted = mount.output().is_ok_and(|mount| mount.status.success());
        mounted.then_some(Self(at))
    }
}

impl Drop for Tiny<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn i1_a_full_disk_under_the_failover_ends_the_run_and_commits_nothing_beyond() {
    let folder = Folder::new();
    let disk = folder.path("disk");
    let Some(_disk) = Tiny::mount(&disk) else {
        let _: Option<()> = skip(
            "a_full_disk_under_the_failover",
            "the right to mount a tmpfs",
        );
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

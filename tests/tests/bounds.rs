//! What is bounded (I4): memory while nobody takes the records, and the workers.

use wirefall_tests::pipelines::plugin;
use wirefall_tests::pushing::{IMPATIENT, all_delivered, receive, received, run};
use wirefall_tests::records::{all_there, numbered, write_padded};
use wirefall_tests::{Fault, Folder, Process, Proxy, wait_for, wait_until, wirefall};

const RECORDS: u64 = 150_000;
/// Of each record; with its name and its newline there are some 80 MB in all.
const PAD: usize = 510;
/// What the journal keeps, by default. The source cannot be held back before it is full.
const JOURNAL_BYTES: u64 = 8 << 20;
/// The journal, the batches between source and journal (25 of at most 512 records), and what the
/// source reads ahead: nothing else may hold records.
const AHEAD_BYTES_MAX: u64 = JOURNAL_BYTES + (25 * 512 * 600) + (1 << 20);
/// Resident memory that may never be passed, in KiB. Some 31 MiB are seen.
const PEAK_KIB_MAX: u64 = 48 * 1024;

/// Waits until the run reads no more, although it dials on: the same position in its input over so
/// many attempts to connect. Returns that position.
fn held_back(run: &Process, proxy: &Proxy, folder: &Folder) -> u64 {
    const DIALS: u64 = 3;
    let input = folder.path("input.ndjson");
    let (mut before, mut dialled) = (None, proxy.accepted());
    wait_for("a source that is held back", || {
        if proxy.accepted() < dialled + DIALS {
            return None;
        }
        let now = run.position_in(&input).filter(|now| *now >= JOURNAL_BYTES);
        let held = now.filter(|_| now == before);
        (before, dialled) = (now, proxy.accepted());
        held
    })
}

#[test]
fn i4_memory_is_flat_while_the_peer_is_down_and_then_everything_arrives() {
    let folder = Folder::new();
    write_padded(&folder.path("input.ndjson"), RECORDS, PAD);
    let (_receiver, address) = receive(&folder, &[]);
    let proxy = Proxy::start(address);
    proxy.fault(Fault::Reset);
    let mut run = run(&folder, proxy.address(), &[], &IMPATIENT);
    let refused_at = held_back(&run, &proxy, &folder);
    assert!(refused_at <= AHEAD_BYTES_MAX, "{refused_at} bytes read");
    // It takes a part, then stays connected and takes no byte more.
    proxy.fault(Fault::None);
    wait_until("a part at the peer", || proxy.passed() > 2 << 20);
    proxy.fault(Fault::Stall);
    let stalled_at = held_back(&run, &proxy, &folder);
    let peak_kib = run.peak_rss_kib();
    eprintln!("held back at {refused_at} and {stalled_at} bytes; peak {peak_kib} KiB");
    assert!(peak_kib < PEAK_KIB_MAX, "{peak_kib} KiB");
    proxy.fault(Fault::None);
    wait_until("the last bytes of the input are read", || {
        let peak_kib = run.peak_rss_kib();
        assert!(peak_kib < PEAK_KIB_MAX, "{peak_kib} KiB");
        run.position_in(&folder.path("input.ndjson")).is_none() || !run.is_running()
    });
    all_delivered(run.wait(), RECORDS);
    all_there(&received(&folder), RECORDS);
}

/// A record that the journal could never take is a rejection like any other, and a batch that its
/// envelopes make larger than the journal is carried in pieces.
#[test]
fn i4_what_is_larger_than_the_journal_is_told_or_cut_and_ends_no_run() {
    const GROWING: u64 = 6000;
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &[]);
    // In an envelope each of these bytes takes six.
    let growing = "\u{1}".repeat(1000);
    let mut input: String = (0..GROWING).map(|_| growing.clone() + "\n").collect();
    input += &"x".repeat(3 << 20);
    input += "\nlast\n";
    folder.write("input.ndjson", input);
    let pipeline = folder.write(
        "pipeline.yaml",
        format!(
            "service: {{ pipeline_id: test, state: state, batch_bytes: 2MiB, batch_size: 65536 }}\n\
             source: {{ driver: file, config: {{ path: input.ndjson, line_max: 4MiB }} }}\n\
             sink: {{ driver: websocket, config: {{ url: \"ws://{address}/\", envelope: true }} }}\n\
             journal: {{ bytes: 4MiB }}\n\
             failover: {{ driver: file, config: {{ path: failover.ndjson }} }}\n"
        ),
    );
    let ended = wirefall(["run".as_ref(), pipeline.as_os_str()]).wait();
    let ended = ended.expect(0);
    assert_eq!(ended.account("delivered"), GROWING + 1, "{}", ended.stderr);
    assert_eq!(ended.account("failed over"), 1, "{}", ended.stderr);
    let failed = folder.read("failover.ndjson");
    assert!(failed.contains("half of `journal.bytes`"), "no such reason");
    let last = folder.read("out.ndjson");
    assert!(last.trim_end().ends_with("\"data\":\"last\"}"));
}

/// Workers are added while their queue is full and let go while it is empty, within the bounds that
/// the pipeline names; whatever their number, nothing is lost and the order stays (I3).
#[test]
fn i3_workers_come_and_go_and_the_order_stays() {
    let folder = Folder::new();
    // A plugin that takes a millisecond or so over each record: the source is always faster.
    let pipeline = folder.write(
        "pipeline.yaml",
        format!(
            "service:\n  pipeline_id: test\n  state: state\n  batch_size: 16\n  \
               scaling: {{ min: 1, max: 4, up_above: 20%, down_below: 10% }}\n\
             source: {{ driver: stdin }}\n\
             processors:\n- driver: wasm\n  config:\n    plugin: {}\n    \
               config: {{ does: flood_log }}\n    limits: {{ log_lines: 0 }}\n\
             sink: {{ driver: file, config: {{ path: out.ndjson }} }}\n",
            plugin("hostile").display()
        ),
    );
    let mut run = wirefall([
        "run".as_ref(),
        pipeline.as_os_str(),
        "--log".as_ref(),
        "debug".as_ref(),
    ]);
    let mut sent = 0;
    let mut feed = |run: &mut Process| {
        let lines: String = (sent..sent + 100).map(|n| numbered(n) + "\n").collect();
        assert!(run.write(lines.as_bytes()), "standard input is read");
        sent += 100;
    };
    wait_until("as many workers as there may be", || {
        feed(&mut run);
        run.stderr().contains("one worker more workers=4")
    });
    // Nothing more comes.
    run.wait_for_line("one worker less workers=1");
    // Those that leave do so behind a batch.
    (0..3).for_each(|_| feed(&mut run));
    run.close_stdin();
    let ended = all_delivered(run.wait(), sent);
    let told = |what| ended.stderr.matches(what).count();
    assert!(told("one worker less") >= 3, "{}", ended.stderr);
    assert!(told("one worker more") >= 3, "{}", ended.stderr);
    for beyond in ["workers=5", "workers=0"] {
        assert_eq!(told(beyond), 0, "{}", ended.stderr);
    }
    assert!(received(&folder).into_iter().eq(0..sent), "once, in order");
}

/// A plugin's lines are in the log, as many of a call as it may have; what was cut is told.
#[test]
fn i4_a_plugin_logs_so_many_lines_a_call() {
    let folder = Folder::new();
    let pipeline = |log_lines: &str| {
        folder.write(
            "pipeline.yaml",
            format!(
                "service: {{ pipeline_id: test }}\nsource: {{ driver: stdin }}\n\
                 processors:\n- driver: wasm\n  config:\n    plugin: {}\n    \
                   config: {{ does: flood_log }}\n    limits: {{ {log_lines} }}\n\
                 sink: {{ driver: stdout }}\n",
                plugin("hostile").display()
            ),
        )
    };
    for (limits, lines) in [("log_lines: 3", 3), ("log_lines: 0", 0), ("", 100)] {
        let pipeline = pipeline(limits);
        let mut run = wirefall(["run".as_ref(), pipeline.as_os_str(), "--json".as_ref()]);
        run.write(b"one\n");
        let ended = run.wait().expect(0);
        assert_eq!(ended.stdout, "one\n");
        let log: Vec<&str> = ended.stderr.lines().collect();
        // In one line each: a newline inside is none of the log's.
        let told = |index: u32| {
            let line = format!("line {index} forged");
            log.iter().filter(|one| one.contains(&line)).count()
        };
        assert!((0..lines).all(|index| told(index) == 1), "{}", ended.stderr);
        assert_eq!(told(lines), 0, "{}", ended.stderr);
        let cut = format!(
            "{} more lines were cut (limits.log_lines: {lines})",
            10_000 - lines
        );
        let of_cut: Vec<_> = log.iter().filter(|one| one.contains(&cut)).collect();
        assert_eq!(of_cut.len(), 1, "{}", ended.stderr);
        assert!(of_cut[0].contains("hostile"), "names the plugin");
    }
}

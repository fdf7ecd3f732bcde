//! Runs that push numbered records to a peer, and what is asked of every one of them.
//!
//! Owns the folder's names: `input.ndjson` is read, `out.ndjson` is what the peer wrote, and
//! `failover.ndjson` is where no good record may go.

use std::ffi::OsStr;
use std::net::SocketAddr;

use crate::process::{Ended, Process, wirefall};
use crate::records::{all_there, last, numbers, write_numbered};
use crate::workspace::Folder;
use crate::{pipelines, wait_until};

/// Records of a run.
pub const RECORDS: u64 = 20_000;
/// Slow enough that a fault comes in mid-run, fast enough that a run takes seconds.
pub const RATE: &str = "rate: 10000";
/// Most records in flight: a quarter of a run or so, since one window may come again at each break.
pub const WINDOW: u64 = 4000;
/// Give a silent peer up soon.
pub const IMPATIENT: [&str; 4] = [
    "connect_timeout: 1s",
    "confirm_timeout: 1s",
    "write_timeout: 1s",
    "ping_interval: 1s",
];
/// Resident memory that no run may ever pass, in KiB. Some 31 MiB are seen.
const RSS_KIB_MAX: u64 = 64 * 1024;

/// A failover beside the pipeline.
const FAILOVER: &str = "failover:\n  driver: file\n  config: { path: failover.ndjson }\n";

/// Starts a run that pushes numbered records to `address`, at [`RATE`], in a [`WINDOW`], and
/// [`IMPATIENT`].
pub fn push(folder: &Folder, address: SocketAddr, records: u64, sink: &[&str]) -> Process {
    let window = window();
    let sink = [&IMPATIENT, &[window.as_str()][..], sink].concat();
    push_with(folder, address, records, &[RATE], &sink)
}

/// The same, but the records come on standard input, as the test feeds them.
pub fn push_fed(folder: &Folder, address: SocketAddr, sink: &[&str]) -> Process {
    let window = window();
    let sink = [&IMPATIENT, &[window.as_str()][..], sink].concat();
    let pipeline = pipelines::pipeline(
        folder,
        "stdin",
        &[],
        &pipelines::to(address, &sink),
        FAILOVER,
    );
    wirefall(["run".as_ref(), pipeline.as_os_str()])
}

fn window() -> String {
    format!("window: {{ records: {WINDOW} }}")
}

/// The same, with these lines in the configs of the source and the sink.
pub fn push_with(
    folder: &Folder,
    address: SocketAddr,
    records: u64,
    source: &[&str],
    sink: &[&str],
) -> Process {
    write_numbered(&folder.path("input.ndjson"), records);
    run(folder, address, source, sink)
}

/// The same, with an `input.ndjson` that is there already.
pub fn run(folder: &Folder, address: SocketAddr, source: &[&str], sink: &[&str]) -> Process {
    let pipeline = pipelines::push(folder, address, source, sink);
    folder.write("pipeline.yaml", folder.read("pipeline.yaml") + FAILOVER);
    wirefall(["run".as_ref(), pipeline.as_os_str()])
}

/// Starts `wirefall receive` with these arguments; it writes to `out.ndjson`.
pub fn receive(folder: &Folder, arguments: &[&str]) -> (Process, SocketAddr) {
    let out = folder.path("out.ndjson");
    let mut words = vec!["receive".as_ref(), "127.0.0.1:0".as_ref()];
    words.extend(["--out".as_ref(), out.as_os_str()]);
    words.extend(arguments.iter().map(|word| OsStr::new(*word)));
    let mut receiver = wirefall(words);
    let address = receiver.wait_for_line("receiving on ws://");
    let address = address.split(',').next().and_then(|a| a.parse().ok());
    (receiver, address.expect("an address"))
}

/// What the peer wrote until now.
pub fn received(folder: &Folder) -> Vec<u64> {
    numbers(&folder.read("out.ndjson"))
}

/// Waits until the peer wrote so many records.
pub fn wait_for_records(folder: &Folder, count: usize) {
    wait_until("records at the receiver", || {
        received(folder).len() >= count
    });
}

/// Waits until the peer wrote this record: what was sent again says nothing about how far the run is, so
/// the furthest record does.
pub fn wait_for_record(folder: &Folder, run: &mut Process, number: u64) {
    wait_until("a part of the records", || {
        last(&folder.read("out.ndjson")) >= Some(number) || !run.is_running()
    });
}

/// The run is at its end, and says that every record is delivered and none failed over (I2).
#[track_caller]
pub fn all_delivered(ended: Ended, records: u64) -> Ended {
    let ended = ended.expect(0);
    assert_eq!(ended.account("delivered"), records, "{}", ended.stderr);
    assert_eq!(ended.account("unconfirmed"), 0, "{}", ended.stderr);
    assert_eq!(ended.account("failed over"), 0, "{}", ended.stderr);
    memory_is_flat(&ended);
    ended
}

/// All of [`RECORDS`] is delivered and there, and the account tells what came twice: a record that was
/// sent again and did not arrive is told too, so it may be more, but no more than a window a break.
/// Returns how many came twice.
#[track_caller]
pub fn nothing_is_lost(ended: Ended, folder: &Folder) -> u64 {
    let ended = all_delivered(ended, RECORDS);
    let twice = all_there(&received(folder), RECORDS);
    sent_again_is_told(&ended, twice);
    twice
}

/// See [`nothing_is_lost`].
#[track_caller]
pub fn sent_again_is_told(ended: &Ended, twice: u64) {
    let again = ended.account_or_none("sent again");
    assert!(again >= twice, "{twice} came twice: {}", ended.stderr);
    let most = ended.account_or_none("reconnects") * WINDOW;
    assert!(again <= most, "beyond a window a break: {}", ended.stderr);
}

/// The run never took more memory than any run may.
#[track_caller]
pub fn memory_is_flat(ended: &Ended) {
    memory_is_flat_beside(ended, 0);
}

/// The same, beside so much that a plugin was allowed.
#[track_caller]
pub fn memory_is_flat_beside(ended: &Ended, plugin_kib: u64) {
    let (peak_kib, most) = (ended.peak_rss_kib, RSS_KIB_MAX + plugin_kib);
    assert!(peak_kib < most, "{peak_kib} KiB; {}", ended.stderr);
}

//! Runs that push numbered records to a peer, and what is asked of every one of them.
//!
//! Owns the folder's names: `input.ndjson` is read, `out.ndjson` is what the peer wrote, and
//! `failover.ndjson` is where no good record may go.

use std::ffi::OsStr;
use std::net::SocketAddr;

use crate::process::{Ended, Process, wirefall};
use crate::records::{numbers, write_numbered};
use crate::workspace::Folder;
use crate::{pipelines, wait_until};

/// Records of a run.
pub const RECORDS: u64 = 20_000;
/// Slow enough that a fault comes in mid-run, fast enough that a run takes seconds.
pub const RATE: &str = "rate: 10000";
/// Give a silent peer up soon.
pub const IMPATIENT: [&str; 4] = [
    "connect_timeout: 1s",
    "confirm_timeout: 1s",
    "write_timeout: 1s",
    "ping_interval: 1s",
];
/// Resident memory that no run may pass, in KiB.
pub const RSS_KIB_MAX: u64 = 120 * 1024;

/// A failover beside the pipeline.
const FAILOVER: &str = "failover:\n  driver: file\n  config: { path: failover.ndjson }\n";

/// Starts a run that pushes numbered records to `address`, at [`RATE`] and [`IMPATIENT`].
pub fn push(folder: &Folder, address: SocketAddr, records: u64, sink: &[&str]) -> Process {
    let sink = [&IMPATIENT, sink].concat();
    push_with(folder, address, records, &[RATE], &sink)
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

/// The run is at its end, and says that every record is delivered and none failed over (I2).
#[track_caller]
pub fn all_delivered(ended: Ended, records: u64) -> Ended {
    let ended = ended.expect(0);
    assert_eq!(ended.account("delivered"), records, "{}", ended.stderr);
    assert_eq!(ended.account("unconfirmed"), 0, "{}", ended.stderr);
    assert_eq!(ended.account("failed over"), 0, "{}", ended.stderr);
    ended
}

//! Records in frames of their own: for a subscriber with a filter, and from a position in mid-frame.
//!
//! Owns the frames that are not shared. Pure. Which records go out alone is the protocol's rule
//! (`protocol::alone`), by which a place is found again. Called by `subscriber`.

use crate::journal::{Chunk, Position};
use crate::sink::framing::{Batching, Framing, push_header};
use crate::sink::websocket::protocol::{Keys, MARK_FRAMES_MAX, alone};

/// Bytes of one write: a subscriber that stalls holds so many, and one record, of its own.
const WRITE_BYTES: usize = 16 * 1024;

/// What was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Every record below is written or was not asked for.
    pub(super) to: Position,
    /// Frames that were written.
    pub(super) frames: u64,
}

/// Appends the frames of the records of `chunk` from `from` on that go out alone to `out`, up to a
/// bound; what comes after those of one chunk is for the next call.
pub(super) fn write(
    chunk: &Chunk,
    from: Position,
    keys: Option<&Keys>,
    framing: &Framing,
    out: &mut Vec<u8>,
) -> Written {
    let opcode = framing.carrier.opcode();
    let opcode = opcode.expect("a server's messages are text or binary");
    let (records, is_taken) = alone(chunk, from, keys);
    let mut written = Written {
        to: from,
        frames: 0,
    };
    let start = out.len();
    for index in records {
        if out.len() - start >= WRITE_BYTES || written.frames >= MARK_FRAMES_MAX {
            break;
        }
        if is_taken(index) {
            let record = chunk.record(index);
            match framing.batch {
                Batching::Record | Batching::Ndjson(_) => {
                    push_header(out, opcode, record.len());
                    out.extend_from_slice(record);
                }
                Batching::JsonArray(_) => {
                    push_header(out, opcode, record.len() + 2);
                    out.push(b'[');
                    out.extend_from_slice(record);
                    out.push(b']');
                }
            }
            written.frames += 1;
        }
        written.to = written.to.plus(1);
    }
    written
}

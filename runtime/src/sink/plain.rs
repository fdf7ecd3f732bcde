//! What the plain sinks share: a record a line, read from the journal and confirmed once it is safe.
//!
//! Owns the loop from the journal to whatever takes lines. Called by `stdout` and `file`.

use std::io;
use std::sync::Arc;

use super::framing::{Batching, Carrier, Framing};
use super::{Delivered, SinkContext};
use crate::journal::{Chunk, Cursor, Followed, Follower};

/// Longest record that a line may be.
const LINE_BYTES_MAX: usize = 256 << 20;

/// How the plain sinks frame: a line each.
pub(super) fn framing() -> Framing {
    Framing {
        carrier: Carrier::Line,
        batch: Batching::Record,
        envelope: false,
        frame_bytes_max: LINE_BYTES_MAX,
    }
}

/// Something that takes lines.
pub(super) trait Lines: Send {
    /// Bytes after which what was written is made safe although there is more to write.
    const UNSAFE_BYTES_MAX: usize;

    /// Takes the lines of a chunk, one frame each.
    fn write(&mut self, chunk: &Chunk) -> impl Future<Output = io::Result<()>> + Send;

    /// Returns when what was written is as safe as it gets here: only then it is confirmed (I1).
    fn make_safe(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// Carries the journal to `lines` until it is closed, or the run is aborted.
pub(super) async fn carry<L: Lines>(
    context: SinkContext,
    mut cursor: Cursor,
    mut lines: L,
) -> io::Result<Delivered> {
    let mut follower = Follower::new(Arc::clone(&context.journal), cursor.position());
    let mut unsafe_bytes = 0;
    loop {
        let chunk = tokio::select! {
            biased;
            () = context.stop.abort.cancelled() => break,
            followed = follower.next() => match followed {
                Followed::Chunk(chunk) => chunk,
                Followed::Lost { .. } => unreachable!("the cursor pins what is not written"),
                Followed::End => break,
            },
        };
        lines.write(&chunk).await?;
        unsafe_bytes += chunk.wire.len();
        if follower.is_at_head() || unsafe_bytes >= L::UNSAFE_BYTES_MAX {
            lines.make_safe().await?;
            unsafe_bytes = 0;
            cursor.advance(chunk.end());
            context.confirmed.send_replace(chunk.end());
        }
    }
    Ok(Delivered {
        confirmed: cursor.position(),
        ..Delivered::default()
    })
}

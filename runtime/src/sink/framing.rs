//! Framing: how outputs become frames.
//!
//! Owns the WebSocket frame header of the shared bytes, batch frames, the envelope and what cannot be
//! framed. Pure. The pipeline drives it before the journal; sinks choose it.

/// How outputs become frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// What carries a frame.
    pub carrier: Carrier,
    /// One record a frame, or several.
    pub batch: Batching,
    /// Wrap each record in `{"id","ts","key","data"}`.
    pub envelope: bool,
    /// Most payload bytes in a frame; a longer record is rejected.
    pub frame_bytes_max: usize,
}

/// What carries a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A WebSocket text message: must be UTF-8.
    Text,
    /// A WebSocket binary message.
    Binary,
    /// A line of a file or of standard output: no header, a newline after each record.
    Line,
}

/// How many records share a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// One record a frame.
    Record,
    /// Records separated by newlines.
    Ndjson(BatchBounds),
    /// A JSON array of records.
    JsonArray(BatchBounds),
}

/// When a batch frame is closed, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchBounds {
    /// Most records.
    pub records_max: usize,
    /// Most payload bytes.
    pub bytes_max: usize,
    /// Longest wait of its first record.
    pub wait: std::time::Duration,
}

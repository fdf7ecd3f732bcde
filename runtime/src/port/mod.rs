//! Ports that others reach: who is let in, by which name, under which TLS.
//!
//! Owns what every listener has in common, its door among it. Knows no stream and no record.
//! Used by the sink that publishes, by the source that is posted to, and by the receiver for trials.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;

pub mod answer;
pub mod door;
pub mod farewell;
pub mod gate;
pub mod hosts;
pub mod keys;
pub mod network;
pub mod news;
pub mod probe;
pub mod tls;
pub mod visitors;

/// Most bytes of a request's head (I4).
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How requests are read: the head of each within `patience`.
pub fn requests(patience: Duration) -> http1::Builder {
    let mut requests = http1::Builder::new();
    requests
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEAD_BYTES_MAX);
    requests
}

/// The tokens of a header that is a list.
pub fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

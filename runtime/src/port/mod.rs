//! Ports that others reach: who is let in, by which name, under which TLS.
//!
//! Owns what every listener has in common, its door among it. Knows no stream and no record.
//! Used by the sink that publishes, by the source that is posted to, and by the receiver for trials.

use http::header::{HeaderMap, HeaderName};

pub mod answer;
pub mod door;
pub mod farewell;
pub mod gate;
pub mod hosts;
pub mod keys;
pub mod news;
pub mod probe;
pub mod tls;
pub mod visitors;

/// The tokens of a header that is a list.
pub fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

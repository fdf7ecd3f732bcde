//! What browsers are served beside the stream: the page, the client that it uses, the stream's status.
//!
//! Owns their bytes, and what a browser lets them do. Never decides who may read them: `http` calls
//! this for requests that it has let in.

use base64::Engine as _;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http_body_util::Full;
use serde_json::json;
use sha2::Digest as _;

use super::Hub;
use crate::port::answer::{Answer, put};
use crate::sink::framing::{Batching, Framing};
use crate::sink::websocket::protocol::{Told, read_position};

/// Where the client is served.
pub(super) const SCRIPT_PATH: &str = "/v1/wirefall.js";
const SCRIPT: &str = include_str!("../../../../../clients/js/wirefall.js");

/// The page at `/`: no address but its own.
pub(super) struct Page {
    html: Bytes,
    policy: HeaderValue,
}

impl Page {
    pub(super) fn new(pipeline: &str, path: &str, framing: &Framing, asks: bool) -> Self {
        let source = include_str!("page.html");
        let hash = |start: &str, end: &str| {
            let start = source.find(start).expect("the page has it") + start.len();
            let end = source.find(end).expect("the page ends it");
            let digest = sha2::Sha256::digest(&source.as_bytes()[start..end]);
            base64::engine::general_purpose::STANDARD.encode(digest)
        };
        // 'self' is the client: nothing else that is served here is a script.
        let policy = format!(
            "default-src 'none'; connect-src 'self'; img-src data:; \
             script-src 'self' 'sha256-{}'; style-src 'sha256-{}'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash("<script type=\"module\">", "</script>"),
            hash("<style>", "</style>")
        );
        Self {
            html: source
                .replace("{{pipeline}}", &escape(pipeline))
                .replace("{{path}}", &escape(path))
                .replace("{{framing}}", framing_name(framing))
                .replace("{{asks}}", if asks { "yes" } else { "no" })
                .into(),
            policy: HeaderValue::try_from(policy).expect("base64 and words are visible ASCII"),
        }
    }

    pub(super) fn answer(&self) -> Answer {
        let mut answer = served(self.html.clone(), "text/html; charset=utf-8");
        put(&mut answer, header::REFERRER_POLICY, "no-referrer");
        let policy = self.policy.clone();
        answer
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, policy);
        answer
    }
}

/// How the page takes a frame apart.
fn framing_name(framing: &Framing) -> &'static str {
    match framing.batch {
        Batching::Record => "record",
        Batching::Ndjson(_) => "ndjson",
        Batching::JsonArray(_) => "json-array",
    }
}

/// The client.
pub(super) fn script() -> Answer {
    served(SCRIPT.into(), "text/javascript; charset=utf-8")
}

/// What a stream does now, as JSON. `behind` counts the records from `?position=` to the newest, and
/// is null for what is no position of this epoch.
pub(super) fn status(hub: &Hub, query: Option<&str>) -> Answer {
    let journal = &hub.context.journal;
    let marks = *journal.marks().borrow();
    let position = query.and_then(|query| query.strip_prefix("position="));
    let behind = match position.map(|text| read_position(text, journal.epoch())) {
        Some(Told::Position(position) | Told::Apart(position)) => {
            Some(marks.durable.since(position))
        }
        Some(Told::Foreign) | None => None,
    };
    let status = json!({
        "stream": hub.context.pipeline,
        "behind": behind,
        "subscribers": hub.context.metrics.subscribers.get(),
        "ended": marks.closed,
    });
    served(status.to_string().into(), "application/json")
}

/// Who has a cursor by name, as JSON: whose it is, whether it is connected, how many records it has not
/// acknowledged, and whether it holds the journal.
pub(super) fn names(hub: &Hub) -> Answer {
    let head = hub.context.journal.marks().borrow().durable;
    let names = hub.names.told().into_iter();
    let names: Vec<_> = names
        .map(|known| {
            json!({
                "name": known.name,
                "credential": known.bookmark.owner.as_deref(),
                "connected": known.is_connected,
                "behind": head.since(known.bookmark.at),
                "holds": known.holds,
            })
        })
        .collect();
    let names = json!({ "names": names });
    served(names.to_string().into(), "application/json")
}

fn served(body: Bytes, kind: &str) -> Answer {
    let mut answer = Answer::new(Full::new(body));
    put(&mut answer, header::CONNECTION, "close");
    put(&mut answer, header::CONTENT_TYPE, kind);
    put(&mut answer, header::CACHE_CONTROL, "no-store");
    put(&mut answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    answer
}

/// Text for an HTML page or attribute.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::framing::Carrier;

    #[test]
    fn the_page_cannot_be_broken_out_of() {
        let framing = Framing {
            carrier: Carrier::Text,
            batch: Batching::Record,
            envelope: false,
            frame_bytes_max: 1,
        };
        let page = Page::new(
            "\"><script>alert(1)</script>",
            "/v1/streams/x",
            &framing,
            true,
        );
        let html = String::from_utf8(page.html.to_vec()).expect("text");
        assert!(!html.contains("<script>alert"));
        assert!(!html.contains("{{"));
    }
}

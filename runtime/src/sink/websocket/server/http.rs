//! Requests: the page, health, and the upgrade of a subscriber.
//!
//! Owns who is let in (Host, Origin, seats) and what is answered. Never writes to a stream: an
//! upgraded connection goes to `subscriber`. Called for each request of the port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use sha2::Digest as _;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Hub;
use super::subscriber::{self, Spoken};
use crate::sink::websocket::handshake::tokens;
use crate::sink::websocket::protocol::{PLAIN, V1};

/// What is answered. Every connection but an upgraded one is for one request: `Connection: close`.
type Answer = Response<Full<Bytes>>;

/// The page at `/`: no address but its own.
pub(super) struct Page {
    html: Bytes,
    policy: HeaderValue,
}

impl Page {
    pub(super) fn new(pipeline: &str, path: &str) -> Self {
        let source = include_str!("page.html");
        let hash = |tag: &str| {
            let start = source.find(&format!("<{tag}>")).expect("the page has it") + tag.len() + 2;
            let end = source.find(&format!("</{tag}>")).expect("the page ends it");
            let digest = sha2::Sha256::digest(&source.as_bytes()[start..end]);
            base64::engine::general_purpose::STANDARD.encode(digest)
        };
        let policy = format!(
            "default-src 'none'; connect-src 'self'; img-src data:; script-src 'sha256-{}'; style-src 'sha256-{}'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash("script"),
            hash("style")
        );
        Self {
            html: source
                .replace("{{pipeline}}", &escape(pipeline))
                .replace("{{path}}", &escape(path))
                .into(),
            policy: HeaderValue::try_from(policy).expect("base64 and words are visible ASCII"),
        }
    }
}

/// Text for an HTML page or attribute.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Answers a request.
pub(super) fn answer(hub: &Arc<Hub>, peer: SocketAddr, request: Request<Incoming>) -> Answer {
    let path = request.uri().path();
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here");
        put(&mut answer, header::ALLOW, "GET, HEAD");
        return answer;
    }
    match path {
        "/healthz" => return text(StatusCode::OK, "alive"),
        "/readyz" if hub.is_ready() => return text(StatusCode::OK, "ready"),
        "/readyz" => return text(StatusCode::SERVICE_UNAVAILABLE, "ending"),
        _ => (),
    }
    if let Err(reason) = allow(request.headers(), &hub.plan.origins) {
        tracing::warn!(%peer, path, "refused: {reason}");
        return text(StatusCode::FORBIDDEN, &reason);
    }
    if path == hub.plan.path {
        subscribe(hub, peer, request).unwrap_or_else(|refusal| *refusal)
    } else if path == "/" {
        page(&hub.page)
    } else {
        let hint = format!("nothing here; the stream is at {}", hub.plan.path);
        text(StatusCode::NOT_FOUND, &hint)
    }
}

/// Whether the request may read: its Host must be this machine by a name that no other page can
/// claim (else a name that is made to point here would do), and a page that asks must be ours or one
/// that is listed.
fn allow(headers: &HeaderMap, origins: &[String]) -> Result<(), String> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .ok_or("the request has no readable Host header")?;
    if !is_loopback(host) {
        return Err(format!(
            "Host `{host}` is not this machine; use localhost or 127.0.0.1"
        ));
    }
    let mut origin = headers.get_all(header::ORIGIN).iter();
    let Some(first) = origin.next() else {
        return Ok(());
    };
    let first = first.to_str().unwrap_or_default();
    let own = first
        .strip_prefix("http://")
        .or_else(|| first.strip_prefix("https://"))
        .is_some_and(|own| own.eq_ignore_ascii_case(host));
    let listed = origins
        .iter()
        .any(|listed| listed.eq_ignore_ascii_case(first));
    if origin.next().is_none() && (own || listed) {
        Ok(())
    } else {
        Err(format!(
            "pages of `{first}` may not read this; `origins:` in the pipeline lists those that may"
        ))
    }
}

/// Whether a Host header names this machine, whatever the port.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = authority.host();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Upgrades a subscriber, or says why not.
fn subscribe(
    hub: &Arc<Hub>,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Answer, Box<Answer>> {
    let key = handshake(&request)?;
    let seat = take_seat(hub)?;
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    put(&mut answer, header::CONNECTION, "Upgrade");
    put(&mut answer, header::UPGRADE, "websocket");
    put(&mut answer, header::SEC_WEBSOCKET_ACCEPT, &key);
    // From the newest on, as of the answer: whoever has read it sees all that is published after it.
    let mut spoken = Spoken::Plain(hub.context.journal.marks().borrow().durable);
    if let Some(chosen) = tokens(request.headers(), header::SEC_WEBSOCKET_PROTOCOL)
        .find(|name| [V1, PLAIN].contains(name))
    {
        put(&mut answer, header::SEC_WEBSOCKET_PROTOCOL, chosen);
        if chosen == V1 {
            spoken = Spoken::V1;
        }
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let upgraded = {
        let hub = Arc::clone(hub);
        async move {
            match upgrade
                .await
                .map(|raw| raw.downcast::<TokioIo<TcpStream>>())
            {
                Ok(Ok(parts)) => {
                    let stream = parts.io.into_inner();
                    subscriber::run(&hub, peer, stream, &parts.read_buf, spoken).await;
                }
                Ok(Err(_)) => unreachable!("connections are served from TokioIo<TcpStream>"),
                Err(error) => tracing::debug!(%peer, "upgrade failed: {error}"),
            }
            drop(seat);
        }
    };
    hub.subscribers.spawn(upgraded);
    Ok(answer)
}

/// The answer to the WebSocket key of a proper handshake.
fn handshake(request: &Request<Incoming>) -> Result<String, Box<Answer>> {
    let headers = request.headers();
    let names = |name, word: &str| tokens(headers, name).any(|one| one.eq_ignore_ascii_case(word));
    if !names(header::UPGRADE, "websocket") || !names(header::CONNECTION, "upgrade") {
        let mut answer = text(
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket stream: connect with ws://",
        );
        put(&mut answer, header::UPGRADE, "websocket");
        put(&mut answer, header::CONNECTION, "Upgrade, close");
        return Err(answer.into());
    }
    if !names(header::SEC_WEBSOCKET_VERSION, "13") {
        let mut answer = text(
            StatusCode::UPGRADE_REQUIRED,
            "WebSocket version 13 is spoken",
        );
        put(&mut answer, header::SEC_WEBSOCKET_VERSION, "13");
        return Err(answer.into());
    }
    match headers.get(header::SEC_WEBSOCKET_KEY) {
        Some(key) if request.method() == Method::GET => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(Box::new(text(
            StatusCode::BAD_REQUEST,
            "a WebSocket handshake is a GET with Sec-WebSocket-Key",
        ))),
    }
}

fn take_seat(hub: &Hub) -> Result<OwnedSemaphorePermit, Box<Answer>> {
    let busy = |reason: &str| {
        let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, reason);
        put(&mut answer, header::RETRY_AFTER, "5");
        Box::new(answer)
    };
    if !hub.is_ready() {
        return Err(busy("the stream is ending"));
    }
    Arc::clone(&hub.seats).try_acquire_owned().map_err(|_| {
        busy(&format!(
            "all {} seats are taken (subscribers_max)",
            hub.plan.subscribers_max
        ))
    })
}

fn page(page: &Page) -> Answer {
    let mut answer = Response::new(Full::new(page.html.clone()));
    put(&mut answer, header::CONNECTION, "close");
    put(
        &mut answer,
        header::CONTENT_TYPE,
        "text/html; charset=utf-8",
    );
    put(&mut answer, header::CACHE_CONTROL, "no-store");
    put(&mut answer, header::REFERRER_POLICY, "no-referrer");
    put(&mut answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    let policy = page.policy.clone();
    answer
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, policy);
    answer
}

fn text(status: StatusCode, message: &str) -> Answer {
    let mut answer = Response::new(Full::new(format!("{message}\n").into()));
    *answer.status_mut() = status;
    put(&mut answer, header::CONNECTION, "close");
    put(
        &mut answer,
        header::CONTENT_TYPE,
        "text/plain; charset=utf-8",
    );
    put(&mut answer, header::CACHE_CONTROL, "no-store");
    answer
}

fn put(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(host: Option<&str>, origins: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().expect("a header"));
        }
        for origin in origins {
            headers.append(header::ORIGIN, origin.parse().expect("a header"));
        }
        allow(&headers, &["https://dashboard.example".to_owned()]).is_ok()
    }

    #[test]
    fn only_this_machine_by_its_own_names_is_a_host() {
        for host in [
            "localhost",
            "LOCALHOST:9400",
            "127.0.0.1:1",
            "[::1]:9400",
            "127.9.9.9",
        ] {
            assert!(allowed(Some(host), &[]), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:9400",
            "127.0.0.1.evil.example",
            "192.168.0.1:9400",
            "0.0.0.0",
            "user@evil.example",
            "",
        ] {
            assert!(!allowed(Some(host), &[]), "{host}");
        }
        assert!(!allowed(None, &[]));
    }

    #[test]
    fn a_foreign_page_is_refused() {
        let host = Some("localhost:9400");
        for origin in ["http://localhost:9400", "https://dashboard.example"] {
            assert!(allowed(host, &[origin]), "{origin}");
        }
        for origin in [
            "http://localhost:8080",
            "http://127.0.0.1:9400",
            "https://evil.example",
            "null",
            "",
            "http://localhost:9400.evil.example",
        ] {
            assert!(!allowed(host, &[origin]), "{origin}");
        }
        let twice = ["http://localhost:9400", "https://evil.example"];
        assert!(!allowed(host, &twice));
    }

    #[test]
    fn the_page_cannot_be_broken_out_of() {
        let page = Page::new("\"><script>alert(1)</script>", "/v1/streams/x");
        let html = String::from_utf8(page.html.to_vec()).expect("text");
        assert!(!html.contains("<script>alert"));
        assert!(!html.contains("{{"));
    }
}

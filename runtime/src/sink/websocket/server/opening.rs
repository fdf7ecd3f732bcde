//! The opening handshake of RFC 6455, from the side of a server.
//!
//! Owns what a request must have to be one, the answer that upgrades, and the connection behind it. Decides
//! nothing about who may. Called by `http` and by `entry`.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::wire::{Stream, Wire};
use crate::port::answer::{Answer, put, text};
use crate::port::tokens;
use crate::sink::websocket::protocol::{PLAIN, V1};

/// The connection once the answer is out, and what was read of it already. A future of its own, because
/// what it holds would stay in that of the subscriber.
pub(super) async fn upgraded(upgrade: OnUpgrade, peer: SocketAddr) -> Option<(Wire, Bytes)> {
    match upgrade.await.map(|raw| raw.downcast::<TokioIo<Stream>>()) {
        Ok(Ok(parts)) => Some((parts.io.into_inner().into(), parts.read_buf)),
        Ok(Err(_)) => unreachable!("connections are served from TokioIo<Stream>"),
        Err(error) => {
            tracing::debug!(%peer, "upgrade failed: {error}");
            None
        }
    }
}

/// The answer that upgrades, and the subprotocol that it chooses. Never an entry with a credential.
pub(super) fn switching(key: &str, headers: &HeaderMap) -> (Answer, Option<&'static str>) {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    put(&mut answer, header::CONNECTION, "Upgrade");
    put(&mut answer, header::UPGRADE, "websocket");
    put(&mut answer, header::SEC_WEBSOCKET_ACCEPT, key);
    let chosen = tokens(headers, header::SEC_WEBSOCKET_PROTOCOL)
        .find_map(|asked| [V1, PLAIN].into_iter().find(|known| *known == asked));
    if let Some(chosen) = chosen {
        put(&mut answer, header::SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    (answer, chosen)
}

/// The answer to the WebSocket key of a proper handshake.
pub(super) fn handshake(request: &Parts) -> Result<String, Box<Answer>> {
    let headers = &request.headers;
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
        // HTTP/1.0 knows no upgrade.
        Some(key) if request.method == Method::GET && request.version == Version::HTTP_11 => {
            Ok(derive_accept_key(key.as_bytes()))
        }
        _ => Err(Box::new(text(
            StatusCode::BAD_REQUEST,
            "a WebSocket handshake is a GET of HTTP/1.1 with Sec-WebSocket-Key",
        ))),
    }
}

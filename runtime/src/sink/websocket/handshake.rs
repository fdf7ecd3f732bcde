//! The opening handshake: RFC 6455, section 4.1, and what every other answer than 101 means.
//!
//! Owns the request, the check of the answer, and the words about a refusal. hyper speaks the HTTP.
//! Called by `connect`.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderValue, LOCATION, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE, USER_AGENT,
};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::endpoint::Endpoint;
use super::inbound::Inbound;
use super::layers::{Layers, is_tls};
use super::line::Connected;
use super::protocol::V1;
use super::session::DialFailure;
use super::wire::Io;
use crate::port::tokens;

/// Most of a refusal's body that is shown.
const BODY_BYTES_MAX: usize = 512;
/// Longest wait for it.
const BODY_WAIT: Duration = Duration::from_millis(250);
/// Longest head of a server's answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Asks for the WebSocket.
pub(super) async fn handshake(
    endpoint: &Endpoint,
    io: Box<dyn Io>,
    layers: &mut Layers,
) -> Result<Connected, DialFailure> {
    layers.trying("http");
    let key = generate_key();
    let request = request(endpoint, &key).map_err(|e| layers.refused("http", e.to_string()))?;
    let exchanged = exchange(request, io).await;
    let answer = exchanged.map_err(|error| DialFailure {
        // With TLS 1.3 a client certificate is refused only now, and a reset may overtake the words.
        unauthorized: endpoint.tls.identity.is_some(),
        ..unanswered(layers, &error)
    })?;
    let (io, read_ahead) = match answer.line {
        Some(line) => line,
        None => return Err(status(layers, answer.status, &answer.headers, &answer.body)),
    };
    if let Err(wrong) = verify(&answer.headers, &key) {
        let detail = format!("this is no WebSocket server: {wrong}");
        return Err(layers.refused("http", detail));
    }
    layers.succeeded("http", "101 Switching Protocols");
    if let Some(extension) = answer.headers.get(SEC_WEBSOCKET_EXTENSIONS) {
        let detail = format!(
            "the server insists on the extension `{}`, which was not offered; \
             turn compression off at the server",
            extension.to_str().unwrap_or("?")
        );
        return Err(layers.refused("extension", detail));
    }
    let subprotocol = subprotocol(endpoint, &answer.headers)
        .map_err(|wrong| layers.refused("subprotocol", wrong))?;
    if let Some(name) = &subprotocol {
        layers.succeeded("subprotocol", name.clone());
    }
    let mut inbound = Inbound::of_server(endpoint.message_bytes_max);
    inbound.feed(&read_ahead);
    Ok(Connected {
        io,
        inbound,
        subprotocol,
    })
}

/// What a server answered.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// The beginning of a refusal's body.
    body: Vec<u8>,
    /// After 101: the connection, and what was read of it beyond the answer.
    line: Option<(Box<dyn Io>, Bytes)>,
}

/// Sends the request and reads the answer.
async fn exchange(request: Request<Empty<Bytes>>, io: Box<dyn Io>) -> hyper::Result<Answer> {
    let (mut sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .max_buf_size(ANSWER_BYTES_MAX)
        .handshake(TokioIo::new(io))
        .await?;
    let answered = async {
        let mut response = sender.send_request(request).await?;
        let line = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(&mut response).await?;
            let Ok(parts) = upgraded.downcast::<TokioIo<Box<dyn Io>>>() else {
                unreachable!("the connection was made of TokioIo<Box<dyn Io>>");
            };
            Some((parts.io.into_inner(), parts.read_buf))
        } else {
            None
        };
        let (head, body) = response.into_parts();
        let body = match line {
            None => beginning(body).await,
            Some(_) => Vec::new(),
        };
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            line,
        })
    };
    // The connection only moves while it is polled, and ends before what it was upgraded to is taken.
    let mut connection = pin!(connection.with_upgrades().fuse());
    let mut answered = pin!(answered);
    let mut broken = None;
    loop {
        tokio::select! {
            answer = &mut answered => match (answer, broken) {
                // The request only knows that it was not sent; the connection knows why.
                (Err(_), Some(error)) => return Err(error),
                (answer, _) => return answer,
            },
            ended = &mut connection => broken = ended.err(),
        }
    }
}

/// The beginning of a refusal's body. Waits a moment, not for long.
async fn beginning(mut body: Incoming) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = async {
        while bytes.len() < BODY_BYTES_MAX {
            match body.frame().await {
                Some(Ok(frame)) => bytes.extend(frame.into_data().unwrap_or_default()),
                Some(Err(_)) | None => break,
            }
        }
    };
    let _ = tokio::time::timeout(BODY_WAIT, read).await;
    bytes
}

/// There was no answer that could be read.
fn unanswered(layers: &mut Layers, error: &hyper::Error) -> DialFailure {
    let first: &(dyn Error + 'static) = error;
    let causes = || successors(Some(first), |cause| (*cause).source());
    let io = causes().find_map(|cause| cause.downcast_ref::<io::Error>());
    let mut http = causes().filter_map(|cause| cause.downcast_ref::<hyper::Error>());
    match io {
        Some(io) if is_tls(io) => layers.distrusted(io.to_string()),
        Some(io) => layers.failed("http", io.to_string()),
        None if http.any(|error| error.is_parse()) => {
            let detail = format!("this is no WebSocket server: {error}");
            layers.refused("http", detail)
        }
        None if error.is_incomplete_message() => {
            let detail = "the server closed the connection instead of an answer";
            layers.failed("http", detail)
        }
        None => layers.failed("http", error.to_string()),
    }
}

/// Whether an answer of 101 is about this handshake: RFC 6455, section 4.1.
fn verify(headers: &HeaderMap, key: &str) -> Result<(), String> {
    let says = |name, token: &str| tokens(headers, name).any(|t| t.eq_ignore_ascii_case(token));
    if !says(UPGRADE, "websocket") || !says(CONNECTION, "upgrade") {
        return Err("it does not switch to WebSocket".into());
    }
    let accept = headers.get(SEC_WEBSOCKET_ACCEPT);
    if accept.is_none_or(|accept| accept.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes())
    {
        return Err("its Sec-WebSocket-Accept does not fit the key it was given".into());
    }
    Ok(())
}

/// The subprotocol that the server chose: one of those that were offered, if any were.
fn subprotocol(endpoint: &Endpoint, headers: &HeaderMap) -> Result<Option<String>, String> {
    let offered = &endpoint.subprotocols;
    let chosen = headers.get(SEC_WEBSOCKET_PROTOCOL);
    let chosen = chosen.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    match chosen {
        None if offered.is_empty() || endpoint.subprotocol_optional => Ok(None),
        None if *offered == [V1] => Err(
            "the server does not speak wirefall.v1, which `ack: wirefall.v1` needs; `ack: pong` asks \
             for no subprotocol"
                .to_owned(),
        ),
        None => Err(format!(
            "the server takes none of the offered subprotocols ({})",
            offered.join(", ")
        )),
        Some(name) if offered.contains(&name) => Ok(Some(name)),
        Some(name) if offered.is_empty() => {
            Err(format!("the server chose `{name}`, and none was offered"))
        }
        Some(name) => Err(format!(
            "the server chose `{name}`, which was not offered ({})",
            offered.join(", ")
        )),
    }
}

fn request(endpoint: &Endpoint, key: &str) -> http::Result<Request<Empty<Bytes>>> {
    let address = &endpoint.address;
    let mut request = Request::get(&address.path_and_query)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, key);
    if !endpoint.subprotocols.is_empty() {
        request = request.header(SEC_WEBSOCKET_PROTOCOL, endpoint.subprotocols.join(", "));
    }
    if let Some(headers) = request.headers_mut() {
        headers.insert(HOST, HeaderValue::try_from(address.host_header())?);
        let agent = concat!("wirefall/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if let Some(authorization) = &address.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        for (name, value) in &endpoint.headers {
            if [HOST, USER_AGENT, AUTHORIZATION].contains(name) {
                headers.insert(name, value.clone());
            } else {
                headers.append(name, value.clone());
            }
        }
    }
    request.body(Empty::new())
}

/// What a status other than 101 means.
fn status(
    layers: &mut Layers,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> DialFailure {
    let mut detail = format!("the server answered {status}");
    if status.is_redirection()
        && let Some(to) = headers.get(LOCATION).and_then(|to| to.to_str().ok())
    {
        let to = without_secrets(to);
        detail += &format!(" to {to}; redirects are not followed: use that address");
    } else if status.is_success() {
        detail += ": there is no WebSocket at this address";
    }
    let words = excerpt(body);
    if !words.is_empty() {
        detail += &format!(": {words}");
    }
    DialFailure {
        permanent: is_permanent(status),
        unauthorized: matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
        retry_after: headers
            .get(RETRY_AFTER)
            .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now())),
        ..layers.failed("http", detail)
    }
}

/// An address without what may hold a secret: credentials, query, fragment (I7).
fn without_secrets(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    match address.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => address.to_owned(),
    }
}

/// Whether the same request is answered the same tomorrow.
fn is_permanent(status: StatusCode) -> bool {
    let transient = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    !status.is_server_error() && !transient.contains(&status)
}

/// `Retry-After`, in seconds or as a date: RFC 9110, section 10.2.3.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let seconds = value.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| {
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    })
}

/// One line of a body, cut and without control characters.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(BODY_BYTES_MAX)]);
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_a_redirect_is_told_without_secrets() {
        for (location, told) in [
            ("wss://u:pw@new.example/in?t=1", "wss://new.example/in"),
            ("https://new.example#token=1", "https://new.example"),
            ("/login?next=1", "/login"),
        ] {
            assert_eq!(without_secrets(location), told);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
        ] {
            let wait = retry_after(value, now);
            assert_eq!(wait, seconds.map(Duration::from_secs), "{value}");
        }
    }
}

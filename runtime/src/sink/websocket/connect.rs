//! Connecting: DNS, TCP, proxy, TLS, handshake; each layer with what was seen there.
//!
//! Owns one attempt. Says of a failure whether trying again can help. Called by `client`, which counts
//! attempts and waits between them, and by `check --connect`, which shows the layers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue, LOCATION, RETRY_AFTER, SEC_WEBSOCKET_EXTENSIONS};
use http::{HeaderMap, Request, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::address::ProxyAddress;
use super::config::{ClientPlan, ProxyPlan};
use super::session::DialFailure;
use super::socket::{Inbound, Io, Socket};
use crate::sink::ProbeStep;

/// Most of a refusal's body that is shown.
const BODY_BYTES_MAX: usize = 512;
/// Longest answer of a proxy.
const PROXY_ANSWER_BYTES_MAX: usize = 8192;

/// A connection after its handshake.
pub(super) struct Connected {
    /// For the writer.
    pub(super) socket: Socket,
    /// Reads frames; what it wants to send is queued in its stream.
    pub(super) inbound: WebSocketStream<Inbound>,
    /// The subprotocol that the peer chose.
    pub(super) subprotocol: Option<String>,
}

/// What an attempt has seen, layer by layer.
pub(super) type Layers = Vec<ProbeStep>;

/// One attempt, within `connect_timeout`.
pub(super) async fn connect(
    plan: &ClientPlan,
    tls: Option<&Arc<ClientConfig>>,
    layers: &mut Layers,
) -> Result<Connected, DialFailure> {
    let attempt = tokio::time::timeout(plan.connect_timeout, attempt(plan, tls, layers));
    match attempt.await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(failure)) => Err(failure),
        Err(_) => {
            let layer = match layers.last().map(|step| step.layer) {
                None => "dns",
                Some("dns") => "tcp",
                Some("tcp" | "proxy") if plan.address.secure => "tls",
                Some(_) => "http",
            };
            let waited = plan.connect_timeout;
            Err(failed(
                layers,
                layer,
                format!("no answer within {waited:?}"),
            ))
        }
    }
}

async fn attempt(
    plan: &ClientPlan,
    tls: Option<&Arc<ClientConfig>>,
    layers: &mut Layers,
) -> Result<Connected, DialFailure> {
    let tcp = reach(plan, layers).await?;
    let io: Box<dyn Io> = match tls {
        None => Box::new(tcp),
        Some(config) => Box::new(encrypt(plan, config, tcp, layers).await?),
    };
    handshake(plan, Socket::new(io), layers).await
}

fn succeeded(layers: &mut Layers, layer: &'static str, detail: impl Into<String>) {
    layers.push(ProbeStep {
        layer,
        ok: true,
        detail: detail.into(),
    });
}

fn failed(layers: &mut Layers, layer: &'static str, detail: impl Into<String>) -> DialFailure {
    let detail = detail.into();
    let message = format!("{layer}: {detail}");
    layers.push(ProbeStep {
        layer,
        ok: false,
        detail,
    });
    DialFailure {
        message,
        ..DialFailure::default()
    }
}

/// A failure that no retry mends.
fn refused(layers: &mut Layers, layer: &'static str, detail: impl Into<String>) -> DialFailure {
    DialFailure {
        permanent: true,
        ..failed(layers, layer, detail)
    }
}

/// A TCP connection to the peer, through the proxy where there is one.
async fn reach(plan: &ClientPlan, layers: &mut Layers) -> Result<TcpStream, DialFailure> {
    let proxy = match &plan.proxy {
        ProxyPlan::Direct => None,
        ProxyPlan::Through(proxy) => Some(proxy.clone()),
        ProxyPlan::Environment => {
            ProxyAddress::from_environment(&plan.address, |name| std::env::var(name).ok())
                .map_err(|wrong| refused(layers, "proxy", wrong))?
        }
    };
    let (host, port) = match &proxy {
        Some(proxy) => (proxy.host.as_str(), proxy.port),
        None => (plan.address.host.as_str(), plan.address.port),
    };
    let tcp = dial(host, port, layers).await?;
    match &proxy {
        None => Ok(tcp),
        Some(proxy) => tunnel(plan, proxy, tcp, layers).await,
    }
}

/// Tries the host's addresses in the resolver's order.
async fn dial(host: &str, port: u16, layers: &mut Layers) -> Result<TcpStream, DialFailure> {
    let addresses: Vec<_> = match lookup_host((host, port)).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Err(failed(layers, "dns", format!("{host}: {error}"))),
    };
    if addresses.is_empty() {
        return Err(failed(layers, "dns", format!("{host} has no address")));
    }
    let found: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
    succeeded(layers, "dns", format!("{host} is {}", found.join(", ")));
    let mut errors = Vec::new();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                // Coalescing is ours (`flush`); the kernel's would wait for acknowledgements.
                if let Err(error) = tcp.set_nodelay(true) {
                    return Err(failed(layers, "tcp", format!("{address}: {error}")));
                }
                succeeded(layers, "tcp", format!("connected to {address}"));
                return Ok(tcp);
            }
            Err(error) => errors.push(format!("{address}: {error}")),
        }
    }
    Err(failed(layers, "tcp", errors.join("; ")))
}

/// Asks the proxy for a tunnel to the peer.
async fn tunnel(
    plan: &ClientPlan,
    proxy: &ProxyAddress,
    mut tcp: TcpStream,
    layers: &mut Layers,
) -> Result<TcpStream, DialFailure> {
    let to = plan.address.host_and_port();
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let answer = async {
        tcp.write_all(&request).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= PROXY_ANSWER_BYTES_MAX {
                return Err(io::Error::other("its answer is too long"));
            }
            // Byte by byte: what follows the answer belongs to the tunnel.
            answer.push(tcp.read_u8().await?);
        }
        Ok(answer)
    };
    let answer = match answer.await {
        Ok(answer) => String::from_utf8_lossy(&answer).into_owned(),
        Err(error) => return Err(failed(layers, "proxy", format!("{proxy}: {error}"))),
    };
    let line = answer.lines().next().unwrap_or_default().trim().to_owned();
    let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
    if status.starts_with('2') {
        succeeded(layers, "proxy", format!("{proxy} tunnels to {to}"));
        return Ok(tcp);
    }
    let detail = format!("{proxy} does not tunnel to {to}: {line}");
    Err(DialFailure {
        permanent: matches!(status.as_str(), "401" | "403" | "407"),
        unauthorized: status == "407",
        ..failed(layers, "proxy", detail)
    })
}

async fn encrypt(
    plan: &ClientPlan,
    config: &Arc<ClientConfig>,
    tcp: TcpStream,
    layers: &mut Layers,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, DialFailure> {
    let name = plan.tls.server_name.as_ref().unwrap_or(&plan.address.host);
    let server_name = ServerName::try_from(name.clone())
        .map_err(|_| refused(layers, "tls", format!("`{name}` is not a host name")))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    match connector.connect(server_name, tcp).await {
        Ok(stream) => {
            let version = stream.get_ref().1.protocol_version();
            let version = version.and_then(|v| v.as_str()).unwrap_or("TLS");
            succeeded(layers, "tls", format!("{version}, {name} is who it says"));
            Ok(stream)
        }
        Err(error) => {
            let detail = format!("{name}: {error}");
            Err(if is_tls(&error) {
                refused(layers, "tls", detail)
            } else {
                failed(layers, "tls", detail)
            })
        }
    }
}

/// Whether TLS itself failed: a certificate that does not verify, or an alert about ours, is not a bad
/// moment of the network.
fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|error| error.is::<rustls::Error>())
}

/// Asks for the WebSocket.
async fn handshake(
    plan: &ClientPlan,
    socket: Socket,
    layers: &mut Layers,
) -> Result<Connected, DialFailure> {
    let request = request(plan).map_err(|error| refused(layers, "http", error.to_string()))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .max_message_size(Some(plan.message_bytes_max))
        .max_frame_size(Some(plan.message_bytes_max));
    let stream = Inbound::new(socket.clone());
    let upgraded = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
    let (mut inbound, response) = match upgraded {
        Ok(upgraded) => upgraded,
        Err(WsError::Http(response)) => {
            let (parts, body) = response.into_parts();
            let body = rest_of_body(socket, &parts.headers, body.unwrap_or_default()).await;
            return Err(status(layers, parts.status, &parts.headers, &body));
        }
        // With TLS 1.3 a refused client certificate shows only here.
        Err(WsError::Io(error)) if is_tls(&error) => {
            return Err(refused(layers, "tls", error.to_string()));
        }
        Err(WsError::Io(error)) => return Err(failed(layers, "http", error.to_string())),
        Err(WsError::Protocol(error)) => {
            use tokio_tungstenite::tungstenite::error::ProtocolError as Protocol;
            let detail = match error {
                Protocol::HandshakeIncomplete => {
                    let detail = "the server closed the connection instead of an answer";
                    return Err(failed(layers, "http", detail));
                }
                Protocol::SecWebSocketSubProtocolError(_) => format!(
                    "the server takes none of the offered subprotocols ({}): {error}",
                    plan.subprotocols.join(", ")
                ),
                _ => format!("this is no WebSocket server: {error}"),
            };
            return Err(refused(layers, "http", detail));
        }
        Err(error) => return Err(refused(layers, "http", error.to_string())),
    };
    succeeded(layers, "http", "101 Switching Protocols");
    // The library does not look at extensions that nobody asked for.
    if let Some(extension) = response.headers().get(SEC_WEBSOCKET_EXTENSIONS) {
        let detail = format!(
            "the server insists on the extension `{}`, which was not offered; \
             turn compression off at the server",
            extension.to_str().unwrap_or("?")
        );
        return Err(refused(layers, "extension", detail));
    }
    let chosen = response.headers().get("sec-websocket-protocol");
    let subprotocol = chosen
        .and_then(|name| name.to_str().ok())
        .map(str::to_owned);
    if let Some(name) = &subprotocol {
        succeeded(layers, "subprotocol", name.clone());
    }
    inbound.get_mut().queue_answers();
    Ok(Connected {
        socket,
        inbound,
        subprotocol,
    })
}

fn request(plan: &ClientPlan) -> http::Result<Request<()>> {
    let address = &plan.address;
    let scheme = if address.secure { "wss" } else { "ws" };
    let uri = format!(
        "{scheme}://{}{}",
        address.host_and_port(),
        address.path_and_query
    );
    let mut request = Request::get(uri)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key());
    if !plan.subprotocols.is_empty() {
        request = request.header("sec-websocket-protocol", plan.subprotocols.join(", "));
    }
    if let Some(headers) = request.headers_mut() {
        headers.insert("host", HeaderValue::try_from(address.host_header())?);
        let agent = concat!("wirefall/", env!("CARGO_PKG_VERSION"));
        headers.insert("user-agent", HeaderValue::from_static(agent));
        if let Some(authorization) = &address.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let own = ["host", "user-agent", "authorization"];
        for (name, value) in &plan.headers {
            if own.contains(&name.as_str()) {
                headers.insert(name, value.clone());
            } else {
                headers.append(name, value.clone());
            }
        }
    }
    request.body(())
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
        // Without its query, which may hold a token (I7).
        let to = to.split('?').next().unwrap_or_default();
        detail += &format!(" to {to}; redirects are not followed: write that address in `url`");
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
            .and_then(|value| retry_after(value.to_str().ok()?)),
        ..failed(layers, "http", detail)
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

/// `Retry-After` in seconds; a date is left to the back-off.
fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
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

/// The refusal's body, of which the library read a part. Waits a moment, not for long.
async fn rest_of_body(mut socket: Socket, headers: &HeaderMap, mut body: Vec<u8>) -> Vec<u8> {
    let length = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(BODY_BYTES_MAX)
        .min(BODY_BYTES_MAX);
    let read = async {
        while body.len() < length {
            match socket.read_buf(&mut body).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(250), read).await;
    body
}

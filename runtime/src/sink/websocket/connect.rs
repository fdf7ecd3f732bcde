//! Connecting: DNS, TCP, proxy, TLS, handshake; each layer with what was seen there.
//!
//! Owns one attempt. Says of a failure whether trying again can help. Called by `client` and
//! `subscription`, which wait between attempts, and by `probe`, which shows the layers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};

use super::address::ProxyAddress;
use super::endpoint::{Endpoint, ProxyPlan};
use super::handshake::handshake;
use super::layers::{Layers, is_tls};
use super::line::Connected;
use super::session::DialFailure;
use super::wire::{Io, Tcp};

/// Longest answer of a proxy.
const PROXY_ANSWER_BYTES_MAX: usize = 8192;
/// How long one address has before the next is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// One attempt, within `connect_timeout`.
pub(super) async fn connect(
    endpoint: &Endpoint,
    tls: Option<&Arc<ClientConfig>>,
    layers: &mut Layers,
) -> Result<Connected, DialFailure> {
    let attempt = tokio::time::timeout(endpoint.connect_timeout, attempt(endpoint, tls, layers));
    match attempt.await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(layers.timed_out(endpoint.connect_timeout)),
    }
}

async fn attempt(
    endpoint: &Endpoint,
    tls: Option<&Arc<ClientConfig>>,
    layers: &mut Layers,
) -> Result<Connected, DialFailure> {
    let tcp = Tcp::new(reach(endpoint, layers).await?);
    let io: Box<dyn Io> = match tls {
        None => Box::new(tcp),
        Some(config) => Box::new(encrypt(endpoint, config, tcp, layers).await?),
    };
    handshake(endpoint, io, layers).await
}

/// A TCP connection to the peer, through the proxy where there is one.
async fn reach(endpoint: &Endpoint, layers: &mut Layers) -> Result<TcpStream, DialFailure> {
    let proxy = match &endpoint.proxy {
        ProxyPlan::Direct => None,
        ProxyPlan::Through(proxy) => Some(proxy.clone()),
        ProxyPlan::Environment => {
            ProxyAddress::from_environment(&endpoint.address, |name| std::env::var(name).ok())
                .map_err(|wrong| layers.refused("proxy", wrong))?
        }
    };
    let (host, port) = match &proxy {
        Some(proxy) => (proxy.host.as_str(), proxy.port),
        None => (endpoint.address.host.as_str(), endpoint.address.port),
    };
    let tcp = dial(host, port, layers).await?;
    match &proxy {
        None => Ok(tcp),
        Some(proxy) => tunnel(endpoint, proxy, tcp, layers).await,
    }
}

/// Connects to one of the host's addresses.
async fn dial(host: &str, port: u16, layers: &mut Layers) -> Result<TcpStream, DialFailure> {
    layers.trying("dns");
    let addresses: Vec<_> = match lookup_host((host, port)).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Err(layers.failed("dns", format!("{host}: {error}"))),
    };
    if addresses.is_empty() {
        return Err(layers.failed("dns", format!("{host} has no address")));
    }
    let found: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
    layers.succeeded("dns", format!("{host} is {}", found.join(", ")));
    layers.trying("tcp");
    let (address, tcp) = race(in_turns(addresses))
        .await
        .map_err(|errors| layers.failed("tcp", errors.join("; ")))?;
    // Coalescing is ours (`flush`); the kernel's would wait for acknowledgements.
    if let Err(error) = tcp.set_nodelay(true) {
        return Err(layers.failed("tcp", format!("{address}: {error}")));
    }
    layers.succeeded("tcp", format!("connected to {address}"));
    Ok(tcp)
}

/// The addresses in the resolver's order, with the two families taking turns: RFC 8305, section 4.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|a| a.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = Vec::new();
    loop {
        match (first.next(), second.next()) {
            (None, None) => return turns,
            (a, b) => turns.extend(a.into_iter().chain(b)),
        }
    }
}

/// Tries addresses one after the other, each a moment after the one before it, and takes whichever
/// answers first: RFC 8305, section 5. An error tells what each said.
async fn race(addresses: Vec<SocketAddr>) -> Result<(SocketAddr, TcpStream), Vec<String>> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut errors = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            attempts.push(async move { (address, TcpStream::connect(address).await) });
        }
        tokio::select! {
            Some((address, outcome)) = attempts.next() => match outcome {
                Ok(tcp) => return Ok((address, tcp)),
                Err(error) => errors.push(format!("{address}: {error}")),
            },
            () = tokio::time::sleep(HEAD_START), if waiting.len() > 0 => {}
            else => return Err(errors),
        }
    }
}

/// Asks the proxy for a tunnel to the peer.
async fn tunnel(
    endpoint: &Endpoint,
    proxy: &ProxyAddress,
    mut tcp: TcpStream,
    layers: &mut Layers,
) -> Result<TcpStream, DialFailure> {
    layers.trying("proxy");
    let to = endpoint.address.host_and_port();
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
        Err(error) => return Err(layers.failed("proxy", format!("{proxy}: {error}"))),
    };
    let line = answer.lines().next().unwrap_or_default().trim().to_owned();
    let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
    if status.starts_with('2') {
        layers.succeeded("proxy", format!("{proxy} tunnels to {to}"));
        return Ok(tcp);
    }
    let detail = format!("{proxy} does not tunnel to {to}: {line}");
    Err(DialFailure {
        permanent: matches!(status.as_str(), "401" | "403" | "407"),
        unauthorized: status == "407",
        ..layers.failed("proxy", detail)
    })
}

async fn encrypt(
    endpoint: &Endpoint,
    config: &Arc<ClientConfig>,
    tcp: Tcp,
    layers: &mut Layers,
) -> Result<tokio_rustls::client::TlsStream<Tcp>, DialFailure> {
    layers.trying("tls");
    let name = endpoint
        .tls
        .server_name
        .as_ref()
        .unwrap_or(&endpoint.address.host);
    let server_name = ServerName::try_from(name.clone())
        .map_err(|_| layers.refused("tls", format!("`{name}` is not a host name")))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    match connector.connect(server_name, tcp).await {
        Ok(stream) => {
            let version = stream.get_ref().1.protocol_version();
            let version = version.and_then(|v| v.as_str()).unwrap_or("TLS");
            layers.succeeded("tls", format!("{version}, {name} is who it says"));
            Ok(stream)
        }
        Err(error) => {
            let detail = format!("{name}: {error}");
            Err(if is_tls(&error) {
                layers.distrusted(detail)
            } else {
                layers.failed("tls", detail)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_refuses_does_not_hide_the_next() {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (gone, listener) = (bind().await.unwrap(), bind().await.unwrap());
        let refuses = gone.local_addr().unwrap();
        drop(gone);
        let living = listener.local_addr().unwrap();
        let (address, _) = race(vec![refuses, living]).await.unwrap();
        assert_eq!(address, living);
        let errors = race(vec![refuses, refuses]).await.unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
    }

    #[test]
    fn families_take_turns() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let mixed = parse(&["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1"]);
        let taking_turns = parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(in_turns(mixed), taking_turns);
    }
}

//! Connecting, layer by layer: peers, proxies and servers that answer in every way but the usual.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use wirefall::driver::Facts;
use wirefall::driver::ProbeStep;
use wirefall::sink::SinkPlan;
use wirefall::sink::websocket::DRIVER;

fn plan(config: Value) -> Box<dyn SinkPlan> {
    let facts = Facts {
        folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls"),
        ..Facts::default()
    };
    match (DRIVER.check)(config, &facts) {
        Ok(plan) => plan,
        Err(problems) => panic!("{problems:?}"),
    }
}

/// The layers that a probe saw: name, whether it worked, what was seen.
async fn probe(config: Value) -> Vec<ProbeStep> {
    let probe = plan(config);
    tokio::time::timeout(Duration::from_secs(60), probe.probe())
        .await
        .expect("a probe ends")
}

fn last(steps: &[ProbeStep]) -> (&'static str, bool, &str) {
    let step = steps.last().expect("a probe says something");
    (step.layer, step.ok, &step.detail)
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// The head of a request.
async fn read_head(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Answers one handshake with `answer` (`KEY` is replaced by the accept key) and gives its request.
async fn answer_once(listener: TcpListener, answer: &'static str) -> String {
    let (mut tcp, _) = listener.accept().await.unwrap();
    let head = read_head(&mut tcp).await;
    let key = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map_or("", |(_, key)| key);
    let answer = answer.replace("KEY", &derive_accept_key(key.as_bytes()));
    tcp.write_all(answer.as_bytes()).await.unwrap();
    // Until the client is gone.
    let _ = tcp.read_to_end(&mut Vec::new()).await;
    head
}

/// Serves one WebSocket that answers Pings, over any stream.
async fn serve(io: impl AsyncRead + AsyncWrite + Unpin) {
    use futures_util::StreamExt;
    #[expect(clippy::result_large_err, reason = "the library's type")]
    let callback = |_: &Request, response: Response| Ok(response);
    if let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(io, callback).await {
        while let Some(Ok(_)) = socket.next().await {}
    }
}

#[tokio::test]
async fn a_probe_names_every_layer_that_worked() {
    let (listener, address) = listen().await;
    tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    let steps = probe(json!({"url": format!("ws://{address}/in"), "proxy": "none"})).await;
    let layers: Vec<_> = steps.iter().map(|step| (step.layer, step.ok)).collect();
    assert_eq!(
        layers,
        [("dns", true), ("tcp", true), ("http", true), ("ping", true)]
    );
}

#[tokio::test]
async fn i7_headers_are_sent_and_never_shown() {
    let (listener, address) = listen().await;
    let asked = tokio::spawn(answer_once(listener, "HTTP/1.1 403 Forbidden\r\n\r\n"));
    let config = json!({
        "url": format!("ws://{address}/in?token=hunter2"),
        "headers": [{"Authorization": "Bearer hunter2"}, {"X-Tenant": "acme"}, {"X-Shard": "7"}],
        "subprotocols": ["a.v1", "b.v2"],
        "proxy": "none",
    });
    let plan = plan(config);
    let shown = format!("{plan:?} {} {:?}", plan.describe(), plan.probe().await);
    assert!(!shown.contains("hunter2"), "{shown}");
    let request = asked.await.unwrap().to_lowercase();
    for line in [
        "get /in?token=hunter2 http/1.1",
        "authorization: bearer hunter2",
        "x-tenant: acme",
        "x-shard: 7",
        "sec-websocket-protocol: a.v1, b.v2",
    ] {
        assert!(
            request.contains(&format!("{line}\r\n")),
            "{line}: {request}"
        );
    }
    assert!(
        !request.contains("sec-websocket-extensions"),
        "none is offered"
    );
}

#[tokio::test]
async fn every_wrong_answer_is_told_apart() {
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\n";
    let deflate: &str = Box::leak(
        format!("{upgrade}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n").into_boxed_str(),
    );
    let chosen: &str =
        Box::leak(format!("{upgrade}Sec-WebSocket-Protocol: x.v9\r\n\r\n").into_boxed_str());
    let compressed: &str = Box::leak(format!("{upgrade}\r\n\u{41}\u{0}").into_boxed_str());
    let cases = [
        (
            "HTTP/1.1 301 Moved\r\nLocation: wss://new.example/in?t=1\r\n\r\n",
            (
                "http",
                "to wss://new.example/in; redirects are not followed",
            ),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            ("http", "there is no WebSocket at this address: hello"),
        ),
        (
            "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 9\r\n\r\ncome back",
            ("http", "503 Service Unavailable: come back"),
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: nonsense\r\n\r\n",
            ("http", "this is no WebSocket server"),
        ),
        (deflate, ("extension", "permessage-deflate")),
        (compressed, ("ping", "compressed messages")),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            ("http", "it does not switch to WebSocket"),
        ),
        (chosen, ("subprotocol", "`x.v9`, and none was offered")),
        (
            "SSH-2.0-OpenSSH\r\n\r\n",
            ("http", "this is no WebSocket server"),
        ),
    ];
    for (answer, (layer, words)) in cases {
        let (listener, address) = listen().await;
        tokio::spawn(answer_once(listener, answer));
        let steps = probe(json!({"url": format!("ws://{address}/in"), "proxy": "none"})).await;
        let (seen, ok, detail) = last(&steps);
        assert_eq!((seen, ok), (layer, false), "{answer}: {steps:?}");
        assert!(detail.contains(words), "{words} is not in: {detail}");
    }
}

#[tokio::test]
async fn nothing_listens_and_nothing_answers() {
    let (listener, address) = listen().await;
    let config = |address: &str| {
        let url = format!("ws://{address}");
        json!({"url": url, "proxy": "none", "connect_timeout": "200ms"})
    };
    // Accepted by the kernel, answered by nobody.
    let steps = probe(config(&address)).await;
    assert_eq!(last(&steps), ("http", false, "no answer within 200ms"));
    drop(listener);
    let steps = probe(config(&address)).await;
    let (layer, ok, detail) = last(&steps);
    assert_eq!((layer, ok), ("tcp", false), "{steps:?}");
    assert!(detail.contains("refused"), "{detail}");
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel() {
    let (proxy, proxy_address) = listen().await;
    let asked = tokio::spawn(async move {
        let (mut tcp, _) = proxy.accept().await.unwrap();
        let head = read_head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await
            .unwrap();
        serve(tcp).await;
        head
    });
    let config = json!({
        "url": "ws://peer.invalid:81/in",
        "proxy": format!("http://user:p%40ss@{proxy_address}"),
    });
    let steps = probe(config).await;
    assert_eq!(last(&steps).0, "ping", "{steps:?}");
    assert!(steps.iter().all(|step| step.ok), "{steps:?}");
    let head = asked.await.unwrap();
    assert!(
        head.starts_with("CONNECT peer.invalid:81 HTTP/1.1\r\n"),
        "{head}"
    );
    // user:p@ss
    assert!(
        head.contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    let (proxy, address) = listen().await;
    tokio::spawn(answer_once(proxy, "HTTP/1.1 407 Who are you\r\n\r\n"));
    let config = json!({"url": "ws://peer.invalid/in", "proxy": format!("http://{address}")});
    let steps = probe(config).await;
    let (layer, ok, detail) = last(&steps);
    assert_eq!((layer, ok), ("proxy", false));
    assert!(detail.contains("407 Who are you"), "{detail}");
}

/// A TLS server for one connection; it asks for a client certificate where `clients` is set.
async fn serve_tls(tcp: TcpStream, clients: bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let pem = |name: &str| CertificateDer::from_pem_file(folder.join(name)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if clients {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pem("ca.pem")).unwrap();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let config = builder
        .with_single_cert(vec![pem("server.pem")], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    if let Ok(stream) = acceptor.accept(tcp).await {
        serve(stream).await;
    }
}

#[tokio::test]
async fn tls_trusts_whom_it_is_told_to_and_says_who_it_is() {
    let good = json!({"ca": "ca.pem", "server_name": "server.test"});
    let both = json!({
        "ca": "ca.pem", "server_name": "server.test", "cert": "client.pem", "key": "client.key",
    });
    let cases = [
        (json!({"ca": "ca.pem"}), false, ("tls", false, "127.0.0.1")),
        (
            json!({"ca": "ca.pem", "server_name": "other.test"}),
            false,
            ("tls", false, "other.test"),
        ),
        (
            json!({"ca": "client.pem", "server_name": "server.test"}),
            false,
            ("tls", false, "certificate"),
        ),
        (good.clone(), false, ("ping", true, "answered")),
        (good, true, ("tls", false, "certificate")),
        (both, true, ("ping", true, "answered")),
        (
            json!({"ca": "missing.pem"}),
            false,
            ("tls", false, "missing.pem"),
        ),
    ];
    for (tls, clients, (layer, ok, words)) in cases {
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            serve_tls(tcp, clients).await;
        });
        let url = format!("wss://{address}/in");
        let steps = probe(json!({"url": url, "tls": tls.clone(), "proxy": "none"})).await;
        let (seen_layer, seen_ok, detail) = last(&steps);
        assert_eq!((seen_layer, seen_ok), (layer, ok), "{tls}: {steps:?}");
        assert!(detail.to_lowercase().contains(words), "{tls}: {detail}");
    }
}

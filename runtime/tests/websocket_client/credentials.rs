//! Credentials that change in mid-run: what is refused is read again, and the rest is delivered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use wirefall::journal::Position;
use wirefall::sink::websocket::receiver::Faults;

use crate::harness::{Peer, Run, assert_all, library_peer, numbered};

/// Records of a run, and after how many of them the credentials change.
const RECORDS: usize = 2_000;
const ROTATED_AFTER: usize = 500;

/// Carries all records with `old` at first, and with `fresh` once it reads again.
async fn carry(old: Value, fresh: Value) {
    let run = Run {
        fresh: Some(fresh),
        ..Run::new(old, numbered(RECORDS))
    };
    let delivered = run.carry().await.result.unwrap();
    assert_eq!(delivered.confirmed, Position(RECORDS as u64));
    assert!(delivered.reconnects >= 1, "{delivered:?}");
}

/// Reads until `messages` have come, or to the end.
async fn read<S>(mut socket: WebSocketStream<S>, messages: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut read = 0;
    while let Some(Ok(message)) = socket.next().await {
        read += usize::from(message.is_text());
        if read >= messages {
            return;
        }
    }
}

/// Set once the first connection is over: from then on the old token is refused.
static ROTATED: AtomicBool = AtomicBool::new(false);

#[tokio::test]
async fn credentials_are_read_again_after_401() {
    let address = library_peer(
        |token| match (token, ROTATED.load(Ordering::SeqCst)) {
            ("Bearer old", false) | ("Bearer new", true) => 101,
            _ => 401,
        },
        |connection, socket| async move {
            match connection {
                0 => {
                    read(socket, ROTATED_AFTER).await;
                    ROTATED.store(true, Ordering::SeqCst);
                }
                _ => read(socket, usize::MAX).await,
            }
        },
    )
    .await;
    let config = |token: &str| {
        json!({
            "url": format!("ws://{address}"),
            "headers": {"Authorization": token},
            "proxy": "none",
            "reconnect": {"min": "1ms", "max": "20ms"},
        })
    };
    carry(config("Bearer old"), config("Bearer new")).await;
}

/// A proxy that lets `old:` through once, for some bytes, and `new:` from then on.
async fn rotating_proxy(peer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut user = "old:";
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(near.read_u8().await.unwrap());
            }
            let authorization = match user {
                "old:" => "Basic b2xkOg==",
                _ => "Basic bmV3Og==",
            };
            if !String::from_utf8(head).unwrap().contains(authorization) {
                let _ = near.write_all(b"HTTP/1.1 407 Who are you\r\n\r\n").await;
                continue;
            }
            near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut far = TcpStream::connect(&peer).await.unwrap();
            if user == "old:" {
                user = "new:";
                let (mut reads, mut writes) = near.split();
                let (mut far_reads, mut far_writes) = far.split();
                let there =
                    async { tokio::io::copy(&mut (&mut reads).take(8_000), &mut far_writes).await };
                tokio::select! {
                    _ = there => {}
                    _ = tokio::io::copy(&mut far_reads, &mut writes) => {}
                }
            } else {
                tokio::spawn(async move {
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        }
    });
    address
}

#[tokio::test]
async fn credentials_of_a_proxy_are_read_again_after_407() {
    let peer = Peer::start(false, Faults::default()).await;
    let proxy = rotating_proxy(peer.address.clone()).await;
    let config = |user: &str| peer.config(json!({"proxy": format!("http://{user}:@{proxy}")}));
    carry(config("old"), config("new")).await;
    assert_all(&peer.lines(), RECORDS);
}

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    folder.join(name)
}

/// TLS that asks for a client certificate of this authority.
fn acceptor(authority: &str) -> tokio_rustls::TlsAcceptor {
    let pem = |name: &str| CertificateDer::from_pem_file(fixture(name)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pem(authority)).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    );
    let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![pem("server.pem")], key)
        .unwrap();
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

/// The files stand where they stood, and the config says what it said: only their content is new.
#[tokio::test]
async fn a_client_certificate_that_was_renewed_is_taken_when_the_old_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
    let renew = {
        let (cert, key) = (cert.clone(), key.clone());
        move |name: &str| {
            std::fs::copy(fixture(&format!("{name}.pem")), &cert).unwrap();
            std::fs::copy(fixture(&format!("{name}.key")), &key).unwrap();
        }
    };
    renew("client");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let tls = acceptor("ca.pem").accept(tcp).await.unwrap();
        let socket = tokio_tungstenite::accept_async(tls).await.unwrap();
        read(socket, ROTATED_AFTER).await;
        renew("later-client");
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            if let Ok(tls) = acceptor("later-ca.pem").accept(tcp).await {
                let socket = tokio_tungstenite::accept_async(tls).await.unwrap();
                read(socket, usize::MAX).await;
            }
        }
    });
    let config = json!({
        "url": format!("wss://{address}"),
        "tls": {"ca": fixture("ca.pem"), "server_name": "server.test", "cert": cert, "key": key},
        "proxy": "none",
        "reconnect": {"min": "1ms", "max": "20ms"},
    });
    carry(config.clone(), config).await;
}

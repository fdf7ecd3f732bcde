//! The server under TLS: the same frames in the same order, and certificates that are renewed.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// Certificates for `localhost`: of the peers of the end-to-end tests, and of the client's tests.
fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// A folder with a certificate and its key, as the server's settings name them.
fn show(folder: &Path, cert: &str, key: &str) -> Value {
    let (to_cert, to_key) = (folder.join("server.pem"), folder.join("server.key"));
    for (from, to) in [(cert, &to_cert), (key, &to_key)] {
        let next = to.with_extension("next");
        std::fs::copy(pem(from), &next).expect("copied");
        std::fs::rename(next, to).expect("renamed");
    }
    json!({ "tls": { "cert": to_cert, "key": to_key } })
}

const OLD: (&str, &str) = ("tests/peers/localhost.pem", "tests/peers/localhost.key");
const NEW: (&str, &str) = (
    "runtime/tests/tls/server.pem",
    "runtime/tests/tls/server.key",
);
/// Whom to trust and what to ask for, to find one or the other.
const OLD_SHOWN: (&str, &str) = (OLD.0, "localhost");
const NEW_SHOWN: (&str, &str) = ("runtime/tests/tls/ca.pem", "server.test");

async fn running(journal_bytes: u64) -> Running {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = show(folder.path(), OLD.0, OLD.1);
    Running::start_in(folder, settings, journal_bytes).await
}

/// Connects by a TLS that trusts this authority, to a server of this name.
async fn secured(
    running: &Running,
    (authority, name): (&str, &'static str),
) -> Result<TlsStream<TcpStream>, String> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(pem(authority)).expect("a certificate");
    roots.add(certificate).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(running.address).await.expect("a port");
    let name = ServerName::try_from(name).expect("a name");
    let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    connected.await.map_err(|error| error.to_string())
}

async fn subscribe(running: &Running) -> WebSocketStream<TlsStream<TcpStream>> {
    let before = running.metrics.subscribers.get();
    let stream = secured(running, OLD_SHOWN).await.expect("TLS");
    let url = running.url().replace("ws://", "wss://");
    let (client, _) = tokio_tungstenite::client_async(url, stream)
        .await
        .expect("let in");
    running.until_subscribers(before + 1).await;
    client
}

async fn record(client: &mut WebSocketStream<TlsStream<TcpStream>>) -> String {
    loop {
        match soon("a frame", client.next()).await {
            Some(Ok(Message::Text(text))) => return text.to_string(),
            Some(Ok(Message::Pong(_))) => (),
            other => panic!("broken: {other:?}"),
        }
    }
}

#[tokio::test]
async fn i3_a_subscriber_under_tls_sees_everything_in_order_however_slowly_it_reads() {
    let mut running = running(64 << 20).await;
    let mut client = subscribe(&running).await;
    // Far more than the kernel takes: the server is blocked in the middle of TLS records.
    running.publish(20_000, 1000).await;
    for number in 0..20_000_u64 {
        if number.is_multiple_of(5000) {
            let ping = Message::Ping(number.to_string().into());
            client.send(ping).await.expect("sent");
        }
        let record = record(&mut client).await;
        assert_eq!(record.parse(), Ok(number));
    }
    // And a single small one, which nothing pushes on.
    running.publish(1, 8).await;
    assert_eq!(record(&mut client).await.parse(), Ok(20_000));
}

#[tokio::test]
async fn a_drain_under_tls_ends_with_a_close_and_the_end_of_tls() {
    let mut running = running(1 << 20).await;
    let mut client = subscribe(&running).await;
    running.publish(3, 8).await;
    running.stop.drain.cancel();
    running.journal.close();
    let mut ends = Vec::new();
    while let Some(said) = soon("the end", client.next()).await {
        match said {
            Ok(Message::Close(Some(close))) => ends.push(u16::from(close.code)),
            Ok(_) => (),
            Err(error) => panic!("cut off: {error}"),
        }
    }
    assert_eq!(ends, [1012]);
    running.ended().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_sessions_go_on() {
    let mut running = running(1 << 20).await;
    let mut client = subscribe(&running).await;
    show(running.folder.path(), NEW.0, NEW.1);
    let renewed = async {
        while secured(&running, NEW_SHOWN).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the new certificate", renewed).await;
    assert!(secured(&running, OLD_SHOWN).await.is_err());
    running.publish(1, 8).await;
    let record = soon("a record", client.next()).await;
    assert!(matches!(record, Some(Ok(Message::Text(_)))), "{record:?}");
}

#[tokio::test]
async fn i4_who_begins_no_tls_is_dropped_and_who_speaks_plainly_gets_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = show(folder.path(), OLD.0, OLD.1);
    settings["handshake_timeout"] = "100ms".into();
    let running = Running::start_in(folder, settings, 1 << 20).await;
    for said in ["", "\x16\x03", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut stream = TcpStream::connect(running.address).await.expect("a port");
        stream.write_all(said.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP"), "{said:?}");
    }
}

#[tokio::test]
async fn i6_a_certificate_that_does_not_fit_its_key_opens_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = show(folder.path(), OLD.0, NEW.1);
    let missing = json!({ "tls": { "cert": "nowhere.pem", "key": "nowhere.key" } });
    for (settings, expected) in [(wrong, "server.pem"), (missing, "nowhere.pem")] {
        let mut config = json!({ "listen": "127.0.0.1:0" });
        config["tls"] = settings["tls"].clone();
        let plan = check(config, &Facts::default()).expect("a plan");
        let steps = plan.probe().await;
        assert!(
            !steps[1].ok && steps[1].detail.contains(expected),
            "{steps:?}"
        );
    }
}

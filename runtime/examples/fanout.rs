//! The other ends of `cargo xtask bench fanout`: many subscribers, and a writer that does nothing else.
//!
//! `fanout read URL SUBSCRIBERS STALLED BYTES` connects, tells `{"connect_seconds"}`, reads BYTES of
//! frames on each subscriber that is not STALLED, tells `{"ended_at"}`, and begins again,
//! until the other side closes. A `wss://` URL is one of the certificate of the tests. With 0 BYTES it holds the connections until its input ends. `fanout time URL SUBSCRIBERS 0 BYTES` also looks
//! into each frame: its payload ends with the time when it was made; that adds `{"p50_ms", "p99_ms",
//! "max_ms"}`. `fanout write SUBSCRIBERS BYTES PIECE` is the limit: it tells `{"url"}`, waits for the
//! subscribers and a line on its input, tells `{"started_at"}`, and writes the same BYTES of ready frames
//! to all of them, PIECE bytes a write. Times are nanoseconds since 1970; each line is one of JSON.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A frame as `xtask/src/bench/fanout.rs` has it: a header of 4 bytes, and 300 of payload.
const HEADER_BYTES: usize = 4;
const FRAME_BYTES: usize = HEADER_BYTES + 300;
/// The payload ends with `"NANOSECONDS"}`, 19 digits.
const TIME: std::ops::Range<usize> = FRAME_BYTES - 21..FRAME_BYTES - 2;

/// So many connect at a time, because a queue of waiting connections is short.
const CONNECTING_MAX: usize = 64;
/// What a reader takes at a time.
const READ_BYTES: usize = 256 << 10;

/// The certificate that a `wss://` URL shows.
const CERTIFICATE: &[u8] = include_bytes!("../../tests/peers/localhost.pem");

/// A connection of a subscriber.
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// What has come, at once where there is something.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => loop {
                ready!(socket.poll_read_ready(cx))?;
                match socket.try_read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                    read => return Poll::Ready(read),
                }
            },
            Self::Tls(socket) => {
                let mut read = ReadBuf::new(buffer);
                ready!(Pin::new(socket).poll_read(cx, &mut read))?;
                Poll::Ready(Ok(read.filled().len()))
            }
        }
    }
}

/// Trusts the certificate of the tests.
fn connector() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).expect("a certificate");
    roots.add(certificate).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is after 1970").as_nanos() as u64
}

/// Reads until the end of a header.
async fn read_head(socket: &mut (impl AsyncRead + Unpin)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("a head"));
    }
}

async fn connect(url: String, tls: Option<TlsConnector>) -> Socket {
    let (_, rest) = url.split_once("://").expect("a scheme");
    let (host, path) = rest.split_once('/').expect("a path");
    let mut socket = TcpStream::connect(host).await.expect("it connects");
    match tls {
        None => {
            upgrade(&mut socket, host, path).await;
            Socket::Plain(socket)
        }
        Some(tls) => {
            let name = ServerName::try_from("localhost").expect("a name");
            let mut socket = tls.connect(name, socket).await.expect("TLS");
            upgrade(&mut socket, host, path).await;
            Socket::Tls(Box::new(socket))
        }
    }
}

async fn upgrade(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), host: &str, path: &str) {
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    socket
        .write_all(request.as_bytes())
        .await
        .expect("it sends");
    read_head(socket).await;
}

async fn connect_all(url: &str, count: usize) -> Vec<Socket> {
    let tls = url.starts_with("wss://").then(connector);
    let (mut connecting, mut sockets) = (JoinSet::new(), Vec::with_capacity(count));
    for _ in 0..count {
        if connecting.len() == CONNECTING_MAX {
            sockets.extend(connecting.join_next().await.expect("there are some"));
        }
        connecting.spawn(connect(url.to_owned(), tls.clone()));
    }
    while let Some(socket) = connecting.join_next().await {
        sockets.extend(socket);
    }
    assert_eq!(sockets.len(), count, "all connect");
    sockets
}

/// What all subscribers share: there is one thread.
struct Shared {
    buffer: RefCell<Vec<u8>>,
    /// Milliseconds from making to receipt, by hundredths, as counts.
    late: RefCell<Vec<u64>>,
}

/// Looks at the frames of a read; `rest` holds the beginning of one that is not whole.
fn take_times(read: &[u8], rest: &mut Vec<u8>, late: &mut [u64]) {
    rest.extend_from_slice(read);
    let now = now_nanos();
    let whole = rest.len() / FRAME_BYTES * FRAME_BYTES;
    for frame in rest[..whole].chunks_exact(FRAME_BYTES) {
        let digits = std::str::from_utf8(&frame[TIME]).expect("digits");
        let made: u64 = digits.parse().expect("a time");
        let hundredths = (now.saturating_sub(made) / 10_000) as usize;
        let last = late.len() - 1;
        late[hundredths.min(last)] += 1;
    }
    rest.drain(..whole);
}

/// Reads so many bytes; the socket again, if it is still open.
async fn read(mut socket: Socket, bytes: usize, timed: bool, shared: Rc<Shared>) -> Option<Socket> {
    let (mut got, mut rest) = (0, Vec::new());
    while got < bytes {
        let read = poll_fn(|cx| {
            let mut buffer = shared.buffer.borrow_mut();
            let count = ready!(socket.poll_read(cx, &mut buffer)).expect("it is open");
            if timed {
                take_times(&buffer[..count], &mut rest, &mut shared.late.borrow_mut());
            }
            Poll::Ready(count)
        });
        match read.await {
            0 if got == 0 => return None,
            0 => panic!("it ended after {got} of {bytes} bytes"),
            count => got += count,
        }
    }
    Some(socket)
}

async fn subscribe(url: &str, live: usize, stalled: usize, bytes: usize, timed: bool) {
    let started = Instant::now();
    let mut sockets = connect_all(url, live + stalled).await;
    let seconds = started.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({ "connect_seconds": seconds }));
    let silent = sockets.split_off(live);
    if bytes == 0 {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("an input");
        return;
    }
    let shared = Rc::new(Shared {
        buffer: RefCell::new(vec![0; READ_BYTES]),
        late: RefCell::new(vec![0; 1_000_000]),
    });
    while !sockets.is_empty() {
        let mut reading = JoinSet::new();
        for socket in sockets {
            reading.spawn_local(read(socket, bytes, timed, Rc::clone(&shared)));
        }
        sockets = reading.join_all().await.into_iter().flatten().collect();
        if sockets.len() == live {
            tell(now_nanos(), &shared.late.borrow());
        }
    }
    drop(silent);
}

fn tell(ended_at: u64, late: &[u64]) {
    let quantile = |part: f64| {
        let all: u64 = late.iter().sum();
        let mut before = 0;
        let index = late.iter().position(|count| {
            before += count;
            before as f64 >= all as f64 * part
        });
        index.unwrap_or_default() as f64 / 100.0
    };
    let told = serde_json::json!({
        "ended_at": ended_at,
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "max_ms": quantile(1.0),
    });
    println!("{told}");
}

async fn write(subscribers: usize, bytes: usize, piece: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    println!(
        "{}",
        serde_json::json!({ "url": format!("ws://{address}/") })
    );
    let mut sockets = Vec::new();
    while sockets.len() < subscribers {
        let (mut socket, _) = listener.accept().await.expect("a subscriber");
        read_head(&mut socket).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        socket.write_all(answer).await.expect("it sends");
        sockets.push(socket);
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("an input");
    println!("{}", serde_json::json!({ "started_at": now_nanos() }));
    let mut frame = vec![b' '; FRAME_BYTES];
    frame[..HEADER_BYTES].copy_from_slice(&[0x81, 126, 1, 44]);
    let frames: Rc<Vec<u8>> = Rc::new(frame.repeat(bytes / FRAME_BYTES));
    let mut writing = JoinSet::new();
    for mut socket in sockets {
        let frames = Rc::clone(&frames);
        writing.spawn_local(async move {
            for piece in frames.chunks(piece) {
                socket.write_all(piece).await.expect("it sends");
            }
            socket // closed when all are done
        });
    }
    writing.join_all().await;
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<usize>().expect("a number");
    let all = tokio::task::LocalSet::new();
    all.run_until(async {
        match words[..] {
            [job @ ("read" | "time"), url, live, stalled, bytes] => {
                let timed = job == "time";
                subscribe(url, number(live), number(stalled), number(bytes), timed).await;
            }
            ["write", subscribers, bytes, piece] => {
                write(number(subscribers), number(bytes), number(piece)).await;
            }
            _ => panic!(
                "fanout read|time URL SUBSCRIBERS STALLED BYTES, or write SUBSCRIBERS BYTES PIECE"
            ),
        }
    })
    .await;
}

//! A server that says back what it hears: the parts of one that publishes, without a stream.
//!
//! Owns the loop of a connection, which takes one message after the other and answers it out of a journal
//! of its own. Decides nothing about frames: `http` shakes hands, `socket` reads and writes. Called by
//! `conformance`.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use super::gathered::{Found, Gathered, WRITE_BYTES};
use super::opening::{handshake, switching, upgraded};
use super::socket::Socket;
use super::wire::{Stream, Wire};
use crate::journal::memory::{Memory, Retention};
use crate::journal::{Chunk, Frame, Journal as _, Position};
use crate::sink::framing::{Carrier, push_header};
use crate::sink::websocket::session::Order;

/// The longest message of the suite.
pub(in crate::sink::websocket) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A message as the journal has it.
pub(in crate::sink::websocket) fn chunk(message: &Message) -> Chunk {
    let carrier = match message {
        Message::Text(_) => Carrier::Text,
        _ => Carrier::Binary,
    };
    let payload = match message {
        Message::Text(text) => text.as_bytes(),
        Message::Binary(bytes) => bytes,
        other => unreachable!("no data: {other:?}"),
    };
    let mut wire = Vec::new();
    let opcode = carrier.opcode().expect("it has frames");
    push_header(&mut wire, opcode, payload.len());
    let payload_start = wire.len() as u32;
    wire.extend_from_slice(payload);
    let wire_end = wire.len() as u32;
    Chunk {
        wire: wire.into(),
        frames: Arc::new([Frame {
            wire_end,
            payload_start,
            records_end: 1,
        }]),
        records: Arc::new([(payload_start, wire_end)]),
        ..Chunk::default()
    }
}

/// Serves until it is dropped.
pub(in crate::sink::websocket) async fn serve(listener: TcpListener) {
    while let Ok((stream, peer)) = listener.accept().await {
        tokio::spawn(shake_hands(stream, peer));
    }
}

async fn shake_hands(stream: TcpStream, peer: SocketAddr) {
    let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
        let (mut request, _) = request.into_parts();
        let key = match handshake(&request) {
            Ok(key) => key,
            Err(refusal) => return Ok::<_, Infallible>(*refusal),
        };
        let upgrade = request.extensions.remove::<OnUpgrade>();
        let upgrade = upgrade.expect("hyper gives it to every request that `handshake` takes");
        tokio::spawn(async move {
            if let Some((wire, read_ahead)) = upgraded(upgrade, peer).await {
                let _ = echo(wire, &read_ahead).await;
            }
        });
        Ok(switching(&key, &request.headers).0)
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(Stream::Left(stream)), service)
        .with_upgrades()
        .await;
}

/// Answers messages one by one, until the connection ends.
async fn echo(wire: Wire, read_ahead: &Bytes) -> io::Result<()> {
    let mut socket = Socket::new(wire, MESSAGE_BYTES_MAX);
    socket.inbound.feed(read_ahead);
    let journal = Memory::new(Retention {
        bytes_max: 4 * MESSAGE_BYTES_MAX as u64,
        age_max: None,
        history: true,
    });
    let mut position = Position::default();
    let mut closed = false;
    loop {
        let wrote = match socket.has_rest() {
            true => socket.write_rest().map(|_| true),
            false => write(&mut socket, &journal, &mut position),
        };
        match wrote {
            Ok(true) => continue,
            Ok(false) if closed => return socket.part().await,
            Ok(false) => match socket.next() {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    let appended = journal.append(chunk(&message), Vec::new()).await;
                    appended.expect("nothing is pinned");
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    socket.inbound.complain(&error);
                    closed = true;
                    continue;
                }
                None => (),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => socket.blocked = true,
            Err(error) => return Err(error),
        }
        if socket.ready().await? {
            socket.read()?;
        }
    }
}

/// Writes what the journal has, if it has something.
fn write(socket: &mut Socket, journal: &Memory, position: &mut Position) -> io::Result<bool> {
    let order = Order {
        from: *position,
        records_max: u64::MAX,
        bytes_max: WRITE_BYTES,
        alone: false,
    };
    let Found::Frames(gathered) = Gathered::find(journal, order, u64::MAX) else {
        return Ok(false);
    };
    let written = socket.write(&gathered, &[])?;
    *position = gathered.taken(written, socket.rest(), |_, _| ()).begun;
    Ok(true)
}

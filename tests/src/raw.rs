//! A WebSocket client that keeps no rules: bytes over a blocking socket, and what comes back.
//!
//! Owns a connection and what was read of it. Checks nothing that it sends; of what comes it reads only
//! what a test asks about. Called by the tests of hostile clients.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::PATIENCE;

/// A connection.
pub struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A frame: its opcode and payload.
    Frame(u8, Vec<u8>),
    /// The end of the connection, in order.
    End,
    /// Its end by a reset, with which the last words may be lost.
    Reset,
    /// Nothing, for very long.
    Nothing,
}

/// What a request to `host` is answered until the connection ends, in whatever way it does.
pub fn ask(host: &str, request_line: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(host).expect("a port");
    let request = format!("{request_line} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut answer = Vec::new();
    // A Close comes after the upgrade, and then the end; what is broken off has come so far.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A masked frame, as clients send it: its first byte, and a payload.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0xc3, 0x0f, 0x99];
    let mut frame = header(first, payload.len() as u64);
    frame[1] |= 0x80;
    frame.extend(MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}

/// The header of an unmasked frame, as servers send it, whatever follows.
pub fn header(first: u8, length: u64) -> Vec<u8> {
    match length {
        0..=125 => vec![first, length as u8],
        126..=0xffff => [&[first, 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, 127][..], &length.to_be_bytes()].concat(),
    }
}

impl Raw {
    /// Connects, and says nothing.
    pub fn dial(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a port");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        let unread = Vec::new();
        Self { stream, unread }
    }

    /// Connects and becomes a WebSocket at a path, with more lines in the head of its request.
    pub fn upgrade(address: SocketAddr, path: &str, more: &str) -> Self {
        let mut raw = Self::dial(address);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        raw.send(request.as_bytes()).expect("sent");
        assert_eq!(raw.status(), Ok(101), "{path}");
        raw
    }

    /// A second hold of the same connection, to be written to while the first is read.
    #[must_use]
    pub fn writer(&self) -> Self {
        Self {
            stream: self.stream.try_clone().expect("a socket can be cloned"),
            unread: Vec::new(),
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// The other side has gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads a byte if there is one, and waits for none.
    pub fn sip(&mut self) {
        let _ = self.stream.set_nonblocking(true);
        let _ = self.stream.read(&mut [0]);
        let _ = self.stream.set_nonblocking(false);
    }

    /// The status of an answer of HTTP, whose head is read.
    ///
    /// # Errors
    /// What came instead.
    pub fn status(&mut self) -> Result<u16, Heard> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            self.read()?;
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Ok(status.expect("a status in the first line"))
    }

    /// Whether the connection ends with no other answer of HTTP.
    pub fn is_answered_no_more(&mut self) -> bool {
        while self.read().is_ok() {}
        !self.unread.windows(5).any(|bytes| bytes == b"HTTP/")
    }

    /// The next frame.
    pub fn hear(&mut self) -> Heard {
        loop {
            if let Some((opcode, payload, end)) = whole_frame(&self.unread) {
                let heard = Heard::Frame(opcode, self.unread[payload..end].to_vec());
                self.unread.drain(..end);
                return heard;
            }
            if let Err(instead) = self.read() {
                return instead;
            }
        }
    }

    /// Reads what there is, or says what came instead.
    fn read(&mut self) -> Result<(), Heard> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Heard::Nothing),
            Err(_) => Err(Heard::Reset),
            Ok(0) => Err(Heard::End),
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }
}

/// Opcode, start of the payload, and end of the unmasked frame at the start, if it is whole.
fn whole_frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (payload, length) = match *bytes.get(1)? {
        126 => (4, u64::from(u16::from_be_bytes(*bytes[2..].first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes[2..].first_chunk()?)),
        short => (2, u64::from(short)),
    };
    let end = payload + usize::try_from(length).ok()?;
    (bytes.len() >= end).then_some((bytes[0] & 0x0f, payload, end))
}

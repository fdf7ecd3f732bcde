//! Clients that break the rules before there is TLS.
//!
//! Owns what they say to a port that speaks it. Called by the tests of such ports.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::Answer::{Ended, Left};
use super::Entry::Tcp;
use super::{Attack, attack, flood, once};

/// The hello of a client of TLS 1.2, as a record.
fn client_hello() -> Vec<u8> {
    const EXTENSIONS: &[u8] = b"\x00\x0a\x00\x04\x00\x02\x00\x1d\
        \x00\x0b\x00\x02\x01\x00\
        \x00\x0d\x00\x08\x00\x06\x04\x03\x08\x04\x04\x01\
        \x00\x17\x00\x00";
    let mut hello = vec![3, 3];
    hello.extend([0x5a; 32]);
    hello.extend(b"\x00\x00\x04\xc0\x2b\xc0\x2f\x01\x00");
    hello.extend((EXTENSIONS.len() as u16).to_be_bytes());
    hello.extend(EXTENSIONS);
    let mut record = vec![22, 3, 1];
    record.extend((hello.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((hello.len() as u16).to_be_bytes());
    record.extend(hello);
    record
}

/// What is wrong before there is TLS.
pub fn against_the_handshake() -> Vec<Attack> {
    let after = |more: &[u8]| [&client_hello(), more].concat();
    let (garbage, plain) = (
        after(b"\x16\x03\x03\x40\x00\xff\xfe"),
        after(b"GET / HTTP/1.1\r\n\r\n"),
    );
    vec![
        attack("half a hello", Tcp, &[Ended], |_| {
            once(&client_hello()[..40])
        })
        .by(100),
        attack("a handshake that stops half-way", Tcp, &[Ended], |_| {
            once(client_hello())
        })
        .by(100),
        attack("garbage in a handshake", Tcp, &[Ended], move |_| {
            Box::new(once(&*garbage).chain(flood(1_000_000, b"\xff\xfe")))
        }),
        attack("plain text in a handshake", Tcp, &[Ended], move |_| {
            once(&*plain)
        }),
        attack("a reset in mid-hello", Tcp, &[Left], |_| {
            once(&client_hello()[..40])
        })
        .by(500),
        attack("gone in mid-handshake", Tcp, &[Left], |_| {
            once(client_hello())
        })
        .by(500),
        attack("a request without TLS", Tcp, &[Ended], |_| {
            once("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        })
        .by(100),
    ]
}

/// That a server goes on with what the hello is: else nothing would stop half-way.
///
/// # Panics
/// It does not.
pub fn is_answered_by_a_handshake(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).expect("a port");
    stream.write_all(&client_hello()).expect("sent");
    let mut kind = [0];
    stream.read_exact(&mut kind).expect("an answer");
    assert_eq!(kind, [22], "a record of a handshake, and no alert");
}

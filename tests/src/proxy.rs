//! A TCP proxy that breaks what goes through it, as told.
//!
//! Owns its listener and a pair of threads a connection. A fault takes effect on connections that are
//! open and on those that come, until it is lifted.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::frames::Frames;

/// What the proxy does to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Passes everything.
    None,
    /// Takes bytes and drops them, both ways, and says nothing: a line that was cut somewhere.
    HalfOpen,
    /// Takes what the server says and drops it: the server gets everything and confirms nothing.
    Mute,
    /// Takes no byte, both ways.
    Stall,
    /// Passes everything 20 ms late.
    Delay,
    /// Resets open connections, and those that come.
    Reset,
    /// Ends open connections in order (FIN), and those that come.
    Close,
    /// Answers every request with 503; open connections are reset.
    Unavailable,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::None,
        Self::HalfOpen,
        Self::Mute,
        Self::Stall,
        Self::Delay,
        Self::Reset,
        Self::Close,
        Self::Unavailable,
    ];
}

/// How often a quiet connection looks for a fault.
const GLANCE: Duration = Duration::from_millis(10);
/// How late [`Fault::Delay`] is.
const DELAY: Duration = Duration::from_millis(20);

#[derive(Default)]
struct State {
    fault: AtomicU8,
    stopped: AtomicBool,
    accepted: AtomicU64,
    passed: AtomicU64,
    frames: AtomicU64,
    frames_dropped: AtomicU64,
    closed: AtomicU64,
    /// What the next server says first; empty while nothing is left of it.
    foreword: Mutex<Vec<u8>>,
    to: Mutex<Option<SocketAddr>>,
}

impl State {
    fn fault(&self) -> Fault {
        Fault::ALL[self.fault.load(Ordering::Acquire) as usize]
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// A proxy; ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// A proxy before `to`.
    pub fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        *state.to.lock().expect("no panic while held") = Some(to);
        let shared = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, &shared));
        Self { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does this from now on.
    pub fn fault(&self, fault: Fault) {
        self.state.fault.store(fault as u8, Ordering::Release);
    }

    /// Makes the next server that shakes hands say this first, whatever it is.
    pub fn put_into_its_mouth(&self, foreword: Vec<u8>) {
        *self.state.foreword.lock().expect("no panic while held") = foreword;
    }

    /// Whether that was said.
    pub fn has_said_it(&self) -> bool {
        let foreword = self.state.foreword.lock().expect("no panic while held");
        foreword.is_empty()
    }

    /// The code of the last Close of a client; 0 where there was none.
    pub fn closed(&self) -> u64 {
        self.state.closed.load(Ordering::Acquire)
    }

    /// Leads new connections elsewhere.
    pub fn lead_to(&self, to: SocketAddr) {
        *self.state.to.lock().expect("no panic while held") = Some(to);
    }

    /// Connections that were accepted until now.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::Acquire)
    }

    /// Bytes that were passed towards the server until now.
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::Acquire)
    }

    /// Data frames of clients that came here whole until now, and how many of them were dropped.
    pub fn frames(&self) -> [u64; 2] {
        [&self.state.frames, &self.state.frames_dropped].map(|count| count.load(Ordering::Acquire))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for client in listener.incoming() {
        if state.is_stopped() {
            return;
        }
        let Ok(client) = client else { continue };
        state.accepted.fetch_add(1, Ordering::AcqRel);
        match state.fault() {
            Fault::Reset => reset(&client),
            Fault::Close => drop(client),
            Fault::Unavailable => {
                let state = Arc::clone(state);
                std::thread::spawn(move || refuse(client, &state));
            }
            _ => {
                let to = state.to.lock().expect("no panic while held").expect("set");
                let Ok(server) = TcpStream::connect(to) else {
                    reset(&client);
                    continue;
                };
                pass(&client, &server, state, true);
                pass(&server, &client, state, false);
            }
        }
    }
}

/// Passes bytes one way on a thread of its own.
fn pass(from: &TcpStream, to: &TcpStream, state: &Arc<State>, to_server: bool) {
    let mut from = from.try_clone().expect("a socket can be cloned");
    let mut to = to.try_clone().expect("a socket can be cloned");
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        from.set_read_timeout(Some(GLANCE)).expect("not zero");
        to.set_write_timeout(Some(GLANCE)).expect("not zero");
        let mut buffer = vec![0; 64 * 1024];
        let mut frames = Frames::default();
        let mut head = (!to_server).then(Vec::new);
        while !state.is_stopped() {
            match state.fault() {
                Fault::Reset | Fault::Unavailable => {
                    reset(&from);
                    reset(&to);
                    return;
                }
                Fault::Close => break,
                Fault::Stall => {
                    std::thread::sleep(GLANCE);
                    continue;
                }
                Fault::None | Fault::HalfOpen | Fault::Mute | Fault::Delay => (),
            }
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(_) => break,
            };
            let fault = state.fault();
            let drops = fault == Fault::HalfOpen || (fault == Fault::Mute && !to_server);
            if to_server {
                let whole = frames.completed_by(&buffer[..count]);
                state.frames.fetch_add(whole, Ordering::AcqRel);
                let dropped = if drops { whole } else { 0 };
                state.frames_dropped.fetch_add(dropped, Ordering::AcqRel);
                if let Some(code) = frames.closed.take() {
                    state.closed.store(code.into(), Ordering::Release);
                }
            }
            if drops {
                continue;
            }
            if fault == Fault::Delay {
                std::thread::sleep(DELAY);
            }
            let mut bytes = &buffer[..count];
            if let Some(after) = head.as_mut().and_then(|head| end_of_head(head, bytes)) {
                head = None;
                let foreword = state.foreword.lock().expect("no panic while held").clone();
                if !send(&mut to, &bytes[..after], &state) || !send(&mut to, &foreword, &state) {
                    state.foreword.lock().expect("no panic while held").clear();
                    break;
                }
                state.foreword.lock().expect("no panic while held").clear();
                bytes = &bytes[after..];
            }
            if !send(&mut to, bytes, &state) {
                break;
            }
            if to_server {
                state.passed.fetch_add(count as u64, Ordering::AcqRel);
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    });
}

/// Where in `bytes` the head of an answer ends that begins in `head`, which they are added to.
fn end_of_head(head: &mut Vec<u8>, bytes: &[u8]) -> Option<usize> {
    let before = head.len();
    head.extend_from_slice(bytes);
    let end = head.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    Some(end - before)
}

/// Sends all, unless a fault comes while the other side takes nothing.
fn send(to: &mut TcpStream, mut bytes: &[u8], state: &State) -> bool {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return false,
            Ok(count) => bytes = &bytes[count..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let breaks = [Fault::Reset, Fault::Close, Fault::Unavailable];
                if state.is_stopped() || breaks.contains(&state.fault()) {
                    return true;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

/// Answers 503 to a request.
fn refuse(mut client: TcpStream, state: &State) {
    let _ = client.set_read_timeout(Some(GLANCE));
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && !state.is_stopped() {
        match client.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => head.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => (),
            Err(_) => return,
        }
    }
    let _ = client.write_all(
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlater",
    );
}

/// Makes the end of a connection an RST instead of a FIN; it goes out with the last handle.
fn reset(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the option is given a valid pointer to a linger and its size; the descriptor is open.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}

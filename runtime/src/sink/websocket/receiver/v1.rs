//! The receiver of a push that speaks `wirefall.v1`: its place, and what makes it durable.
//!
//! Owns the book, which is the file with its place, or only a place in memory, and lets one connection
//! write to it at a time: the newest, since the one before it is what is left of a sender that lost it.
//! What a frame means `protocol` decides. Called by `receiver`.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

use crate::port::news::News;
use crate::sink::framing::push_header;
use crate::sink::websocket::kept::{Kept, KeptError};
use crate::sink::websocket::protocol::{
    Heard, Hello, Kind, Place, Receiver, Request, Wanted, Wrong,
};

/// How often in a minute it is told that senders cannot go on, each of which is another thing to know.
const TOLD_MAX: u32 = 10;

/// See the module.
pub(super) struct Book(Mutex<Pages>);

struct Pages {
    /// The file; without one the place is forgotten with the process.
    kept: Option<Kept>,
    place: Option<Place>,
    stream: Option<String>,
    /// The connection that writes.
    holder: CancellationToken,
    breaks: Arc<Mutex<News>>,
}

/// Why a connection cannot go on.
#[derive(Debug)]
pub(super) enum Ended {
    /// A newer connection writes.
    Taken,
    /// The file system refuses.
    Io(io::Error),
}

impl Book {
    /// Opens the file, cut off at its place.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, KeptError> {
        let kept = path.map(Kept::open_own).transpose()?;
        let place = kept.as_ref().and_then(Kept::place).cloned();
        let stream = kept.as_ref().and_then(Kept::stream).map(str::to_owned);
        Ok(Self(Mutex::new(Pages {
            kept,
            place,
            stream,
            holder: CancellationToken::new(),
            breaks: Arc::new(Mutex::new(News::told(TOLD_MAX))),
        })))
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().expect("nobody panics with it")
    }

    /// A new connection, which alone writes from now on: its dialogue begins where all is durable.
    pub(super) fn begin(&self) -> Dialogue {
        let mut pages = self.pages();
        let taken = CancellationToken::new();
        std::mem::replace(&mut pages.holder, taken.clone()).cancel();
        Dialogue {
            receiver: Receiver::new(Wanted::default(), pages.place.clone()),
            stream: pages.stream.clone(),
            from: None,
            taken,
            breaks: Arc::clone(&pages.breaks),
        }
    }

    /// Makes lines durable, together with the place behind them.
    pub(super) fn keep(&self, dialogue: &Dialogue, lines: &[u8]) -> Result<Option<Place>, Ended> {
        let mut pages = self.pages();
        if dialogue.taken.is_cancelled() {
            return Err(Ended::Taken);
        }
        let (Some(place), Some(stream)) = (dialogue.place(), &dialogue.stream) else {
            return Ok(None);
        };
        if pages.place.as_ref() == Some(place) {
            return Ok(None);
        }
        let is_first = pages.place.is_none();
        if let Some(kept) = &mut pages.kept {
            let mut keep = || {
                if is_first && let Some(from) = &dialogue.from {
                    // A file with records has a place, whenever we are killed.
                    kept.keep(stream, from)?;
                }
                kept.write_all(lines)?;
                kept.keep(stream, place)
            };
            keep().map_err(Ended::Io)?;
        }
        pages.place = Some(place.clone());
        pages.stream = Some(stream.clone());
        Ok(Some(place.clone()))
    }
}

/// What is said on one connection.
pub(super) struct Dialogue {
    receiver: Receiver,
    /// The stream that the file is of, if that is known.
    stream: Option<String>,
    /// Where the sender has said that it starts.
    from: Option<Place>,
    /// Cancelled when a newer connection writes.
    pub(super) taken: CancellationToken,
    /// Breaks of the stream, of all connections.
    breaks: Arc<Mutex<News>>,
}

/// What a message of the sender is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Records.
    Data,
    /// Something that is said beside them.
    Control,
}

impl Dialogue {
    /// Appends what a receiver says first.
    pub(super) fn subscribe(&mut self, out: &mut Vec<u8>) {
        say(&self.receiver.subscribe(), out);
    }

    /// Takes a message.
    pub(super) fn hear(&mut self, kind: Kind, payload: &[u8]) -> Result<Message, Wrong> {
        match self.receiver.hear(kind, payload)? {
            Heard::Data => return Ok(Message::Data),
            Heard::Hello(hello) => self.greet(hello)?,
            Heard::Gap(lost) => self.tell(lost),
            Heard::Bye(_) | Heard::Mark | Heard::Life => {}
        }
        Ok(Message::Control)
    }

    fn greet(&mut self, hello: Hello) -> Result<(), Wrong> {
        if let Some(stream) = self.stream.as_ref().filter(|s| **s != hello.stream) {
            let words = format!(
                "the file is of the stream `{stream}`, not `{}`",
                hello.stream
            );
            if self.is_news() {
                tracing::error!("{words}; give another --out");
            }
            return Err(Wrong(words));
        }
        if !hello.resumed {
            self.tell(hello.lost);
        }
        self.from = self.receiver.place().cloned();
        self.stream = Some(hello.stream);
        Ok(())
    }

    fn is_news(&self) -> bool {
        self.breaks.lock().expect("nobody panics with it").is_news()
    }

    /// Tells what the sender could not do.
    fn tell(&self, lost: Option<u64>) {
        if !self.is_news() {
            return;
        }
        let lost = lost.map_or("an unknown number of".to_owned(), |lost| lost.to_string());
        tracing::warn!(
            "the sender does not go on where this receiver stands: {lost} records are missing, and others \
             may come twice (told {TOLD_MAX} times a minute at most)"
        );
    }

    /// Behind which frame it is, once the sender has said where it starts.
    fn place(&self) -> Option<&Place> {
        self.receiver.place().filter(|_| self.from.is_some())
    }
}

/// Appends an acknowledgement.
pub(super) fn ack(place: Place, out: &mut Vec<u8>) {
    say(&Request::Ack(place), out);
}

fn say(request: &Request, out: &mut Vec<u8>) {
    let text = request.encode();
    push_header(out, Kind::Text.opcode(), text.len());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = br#"{"type":"hello","stream":"s","epoch":"a","head":"a.9","from":"a.1","resumed":true,"lost":0,"data":"text","heartbeat_ms":100}"#;

    #[test]
    fn i1_only_the_newest_connection_writes_and_it_begins_where_all_is_durable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ndjson");
        let book = Book::open(Some(&path)).unwrap();
        let said = |dialogue: &mut Dialogue| {
            let mut out = Vec::new();
            dialogue.subscribe(&mut out);
            String::from_utf8(out[2..].to_vec()).unwrap()
        };
        let mut first = book.begin();
        assert_eq!(said(&mut first), r#"{"type":"subscribe"}"#);
        assert!(book.keep(&first, b"").unwrap().is_none(), "before hello");
        assert_eq!(first.hear(Kind::Binary, HELLO), Ok(Message::Control));
        assert_eq!(first.hear(Kind::Text, b"one"), Ok(Message::Data));
        let place = book.keep(&first, b"one\n").unwrap().expect("a place");
        assert_eq!((place.position.as_str(), place.since), ("a.1", 1));
        assert_eq!(first.hear(Kind::Text, b"two"), Ok(Message::Data));

        let mut second = book.begin();
        assert!(first.taken.is_cancelled() && !second.taken.is_cancelled());
        assert!(matches!(book.keep(&first, b"two\n"), Err(Ended::Taken)));
        let subscribe = r#"{"type":"subscribe","from":"a.1","since":1}"#;
        assert_eq!(said(&mut second), subscribe);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\n");
        // A stream that the file is not of.
        let other = String::from_utf8_lossy(HELLO).replace("\"s\"", "\"t\"");
        assert!(second.hear(Kind::Binary, other.as_bytes()).is_err());
        assert!(book.keep(&second, b"").unwrap().is_none());
    }
}

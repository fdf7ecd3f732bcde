//! What the receiver does with a frame: keep it, count it, answer it.
//!
//! Owns lines that are to be written, answers that go out after them, and what RFC 6455 says of messages.
//! Does no I/O.

use memchr::memmem;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::inbox::{Broken, Frame};
use super::v1::{self, Book, Dialogue, Ended, Message};
use super::{Ack, Options, Output};
#[cfg(test)]
use crate::sink::framing::push_header;
use crate::sink::websocket::protocol::{Kind, Wrong, close::REASON_BYTES_MAX};

/// What a frame was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A control frame, or a part of a message.
    Nothing,
    /// The end of a message of so many bytes.
    Message(u64),
    /// A message that the faults break on; it is not handled.
    Offence,
    /// A Close, which is answered.
    Close,
    /// The sender breaks RFC 6455.
    Broken(Broken),
    /// The sender breaks `wirefall.v1`.
    Wrong(Wrong),
}

/// See the module.
#[derive(Default)]
pub(super) struct Desk {
    /// Handled messages, one a line.
    lines: Vec<u8>,
    /// Frames that answer.
    answers: Vec<u8>,
    /// The message now coming.
    open: Option<Open>,
    messages: u64,
    /// With `wirefall.v1`.
    dialogue: Option<Dialogue>,
}

/// A message of which pieces are here.
struct Open {
    /// Where it starts in `lines`.
    start: usize,
    /// Its bytes so far.
    bytes: u64,
    kind: Kind,
    /// So many of them are known to be text.
    text_bytes: usize,
}

impl Desk {
    /// The desk of a connection, on which `dialogue` is spoken, if one is.
    pub(super) fn new(dialogue: Option<Dialogue>) -> Self {
        let mut desk = Self {
            dialogue,
            ..Self::default()
        };
        if let Some(dialogue) = &mut desk.dialogue {
            dialogue.subscribe(&mut desk.answers);
        }
        desk
    }

    /// Cancelled when another connection takes this one's place.
    pub(super) fn taken(&self) -> CancellationToken {
        let taken = self.dialogue.as_ref().map(|dialogue| &dialogue.taken);
        taken.cloned().unwrap_or_default()
    }

    /// Makes lines durable with the place behind them, and acknowledges that.
    pub(super) fn keep(&mut self, book: &Book, lines: &[u8]) -> Result<(), Ended> {
        if let Some(dialogue) = &self.dialogue
            && let Some(place) = book.keep(dialogue, lines)?
        {
            v1::ack(place, &mut self.answers);
        }
        Ok(())
    }

    /// Handles a frame.
    pub(super) fn take(&mut self, frame: Frame<'_>, options: &Options) -> Taken {
        match frame.opcode {
            0x0..=0x2 => self.data(frame, options),
            0x8 => {
                let mut payload = Vec::new();
                frame.append_to(&mut payload);
                if let Err(broken) = check_close(&payload) {
                    return Taken::Broken(broken);
                }
                payload.truncate(2);
                self.answer(0x8, &payload);
                Taken::Close
            }
            0x9 => {
                if !options.faults.no_pong {
                    let mut payload = Vec::with_capacity(frame.len());
                    frame.append_to(&mut payload);
                    if options.faults.wrong_pongs {
                        payload.iter_mut().for_each(|byte| *byte = !*byte);
                    }
                    self.answer(0xa, &payload);
                }
                Taken::Nothing
            }
            _ => Taken::Nothing,
        }
    }

    /// A piece of a message, and all of it where the piece is the last.
    fn data(&mut self, frame: Frame<'_>, options: &Options) -> Taken {
        let mut open = match (frame.opcode, self.open.take()) {
            (0x0, Some(open)) => open,
            (0x0, None) => return Taken::Broken(Broken::rule("a continuation of no message")),
            (_, Some(open)) => {
                self.lines.truncate(open.start);
                return Taken::Broken(Broken::rule("a message begins within another"));
            }
            (opcode, None) => Open {
                start: self.lines.len(),
                bytes: 0,
                kind: if opcode == 0x2 {
                    Kind::Binary
                } else {
                    Kind::Text
                },
                text_bytes: 0,
            },
        };
        match self.add(&mut open, frame, options) {
            Ok(()) if frame.last => self.message(&open, options),
            Ok(()) => {
                self.open = Some(open);
                Taken::Nothing
            }
            Err(broken) => {
                self.lines.truncate(open.start);
                Taken::Broken(broken)
            }
        }
    }

    /// Adds a piece to its message.
    fn add(&mut self, open: &mut Open, frame: Frame<'_>, options: &Options) -> Result<(), Broken> {
        open.bytes += frame.len() as u64;
        if open.bytes > options.message_bytes_max as u64 {
            return Err(Broken::too_long());
        }
        // Who only counts looks at no payload, and learns of none that is no text.
        if options.only_counts() && self.dialogue.is_none() {
            return Ok(());
        }
        frame.append_to(&mut self.lines);
        if open.kind == Kind::Text {
            let unknown = &self.lines[open.start + open.text_bytes..];
            open.text_bytes += match std::str::from_utf8(unknown) {
                Ok(text) => text.len(),
                // A character may go on in the next piece.
                Err(error) if error.error_len().is_none() && !frame.last => error.valid_up_to(),
                Err(_) => return Err(Broken::text("text that is no UTF-8")),
            };
        }
        Ok(())
    }

    /// Handles a whole message, which is the end of the lines.
    fn message(&mut self, open: &Open, options: &Options) -> Taken {
        let payload = &self.lines[open.start..];
        let look_for = options.faults.break_on.as_deref();
        if look_for.is_some_and(|wanted| memmem::find(payload, wanted).is_some()) {
            self.lines.truncate(open.start);
            return Taken::Offence;
        }
        let heard = self
            .dialogue
            .as_mut()
            .map(|dialogue| dialogue.hear(open.kind, payload));
        if !matches!(heard, None | Some(Ok(Message::Data))) {
            self.lines.truncate(open.start);
            return match heard {
                Some(Err(wrong)) => Taken::Wrong(wrong),
                _ => Taken::Nothing,
            };
        }
        #[cfg(test)]
        if options.ack == Ack::Echo {
            push_header(&mut self.answers, open.kind.opcode(), payload.len());
            self.answers.extend_from_slice(payload);
        }
        if matches!(options.output, Output::Count) {
            self.lines.truncate(open.start);
        } else {
            self.lines.push(b'\n');
        }
        self.messages += 1;
        if options.ack == Ack::Reply {
            let reply = format!("{{\"received\":{}}}", self.messages);
            self.answer(0x1, reply.as_bytes());
        }
        Taken::Message(open.bytes)
    }

    fn answer(&mut self, opcode: u8, payload: &[u8]) {
        push_frame(&mut self.answers, opcode, payload);
    }

    /// What is to be written out: whole messages only.
    pub(super) fn take_lines(&mut self) -> Vec<u8> {
        match &mut self.open {
            None => std::mem::take(&mut self.lines),
            Some(open) => {
                let coming = self.lines.split_off(open.start);
                open.start = 0;
                std::mem::replace(&mut self.lines, coming)
            }
        }
    }

    /// What is to be answered.
    pub(super) fn take_answers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answers)
    }
}

/// The rules of what a Close says.
fn check_close(payload: &[u8]) -> Result<(), Broken> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(()),
            _ => Err(Broken::rule("a Close with half a code")),
        };
    };
    if !CloseCode::from(u16::from_be_bytes(*code)).is_allowed() {
        return Err(Broken::rule("a Close with a code that is none"));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(()),
        Err(_) => Err(Broken::text("a Close with a reason that is no UTF-8")),
    }
}

/// A Close.
pub(super) fn close(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    let mut frame = Vec::new();
    let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
    push_frame(&mut frame, 0x8, &payload);
    frame
}

/// A short final frame of a server: control frames and replies have less than 126 bytes.
fn push_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(125)];
    out.extend_from_slice(&[0x80 | opcode, payload.len() as u8]);
    out.extend_from_slice(payload);
}

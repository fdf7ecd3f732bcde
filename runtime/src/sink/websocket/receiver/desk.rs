//! What the receiver does with a frame: keep it, count it, answer it.
//!
//! Owns lines that are to be written and answers that go out after them. Does no I/O.

use memchr::memmem;
use tokio_util::sync::CancellationToken;

use super::inbox::Frame;
use super::v1::{self, Book, Dialogue, Ended, Message};
use super::{Ack, Options, Output};
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
    /// Where the message now coming started in `lines`, its bytes so far, and its kind.
    open: Option<(usize, u64, Kind)>,
    messages: u64,
    /// With `wirefall.v1`.
    dialogue: Option<Dialogue>,
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

    fn data(&mut self, frame: Frame<'_>, options: &Options) -> Taken {
        let kind = match frame.opcode {
            0x2 => Kind::Binary,
            _ => Kind::Text,
        };
        let (start, before, kind) = self.open.take().unwrap_or((self.lines.len(), 0, kind));
        let bytes = before + frame.len() as u64;
        let counting = matches!(options.output, Output::Count);
        let look_for = options.faults.break_on.as_deref();
        if !counting || look_for.is_some() || self.dialogue.is_some() {
            frame.append_to(&mut self.lines);
        }
        if !frame.last {
            self.open = Some((start, bytes, kind));
            return Taken::Nothing;
        }
        if look_for.is_some_and(|wanted| memmem::find(&self.lines[start..], wanted).is_some()) {
            self.lines.truncate(start);
            return Taken::Offence;
        }
        let heard = self
            .dialogue
            .as_mut()
            .map(|dialogue| dialogue.hear(kind, &self.lines[start..]));
        if !matches!(heard, None | Some(Ok(Message::Data))) {
            self.lines.truncate(start);
            return match heard {
                Some(Err(wrong)) => Taken::Wrong(wrong),
                _ => Taken::Nothing,
            };
        }
        if counting {
            self.lines.truncate(start);
        } else {
            self.lines.push(b'\n');
        }
        self.messages += 1;
        if options.ack == Ack::Reply {
            let reply = format!("{{\"received\":{}}}", self.messages);
            self.answer(0x1, reply.as_bytes());
        }
        Taken::Message(bytes)
    }

    fn answer(&mut self, opcode: u8, payload: &[u8]) {
        push_frame(&mut self.answers, opcode, payload);
    }

    /// What is to be written out: whole messages only.
    pub(super) fn take_lines(&mut self) -> Vec<u8> {
        match &mut self.open {
            None => std::mem::take(&mut self.lines),
            Some((start, ..)) => {
                let open = self.lines.split_off(*start);
                *start = 0;
                std::mem::replace(&mut self.lines, open)
            }
        }
    }

    /// What is to be answered.
    pub(super) fn take_answers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answers)
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

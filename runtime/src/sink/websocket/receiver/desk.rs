//! What the receiver does with a frame: keep it, count it, answer it.
//!
//! Owns lines that are to be written and answers that go out after them. Does no I/O.

use memchr::memmem;

use super::inbox::Frame;
use super::{Options, Output};

/// What a frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A control frame, or a part of a message.
    Nothing,
    /// The end of a message of so many bytes.
    Message(u64),
    /// A message that the faults break on; it is not handled.
    Offence,
    /// A Close, which is answered.
    Close,
}

/// See the module.
#[derive(Default)]
pub(super) struct Desk {
    /// Handled messages, one a line.
    lines: Vec<u8>,
    /// Frames that answer.
    answers: Vec<u8>,
    /// Where the message now coming started in `lines`, and its bytes so far.
    open: Option<(usize, u64)>,
    messages: u64,
}

impl Desk {
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
        let (start, before) = self.open.take().unwrap_or((self.lines.len(), 0));
        let bytes = before + frame.len() as u64;
        let counting = matches!(options.output, Output::Count);
        let look_for = options.faults.break_on.as_deref();
        if !counting || look_for.is_some() {
            frame.append_to(&mut self.lines);
        }
        if !frame.last {
            self.open = Some((start, bytes));
            return Taken::Nothing;
        }
        if look_for.is_some_and(|wanted| memmem::find(&self.lines[start..], wanted).is_some()) {
            self.lines.truncate(start);
            return Taken::Offence;
        }
        if counting {
            self.lines.truncate(start);
        } else {
            self.lines.push(b'\n');
        }
        self.messages += 1;
        if options.reply {
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
            Some((start, _)) => {
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

/// A Close with `code`.
pub(super) fn close(code: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    push_frame(&mut frame, 0x8, &code.to_be_bytes());
    frame
}

/// A short final frame of a server: control frames and replies have less than 126 bytes.
fn push_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(125)];
    out.extend_from_slice(&[0x80 | opcode, payload.len() as u8]);
    out.extend_from_slice(payload);
}

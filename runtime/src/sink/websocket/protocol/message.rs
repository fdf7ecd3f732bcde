//! The messages, as they are on the wire: JSON objects with a `type`.
//!
//! Owns their members, their bounds, and the words about what is wrong. Members that are not known
//! are ignored; of types only a receiver ignores what it does not know.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::place::{Place, is_text};
use super::walk::Keys;
use super::{KEY_BYTES_MAX, KEYS_MAX, NOTICE_BYTES_MAX, REQUEST_BYTES_MAX, SINCE_MAX, close};

/// The kind of a stream's data frames; control messages of the sender come in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Text frames.
    Text,
    /// Binary frames.
    Binary,
}

impl Kind {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Text => Self::Binary,
            Self::Binary => Self::Text,
        }
    }

    /// The opcode of its frames.
    pub fn opcode(self) -> u8 {
        match self {
            Self::Text => 0x1,
            Self::Binary => 0x2,
        }
    }
}

/// What is wrong with a message, in words for whoever wrote the peer; short enough for a Close.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

impl Wrong {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    /// With words of the peer's own in it, however many they are.
    fn quoting(mut words: String) -> Self {
        words.truncate(words.floor_char_boundary(close::REASON_BYTES_MAX));
        Self(words)
    }

    /// An `ack` of what was not sent.
    pub fn beyond() -> Self {
        Self::new("`ack` beyond what was sent")
    }
}

/// What a receiver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Its first message.
    Subscribe(Subscribe),
    /// All before this place is safe with it.
    Ack(Ack),
}

/// Where a receiver wants to start, and what it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscribe {
    /// Where; `None` leaves it to the sender's cursor.
    pub from: Option<From>,
    /// Data frames that came after the position of `from`.
    pub since: u64,
    /// A cursor that the sender keeps.
    pub name: Option<String>,
    /// Only records with one of these keys.
    pub keys: Option<Keys>,
}

/// Where to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// The oldest record that is kept.
    Earliest,
    /// What is published from now on.
    Latest,
    /// So many of the newest records; 1 at least.
    Newest(u64),
    /// A position that some sender gave.
    Position(String),
}

/// How far all is safe.
pub type Ack = Place;

impl std::str::FromStr for From {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            // No sender's position begins with a minus.
            text if text.starts_with('-') => match text[1..].parse() {
                Ok(newest) if newest > 0 && text.as_bytes()[1] != b'+' => Ok(Self::Newest(newest)),
                _ => Err(Wrong::new(
                    "`from` is -N for the newest N records, 1 at least",
                )),
            },
            text if is_text(text) => Ok(Self::Position(text.to_owned())),
            _ => Err(Wrong::new(
                "`from` is a position (1 to 64 of A-Z a-z 0-9 . - _), `earliest`, `latest` or -N",
            )),
        }
    }
}

impl From {
    /// What somebody has written: a misspelt word is no position, for that would read everything again.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn written(text: &str) -> Result<Self, Wrong> {
        let from = text.parse()?;
        let is_word = text.bytes().all(|byte| byte.is_ascii_alphabetic());
        match from {
            Self::Position(_) if is_word => Err(Wrong::new(format!(
                "`{text}` is no place to begin: that is earliest, latest, -N (the newest N records), or a position \
                 as a sender gave it"
            ))),
            from => Ok(from),
        }
    }
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Newest(newest) => write!(f, "-{newest}"),
            Self::Position(position) => f.write_str(position),
        }
    }
}

/// A request as it is written: every member of every type.
#[derive(Default, Serialize, Deserialize)]
struct RequestText {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
}

impl Request {
    /// Reads a message of a receiver, which may have come in either kind of frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Wrong> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(Wrong::new("longer than 64 KiB"));
        }
        let text: RequestText = object(bytes)?;
        match text.kind.as_str() {
            "subscribe" => text.subscribe().map(Self::Subscribe),
            "ack" => text.ack().map(Self::Ack),
            kind => {
                let kind: String = kind.chars().take(20).filter(|c| !c.is_control()).collect();
                Err(Wrong(format!("type `{kind}` is none of subscribe, ack")))
            }
        }
    }

    /// Writes it as a receiver sends it.
    pub fn encode(&self) -> String {
        let text = match self.clone() {
            Self::Subscribe(subscribe) => RequestText {
                kind: "subscribe".to_owned(),
                from: subscribe.from.map(|from| from.to_string()),
                since: (subscribe.since > 0).then_some(subscribe.since),
                name: subscribe.name,
                keys: subscribe.keys.map(|keys| keys.texts()),
                ..RequestText::default()
            },
            Self::Ack(place) => RequestText {
                kind: "ack".to_owned(),
                position: Some(place.position),
                since: Some(place.since),
                ..RequestText::default()
            },
        };
        serde_json::to_string(&text).expect("texts and numbers are JSON")
    }
}

impl RequestText {
    fn since(&self) -> Result<u64, Wrong> {
        match self.since.unwrap_or(0) {
            since if since <= SINCE_MAX => Ok(since),
            _ => Err(Wrong::new("`since` is 0 to 1000000")),
        }
    }

    fn subscribe(self) -> Result<Subscribe, Wrong> {
        let from: Option<From> = self.from.as_deref().map(str::parse).transpose()?;
        let since = self.since()?;
        if since > 0 && !matches!(from, Some(From::Position(_))) {
            return Err(Wrong::new("`since` goes with a position in `from`"));
        }
        if self.name.as_deref().is_some_and(|name| !is_text(name)) {
            return Err(Wrong::new("`name` is 1 to 64 of A-Z a-z 0-9 . - _"));
        }
        Ok(Subscribe {
            from,
            since,
            name: self.name,
            keys: self.keys.map(keys).transpose()?,
        })
    }

    fn ack(self) -> Result<Ack, Wrong> {
        let since = self.since()?;
        match self.position {
            Some(position) if is_text(&position) => Ok(Place { position, since }),
            _ => Err(Wrong::new("`ack` needs a `position` that was given")),
        }
    }
}

/// Reads a JSON object. An array of its members would do for serde: it depends on their order here, and is
/// none of the protocol.
fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Wrong> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Wrong::new("not a control message: no JSON object"));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Wrong::quoting(format!("not a control message: {error}")))
}

fn keys(keys: Vec<String>) -> Result<Keys, Wrong> {
    if keys.is_empty() || keys.len() > KEYS_MAX {
        return Err(Wrong::new("`keys` has 1 to 1000 keys"));
    }
    if keys
        .iter()
        .any(|key| !(1..=KEY_BYTES_MAX).contains(&key.len()))
    {
        return Err(Wrong::new("each of `keys` has 1 to 256 bytes"));
    }
    Ok(Keys::new(keys))
}

/// What a sender says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Notice {
    /// The first.
    Hello(Hello),
    /// All data frames before it are below its position.
    Mark(Mark),
    /// A mark behind something that is missing.
    Gap(Gap),
    /// It lives.
    Heartbeat(Heartbeat),
    /// The last.
    Bye(Bye),
    /// A type of a later version: ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// Where a sender starts, and what is missing before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The stream's name.
    pub stream: String,
    /// The life of the numbering.
    pub epoch: String,
    /// Where the stream ends now.
    pub head: String,
    /// Where it starts.
    pub from: String,
    /// It starts exactly where it was asked to.
    pub resumed: bool,
    /// Records that are missing before `from`; `None` where nobody can know.
    pub lost: Option<u64>,
    /// The kind of its data frames.
    pub data: Kind,
    /// Longest silence of a sender that lives.
    pub heartbeat_ms: u64,
}

/// A position to come back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// All data frames before the message are below it.
    pub position: String,
}

/// The journal went on without the receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Where the next data frame is.
    pub from: String,
    /// Records that were not sent; `None` where nobody can know.
    pub lost: Option<u64>,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Where the stream ends now.
    pub head: String,
}

/// Why a sender closes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// Why.
    pub reason: Reason,
    /// When to come again; absent where that is no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// Why a sender closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The stream is at its end.
    End,
    /// The sender stops.
    Restart,
    /// What comes next is no longer kept.
    Behind,
    /// A reason of a later version: the Close code tells.
    #[serde(other)]
    Unknown,
}

impl Notice {
    /// Reads a message of a sender.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Wrong> {
        if bytes.len() > NOTICE_BYTES_MAX {
            return Err(Wrong::new("a control message longer than 64 KiB"));
        }
        let notice: Self = object(bytes)?;
        let positions = match &notice {
            Self::Hello(hello) => vec![&hello.epoch, &hello.head, &hello.from],
            Self::Mark(mark) => vec![&mark.position],
            Self::Gap(gap) => vec![&gap.from],
            Self::Heartbeat(heartbeat) => vec![&heartbeat.head],
            Self::Bye(_) | Self::Unknown => vec![],
        };
        match positions.into_iter().all(|text| is_text(text)) {
            true => Ok(notice),
            false => Err(Wrong::new("a position that is none")),
        }
    }

    /// Writes it as a sender sends it.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }
}

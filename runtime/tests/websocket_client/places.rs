//! A receiver that keeps its place, and what the journal must still have for it.

use std::sync::{Arc, OnceLock};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use wirefall::journal::Position;

use crate::harness::{carry, library_peer};

const RECORDS: usize = 5_000;
/// Frames of ten records before the receiver crashes: fewer than come before the first mark.
const FRAMES: u64 = 25;

async fn say(socket: &mut WebSocketStream<TcpStream>, message: Value) {
    let message = Message::text(message.to_string());
    socket.send(message).await.unwrap();
}

/// The next message: a record is text, what is said beside them is binary.
async fn next(socket: &mut WebSocketStream<TcpStream>) -> Result<String, Value> {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => return Ok(text.to_string()),
            Message::Binary(bytes) => return Err(serde_json::from_slice(&bytes).unwrap()),
            Message::Close(_) => return Err(json!({ "type": "closed" })),
            _ => {}
        }
    }
}

async fn subscribe(socket: &mut WebSocketStream<TcpStream>, place: Option<(&str, u64)>) -> Value {
    let subscribe = match place {
        None => json!({"type": "subscribe"}),
        Some((from, since)) => json!({"type": "subscribe", "from": from, "since": since}),
    };
    say(socket, subscribe).await;
    next(socket).await.expect_err("hello is first")
}

/// The first connection: it has some frames, says so, and is gone before a mark comes.
async fn crash_before_a_mark(mut socket: WebSocketStream<TcpStream>, first: Arc<OnceLock<String>>) {
    let hello = subscribe(&mut socket, None).await;
    let from = hello["from"].as_str().unwrap();
    first.set(from.to_owned()).unwrap();
    for _ in 0..FRAMES {
        next(&mut socket).await.expect("records, and no mark yet");
    }
    let ack = json!({"type": "ack", "position": from, "since": FRAMES});
    say(&mut socket, ack).await;
    // Once the sender has answered it has heard the ack. What comes until then is lost.
    socket.close(None).await.unwrap();
    while socket.next().await.is_some_and(|said| said.is_ok()) {}
}

/// The second: it comes back with the same place, and takes the rest.
async fn take_the_rest(
    mut socket: WebSocketStream<TcpStream>,
    first: Arc<OnceLock<String>>,
    seen: mpsc::UnboundedSender<(Value, String)>,
) {
    let place = (first.get().unwrap().as_str(), FRAMES);
    let hello = subscribe(&mut socket, Some(place)).await;
    let record = next(&mut socket).await.expect("a record");
    seen.send((hello, record)).unwrap();
    loop {
        match next(&mut socket).await {
            Err(said) if said["type"] == "mark" => {
                let ack = json!({"type": "ack", "position": said["position"]});
                say(&mut socket, ack).await;
            }
            Err(said) if said["type"] == "closed" => return,
            _ => {}
        }
    }
}

/// It counts frames from a position far behind what it has acknowledged. All of that is confirmed, and
/// still the frames in between are needed to find its place.
#[tokio::test]
async fn i1_what_a_place_is_counted_over_is_kept_although_it_is_confirmed() {
    let (seen, mut told) = mpsc::unbounded_channel();
    let first = Arc::<OnceLock<String>>::default();
    let address = library_peer(
        |_| 101,
        move |connection, socket| {
            let (first, seen) = (Arc::clone(&first), seen.clone());
            async move {
                match connection {
                    0 => crash_before_a_mark(socket, first).await,
                    _ => take_the_rest(socket, first, seen).await,
                }
            }
        },
    )
    .await;
    let config = json!({
        "url": format!("ws://{address}"),
        "proxy": "none",
        "ack": "wirefall.v1",
        "framing": "ndjson",
        "batch": {"records": 10},
        "reconnect": {"min": "1ms", "max": "20ms"},
    });
    let delivered = carry(config, RECORDS).await.result.unwrap();
    assert_eq!(delivered.confirmed, Position(RECORDS as u64));
    let (hello, record) = told.recv().await.unwrap();
    assert_eq!(
        (&hello["resumed"], &hello["lost"]),
        (&json!(true), &json!(0))
    );
    assert!(record.starts_with("{\"n\":250}\n"), "{record}");
}

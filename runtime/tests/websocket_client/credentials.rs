//! Credentials that change in mid-run.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use serde_json::json;
use wirefall::journal::Position;

use crate::harness::{Run, library_peer, numbered};

/// Set once the first connection is over: from then on the old token is refused.
static ROTATED: AtomicBool = AtomicBool::new(false);

#[tokio::test]
async fn credentials_are_read_again_after_401() {
    let address = library_peer(
        |token| match (token, ROTATED.load(Ordering::SeqCst)) {
            ("Bearer old", false) | ("Bearer new", true) => 101,
            _ => 401,
        },
        |connection, mut socket| async move {
            let mut messages = 0;
            while let Some(Ok(message)) = socket.next().await {
                messages += usize::from(message.is_text());
                if connection == 0 && messages == 500 {
                    ROTATED.store(true, Ordering::SeqCst);
                    return;
                }
            }
        },
    )
    .await;
    let config = |token: &str| {
        json!({
            "url": format!("ws://{address}"),
            "headers": {"Authorization": token},
            "proxy": "none",
            "reconnect": {"min": "1ms", "max": "20ms"},
        })
    };
    let run = Run {
        fresh: Some(config("Bearer new")),
        ..Run::new(config("Bearer old"), numbered(2_000))
    };
    let ended = run.carry().await;
    assert_eq!(ended.result.unwrap().confirmed, Position(2_000));
}

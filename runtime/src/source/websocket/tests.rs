//! The source before a server that says what a test wants: sockets on loopback, scripts of `wirefall.v1`.

use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::checkpoint::Checkpoint;
use crate::record::Partition;
use crate::source::compliance::{open, open_at, plan, read, read_on};
use crate::source::{Oddities, Source, SourceError};

/// Longest wait for anything: far beyond what any of it takes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("in time")
}

struct Upstream {
    listener: TcpListener,
    folder: tempfile::TempDir,
}

impl Upstream {
    async fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The source's config with these keys.
    fn config(&self, keys: Value) -> Value {
        let address = self.listener.local_addr().unwrap();
        let mut config = json!({
            "url": format!("ws://{address}/v1/streams/s"),
            "reconnect": { "min": "1ms", "max": "5ms" },
        });
        for (key, value) in keys.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    async fn source(&self, keys: Value, resume_at: Option<Checkpoint>) -> Source {
        let plan = plan("websocket", self.config(keys), self.folder.path());
        open_at(&*plan, self.folder.path(), resume_at).await
    }

    /// Takes a connection; chooses `wirefall.v1` where `v1`.
    async fn accept(&self, v1: bool) -> Peer {
        let (tcp, _) = soon(self.listener.accept()).await.unwrap();
        #[allow(clippy::result_large_err, reason = "the library's own")]
        let choose = |_: &Request, mut response: Response| {
            if v1 {
                let name = "wirefall.v1".parse().unwrap();
                response
                    .headers_mut()
                    .insert("sec-websocket-protocol", name);
            }
            Ok(response)
        };
        Peer(
            soon(tokio_tungstenite::accept_hdr_async(tcp, choose))
                .await
                .unwrap(),
        )
    }

    /// Takes a connection of `wirefall.v1` and answers its `subscribe`, which is returned.
    async fn greet(&self, epoch: &str, from: &str, lost: Option<u64>) -> (Peer, Value) {
        let mut peer = self.accept(true).await;
        let subscribe = peer.hear().await;
        let resumed = lost == Some(0);
        peer.say(json!({
            "type": "hello", "stream": "s", "epoch": epoch, "head": from, "from": from,
            "resumed": resumed, "lost": lost, "data": "text", "heartbeat_ms": 15000,
        }))
        .await;
        (peer, subscribe)
    }
}

struct Peer(WebSocketStream<TcpStream>);

impl Peer {
    async fn say(&mut self, notice: Value) {
        let bytes = notice.to_string().into_bytes();
        self.0.send(Message::binary(bytes)).await.unwrap();
    }

    async fn data(&mut self, records: &[&str]) {
        for record in records {
            self.0.send(Message::text(*record)).await.unwrap();
        }
    }

    async fn mark(&mut self, position: &str) {
        self.say(json!({"type": "mark", "position": position}))
            .await;
    }

    /// The next control message of the source.
    async fn hear(&mut self) -> Value {
        let heard = soon(self.0.next()).await.unwrap().unwrap();
        serde_json::from_str(heard.to_text().unwrap()).unwrap()
    }

    /// Waits for an ack of this position; earlier ones pass.
    async fn acked(&mut self, position: &str) {
        loop {
            let heard = self.hear().await;
            assert_eq!(heard["type"], "ack");
            if heard["position"] == position {
                return;
            }
        }
    }

    async fn close(mut self, code: u16, reason: &'static str) {
        let close = CloseFrame {
            code: code.into(),
            reason: reason.into(),
        };
        let _ = self.0.close(Some(close)).await;
        while soon(self.0.next()).await.is_some_and(|heard| heard.is_ok()) {}
    }
}

/// A run that is over, whatever became of its server; another may begin in the folder.
async fn over(source: Source, peer: Peer, folder: &tempfile::TempDir) {
    drop((source, peer));
    let lock = std::fs::File::open(folder.path().join("state/place.lock")).unwrap();
    soon(async {
        while lock.try_lock().is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn at(position: u64) -> Checkpoint {
    let mut checkpoint = Checkpoint::default();
    checkpoint.start_at(Partition::new("websocket"), position);
    checkpoint
}

fn position(checkpoint: &Checkpoint) -> Option<u64> {
    checkpoint.position(&Partition::new("websocket"))
}

#[tokio::test]
async fn a_plain_server_is_read_over_breaks_and_positions_go_on() {
    let upstream = Upstream::new().await;
    let plan = plan("websocket", upstream.config(json!({})), Path::new("."));
    assert!(!plan.replayable());
    let mut source = open_at(&*plan, upstream.folder.path(), Some(at(7))).await;
    let mut peer = upstream.accept(false).await;
    peer.data(&["a", "", "b\nc"]).await;
    let (mut records, mut checkpoint) = read(&mut source, 3).await;
    // Its end is not ours: a server that restarts says the same.
    peer.close(1000, "").await;
    let mut peer = upstream.accept(false).await;
    peer.0.send(Message::binary(vec![b'd'])).await.unwrap();
    records.extend(read_on(&mut source, 1, &mut checkpoint).await);
    assert_eq!(records, ["a", "", "b\nc", "d"]);
    assert_eq!(position(&checkpoint), Some(11));
    source.committer.commit(&checkpoint).await.unwrap();
}

#[tokio::test]
async fn a_plain_server_is_told_what_opens_it_each_time() {
    let upstream = Upstream::new().await;
    let keys = json!({"open": [r#"{"op":"subscribe"}"#], "subprotocols": []});
    let mut source = upstream.source(keys, None).await;
    for record in ["a", "b"] {
        let mut peer = upstream.accept(false).await;
        assert_eq!(peer.hear().await, json!({"op": "subscribe"}));
        peer.data(&[record]).await;
        let mut checkpoint = Checkpoint::default();
        assert_eq!(read_on(&mut source, 1, &mut checkpoint).await, [record]);
    }
}

#[tokio::test]
async fn messages_of_several_records_are_cut_and_what_is_odd_is_counted() {
    let upstream = Upstream::new().await;
    let mut source = upstream
        .source(json!({"framing": "json-array"}), None)
        .await;
    let mut peer = upstream.accept(false).await;
    let many: Vec<u32> = (0..25).collect();
    peer.data(&["[1, {\"a\":[2]}]", "{}", &json!(many).to_string()])
        .await;
    let (records, _) = read(&mut source, 28).await;
    assert_eq!(records[..3], ["1", "{\"a\":[2]}", "{}"]);
    assert!(
        records[3..]
            .iter()
            .cloned()
            .eq(many.iter().map(u32::to_string))
    );
    assert_eq!(source.reader.oddities().unsplit_messages, 1);
}

#[tokio::test]
async fn i1_the_server_is_told_what_is_committed_and_no_more() {
    let upstream = Upstream::new().await;
    let keys = json!({"from": "earliest", "name": "centre", "keys": ["k"]});
    let mut source = upstream.source(keys, None).await;
    let (mut peer, subscribe) = upstream.greet("e", "e.0", Some(0)).await;
    let asked = json!({"type": "subscribe", "from": "earliest", "name": "centre", "keys": ["k"]});
    for (member, value) in asked.as_object().unwrap() {
        assert_eq!(subscribe[member], *value);
    }
    peer.data(&["a", "b", "c"]).await;
    peer.mark("e.3").await;
    peer.data(&["d"]).await;
    peer.mark("e.4").await;
    let (records, _) = read(&mut source, 4).await;
    assert_eq!(records, ["a", "b", "c", "d"]);
    source.committer.commit(&at(2)).await.unwrap();
    // The last place before it is the beginning.
    assert_eq!(peer.hear().await["position"], "e.0");
    source.committer.commit(&at(3)).await.unwrap();
    assert_eq!(peer.hear().await["position"], "e.3");
    // While a run ends, nobody reads any more, and what is committed is told all the same.
    drop(source.reader);
    source.committer.commit(&at(4)).await.unwrap();
    peer.acked("e.4").await;
    drop(source.committer);
    assert!(soon(peer.0.next()).await.unwrap().unwrap().is_close());
}

/// The journal has more than was committed: what it has is passed over, and nothing else.
#[tokio::test]
async fn i1_a_run_goes_on_where_the_journal_is() {
    let upstream = Upstream::new().await;
    let keys = || json!({"from": "earliest"});
    for (committed, journal, asked, sent, expected) in [
        (
            None,
            None,
            "e.0",
            vec!["a", "b", "c", "d"],
            vec!["a", "b", "c", "d"],
        ),
        (
            Some(2),
            Some(2),
            "e.0",
            vec!["a", "b", "c", "d"],
            vec!["c", "d"],
        ),
        (
            Some(2),
            Some(4),
            "e.0",
            vec!["a", "b", "c", "d", "e"],
            vec!["e"],
        ),
        (Some(3), Some(4), "e.3", vec!["d", "e"], vec!["e"]),
        (Some(3), None, "e.3", vec!["d", "e"], vec!["d", "e"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan("websocket", upstream.config(keys()), folder.path());
        assert!(plan.replayable());
        let mut source = open(&*plan, folder.path()).await;
        let (mut peer, _) = upstream.greet("e", "e.0", Some(0)).await;
        peer.data(&["a", "b", "c"]).await;
        peer.mark("e.3").await;
        peer.data(&["d"]).await;
        assert_eq!(read(&mut source, 4).await.0.len(), 4);
        if let Some(committed) = committed {
            source.committer.commit(&at(committed)).await.unwrap();
        }
        over(source, peer, &folder).await;
        let mut source = open_at(&*plan, folder.path(), journal.map(at)).await;
        let (mut peer, subscribe) = upstream.greet("e", asked, Some(0)).await;
        assert_eq!(subscribe["from"], asked, "{committed:?} {journal:?}");
        peer.data(&sent).await;
        let (records, checkpoint) = read(&mut source, expected.len()).await;
        assert_eq!(records, expected, "{committed:?} {journal:?}");
        let before = if asked == "e.3" { 3 } else { 0 };
        assert_eq!(position(&checkpoint), Some(before + sent.len() as u64));
        assert_eq!(source.reader.oddities(), Oddities::default());
    }
}

/// Of what the server has no more, what is here already is not missing.
#[tokio::test]
async fn i2_what_is_missing_is_counted_and_what_is_here_already_is_not() {
    let upstream = Upstream::new().await;
    for (lost, sent, expected, missed) in [
        (1, vec!["b", "c", "d", "e"], vec!["e"], 0),
        (4, vec!["e"], vec!["e"], 0),
        (6, vec!["g"], vec!["g"], 2),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = upstream.config(json!({"protocol": "wirefall.v1"}));
        let plan = plan("websocket", config, folder.path());
        let source = open(&*plan, folder.path()).await;
        let (peer, _) = upstream.greet("e", "e.0", Some(0)).await;
        // Written down before the first record comes.
        let file = folder.path().join("state/place.json");
        soon(async {
            while !file.exists() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        over(source, peer, &folder).await;
        let mut source = open_at(&*plan, folder.path(), Some(at(4))).await;
        let from = format!("e.{lost}");
        let (mut peer, subscribe) = upstream.greet("e", &from, Some(lost)).await;
        assert_eq!(subscribe["from"], "e.0");
        peer.data(&sent).await;
        let (records, mut checkpoint) = read(&mut source, expected.len()).await;
        assert_eq!(records, expected, "{lost}");
        assert_eq!(position(&checkpoint), Some(lost + sent.len() as u64));
        assert_eq!(source.reader.oddities().missed, missed, "{lost}");
        // In mid-stream it is the same.
        peer.say(json!({"type": "gap", "from": "e.90", "lost": 5}))
            .await;
        peer.data(&["z"]).await;
        assert_eq!(read_on(&mut source, 1, &mut checkpoint).await, ["z"]);
        assert_eq!(source.reader.oddities().missed, missed + 5);
    }
}

/// A numbering that begins anew is taken from its beginning, told, and found again after a crash.
#[tokio::test]
async fn i1_another_epoch_is_a_gap_and_goes_on() {
    let upstream = Upstream::new().await;
    let keys = || json!({"from": "earliest"});
    let mut source = upstream.source(keys(), None).await;
    let (mut peer, _) = upstream.greet("old", "old.0", Some(0)).await;
    peer.data(&["a", "b"]).await;
    peer.mark("old.2").await;
    let (mut records, mut checkpoint) = read(&mut source, 2).await;
    source.committer.commit(&checkpoint).await.unwrap();
    peer.acked("old.2").await;
    drop(peer);
    let (mut peer, subscribe) = upstream.greet("new", "new.0", None).await;
    assert_eq!(subscribe["from"], "old.2");
    peer.data(&["A", "B"]).await;
    records.extend(read_on(&mut source, 2, &mut checkpoint).await);
    assert_eq!(records, ["a", "b", "A", "B"]);
    assert_eq!(source.reader.oddities().gaps, 1);
    assert_eq!(position(&checkpoint), Some(4));
    // Killed before the next commit; the journal has one of them.
    over(source, peer, &upstream.folder).await;
    let mut source = upstream.source(keys(), Some(at(3))).await;
    let (mut peer, subscribe) = upstream.greet("new", "new.0", Some(0)).await;
    assert_eq!(subscribe["from"], "new.0");
    peer.data(&["A", "B"]).await;
    assert_eq!(read(&mut source, 1).await.0, ["B"]);
}

#[tokio::test]
async fn a_stream_that_ends_ends_the_source_and_a_closed_source_gives_what_it_took() {
    let upstream = Upstream::new().await;
    let mut source = upstream.source(json!({}), None).await;
    let (mut peer, _) = upstream.greet("e", "e.0", Some(0)).await;
    peer.data(&["a"]).await;
    peer.close(1000, "end of stream").await;
    let (records, _) = read(&mut source, 10).await;
    assert_eq!(records, ["a"]);
    let mut source = upstream.source(json!({}), None).await;
    let (mut peer, _) = upstream.greet("e", "e.0", Some(0)).await;
    peer.data(&["a"]).await;
    assert_eq!(read(&mut source, 1).await.0, ["a"]);
    source.reader.close();
    assert!(soon(source.reader.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_server_that_refuses_ends_the_source() {
    let upstream = Upstream::new().await;
    let mut source = upstream.source(json!({}), None).await;
    upstream
        .accept(true)
        .await
        .close(4401, "the credential is wrong")
        .await;
    let error = soon(source.reader.next()).await.unwrap_err();
    assert!(matches!(error, SourceError::Environment { .. }), "{error}");
    let mut source = upstream.source(json!({}), None).await;
    let (peer, _) = upstream.greet("e", "e.0", Some(0)).await;
    peer.close(4409, "another session took this name").await;
    let error = soon(source.reader.next()).await.unwrap_err();
    assert!(matches!(error, SourceError::Peer { .. }), "{error}");
    // Where nothing but `wirefall.v1` will do, a server without it is refused.
    let mut source = upstream.source(json!({"from": "latest"}), None).await;
    let _peer = upstream.accept(false).await;
    let error = soon(source.reader.next()).await.unwrap_err();
    assert!(
        error.to_string().contains("does not speak wirefall.v1"),
        "{error}"
    );
}

/// A pipeline that takes nothing for a while: the server is heard and told all the same.
#[tokio::test]
async fn i4_while_nothing_is_taken_the_server_is_told_what_is_safe() {
    let upstream = Upstream::new().await;
    let mut source = upstream.source(json!({"from": "earliest"}), None).await;
    let (mut peer, _) = upstream.greet("e", "e.0", Some(0)).await;
    for n in 1..=10 {
        peer.data(&["x"; 10]).await;
        peer.mark(&format!("e.{}", n * 10)).await;
    }
    // What is gathered ahead is bounded, and three batches are in the way of the fourth.
    assert_eq!(read(&mut source, 10).await.0.len(), 10);
    source.committer.commit(&at(10)).await.unwrap();
    peer.acked("e.10").await;
    assert_eq!(read(&mut source, 90).await.0.len(), 90);
}

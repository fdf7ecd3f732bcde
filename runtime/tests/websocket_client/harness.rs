//! A sink that carries numbered records from a journal, and the peers that it carries them to.
//!
//! Owns what every test here needs and no test of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_util::sync::CancellationToken;
use wirefall::driver::Facts;
use wirefall::journal::memory::{Memory, Retention};
use wirefall::journal::{Journal, Position};
use wirefall::metrics::Metrics;
use wirefall::port::gate::Credentials;
use wirefall::record::{Batch, Column, Outputs, Partition, Records};
use wirefall::sink::framing::{Framer, Framing};
use wirefall::sink::websocket::DRIVER;
use wirefall::sink::websocket::receiver::{Ack, Faults, Options, Output, Receiver, Totals};
use wirefall::sink::{Delivered, Poisoned, SinkContext, SinkError, SinkPlan, Stop};

/// Nothing here takes so long, however busy the machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver that runs, and the file that it writes.
pub struct Peer {
    pub address: String,
    pub totals: Arc<Totals>,
    pub stop: CancellationToken,
    pub folder: tempfile::TempDir,
}

impl Peer {
    pub async fn start(reply: bool, faults: Faults) -> Self {
        Self::start_at("127.0.0.1:0", tempfile::tempdir().unwrap(), reply, faults).await
    }

    pub async fn start_at(
        address: &str,
        folder: tempfile::TempDir,
        reply: bool,
        faults: Faults,
    ) -> Self {
        let options = Options {
            output: Output::File(folder.path().join("received")),
            ack: match reply {
                true => Ack::Reply,
                false => Ack::Pong,
            },
            faults,
            ..Options::default()
        };
        let receiver = Receiver::bind(address, options).await.unwrap();
        let stop = CancellationToken::new();
        let peer = Self {
            address: receiver.address().to_string(),
            totals: receiver.totals(),
            stop: stop.clone(),
            folder,
        };
        tokio::spawn(receiver.run(stop));
        peer
    }

    pub fn lines(&self) -> Vec<String> {
        let file: PathBuf = self.folder.path().join("received");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn config(&self, more: Value) -> Value {
        let mut config = json!({
            "url": format!("ws://{}/in", self.address),
            "proxy": "none",
            "reconnect": {"min": "1ms", "max": "20ms"},
        });
        let more = more.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(more);
        config
    }
}

fn plan(config: Value) -> Box<dyn SinkPlan> {
    match (DRIVER.check)(config, &Facts::default()) {
        Ok(plan) => plan,
        Err(problems) => panic!("{problems:?}"),
    }
}

/// Numbered records.
pub fn numbered(records: usize) -> Vec<String> {
    (0..records).map(|n| format!("{{\"n\":{n}}}")).collect()
}

/// A batch of records of which the first has the number `start`.
fn batch(start: u64, records: &[String]) -> Batch {
    let payloads = records.iter().map(String::as_str);
    Batch {
        number: 0,
        partition: Partition::new("test"),
        start,
        positions: (start + 1..).take(records.len()).collect(),
        records: Records::of_payloads(payloads.collect::<Column>()),
    }
}

pub fn line_number(line: &str) -> usize {
    line.trim_start_matches("{\"n\":")
        .trim_end_matches('}')
        .parse()
        .unwrap_or_else(|_| panic!("not a record: {line}"))
}

pub struct Ended {
    pub result: Result<Delivered, SinkError>,
    pub poisoned: Vec<String>,
}

/// A sink made of a config, and what it carries.
pub struct Run {
    pub config: Value,
    pub records: Vec<String>,
    /// The config when it is read again.
    pub fresh: Option<Value>,
    /// How it is ended early.
    pub stop: Stop,
}

impl Run {
    pub fn new(config: Value, records: Vec<String>) -> Self {
        Self {
            config,
            records,
            fresh: None,
            stop: Stop::default(),
        }
    }

    /// Carries them to the end.
    pub async fn carry(self) -> Ended {
        let plan = plan(self.config);
        let journal = journal();
        let (confirmed, seen) = watch::channel(Position::default());
        let (poisoned, poison) = mpsc::channel::<Poisoned>(1);
        let fresh = self.fresh;
        let context = SinkContext {
            from: Position::default(),
            state_dir: std::path::PathBuf::new(),
            credentials: Credentials::of(std::path::Path::new("")),
            pipeline: "test".into(),
            journal: Arc::clone(&journal),
            confirmed,
            poisoned,
            stop: self.stop,
            metrics: Arc::new(Metrics::default()),
            reread: Arc::new(move || fresh.clone().ok_or("nothing to read again".into())),
        };
        let sink = plan.open(context).await.unwrap();
        tokio::spawn(append(journal, plan.framing(), self.records));
        let failover = tokio::spawn(keep(poison));
        let result = tokio::time::timeout(PATIENCE, sink.run())
            .await
            .expect("the run ends");
        if let Ok(delivered) = &result {
            assert_eq!(
                delivered.confirmed,
                *seen.borrow(),
                "confirmed is published"
            );
        }
        Ended {
            result,
            poisoned: failover.await.unwrap(),
        }
    }
}

/// Carries `records` numbered records by a sink made of `config`.
pub async fn carry(config: Value, records: usize) -> Ended {
    Run::new(config, numbered(records)).carry().await
}

fn journal() -> Arc<dyn Journal> {
    Arc::new(Memory::new(Retention {
        bytes_max: 1 << 20,
        age_max: None,
        history: false,
    }))
}

/// Appends all records, a hundred a batch, and closes the journal.
async fn append(journal: Arc<dyn Journal>, framing: Framing, records: Vec<String>) {
    let mut framer = Framer::new(framing, Position::default());
    for (index, lines) in records.chunks(100).enumerate() {
        let batch = batch(index as u64 * 100, lines);
        framer.push(&batch, &Outputs::unchanged(&batch.records), Duration::ZERO);
        while let Some(chunk) = framer.take() {
            // Nobody reads once the run is aborted.
            let _ = journal.append(chunk, Vec::new()).await;
        }
    }
    framer.close();
    while let Some(chunk) = framer.take() {
        let _ = journal.append(chunk, Vec::new()).await;
    }
    journal.close();
}

/// The failover: keeps what is poison.
async fn keep(mut poison: mpsc::Receiver<Poisoned>) -> Vec<String> {
    let mut kept = Vec::new();
    while let Some(poisoned) = poison.recv().await {
        kept.push(String::from_utf8(poisoned.record.to_vec()).unwrap());
        let _ = poisoned.settled.send(());
    }
    kept
}

/// Everything is there (I1), in order with what was sent again taken out (I3).
pub fn assert_all(lines: &[String], records: usize) {
    let mut next = 0;
    for line in lines {
        let n = line_number(line);
        assert!(n <= next, "{n} came before {next}");
        next = next.max(n + 1);
    }
    assert_eq!(next, records, "records that arrived");
}

/// A peer of the library's own making: answers Pings, takes the subprotocol that is offered, and hands
/// each connection and its headers to `serve`.
pub async fn library_peer<F, R>(status: fn(&str) -> u16, serve: F) -> String
where
    F: Fn(usize, WebSocketStream<TcpStream>) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut connections = 0;
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            #[expect(clippy::result_large_err, reason = "the library's type")]
            let callback = |request: &Request, mut response: Response| {
                if let Some(offered) = request.headers().get("sec-websocket-protocol") {
                    let headers = response.headers_mut();
                    headers.insert("sec-websocket-protocol", offered.clone());
                }
                let token = request.headers().get("authorization");
                let token = token.and_then(|token| token.to_str().ok());
                match status(token.unwrap_or_default()) {
                    101 => Ok(response),
                    status => {
                        let mut refusal = ErrorResponse::new(None);
                        *refusal.status_mut() = status.try_into().unwrap();
                        Err(refusal)
                    }
                }
            };
            if let Ok(socket) = tokio_tungstenite::accept_hdr_async(tcp, callback).await {
                tokio::spawn(serve(connections, socket));
                connections += 1;
            }
        }
    });
    address
}

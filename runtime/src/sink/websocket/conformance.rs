//! RFC 6455 by a suite that we did not write: Autobahn|Testsuite, against both roles and the receiver.
//!
//! Owns an echo of each, made of the parts that ship and nothing else (that of the server is in
//! `server/echo.rs`; the receiver has a way to confirm that is one), and what the suite may say of them. The product's bounds are the product's; here
//! messages may have what the suite sends. Skipped where the suite is not installed, as other peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use wirefall_tests::peers::{autobahn, free_address};
use wirefall_tests::{Folder, Process, wait_until};

use super::address::Address;
use super::connect::connect;
use super::endpoint::{Endpoint, ProxyPlan};
use super::layers::Layers;
use super::line::Line;
use super::receiver::{Ack, Options, Output, Receiver};
use super::server::echo::{self, MESSAGE_BYTES_MAX, chunk};
use super::session::Piece;
use crate::journal::Position;
use crate::sink::framing::{Batching, Carrier, Framing};

/// Longest wait for one case: the slowest takes some seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the suite calls us in its reports.
const AGENT: &str = "wirefall";
/// Cases of the suite without those of permessage-deflate (12 and 13), which is not offered.
const CASES: usize = 301;
const COMPRESSION: [&str; 2] = ["12.*", "13.*"];

#[test]
fn the_server_conforms_to_rfc_6455() {
    let runtime = Runtime::new().expect("threads");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("an address");
    conforms("server", &runtime, address, echo::serve(listener));
}

#[test]
fn the_receiver_conforms_to_rfc_6455() {
    let runtime = Runtime::new().expect("threads");
    let options = Options {
        // Who counts looks at no payload.
        output: Output::File("/dev/null".into()),
        ack: Ack::Echo,
        message_bytes_max: MESSAGE_BYTES_MAX,
        ..Options::default()
    };
    let receiver = runtime.block_on(Receiver::bind("127.0.0.1:0", options));
    let receiver = receiver.expect("a free port");
    let address = receiver.address();
    let serve = async {
        let served = receiver.run(CancellationToken::new()).await;
        served.expect("nothing fails");
    };
    conforms("receiver", &runtime, address, serve);
}

/// What is served at an address says back what the suite sends, and breaks no rule.
fn conforms(
    role: &str,
    runtime: &Runtime,
    address: SocketAddr,
    serve: impl Future<Output = ()> + Send + 'static,
) {
    let folder = Folder::new();
    let servers = json!([{ "agent": AGENT, "url": format!("ws://{address}") }]);
    let Some(mut suite) = start(&folder, "fuzzingclient", "servers", servers) else {
        return;
    };
    runtime.spawn(serve);
    for case in 1..=CASES {
        tell(role, case);
        wait_until("the next case", || {
            cases_begun(&suite) >= case || !suite.is_running()
        });
    }
    suite.wait().expect(0);
    assess(&folder);
}

#[test]
fn the_client_conforms_to_rfc_6455() {
    let address = free_address();
    let folder = Folder::new();
    let url = format!("ws://{address}").into();
    let Some(_suite) = start(&folder, "fuzzingserver", "url", url) else {
        return;
    };
    wait_until("the suite listens", || {
        std::net::TcpStream::connect(address).is_ok()
    });
    let runtime = Runtime::new().expect("threads");
    let ask = |what: &str| {
        let asked = async { timeout(PATIENCE, converse(address, what)).await };
        runtime
            .block_on(asked)
            .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
    };
    for case in 1..=CASES {
        tell("client", case);
        ask(&format!("runCase?case={case}&agent={AGENT}"));
    }
    ask(&format!("updateReports?agent={AGENT}"));
    assess(&folder);
}

/// Starts the suite; `key` and `value` say what it talks to. `None`: not here.
fn start(folder: &Folder, mode: &str, key: &str, value: Value) -> Option<Process> {
    let mut plan = json!({
        "outdir": folder.path("reports"),
        "cases": ["*"],
        "exclude-cases": COMPRESSION,
        "exclude-agent-cases": {},
    });
    plan[key] = value;
    let plan = folder.write("plan.json", plan.to_string());
    autobahn("conformance", mode, &plan)
}

fn cases_begun(suite: &Process) -> usize {
    suite.stdout().matches("Running test case ID").count()
}

/// Progress for whoever looks on (`--nocapture`).
fn tell(role: &str, case: usize) {
    if case.is_multiple_of(25) {
        eprintln!("{role}: case {case} of {CASES}");
    }
}

/// Dials, and says back what it hears until the connection ends.
async fn converse(address: SocketAddr, path: &str) {
    let url = format!("ws://{address}/{path}");
    let mut endpoint = Endpoint::at(Address::parse(&url).expect("an address"));
    endpoint.proxy = ProxyPlan::Direct;
    endpoint.message_bytes_max = MESSAGE_BYTES_MAX;
    let connected = connect(&endpoint, None, &mut Layers::default()).await;
    let connected = connected.unwrap_or_else(|failure| panic!("{url}: {}", failure.message));
    let mut line = Line::new(connected, Position::default()).expect("random numbers");
    loop {
        line.take_answers();
        match line.is_drained().then(|| line.next()).flatten() {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                let framing = Framing {
                    carrier: Carrier::Text,
                    batch: Batching::Record,
                    envelope: false,
                    frame_bytes_max: MESSAGE_BYTES_MAX,
                };
                // Pongs of what came before the message go before it.
                line.take_answers();
                line.push(&chunk(&message), &Piece::Frames(0..1), &framing);
                continue;
            }
            Some(Ok(Message::Close(_))) => {
                line.answer_close();
                return;
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) => {
                line.complain(&error);
                return;
            }
            None => (),
        }
        let moved = line.moved(true).await;
        if moved.wrote.is_some_and(|wrote| wrote.is_err()) || matches!(moved.read, Some(Err(_))) {
            return;
        }
    }
}

/// What the suite says of a case and of how it ended, where it does not say that both are right.
const KNOWN: [(&str, [&str; 2]); 5] = [
    // Text that is wrong in the middle of a frame: the library looks at whole frames, so it is refused
    // when the frame has come, and not at the first wrong byte, which is what the suite would like.
    ("6.4.3", ["NON-STRICT", "OK"]),
    ("6.4.4", ["NON-STRICT", "OK"]),
    // What the RFC leaves open: an echo that a Close overtakes, and close codes beyond 4999.
    ("7.1.6", ["INFORMATIONAL", "INFORMATIONAL"]),
    ("7.13.1", ["INFORMATIONAL", "INFORMATIONAL"]),
    ("7.13.2", ["INFORMATIONAL", "INFORMATIONAL"]),
];

/// Every case is as it is known to be.
fn assess(folder: &Folder) {
    let index = folder.read("reports/index.json");
    let index: Value = serde_json::from_str(&index).expect("the suite's report");
    let cases = index[AGENT].as_object().expect("cases by name");
    assert_eq!(cases.len(), CASES);
    let told = |case: &Value, key: &str| case[key].as_str().unwrap_or_default().to_owned();
    let seen: BTreeMap<&str, [String; 2]> = cases
        .iter()
        .map(|(name, case)| {
            (
                name.as_str(),
                ["behavior", "behaviorClose"].map(|key| told(case, key)),
            )
        })
        .filter(|(_, seen)| *seen != ["OK", "OK"])
        .collect();
    for (name, seen) in &seen {
        let file = cases[*name]["reportfile"].as_str().expect("a file");
        let report = folder.read(&Path::new("reports").join(file).to_string_lossy());
        let report: Value = serde_json::from_str(&report).expect("a report");
        eprintln!(
            "{name}: {seen:?}: {}; {}; {}; remote {}",
            report["expectation"],
            report["result"],
            report["resultClose"],
            report["remoteCloseCode"]
        );
    }
    let known = KNOWN.map(|(name, known)| (name, known.map(str::to_owned)));
    assert_eq!(seen, BTreeMap::from(known));
}

//! The limits beside which `cargo xtask bench` puts Wirefall: the same work with the same libraries,
//! and nothing else.
//!
//! `limits send FILE URL` sends every line as a text message with tokio-tungstenite: no plugin, no
//! journal, no confirmation. `limits format FILE URL` first does what `plugins/flight-delays` does,
//! natively in the one thread. The lines are in memory before the clock starts. Prints one line of
//! JSON: `{"sent", "seconds", "cpu_seconds"}`.

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// The flights that the formatter keeps are later than this.
const MIN_DELAY: i64 = 15;

#[derive(Deserialize)]
struct Flight<'a> {
    dep_delay: Option<i64>,
    carrier: &'a str,
    flight: u32,
    origin: &'a str,
    dest: &'a str,
}

#[derive(Serialize)]
struct Delay<'a> {
    flight: String,
    from: &'a str,
    to: &'a str,
    delay: i64,
}

fn format(line: &str) -> Option<Utf8Bytes> {
    let flight: Flight = serde_json::from_str(line).expect("a flight");
    let delay = flight.dep_delay.filter(|delay| *delay > MIN_DELAY)?;
    let notice = Delay {
        flight: format!("{}{}", flight.carrier, flight.flight),
        from: flight.origin,
        to: flight.dest,
        delay,
    };
    Some(serde_json::to_string(&notice).expect("it is JSON").into())
}

/// CPU time of this process, user and system.
fn cpu_seconds() -> f64 {
    // SAFETY: all zeroes is a valid rusage, and getrusage only writes to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, job, file, url] = &arguments[..] else {
        panic!("limits send|format FILE URL")
    };
    let text = std::fs::read_to_string(file).expect("the lines are read");
    let (mut socket, _) = tokio_tungstenite::connect_async(url)
        .await
        .expect("it connects");
    let (started, cpu) = (std::time::Instant::now(), cpu_seconds());
    let mut sent = 0;
    for line in text.lines() {
        let message = match job.as_str() {
            "send" => Some(line.into()),
            "format" => format(line),
            job => panic!("there is no job {job}"),
        };
        if let Some(message) = message {
            socket.feed(Message::Text(message)).await.expect("it sends");
            sent += 1;
        }
    }
    socket.close(None).await.expect("it flushes");
    while let Some(Ok(_)) = socket.next().await {}
    let (seconds, cpu_seconds) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "{}",
        serde_json::json!({"sent": sent, "seconds": seconds, "cpu_seconds": cpu_seconds})
    );
}

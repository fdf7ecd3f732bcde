//! `wirefall receive`: a WebSocket server for trying pipelines out.
//!
//! Owns its arguments and what a person sees; the server itself is `sink::websocket::receiver`.

use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use tokio_util::sync::CancellationToken;

use super::{Exit, Globals};
use crate::sink::websocket::receiver::{
    self, BreakHow, Faults, Options, Output, ReceiveError, Receiver, Totals,
};
use crate::units::{ByteSize, Span};

/// Arguments of `wirefall receive`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen: `127.0.0.1:9500`; port 0 takes a free one
    address: String,
    /// Append each message to this file, one a line, instead of printing it
    #[arg(long, value_name = "FILE", conflicts_with = "count")]
    out: Option<PathBuf>,
    /// Print counts only
    #[arg(long)]
    count: bool,
    /// Print nothing but the summary
    #[arg(long, short)]
    quiet: bool,
    /// What confirms: Pongs; also a reply `{"received":N}` to each message; or a place that is kept
    /// together with the records, in FILE.place
    #[arg(long, value_enum, default_value_t = Ack::Pong)]
    ack: Ack,
    /// Stop after so many messages
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Longest message; whoever sends a longer one is closed with 1009. Each connection may take up to
    /// three times as much memory
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(receiver::MESSAGE_BYTES_MAX as u64))]
    message_max: ByteSize,
    #[command(flatten)]
    faults: FaultArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Faults")]
struct FaultArgs {
    /// Break the connection after every N messages
    #[arg(long, value_name = "N")]
    break_every: Option<u64>,
    /// Break the connection at each message that contains TEXT, without handling it
    #[arg(long, value_name = "TEXT")]
    break_on: Option<String>,
    /// How to break
    #[arg(long, value_enum, default_value_t = How::Reset)]
    break_how: How,
    /// Break N times at most
    #[arg(long, value_name = "N")]
    break_times: Option<u64>,
    /// Answer Pings with another payload
    #[arg(long)]
    wrong_pongs: bool,
    /// Answer no Ping
    #[arg(long)]
    no_pong: bool,
    /// Refuse every handshake with this HTTP status
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u16).range(400..600))]
    status: Option<u16>,
    /// Take so long over each message
    #[arg(long, value_name = "DURATION", value_parser = span)]
    slow: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ack {
    Pong,
    Message,
    #[value(name = "wirefall.v1")]
    V1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum How {
    /// RST, as a killed process
    Reset,
    /// A Close with code 1001
    Close,
    /// Neither reads nor answers any more
    Stall,
    /// Drops what comes and answers nothing any more
    HalfOpen,
    /// RST, then 503 to the next three handshakes
    #[value(name = "refuse-503")]
    Refuse503,
}

fn span(text: &str) -> Result<Duration, String> {
    text.parse::<Span>().map(|span| span.0)
}

/// Runs the verb.
///
/// # Errors
/// Whatever keeps it from running.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Exit> {
    // One thread is enough, and leaves the others to what is measured against it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(receive(args, globals))
}

async fn receive(args: Args, globals: &Globals) -> anyhow::Result<Exit> {
    let receiver = match Receiver::bind(&args.address, options(&args)).await {
        Ok(receiver) => receiver,
        Err(error) => {
            say_error!(globals, "cannot listen on {}: {error}", args.address);
            return Ok(Exit::Environment);
        }
    };
    let address = receiver.address();
    let totals = receiver.totals();
    let stop = CancellationToken::new();
    if !args.quiet {
        say!("receiving on ws://{address}, Ctrl-C ends");
    }
    tokio::spawn(stop_at_signal(stop.clone()));
    if args.count && !args.quiet {
        tokio::spawn(show_counts(Arc::clone(&totals), globals.json));
    }
    match receiver.run(stop).await {
        Ok(()) => {}
        Err(ReceiveError::Kept(error)) => {
            say_error!(globals, "{error}");
            return Ok(Exit::Wrong);
        }
        Err(ReceiveError::Io(error)) => return Err(error).context("receiving failed"),
    }
    tell!("{}", summary(&totals, globals.json));
    Ok(Exit::Done)
}

fn options(args: &Args) -> Options {
    let output = match &args.out {
        Some(path) => Output::File(path.clone()),
        None if args.count || args.quiet => Output::Count,
        None => Output::Print,
    };
    let faults = &args.faults;
    Options {
        output,
        ack: match args.ack {
            Ack::Pong => receiver::Ack::Pong,
            Ack::Message => receiver::Ack::Reply,
            Ack::V1 => receiver::Ack::Place,
        },
        limit: args.limit,
        message_bytes_max: usize::try_from(args.message_max.0).unwrap_or(usize::MAX),
        faults: Faults {
            break_every: faults.break_every,
            break_on: faults
                .break_on
                .as_ref()
                .map(|text| text.clone().into_bytes()),
            how: match faults.break_how {
                How::Reset => BreakHow::Reset,
                How::Close => BreakHow::Close,
                How::Stall => BreakHow::Stall,
                How::HalfOpen => BreakHow::HalfOpen,
                How::Refuse503 => BreakHow::Refuse503,
            },
            breaks_max: faults.break_times,
            wrong_pongs: faults.wrong_pongs,
            no_pong: faults.no_pong,
            status: faults.status,
            slow: faults.slow,
        },
    }
}

async fn stop_at_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
}

/// The counts, once a second while they change; on one line where a person looks.
async fn show_counts(totals: Arc<Totals>, json: bool) {
    let mut shown = totals.read();
    let rewrite = std::io::stdout().is_terminal() && !json;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = totals.read();
        if now != shown {
            shown = now;
            let line = summary(&totals, json);
            if rewrite {
                let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
            } else {
                tell!("{line}");
            }
        }
    }
}

fn summary(totals: &Totals, json: bool) -> String {
    let [messages, bytes, connections, breaks] = totals.read();
    if json {
        return serde_json::json!({
            "messages": messages,
            "bytes": bytes,
            "connections": connections,
            "breaks": breaks,
        })
        .to_string();
    }
    let broken = match breaks {
        0 => String::new(),
        breaks => format!(", {breaks} broken on request"),
    };
    format!("{messages} messages, {bytes} bytes, {connections} connections{broken}")
}

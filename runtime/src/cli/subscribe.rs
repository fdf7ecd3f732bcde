//! `wirefall subscribe`: be a client of a published stream and print what arrives.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use bytes::Bytes;
use serde_json::json;

use super::{Exit, Globals};
use crate::sink::websocket::subscription::{Event, SubscribeError, Subscription};

/// How often a server that is not there yet is tried with `--wait`.
const RETRY: Duration = Duration::from_millis(200);

/// Arguments of `wirefall subscribe`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wirefall subscribe ws://127.0.0.1:9400/v1/streams/flights
  wirefall subscribe ws://127.0.0.1:9400/v1/streams/flights --limit 100 --out flights.ndjson
  wirefall subscribe wss://records.example.com/v1/streams/flights --ca authorities.pem

A proxy of the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY) is gone through, but to this machine.

Exit codes: 0 the stream ended, the limit was reached, or a signal came; 2 the address is wrong;
3 nobody answers there, or the answer is no.")]
pub struct Args {
    /// Address of the stream, as `wirefall run` prints it
    url: String,
    /// Print how many records came instead of the records
    #[arg(long)]
    count: bool,
    /// End after so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Write the records to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// PEM file of the authorities to trust instead of the system's, for wss://
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Wait for a server that is not there yet
    #[arg(long)]
    wait: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever keeps it from running.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(subscribe(&args, globals))
}

async fn subscribe(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let mut subscription = match Subscription::new(&args.url, args.ca.clone()) {
        Ok(subscription) => subscription,
        Err(error) => return Ok(refuse(&error, Exit::Wrong)),
    };
    let mut printer = Printer::new(args, globals)?;
    let mut interrupted = std::pin::pin!(interrupted());
    loop {
        let connected = tokio::select! {
            connected = subscription.connect() => connected,
            () = &mut interrupted => return Ok(Exit::Done),
        };
        match connected {
            Ok(()) => break,
            Err(_) if args.wait => tokio::select! {
                () = tokio::time::sleep(RETRY) => (),
                () = &mut interrupted => return Ok(Exit::Done),
            },
            Err(error) => return Ok(refuse(&error, Exit::Environment)),
        }
    }
    while !printer.is_full() {
        let event = match subscription.ready() {
            Some(event) => event,
            None => {
                // Nothing more at once: what was printed is to be seen.
                if !printer.flush()? {
                    break;
                }
                tokio::select! {
                    event = subscription.next() => event,
                    () = &mut interrupted => break,
                }
            }
        };
        match event {
            Event::Frame { payload, text } => {
                if !printer.print(&payload, text)? {
                    break;
                }
            }
            Event::Broken { reason, wait } => printer.note(&format!(
                "disconnected: {reason}; trying again in {:.1} s",
                wait.as_secs_f64()
            )),
            Event::Back => {
                printer.reconnects += 1;
                printer.note("connected again; what was published in between was not seen");
            }
            Event::End => break,
        }
    }
    subscription.close().await;
    printer.finish()?;
    Ok(Exit::Done)
}

fn refuse(error: &SubscribeError, exit: Exit) -> Exit {
    say!("error: {error}");
    exit
}

/// Returns when a person or a supervisor asks to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminated = signal(SignalKind::terminate()).ok();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        Some(()) = async { terminated.as_mut()?.recv().await } => (),
    }
}

/// Where records go, and their count.
struct Printer {
    to: Option<BufWriter<Box<dyn Write>>>,
    json: bool,
    count: bool,
    limit: u64,
    records: u64,
    bytes: u64,
    reconnects: u64,
    started: Instant,
}

impl Printer {
    fn new(args: &Args, globals: &Globals) -> anyhow::Result<Self> {
        let to: Option<Box<dyn Write>> = match &args.out {
            Some(path) => {
                let file = File::create(path)
                    .with_context(|| format!("cannot write to {}", path.display()))?;
                Some(Box::new(file))
            }
            None if args.count => None,
            None => Some(Box::new(io::stdout())),
        };
        Ok(Self {
            to: to.map(|to| BufWriter::with_capacity(64 * 1024, to)),
            json: globals.json,
            count: args.count,
            limit: args.limit.unwrap_or(u64::MAX),
            records: 0,
            bytes: 0,
            reconnects: 0,
            started: Instant::now(),
        })
    }

    fn is_full(&self) -> bool {
        self.records >= self.limit
    }

    /// Prints a record; false where nobody reads any more.
    fn print(&mut self, payload: &Bytes, text: bool) -> io::Result<bool> {
        self.records += 1;
        self.bytes += payload.len() as u64;
        let Some(to) = &mut self.to else {
            return Ok(true);
        };
        let printed = if self.json {
            let line = match std::str::from_utf8(payload) {
                Ok(payload) if text => json!({ "text": payload }),
                _ => json!({
                    "base64": base64::engine::general_purpose::STANDARD.encode(payload)
                }),
            };
            writeln!(to, "{line}")
        } else {
            to.write_all(payload).and_then(|()| to.write_all(b"\n"))
        };
        heard(printed)
    }

    fn flush(&mut self) -> io::Result<bool> {
        heard(self.to.as_mut().map_or(Ok(()), Write::flush))
    }

    fn note(&self, text: &str) {
        if self.json {
            say!("{}", json!({ "note": text }));
        } else {
            say!("{text}");
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        let Self {
            records,
            bytes,
            reconnects,
            ..
        } = self;
        let seconds = self.started.elapsed().as_secs_f64();
        let account = json!({
            "records": records, "bytes": bytes, "reconnects": reconnects, "seconds": seconds
        });
        match (self.count, self.json) {
            (true, true) => heard(writeln!(io::stdout(), "{account}")).map(drop),
            (true, false) => heard(writeln!(io::stdout(), "{records}")).map(drop),
            (false, true) => {
                say!("{account}");
                Ok(())
            }
            (false, false) => {
                say!("{records} records, {bytes} bytes in {seconds:.1} s");
                Ok(())
            }
        }
    }
}

/// A reader that left (`… | head`) is no error.
fn heard(printed: io::Result<()>) -> io::Result<bool> {
    match printed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

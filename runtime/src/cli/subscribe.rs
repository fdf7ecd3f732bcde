//! `wirefall subscribe`: be a client of a published stream and print what arrives.
//!
//! Owns the arguments and what is told beside the records. Where a file is written, its place is kept
//! beside it, so that the next start goes on with the record that follows.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use self::printer::Printer;
use super::{Exit, Globals};
use crate::files;
use crate::sink::websocket::protocol::{From, KEY_BYTES_MAX, Keys, Wanted, is_name};
use crate::sink::websocket::subscription::{Event, SubscribeError, Subscription};
use crate::units::Secret;

mod printer;

/// Longest file of a secret.
const SECRET_BYTES_MAX: u64 = 4096;
/// How often a server that is not there yet is tried with `--wait`.
const RETRY: Duration = Duration::from_millis(200);

/// Arguments of `wirefall subscribe`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wirefall subscribe ws://127.0.0.1:9400/v1/streams/flights
  wirefall subscribe ws://127.0.0.1:9400/v1/streams/flights --from earliest --out flights.ndjson
  wirefall subscribe ws://127.0.0.1:9400/v1/streams/flights --name archive --out flights.ndjson
  wirefall subscribe wss://records.example.com/v1/streams/flights --ca authorities.pem

With --out FILE the place in the stream is kept in FILE.place: started again, it goes on with the
record that follows, each exactly once. Without FILE.place, FILE is begun anew.
Other keys need another FILE.

A proxy of the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY) is gone through, but to this machine.

Exit codes: 0 the stream ended, the limit was reached, or a signal came; 1 the server closed for good;
2 the address, an argument or the file is wrong; 3 nobody answers there, or the answer is no.")]
pub struct Args {
    /// Address of the stream, as `wirefall run` prints it
    url: String,
    /// Where to begin: earliest, latest, -N (the newest N records), or a position; by default where
    /// the cursor of --name stands, else latest
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true, value_parser = From::written)]
    from: Option<From>,
    /// Name of a cursor that the server keeps: it moves as records are safe here
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// Only records with this key; may be given several times
    #[arg(long = "key", value_name = "KEY", value_parser = key)]
    keys: Vec<String>,
    /// Print how many records came instead of the records
    #[arg(long)]
    count: bool,
    /// End after so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Write the records to a file instead of standard output, and keep its place beside it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// PEM file of the authorities to trust instead of the system's, for wss://
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with the secret of a credential; without it WIREFALL_SECRET of the environment is shown,
    /// where it is set. Never an argument: others see those
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Wait for a server that is not there yet
    #[arg(long)]
    wait: bool,
}

fn name(text: &str) -> Result<String, &'static str> {
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("a name is 1 to 64 of the characters A-Z a-z 0-9 . - _"),
    }
}

fn key(text: &str) -> Result<String, String> {
    match (1..=KEY_BYTES_MAX).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(format!("a key has 1 to {KEY_BYTES_MAX} bytes")),
    }
}

/// The secret to show, if there is one.
fn secret(args: &Args) -> anyhow::Result<Option<Secret>> {
    let text = match &args.secret_file {
        Some(path) => {
            let bytes = files::read_bounded(path, SECRET_BYTES_MAX)
                .with_context(|| format!("cannot read {}", path.display()))?;
            // What is no text is no secret, and is not repeated.
            Some(
                String::from_utf8(bytes)
                    .ok()
                    .context("the secret is no text")?,
            )
        }
        None => std::env::var("WIREFALL_SECRET").ok(),
    };
    let text = text.map(|text| text.trim().to_owned());
    Ok(text.filter(|text| !text.is_empty()).map(Secret::new))
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
    let printer = match Printer::new(args, globals) {
        Ok(printer) => printer,
        Err(error) => return Ok(refuse(&error, globals, Exit::Wrong)),
    };
    let wanted = Wanted {
        from: args.from.clone(),
        name: args.name.clone(),
        keys: (!args.keys.is_empty()).then(|| Keys::new(args.keys.iter().cloned())),
    };
    let place = printer.place().cloned();
    let mut subscription = match Subscription::new(&args.url, args.ca.clone(), wanted, place) {
        Ok(subscription) => subscription,
        Err(error) => return Ok(refuse(&error, globals, Exit::Wrong)),
    };
    let mut interrupted = std::pin::pin!(interrupted());
    if let Some(secret) = secret(args)?
        && let Err(error) = subscription.authorize(&secret)
    {
        return Ok(refuse(&error, globals, Exit::Wrong));
    }
    loop {
        let connected = tokio::select! {
            connected = subscription.connect() => connected,
            () = &mut interrupted => return Ok(Exit::Done),
        };
        match connected {
            Ok(()) => break,
            Err(SubscribeError::Refused(_)) if args.wait => tokio::select! {
                () = tokio::time::sleep(RETRY) => (),
                () = &mut interrupted => return Ok(Exit::Done),
            },
            Err(error) => return Ok(refuse(&error, globals, Exit::Environment)),
        }
    }
    let mut following = Following {
        globals,
        subscription,
        stream: printer.stream().unwrap_or_default().to_owned(),
        printer,
        unkept: false,
        greeted: false,
    };
    let exit = following.follow(&mut interrupted).await?;
    // A place in another stream is none of this file, which stays as it was.
    if exit != Exit::Wrong {
        following.keep()?;
    }
    following.subscription.close().await;
    following.printer.finish()?;
    Ok(exit)
}

/// A subscription that is printed.
struct Following<'a> {
    globals: &'a Globals,
    subscription: Subscription,
    printer: Printer,
    /// The stream, as its server names it.
    stream: String,
    /// Something was printed that is not kept yet.
    unkept: bool,
    /// `hello` came once.
    greeted: bool,
}

impl Following<'_> {
    /// Prints what comes until an end.
    async fn follow(
        &mut self,
        interrupted: &mut (impl Future<Output = ()> + Unpin),
    ) -> anyhow::Result<Exit> {
        if !self.subscription.speaks_v1() {
            let note = "the server speaks wirefall.plain only: after a break it does not resume";
            self.printer.note(note);
        }
        while !self.printer.is_full() {
            let event = match self.subscription.ready() {
                Some(event) => event,
                None => {
                    // Nothing more at once: what was printed is to be seen.
                    let flushed = self.printer.flush();
                    if !flushed.context("cannot write the records")? {
                        break;
                    }
                    let due_at = self.printer.due_at().into();
                    tokio::select! {
                        event = self.subscription.next() => event,
                        () = tokio::time::sleep_until(due_at), if self.unkept => {
                            self.keep()?;
                            continue;
                        }
                        () = &mut *interrupted => break,
                    }
                }
            };
            if let Some(exit) = self.take(event)? {
                return Ok(exit);
            }
            if self.unkept && self.printer.is_due() {
                self.keep()?;
            }
        }
        Ok(Exit::Done)
    }

    /// Takes an event; returns how the run ends, if that is its end.
    fn take(&mut self, event: Event) -> anyhow::Result<Option<Exit>> {
        match event {
            Event::Frame { payload, text } => {
                self.unkept = true;
                let printed = self.printer.print(&payload, text);
                if !printed.context("cannot write the records")? {
                    return Ok(Some(Exit::Done));
                }
            }
            Event::Marked => self.unkept = true,
            Event::Parting => self.keep()?,
            Event::Hello(hello) => {
                if let Some(stream) = self.printer.stream().filter(|s| *s != hello.stream) {
                    let (stream, other) = (stream.to_owned(), hello.stream);
                    say_error!(
                        self.globals,
                        "the file is of the stream `{stream}`, and this is `{other}`"
                    );
                    return Ok(Some(Exit::Wrong));
                }
                if self.greeted {
                    self.printer.reconnects += 1;
                    self.printer.note("connected again");
                }
                self.greeted = true;
                self.stream = hello.stream;
                self.unkept = true;
                if !hello.resumed {
                    self.printer.lose(hello.lost);
                }
            }
            Event::Gap(lost) => self.printer.lose(lost),
            Event::Broken { reason, wait } => self.printer.note(&format!(
                "disconnected: {reason}; trying again in {:.1} s",
                wait.as_secs_f64()
            )),
            Event::Plain => {
                self.printer.reconnects += 1;
                let note = "connected again; what was published in between was not seen";
                self.printer.note(note);
            }
            Event::End => return Ok(Some(Exit::Done)),
            Event::Refused(words) => {
                say_error!(self.globals, "{words}");
                return Ok(Some(Exit::Failed));
            }
        }
        Ok(None)
    }

    /// Makes what was printed safe, and then tells the server so.
    fn keep(&mut self) -> anyhow::Result<()> {
        self.unkept = false;
        let Some(place) = self.subscription.place().cloned() else {
            return Ok(());
        };
        let kept = self.printer.keep(&self.stream, &place);
        if kept.context("cannot keep the records")? {
            self.subscription.ack(place);
        }
        Ok(())
    }
}

fn refuse(error: &dyn std::error::Error, globals: &Globals, exit: Exit) -> Exit {
    say_error!(globals, "{error}");
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

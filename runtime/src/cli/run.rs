//! `wirefall run`: carries records until the source ends or a signal comes.
//!
//! Owns signals, the words at the start and the end, and the exit code. What a person reads goes to
//! standard error, because standard output may be the sink.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Globals, check, credentials};
use crate::config::Plan;
use crate::pipeline::{self, Ended, RunError};
use crate::plugin::{Cache, Host, PluginErrorKind};
use crate::sink::{SinkError, Stop};
use crate::source::SourceError;

/// Arguments of `wirefall run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline file
    pub file: PathBuf,
    /// Forget where the last run left off and read everything again
    #[arg(long)]
    pub fresh: bool,
    /// Print nothing at the start and the end but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the verb.
///
/// # Errors
/// Only what keeps it from running at all; a failed run is an exit code.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Exit> {
    let plan = match check::load(&args.file, globals, &mut std::io::stderr()) {
        Ok(plan) => plan,
        Err(exit) => return Ok(exit),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the runtime")?;
    let ended = runtime.block_on(carry(plan, &args, globals));
    // A thread that waits for standard input must not keep the process.
    runtime.shutdown_background();
    ended
}

async fn carry(plan: Plan, args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let stop = Stop::default();
    listen_to_signals(&stop)?;
    let talk = !args.quiet && !globals.json;
    let mut words = format!("wirefall {}\n", env!("CARGO_PKG_VERSION"));
    words.push_str(&check::summary(&plan));
    if plan.sink.asks_for_credentials() || plan.source.asks_for_credentials() {
        credentials::first(&plan.service.state_dir, talk)?;
    }
    let built = match Host::new(Cache::user()) {
        Ok(host) => pipeline::build(plan, &host, stop.clone(), args.fresh).await,
        Err(error) => Err(error.into()),
    };
    let pipeline = match built {
        Ok(pipeline) => pipeline,
        Err(error) => {
            say_error!(globals, "{error}");
            return Ok(match exit_of(&error) {
                Exit::Failed => Exit::Environment, // nothing has run yet
                exit => exit,
            });
        }
    };
    if talk {
        for line in pipeline.greeting() {
            words.push_str(&format!("  {:<11}{line}\n", "open"));
        }
        words.push_str("  stop       Ctrl-C sends what was read, then ends; twice ends at once");
        say!("{words}");
    }
    // A task of the runtime, and not of this thread: then the sink's task and the loop wake each other
    // on one thread, where between threads each wake is a call of the kernel, several a batch.
    let ran = tokio::spawn(pipeline.run()).await;
    let Ended { account, error } = ran.context("the run ended without an account")?;
    if globals.json {
        say!(
            "{}",
            json!({"account": account, "error": error.as_ref().map(ToString::to_string)})
        );
    } else {
        if let Some(error) = &error {
            say!("error: {error}");
        }
        if !args.quiet {
            say!("{account}");
        }
    }
    Ok(match error {
        Some(error) => exit_of(&error),
        None if account.unconfirmed > 0 => Exit::Failed,
        None => Exit::Done,
    })
}

/// Whose fault an error is, as an exit code.
fn exit_of(error: &RunError) -> Exit {
    match error {
        RunError::Plugin(error) if error.kind == PluginErrorKind::Wrong => Exit::Wrong,
        RunError::Plugin(_)
        | RunError::Source(SourceError::Environment { .. })
        | RunError::Sink(SinkError::Environment { .. }) => Exit::Environment,
        _ => Exit::Failed,
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all zeroes is a valid sigaction, and without a new action the call only writes to it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// The first signal drains, the second leaves at once.
fn listen_to_signals(stop: &Stop) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    // The terminal is closed. Under `nohup` it is ignored, and stays so.
    let mut hangup = match is_ignored(libc::SIGHUP) {
        true => None,
        false => Some(signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?),
    };
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                Some(_) = async { hangup.as_mut()?.recv().await } => {}
            }
            if stop.drain.is_cancelled() {
                stop.abort.cancel();
            } else {
                tracing::info!("stopping: sending what was read; a second signal leaves at once");
                stop.drain.cancel();
            }
        }
    });
    Ok(())
}

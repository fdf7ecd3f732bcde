//! The command line: a file a verb.
//!
//! Owns arguments, exit codes and what a person sees. The only place that names clap and anyhow.
//! Each verb has its `Args` and a `run` that returns how the process ends.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::credentials::StoreError;

/// Says a line to the person, on standard error. One that nobody reads any more, or that is full, ends
/// nothing: `eprintln!` would panic.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

/// Says an error on standard error: a line to the person, an object to the machine.
macro_rules! say_error {
    ($globals:expr, $($words:tt)*) => {
        $globals.error(format_args!($($words)*))
    };
}

/// Writes a line to standard output. Whoever reads it may leave (`| head`): the process ends then, for
/// nobody wants the rest; anything else in its way is told, and ends the process as failed.
macro_rules! tell {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        $crate::cli::told(writeln!(std::io::stdout(), $($words)*));
    }};
}

/// The same without the end of a line.
macro_rules! tell_part {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        $crate::cli::told(write!(std::io::stdout(), $($words)*));
    }};
}

mod build;
mod check;
mod credentials;
mod inspect;
mod new;
mod receive;
mod run;
mod schema;
mod subscribe;
mod test;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed while running.
    Failed = 1,
    /// The pipeline, a plugin or the arguments are wrong.
    Wrong = 2,
    /// The environment is: an unreachable peer, a missing toolchain.
    Environment = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What [`Exit`] says, for the help.
const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed while running; 2 the pipeline, a plugin or the arguments are wrong;
3 the environment is: an unreachable peer, a missing toolchain.";

/// Carries records through WebAssembly formatters to WebSocket peers, and loses none.
#[derive(Debug, Parser)]
#[command(name = "wirefall", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Globals {
    /// Print for machines: one JSON value a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// Colour: on a terminal, always, or never.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, env = "WIREFALL_COLOR")]
    pub color: Color,
    /// What to log, as `info`, `debug` or `wirefall::sink=trace`.
    #[arg(long, global = true, default_value = "info", env = "WIREFALL_LOG", value_parser = log_filter)]
    pub log: String,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Globals {
    /// See `say_error!`.
    fn error(&self, words: std::fmt::Arguments<'_>) {
        match self.json {
            true => say!("{}", serde_json::json!({ "error": words.to_string() })),
            false => say!("error: {words}"),
        }
    }

    /// Whether to colour what goes to standard error.
    pub fn color_stderr(&self) -> bool {
        self.colored(std::io::stderr().is_terminal())
    }

    /// Whether to colour what goes to standard output.
    pub fn color_stdout(&self) -> bool {
        self.colored(std::io::stdout().is_terminal())
    }

    fn colored(&self, terminal: bool) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a pipeline until its source ends or a signal comes
    Run(run::Args),
    /// Check a pipeline file and its plugins without running them on records
    Check(check::Args),
    /// Print the JSON Schema of a pipeline file, for editors
    Schema(schema::Args),
    /// Make a plugin crate that builds, tests and runs as it is
    New(new::Args),
    /// Build a plugin crate to a WebAssembly component
    Build(build::Args),
    /// Test a plugin crate's component against its golden files
    Test(test::Args),
    /// Show what a plugin says of itself: name, ABI, digest, imports, config schema
    Inspect(inspect::Args),
    /// Be a WebSocket server that prints, counts, confirms and, on request, breaks
    Receive(receive::Args),
    /// Be a client of a published stream and print what arrives
    Subscribe(subscribe::Args),
    /// Make, list, rotate and revoke the credentials of a stream
    Credentials(credentials::Args),
}

/// Parses the command line and runs the verb.
pub fn main() -> ExitCode {
    share_memory();
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    let globals = &cli.globals;
    log(globals);
    let ended = match cli.verb {
        Verb::Run(args) => run::run(args, globals),
        Verb::Check(args) => check::run(args, globals),
        Verb::Schema(args) => schema::run(args, globals),
        Verb::New(args) => new::run(args, globals),
        Verb::Build(args) => build::run(args, globals),
        Verb::Test(args) => test::run(args, globals),
        Verb::Inspect(args) => inspect::run(args, globals),
        Verb::Receive(args) => receive::run(args, globals),
        Verb::Subscribe(args) => subscribe::run(args, globals),
        Verb::Credentials(args) => credentials::run(args, globals),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => match error.downcast_ref::<StoreError>() {
            Some(error) => {
                say_error!(globals, "{}", error.advice());
                Exit::Environment.into()
            }
            None => {
                say_error!(globals, "{error:#}");
                Exit::Failed.into()
            }
        },
    }
}

/// Says what is wrong with the arguments, or the help that they ask for, and ends the process.
fn refuse(error: &clap::Error) -> ! {
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let words = error.render().to_string();
        let words = words.trim().trim_start_matches("error: ");
        say!("{}", serde_json::json!({ "error": words }));
        std::process::exit(Exit::Wrong as i32);
    }
    error.exit()
}

/// Fits glibc's allocator to batches, which one thread fills and another lets go (docs/performance.md):
/// all threads share one arena, because arenas of their own only keep memory apart; and what is let go
/// stays in the process up to a bound, because the next batch wants it back at once. By default the
/// allocator gave it to the system after every few batches and took it again, a page fault for each 4 KiB.
fn share_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_BYTES_KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES_MIN);
    }
}

/// Most free bytes at the end of the heap before they go back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const FREE_BYTES_KEPT: libc::c_int = 8 << 20;
/// Allocations from here on are mappings of their own, which go back as soon as they are let go: none
/// that a batch of the usual size makes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING_BYTES_MIN: libc::c_int = 4 << 20;

/// A filter of the log, if it is one. A word that is no level names a module, and one that there is not
/// would silence the log.
fn log_filter(text: &str) -> Result<String, String> {
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(text) {
        return Err(error.to_string());
    }
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let words = text.split(',').map(str::trim);
    let mut bare = words.filter(|word| !word.contains(['=', '[', ':']));
    match bare.find(|word| !word.is_empty() && !LEVELS.contains(&word.to_lowercase().as_str())) {
        Some(word) => Err(format!(
            "`{word}` is no level ({}); for one module write `{word}=debug`",
            LEVELS.join(", ")
        )),
        None => Ok(text.to_owned()),
    }
}

/// See `tell!`.
fn told(written: std::io::Result<()>) {
    let Err(error) = written else { return };
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(Exit::Done as i32);
    }
    say!("error: cannot write to standard output: {error}");
    std::process::exit(Exit::Failed as i32);
}

/// Sends the log to standard error, as lines for people or as JSON.
fn log(globals: &Globals) {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::new(&globals.log); // which clap has looked at
    let log = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false) // it would say so on standard error, and panic there as well
        .with_target(false);
    if globals.json {
        log.json().init();
    } else {
        log.with_ansi(globals.color_stderr()).init();
    }
}

//! `wirefall credentials`: who may subscribe to a stream, feed it, operate it.
//!
//! Owns the one moment in which a secret is seen: standard output when one is made, and the greeting of
//! a first run. Never logs one (I7). A process that runs the pipeline takes a change within a second.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{Exit, Globals, check};
use crate::credentials::store::now;
use crate::credentials::{
    Credential, Issued, Keyring, KeyringError, Limits, Scope, Store, StoreError, UnixSeconds,
    Wanted,
};
use crate::units::{ByteSize, Span};
use crate::{config, files};

/// The last second that a time of day is written for: the end of the year 9999.
const LAST_SECOND: UnixSeconds = 253_402_300_799;

/// Arguments of `wirefall credentials`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wirefall credentials create pipeline.yaml --scope subscribe --expires 30d
  wirefall credentials list pipeline.yaml
  wirefall credentials rotate pipeline.yaml k3v9d2m8qa --grace 1h
  wirefall credentials revoke pipeline.yaml k3v9d2m8qa

A secret is shown once, when it is made; only its digest is kept. A pipeline that runs takes a change
within a second. docs/operations.md tells how credentials are sent.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a credential and show its secret, this once
    Create(Create),
    /// Show the credentials of a stream, without their secrets
    List {
        /// The pipeline file
        pipeline: PathBuf,
    },
    /// Make a new secret for a credential, and end the old ones after a grace
    Rotate {
        /// The pipeline file
        pipeline: PathBuf,
        /// The credential, as `list` shows it
        id: String,
        /// How long the old secrets go on; sessions that use them are closed then
        #[arg(long, default_value = "1h", value_name = "DURATION")]
        grace: Span,
    },
    /// End a credential and the sessions that use it, at once
    Revoke {
        /// The pipeline file
        pipeline: PathBuf,
        /// The credential, as `list` shows it
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// The pipeline file
    pipeline: PathBuf,
    /// What it allows: subscribe, ingest, operate; several with commas
    #[arg(long, value_delimiter = ',', default_value = "subscribe", value_parser = scope)]
    scope: Vec<Scope>,
    /// How long it is good; for ever if not given
    #[arg(long, value_name = "DURATION", value_parser = some::<Span>)]
    expires: Option<Span>,
    /// Most sessions at a time; of who posts, posts that are not answered yet
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sessions: Option<u32>,
    /// Most bytes a second that are sent to it or posted with it, all of its sessions together
    #[arg(long, value_name = "SIZE", value_parser = some::<ByteSize>)]
    bytes_per_second: Option<ByteSize>,
}

fn scope(text: &str) -> Result<Scope, String> {
    let named = Scope::ALL.into_iter().find(|scope| scope.name() == text);
    named.ok_or_else(|| "there are subscribe, ingest and operate".to_owned())
}

/// More than nothing: a credential that ends at once, or may be sent nothing, is a slip.
fn some<T: FromStr<Err: ToString> + Default + PartialEq>(text: &str) -> Result<T, String> {
    let value = text.parse().map_err(|error: T::Err| error.to_string())?;
    match value == T::default() {
        true => Err("it must be more than 0".to_owned()),
        false => Ok(value),
    }
}

/// Runs the verb.
///
/// # Errors
/// The file of credentials cannot be read or written.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Exit> {
    let pipeline = match &args.what {
        What::Create(create) => &create.pipeline,
        What::List { pipeline } | What::Rotate { pipeline, .. } | What::Revoke { pipeline, .. } => {
            pipeline
        }
    };
    let store = match store(pipeline, globals) {
        Ok(store) => store,
        Err(exit) => return Ok(exit),
    };
    let changed = match args.what {
        What::List { .. } => return list(&store, globals),
        What::Create(create) => store.change(|ring| {
            let issued = ring.create(create.wanted(), now())?;
            Ok((issued, ring.clone()))
        }),
        What::Rotate { id, grace, .. } => store.change(|ring| {
            let issued = ring.rotate(&id, grace.0, now())?;
            Ok((issued, ring.clone()))
        }),
        What::Revoke { id, .. } => return revoke(&store, &id, globals),
    };
    match changed {
        Ok((issued, ring)) => {
            let credential = of(&ring, &issued.id);
            let text = match globals.json {
                true => format!("{}\n", told(&ring, credential, Some(&issued))),
                false => shown(&issued, credential),
            };
            std::io::stdout()
                .write_all(text.as_bytes())
                .context("the secret could not be shown; make another one with `rotate`")?;
            Ok(Exit::Done)
        }
        Err(error) => refuse(error, globals),
    }
}

impl Create {
    fn wanted(&self) -> Wanted {
        Wanted {
            scopes: self.scope.clone(),
            lifetime: self.expires.map(|expires| expires.0),
            limits: Limits {
                sessions: self.sessions,
                bytes_per_second: self.bytes_per_second.map(|size| size.0),
            },
        }
    }
}

/// Where the credentials of a pipeline are. Only `service` of its file is looked at: who rotates a
/// secret has neither the pipeline's other secrets nor a toolchain for its plugins.
fn store(pipeline: &Path, globals: &Globals) -> Result<Store, Exit> {
    let text = check::read(pipeline, globals, &mut std::io::stderr())?;
    match config::service(pipeline, &text, &check::environment()) {
        Ok(service) => Ok(Store::of(&service.state_dir)),
        Err(found) => {
            check::print(&found, globals, &mut std::io::stderr());
            Err(Exit::Wrong)
        }
    }
}

fn refuse(error: StoreError, globals: &Globals) -> anyhow::Result<Exit> {
    match error {
        StoreError::Keyring(error @ (KeyringError::Unknown(_) | KeyringError::Full)) => {
            say_error!(globals, "{error}");
            Ok(Exit::Wrong)
        }
        error => Err(error.into()),
    }
}

fn revoke(store: &Store, id: &str, globals: &Globals) -> anyhow::Result<Exit> {
    match store.change(|ring| ring.revoke(id)) {
        Ok(()) if globals.json => tell!("{}", json!({ "revoked": id })),
        Ok(()) => tell!("revoked {id}: its sessions are closed within a second"),
        Err(error) => return refuse(error, globals),
    }
    Ok(Exit::Done)
}

fn list(store: &Store, globals: &Globals) -> anyhow::Result<Exit> {
    let ring = store.load()?;
    if globals.json {
        for credential in ring.iter().flat_map(|ring| &ring.credentials) {
            tell!(
                "{}",
                told(ring.as_ref().expect("it has one"), credential, None)
            );
        }
        return Ok(Exit::Done);
    }
    let Some(ring) = ring else {
        tell!("no credentials yet: `wirefall credentials create` makes one");
        return Ok(Exit::Done);
    };
    tell!("stream {}", ring.stream);
    let now = now();
    for one in &ring.credentials {
        let end = match one.expires {
            None => "never ends".to_owned(),
            Some(expires) if expires <= now => format!("ended {}", date(expires)),
            Some(expires) => format!("ends {}", date(expires)),
        };
        let mut line = format!(
            "{}  {}  made {}  {end}",
            one.id,
            scopes(one),
            date(one.created)
        );
        if one.secrets_good(now) > 1 {
            line.push_str("  old secrets still in their grace");
        }
        for limit in limits(one) {
            line.push_str(&format!("  {limit}"));
        }
        tell!("{line}");
    }
    Ok(Exit::Done)
}

fn of<'a>(ring: &'a Keyring, id: &Arc<str>) -> &'a Credential {
    let found = ring.credentials.iter().find(|one| one.id == *id);
    found.expect("it was made or changed just now")
}

fn scopes(credential: &Credential) -> String {
    let names: Vec<&str> = credential.scopes.iter().map(|scope| scope.name()).collect();
    names.join(",")
}

fn limits(credential: &Credential) -> Vec<String> {
    let limits = &credential.limits;
    let sessions = limits
        .sessions
        .map(|most| format!("{most} sessions at most"));
    let bytes = limits
        .bytes_per_second
        .map(|most| format!("{} a second at most", ByteSize(most)));
    sessions.into_iter().chain(bytes).collect()
}

fn date(at: UnixSeconds) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// A credential for a person, with the secret that was made.
fn shown(issued: &Issued, credential: &Credential) -> String {
    let mut rows = vec![
        ("stream", issued.stream.clone()),
        ("id", issued.id.to_string()),
        ("secret", issued.secret.reveal().to_owned()),
        ("allows", scopes(credential)),
    ];
    rows.extend(credential.expires.map(|expires| ("ends", date(expires))));
    rows.extend(limits(credential).into_iter().map(|limit| ("limit", limit)));
    let mut text: String = rows
        .iter()
        .map(|(name, value)| format!("{name:<8}{value}\n"))
        .collect();
    text.push_str("The secret is shown this once; keep it where you keep secrets.\n");
    text
}

/// A credential for a machine.
fn told(ring: &Keyring, credential: &Credential, issued: Option<&Issued>) -> Value {
    let mut told = json!({
        "stream": ring.stream,
        "id": &*credential.id,
        "scopes": credential.scopes,
        "created": date(credential.created),
        "expires": credential.expires.map(date),
        "limits": credential.limits,
        "secrets": credential.secrets_good(now()),
    });
    if let Some(issued) = issued {
        told["secret"] = issued.secret.reveal().into();
    }
    told
}

/// Makes the credential of a first run and shows its secret once: on the terminal, where a person reads
/// it (`talk`), else in a file of its own, because what is no terminal may be kept as a log (I7).
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn first(state_dir: &Path, talk: bool) -> anyhow::Result<()> {
    let store = Store::of(state_dir);
    if store.load()?.is_some() {
        return Ok(());
    }
    let wanted = Wanted {
        scopes: Scope::ALL.to_vec(),
        lifetime: None,
        limits: Limits::default(),
    };
    let (issued, ring) = store.change(|ring| {
        let issued = ring.create(wanted, now())?;
        Ok((issued, ring.clone()))
    })?;
    let credential = of(&ring, &issued.id);
    if talk && std::io::stderr().is_terminal() {
        say!("{}", shown(&issued, credential).trim_end());
        return Ok(());
    }
    let path = state_dir.join("first-secret.json");
    let text = format!("{}\n", told(&ring, credential, Some(&issued)));
    files::replace_private(&path, text.as_bytes())
        .with_context(|| format!("writing {}", path.display()))?;
    tracing::info!(
        id = &*issued.id,
        "a first credential was made; its secret is in {}, for its owner alone: move it to where secrets are kept",
        path.display()
    );
    Ok(())
}

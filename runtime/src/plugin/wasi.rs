//! What `std` links, satisfied with nothing behind it.
//!
//! Owns the allow-list: the interfaces defined here and the ABI's own are all that a plugin may
//! import. No files, no environment, no network, no clock; standard output and error go to the capped
//! log, and the seed is the same each time, so that a plugin stays a function of record and config.

use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType};

use super::state::State;

/// The release whose signatures these are; a plugin may import any 0.2.
const VERSION: &str = "0.2.6";

/// What a plugin may import, without version.
pub(super) const ALLOWED: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure-seed",
];

/// Most bytes that one write to standard output or error takes.
const WRITE_BYTES_MAX: u64 = 4096;

/// Which end an output stream has; its `rep` in the handle table.
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// A seed that is the same for every instance.
const SEED: (u64, u64) = (0x7769_7265_6661_6c6c, 0x2d66_6f72_6d61_7473);

struct Pollable;
struct IoError;
struct InputStream;
struct OutputStream;
struct TerminalInput;
struct TerminalOutput;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code)]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

/// The guest called `exit`.
#[derive(Debug, thiserror::Error)]
#[error("the plugin called exit")]
struct Exited;

fn name(interface: &str) -> String {
    debug_assert!(ALLOWED.contains(&interface), "{interface} is not listed");
    format!("{interface}@{VERSION}")
}

/// Defines every interface of [`ALLOWED`].
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    io(linker)?;
    streams(linker)?;
    cli(linker)?;
    terminals(linker)?;
    linker
        .instance(&name("wasi:random/insecure-seed"))?
        .func_wrap("insecure-seed", |_, (): ()| Ok((SEED,)))
}

fn io(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut error = linker.instance(&name("wasi:io/error"))?;
    error.resource("error", ResourceType::host::<IoError>(), |_, _| Ok(()))?;
    error.func_wrap(
        "[method]error.to-debug-string",
        |_, (_,): (Resource<IoError>,)| Ok((String::new(),)),
    )?;
    // Nothing is ever waited for: everything is ready, at once.
    let mut poll = linker.instance(&name("wasi:io/poll"))?;
    poll.resource("pollable", ResourceType::host::<Pollable>(), |_, _| Ok(()))?;
    poll.func_wrap(
        "[method]pollable.ready",
        |_, (_,): (Resource<Pollable>,)| Ok((true,)),
    )?;
    poll.func_wrap(
        "[method]pollable.block",
        |_, (_,): (Resource<Pollable>,)| Ok(()),
    )?;
    poll.func_wrap("poll", |_, (all,): (Vec<Resource<Pollable>>,)| {
        Ok(((0..all.len() as u32).collect::<Vec<u32>>(),))
    })
}

fn streams(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Input = (Resource<InputStream>,);
    type Output = (Resource<OutputStream>,);
    type Write = (Resource<OutputStream>, Vec<u8>);
    let mut streams = linker.instance(&name("wasi:io/streams"))?;
    streams.resource(
        "input-stream",
        ResourceType::host::<InputStream>(),
        |_, _| Ok(()),
    )?;
    streams.resource(
        "output-stream",
        ResourceType::host::<OutputStream>(),
        |_, _| Ok(()),
    )?;
    for read in ["read", "blocking-read"] {
        streams.func_wrap(
            &format!("[method]input-stream.{read}"),
            |_, (_, _): (Resource<InputStream>, u64)| Ok((Err::<Vec<u8>, _>(StreamError::Closed),)),
        )?;
    }
    streams.func_wrap("[method]input-stream.subscribe", |_, (_,): Input| {
        Ok((Resource::<Pollable>::new_own(0),))
    })?;
    streams.func_wrap("[method]output-stream.subscribe", |_, (_,): Output| {
        Ok((Resource::<Pollable>::new_own(0),))
    })?;
    streams.func_wrap("[method]output-stream.check-write", |_, (_,): Output| {
        Ok((Ok::<_, StreamError>(WRITE_BYTES_MAX),))
    })?;
    for write in ["write", "blocking-write-and-flush"] {
        streams.func_wrap(
            &format!("[method]output-stream.{write}"),
            |mut store, (stream, bytes): Write| {
                store.data_mut().log.stream(stream.rep() == STDERR, &bytes);
                Ok((Ok::<(), StreamError>(()),))
            },
        )?;
    }
    for flush in ["flush", "blocking-flush"] {
        streams.func_wrap(
            &format!("[method]output-stream.{flush}"),
            |_, (_,): Output| Ok((Ok::<(), StreamError>(()),)),
        )?;
    }
    Ok(())
}

fn cli(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut environment = linker.instance(&name("wasi:cli/environment"))?;
    environment.func_wrap("get-environment", |_, (): ()| {
        Ok((Vec::<(String, String)>::new(),))
    })?;
    environment.func_wrap("get-arguments", |_, (): ()| Ok((Vec::<String>::new(),)))?;
    environment.func_wrap("initial-cwd", |_, (): ()| Ok((None::<String>,)))?;
    linker
        .instance(&name("wasi:cli/exit"))?
        .func_wrap("exit", |_, (_status,): (Result<(), ()>,)| {
            Err::<(), _>(Exited.into())
        })?;
    linker
        .instance(&name("wasi:cli/stdin"))?
        .func_wrap("get-stdin", |_, (): ()| {
            Ok((Resource::<InputStream>::new_own(0),))
        })?;
    linker
        .instance(&name("wasi:cli/stdout"))?
        .func_wrap("get-stdout", |_, (): ()| {
            Ok((Resource::<OutputStream>::new_own(STDOUT),))
        })?;
    linker
        .instance(&name("wasi:cli/stderr"))?
        .func_wrap("get-stderr", |_, (): ()| {
            Ok((Resource::<OutputStream>::new_own(STDERR),))
        })
}

fn terminals(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker
        .instance(&name("wasi:cli/terminal-input"))?
        .resource(
            "terminal-input",
            ResourceType::host::<TerminalInput>(),
            |_, _| Ok(()),
        )?;
    linker
        .instance(&name("wasi:cli/terminal-output"))?
        .resource(
            "terminal-output",
            ResourceType::host::<TerminalOutput>(),
            |_, _| Ok(()),
        )?;
    linker
        .instance(&name("wasi:cli/terminal-stdin"))?
        .func_wrap("get-terminal-stdin", |_, (): ()| {
            Ok((None::<Resource<TerminalInput>>,))
        })?;
    for stream in ["stdout", "stderr"] {
        linker
            .instance(&name(&format!("wasi:cli/terminal-{stream}")))?
            .func_wrap(&format!("get-terminal-{stream}"), |_, (): ()| {
                Ok((None::<Resource<TerminalOutput>>,))
            })?;
    }
    Ok(())
}

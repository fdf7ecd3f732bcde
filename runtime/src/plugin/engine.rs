//! The wasmtime engine that all plugins of a process share, and where compiled code is kept.
//!
//! Owns the engine's settings, the epoch ticker and the cache folder. Never loads a plugin.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, Engine, EngineWeak, OptLevel};

use super::state::State;
use super::{PluginError, abi, wasi};

/// How often the epoch ticks; a limit below ten times this makes it tick more often.
const TICK_MAX: Duration = Duration::from_millis(10);
const TICK_MIN: Duration = Duration::from_millis(1);

/// Where compiled code and descriptions are kept between runs; `None` keeps nothing.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// Keeps things in `folder`; made when it is missing.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: Some(folder.into()),
        }
    }

    /// Keeps things in the user's cache folder: `WIREFALL_CACHE`, `XDG_CACHE_HOME/wirefall` or
    /// `~/.cache/wirefall`; nowhere if there is none.
    pub fn user() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = set("WIREFALL_CACHE")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(set("XDG_CACHE_HOME")?).join("wirefall")))
            .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/wirefall")));
        Self { folder }
    }

    /// Keeps nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// The folder for one kind of thing.
    pub(super) fn folder(&self, kind: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(kind))
    }
}

/// The engine and what is granted to plugins; cheap to clone, one a process is enough.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    linker: Linker<State>,
    cache: Cache,
    tick_us: Arc<AtomicU64>,
}

impl Host {
    /// Makes the engine and starts its ticker, which ends with the last clone.
    ///
    /// # Errors
    /// Where wasmtime does not support the machine.
    pub fn new(cache: Cache) -> Result<Self, PluginError> {
        Self::build(cache).map_err(|error| {
            PluginError::environment("host", format!("cannot run WebAssembly here: {error:#}"))
        })
    }

    fn build(cache: Cache) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .epoch_interruption(true)
            .cranelift_opt_level(OptLevel::Speed)
            // A trap's message is kept, where in the wasm it was is not: the panic hook says more.
            .wasm_backtrace_max_frames(None)
            .generate_address_map(false);
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        wasi::add_to_linker(&mut linker)?;
        abi::v0_1::add_to_linker(&mut linker)?;
        let tick_us = Arc::new(AtomicU64::new(TICK_MAX.as_micros() as u64));
        tick(engine.weak(), Arc::clone(&tick_us))?;
        let inner = Arc::new(Inner {
            engine,
            linker,
            cache,
            tick_us,
        });
        Ok(Self { inner })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(super) fn linker(&self) -> &Linker<State> {
        &self.inner.linker
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.inner.cache
    }

    /// Ticks often enough to end a call after `limit`, give or take a tenth.
    pub(super) fn tick_for(&self, limit: Duration) {
        let tick = (limit / 10).clamp(TICK_MIN, TICK_MAX);
        self.inner
            .tick_us
            .fetch_min(tick.as_micros() as u64, Ordering::Relaxed);
    }
}

/// Ticks on a thread of its own for as long as the engine lives: a guest that loops holds its worker's
/// thread, so nothing that runs on those could stop it.
fn tick(engine: EngineWeak, tick_us: Arc<AtomicU64>) -> std::io::Result<()> {
    let ticker = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(Duration::from_micros(tick_us.load(Ordering::Relaxed)));
        }
    };
    std::thread::Builder::new()
        .name("plugin-ticker".to_owned())
        .spawn(ticker)
        .map(drop)
}

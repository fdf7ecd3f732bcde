//! Real components, built from their folders, in the real host.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;
use wirefall::plugin::{
    Cache, Chain, ChainPlan, Host, Limits, OnError, PluginError, ProcessorPlan, Transformed,
    resolve,
};
use wirefall::record::{Batch, Column, Partition, Records};

mod artifact;
mod chain;
mod columns;
mod containment;
mod flights;
mod frozen;
mod verbs;

/// A folder of this repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The component of `plugins/NAME`, built once.
fn component(name: &str) -> PathBuf {
    static BUILDS: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = BUILDS.lock().unwrap_or_else(|held| held.into_inner());
    resolve(&repository("plugins").join(name), &mut |_| ()).unwrap()
}

/// Bytes of the hostile component with every `from` replaced; both have one length.
fn patched(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(component("hostile")).unwrap();
    let places: Vec<usize> = memchr::memmem::find_iter(&bytes, from).collect();
    assert!(!places.is_empty(), "{from} is in the component");
    for place in places {
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

/// One host for all tests, with a cache that lives as long as the process.
fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| Host::new(cache()).unwrap())
}

fn cache() -> Cache {
    Cache::at(repository("target/tmp/plugin-tests-cache"))
}

fn processor(plugin: &str, config: Value) -> ProcessorPlan {
    ProcessorPlan {
        artifact: component(plugin),
        config,
        on_error: OnError::Failover,
        limits: Limits {
            // Far above what an honest call needs on a busy machine.
            time: Duration::from_secs(20),
            ..Limits::default()
        },
        tolerance: None,
    }
}

fn start(processors: &[ProcessorPlan]) -> Result<Chain, PluginError> {
    ChainPlan::load(host(), processors)?.start()
}

fn batch<V: AsRef<[u8]>>(payloads: impl IntoIterator<Item = V>) -> Batch {
    let payloads: Column = payloads.into_iter().collect();
    Batch {
        number: 0,
        partition: Partition::new("test"),
        start: 0,
        positions: (1..=payloads.len() as u64).collect(),
        records: Records {
            payloads: Arc::new(payloads),
            ..Records::default()
        },
    }
}

/// Outputs as `source:payload`.
fn outputs(transformed: &Transformed) -> Vec<String> {
    let outputs = &transformed.outputs;
    let lines = outputs.sources.iter().zip(outputs.payloads.iter());
    lines
        .map(|(source, payload)| format!("{source}:{}", String::from_utf8_lossy(payload)))
        .collect()
}

/// Failures as `input@stage`, with `!` for faults.
fn failures(transformed: &Transformed) -> Vec<String> {
    let failures = transformed.failures.iter();
    failures
        .map(|failure| {
            let fault = if failure.fault { "!" } else { "" };
            format!("{}@{}{fault}", failure.input, failure.stage)
        })
        .collect()
}

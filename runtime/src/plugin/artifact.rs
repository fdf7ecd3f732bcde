//! A component file: what it is, whether this host may run it, and its compiled code.
//!
//! Owns the refusals that need no run (no wasm, a core module, another ABI, imports beyond the
//! allow-list), so that they come before the first record (I6), and the code cache. Never instantiates.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use sha2::{Digest, Sha256};
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::component::Component;

use super::{Host, PluginError, abi, cache, wasi};

/// A component that this host may run, as far as its outside tells.
pub(super) struct Artifact {
    /// Path, for messages.
    pub(super) label: String,
    /// `sha256:…` of the file.
    pub(super) digest: String,
    /// The interface it exports, with version.
    pub(super) abi: String,
    /// What it imports, with versions.
    pub(super) imports: Vec<String>,
    pub(super) bytes: Vec<u8>,
}

impl Artifact {
    /// Reads the file at `path` and refuses what cannot be a plugin for this host.
    pub(super) fn read(path: &Path) -> Result<Self, PluginError> {
        let label = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            PluginError::environment(&label, format!("cannot be read: {error}"))
        })?;
        let (abi, imports) =
            interfaces(&bytes).map_err(|message| PluginError::wrong(&label, message))?;
        Ok(Self {
            digest: format!("sha256:{}", hex(&Sha256::digest(&bytes))),
            label,
            abi,
            imports,
            bytes,
        })
    }

    /// The compiled component, from the cache where it was compiled before for this machine.
    pub(super) fn compile(&self, host: &Host) -> Result<Component, PluginError> {
        let engine = host.engine();
        // Covers wasmtime's version, its settings and the CPU's features.
        let mut compatible = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut compatible);
        let name = format!(
            "{}-{:016x}.code",
            file_name(&self.digest),
            compatible.finish()
        );
        let cached = cache::read(host.cache(), "code", &name);
        if let Some(code) = cached {
            // SAFETY: the cache is a folder of the user's own whose entries `cache` wrote and whose
            // checksum held; whoever can forge one can run code as this user already.
            match unsafe { Component::deserialize(engine, &code) } {
                Ok(component) => return Ok(component),
                Err(error) => tracing::debug!("{name} in the code cache is unusable: {error:#}"),
            }
        }
        tracing::debug!("compiling {}", self.label);
        let code = engine.precompile_component(&self.bytes).map_err(|error| {
            PluginError::wrong(&self.label, format!("does not compile: {error:#}"))
        })?;
        cache::write(host.cache(), "code", &name, &code);
        // SAFETY: `code` was made by this engine, just now.
        unsafe { Component::deserialize(engine, &code) }
            .map_err(|error| PluginError::wrong(&self.label, format!("does not load: {error:#}")))
    }
}

/// A digest as part of a file's name.
pub(super) fn file_name(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The ABI that a component exports and what it imports, or why it is no plugin for this host.
fn interfaces(bytes: &[u8]) -> Result<(String, Vec<String>), String> {
    if !bytes.starts_with(b"\0asm") {
        return Err(
            "is no WebAssembly; give a component (.wasm) or the folder of its crate".to_owned(),
        );
    }
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        let broken = |error| format!("is not valid WebAssembly: {error}");
        match payload.map_err(broken)? {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } if depth == 0 => {
                return Err("is a core module, not a component; build it with \
                            `cargo build --release --target wasm32-wasip2`"
                    .to_owned());
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    let abi = speaks(&exports)?;
    refuse_imports(&imports)?;
    Ok((abi, imports))
}

/// An interface's name and its version: `a:b/c@0.1.0`.
fn versioned(name: &str) -> (&str, Option<(u64, u64)>) {
    let Some((interface, version)) = name.split_once('@') else {
        return (name, None);
    };
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let version = match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => Some((major, minor)),
        _ => None,
    };
    (interface, version)
}

/// The exported plugin interface, if this host speaks its version.
fn speaks(exports: &[String]) -> Result<String, String> {
    let found = exports
        .iter()
        .map(|name| (name, versioned(name)))
        .find(|(_, (interface, _))| *interface == abi::FORMATTER);
    let Some((name, (_, version))) = found else {
        return Err(format!(
            "exports no {}, so it is no Wirefall plugin; put #[formatter] on an impl of Formatter",
            abi::FORMATTER
        ));
    };
    let (major, minor) = abi::VERSION;
    match version {
        Some(version) if version == abi::VERSION => Ok(name.clone()),
        Some(version) if version > abi::VERSION => Err(format!(
            "is built for {name}, this wirefall speaks {major}.{minor}: upgrade wirefall"
        )),
        _ => Err(format!(
            "is built for {name}, this wirefall speaks {major}.{minor}: build the plugin again with \
             wirefall-sdk {major}.{minor}"
        )),
    }
}

/// Nothing beyond the allow-list is granted; what is asked for is named.
fn refuse_imports(imports: &[String]) -> Result<(), String> {
    let granted = |name: &str| match versioned(name) {
        (abi::LOG, version) => version == Some(abi::VERSION),
        (interface, version) => version == Some((0, 2)) && wasi::ALLOWED.contains(&interface),
    };
    let refused: Vec<&str> = imports
        .iter()
        .map(String::as_str)
        .filter(|name| !granted(name))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    Err(format!(
        "imports what plugins are not granted: {}; a plugin has no files, network, clock or \
         randomness: remove what uses them from the plugin",
        refused.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_their_version() {
        assert_eq!(
            versioned("wasi:io/poll@0.2.6"),
            ("wasi:io/poll", Some((0, 2)))
        );
        assert_eq!(versioned("a:b/c@1"), ("a:b/c", None));
        assert_eq!(versioned("a:b/c"), ("a:b/c", None));
    }

    #[test]
    fn another_abi_is_refused_with_the_side_to_upgrade() {
        let exports = |version| vec![format!("wirefall:plugin/formatter@{version}")];
        assert!(speaks(&exports("0.1.7")).is_ok());
        let newer = speaks(&exports("0.2.0")).expect_err("newer");
        assert!(newer.ends_with("upgrade wirefall"), "{newer}");
        let older = speaks(&exports("0.0.9")).expect_err("older");
        assert!(older.contains("build the plugin again"), "{older}");
        assert!(speaks(&[]).expect_err("none").contains("#[formatter]"));
    }

    #[test]
    fn imports_beyond_the_list_are_refused_by_name() {
        let imports = ["wasi:io/poll@0.2.3", "wirefall:plugin/log@0.1.0"].map(str::to_owned);
        assert_eq!(refuse_imports(&imports), Ok(()));
        let imports = ["wasi:sockets/tcp@0.2.0", "wasi:io/poll@0.3.0"].map(str::to_owned);
        let refused = refuse_imports(&imports).expect_err("refused");
        assert!(refused.contains("wasi:sockets/tcp@0.2.0, wasi:io/poll@0.3.0"));
    }
}

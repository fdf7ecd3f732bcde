//! Dependencies point one way, and a library is named only where it belongs.
//!
//! Reads the sources of the runtime as text: what a module imports from the crate, and which external
//! crates it names. ARCHITECTURE.md says why.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What each module may import from this crate. `cli` may import everything, and nothing imports it.
const ALLOWED: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("metrics", &[]),
    ("files", &[]),
    ("record", &[]),
    ("credentials", &["files", "units"]),
    ("driver", &[]),
    (
        "port",
        &["credentials", "driver", "files", "metrics", "units"],
    ),
    ("checkpoint", &["record"]),
    ("journal", &["checkpoint", "driver", "record"]),
    ("ack", &["checkpoint", "journal", "record"]),
    (
        "source",
        &[
            "checkpoint",
            "credentials",
            "driver",
            "files",
            "metrics",
            "port",
            "record",
            "sink",
            "units",
        ],
    ),
    ("failover", &["driver", "files"]),
    ("plugin", &["record", "units"]),
    (
        "sink",
        &[
            "credentials",
            "driver",
            "files",
            "journal",
            "metrics",
            "port",
            "record",
            "units",
        ],
    ),
    (
        "config",
        &[
            "driver", "failover", "files", "journal", "plugin", "port", "sink", "source", "units",
        ],
    ),
    (
        "pipeline",
        &[
            "ack",
            "checkpoint",
            "config",
            "driver",
            "failover",
            "journal",
            "metrics",
            "plugin",
            "port",
            "record",
            "sink",
            "source",
        ],
    ),
];

/// Where a library may be named; paths are prefixes relative to `src`.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("wasmtime", &["plugin/"]),
    ("wasmparser", &["plugin/"]),
    ("tokio_tungstenite", &["sink/websocket", "source/websocket"]),
    ("rustls", &["port/", "sink/websocket"]),
    ("tokio_rustls", &["port/", "sink/websocket"]),
    ("serde_yaml", &["config/"]),
    ("jsonschema", &["config/"]),
    ("strsim", &["config/"]),
    ("clap", &["cli/"]),
    ("anyhow", &["cli/"]),
    ("indicatif", &["cli/"]),
    (
        "hyper",
        &[
            "pipeline/operations",
            "port/",
            "sink/websocket",
            "source/http",
        ],
    ),
    (
        "hyper_util",
        &[
            "pipeline/operations",
            "port/",
            "sink/websocket",
            "source/http",
        ],
    ),
    ("glob", &["source/"]),
    ("flate2", &["source/"]),
    ("zstd", &["source/"]),
    ("crc32fast", &["journal/disk"]),
    ("redb", &["source/http/keys_file"]),
];

/// What is given bytes, times and facts, and returns decisions: paths are prefixes relative to `src`.
const PURE: &[&str] = &[
    "ack.rs",
    "checkpoint.rs",
    "config/",
    "sink/websocket/session",
    "sink/websocket/protocol",
];

/// What reads a clock, the environment or a file, opens a socket, or waits.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "tokio",
    "File",
    "OpenOptions",
    "stdin",
    "stdout",
    "stderr",
    "println",
    "eprintln",
];

/// The kinds of drivers; each has a folder, and its table in that folder's `mod.rs`.
const KINDS: [&str; 3] = ["source", "sink", "failover"];

/// Who may name a driver beside its table: the verbs that are peers of the websocket sink, and the source
/// that is, use its client and its server. A scheme of addresses has the name of a source.
const NAMED: &[(&str, &str, &[&str])] = &[
    (
        "sink",
        "websocket",
        &["cli/receive", "cli/subscribe", "source/websocket"],
    ),
    ("source", "http", &["sink/websocket/address"]),
];

/// The table in `lib.rs` is the first that a reader sees of the library.
#[test]
fn the_layout_names_every_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = std::fs::read_to_string(root).expect("lib.rs");
    let modules = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod "));
    let missing: Vec<_> = modules
        .map(|module| module.trim_end_matches(';'))
        .filter(|module| !text.contains(&format!("[`{module}`]")))
        .collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
}

struct Source {
    /// Relative to `src`, with `/`.
    path: String,
    /// Without comments and without the tests at its end.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    let rust = files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"));
    rust.filter(|path| {
        let tests = ["tests.rs", "compliance.rs", "simulation.rs"];
        !tests.iter().any(|name| path.ends_with(name))
    })
    .map(|path| {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let shipped = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        let code = shipped
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        Source {
            path: path
                .strip_prefix(&root)
                .expect("inside")
                .to_string_lossy()
                .into_owned(),
            code: code.collect::<Vec<_>>().join("\n"),
        }
    })
    .collect()
}

/// The module at the top of the crate that a file belongs to.
fn module(path: &str) -> &str {
    path.split('/')
        .next()
        .unwrap_or(path)
        .trim_end_matches(".rs")
}

/// The identifiers that follow `prefix` in `code`.
fn named_after<'a>(code: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = code.match_indices(prefix).map(|(at, _)| at).filter(|&at| {
        !code[..at].ends_with(is_name) // `my_crate::` is not `crate::`
    });
    starts
        .map(|at| {
            let rest = &code[at + prefix.len()..];
            &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn modules_depend_in_one_direction() {
    let mut wrong = Vec::new();
    let sources = sources();
    assert!(sources.len() > 50, "the sources were found");
    for Source { path, code } in &sources {
        let module = module(path);
        if ["cli", "lib", "main"].contains(&module) {
            continue;
        }
        let allowed = ALLOWED.iter().find(|(name, _)| *name == module);
        let Some((_, allowed)) = allowed else {
            wrong.push(format!("{path}: `{module}` has no entry in this test"));
            continue;
        };
        assert!(
            !code.contains("use crate::{"),
            "{path}: one `use crate::module` a line, please"
        );
        for imported in named_after(code, "crate::") {
            if imported != module && !allowed.contains(&imported) {
                wrong.push(format!("{path}: `{module}` must not know `{imported}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether `code` has `word`, and not as a part of another.
fn has_word(code: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_name) && !code[at + word.len()..].starts_with(is_name)
    })
}

/// Whether `code` names a library: by a path into it, or by an import of it under whatever name.
fn names_library(code: &str, library: &str) -> bool {
    let imports = code.lines().map(str::trim_start).any(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let line = line
            .strip_prefix("extern crate ")
            .or(line.strip_prefix("use "));
        line.is_some_and(|line| {
            let line = line.trim_start_matches("::");
            // A list of libraries at the start of an import would hide the others from this look.
            assert!(
                !line.starts_with('{'),
                "one library a `use`, please: {line}"
            );
            line.strip_prefix(library)
                .is_some_and(|rest| rest.starts_with([';', ' ']))
        })
    });
    imports || !named_after(code, &format!("{library}::")).is_empty()
}

#[test]
fn libraries_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for Source { path, code } in sources() {
        for (library, places) in LIBRARIES {
            let belongs = places.iter().any(|place| path.starts_with(place));
            if !belongs && names_library(&code, library) {
                wrong.push(format!(
                    "{path}: names `{library}`, which belongs in {places:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_library_is_seen_under_whatever_name() {
    for (code, named) in [
        ("let engine = wasmtime::Engine::default();", true),
        ("use wasmtime::Engine;", true),
        ("    use wasmtime as engine;", true),
        ("pub use wasmtime;", true),
        ("use ::wasmtime as engine;", true),
        ("extern crate wasmtime as engine;", true),
        ("use my_wasmtime::Engine;", false),
        ("use wasmtime_wasi as wasi;", false),
        ("let wasmtime = 48;", false),
    ] {
        assert_eq!(names_library(code, "wasmtime"), named, "{code}");
    }
}

#[test]
fn what_is_pure_names_no_clock_no_file_and_no_socket() {
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for Source { path, code } in sources() {
        if !PURE.iter().any(|place| path.starts_with(place)) || path.contains("/tests") {
            continue;
        }
        looked_at += 1;
        let named = IMPURE.iter().filter(|word| has_word(&code, word));
        wrong.extend(named.map(|word| format!("{path}: names `{word}`")));
    }
    assert!(looked_at > 25, "the sources were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The drivers in the table of a kind.
fn drivers<'a>(sources: &'a [Source], kind: &str) -> Vec<&'a str> {
    let table = format!("{kind}/mod.rs");
    let table = sources.iter().find(|source| source.path == table);
    let (_, rest) = table
        .and_then(|table| table.code.split_once("static DRIVERS"))
        .unwrap_or_else(|| panic!("{kind} has a table of drivers"));
    let (table, _) = rest.split_once(';').expect("a static ends");
    let entries = table.split("::DRIVER").map(|before| {
        let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &before[start.map_or(0, |start| start + 1)..]
    });
    entries.filter(|name| !name.is_empty()).collect()
}

/// A driver is named in its own files and in its table, and nowhere else outside the tests: no path leads
/// to it, and nobody asks whether a name is its name.
#[test]
fn drivers_are_named_only_in_their_tables() {
    let sources = sources();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for kind in KINDS {
        for driver in drivers(&sources, kind) {
            seen += 1;
            let own = [format!("{kind}/{driver}.rs"), format!("{kind}/{driver}/")];
            let named = NAMED.iter().filter(|(k, d, _)| (*k, *d) == (kind, driver));
            let places: Vec<&str> = named.flat_map(|(_, _, places)| *places).copied().collect();
            for Source { path, code } in &sources {
                let may = own.iter().any(|own| path.starts_with(own))
                    || path == &format!("{kind}/mod.rs")
                    || places.iter().any(|place| path.starts_with(place));
                let inside = path.starts_with(&format!("{kind}/"));
                let paths = has_word(code, &format!("{kind}::{driver}"))
                    || (inside && has_word(code, &format!("super::{driver}")));
                let asks = [
                    format!("== \"{driver}\""),
                    format!("\"{driver}\" =="),
                    format!("\"{driver}\" =>"),
                    format!("\"{driver}\" |"),
                ];
                if !may && (paths || asks.iter().any(|asks| code.contains(asks))) {
                    wrong.push(format!("{path}: names the {kind} `{driver}`"));
                }
            }
        }
    }
    assert!(seen >= 8, "the tables were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

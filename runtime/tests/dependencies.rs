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
    ("checkpoint", &["record"]),
    ("journal", &["checkpoint", "driver", "record"]),
    ("ack", &["checkpoint", "journal", "record"]),
    (
        "source",
        &["checkpoint", "driver", "files", "record", "units"],
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
            "record",
            "units",
        ],
    ),
    (
        "config",
        &[
            "driver", "failover", "files", "plugin", "sink", "source", "units",
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
    ("serde_yaml", &["config/"]),
    ("clap", &["cli/"]),
    ("anyhow", &["cli/"]),
    ("hyper", &["sink/websocket"]),
    ("glob", &["source/"]),
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
    rust.filter(|path| !path.ends_with("tests.rs") && !path.ends_with("compliance.rs"))
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

#[test]
fn libraries_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for Source { path, code } in sources() {
        for (library, places) in LIBRARIES {
            let names = !named_after(&code, &format!("{library}::")).is_empty();
            if names && !places.iter().any(|place| path.starts_with(place)) {
                wrong.push(format!(
                    "{path}: names `{library}`, which belongs in {places:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A driver is named in its own file and in its table, nowhere else outside the tests.
#[test]
fn drivers_are_named_only_in_their_tables() {
    let mut wrong = Vec::new();
    for Source { path, code } in sources() {
        for driver in ["stdin", "playground"] {
            let own = path.starts_with("source/");
            if !own && code.contains(&format!("{driver}::DRIVER")) {
                wrong.push(format!("{path}: names the driver `{driver}`"));
            }
        }
        if !path.starts_with("sink/") && !named_after(&code, "sink::websocket").is_empty() {
            let verb = path.starts_with("cli/receive") || path.starts_with("cli/subscribe");
            if !verb {
                wrong.push(format!("{path}: names the websocket sink"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

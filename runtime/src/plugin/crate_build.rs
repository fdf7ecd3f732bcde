//! Builds a plugin crate to its component with plain cargo.
//!
//! Owns running cargo and rustup and turning what they say into errors; never looks into a component.
//! Called by every verb that takes a plugin's folder.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use super::PluginError;

/// What plugins are compiled for.
const TARGET: &str = "wasm32-wasip2";

/// Most of cargo's words that an error repeats.
const WORDS_BYTES_MAX: usize = 16 << 10;

/// The component at `path`: a `.wasm` file is returned as it is, a crate folder is built first with
/// plain `cargo build --release --target wasm32-wasip2`, unless it is newer than all its sources.
/// `progress` gets a line at a time.
///
/// # Errors
/// rustc's words where the crate does not build; the environment where cargo or rustup is missing.
pub fn resolve(path: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, PluginError> {
    if !path.is_dir() {
        if path.is_file() {
            return Ok(path.to_path_buf());
        }
        return Err(PluginError::wrong(
            path.display(),
            "there is no such file or folder",
        ));
    }
    let folder = path.canonicalize().map_err(|error| {
        PluginError::environment(path.display(), format!("cannot be read: {error}"))
    })?;
    if !folder.join("Cargo.toml").is_file() {
        return Err(PluginError::wrong(
            path.display(),
            "the folder has no Cargo.toml, so it is no crate; `wirefall new NAME` makes one",
        ));
    }
    if let Some(artifact) = up_to_date(&folder) {
        return Ok(artifact);
    }
    build(&folder, progress)
}

/// Builds the crate in `folder` whether that is needed or not; cargo knows.
pub(crate) fn build(folder: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, PluginError> {
    let asked = SystemTime::now();
    add_target(folder, progress)?;
    let mut cargo = tool("CARGO", "cargo");
    cargo
        .args(["build", "--release", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(folder);
    let (succeeded, artifacts, words) = run(folder, cargo, progress)?;
    if !succeeded {
        let errors = words.find("error").map_or(&*words, |at| &words[at..]);
        let errors = &errors[..errors.floor_char_boundary(WORDS_BYTES_MAX)];
        let message = format!("does not build:\n{}", errors.trim_end());
        return Err(PluginError::wrong(folder.display(), message));
    }
    let component = artifacts
        .lines()
        .filter_map(|line| component_of(line, &folder.join("Cargo.toml")))
        .next_back();
    let component = component.ok_or_else(|| {
        PluginError::wrong(
            folder.display(),
            "builds, but to no component: its Cargo.toml needs\n[lib]\ncrate-type = [\"cdylib\"]",
        )
    })?;
    // Without a stamp cargo is asked again next time; no more than that.
    let stamp = fs::File::create(stamp_of(&component));
    let _ = stamp.and_then(|stamp| stamp.set_modified(asked));
    Ok(component)
}

/// What says when cargo last found the component up to date: the component itself stays as old as its
/// last change.
fn stamp_of(component: &Path) -> PathBuf {
    component.with_extension("wirefall")
}

/// A tool of the toolchain: the one that runs us, if one does.
fn tool(variable: &str, name: &str) -> Command {
    let mut command = Command::new(std::env::var_os(variable).unwrap_or_else(|| name.into()));
    command
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null());
    command
}

/// The component that a line of cargo's messages names, if it belongs to the crate.
fn component_of(line: &str, manifest: &Path) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let ours = message["reason"] == "compiler-artifact"
        && Path::new(message["manifest_path"].as_str()?) == manifest;
    let files = message["filenames"].as_array().filter(|_| ours)?;
    let mut files = files.iter().filter_map(|file| file.as_str());
    files.find(|file| file.ends_with(".wasm")).map(Into::into)
}

/// Adds the target with rustup if the toolchain of `folder` lacks it.
fn add_target(folder: &Path, progress: &mut dyn FnMut(&str)) -> Result<(), PluginError> {
    let mut rustc = tool("RUSTC", "rustc");
    rustc
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(folder);
    let (known, libraries, words) = run(folder, rustc, &mut |_| ())?;
    if !known {
        let message = format!("rustc does not know {TARGET}; a newer Rust does:\n{words}");
        return Err(PluginError::environment(folder.display(), message));
    }
    if Path::new(libraries.trim()).is_dir() {
        return Ok(());
    }
    progress(&format!("adding the target {TARGET} with rustup"));
    let mut rustup = tool("RUSTUP", "rustup");
    rustup.args(["target", "add", TARGET]).current_dir(folder);
    let (added, _, words) = run(folder, rustup, progress)?;
    if !added {
        let message = format!(
            "the target {TARGET} is missing and `rustup target add {TARGET}` failed:\n{words}"
        );
        return Err(PluginError::environment(folder.display(), message));
    }
    Ok(())
}

/// Runs a tool; returns whether it succeeded, its standard output, and its standard error, each line
/// of which went to `progress` as it came.
fn run(
    folder: &Path,
    mut command: Command,
    progress: &mut dyn FnMut(&str),
) -> Result<(bool, String, String), PluginError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| {
        let message = match error.kind() {
            std::io::ErrorKind::NotFound => format!(
                "cannot be built: {name} is not installed; install Rust with rustup, or give a \
                 component (.wasm) instead of a folder"
            ),
            _ => format!("cannot be built: {name}: {error}"),
        };
        PluginError::environment(folder.display(), message)
    };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let read = read_both(&mut child, progress);
    let status = child.wait().map_err(failed)?;
    let (out, err) = read.map_err(failed)?;
    Ok((status.success(), out, err))
}

fn read_both(
    child: &mut Child,
    progress: &mut dyn FnMut(&str),
) -> std::io::Result<(String, String)> {
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    std::thread::scope(|scope| {
        let out = scope.spawn(move || {
            let mut out = String::new();
            stdout.read_to_string(&mut out).map(|_| out)
        });
        let mut err = String::new();
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            progress(line.trim());
            err.push_str(line.trim_end());
            err.push('\n');
        }
        Ok((out.join().expect("reading does not panic")?, err))
    })
}

/// The component of the crate, if it was built before and nothing it was built from is newer: then
/// cargo need not be asked, which alone takes longer than starting a pipeline.
fn up_to_date(folder: &Path) -> Option<PathBuf> {
    let flags = [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
    ];
    if flags.iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    let (artifact, root) = built_before(folder)?;
    let built = modified(&stamp_of(&artifact))?;
    let mut inputs: BTreeSet<PathBuf> = sources(&artifact)?.into_iter().collect();
    let manifests: Vec<_> = inputs.iter().filter_map(|file| manifest_of(file)).collect();
    inputs.extend(manifests);
    inputs.insert(folder.join("Cargo.toml"));
    for name in [
        "Cargo.toml",
        "Cargo.lock",
        ".cargo/config.toml",
        "rust-toolchain.toml",
    ] {
        let file = root.join(name);
        if file.exists() {
            inputs.insert(file);
        }
    }
    let older = |file: &PathBuf| modified(file).is_some_and(|time| time <= built);
    inputs.iter().all(older).then_some(artifact)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

/// Where cargo puts the component by default, and the workspace's root, if it is there.
fn built_before(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
    let name = package_name(&manifest)?.replace('-', "_");
    let named = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let built = |target: PathBuf| {
        let artifact = target
            .join(TARGET)
            .join("release")
            .join(format!("{name}.wasm"));
        artifact.is_file().then_some(artifact)
    };
    folder.ancestors().find_map(|root| {
        let target = named.clone().unwrap_or_else(|| root.join("target"));
        Some((built(target)?, root.to_path_buf()))
    })
}

/// The name of a package that gives its library no other.
fn package_name(manifest: &str) -> Option<&str> {
    let mut names = manifest.lines().filter_map(|line| {
        let value = line
            .trim()
            .strip_prefix("name")?
            .trim_start()
            .strip_prefix('=')?;
        value.trim().strip_prefix('"')?.split('"').next()
    });
    names.next().filter(|_| names.next().is_none())
}

/// What the component was built from, by the list that cargo keeps beside it.
fn sources(artifact: &Path) -> Option<Vec<PathBuf>> {
    let list = fs::read_to_string(artifact.with_extension("d")).ok()?;
    let (_, files) = list.lines().next()?.split_once(": ")?;
    // Spaces inside names are escaped.
    let files = files.replace("\\ ", "\0");
    let file = |name: &str| PathBuf::from(name.replace('\0', " "));
    Some(files.split_whitespace().map(file).collect())
}

/// The manifest of the package that holds `file`.
fn manifest_of(file: &Path) -> Option<PathBuf> {
    let mut folders = file
        .ancestors()
        .skip(1)
        .map(|folder| folder.join("Cargo.toml"));
    folders.find(|manifest| manifest.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_packages_unless_the_library_has_its_own() {
        assert_eq!(
            package_name("[package]\nname = \"a-b\"\n[lib]\n"),
            Some("a-b")
        );
        assert_eq!(
            package_name("[package]\nname=\"a\"\n[lib]\nname = \"b\""),
            None
        );
        assert_eq!(package_name("[package]\nversion = \"1\""), None);
    }

    #[test]
    fn the_component_is_the_crates_own() {
        let line = |manifest| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"{manifest}","filenames":["/t/a.rlib","/t/a.wasm"]}}"#
            )
        };
        let manifest = Path::new("/w/a/Cargo.toml");
        let found = component_of(&line("/w/a/Cargo.toml"), manifest);
        assert_eq!(found, Some("/t/a.wasm".into()));
        assert_eq!(component_of(&line("/w/b/Cargo.toml"), manifest), None);
        assert_eq!(component_of("not json", manifest), None);
    }

    #[test]
    fn what_is_no_plugin_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let missing = resolve(&folder.path().join("x"), &mut |_| ()).unwrap_err();
        assert!(missing.message.contains("no such file"), "{missing}");
        let empty = resolve(folder.path(), &mut |_| ()).unwrap_err();
        assert!(empty.message.contains("no Cargo.toml"), "{empty}");
    }
}

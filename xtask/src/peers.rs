//! `cargo xtask peers`: what the end-to-end tests talk to and we did not write.
//!
//! Owns `target/peers`: a Python environment with `websockets`, Node modules `ws` and
//! `playwright-core`, `websocat`, which no Debian package has, and Autobahn|Testsuite in an environment of
//! Python 2.7; and the Debian packages nginx and Chromium, which it installs when it may and names when it
//! may not. What is there is left alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::shell::{cargo, command, run, works};

/// The suite of RFC 6455, which runs on Python 2.7 and nothing newer: docs/adr/0710.
const AUTOBAHN: &str = "autobahntestsuite==25.10.1";
/// What makes an environment of Python 2.7: the last that still does.
const VIRTUALENV: &str = "virtualenv<20.22";
/// What Python gets, by pip.
const PYTHON: &[&str] = &["websockets>=13,<18"];
/// What Node gets, by npm.
const NODE: &[&str] = &["ws@8", "playwright-core@1"];
/// What cargo installs: without TLS, which would need OpenSSL, and unoptimised, in half a minute.
const WEBSOCAT: &[&str] = &[
    "websocat@1.14.1",
    "--locked",
    "--debug",
    "--no-default-features",
    "--features=unix_stdio",
];
/// Programs, and the Debian packages that have them.
const PACKAGES: &[(&str, &str)] = &[("nginx", "nginx-light"), ("chromium", "chromium")];
/// Where programs of the system live that are not on every user's path.
const SYSTEM: &[&str] = &["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"];

/// The folder of the peers.
pub(crate) fn folder() -> PathBuf {
    crate::target().join("peers")
}

/// Gets what is missing, and says what could not be had.
pub(crate) fn get() -> anyhow::Result<Vec<String>> {
    let folder = folder();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let mut missing = Vec::new();
    for (what, got) in [
        ("Python's websockets", python(&folder)),
        ("Node's ws and playwright-core", node(&folder)),
        ("websocat", websocat(&folder)),
        ("Autobahn|Testsuite", autobahn(&folder)),
        ("nginx and Chromium", packages()),
    ] {
        if let Err(error) = got {
            missing.push(format!("{what}: {error:#}"));
        }
    }
    Ok(missing)
}

/// The verb by itself.
pub(crate) fn run_verb() -> anyhow::Result<()> {
    let missing = get()?;
    anyhow::ensure!(missing.is_empty(), "missing:\n  {}", missing.join("\n  "));
    eprintln!("all peers are in {}", folder().display());
    Ok(())
}

fn python(folder: &Path) -> anyhow::Result<()> {
    let venv = folder.join("python");
    let python = venv.join("bin/python");
    if works(command(&python).args(["-c", "import websockets"])) {
        return Ok(());
    }
    run(command("python3").args(["-m", "venv"]).arg(&venv))
        .context("python3 with venv is needed (Debian: python3-venv)")?;
    run(command(&python)
        .args(["-m", "pip", "install", "--quiet"])
        .args(PYTHON))
}

fn node(folder: &Path) -> anyhow::Result<()> {
    let prefix = folder.join("node");
    let there = |name: &str| prefix.join("node_modules").join(name).is_dir();
    if there("ws") && there("playwright-core") && works(command("node").arg("--version")) {
        return Ok(());
    }
    run(command("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--prefix",
        ])
        .arg(&prefix)
        .args(NODE))
    .context("Node 20 or newer with npm is needed")
}

fn websocat(folder: &Path) -> anyhow::Result<()> {
    let prefix = folder.join("websocat");
    if works(command(prefix.join("bin/websocat")).arg("--version")) {
        return Ok(());
    }
    run(cargo()
        .args(["install", "--quiet", "--root"])
        .arg(&prefix)
        .args(WEBSOCAT))
}

/// Behind [`python`], which has what makes the environment.
fn autobahn(folder: &Path) -> anyhow::Result<()> {
    let venv = folder.join("autobahn");
    if works(command(venv.join("bin/wstest")).arg("--autobahnversion")) {
        return Ok(());
    }
    let old = python_2_7().context("Python 2.7 is needed (pyenv install 2.7.18)")?;
    let python = folder.join("python/bin/python");
    run(command(&python).args(["-m", "pip", "install", "--quiet", VIRTUALENV]))?;
    run(command(&python)
        .args(["-m", "virtualenv", "--quiet", "--python"])
        .args([&old, &venv]))?;
    run(command(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet", AUTOBAHN]))
}

/// A Python 2.7: the one on the path, or one that pyenv has.
fn python_2_7() -> Option<PathBuf> {
    let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let pyenv = pyenv.or_else(|| Some(std::env::home_dir()?.join(".pyenv")));
    let versions = pyenv.and_then(|pyenv| pyenv.join("versions").read_dir().ok());
    let programs = versions.into_iter().flatten().flatten();
    let programs = programs.map(|version| version.path().join("bin/python2.7"));
    let mut programs = std::iter::once(PathBuf::from("python2.7")).chain(programs);
    programs.find(|program| works(command(program).args(["-c", ""])))
}

/// Whether a program is anywhere where it is looked for.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM.iter().map(PathBuf::from))
        .any(|folder| folder.join(program).is_file())
}

fn packages() -> anyhow::Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !is_root() || !works(command("apt-get").arg("--version")) {
        anyhow::bail!("install the Debian packages {names}");
    }
    let apt = || -> Command {
        let mut apt = command("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    run(apt().args(["update", "--quiet=2"]))?;
    run(apt()
        .args(["install", "--quiet=2", "--yes", "--no-install-recommends"])
        .args(&missing))
}

fn is_root() -> bool {
    let id = command("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

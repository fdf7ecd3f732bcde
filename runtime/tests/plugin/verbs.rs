//! The author's verbs, through the real binary.

use std::fs;
use std::process::{Command, Output};

use super::*;

fn wirefall(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wirefall"))
        .args(args)
        .current_dir(folder)
        .env(
            "WIREFALL_CACHE",
            repository("target/tmp/plugin-tests-cache"),
        )
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A copy of the example's component and golden files that tests may change: a folder whose crate was
/// built before is not built again.
fn golden_copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let golden = folder.path().join("tests/golden");
    fs::create_dir_all(&golden).unwrap();
    for file in fs::read_dir(repository("plugins/flight-delays/tests/golden")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), golden.join(file.file_name())).unwrap();
    }
    folder
}

#[test]
fn inspect_shows_what_a_plugin_says_of_itself() {
    let component = component("hostile");
    let path = component.to_str().unwrap();
    let bytes = fs::metadata(&component).unwrap().len();
    let shown = wirefall(&repository("."), &["inspect", path]);
    let shown = text(&shown.stdout);
    for line in [
        "name     hostile\n",
        "version  0.1.0\n",
        &format!("size     {:.1} ", bytes as f64 / 1024.0),
        "imports  wirefall:plugin/log@0.1.0\n",
        "config   {\n",
        "abi      wirefall:plugin/formatter@0.1.0\n",
        "columns  payloads, keys\n",
        "digest   sha256:",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    let shown = wirefall(&repository("."), &["--json", "inspect", path]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["name"], "hostile");
    assert_eq!(shown["columns"], serde_json::json!(["payloads", "keys"]));
    assert_eq!(shown["version"], "0.1.0");
    assert_eq!(shown["size_bytes"], bytes);
    let imports = shown["imports"].as_array().unwrap();
    assert!(
        imports
            .iter()
            .any(|import| import == "wirefall:plugin/log@0.1.0"),
        "{imports:?}"
    );
    assert!(
        shown["config_schema"]["properties"]["does"].is_object(),
        "{shown}"
    );
    assert_eq!(shown["config_schema"]["type"], "object");
}

#[test]
fn what_is_no_plugin_ends_with_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.wasm"), "hello").unwrap();
    let refused = wirefall(folder.path(), &["inspect", "x.wasm"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("error: plugin x.wasm: is no WebAssembly"));
    let empty = wirefall(folder.path(), &["build"]);
    assert_eq!(empty.status.code(), Some(2));
    assert!(text(&empty.stderr).contains("no Cargo.toml"));
    let no_cases = wirefall(folder.path(), &["test"]);
    assert_eq!(no_cases.status.code(), Some(2));
    assert!(text(&no_cases.stderr).contains("--bless"));
}

#[test]
fn i6_a_pipeline_whose_plugin_does_not_start_takes_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write(
        "early.wasm",
        &patched("in describe: nothing", "in describe: grow   "),
    );
    fs::copy(component("hostile"), folder.path().join("late.wasm")).unwrap();
    write("in", b"a record\n");
    for (plugin, expected) in [
        (
            "plugin: early.wasm",
            "error: plugin early.wasm: needs more memory than 64MiB to start and to describe itself\n --> p.yaml:4:37\n",
        ),
        (
            "plugin: late.wasm, config: { does: loop, at_configure: true }, limits: { time: 20ms }",
            "hostile does not take this config: the plugin took longer than 20ms \
             (limits.time)\n --> p.yaml:4:56\n",
        ),
    ] {
        let pipeline = format!(
            "service: {{ pipeline_id: p }}\n\
             source: {{ driver: file, config: {{ path: in }} }}\n\
             processors:\n- {{ driver: wasm, config: {{ {plugin} }} }}\n\
             sink: {{ driver: file, config: {{ path: out }} }}\n"
        );
        write("p.yaml", pipeline.as_bytes());
        for verb in ["check", "run"] {
            let refused = wirefall(folder.path(), &[verb, "p.yaml"]);
            let words = text(&refused.stderr);
            assert_eq!(refused.status.code(), Some(2), "{words}");
            assert!(words.contains(expected), "{verb}: {words}");
        }
        assert!(!folder.path().join("out").exists());
    }
}

/// What stands in for a tool: a shell script that writes its words to `asked` and then does `then`.
fn stub(folder: &Path, name: &str, then: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    let script = format!(
        "#!/bin/sh\necho {name} \"$@\" >> {}/asked\n{then}\n",
        folder.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The tools of a toolchain without the target; `rustup` does what `adds` says.
#[test]
fn a_missing_target_is_added_with_rustup_before_cargo_is_asked() {
    const RUSTC: &str = "rustc --print target-libdir --target wasm32-wasip2\n";
    const RUSTUP: &str = "rustup target add wasm32-wasip2\n";
    const CARGO: &str =
        "cargo build --release --target wasm32-wasip2 --message-format=json-render-diagnostics\n";
    for (there, adds, code, asked, words) in [
        (
            false,
            "mkdir lib",
            0,
            [RUSTC, RUSTUP, CARGO].concat(),
            "adding the target wasm32-wasip2",
        ),
        (true, "mkdir lib", 0, [RUSTC, CARGO].concat(), ""),
        (
            false,
            "echo no network >&2; exit 1",
            3,
            [RUSTC, RUSTUP].concat(),
            "`rustup target add wasm32-wasip2` failed:\nno network",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        fs::write(folder.join("Cargo.toml"), "[package]\nname = \"x\"\n").unwrap();
        fs::copy(component("hostile"), folder.join("x.wasm")).unwrap();
        if there {
            fs::create_dir(folder.join("lib")).unwrap();
        }
        let built = format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"{0}/Cargo.toml","filenames":["{0}/x.wasm"]}}"#,
            folder.display()
        );
        stub(&folder, "rustc", "echo \"$PWD/lib\"");
        stub(&folder, "rustup", adds);
        stub(&folder, "cargo", &format!("test -d lib && echo '{built}'"));
        let ended = Command::new(env!("CARGO_BIN_EXE_wirefall"))
            .args(["build", "."])
            .current_dir(&folder)
            .env("RUSTC", folder.join("rustc"))
            .env("RUSTUP", folder.join("rustup"))
            .env("CARGO", folder.join("cargo"))
            .output()
            .unwrap();
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(fs::read_to_string(folder.join("asked")).unwrap(), asked);
    }
}

#[test]
fn a_missing_toolchain_ends_with_exit_code_3() {
    let missing = Command::new(env!("CARGO_BIN_EXE_wirefall"))
        .args(["build", "."])
        .current_dir(repository("plugins/hostile"))
        // With flags cargo is always asked, and here there is none.
        .env("RUSTFLAGS", "-g")
        .env("PATH", "")
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(3));
    let words = text(&missing.stderr);
    assert!(words.contains("is not installed; install Rust"), "{words}");
}

#[test]
fn a_crate_that_does_not_build_shows_rustcs_words() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    let manifest =
        "[package]\nname = \"broken\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n";
    fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
    fs::write(folder.path().join("src/lib.rs"), "fn f() -> u8 { missing }").unwrap();
    let error = resolve(folder.path(), &mut |_| ()).unwrap_err();
    assert!(
        error.message.contains("cannot find value `missing`"),
        "{error}"
    );
    assert!(error.message.contains("src/lib.rs:1:"), "{error}");
    // It builds, but to no plugin: that is told when it is described.
    fs::write(folder.path().join("src/lib.rs"), "").unwrap();
    let built = resolve(folder.path(), &mut |_| ()).unwrap();
    let error = wirefall::plugin::describe(&built, &Cache::none()).unwrap_err();
    assert!(error.message.contains("no Wirefall plugin"), "{error}");
    // Nothing changed: cargo is not asked again.
    let mut asked = Vec::new();
    assert_eq!(
        resolve(folder.path(), &mut |line| asked.push(line.to_owned())).unwrap(),
        built
    );
    assert_eq!(asked, [""; 0]);
}

#[test]
fn a_difference_is_shown_and_blessed() {
    let example = repository("plugins/flight-delays");
    component("flight-delays");
    let passes = wirefall(&example, &["test"]);
    assert_eq!(passes.status.code(), Some(0), "{}", text(&passes.stderr));
    assert_eq!(text(&passes.stdout), "flights: ok\n");

    let copy = golden_copy();
    let wasm = copy.path().join("plugin.wasm");
    fs::copy(component("flight-delays"), &wasm).unwrap();
    let test = |more: &[&str]| {
        let args = [&["test", ".", "--plugin", "plugin.wasm"], more].concat();
        wirefall(copy.path(), &args)
    };
    let expected = copy.path().join("tests/golden/flights.expected.ndjson");
    let right = fs::read_to_string(&expected).unwrap();
    fs::write(
        &expected,
        right.replacen("\"from\":\"EWR\"", "\"from\":\"XXX\"", 1),
    )
    .unwrap();
    let differs = test(&[]);
    assert_eq!(differs.status.code(), Some(1), "{}", text(&differs.stderr));
    let shown = text(&differs.stdout);
    assert!(shown.starts_with("flights: differs\n"), "{shown}");
    assert!(
        shown.contains("  -{\"flight\":\"EV4144\",\"from\":\"XXX\""),
        "{shown}"
    );
    assert!(
        shown.contains("  +{\"flight\":\"EV4144\",\"from\":\"EWR\""),
        "{shown}"
    );
    assert_eq!(test(&["--bless"]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(&expected).unwrap(), right);
}

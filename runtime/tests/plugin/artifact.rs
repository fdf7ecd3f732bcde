//! What is refused before the first record (I6), what a plugin says of itself, and the code cache.

use std::fs;

use serde_json::json;
use wirefall::plugin::{PluginErrorKind, describe, try_config};

use super::*;

/// The message that `bytes` are refused with.
fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugin.wasm");
    fs::write(&path, bytes).unwrap();
    let error = describe(&path, &Cache::none()).expect_err("refused");
    assert_eq!(error.kind, PluginErrorKind::Wrong);
    error.message
}

#[test]
fn i6_what_is_no_plugin_is_refused() {
    assert!(refused(b"PK\x03\x04").contains("is no WebAssembly"));
    assert!(refused(b"").contains("is no WebAssembly"));
    assert!(refused(b"\0asm\x01\0\0\0").contains("is a core module, not a component"));
    assert!(refused(b"\0asm\x0d\0\x01\0").contains("no Wirefall plugin"));
    assert!(refused(b"\0asm\x0d\0\x01\0\xff\xff").contains("is not valid WebAssembly"));
    let whole = fs::read(component("hostile")).unwrap();
    let cut = refused(&whole[..whole.len() / 2]);
    assert!(cut.contains("is not valid WebAssembly"), "{cut}");
}

#[test]
fn i6_another_abi_is_refused_with_the_side_to_upgrade() {
    let newer = refused(&patched("plugin/formatter@0.1.0", "plugin/formatter@0.9.0"));
    assert!(
        newer.ends_with("formatter@0.9.0, this wirefall speaks 0.1: upgrade wirefall"),
        "{newer}"
    );
    let older = refused(&patched("plugin/formatter@0.1.0", "plugin/formatter@0.0.3"));
    assert!(older.contains("build the plugin again"), "{older}");
}

#[test]
fn i6_imports_beyond_the_list_are_refused_by_name() {
    let imports = refused(&patched("wasi:cli/environment@", "wasi:cli/environmint@"));
    assert!(
        imports.contains("not granted: wasi:cli/environmint@0.2."),
        "{imports}"
    );
}

/// Nothing of a plugin runs without limits, not even what runs before it has a config.
#[test]
fn i6_a_plugin_that_breaks_before_the_first_record_is_refused() {
    let start = ["at start:    nothing", "at start:    "];
    let describe = ["in describe: nothing", "in describe: "];
    let cases = [
        (
            start,
            "panic",
            "cannot describe itself: the plugin trapped: ",
        ),
        (
            start,
            "loop",
            "takes longer than 5s to start and to describe itself",
        ),
        (
            start,
            "grow",
            "needs more memory than 64MiB to start and to describe itself",
        ),
        (
            describe,
            "trap",
            "cannot describe itself: the plugin trapped: wasm trap: ",
        ),
        (
            describe,
            "loop",
            "takes longer than 5s to start and to describe itself",
        ),
        (
            describe,
            "grow",
            "needs more memory than 64MiB to start and to describe itself",
        ),
    ];
    std::thread::scope(|scope| {
        for ([from, when], does, expected) in cases {
            scope.spawn(move || {
                let said = refused(&patched(from, &format!("{when}{does:7}")));
                assert!(said.starts_with(expected), "{when}{does}: {said}");
            });
        }
    });
}

/// In `configure` the pipeline's own limits hold, for the check as for the run.
#[test]
fn i6_a_plugin_that_breaks_on_its_config_is_refused() {
    let time = Duration::from_millis(50);
    for (does, expected) in [
        (
            "panic",
            "the plugin panicked: cannot bear its config at plugins/hostile/src/lib.rs:",
        ),
        ("trap", "the plugin trapped: wasm trap: wasm `unreachable`"),
        ("loop", "the plugin took longer than 50ms (limits.time)"),
        (
            "grow",
            "the plugin needs more memory than 32MiB (limits.memory)",
        ),
        ("reject", "will not take its config"),
    ] {
        let config = json!({"does": does, "at_configure": true});
        let mut processor = processor("hostile", config.clone());
        processor.limits.memory_bytes = 32 << 20;
        if does == "loop" {
            processor.limits.time = time;
        }
        let tried = try_config(&processor.artifact, &config, &processor.limits, &cache());
        let tried = tried.unwrap_err();
        assert_eq!(tried.kind, PluginErrorKind::Wrong);
        let said = tried.message;
        assert!(said.starts_with(expected), "{does}: {said}");
        let started = start(&[processor]).map(drop).unwrap_err();
        assert_eq!(started.message, format!("does not start: {said}"));
    }
}

#[test]
fn a_missing_file_is_the_environments_fault() {
    let error = describe(Path::new("/nowhere/x.wasm"), &Cache::none()).expect_err("missing");
    assert_eq!(error.kind, PluginErrorKind::Environment);
}

#[test]
fn a_plugin_describes_itself_once_a_digest() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let path = component("hostile");
    let asked = describe(&path, &cache).unwrap();
    assert_eq!(asked.id.name, "hostile");
    assert_eq!(asked.abi, "wirefall:plugin/formatter@0.1.0");
    assert!(asked.columns.keys && !asked.columns.timestamps);
    assert_eq!(asked.config_schema["properties"]["when"]["type"], "string");
    assert!(
        asked
            .imports
            .iter()
            .any(|name| name.starts_with("wirefall:plugin/log@"))
    );
    // The answer is kept: without compiled code there is nothing that could run.
    fs::remove_dir_all(folder.path().join("code")).unwrap();
    assert_eq!(describe(&path, &cache).unwrap(), asked);
    assert!(!folder.path().join("code").exists());
}

#[test]
fn i6_config_that_does_not_fit_is_refused_in_the_plugins_words() {
    let words = |config| {
        let tried = try_config(&component("hostile"), &config, &Limits::default(), &cache());
        let started = start(&[processor("hostile", config)]).map(drop);
        let (tried, started) = (tried.unwrap_err(), started.unwrap_err());
        assert_eq!(started.plugin, "hostile 0.1.0");
        assert_eq!(
            started.message,
            format!("does not start: {}", tried.message)
        );
        tried.message
    };
    assert!(words(json!({"does": "fly"})).contains("unknown variant `fly`"));
    assert!(words(json!({"does": "trap", "x": 1})).contains("unknown field `x`"));
    assert!(words(json!(null)).contains("missing field `does`"));
    let refused = words(json!({"does": "trap", "when": "refuse"}));
    assert_eq!(refused, "when: refuse is refused");
}

#[test]
fn compiled_code_is_kept_and_a_torn_file_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let processors = [processor("hostile", json!({"does": "trap", "when": "x"}))];
    let runs = || {
        let host = Host::new(Cache::at(folder.path())).unwrap();
        let mut chain = ChainPlan::load(&host, &processors)
            .unwrap()
            .start()
            .unwrap();
        assert_eq!(chain.transform(&batch(["a"])).outputs.len(), 1);
    };
    let code = || {
        let files = fs::read_dir(folder.path().join("code")).unwrap();
        let files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    };
    runs();
    let whole = fs::read(code()).unwrap();
    let written = fs::metadata(code()).unwrap().modified().unwrap();
    runs();
    assert_eq!(
        fs::metadata(code()).unwrap().modified().unwrap(),
        written,
        "compiled once"
    );
    for torn in [&whole[..whole.len() / 2], &[], b"junk"] {
        fs::write(code(), torn).unwrap();
        runs();
        assert_eq!(fs::read(code()).unwrap().len(), whole.len());
    }
}

//! What is refused before the first record (I6), what a plugin says of itself, and the code cache.

use std::fs;

use serde_json::json;
use wirefall::plugin::{PluginErrorKind, describe, try_config};

use super::*;

/// Bytes of the hostile component with every `from` replaced; both have one length.
fn patched(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(component("hostile")).unwrap();
    let places: Vec<usize> = memchr::memmem::find_iter(&bytes, from).collect();
    assert!(!places.is_empty(), "{from} is in the component");
    for place in places {
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

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
        let tried = try_config(&component("hostile"), &config, &cache());
        let started = start(&[processor("hostile", config)]).map(drop);
        let (tried, started) = (tried.unwrap_err(), started.unwrap_err());
        assert_eq!(started.plugin, "hostile 0.1.0");
        assert_eq!(tried.message, started.message);
        tried.message
    };
    assert!(words(json!({"does": "fly"})).contains("unknown variant `fly`"));
    assert!(words(json!({"does": "trap", "x": 1})).contains("unknown field `x`"));
    assert!(words(json!(null)).contains("missing field `does`"));
    let refused = words(json!({"does": "trap", "when": "refuse"}));
    assert_eq!(refused, "does not start: when: refuse is refused");
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

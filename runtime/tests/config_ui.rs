//! Golden tests of what `wirefall check` says: every `tests/ui/NAME.yaml` beside its exact
//! `NAME.err` (wrong, or right with warnings) or `NAME.ok` (right, and what it became).
//!
//! `WIREFALL_BLESS=1 cargo test --release --test config_ui` rewrites them; read the difference.
//! I6: what can be known to be wrong is refused with file, line and column. I7: no value that came
//! from the environment is in any of them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use wirefall::config::{self, Diagnostic, Environment, Plan, PluginFacts};
use wirefall::plugin::PluginId;

/// A value that may never be printed.
const SECRET: &str = "hunter2-hunter2";

fn environment() -> Environment {
    Environment {
        variable: Arc::new(|name| {
            let value = match name {
                "WEBSOCKET_URL" => "wss://gateway.example.com/in",
                "TOKEN" => SECRET,
                "SECRET_URL" => "https://user:hunter2-hunter2@gateway.example.com",
                "SIZE" => "256",
                "MANY" => "hunter2-hunter2",
                "EMPTY" => "",
                _ => return None,
            };
            Some(value.to_owned())
        }),
        file: Arc::new(
            |path| match path.file_name().and_then(|name| name.to_str()) {
                Some("token") => Ok(format!("{SECRET}\n")),
                _ => Err("there is no such file".to_owned()),
            },
        ),
    }
}

/// One plugin exists; its config has a bit of everything.
fn plugins(path: &str) -> Result<PluginFacts, String> {
    if !path.ends_with("delays.wasm") {
        return Err(format!(
            "there is no plugin at `{path}`\nname a crate folder or a .wasm file"
        ));
    }
    Ok(PluginFacts {
        artifact: PathBuf::from(path),
        id: PluginId {
            name: "delays".to_owned(),
            version: "0.1.0".to_owned(),
            digest: "sha256:0f".to_owned(),
        },
        config_schema: json!({
            "type": "object",
            "properties": {
                "min_delay": {"type": "integer", "minimum": 0, "description": "Minutes from which a delay counts. More."},
                "fields": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
                "unit": {"enum": ["minutes", "hours"]},
                "key": {"$ref": "#/$defs/Key"},
            },
            "required": ["min_delay"],
            "additionalProperties": false,
            "$defs": {"Key": {"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": false}},
        }),
        try_config: Arc::new(|config, limits| match config["min_delay"].as_i64() {
            _ if limits.memory_bytes < 1 << 20 => Err("it needs 1MiB of memory".to_owned()),
            Some(13) => Err("13 minutes are bad luck".to_owned()),
            _ => Ok(()),
        }),
    })
}

fn load(file: &Path) -> Result<(Plan, Vec<Diagnostic>), Vec<Diagnostic>> {
    let text = std::fs::read(file).unwrap();
    let name = Path::new(file.file_name().unwrap());
    config::load(name, &text, &environment(), &plugins)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ui")
}

/// What a plan is, in lines.
fn told(plan: &Plan) -> String {
    let service = &plan.service;
    let mut text = format!(
        "{} in {}\n{:?} {:?} {:?}\nsource: {}\n",
        service.pipeline_id,
        service.state_dir.display(),
        service.batch,
        service.scaling,
        service.shutdown_timeout,
        plan.source.describe()
    );
    for (processor, id) in plan.processors.iter().zip(&plan.plugins) {
        text += &format!(
            "processor: {} {} {:?} {:?} {:?} {}\n",
            id.name,
            id.digest,
            processor.on_error,
            processor.limits,
            processor.tolerance,
            processor.config
        );
    }
    text += &format!(
        "sink: {} {:?}\n{:?}\n",
        plan.sink.describe(),
        plan.sink.delivery(),
        plan.journal
    );
    for sentence in plan.guarantees() {
        text += &format!("{sentence}\n");
    }
    text
}

#[test]
fn every_file_in_ui_says_what_is_beside_it() {
    let bless = std::env::var_os("WIREFALL_BLESS").is_some();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    files.sort();
    let mut wrong = 0;
    let mut different = Vec::new();
    for file in &files {
        let (says, ending, other) = match load(file) {
            Ok((plan, warnings)) => {
                let says = config::render_all(&warnings, false) + &told(&plan);
                (says, "ok", "err")
            }
            Err(diagnostics) => {
                wrong += 1;
                (config::render_all(&diagnostics, false), "err", "ok")
            }
        };
        assert!(!says.contains("hunter2"), "I7: {}:\n{says}", file.display());
        let golden = file.with_extension(ending);
        if bless {
            std::fs::write(&golden, &says).unwrap();
            let _ = std::fs::remove_file(file.with_extension(other));
        } else if std::fs::read_to_string(&golden).ok().as_ref() != Some(&says) {
            different.push(format!("--- {}\n{says}", golden.display()));
        }
    }
    assert!(wrong >= 40, "only {wrong} wrong files");
    assert!(
        different.is_empty(),
        "differs (WIREFALL_BLESS=1 rewrites):\n{}",
        different.join("\n")
    );
}

/// Wrong files are `.err` without a right twin: a golden file without its YAML tests nothing.
#[test]
fn every_golden_file_has_its_yaml() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.with_extension("yaml").exists(), "{}", path.display());
    }
}

fn errors(text: &[u8]) -> Vec<String> {
    match config::load(Path::new("p.yaml"), text, &environment(), &plugins) {
        Ok(_) => Vec::new(),
        Err(found) => found.into_iter().map(|one| one.message).collect(),
    }
}

/// I4: no text makes the reader hang, panic or grow without bound.
#[test]
fn hostile_texts_are_refused() {
    let laughs: String = (0..20)
        .map(|n| match n {
            0 => "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(),
            n => format!(
                "a{n}: &a{n} [{}]\n",
                vec![format!("*a{}", n - 1); 10].join(", ")
            ),
        })
        .collect();
    let chain: String = (0..500)
        .map(|n| match n {
            0 => format!("a0: &a0 {}x{}\n", "[".repeat(50), "]".repeat(50)),
            n => format!(
                "a{n}: &a{n} {}*a{}{}\n",
                "[".repeat(50),
                n - 1,
                "]".repeat(50)
            ),
        })
        .collect();
    for (text, expected) in [
        (laughs.into_bytes(), "more than 100000 values"),
        (chain.into_bytes(), "deeper than 64 levels"),
        ("[".repeat(100_000).into_bytes(), "deeper than 64 levels"),
        ("{a: ".repeat(10_000).into_bytes(), "deeper than 64 levels"),
        ("- ".repeat(100_000).into_bytes(), "deeper than 64 levels"),
        (
            (0..300)
                .map(|n| format!("{}a:\n", "  ".repeat(n)))
                .collect::<String>()
                .into_bytes(),
            "deeper than 64 levels",
        ),
        (vec![b'x'; 10 << 20], "more than 1 MiB"),
        (
            "- x\n".repeat(250_000).into_bytes(),
            "more than 100000 values",
        ),
        (b"service: \xff\xfe".to_vec(), "not UTF-8"),
        // A thousand findings on one long line: each is told with a piece of it, and not all.
        (
            format!("x: \"{}\"", "${NOPE}".repeat(100_000)).into_bytes(),
            "`NOPE` is not set",
        ),
        (
            (0..40_000)
                .fold("x: ".to_owned(), |text, n| text + &format!("${{N{n}}}"))
                .into_bytes(),
            "more than these 100 findings",
        ),
        (
            format!("{{{}}}", "a: 1, ".repeat(40_000)).into_bytes(),
            "more than these 100 findings",
        ),
        (
            (0..40_000)
                .fold("{".to_owned(), |text, n| text + &format!("a{n}: 1, "))
                .into_bytes(),
            "unclosed bracket",
        ),
        (
            format!("service: {{{}}}", "1: 1, ".repeat(49_000)).into_bytes(),
            "more than these 100 findings",
        ),
        (Vec::new(), "the file is empty"),
        (b"# only words\n".to_vec(), "the file is empty"),
        (b"a: &a [*a]".to_vec(), "inside the value that it names"),
        (b"\0".to_vec(), ""),
        (b"a: !!binary x".to_vec(), ""),
    ] {
        let errors = errors(&text);
        assert!(
            errors.iter().any(|error| error.contains(expected)),
            "{expected}: {errors:?}"
        );
    }
}

/// Any prefix and any one-byte change of a right file ends in a plan or in errors.
#[test]
fn damaged_files_never_panic() {
    let text = std::fs::read(folder().join("right.yaml")).unwrap();
    for at in (0..text.len()).step_by(7) {
        let _ = errors(&text[..at]);
        for byte in [b'\t', b'{', b'*', b'"', b':', b'$', 0] {
            let mut damaged = text.clone();
            damaged[at] = byte;
            let _ = errors(&damaged);
        }
    }
}

#[test]
fn sink_config_is_expanded_again_with_todays_secrets() {
    let counter = std::sync::atomic::AtomicU32::new(0);
    let environment = Environment {
        variable: Arc::new(move |_| {
            let call = counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Some(format!("token-{call}"))
        }),
        file: Arc::new(|_| Err(String::new())),
    };
    let text = b"service: {pipeline_id: a}\n\
        source: {driver: stdin}\n\
        sink:\n  driver: websocket\n  config:\n    url: ws://127.0.0.1:9500\n    headers: [{Authorization: \"${TOKEN}\"}]\n";
    let (plan, _) = config::load(Path::new("p.yaml"), text, &environment, &plugins)
        .map_err(|errors| config::render_all(&errors, false))
        .unwrap();
    let first = (plan.reread_sink)().unwrap();
    let second = (plan.reread_sink)().unwrap();
    assert_eq!(first["headers"][0]["Authorization"], "token-1");
    assert_eq!(second["headers"][0]["Authorization"], "token-2");
}

#[test]
fn a_text_without_quotes_is_what_is_written() {
    let load = |id: &str, header: &str| {
        let text = format!(
            "service: {{pipeline_id: {id}}}\nsource: {{driver: stdin}}\nsink:\n  driver: websocket\n  \
             config:\n    url: ws://127.0.0.1:9500\n    headers: [{{X: {header}}}]\n"
        );
        let file = Path::new("p.yaml");
        let (plan, _) = config::load(file, text.as_bytes(), &environment(), &plugins)
            .map_err(|errors| config::render_all(&errors, false))
            .unwrap();
        let sink = (plan.reread_sink)().unwrap();
        (plan.service.pipeline_id, sink["headers"][0]["X"].clone())
    };
    for written in [
        "007",
        "1.50",
        "0x10",
        "1e3",
        "12345678901234567890123",
        "True",
    ] {
        assert_eq!(load(written, written), (written.to_owned(), written.into()));
    }
    assert_eq!(load("a", "\"007\"").1, "007");
}

#[test]
fn a_machine_gets_an_object_a_finding() {
    let found = config::load(Path::new("p.yaml"), b"sink: 5\n", &environment(), &plugins);
    let found = found.err().unwrap();
    let first = serde_json::to_value(&found[0]).unwrap();
    for key in ["severity", "file", "line", "column", "message", "help"] {
        assert!(first.get(key).is_some(), "{key}: {first}");
    }
}

#[test]
fn the_schema_of_a_file_is_a_schema_and_accepts_the_right_files() {
    let schema = config::schema();
    let validator = jsonschema::options().offline().build(&schema).unwrap();
    let right = json!({
        "service": {"pipeline_id": 7},
        "source": {"driver": "stdin"},
        "processors": [{"driver": "wasm", "config": {"plugin": "delays.wasm"}}],
        "sink": {"driver": "websocket", "config": {"url": "ws://h", "headers": [{"A": "b"}]}},
    });
    let fits = |name: &str, file: &serde_json::Value| {
        let errors: Vec<String> = validator.iter_errors(file).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    };
    fits("inline", &right);
    let mut files = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("right") && name.ends_with(".yaml") {
            let text = std::fs::read(&path).unwrap();
            let (spec, _) = config::Spec::parse(&path, &text).unwrap();
            fits(&name, &spec.root.to_json());
            files += 1;
        }
    }
    assert!(files > 5, "{files} files");
    assert!(!validator.is_valid(&json!({"service": {"pipeline_id": 7}, "sorce": {}})));
}

#[test]
fn the_configuration_page_is_what_is_generated() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let generated = config::docs();
    if std::env::var_os("WIREFALL_BLESS").is_some() {
        std::fs::write(&file, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == generated,
        "write it again: wirefall schema --markdown > docs/configuration.md"
    );
}

/// The file in the introduction of the page is a right one.
#[test]
fn the_example_on_the_configuration_page_is_right() {
    let page = config::docs();
    let yaml = page.split("```yaml\n").nth(1).unwrap();
    let yaml = yaml.split("```").next().unwrap();
    let any_plugin = |_: &str| plugins("delays.wasm");
    let loaded = config::load(
        Path::new("p.yaml"),
        yaml.as_bytes(),
        &environment(),
        &any_plugin,
    );
    if let Err(errors) = loaded {
        panic!("{}", config::render_all(&errors, false));
    }
}

//! Plugins that were built for each frozen version of the interface, in the host of today: they do what
//! they did (docs/compatibility.md).

use serde_json::json;
use sha2::{Digest as _, Sha256};
use wirefall::plugin::describe;

use super::*;

/// Each component that is kept, and its digest: it was built once, and is never built again.
const KEPT: [(&str, &str); 1] = [(
    "tests/fixtures/plugins/witness-0.1.0.wasm",
    "d172d94a909b03b5e69027b8f6e4379c505a5524f73e312ee26e36947c029350",
)];

/// Each interface that is frozen, and its digest.
const FROZEN: [(&str, &str); 1] = [(
    "sdk/wit/v0_1/plugin.wit",
    "b56cbee106b28301534bd8c1223b929db3922709ea78539605cd5f9a6a5ec4d3",
)];

fn digest(path: &Path) -> String {
    let digest = Sha256::digest(std::fs::read(path).unwrap());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with(artifact: &Path, config: Value) -> ProcessorPlan {
    ProcessorPlan {
        artifact: artifact.to_owned(),
        ..processor("witness", config)
    }
}

#[test]
fn what_is_frozen_is_as_it_was() {
    for (path, expected) in KEPT.iter().chain(&FROZEN) {
        assert_eq!(digest(&repository(path)), *expected, "{path} is frozen");
    }
}

/// What is kept, and the same plugin built today.
#[test]
fn plugins_of_every_version_do_what_they_did() {
    let kept = KEPT.map(|(path, _)| repository(path));
    for artifact in kept.iter().chain(&[component("witness")]) {
        describes_itself(artifact);
        takes_its_config(artifact);
        sees_every_column(artifact);
        answers_in_every_way(artifact);
    }
}

fn describes_itself(artifact: &Path) {
    let description = describe(artifact, &cache()).unwrap();
    assert_eq!(description.id.name, "witness");
    assert_eq!(description.id.version, "0.1.0");
    let columns = description.columns;
    assert!(columns.keys && columns.timestamps && columns.attributes);
    let schema = description.config_schema.to_string();
    assert!(schema.contains("The first word of each line."), "{schema}");
}

fn takes_its_config(artifact: &Path) {
    let error = start(&[with(artifact, json!({"word": "refused"}))]).err();
    let message = error.expect("it is refused").message;
    assert!(message.contains("`refused` is refused"), "{message}");
    let mut chain = start(&[with(artifact, json!({"word": "saw "}))]).unwrap();
    let told = outputs(&chain.transform(&batch(["a"])));
    assert_eq!(told, ["0:saw a key=none at=none"]);
}

fn sees_every_column(artifact: &Path) {
    let mut chain = start(&[with(artifact, json!({}))]).unwrap();
    assert_eq!(
        outputs(&chain.transform(&columns::full())),
        [
            "0:a key=k0 at=-1 topic=trades header.id=7 header.id=8",
            "1:two b key= at=0",
            "2:c key=k2 at=9223372036854775807 stream=s operation=",
        ]
    );
}

fn answers_in_every_way(artifact: &Path) {
    let witness = with(artifact, json!({}));
    let mut chain = start(std::slice::from_ref(&witness)).unwrap();
    let records = ["one", "skip", "reject", "panic", "log", "twice", "last"];
    let transformed = chain.transform(&batch(records));
    let expected = [
        "0:one key=none at=none",
        "4:log key=none at=none",
        "5:[\"a line\",\"of its own\"]",
        "5:twice",
        "5:twice key=none at=none",
        "6:last key=none at=none",
    ];
    assert_eq!(outputs(&transformed), expected);
    assert_eq!(failures(&transformed), ["2@0", "3@0!"]);
    let reasons = transformed.failures.iter().map(|failure| &*failure.reason);
    let reasons: Vec<&str> = reasons.collect();
    assert_eq!(reasons[0], "asked to reject");
    let panicked = "the plugin panicked: asked to panic at plugins/witness/src/lib.rs:";
    assert!(reasons[1].starts_with(panicked), "{}", reasons[1]);
    // The next in the chain sees the keys that it gave, and what it inherits.
    let mut chain = start(&[witness.clone(), witness]).unwrap();
    let mut records = batch(["twice"]);
    records.records.timestamps = vec![7];
    let expected = [
        "0:[\"a line\",\"of its own\"] key=own at=7",
        "0:[\"a line\",\"of its own\"]",
        "0:twice",
        "0:twice key=own at=7",
        "0:[\"a line\",\"of its own\"]",
        "0:twice key=none at=7",
        "0:twice key=none at=7 key= at=7",
    ];
    assert_eq!(outputs(&chain.transform(&records)), expected);
}

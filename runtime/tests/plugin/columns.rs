//! What stands beside a payload, on its way through real components.

use serde_json::json;

use super::*;

/// One encoded value of the attributes column, as the plugin guide has it.
pub(super) fn attributes(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
        encoded.extend((part.len() as u32).to_le_bytes());
        encoded.extend(part.as_bytes());
    }
    encoded
}

/// Three records with everything that a record can have.
pub(super) fn full() -> Batch {
    let mut batch = batch(["a", "two b", "c"]);
    batch.records.keys = ["k0", "", "k2"].iter().collect();
    batch.records.timestamps = vec![-1, 0, i64::MAX];
    batch.records.attributes = [
        attributes(&[("topic", "trades"), ("header.id", "7"), ("header.id", "8")]),
        attributes(&[]),
        attributes(&[("stream", "s"), ("operation", "")]),
    ]
    .iter()
    .collect();
    batch
}

#[test]
fn a_plugin_sees_the_columns_that_it_names() {
    let mut chain = start(&[processor("witness", json!({}))]).unwrap();
    assert_eq!(
        outputs(&chain.transform(&full())),
        [
            "0:a key=k0 at=-1 topic=trades header.id=7 header.id=8",
            "1:two b key= at=0",
            "2:c key=k2 at=9223372036854775807 stream=s operation=",
        ]
    );
    let bare = chain.transform(&batch(["a"]));
    assert_eq!(outputs(&bare), ["0:a key=none at=none"]);
}

/// Timestamps and attributes are those of the record that an output came from; a key may be its own.
#[test]
fn a_later_plugin_sees_what_its_records_came_with() {
    let before = processor("hostile", json!({"does": "twice", "when": "two"}));
    let rejects = processor("hostile", json!({"does": "reject", "when": "a"}));
    let witness = processor("witness", json!({}));
    let mut chain = start(&[before, rejects, witness]).unwrap();
    let transformed = chain.transform(&full());
    assert_eq!(
        outputs(&transformed),
        [
            "1:two b key=own at=0",
            "1:two b key= at=0",
            "2:c key=k2 at=9223372036854775807 stream=s operation=",
        ]
    );
    assert_eq!(failures(&transformed), ["0@1"]);
}

#[test]
fn a_column_that_a_plugin_does_not_name_arrives_empty() {
    let mut chain = start(&[processor("hostile", json!({"does": "count_columns"}))]).unwrap();
    let told = "0:payloads 3, keys 3/4, timestamps 0, attributes 0/0";
    assert_eq!(outputs(&chain.transform(&full())), [told]);
}

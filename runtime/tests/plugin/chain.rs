//! Several plugins one after the other, and what goes between them.

use serde_json::json;

use super::*;

/// `hostile` with `on_error`, on records that contain `when`.
fn stage(does: &str, when: &str, on_error: OnError) -> ProcessorPlan {
    ProcessorPlan {
        on_error,
        ..processor("hostile", json!({"does": does, "when": when}))
    }
}

fn keyed(payloads: &[&str], keys: &[&str]) -> Batch {
    let mut batch = batch(payloads);
    batch.records.keys = keys.iter().collect();
    batch
}

#[test]
fn an_empty_chain_copies_nothing() {
    let batch = batch(["a", "b"]);
    let transformed = start(&[]).unwrap().transform(&batch);
    assert!(Arc::ptr_eq(
        &transformed.outputs.payloads,
        &batch.records.payloads
    ));
    assert_eq!(outputs(&transformed), ["0:a", "1:b"]);
}

#[test]
fn sources_compose_and_a_late_failure_withdraws_all_outputs_of_its_input() {
    let mut chain = start(&[
        stage("twice", "two", OnError::Failover),
        // Rejects the copy that has a key of its own no more than the other: both contain "bad".
        stage("reject", "bad", OnError::Failover),
    ])
    .unwrap();
    let transformed = chain.transform(&batch(["a", "two b", "two bad", "c"]));
    assert_eq!(outputs(&transformed), ["0:a", "1:two b", "1:two b", "3:c"]);
    assert_eq!(failures(&transformed), ["2@1"]);
}

#[test]
fn keys_are_inherited_unless_set() {
    let mut chain = start(&[
        stage("twice", "two", OnError::Failover),
        stage("reject", "bad", OnError::Failover),
    ])
    .unwrap();
    let transformed = chain.transform(&keyed(&["a", "two b", "bad"], &["k0", "k1", "k2"]));
    assert_eq!(outputs(&transformed), ["0:a", "1:two b", "1:two b"]);
    let keys: Vec<_> = transformed.outputs.keys.iter().collect();
    assert_eq!(keys, [&b"k0"[..], b"own", b"k1"]);
    // Where no stage sets a key, the column stays empty: each output has its input's.
    let mut chain = start(&[stage("reject", "bad", OnError::Failover)]).unwrap();
    let transformed = chain.transform(&keyed(&["a", "b"], &["k0", "k1"]));
    assert!(transformed.outputs.keys.is_empty());
}

#[test]
fn a_passed_record_goes_on_as_it_was_before_this_plugin() {
    for does in ["reject", "panic", "trap"] {
        let mut chain = start(&[
            stage("twice", "two", OnError::Failover),
            stage(does, "bad", OnError::Pass),
        ])
        .unwrap();
        let transformed = chain.transform(&keyed(
            &["a", "bad", "two bad", "b"],
            &["k0", "k1", "k2", "k3"],
        ));
        assert_eq!(
            outputs(&transformed),
            ["0:a", "1:bad", "2:two bad", "2:two bad", "3:b"],
            "{does}"
        );
        let keys: Vec<_> = transformed.outputs.keys.iter().collect();
        assert_eq!(keys, [&b"k0"[..], b"k1", b"own", b"k2", b"k3"], "{does}");
        let passed = transformed.passed.iter();
        let passed: Vec<_> = passed.map(|passed| (passed.input, passed.stage)).collect();
        assert_eq!(passed, [(1, 1), (2, 1)], "each input once");
        assert_eq!(failures(&transformed), [""; 0]);
    }
}

#[test]
fn a_stage_that_filters_everything_leaves_nothing_for_the_next() {
    let mut chain = start(&[
        processor("flight-delays", json!({"min_delay": 1000})),
        stage("panic", "", OnError::Failover),
    ])
    .unwrap();
    let flight = r#"{"dep_delay":2.0,"carrier":"UA","flight":1,"origin":"EWR","dest":"IAH"}"#;
    let transformed = chain.transform(&batch([flight, flight]));
    assert!(transformed.outputs.is_empty());
    assert!(transformed.failures.is_empty());
}

#[test]
fn workers_share_a_plan() {
    let plan = ChainPlan::load(host(), &[stage("reject", "bad", OnError::Drop)]).unwrap();
    assert_eq!(plan.plugins[0].name, "hostile");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut chain = plan.start().unwrap();
                let transformed = chain.transform(&batch(["a", "bad"]));
                assert_eq!(outputs(&transformed), ["0:a"]);
                assert_eq!(failures(&transformed), ["1@0"]);
            });
        }
    });
}

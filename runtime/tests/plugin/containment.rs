//! A plugin hurts only its own batch (I5): every way to break, tried.

use serde_json::json;

use super::*;

/// Twenty records of which those in `bad` are poison.
fn records(bad: &[usize]) -> Vec<String> {
    let name = |index: &usize| {
        if bad.contains(index) {
            "poison"
        } else {
            "good"
        }
    };
    (0..20)
        .map(|index| format!("{} {index}", name(&index)))
        .collect()
}

fn hostile(does: &str) -> ProcessorPlan {
    let mut processor = processor("hostile", json!({"does": does, "when": "poison"}));
    if does == "loop" {
        processor.limits.time = Duration::from_millis(10);
    }
    processor
}

/// Breaks on records 3, 4 and 19, twice: those fail with a reason that has `reason`, in order, and all
/// others go through unchanged.
fn check(does: &str, reason: &str) {
    let bad = [3, 4, 19];
    let input = records(&bad);
    let expected: Vec<String> = input
        .iter()
        .enumerate()
        .filter(|(index, _)| !bad.contains(index))
        .map(|(index, record)| format!("{index}:{record}"))
        .collect();
    let mut chain = start(&[hostile(does)]).unwrap();
    for round in 0..2 {
        let transformed = chain.transform(&batch(&input));
        assert_eq!(outputs(&transformed), expected, "{does}, round {round}");
        assert_eq!(failures(&transformed), ["3@0!", "4@0!", "19@0!"], "{does}");
        for failure in &transformed.failures {
            assert!(
                failure.reason.contains(reason),
                "{does}: {}",
                failure.reason
            );
        }
    }
}

#[test]
fn i5_a_panic_tells_its_message_and_place() {
    check("panic", "the plugin panicked: cannot bear poison ");
    check("panic", " at plugins/hostile/src/lib.rs:");
}

#[test]
fn i5_traps() {
    check("trap", "the plugin trapped: wasm trap: wasm `unreachable`");
    // The stack in linear memory ends first, or the machine's: both are traps.
    check("stack", "the plugin trapped: wasm trap: ");
    check("exit", "the plugin called exit");
}

#[test]
fn i5_an_endless_loop_ends_at_its_time_limit() {
    check("loop", "the plugin took longer than 10ms (limits.time)");
}

#[test]
fn i5_memory_ends_at_its_limit() {
    check(
        "grow",
        "the plugin needs more memory than 64MiB (limits.memory)",
    );
}

#[test]
fn i5_answers_that_do_not_add_up() {
    check(
        "ends_decrease",
        "does not add up: it returned ends that decrease",
    );
    check("ends_short", "does not add up: it returned ends up to");
    check(
        "sources_decrease",
        "does not add up: it returned 1 in sources",
    );
    check("sources_beyond", "for a batch of 1 records");
    check(
        "keys_missing",
        "does not add up: it returned 2 keys for 1 outputs",
    );
    check(
        "reject_and_emit",
        "it both rejected record 0 and emitted for it",
    );
    check(
        "reject_beyond",
        "it returned 1 in rejections for a batch of 1 records",
    );
    check("lie", "the plugin panicked: not me");
}

#[test]
fn i5_outputs_are_bounded() {
    let mut processor = hostile("huge_output");
    processor.limits.memory_bytes = 512 << 20;
    processor.limits.output_bytes = 1 << 20;
    let mut chain = start(&[processor]).unwrap();
    let transformed = chain.transform(&batch(["good", "poison", "good"]));
    assert_eq!(outputs(&transformed), ["0:good", "2:good"]);
    assert_eq!(failures(&transformed), ["1@0!"]);
}

#[test]
fn a_leak_costs_an_instance_and_no_record() {
    // Each record keeps a mebibyte of 64: no record is at fault.
    let mut chain = start(&[hostile("leak")]).unwrap();
    for _ in 0..10 {
        let transformed = chain.transform(&batch((0..20).map(|_| "poison")));
        assert_eq!(transformed.outputs.len(), 20);
        assert_eq!(failures(&transformed), [""; 0]);
    }
}

#[test]
fn rejections_are_no_faults_and_keep_their_reason() {
    let mut chain = start(&[hostile("reject")]).unwrap();
    let transformed = chain.transform(&batch(records(&[0, 7])));
    assert_eq!(transformed.outputs.len(), 18);
    assert_eq!(failures(&transformed), ["0@0", "7@0"]);
    assert_eq!(transformed.failures[1].reason, "will not take poison 7");
}

#[test]
fn logs_and_odd_bytes_do_no_harm() {
    for does in ["flood_log", "stderr"] {
        let mut chain = start(&[hostile(does)]).unwrap();
        let transformed = chain.transform(&batch(records(&[5])));
        assert_eq!(transformed.outputs.len(), 20, "{does}");
    }
    let mut chain = start(&[hostile("invalid_utf8")]).unwrap();
    let transformed = chain.transform(&batch(["poison"]));
    assert_eq!(transformed.outputs.payloads.get(0), b"\xff\xfe");
}

#[test]
fn a_batch_of_nothing_but_poison_fails_whole() {
    for does in ["panic", "trap", "loop"] {
        let mut chain = start(&[hostile(does)]).unwrap();
        let transformed = chain.transform(&batch((0..20).map(|_| "poison")));
        assert_eq!(transformed.outputs.len(), 0, "{does}");
        assert_eq!(transformed.failures.len(), 20, "{does}");
    }
}

#[test]
fn i5_ten_thousand_records_with_each_kind_lose_nothing_else() {
    for does in ["panic", "trap", "loop", "grow", "ends_short", "reject"] {
        let mut chain = start(&[hostile(does)]).unwrap();
        let (mut emitted, mut failed) = (0, 0);
        for first in (0..10_000).step_by(500) {
            let record = |index| match index % 1000 {
                777 => format!("poison {index}"),
                _ => format!("good {index}"),
            };
            let transformed = chain.transform(&batch((first..first + 500).map(record)));
            emitted += transformed.outputs.len();
            failed += transformed.failures.len();
        }
        assert_eq!((emitted, failed), (9_990, 10), "{does}");
    }
}

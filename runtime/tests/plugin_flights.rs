//! The example plugin, built from its folder and run on a batch.

use std::path::Path;
use std::sync::Arc;

use wirefall::plugin::{Cache, ChainPlan, Host, Limits, OnError, ProcessorPlan, resolve};
use wirefall::record::{Batch, Column, Partition, Records};

#[test]
fn late_flights_become_notices() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/flight-delays");
    let artifact = resolve(&folder, &mut |line| eprintln!("{line}")).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let host = Host::new(Cache::at(cache.path())).unwrap();
    let plan = ChainPlan::load(
        &host,
        &[ProcessorPlan {
            artifact,
            config: serde_json::json!({"min_delay": 15}),
            on_error: OnError::Failover,
            limits: Limits::default(),
            tolerance: None,
        }],
    )
    .unwrap();
    let mut chain = plan.start().unwrap();
    let payloads: Column = [
        r#"{"dep_delay":2.0,"carrier":"UA","flight":1,"origin":"EWR","dest":"IAH"}"#,
        r#"{"dep_delay":22.0,"carrier":"UA","flight":1545,"origin":"EWR","dest":"IAH"}"#,
        "no json",
    ]
    .into_iter()
    .collect();
    let batch = Batch {
        number: 0,
        partition: Partition::new("p"),
        start: 0,
        positions: vec![1, 2, 3],
        records: Records {
            payloads: Arc::new(payloads),
            ..Records::default()
        },
    };
    let transformed = chain.transform(&batch);
    let notices: Vec<_> = transformed.outputs.payloads.iter().collect();
    assert_eq!(
        notices,
        [br#"{"flight":"UA1545","from":"EWR","to":"IAH","delay":22}"#]
    );
    assert_eq!(transformed.outputs.sources, [1]);
    assert_eq!(transformed.failures.len(), 1);
    assert_eq!(transformed.failures[0].input, 2);
    assert!(!transformed.failures[0].fault);
}

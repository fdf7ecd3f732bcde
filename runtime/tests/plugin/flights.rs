//! The example plugin.

use serde_json::json;

use super::*;

#[test]
fn late_flights_become_notices() {
    let mut chain = start(&[processor("flight-delays", json!({"min_delay": 15}))]).unwrap();
    let transformed = chain.transform(&batch([
        r#"{"dep_delay":2.0,"carrier":"UA","flight":1,"origin":"EWR","dest":"IAH"}"#,
        r#"{"dep_delay":22.0,"carrier":"UA","flight":1545,"origin":"EWR","dest":"IAH"}"#,
        "no json",
    ]));
    assert_eq!(
        outputs(&transformed),
        [r#"1:{"flight":"UA1545","from":"EWR","to":"IAH","delay":22}"#]
    );
    assert_eq!(failures(&transformed), ["2@0"]);
}

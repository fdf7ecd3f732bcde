//! Right and wrong configs, each with the place and the words of what is said.

use http::header::{HeaderName, HeaderValue};
use serde_json::json;

use super::*;
use crate::sink::framing::{Batching, Carrier};

fn checked(config: Value) -> Result<ClientPlan, Vec<(String, String)>> {
    check(config, &Facts::default()).map_err(|problems| {
        let shown = |problem: Problem| {
            let help = problem.help.unwrap_or_default();
            (problem.pointer, format!("{}: {help}", problem.message))
        };
        problems.into_iter().map(shown).collect()
    })
}

fn with(more: Value) -> Value {
    let mut config = json!({"url": "wss://peer.example/in"});
    let more = more.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(more);
    config
}

#[test]
fn one_key_is_enough() {
    let plan = checked(with(json!({}))).unwrap();
    assert_eq!(plan.rules, Rules::default());
    assert_eq!(plan.framing.carrier, Carrier::Text);
    assert_eq!(plan.framing.batch, Batching::Record);
}

#[test]
fn headers_are_a_list_of_one_entry_maps_or_a_map() {
    let expected: Vec<(HeaderName, HeaderValue)> = vec![
        (
            HeaderName::from_static("authorization"),
            HeaderValue::from_static("Bearer t"),
        ),
        (
            HeaderName::from_static("x-shard"),
            HeaderValue::from_static("7"),
        ),
    ];
    for headers in [
        json!([{"Authorization": "Bearer t"}, {"X-Shard": "7"}]),
        json!({"Authorization": "Bearer t", "X-Shard": "7"}),
    ] {
        let plan = checked(with(json!({"headers": headers}))).unwrap();
        assert_eq!(plan.endpoint.headers, expected);
        assert!(!format!("{plan:?}").contains("Bearer"), "I7");
    }
}

#[test]
fn every_way_to_confirm_is_read() {
    let count = Replies::Count {
        pointer: "/seq".into(),
    };
    let id = Replies::Id {
        pointer: "/ack".into(),
        id: "/id".into(),
    };
    for (ack, confirm, replies) in [
        (json!("written"), Confirm::Written, Replies::Order),
        (json!("pong"), Confirm::Pong, Replies::Order),
        (json!("message"), Confirm::Message, Replies::Order),
        (
            json!({"message": {"pointer": "/seq"}}),
            Confirm::Message,
            count,
        ),
        (
            json!({"message": {"pointer": "/ack", "id": "/id"}}),
            Confirm::Message,
            id,
        ),
    ] {
        let plan = checked(with(json!({"ack": ack}))).unwrap();
        assert_eq!((plan.rules.confirm, &plan.replies), (confirm, &replies));
    }
}

#[test]
fn i6_what_is_wrong_is_said_with_its_place() {
    for (more, pointer, words) in [
        (json!({"url": "https://peer"}), "/url", "wss://"),
        (
            json!({"headers": {"Bad Name": "x"}}),
            "/headers/Bad Name",
            "not a header name",
        ),
        (
            json!({"headers": [{"X": "a\nb"}]}),
            "/headers/0/X",
            "line break",
        ),
        (
            json!({"headers": {"Upgrade": "x"}}),
            "/headers/Upgrade",
            "remove it",
        ),
        (
            json!({"headers": {"Sec-WebSocket-Protocol": "a"}}),
            "/headers/Sec-WebSocket-Protocol",
            "subprotocols",
        ),
        (json!({"subprotocols": ["a b"]}), "/subprotocols/0", "token"),
        (
            json!({"ack": {"message": {"pointer": "seq"}}}),
            "/ack/message/pointer",
            "`/seq`",
        ),
        (
            json!({"window": {"records": 0}}),
            "/window/records",
            "at least 1",
        ),
        (json!({"batch": {"records": 5}}), "/batch", "ndjson"),
        (json!({"frame_max": "2GiB"}), "/frame_max", "1GiB"),
        (
            json!({"confirm_timeout": "0"}),
            "/confirm_timeout",
            "longer than 0",
        ),
        (
            json!({"reconnect": {"min": "2s", "max": "1s"}}),
            "/reconnect/min",
            "longer than",
        ),
        (
            json!({"url": "ws://peer", "tls": {"ca": "x"}}),
            "/tls",
            "wss://",
        ),
        (json!({"tls": {"cert": "x"}}), "/tls/cert", "needs `key`"),
        (json!({"tls": {"key": "x"}}), "/tls/key", "needs `cert`"),
        (
            json!({"tls": {"server_name": "a b"}}),
            "/tls/server_name",
            "host name",
        ),
        (json!({"proxy": "socks5://p"}), "/proxy", "http://"),
    ] {
        let problems = checked(with(more.clone())).unwrap_err();
        let [(at, message)] = &problems[..] else {
            panic!("{more}: {problems:?}");
        };
        assert_eq!(at, pointer, "{more}");
        assert!(message.contains(words), "{more}: {message}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let problems = checked(with(json!({
        "url": "peer", "write_timeout": "0", "headers": {"Host ": "x"}, "proxy": "ftp://x",
    })));
    let pointers: Vec<String> = problems
        .unwrap_err()
        .into_iter()
        .map(|(at, _)| at)
        .collect();
    assert_eq!(
        pointers,
        ["/url", "/headers/Host ", "/proxy", "/write_timeout"]
    );
}

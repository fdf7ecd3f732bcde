//! Config of the server: what is written, and what is refused before the first record (I6).
//!
//! Pure. Called by the `websocket` driver's entry when the config has `listen`.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::Value;

use super::lag::OnLag;
use super::{AtEnd, Operate, Plan, Timing, page};
use crate::driver::{Facts, Problem, inline_schema, read, within};
use crate::port::keys::{Auth, TlsKeys, Written, escape, wrong_path};
use crate::sink::SinkPlan;
use crate::sink::websocket::framing_keys::{self, Batch, Format, Frames, FramingKeys};
use crate::units::{ByteSize, Span};

/// Paths that the port has of its own.
const TAKEN: [&str; 5] = ["/", "/healthz", "/readyz", "/metrics", page::SCRIPT_PATH];
/// Longest that frames may be held back together.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// What a silence may be that is ended by a sign of life: a shorter one is work for nothing, and no peer
/// could answer in it; a longer one ends no silence, and overflows the timers of scripts.
const SILENCE: RangeInclusive<Span> =
    Span(Duration::from_millis(10))..=Span(Duration::from_hours(24));

/// The `websocket` sink with `listen`: publishes to whoever subscribes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port, as 127.0.0.1:9400 or 0.0.0.0:443; port 0 takes a free one. What other machines
    /// reach needs credentials and TLS.
    listen: String,
    /// Path of the stream; /v1/streams/ and the pipeline's name by default.
    path: Option<String>,
    /// Whether subscribers have to show a credential (`wirefall credentials`): `none` or `required`; by
    /// default `none` on loopback and `required` elsewhere. See docs/operations.md.
    auth: Option<Auth>,
    /// TLS of the port.
    tls: Option<TlsKeys>,
    /// Listen without TLS although other machines reach the port, because a proxy before it has TLS.
    #[serde(default)]
    insecure: bool,
    /// Host names by which the port is reached, as records.example.com; without any, every name is
    /// answered where other machines reach the port, and this machine's own on loopback.
    #[serde(default)]
    hosts: Vec<String>,
    /// Addresses and networks (`10.0.0.0/8`) of proxies whose X-Forwarded-For counts.
    #[serde(default)]
    trusted_proxies: Vec<String>,
    /// Who reads `/metrics` and the stream's `/status`: `credential`, who shows one that allows `operate`;
    /// `loopback`, requests of this machine too. By default `loopback` on loopback without
    /// `auth: required`, `hosts` and `trusted_proxies`, and `credential` elsewhere. See docs/operations.md.
    operate: Option<Operate>,
    /// When the source is at its end: keep serving, or exit once the connected have everything.
    #[serde(default)]
    at_end: AtEnd,
    /// Web origins whose pages may subscribe beside the server's own page, as https://example.com.
    #[serde(default)]
    origins: Vec<String>,
    /// Most subscribers at a time; further ones are answered 503.
    #[serde(default = "defaults::subscribers_max")]
    subscribers_max: NonZeroU32,
    /// What becomes of a subscriber that the journal goes on without: `disconnect` (the default), `skip`,
    /// or a map with `block`, names that hold the source back; see docs/publishing.md.
    #[serde(default)]
    on_lag: OnLag,
    /// Small frames are coalesced for so long at most; `0` sends each at once.
    #[serde(default = "framing_keys::flush")]
    flush: Span,
    /// Text or binary messages.
    #[serde(default)]
    format: Format,
    /// One record a message, lines of records, or JSON arrays of records.
    #[serde(default)]
    framing: Frames,
    /// When a message of several records is closed; for `ndjson` and `json-array`.
    batch: Option<Batch>,
    /// Wrap each record in `{"id","ts","key","data"}`.
    #[serde(default)]
    envelope: bool,
    /// Longest message, and half of `journal.bytes` at most. A longer record is rejected.
    #[serde(default = "framing_keys::frame_max")]
    frame_max: ByteSize,
    /// Silence after which a subscriber is pinged, and then after which it counts as gone.
    #[serde(default = "defaults::ping_interval")]
    ping_interval: Span,
    /// Silence after which a subscriber of `wirefall.v1` is told that the server lives.
    #[serde(default = "defaults::heartbeat")]
    heartbeat: Span,
    /// Longest wait for a request, and then for the `subscribe` of `wirefall.v1`.
    #[serde(default = "defaults::handshake_timeout")]
    handshake_timeout: Span,
    /// Longest wait for a subscriber that takes nothing.
    #[serde(default = "defaults::write_timeout")]
    write_timeout: Span,
}

mod defaults {
    use super::*;

    pub(super) fn subscribers_max() -> NonZeroU32 {
        NonZeroU32::new(4096).expect("4096 is not zero")
    }

    pub(super) fn ping_interval() -> Span {
        Span(Duration::from_secs(20))
    }

    pub(super) fn heartbeat() -> Span {
        Span(Duration::from_secs(15))
    }

    pub(super) fn handshake_timeout() -> Span {
        Span(Duration::from_secs(10))
    }

    pub(super) fn write_timeout() -> Span {
        Span(Duration::from_secs(30))
    }
}

/// The JSON Schema of the server form.
pub fn schema() -> Schema {
    inline_schema::<Config>()
}

/// Turns a config that fits the schema into a server, or says what is wrong.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn check(config: Value, facts: &Facts) -> Result<Box<dyn SinkPlan>, Vec<Problem>> {
    plan(read(config)?, facts).map(|plan| Box::new(plan) as Box<dyn SinkPlan>)
}

fn plan(config: Config, facts: &Facts) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    let port = Written {
        listen: &config.listen,
        auth: config.auth,
        tls: config.tls.as_ref(),
        insecure: config.insecure,
        hosts: &config.hosts,
        origins: &config.origins,
        trusted_proxies: &config.trusted_proxies,
    }
    .check(facts, &mut problems);
    let path = config
        .path
        .unwrap_or_else(|| format!("/v1/streams/{}", escape(&facts.pipeline)));
    problems.extend(wrong_path(&path, "/v1/streams/trades", &TAKEN));
    within(
        "/ping_interval",
        config.ping_interval,
        SILENCE,
        &mut problems,
    );
    within("/heartbeat", config.heartbeat, SILENCE, &mut problems);
    for (pointer, span) in [
        ("/handshake_timeout", config.handshake_timeout),
        ("/write_timeout", config.write_timeout),
    ] {
        if span.0.is_zero() {
            problems.push(Problem::error(pointer, "must be longer than 0"));
        }
    }
    if config.flush.0 > FLUSH_MAX {
        problems.push(
            Problem::error("/flush", format!("{} is longer than 1s", config.flush))
                .help("frames that wait longer than a second are not live; 10ms is the default"),
        );
    }
    let operate = config.operate.unwrap_or_else(|| {
        // Whoever says that others come to this port has a proxy on this machine, or soon may have.
        let is_for_others = port.as_ref().is_some_and(|port| {
            let proxied = !port.hosts.listed.is_empty() || !port.trusted_proxies.is_empty();
            !port.hosts.is_loopback || port.asks || proxied
        });
        match is_for_others {
            true => Operate::Credential,
            false => Operate::Loopback,
        }
    });
    if config.operate == Some(Operate::Credential) && port.as_ref().is_some_and(|port| !port.asks) {
        let message = "no credentials are asked for, so nobody could show one";
        problems.push(Problem::error("/operate", message).help("say `auth: required` as well"));
    }
    let framing = FramingKeys {
        format: config.format,
        framing: config.framing,
        batch: config.batch,
        envelope: config.envelope,
        frame_max: config.frame_max,
    }
    .check(&mut problems);
    let lag = config.on_lag.check(&mut problems);
    match port {
        Some(port) if problems.is_empty() => Ok(Plan {
            port,
            path,
            operate,
            at_end: config.at_end,
            subscribers_max: config.subscribers_max,
            framing,
            lag,
            timing: Timing {
                flush: config.flush.0,
                ping_interval: config.ping_interval.0,
                heartbeat: config.heartbeat.0,
                handshake_timeout: config.handshake_timeout.0,
                write_timeout: config.write_timeout.0,
            },
        }),
        _ => Err(problems),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(config: Value) -> Vec<(String, String)> {
        let facts = Facts {
            pipeline: "my flights".to_owned(),
            ..Facts::default()
        };
        match plan(read(config).expect("fits the schema"), &facts) {
            Ok(_) => Vec::new(),
            Err(problems) => problems
                .into_iter()
                .map(|problem| (problem.pointer, problem.message))
                .collect(),
        }
    }

    #[test]
    fn i7_what_other_machines_reach_has_credentials_and_tls() {
        for listen in ["127.0.0.1:9400", "localhost:0", "[::1]:9400", "127.8.9.1:1"] {
            assert_eq!(problems(json!({ "listen": listen })), [], "{listen}");
        }
        let tls = json!({ "cert": "c.pem", "key": "k.pem" });
        for listen in ["0.0.0.0:9400", "[::]:9400", "192.168.1.5:80"] {
            for (config, expected) in [
                (json!({ "listen": listen }), vec!["/listen"]),
                (json!({ "listen": listen, "tls": tls }), vec![]),
                (json!({ "listen": listen, "insecure": true }), vec![]),
                (
                    json!({ "listen": listen, "tls": tls, "auth": "none" }),
                    vec!["/auth"],
                ),
                (
                    json!({ "listen": listen, "auth": "none" }),
                    vec!["/auth", "/listen"],
                ),
            ] {
                let problems = problems(config.clone());
                let pointers: Vec<_> = problems.iter().map(|(pointer, _)| &**pointer).collect();
                assert_eq!(pointers, expected, "{config}");
            }
        }
        for listen in ["9400", ":1", "example.com:80"] {
            let problems = problems(json!({ "listen": listen }));
            assert_eq!(problems.len(), 1, "{listen}");
            assert_eq!(problems[0].0, "/listen");
        }
    }

    #[test]
    fn credentials_are_asked_for_where_other_machines_reach() {
        for (listen, auth, expected) in [
            ("127.0.0.1:0", None, false),
            ("127.0.0.1:0", Some("required"), true),
            ("127.0.0.1:0", Some("none"), false),
            ("0.0.0.0:0", None, true),
        ] {
            let config = json!({ "listen": listen, "auth": auth, "insecure": true });
            let plan = plan(read(config).expect("a config"), &Facts::default());
            assert_eq!(
                plan.expect("a plan").port.asks,
                expected,
                "{listen} {auth:?}"
            );
        }
    }

    #[test]
    fn loopback_operates_where_nobody_else_is_expected_or_where_it_is_said() {
        use Operate::{Credential, Loopback};
        for (config, expected) in [
            (json!({ "listen": "127.0.0.1:0" }), Loopback),
            (
                json!({ "listen": "127.0.0.1:0", "auth": "required" }),
                Credential,
            ),
            (
                json!({ "listen": "127.0.0.1:0", "hosts": ["a.example"] }),
                Credential,
            ),
            (
                json!({ "listen": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"] }),
                Credential,
            ),
            (
                json!({ "listen": "0.0.0.0:0", "insecure": true }),
                Credential,
            ),
            (
                json!({ "listen": "0.0.0.0:0", "insecure": true, "operate": "loopback" }),
                Loopback,
            ),
        ] {
            let plan = plan(read(config.clone()).expect("a config"), &Facts::default());
            assert_eq!(plan.expect("a plan").operate, expected, "{config}");
        }
        let nobody = json!({ "listen": "127.0.0.1:0", "operate": "credential" });
        assert_eq!(problems(nobody)[0].0, "/operate");
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let wrong = problems(json!({
            "listen": "0.0.0.0:80",
            "path": "streams",
            "trusted_proxies": ["10.0.0.1", "proxy"],
            "hosts": ["a.example:9400", "https://a.example", "*.a.example"],
            "origins": ["https://ok.example:8443", "example.com", "https://a.example/x",
                "https://*.a.example", "https://a.example:443"],
            "flush": "5s",
            "write_timeout": "0s",
            "heartbeat": "1us",
            "ping_interval": "25h",
            "batch": { "records": 10 },
            "frame_max": 0,
        }));
        let pointers: Vec<_> = wrong.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(
            pointers,
            [
                "/listen",
                "/trusted_proxies/1",
                "/hosts/1",
                "/hosts/2",
                "/origins/1",
                "/origins/2",
                "/origins/3",
                "/origins/4",
                "/path",
                "/ping_interval",
                "/heartbeat",
                "/write_timeout",
                "/flush",
                "/batch",
                "/frame_max",
            ]
        );
    }

    #[test]
    fn the_stream_is_named_after_the_pipeline() {
        let facts = Facts {
            pipeline: "my flights".to_owned(),
            ..Facts::default()
        };
        let config = read(json!({ "listen": "127.0.0.1:0" })).expect("a config");
        let plan = plan(config, &facts).expect("a plan");
        assert_eq!(plan.path, "/v1/streams/my%20flights");
    }
}

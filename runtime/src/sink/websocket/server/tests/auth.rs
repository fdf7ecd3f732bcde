//! Who is let in, as those who knock see it: headers, subprotocols, tickets, and what takes it back.

use super::*;
use crate::credentials::store::now;
use crate::credentials::{Issued, Limits, Scope, Store, Wanted};

fn wanted(scopes: &[Scope]) -> Wanted {
    Wanted {
        scopes: scopes.to_vec(),
        lifetime: None,
        limits: Limits::default(),
    }
}

/// A server that asks, and the credential of its first reader.
async fn asking(settings: Value, wanted: Wanted) -> (Running, Store, Issued) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::of(folder.path());
    let issued = store.change(|ring| ring.create(wanted, now()));
    let mut settings = settings;
    settings["auth"] = "required".into();
    let running = Running::start_in(folder, settings, 1 << 20).await;
    (running, store, issued.expect("a credential"))
}

fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

fn basic(id: &str, secret: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{id}:{secret}"));
    format!("Basic {text}")
}

/// Connects with these headers; the status of a refusal where there is one.
async fn connect(url: &str, headers: &[(&'static str, &str)]) -> Result<Client, u16> {
    let mut request = url.into_client_request().expect("a request");
    for (name, value) in headers {
        let value = value.parse().expect("a header");
        request.headers_mut().append(*name, value);
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((client, _)) => Ok(client),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("no answer: {error}"),
    }
}

/// The code of the Close with which a connection ends.
async fn closed_with(client: &mut Client) -> (u16, String) {
    loop {
        match soon("a Close", client.next()).await {
            Some(Ok(Message::Close(Some(close)))) => {
                return (close.code.into(), close.reason.to_string());
            }
            Some(Ok(_)) => (),
            other => panic!("no Close: {other:?}"),
        }
    }
}

/// What a request without a body is answered.
async fn ask(running: &Running, method: &str, path: &str, headers: &[&str]) -> String {
    let address = running.address;
    let mut stream = TcpStream::connect(address).await.expect("a port");
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer))
        .await
        .expect("text");
    answer
}

async fn ticket(running: &Running, secret: &str) -> String {
    let header = format!("Authorization: {}", bearer(secret));
    let answer = ask(running, "POST", "/v1/streams/flights/tickets", &[&header]).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).expect("a body");
    let told: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(told["expires_in_s"], 30);
    told["ticket"].as_str().expect("a ticket").to_owned()
}

#[tokio::test]
async fn i7_a_credential_in_a_header_opens_and_a_wrong_one_is_401() {
    let (running, _, issued) = asking(json!({}), wanted(&[Scope::Subscribe])).await;
    let secret = issued.secret.reveal();
    let by_guid = format!("ws://{}/v1/streams/{}", running.address, issued.stream);
    for url in [running.url(), by_guid] {
        for (authorization, expected) in [
            (bearer(secret), None),
            (basic(&issued.id, secret), None),
            (basic("nobody", secret), Some(401)),
            (bearer("wf_wrong"), Some(401)),
            (secret.to_owned(), Some(401)),
        ] {
            let connected = connect(&url, &[("authorization", &authorization)]).await;
            assert_eq!(connected.err(), expected, "{url}");
        }
        assert_eq!(connect(&url, &[]).await.err(), Some(401));
        let in_query = connect(&format!("{url}?token={secret}"), &[]).await;
        assert_eq!(in_query.err(), Some(400));
    }
    let answer = ask(&running, "POST", "/v1/streams/flights/tickets", &[]).await;
    assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
}

#[tokio::test]
async fn what_a_script_shows_is_answered_by_a_close() {
    let (running, _, issued) = asking(json!({}), wanted(&[Scope::Subscribe])).await;
    let secret = issued.secret.reveal();
    let origin = format!("http://{}", running.address);
    let offered = |entry: &str| format!("wirefall.plain, {entry}");
    let ticket = ticket(&running, secret).await;
    let mut let_in = Vec::new();
    for entry in [
        format!("wirefall.secret.{secret}"),
        format!("wirefall.ticket.{ticket}"),
    ] {
        let protocols = offered(&entry);
        let headers = [
            ("sec-websocket-protocol", &*protocols),
            ("origin", &*origin),
        ];
        let client = connect(&running.url(), &headers).await.expect("let in");
        let_in.push(client);
        running.until_subscribers(let_in.len() as u64).await;
    }
    for (entry, reason) in [
        (
            "wirefall.secret.wf_wrong".to_owned(),
            "the credential is wrong",
        ),
        (
            format!("wirefall.ticket.{ticket}"),
            "the ticket was used before",
        ),
        (
            "wirefall.ticket.none".to_owned(),
            "the ticket is wrong, or its time is over",
        ),
        (
            "x".to_owned(),
            "a credential is needed: `Authorization: Bearer SECRET`",
        ),
    ] {
        let protocols = offered(&entry);
        let headers = [
            ("sec-websocket-protocol", &*protocols),
            ("origin", &*origin),
        ];
        let mut client = connect(&running.url(), &headers).await.expect("upgraded");
        assert_eq!(closed_with(&mut client).await, (4401, reason.to_owned()));
    }
}

#[tokio::test]
async fn a_scope_that_does_not_allow_it_is_403_or_4403() {
    let (running, _, issued) = asking(json!({}), wanted(&[Scope::Ingest])).await;
    let authorization = bearer(issued.secret.reveal());
    let refused = connect(&running.url(), &[("authorization", &authorization)]).await;
    assert_eq!(refused.err(), Some(403));
    let protocols = format!("wirefall.v1, wirefall.secret.{}", issued.secret.reveal());
    let mut client = connect(&running.url(), &[("sec-websocket-protocol", &protocols)])
        .await
        .expect("upgraded");
    assert_eq!(closed_with(&mut client).await.0, 4403);
}

#[tokio::test]
async fn rotation_and_revocation_reach_those_who_are_in() {
    let (running, store, issued) = asking(json!({}), wanted(&[Scope::Subscribe])).await;
    let old = bearer(issued.secret.reveal());
    let mut client = connect(&running.url(), &[("authorization", &old)])
        .await
        .expect("let in");
    running.until_subscribers(1).await;
    let new = store.change(|ring| ring.rotate(&issued.id, Duration::ZERO, now()));
    let new = bearer(new.expect("rotated").secret.reveal());
    let (code, reason) = closed_with(&mut client).await;
    assert_eq!(
        (code, reason.as_str()),
        (4401, "the secret was replaced by a newer one")
    );
    assert_eq!(
        connect(&running.url(), &[("authorization", &old)])
            .await
            .err(),
        Some(401)
    );
    let mut client = connect(&running.url(), &[("authorization", &new)])
        .await
        .expect("let in");
    store
        .change(|ring| ring.revoke(&issued.id))
        .expect("revoked");
    assert_eq!(closed_with(&mut client).await.0, 4401);
    assert_eq!(
        connect(&running.url(), &[("authorization", &new)])
            .await
            .err(),
        Some(401)
    );
    let ended = &running.metrics.sessions_ended;
    assert_eq!((ended.replaced.get(), ended.revoked.get()), (1, 1));
    assert_eq!((ended.expired.get(), ended.bytes.get()), (0, 0));
}

#[tokio::test]
async fn a_session_ends_with_the_time_of_its_credential_and_is_counted() {
    let lifetime = Some(Duration::from_secs(2));
    let wanted = Wanted {
        lifetime,
        ..wanted(&[Scope::Subscribe])
    };
    let (running, _, issued) = asking(json!({}), wanted).await;
    let authorization = bearer(issued.secret.reveal());
    let client = connect(&running.url(), &[("authorization", &authorization)]).await;
    let (code, reason) = closed_with(&mut client.expect("let in")).await;
    assert_eq!((code, &*reason), (4401, "the credential has expired"));
    assert_eq!(running.metrics.sessions_ended.expired.get(), 1);
}

#[tokio::test]
async fn i4_sessions_and_bytes_of_a_credential_are_bounded() {
    let limits = Limits {
        sessions: Some(1),
        bytes_per_second: Some(1000),
    };
    let wanted = Wanted {
        limits,
        ..wanted(&[Scope::Subscribe])
    };
    let (mut running, _, issued) = asking(json!({ "operate": "loopback" }), wanted).await;
    let authorization = bearer(issued.secret.reveal());
    let headers = [("authorization", &*authorization)];
    let mut client = connect(&running.url(), &headers).await.expect("let in");
    running.until_subscribers(1).await;
    assert_eq!(connect(&running.url(), &headers).await.err(), Some(429));
    running.publish(30, 1000).await;
    assert_eq!(closed_with(&mut client).await.0, 4429);
    drop(client);
    running.until_subscribers(0).await;
    assert_eq!(connect(&running.url(), &headers).await.err(), Some(429));
    let page = ask(&running, "GET", "/metrics", &[]).await;
    for line in [
        "wirefall_sessions_ended_total{reason=\"bytes\"} 1",
        "wirefall_too_many_total{reason=\"sessions\"} 1",
        "wirefall_too_many_total{reason=\"bytes\"} 1",
        "wirefall_too_many_total{reason=\"failures\"} 0",
    ] {
        assert!(page.lines().any(|one| one == line), "{line}: {page}");
    }
}

#[tokio::test]
async fn i4_an_address_that_fails_too_often_waits_and_a_good_credential_does_not() {
    let (running, _, issued) = asking(json!({}), wanted(&[Scope::Subscribe])).await;
    let wrong = [("authorization", "Bearer wf_wrong")];
    let mut statuses = Vec::new();
    for _ in 0..22 {
        statuses.push(connect(&running.url(), &wrong).await.err());
    }
    assert_eq!(statuses[..20], [Some(401); 20]);
    assert_eq!(statuses[20..], [Some(429); 2]);
    assert_eq!(running.metrics.too_many.failures.get(), 2);
    let authorization = bearer(issued.secret.reveal());
    let good = connect(&running.url(), &[("authorization", &authorization)]).await;
    good.expect("let in");
}

#[tokio::test]
async fn metrics_are_for_operators_and_where_it_is_said_for_this_machine() {
    let settings = json!({ "trusted_proxies": ["127.0.0.1"], "operate": "loopback" });
    let (running, store, reader) = asking(settings, wanted(&[Scope::Subscribe])).await;
    let operator = store.change(|ring| ring.create(wanted(&[Scope::Operate]), now()));
    let operator = operator.expect("a credential");
    let local = ask(&running, "GET", "/metrics", &[]).await;
    assert!(local.starts_with("HTTP/1.1 200"), "{local}");
    assert!(
        local.contains("\nwirefall_auth_failures_total{reason=\"wrong\"} 0\n"),
        "{local}"
    );
    let away = "X-Forwarded-For: 192.0.2.1";
    let authorization = format!("Authorization: {}", bearer(operator.secret.reveal()));
    let seen = ask(&running, "GET", "/metrics", &[away, &authorization]).await;
    assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
    let authorization = format!("Authorization: {}", bearer(reader.secret.reveal()));
    for (headers, expected) in [
        (vec![away, &*authorization], "HTTP/1.1 403"),
        (vec!["Via: 1.1 proxy"], "HTTP/1.1 401"),
    ] {
        let answer = ask(&running, "GET", "/metrics", &headers).await;
        assert!(answer.starts_with(expected), "{headers:?}: {answer}");
    }
}

/// A proxy on this machine that adds nothing to a request looks like this machine itself.
#[tokio::test]
async fn loopback_is_not_enough_where_others_are_expected() {
    const STATUS: &str = "/v1/streams/flights/status";
    for (settings, expected) in [
        (json!({}), "200"),
        (json!({ "hosts": ["records.example.com"] }), "403"),
        (json!({ "trusted_proxies": ["10.0.0.7"] }), "403"),
        (
            json!({ "hosts": ["records.example.com"], "operate": "loopback" }),
            "200",
        ),
    ] {
        let running = Running::start(settings.clone(), 1 << 20).await;
        for path in ["/metrics", STATUS] {
            let answer = ask(&running, "GET", path, &[]).await;
            let status = answer.split(' ').nth(1);
            assert_eq!(status, Some(expected), "{settings} {path}: {answer}");
        }
    }
    let (running, _, issued) = asking(json!({}), wanted(&Scope::ALL)).await;
    let authorization = format!("Authorization: {}", bearer(issued.secret.reveal()));
    for (headers, expected) in [(vec![], "401"), (vec![&*authorization], "200")] {
        let answer = ask(&running, "GET", STATUS, &headers).await;
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{answer}");
    }
}

/// Most proxies pass on the name by which they were asked, or say whom they speak for.
#[tokio::test]
async fn what_a_proxy_passed_on_is_not_local() {
    let settings = json!({ "hosts": ["records.example.com"], "operate": "loopback" });
    let running = Running::start(settings, 1 << 20).await;
    let own = format!("Host: {}", running.address);
    for (headers, expected) in [
        (vec![&*own], "200"),
        (vec!["Host: records.example.com"], "403"),
        (vec![&*own, "Forwarded: for=192.0.2.1"], "403"),
        (vec![&*own, "X-Forwarded-For: 127.0.0.1"], "403"),
        (vec![&*own, "X-Real-IP: 127.0.0.1"], "403"),
        (vec![&*own, "Via: 1.1 proxy"], "403"),
    ] {
        let mut stream = TcpStream::connect(running.address).await.expect("a port");
        let request = format!("GET /metrics HTTP/1.1\r\n{}\r\n\r\n", headers.join("\r\n"));
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        soon("an answer", read).await.expect("text");
        assert_eq!(
            answer.split(' ').nth(1),
            Some(expected),
            "{headers:?}: {answer}"
        );
    }
}

/// A server with two credentials, as they are sent.
async fn two_owners(settings: Value) -> (Running, [String; 2]) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::of(folder.path());
    let owners = [(); 2].map(|()| {
        let made = store.change(|ring| ring.create(wanted(&Scope::ALL), now()));
        bearer(made.expect("a credential").secret.reveal())
    });
    (Running::start_in(folder, settings, 1 << 20).await, owners)
}

/// Subscribes by the name `archive`.
async fn named(running: &Running, headers: &[(&'static str, &str)]) -> Client {
    let mut headers = headers.to_vec();
    headers.push(("sec-websocket-protocol", "wirefall.v1"));
    let client = connect(&running.url(), &headers).await;
    let mut client = client.expect("let in");
    let subscribe = json!({ "type": "subscribe", "name": "archive" }).to_string();
    client.send(Message::text(subscribe)).await.expect("sent");
    client
}

#[tokio::test]
async fn a_name_is_closed_to_another_credential_and_its_session_notices_nothing() {
    let (mut running, [mine, other]) = two_owners(json!({ "auth": "required" })).await;
    let mut first = named(&running, &[("authorization", &mine)]).await;
    let hello = soon("hello", first.next()).await;
    assert!(matches!(hello, Some(Ok(Message::Binary(_)))), "{hello:?}");
    let mut second = named(&running, &[("authorization", &other)]).await;
    let close = (4403, "this name belongs to another credential".to_owned());
    assert_eq!(closed_with(&mut second).await, close);
    running.publish(1, 8).await;
    assert_eq!(next(&mut first).await, Ok(0));
    let authorization = format!("Authorization: {other}");
    let path = "/v1/streams/flights/names";
    let names = ask(&running, "GET", path, &[&authorization]).await;
    for told in [
        "\"name\":\"archive\"",
        "\"behind\":1,",
        "\"connected\":true",
        "\"holds\":false",
    ] {
        assert!(names.contains(told), "{names}");
    }
    assert!(!names.contains("\"credential\":null"), "{names}");
    let stranger = ask(&running, "GET", path, &[]).await;
    assert!(stranger.starts_with("HTTP/1.1 401"), "{stranger}");
    let metrics = ask(&running, "GET", "/metrics", &[&authorization]).await;
    let counted = "\nwirefall_auth_failures_total{reason=\"name\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn an_operator_deletes_the_cursor_of_a_name_that_nobody_has() {
    let (running, [mine, other]) = two_owners(json!({ "auth": "required" })).await;
    let mut client = named(&running, &[("authorization", &mine)]).await;
    let hello = soon("hello", client.next()).await;
    assert!(matches!(hello, Some(Ok(Message::Binary(_)))), "{hello:?}");
    let authorization = format!("Authorization: {other}");
    let names = "/v1/streams/flights/names";
    let path = &format!("{names}/archive");
    let status = async |method: &str, path: &str, headers: &[&str]| {
        let answer = ask(&running, method, path, headers).await;
        answer.split(' ').nth(1).expect("a status").to_owned()
    };
    let headers = [&*authorization];
    assert_eq!(status("DELETE", path, &[]).await, "401");
    assert_eq!(status("GET", path, &headers).await, "405");
    assert_eq!(status("OPTIONS", path, &headers).await, "405");
    assert_eq!(status("DELETE", path, &headers).await, "409");
    assert_eq!(status("DELETE", names, &headers).await, "405");
    let elsewhere = "/v1/streams/other/names/archive";
    assert_eq!(status("DELETE", elsewhere, &headers).await, "405");
    drop(client);
    running.until_subscribers(0).await;
    assert_eq!(status("DELETE", path, &headers).await, "204");
    assert_eq!(status("DELETE", path, &headers).await, "404");
    let left = ask(&running, "GET", names, &headers).await;
    assert!(left.ends_with("{\"names\":[]}"), "{left}");
    // It is nobody's now: another credential may use it.
    let mut client = named(&running, &[("authorization", &other)]).await;
    let hello = soon("hello", client.next()).await;
    assert!(matches!(hello, Some(Ok(Message::Binary(_)))), "{hello:?}");
}

/// Who is refused a name behind a proxy is told apart from everybody else who comes through it.
#[tokio::test]
async fn refused_names_count_against_the_client_of_a_trusted_proxy() {
    let settings = json!({ "auth": "required", "trusted_proxies": ["127.0.0.1"] });
    let (running, [mine, other]) = two_owners(settings).await;
    let mut first = named(&running, &[("authorization", &mine)]).await;
    soon("hello", first.next())
        .await
        .expect("hello")
        .expect("a frame");
    for _ in 0..21 {
        let headers = [
            ("authorization", &*other),
            ("x-forwarded-for", "203.0.113.9"),
        ];
        let mut refused = named(&running, &headers).await;
        assert_eq!(closed_with(&mut refused).await.0, 4403);
    }
    for (client, expected) in [("203.0.113.9", "429"), ("203.0.113.8", "401")] {
        let forwarded = format!("X-Forwarded-For: {client}");
        let answer = ask(&running, "GET", "/metrics", &[&forwarded]).await;
        let status = answer.split(' ').nth(1);
        assert_eq!(status, Some(expected), "{client}: {answer}");
    }
}

#[tokio::test]
async fn tickets_are_given_to_pages_that_may_read_and_to_nobody_else() {
    let settings = json!({ "origins": ["https://ok.example"] });
    let (running, _, issued) = asking(settings, wanted(&[Scope::Subscribe])).await;
    let authorization = format!("Authorization: {}", bearer(issued.secret.reveal()));
    let path = format!("/v1/streams/{}/tickets", issued.stream);
    for (method, headers, expected, shared) in [
        ("OPTIONS", vec!["Origin: https://ok.example"], "204", true),
        (
            "POST",
            vec!["Origin: https://ok.example", &*authorization],
            "200",
            true,
        ),
        ("POST", vec!["Origin: https://ok.example"], "401", true),
        (
            "POST",
            vec!["Origin: https://evil.example", &*authorization],
            "403",
            false,
        ),
        (
            "OPTIONS",
            vec!["Origin: https://evil.example"],
            "403",
            false,
        ),
        ("POST", vec![&*authorization], "200", false),
        ("GET", vec![&*authorization], "405", false),
    ] {
        let answer = ask(&running, method, &path, &headers).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{method} {headers:?}: {answer}"
        );
        let allowed = answer.contains("access-control-allow-origin: https://ok.example");
        assert_eq!(allowed, shared, "{method} {headers:?}: {answer}");
    }
}

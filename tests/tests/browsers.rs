//! The page and the JavaScript client in a real Chromium.

use std::ffi::OsStr;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wirefall_tests::peers::{browser, free_address};
use wirefall_tests::proxy::Fault;
use wirefall_tests::records::{numbered, write_numbered};
use wirefall_tests::workspace::root;
use wirefall_tests::{Folder, Process, Proxy, Signal, pipelines, wait_for, wait_until, wirefall};

/// Starts `wirefall run` of what comes on its standard input, at this address.
fn publish_at(folder: &Folder, address: SocketAddr, sink: &[&str]) -> Process {
    run(&write_pipeline(folder, address, sink))
}

fn write_pipeline(folder: &Folder, address: SocketAddr, sink: &[&str]) -> PathBuf {
    pipelines::publish(folder, sink);
    let text = folder.read("pipeline.yaml");
    folder.write(
        "pipeline.yaml",
        text.replace("127.0.0.1:0", &address.to_string()),
    )
}

fn run(pipeline: &Path) -> Process {
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    run.wait_for_line("stream  ");
    run
}

fn page(address: SocketAddr) -> String {
    format!("http://{address}/")
}

/// Writes the numbered records of a range.
fn write_records(run: &mut Process, numbers: std::ops::Range<u64>) {
    let lines: String = numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect();
    assert!(run.write(lines.as_bytes()), "standard input is read");
}

/// What the script saw, once it has ended.
fn seen(browser: Process) -> Value {
    let ended = browser.wait().expect(0);
    let seen = ended.stdout.split_once("seen ").expect("its word").1;
    serde_json::from_str(seen).expect("JSON")
}

/// Waits until the last that the script told is `wanted`, and returns it.
fn told(browser: &mut Process, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, || {
        assert!(
            browser.is_running(),
            "{}{}",
            browser.stdout(),
            browser.stderr()
        );
        let stdout = browser.stdout();
        let line = stdout.lines().rfind(|line| line.starts_with("told "))?;
        let told: Value = serde_json::from_str(&line["told ".len()..]).ok()?;
        wanted(&told).then_some(told)
    })
}

#[test]
fn the_page_shows_records_and_reads_nothing_from_outside() {
    let folder = Folder::new();
    let address = free_address();
    let mut run = publish_at(&folder, address, &[]);
    for number in 0..10 {
        let line = format!("{{\"n\":{number},\"city\":\"Zürich\",\"more\":{{\"is\":[true]}}}}\n");
        assert!(run.write(line.as_bytes()));
    }
    let Some(browser) = browser("the_page_shows_records", &["page", &page(address), "10"]) else {
        return;
    };
    let seen = seen(browser);
    assert_eq!(seen["title"], "test · Wirefall");
    assert_eq!(seen["state"], "live");
    assert_eq!(seen["columns"], json!(["seen", "n", "city", "more"]));
    let cells = |row: &str| seen[row].as_array().expect("cells")[1..].to_vec();
    assert_eq!(cells("newest"), ["9", "Zürich", r#"{"is":[true]}"#]);
    assert_eq!(cells("only")[0], "3", "the filter by text");
    assert_eq!(seen["outside"], json!([]));
    assert_eq!(seen["errors"], json!([]));
    assert_ne!(seen["colours"]["light"], seen["colours"]["dark"]);
}

#[test]
fn i5_no_record_breaks_the_page() {
    let folder = Folder::new();
    let address = free_address();
    let mut run = publish_at(&folder, address, &[]);
    let long = "x".repeat(200_000);
    let members: String = (0..500).map(|n| format!("\"m{n}\":{n},")).collect();
    let deep = "[".repeat(20_000) + &"]".repeat(20_000);
    for record in [
        r#"{"constructor":1,"__proto__":{"toString":1},"<b>bold</b>":"<img src=x onerror=alert(1)>"}"#,
        "plain text",
        "{broken",
        "null",
        "[1,2]",
        "<script>alert(1)</script>",
        &format!("{{{members}\"last\":1}}"),
        &format!("{{\"{long}\":\"{long}\"}}"),
        &format!("{{\"deep\":{deep}}}"),
    ] {
        assert!(run.write(format!("{record}\n").as_bytes()));
    }
    write_records(&mut run, 0..10);
    let test = "i5_no_record_breaks_the_page";
    let Some(browser) = browser(test, &["page", &page(address), "19"]) else {
        return;
    };
    let seen = seen(browser);
    assert_eq!(seen["errors"], json!([]));
    let columns = seen["columns"].as_array().expect("a list");
    assert_eq!(columns.len(), 1 + 24 + 1, "{columns:?}");
    assert_eq!(columns[1], "constructor");
    assert_eq!(seen["only"][1], "", "no member of the prototype is shown");
    assert_eq!(seen["only"][25], r#"{"n":3}"#);
}

#[test]
fn the_page_says_what_it_cannot_know_after_its_server_was_killed() {
    let folder = Folder::new();
    let address = free_address();
    let mut first = publish_at(&folder, address, &[]);
    write_records(&mut first, 0..5);
    let test = "the_page_says_what_it_cannot_know";
    let Some(mut browser) = browser(test, &["watch", &page(address)]) else {
        return;
    };
    let live = told(&mut browser, "five rows", |told| told["rows"] == 5);
    assert_eq!(
        (&live["state"], &live["lost"]),
        (&json!("live"), &json!("none"))
    );
    first.signal(Signal::Kill);
    first.wait();
    told(&mut browser, "the break", |told| {
        told["state"]
            .as_str()
            .is_some_and(|state| state.starts_with("disconnected"))
    });
    // Its journal was in memory: the next process numbers anew.
    let mut second = publish_at(&folder, address, &[]);
    write_records(&mut second, 5..8);
    let back = told(&mut browser, "three rows and a gap", |told| {
        told["rows"] == 9
    });
    assert_eq!(back["state"], "live");
    assert_eq!(back["lost"], "an unknown number, in 1 gap");
    let gap = back["gaps"][0].as_str().expect("a row");
    assert!(gap.contains("cannot be known"), "{gap}");
}

/// A pipeline whose stream asks for credentials, and the secret of one that may subscribe.
fn publish_to_holders(folder: &Folder, address: SocketAddr, sink: &[&str]) -> (Process, String) {
    let sink = [&["auth: required"], sink].concat();
    let pipeline = write_pipeline(folder, address, &sink);
    let create = ["credentials", "create", "--json"].map(AsRef::<OsStr>::as_ref);
    let made = wirefall(create.into_iter().chain([pipeline.as_os_str()])).wait();
    let made = made.expect(0).stdout;
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    (run(&pipeline), secret)
}

#[test]
fn i7_the_page_asks_for_the_secret_and_keeps_it_nowhere() {
    let folder = Folder::new();
    let address = free_address();
    let (mut run, secret) = publish_to_holders(&folder, address, &[]);
    write_records(&mut run, 0..3);
    let test = "the_page_asks_for_the_secret";
    let arguments = ["secrets", &page(address), "wrong", &secret];
    let Some(browser) = browser(test, &arguments) else {
        return;
    };
    let seen = seen(browser);
    let states = seen["states"].as_array().expect("a list");
    assert_eq!(states[0], "a credential is needed");
    let refused = states[1].as_str().expect("text");
    assert!(refused.starts_with("refused: "), "{refused}");
    assert_eq!(states[2], "live");
    assert_eq!(seen["isKept"], false);
}

#[test]
fn a_wrong_ticket_is_told_to_a_page_of_ones_own() {
    let folder = Folder::new();
    let (address, own) = (free_address(), free_address());
    let origins = format!("origins: [\"http://{own}\"]");
    let (_run, _secret) = publish_to_holders(&folder, address, &[&origins]);
    let (port, url) = (
        own.port().to_string(),
        format!("ws://{address}/v1/streams/test"),
    );
    let arguments = ["app", &port, &url, r#"{ ticket: "wrong" }"#];
    let Some(mut browser) = browser("a_wrong_ticket_is_told", &arguments) else {
        return;
    };
    let told = told(&mut browser, "the refusal", |told| {
        told["state"] == "failed"
    });
    assert_eq!(told["error"]["code"], 4401, "{told}");
    let why = told["error"]["message"].as_str().expect("text");
    assert!(why.contains("ticket"), "{why}");
}

#[test]
fn five_thousand_records_a_second_do_not_freeze_the_page() {
    let folder = Folder::new();
    write_numbered(&folder.path("input.ndjson"), 20_000);
    let source = ["path: input.ndjson", "rate: 5000", "repeat: true"].map(str::to_owned);
    let address = free_address();
    let sink = [format!("listen: {address}")];
    let run = run(&pipelines::pipeline(&folder, "file", &source, &sink, ""));
    let test = "five_thousand_records_a_second";
    let Some(browser) = browser(test, &["busy", &page(address)]) else {
        return;
    };
    let seen = seen(browser);
    assert_eq!(seen["state"], "live");
    let count = |name: &str| seen[name].as_u64().expect("a number");
    // In three seconds; a tenth of what an idle machine does.
    assert!(count("frames") >= 18, "{seen}");
    assert!(count("records") >= 1500, "{seen}");
    assert!(count("rows") <= 100, "{seen}");
    drop(run);
}

/// An application's page that subscribes, by way of a proxy, to what `run` publishes; its origin is
/// listed. `None`: no Chromium here.
struct App {
    run: Process,
    proxy: Proxy,
    browser: Process,
    written: u64,
    _folder: Folder,
}

impl App {
    fn start(test: &str, sink: &[&str]) -> Option<Self> {
        let folder = Folder::new();
        let (address, own) = (free_address(), free_address());
        let origins = format!("origins: [\"http://{own}\"]");
        let run = publish_at(&folder, address, &[&[origins.as_str()], sink].concat());
        let proxy = Proxy::start(address);
        let url = format!("ws://{}/v1/streams/test", proxy.address());
        let port = own.port().to_string();
        let mut browser = browser(test, &["app", &port, &url, r#"{ from: "earliest" }"#])?;
        told(&mut browser, "the client is open", |told| {
            told["state"] == "open"
        });
        Some(Self {
            run,
            proxy,
            browser,
            written: 0,
            _folder: folder,
        })
    }

    fn write(&mut self, count: u64) {
        write_records(&mut self.run, self.written..self.written + count);
        self.written += count;
    }

    /// Waits until the page has everything, and returns what it told.
    fn everything(&mut self) -> Value {
        let written = self.written;
        told(&mut self.browser, "every record", |told| {
            told["next"] == written
        })
    }

    fn say(&mut self, word: &str) {
        assert!(self.browser.write(format!("{word}\n").as_bytes()));
        self.browser.wait_for_line(&format!("{word} done"));
    }
}

#[test]
fn i3_a_page_whose_connection_breaks_goes_on_at_its_place() {
    let Some(mut app) = App::start("a_page_whose_connection_breaks", &[]) else {
        return;
    };
    for fault in [Fault::Reset, Fault::Close, Fault::Reset, Fault::Unavailable] {
        app.write(2_000);
        app.proxy.fault(fault);
        let accepted = app.proxy.accepted();
        app.write(2_000);
        wait_until("it tries again", || app.proxy.accepted() > accepted);
        app.proxy.fault(Fault::None);
    }
    app.write(100);
    let told = app.everything();
    assert_eq!(told["wrong"], json!([]), "neither missing nor again");
    assert_eq!(told["gaps"], json!([]));
    assert!(told["errors"].as_u64() >= Some(4), "{told}");
}

#[test]
fn i3_a_tab_that_slept_goes_on_at_its_place() {
    let Some(mut app) = App::start("a_tab_that_slept", &["heartbeat: 1s"]) else {
        return;
    };
    app.write(1_000);
    app.everything();
    app.say("sleep");
    let accepted = app.proxy.accepted();
    app.write(5_000);
    // Meanwhile the line is cut somewhere, and says nothing.
    app.proxy.fault(Fault::Stall);
    app.write(5_000);
    app.say("wake");
    wait_until("it dials anew", || app.proxy.accepted() > accepted);
    app.proxy.fault(Fault::None);
    let told = app.everything();
    assert_eq!(told["wrong"], json!([]), "neither missing nor again");
    assert_eq!(told["gaps"], json!([]));
}

/// A journal on disk keeps the numbering, so a page has every record once although the server dies in the
/// middle of them, again and again.
#[test]
fn i3_a_page_goes_on_over_kills_of_its_server() {
    const EACH: u64 = 4_000;
    const KILLS: u64 = 5;
    let folder = Folder::new();
    let mut input = std::fs::File::create(folder.path("input.ndjson")).expect("a file");
    let (address, own) = (free_address(), free_address());
    let source = ["path: input.ndjson", "follow: true", "rate: 4000"].map(str::to_owned);
    let sink = [
        format!("listen: {address}"),
        format!("origins: [\"http://{own}\"]"),
    ];
    let journal = "journal: { driver: disk }\n";
    let pipeline = pipelines::pipeline(&folder, "file", &source, &sink, journal);
    let mut server = run(&pipeline);
    let (port, url) = (
        own.port().to_string(),
        format!("ws://{address}/v1/streams/test"),
    );
    let arguments = ["app", &port, &url, r#"{ from: "earliest" }"#];
    let Some(mut browser) = browser("a_page_goes_on_over_kills", &arguments) else {
        return;
    };
    let opened = |told: &Value| told["resumed"].as_array().map_or(0, Vec::len) as u64;
    let mut in_the_middle = 0;
    for kill in 1..=KILLS {
        told(&mut browser, "the page is in", |told| opened(told) == kill);
        let (begun, end) = ((kill - 1) * EACH, kill * EACH);
        let lines: String = (begun..end).map(|n| numbered(n) + "\n").collect();
        input.write_all(lines.as_bytes()).expect("written");
        let told = told(&mut browser, "some of them", |told| {
            told["next"].as_u64() > Some(begun)
        });
        in_the_middle += u64::from(told["next"].as_u64() < Some(end));
        server.signal(Signal::Kill);
        server.wait();
        server = run(&pipeline);
    }
    assert!(in_the_middle > 0, "no kill came while records did");
    let told = told(&mut browser, "every record", |told| {
        told["next"] == KILLS * EACH && opened(told) == KILLS + 1
    });
    assert_eq!(told["count"], KILLS * EACH, "each once");
    assert_eq!(told["wrong"], json!([]), "neither missing nor again");
    assert_eq!(told["gaps"], json!([]));
    let resumed = told["resumed"].as_array().expect("a list");
    assert!(resumed.iter().all(|resumed| resumed == true), "{resumed:?}");
}

/// Publishes what comes on standard input; a record with `"k":true` comes once more with the key `own`.
fn publish_keyed(folder: &Folder, address: SocketAddr, origin: SocketAddr) -> Process {
    let sink = [
        format!("listen: {address}"),
        format!("origins: [\"http://{origin}\"]"),
    ];
    let processors = format!(
        "processors:\n- driver: wasm\n  config:\n    plugin: {}\n    \
           config: {{ does: twice, when: '\"k\":true' }}\n",
        pipelines::plugin("hostile").display()
    );
    run(&pipelines::pipeline(
        folder,
        "stdin",
        &[],
        &sink,
        &processors,
    ))
}

/// Every fifth with a key.
fn write_keyed(run: &mut Process, numbers: std::ops::Range<u64>) {
    let line = |n: u64| match n % 5 {
        0 => format!("{{\"n\":{n},\"k\":true}}\n"),
        _ => format!("{{\"n\":{n}}}\n"),
    };
    let lines: String = numbers.map(line).collect();
    assert!(run.write(lines.as_bytes()), "standard input is read");
}

#[test]
fn only_records_with_the_keys_of_a_client_come_to_it() {
    let folder = Folder::new();
    let (address, own) = (free_address(), free_address());
    let mut run = publish_keyed(&folder, address, own);
    let (port, url) = (
        own.port().to_string(),
        format!("ws://{address}/v1/streams/test"),
    );
    let options = r#"{ from: "earliest", keys: ["own", "other"] }"#;
    let test = "only_records_with_the_keys";
    let Some(mut browser) = browser(test, &["app", &port, &url, options]) else {
        return;
    };
    write_keyed(&mut run, 0..31);
    let told = told(&mut browser, "the last with a key", |told| {
        told["next"] == 31
    });
    assert_eq!(told["newest"], json!([0, 5, 10, 15, 20, 25, 30]));
}

#[test]
fn the_page_narrows_to_the_keys_that_it_is_given() {
    let folder = Folder::new();
    let (address, own) = (free_address(), free_address());
    let mut run = publish_keyed(&folder, address, own);
    write_keyed(&mut run, 0..10);
    let test = "the_page_narrows_to_the_keys";
    // Ten, and two of them once more.
    let arguments = ["keyed", &page(address), "12", "own", "15"];
    let Some(mut browser) = browser(test, &arguments) else {
        return;
    };
    browser.wait_for_line("narrow");
    write_keyed(&mut run, 10..20);
    let seen = seen(browser);
    assert_eq!(seen["all"].as_array().map(Vec::len), Some(12), "{seen}");
    assert_eq!(seen["only"], json!(["15", "10", "5", "0"]));
}

/// The example as it is, but for its addresses, its pace, and where its files are.
fn dashboard(folder: &Folder, address: SocketAddr, own: SocketAddr) -> Process {
    pipelines::plugin("flight-delays");
    let text = std::fs::read_to_string(root().join("examples/dashboard/pipeline.yaml"));
    let mut text = text.expect("the example");
    for (from, to) in [
        ("127.0.0.1:9401", address.to_string()),
        ("127.0.0.1:8000", own.to_string()),
        (
            "../flights",
            root().join("examples/flights").display().to_string(),
        ),
        (
            "../../plugins",
            root().join("plugins").display().to_string(),
        ),
        ("rate: 240 ", "rate: 1000 ".to_owned()),
        ("repeat: true", "repeat: false".to_owned()),
    ] {
        assert!(text.contains(from), "the example has `{from}`");
        text = text.replace(from, &to);
    }
    run(&folder.write("pipeline.yaml", text))
}

#[test]
fn the_dashboard_counts_each_delay_once_over_reloads_and_breaks() {
    let folder = Folder::new();
    let (address, own) = (free_address(), free_address());
    let test = "the_dashboard_counts_each_delay_once";
    let example = root().join("examples/dashboard");
    let example = example.to_str().expect("UTF-8");
    let run = dashboard(&folder, address, own);
    let server = Proxy::start(address);
    let arguments = [
        "dashboard",
        &own.port().to_string(),
        example,
        &page(server.address()),
    ];
    let Some(mut browser) = browser(test, &arguments) else {
        return;
    };
    let flights = std::fs::read_to_string(root().join("examples/flights/flights.ndjson"));
    let late = |line: &&str| {
        let flight: Value = serde_json::from_str(line).expect("a flight");
        flight["dep_delay"]
            .as_f64()
            .is_some_and(|delay| delay > 15.0)
    };
    let delays = flights.expect("flights").lines().filter(late).count();
    let mut reload = |loads: u64| {
        assert!(browser.write(b"reload\n"));
        told(&mut browser, "the page, loaded again", |told| {
            told["loads"] == loads && told["state"] == "live"
        });
    };
    reload(2);
    let accepted = server.accepted();
    server.fault(Fault::Reset);
    wait_until("the page comes again", || server.accepted() > accepted);
    server.fault(Fault::None);
    reload(3);
    let all = told(&mut browser, "every delay", |told| told["count"] == delays);
    assert!(browser.write(b"reload\n"));
    let still = told(&mut browser, "all once more", |told| {
        told["loads"] == 4 && told["state"] == "live"
    });
    for told in [all, still] {
        assert_eq!(told["count"], delays, "{told}");
        assert_eq!(told["bars"], 12, "{told}");
        assert_eq!(told["lost"], false, "{told}");
        assert_eq!(told["errors"], json!([]), "{told}");
    }
    drop(run);
}

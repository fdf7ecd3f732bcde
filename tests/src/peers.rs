//! Peers that we did not write: Python's `websockets`, Node's `ws`, websocat, nginx, Chromium,
//! Autobahn|Testsuite.
//!
//! Owns where they are (`cargo xtask peers` puts them into `target/peers`) and how they are started.
//! What is missing skips the test that asks, unless `CI` is set.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Process, Signal};
use crate::workspace::{Folder, root};

/// A language that peers are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Python, with `websockets`.
    Python,
    /// Node, with `ws`.
    Node,
}

/// Skips the calling test because of what is missing: returns `None`, or fails where `CI` is set.
pub fn skip<T>(test: &str, missing: &str) -> Option<T> {
    let line = format!("{test}: {missing}; `cargo xtask peers` gets it");
    let ci = std::env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "false" && ci != "0");
    assert!(!ci, "with CI set nothing may be skipped: {line}");
    eprintln!("SKIPPED {line}");
    if let Some(path) = std::env::var_os("WIREFALL_SKIPPED") {
        let file = std::fs::OpenOptions::new().append(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
    None
}

fn folder() -> PathBuf {
    std::env::var_os("WIREFALL_PEERS").map_or_else(|| root().join("target/peers"), PathBuf::from)
}

/// A program, wherever Debian puts it.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// A language's interpreter, if it and its modules are here.
fn command(language: Language) -> Option<Command> {
    match language {
        Language::Python => {
            let python = folder().join("python/bin/python");
            python.is_file().then(|| Command::new(python))
        }
        Language::Node => {
            let modules = folder().join("node/node_modules");
            if !modules.join("ws").is_dir() || !modules.join("playwright-core").is_dir() {
                return None;
            }
            let mut node = Command::new(program("node")?);
            node.env("NODE_PATH", modules);
            Some(node)
        }
    }
}

/// A command that runs a script of `tests/peers`, if its language and module are here.
fn script(language: Language, name: &str) -> Option<Command> {
    let extension = match language {
        Language::Python => "py",
        Language::Node => "js",
    };
    let mut command = command(language)?;
    let scripts = root().join("tests/peers");
    command.arg(scripts.join(name).with_extension(extension));
    Some(command)
}

/// A WebSocket server of another language that appends every record to a file before it reads on.
pub struct Receiver {
    script: &'static str,
    language: Language,
    out: PathBuf,
    words: Vec<String>,
    /// Where it listens; the same after a restart.
    pub address: SocketAddr,
    process: Option<Process>,
}

impl Receiver {
    /// Starts one. `words` say how it answers, as the scripts explain: with `reply` it answers each
    /// message once it is written. `None`: not here.
    pub fn start(test: &str, language: Language, out: &Path, words: &[&str]) -> Option<Self> {
        Self::start_script("receiver", test, language, out, words)
    }

    /// Starts one that speaks `wirefall.v1` and keeps its place; the words of the one in Python are in its
    /// script.
    pub fn start_v1(test: &str, language: Language, out: &Path, words: &[&str]) -> Option<Self> {
        Self::start_script("receiver_v1", test, language, out, words)
    }

    fn start_script(
        script_name: &'static str,
        test: &str,
        language: Language,
        out: &Path,
        words: &[&str],
    ) -> Option<Self> {
        let mut receiver = Self {
            script: script_name,
            language,
            out: out.to_owned(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            process: None,
        };
        if script(language, script_name).is_none() {
            return skip(test, &format!("{language:?} with its WebSocket library"));
        }
        receiver.restart();
        Some(receiver)
    }

    /// Kills it (SIGKILL) in whatever it does.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Waits until it says a line that contains `part`, and returns the rest of that line.
    pub fn wait_for_line(&mut self, part: &str) -> String {
        let process = self.process.as_mut().expect("it runs");
        process.wait_for_line(part)
    }

    /// Starts it again at the same address.
    pub fn restart(&mut self) {
        self.kill();
        let mut command = script(self.language, self.script).expect("it was here");
        command.arg(self.address.port().to_string()).arg(&self.out);
        command.args(&self.words);
        let mut process = Process::start(&mut command);
        let port = process.wait_for_line("listening ");
        self.address.set_port(port.parse().expect("a port"));
        self.process = Some(process);
    }
}

/// A subscriber of another language: prints each record as a line, then `closed CODE REASON` to
/// standard error. It has subscribed when this returns. `None`: not here.
pub fn subscriber(test: &str, language: Language, url: &str) -> Option<Process> {
    let Some(mut command) = script(language, "subscriber") else {
        return skip(test, &format!("{language:?} with its WebSocket library"));
    };
    let mut process = Process::start(command.arg(url));
    process.wait_for_line("connected");
    Some(process)
}

/// A subscriber of another language that speaks `wirefall.v1` and comes back at its place after a break:
/// prints each record as a line; to standard error `hello RESUMED LOST` at each connection. It has
/// subscribed when this returns. `None`: not here.
pub fn resuming(test: &str, language: Language, url: &str, from: &str) -> Option<Process> {
    let Some(mut command) = script(language, "subscriber_v1") else {
        return skip(test, &format!("{language:?} with its WebSocket library"));
    };
    let mut process = Process::start(command.args([url, from]));
    process.wait_for_line("hello ");
    Some(process)
}

/// A client on Python's `http.client` that posts numbered records, each post until it is answered 200:
/// `tests/peers/poster.py` explains its arguments. `None`: not here.
pub fn poster(test: &str, arguments: &[&str]) -> Option<Process> {
    let Some(mut command) = script(Language::Python, "poster") else {
        return skip(test, "Python");
    };
    Some(Process::start(command.args(arguments)))
}

/// websocat as a subscriber: prints each record as a line. It has subscribed when this returns. `None`:
/// not here.
pub fn websocat(test: &str, url: &str) -> Option<Process> {
    let websocat = folder().join("websocat/bin/websocat");
    if !websocat.is_file() {
        return skip(test, "websocat");
    }
    // The end of its standard input is not to close the stream.
    let mut process = Process::start(Command::new(websocat).args(["-v", "--no-close", url]));
    process.wait_for_line("Connected to ws");
    Some(process)
}

/// Chromium driven by `tests/peers/page.js`, which explains its arguments. `None`: not here.
pub fn browser(test: &str, arguments: &[&str]) -> Option<Process> {
    let Some(chromium) = program("chromium") else {
        return skip(test, "Chromium");
    };
    let Some(mut command) = script(Language::Node, "page") else {
        return skip(test, "Node with playwright-core");
    };
    Some(Process::start(command.arg(chromium).args(arguments)))
}

/// Node, with its modules to be required. `None`: not here.
pub fn node(test: &str) -> Option<Command> {
    command(Language::Node).or_else(|| skip(test, "Node with ws and playwright-core"))
}

/// Autobahn|Testsuite's `wstest` in one of its modes, with a plan in a file. `None`: not here.
pub fn autobahn(test: &str, mode: &str, plan: &Path) -> Option<Process> {
    let wstest = folder().join("autobahn/bin/wstest");
    if !wstest.is_file() {
        return skip(test, "Autobahn|Testsuite");
    }
    let mut command = Command::new(wstest);
    command
        .args(["--mode", mode, "--webport", "0", "--spec"])
        .arg(plan);
    // It tells each case as it begins, not when there is a page of them.
    Some(Process::start(command.env("PYTHONUNBUFFERED", "1")))
}

/// A tunnel into TLS in Python, which trusts [`certificate`]: whoever speaks to its plain port speaks to `to`
/// under TLS. It lives as long as the process. `None`: not here.
pub fn tunnel(test: &str, to: SocketAddr) -> Option<(Process, SocketAddr)> {
    let Some(mut command) = script(Language::Python, "tunnel") else {
        return skip(test, "Python");
    };
    let mut process = Process::start(command.arg(to.to_string()).arg(certificate()));
    let port = process.wait_for_line("listening ");
    let port: u16 = port.parse().expect("a port");
    Some((process, SocketAddr::from(([127, 0, 0, 1], port))))
}

/// An nginx before a WebSocket server.
pub struct Nginx {
    /// Where it listens; the same after a restart.
    pub address: SocketAddr,
    program: PathBuf,
    config: PathBuf,
    process: Option<Process>,
    /// It is a master with workers, and not one process.
    has_workers: bool,
    _folder: Folder,
}

impl Nginx {
    /// Starts one. `None`: not here.
    pub fn start(test: &str, to: SocketAddr) -> Option<Self> {
        Self::start_with(test, to, "", "")
    }

    /// Starts one that speaks TLS; [`certificate`] verifies it. `None`: not here.
    pub fn start_tls(test: &str, to: SocketAddr) -> Option<Self> {
        let (certificate, key) = (certificate(), root().join("tests/peers/localhost.key"));
        let tls = format!(
            "ssl_certificate {}; ssl_certificate_key {};",
            certificate.display(),
            key.display()
        );
        Self::start_with(test, to, " ssl", &tls)
    }

    /// Starts one that cuts a connection on which the server says nothing for a second. `None`: not here.
    pub fn start_impatient(test: &str, to: SocketAddr) -> Option<Self> {
        Self::start_with(test, to, "", "proxy_read_timeout 1s;")
    }

    /// The same with workers, so that it can [`reload`](Self::reload).
    #[must_use]
    pub fn with_workers(mut self) -> Self {
        let config = std::fs::read_to_string(&self.config).expect("it was written");
        let workers = "worker_shutdown_timeout 100ms;";
        let config = config.replace("master_process off;", workers);
        std::fs::write(&self.config, config).expect("a temporary file");
        self.stop();
        self.has_workers = true;
        self.restart();
        self
    }

    /// Makes it read its configuration again: new workers come, and the old ones cut what they still have.
    pub fn reload(&self) {
        let process = self.process.as_ref().expect("it runs");
        process.signal(Signal::HangUp);
    }

    fn start_with(test: &str, to: SocketAddr, flags: &str, more: &str) -> Option<Self> {
        let Some(nginx) = program("nginx") else {
            return skip(test, "nginx");
        };
        let folder = Folder::new();
        let address = free_address();
        let base = folder.path("");
        let base = base.display();
        let config = format!(
            "daemon off; master_process off; pid {base}/nginx.pid; error_log stderr warn;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n\
               access_log off; client_body_temp_path {base}/body; proxy_temp_path {base}/proxy;\n\
               fastcgi_temp_path {base}/fastcgi; uwsgi_temp_path {base}/uwsgi;\n\
               scgi_temp_path {base}/scgi;\n\
               server {{ listen {address}{flags}; {more}\n\
                 location / {{ proxy_pass http://{to}; proxy_http_version 1.1;\n\
                   proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }}\n\
             }}\n"
        );
        let mut nginx = Self {
            address,
            program: nginx,
            config: folder.write("nginx.conf", config),
            process: None,
            has_workers: false,
            _folder: folder,
        };
        nginx.restart();
        Some(nginx)
    }

    /// Ends it at once, and all that it has.
    fn stop(&mut self) {
        match self.process.take() {
            // A master that is killed leaves its workers behind; told to end, it ends them at once.
            Some(process) if self.has_workers => {
                process.signal(Signal::Terminate);
                process.wait();
            }
            Some(process) => process.kill(),
            None => (),
        }
    }

    /// Kills it in whatever it does, and starts it again at the same address.
    pub fn restart(&mut self) {
        self.stop();
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&self.config).arg("-e").arg("stderr");
        self.process = Some(Process::start(&mut command));
        crate::wait_until("nginx listens", || {
            std::net::TcpStream::connect(self.address).is_ok()
        });
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The certificate of peers that speak TLS, its own authority, for `localhost` and `127.0.0.1`.
pub fn certificate() -> PathBuf {
    root().join("tests/peers/localhost.pem")
}

/// The key of a port that shows [`certificate`].
pub fn tls_keys() -> String {
    let certificate = certificate();
    let key = certificate.with_extension("key");
    format!(
        "tls: {{ cert: {}, key: {} }}",
        certificate.display(),
        key.display()
    )
}

/// An address on loopback that nobody listens on now.
pub fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

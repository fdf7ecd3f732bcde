//! Child processes: their words as they come, their memory, signals, and their end.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::workspace::root;
use crate::{BUILD_PATIENCE, PATIENCE, wait_for, wait_within};

/// Signals that tests send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// As a supervisor asks to end.
    Terminate,
    /// As Ctrl-C does.
    Interrupt,
    /// As a terminal that is closed does.
    HangUp,
    /// At once, without a last word.
    Kill,
}

/// A running child; killed by its id when dropped.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// The most resident memory that was seen of it, in KiB.
    pub peak_rss_kib: u64,
}

impl Process {
    /// Starts a command with all three streams piped.
    pub fn start(command: &mut Command) -> Self {
        command.stdout(Stdio::piped());
        Self::start_writing(command)
    }

    /// Starts a command whose standard output goes where the command says.
    pub fn start_writing(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let mut readers = vec![follow(child.stderr.take().expect("piped"), &stderr)];
        readers.extend(child.stdout.take().map(|pipe| follow(pipe, &stdout)));
        Self {
            name,
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
            readers,
            status: None,
        }
    }

    /// What it wrote to standard output until now.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// How many bytes it wrote to standard output until now.
    pub fn stdout_bytes(&self) -> usize {
        self.stdout.lock().expect("no panic while held").len()
    }

    /// What it wrote to standard error until now.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Writes to its standard input; false where it reads no more.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.stdin
            .as_mut()
            .is_some_and(|stdin| stdin.write_all(bytes).is_ok())
    }

    /// Bytes of its standard input that it has not read yet.
    pub fn unread(&self) -> usize {
        let Some(stdin) = &self.stdin else { return 0 };
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open, and the call writes one int.
        let told = unsafe { libc::ioctl(stdin.as_raw_fd(), libc::FIONREAD, &mut bytes) };
        assert_eq!(told, 0, "a pipe tells what is in it");
        usize::try_from(bytes).expect("no less than nothing")
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until standard error or output has a line that contains `part`, and returns the rest of
    /// that line.
    pub fn wait_for_line(&mut self, part: &str) -> String {
        let what = format!("`{part}` from {}", self.name);
        let (out, err) = (Arc::clone(&self.stdout), Arc::clone(&self.stderr));
        let mut gone = false;
        wait_for(&what, || {
            for stream in [&out, &err] {
                let text = text(stream);
                if let Some(line) = complete_lines(&text).find(|line| line.contains(part)) {
                    let rest = line.split_once(part).expect("it contains it").1;
                    return Some(rest.trim().to_owned());
                }
            }
            assert!(
                !gone,
                "{} ended without `{part}`:\n{}{}",
                self.name,
                text(&out),
                text(&err)
            );
            // One more look at what it said last.
            gone = matches!(self.child.try_wait(), Ok(Some(_)));
            if gone {
                self.readers.drain(..).for_each(|reader| {
                    let _ = reader.join();
                });
            }
            None
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let number = match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::Interrupt => libc::SIGINT,
            Signal::HangUp => libc::SIGHUP,
            Signal::Kill => libc::SIGKILL,
        };
        let id = i32::try_from(self.child.id()).expect("an id of a process");
        // SAFETY: no memory is touched; the child was not waited for, so the id is still its own.
        unsafe { libc::kill(id, number) };
    }

    /// Kills it and waits for its end.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.status.is_none() && matches!(self.child.try_wait(), Ok(None))
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        memory_kib(self.child.id(), "VmRSS:")
    }

    /// The most resident memory that it ever had, in KiB.
    pub fn peak_rss_kib(&self) -> u64 {
        memory_kib(self.child.id(), PEAK)
    }

    /// The time that it has computed for, in ticks of a hundredth of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // Behind the name, which may have anything in it, come the state and eleven other numbers.
        let (_, numbers) = stat.rsplit_once(')').unwrap_or_default();
        let times = numbers.split_whitespace().skip(11).take(2);
        times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
    }

    /// How far it has read a file that it holds open, in bytes.
    pub fn position_in(&self, file: &Path) -> Option<u64> {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let open = std::fs::read_dir(proc.join("fd")).ok()?.flatten();
        let names_it = |link: PathBuf| std::fs::read_link(link).is_ok_and(|path| path == file);
        let descriptor = open.into_iter().find(|entry| names_it(entry.path()))?;
        let info = std::fs::read_to_string(proc.join("fdinfo").join(descriptor.file_name()));
        let info = info.ok()?;
        let position = info.lines().find_map(|line| line.strip_prefix("pos:"))?;
        position.trim().parse().ok()
    }

    /// Waits for its end.
    pub fn wait(self) -> Ended {
        self.wait_within(PATIENCE)
    }

    /// Waits for the end of a command that compiles crates.
    pub fn wait_for_build(self) -> Ended {
        self.wait_within(BUILD_PATIENCE)
    }

    fn wait_within(mut self, patience: Duration) -> Ended {
        self.stdin = None;
        let name = self.name.clone();
        let (out, err) = (Arc::clone(&self.stdout), Arc::clone(&self.stderr));
        let child = &mut self.child;
        let (mut status, mut peak) = (None, 0);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_within(patience, &format!("the end of {name}"), || {
                peak = memory_kib(child.id(), PEAK).max(peak);
                status = child.try_wait().expect("a child can be waited for");
                status
            });
        }));
        assert!(
            ended.is_ok(),
            "{name} does not end; it said:\n{}{}",
            text(&out),
            text(&err)
        );
        self.readers
            .drain(..)
            .for_each(|reader| reader.join().expect("a reader does not panic"));
        Ended {
            code: status.and_then(|status| status.code()),
            stdout: self.stdout(),
            stderr: self.stderr(),
            peak_rss_kib: peak,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // What it said is what tells why the test failed.
            eprintln!("--- {} said:\n{}", self.name, self.stderr());
        }
    }
}

impl Ended {
    /// Fails the test with all that was said unless the exit code is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code; it said:\n{}{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// A number of the account that `wirefall run` prints at its end, by its name.
    #[track_caller]
    pub fn account(&self, name: &str) -> u64 {
        self.account_of(name)
            .unwrap_or_else(|| panic!("no `{name}` in the account of:\n{}", self.stderr))
    }

    /// The same, where it is told only if there is something to tell: 0 otherwise.
    #[track_caller]
    pub fn account_or_none(&self, name: &str) -> u64 {
        self.account_of(name).unwrap_or(0)
    }

    #[track_caller]
    fn account_of(&self, name: &str) -> Option<u64> {
        let line = self
            .stderr
            .lines()
            .rev()
            .find(|line| line.starts_with("read "))
            .unwrap_or_else(|| panic!("no account in:\n{}", self.stderr));
        line.split(" · ")
            .find_map(|part| part.strip_prefix(name)?.trim().parse().ok())
    }
}

/// The line of `/proc/ID/status` that tells the most resident memory that there ever was.
const PEAK: &str = "VmHWM:";

/// A line of `/proc/ID/status` in KiB; 0 where the process is no more.
fn memory_kib(id: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let kib = |line: &str| {
        line.strip_prefix(name)?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    };
    status.lines().find_map(kib).unwrap_or(0)
}

fn follow(mut from: impl Read + Send + 'static, to: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let to = Arc::clone(to);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(&mut from);
        while let Ok(read) = reader.fill_buf() {
            let count = read.len();
            if count == 0 {
                break;
            }
            to.lock()
                .expect("no panic while held")
                .extend_from_slice(read);
            reader.consume(count);
        }
    })
}

fn text(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.lock().expect("no panic while held")).into_owned()
}

/// The lines that are written to their end.
fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(str::trim_end)
}

/// The cargo that runs us, or the one on the path. What it says of this package would make build scripts
/// that look at it run again.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let told = name.to_string_lossy();
        if told.starts_with("CARGO_PKG_") || told.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// The binary: `WIREFALL_BIN`, or the release build of this workspace, made once.
pub fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("WIREFALL_BIN") {
            return given.into();
        }
        let mut build = cargo();
        build
            .args(["build", "--quiet", "--release", "--workspace"])
            .current_dir(root());
        let built = build.status().expect("cargo runs");
        assert!(built.success(), "the binary is built");
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), PathBuf::from);
        target.join("release/wirefall")
    })
}

/// A `wirefall` command, without colour and without a proxy of the environment.
pub fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env("WIREFALL_COLOR", "never");
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"] {
        command.env_remove(name);
    }
    command
}

/// Starts `wirefall` with these arguments.
pub fn wirefall<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Process {
    Process::start(&mut command(arguments))
}

//! The receivers that the benchmark sends to: `wirefall receive`, ended with the value.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use anyhow::Context;

/// A receiver, and where it listens.
struct Receiver {
    child: Child,
    url: String,
    /// Kept open: the receiver may have more to say.
    _words: BufReader<ChildStderr>,
}

impl Receiver {
    fn start(receive: &mut Command) -> anyhow::Result<Self> {
        let mut child = receive
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the receiver")?;
        let mut line = String::new();
        let mut words = BufReader::new(child.stderr.take().context("it is piped")?);
        words.read_line(&mut line)?;
        let url = line
            .split_whitespace()
            .find(|word| word.starts_with("ws://"));
        let url = url.with_context(|| format!("the receiver says `{line}`"))?;
        Ok(Self {
            url: url.trim_end_matches(',').to_owned(),
            child,
            _words: words,
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Counts what it gets, and nothing else, so that it is never what is measured.
pub(super) struct Counting(Receiver);

impl Counting {
    pub(super) fn start() -> anyhow::Result<Self> {
        let mut receive = super::wirefall();
        receive.args(["receive", "127.0.0.1:0", "--count"]);
        Receiver::start(receive.stdout(Stdio::null())).map(Self)
    }

    pub(super) fn url(&self) -> &str {
        &self.0.url
    }
}

/// Prints what it gets: tells when the first record is there.
pub(super) struct Printing {
    receiver: Receiver,
    records: BufReader<ChildStdout>,
}

impl Printing {
    pub(super) fn start() -> anyhow::Result<Self> {
        let mut receive = super::wirefall();
        receive.args(["receive", "127.0.0.1:0"]);
        let mut receiver = Receiver::start(receive.stdout(Stdio::piped()))?;
        let records = receiver.child.stdout.take().context("it is piped")?;
        Ok(Self {
            receiver,
            records: BufReader::new(records),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.receiver.url
    }

    /// Waits for the next record.
    pub(super) fn record(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.records.read_line(&mut line)?;
        Ok(line)
    }
}

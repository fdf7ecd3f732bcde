//! The metrics of a run in the text format of Prometheus.
//!
//! Owns the names and what each counts. Reads counters and changes none. Called by the ports that answer
//! `/metrics`, for those who may see it.

use std::fmt::{Display, Write as _};

use super::{Counter, Metrics};

/// The content type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a value is.
#[derive(Clone, Copy)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A page of metrics in the making.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// The account of a run, and how busy it is.
    pub fn of(pipeline: &str, metrics: &Metrics) -> Self {
        let mut page = Self::default();
        let pipeline = Some(("pipeline", pipeline));
        page.family(
            Kind::Gauge,
            "info",
            "The run that this is of.",
            [(pipeline, 1)],
        );
        of_the_account(&mut page, metrics);
        of_the_run(&mut page, metrics);
        of_the_ports(&mut page, metrics);
        if metrics.posts.counts().next().is_some() {
            page.family(
                Kind::Counter,
                "posts_total",
                "Posts that were answered, by status; 200 says that all records are safe.",
                metrics
                    .posts
                    .counts()
                    .map(|(status, count)| (Some(("status", status)), count)),
            );
            page.counter(
                "keys_forgotten_total",
                "Idempotency keys of posts that were forgotten although the journal kept their records.",
                metrics.keys_forgotten.get(),
            );
        }
        page
    }

    /// The page as it is sent.
    pub fn finish(self) -> String {
        self.0
    }

    /// A metric with values by label, in the given order; none without values.
    pub fn family<L: Display, V: Display>(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Option<(&'static str, L)>, V)>,
    ) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let page = &mut self.0;
        write!(
            page,
            "# HELP wirefall_{name} {help}\n# TYPE wirefall_{name} {kind}\n"
        )
        .expect("a string grows");
        for (label, value) in values {
            match label {
                None => writeln!(page, "wirefall_{name} {value}"),
                Some((label, of)) => writeln!(page, "wirefall_{name}{{{label}=\"{of}\"}} {value}"),
            }
            .expect("a string grows");
        }
    }

    /// A metric that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(Kind::Counter, name, help, [(None::<(_, &str)>, value)]);
    }

    /// A metric that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(Kind::Gauge, name, help, [(None::<(_, &str)>, value)]);
    }

    /// What the journal holds: positions of its oldest record and of the next one, and its bytes.
    pub fn journal(&mut self, tail: u64, head: u64, bytes: u64) {
        self.gauge(
            "journal_head_position",
            "Records that were ever appended to the journal.",
            head,
        );
        self.gauge(
            "journal_tail_position",
            "Position of the oldest record that is kept.",
            tail,
        );
        self.gauge("journal_bytes", "Bytes that the journal holds.", bytes);
    }

    /// What went out to the server that a run pushes to.
    pub fn push(&mut self, metrics: &Metrics) {
        let connected = u64::from(metrics.disconnected.get() == 0);
        self.gauge(
            "connected",
            "Whether the server is connected, 0 or 1.",
            connected,
        );
        for (name, help, counter) in [
            (
                "records_sent_total",
                "Records that were handed to the peer, resends included.",
                &metrics.records_sent,
            ),
            (
                "sent_bytes_total",
                "Bytes that were handed to the peer.",
                &metrics.bytes_sent,
            ),
            (
                "records_resent_total",
                "Records that were sent more than once.",
                &metrics.records_resent,
            ),
            (
                "reconnects_total",
                "Connections after the first.",
                &metrics.reconnects,
            ),
        ] {
            self.counter(name, help, counter.get());
        }
    }

    /// Who reads a stream, and what went out to all of them.
    pub fn subscribers(&mut self, metrics: &Metrics) {
        self.gauge(
            "subscribers",
            "Subscribers that are connected.",
            metrics.subscribers.get(),
        );
        for (name, help, counter) in [
            (
                "records_sent_total",
                "Records that were handed to subscribers.",
                &metrics.records_sent,
            ),
            (
                "sent_bytes_total",
                "Bytes that were handed to subscribers.",
                &metrics.bytes_sent,
            ),
            (
                "subscribers_behind_total",
                "Subscribers that were disconnected because the journal went on without them.",
                &metrics.behind_disconnected,
            ),
            (
                "subscribers_skipped_total",
                "Times that a subscriber went on at the oldest record kept.",
                &metrics.behind_skipped,
            ),
            (
                "records_lost_total",
                "Records that subscribers lost in either way, each once for everyone who lost it.",
                &metrics.records_lost,
            ),
            (
                "subscribers_late_total",
                "Times that a subscriber was told at its start that records are missing.",
                &metrics.late,
            ),
            (
                "records_missed_total",
                "The records that were missing then, as far as it is known how many; those of a subscriber that was disconnected for falling behind are among them once it comes back.",
                &metrics.records_missed,
            ),
            (
                "names_expired_total",
                "Times that a name held the journal for longer than `on_lag.deadline`.",
                &metrics.holds_expired,
            ),
            (
                "names_taken_total",
                "Sessions that ended because another took their name.",
                &metrics.names_taken,
            ),
            (
                "protocol_breaches_total",
                "Sessions that ended because the subscriber broke the WebSocket protocol, or a control message was wrong or did not come.",
                &metrics.breaches,
            ),
        ] {
            self.counter(name, help, counter.get());
        }
        let ended = &metrics.sessions_ended;
        let ended = [
            ("expired", &ended.expired),
            ("replaced", &ended.replaced),
            ("revoked", &ended.revoked),
            ("bytes", &ended.bytes),
        ];
        self.family(
            Kind::Counter,
            "sessions_ended_total",
            "Sessions that were ended because of their credential, by what was over.",
            by("reason", ended),
        );
    }
}

/// Counters, each with its value of a label.
fn by<const N: usize>(
    label: &'static str,
    counters: [(&'static str, &Counter); N],
) -> [(Option<(&'static str, &'static str)>, u64); N] {
    counters.map(|(value, count)| (Some((label, value)), count.get()))
}

/// Where every input went (I2). Together they are `records_read_total` and `records_carried_in_total`, but
/// for what is on its way.
fn of_the_account(page: &mut Page, metrics: &Metrics) {
    let flow = &metrics.flow;
    page.counter(
        "records_carried_in_total",
        "Records that an earlier run had read and left unconfirmed in the journal.",
        flow.carried_in.get(),
    );
    page.counter(
        "records_read_total",
        "Records that the source gave.",
        flow.read.get(),
    );
    let outcomes = [
        ("delivered", &flow.delivered),
        ("published", &flow.published),
        ("filtered", &flow.filtered),
        ("failed_over", &flow.failed_over),
        ("dropped", &flow.dropped),
    ];
    page.family(
        Kind::Counter,
        "records_settled_total",
        "Records that were read or carried in, by what became of them.",
        by("outcome", outcomes),
    );
    page.counter(
        "records_passed_total",
        "Of the settled: records that a plugin failed on and `on_error: pass` let go.",
        flow.passed.get(),
    );
    page.counter(
        "source_missed_total",
        "Records that the source's server had no more when they were asked for; they were never read.",
        flow.source_missed.get(),
    );
    page.counter(
        "source_gaps_total",
        "Times that the source's server could not tell whether there were such records.",
        flow.source_gaps.get(),
    );
}

fn of_the_ports(page: &mut Page, metrics: &Metrics) {
    let too_many = &metrics.too_many;
    let too_many = [
        ("failures", &too_many.failures),
        ("sessions", &too_many.sessions),
        ("bytes", &too_many.bytes),
        ("tickets", &too_many.tickets),
        ("subscribers_max", &too_many.subscribers),
        ("requests_max", &too_many.requests),
        ("in_flight", &too_many.in_flight),
    ];
    page.family(
        Kind::Counter,
        "too_many_total",
        "Requests and upgrades that were told to come again later, by what there was too much of.",
        by("reason", too_many),
    );
}

fn of_the_run(page: &mut Page, metrics: &Metrics) {
    let flow = &metrics.flow;
    page.gauge(
        "workers",
        "Workers that run the processors.",
        flow.workers.get(),
    );
    page.gauge(
        "queue_batches",
        "Batches that wait for a worker.",
        flow.queued_batches.get(),
    );
    let full = flow.queued_batches.get() as f64 / flow.queue_batches_max.get().max(1) as f64;
    page.gauge(
        "lag_ratio",
        "How full the queue before the workers is, 0 to 1.",
        full,
    );
}

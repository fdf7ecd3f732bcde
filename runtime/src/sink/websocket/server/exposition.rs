//! `/metrics`: how the run is, in the text format of Prometheus.
//!
//! Owns the names and what each counts. Reads counters and changes none. Called by `http`, for those who
//! may see it.

use std::fmt::{Display, Write as _};

use http::{StatusCode, header};
use http_body_util::Full;

use super::Hub;
use crate::metrics::Metrics;
use crate::port::answer::{Answer, put, text};

/// What a value is.
#[derive(Clone, Copy)]
enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A page of metrics in the making.
#[derive(Default)]
struct Page(String);

impl Page {
    /// A metric with values by label, in the given order; none without values.
    fn family<L: Display, V: Display>(
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

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(Kind::Counter, name, help, [(None::<(_, &str)>, value)]);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(Kind::Gauge, name, help, [(None::<(_, &str)>, value)]);
    }
}

/// The page as an answer.
pub(super) fn answer(hub: &Hub) -> Answer {
    let mut answer = text(StatusCode::OK, "");
    *answer.body_mut() = Full::new(page(hub).into());
    put(
        &mut answer,
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    );
    answer
}

fn page(hub: &Hub) -> String {
    let mut page = Page::default();
    let pipeline = Some(("pipeline", &hub.context.pipeline));
    let about = "The run that this is of.";
    page.family(Kind::Gauge, "info", about, [(pipeline, 1)]);
    of_the_account(&mut page, &hub.context.metrics);
    of_the_run(&mut page, &hub.context.metrics);
    of_the_journal(&mut page, hub);
    of_subscribers(&mut page, hub);
    let help = "Requests that showed no good credential, by reason.";
    let refusals = hub.gate.refusals();
    page.family(
        Kind::Counter,
        "auth_failures_total",
        help,
        refusals.map(|(reason, count)| (Some(("reason", reason)), count)),
    );
    page.0
}

/// Where every input went (I2). Together they are `records_read_total`, but for what is on its way.
fn of_the_account(page: &mut Page, metrics: &Metrics) {
    let flow = &metrics.flow;
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
        "Records that were read, by what became of them.",
        outcomes.map(|(outcome, count)| (Some(("outcome", outcome)), count.get())),
    );
    page.counter(
        "records_passed_total",
        "Of the settled: records that a plugin failed on and `on_error: pass` let go.",
        flow.passed.get(),
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

fn of_the_journal(page: &mut Page, hub: &Hub) {
    let marks = *hub.context.journal.marks().borrow();
    page.gauge(
        "journal_head_position",
        "Records that were ever appended to the journal.",
        marks.head.0,
    );
    page.gauge(
        "journal_tail_position",
        "Position of the oldest record that is kept.",
        marks.tail.0,
    );
    page.gauge(
        "journal_bytes",
        "Bytes that the journal holds.",
        hub.context.journal.bytes(),
    );
}

fn of_subscribers(page: &mut Page, hub: &Hub) {
    let metrics = &hub.context.metrics;
    page.gauge(
        "subscribers",
        "Subscribers that are connected.",
        metrics.subscribers.get(),
    );
    let most = hub.plan.subscribers_max.get();
    page.gauge("subscribers_max", "Most subscribers at a time.", most);
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
        page.counter(name, help, counter.get());
    }
}

//! `/metrics` of a stream: how the run is, and who reads it.
//!
//! Owns what only the port knows. Reads counters and changes none. Called by `http`, for those who may see
//! it.

use super::Hub;
use crate::metrics::exposition::{Kind, Page};
use crate::port::answer::{Answer, metrics};

/// The page as an answer.
pub(super) fn answer(hub: &Hub) -> Answer {
    let context = &hub.context;
    let mut page = Page::of(&context.pipeline, &context.metrics);
    let marks = *context.journal.marks().borrow();
    page.journal(marks.tail.0, marks.head.0, context.journal.bytes());
    page.subscribers(&context.metrics);
    let most = hub.plan.subscribers_max.get();
    page.gauge("subscribers_max", "Most subscribers at a time.", most);
    page.family(
        Kind::Counter,
        "auth_failures_total",
        "Requests that showed no good credential, by reason.",
        hub.gate
            .refusals()
            .map(|(reason, count)| (Some(("reason", reason)), count)),
    );
    metrics(page)
}

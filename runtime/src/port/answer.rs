//! Answers: what a port says in HTTP.
//!
//! Owns their shape: a line of text for people, a status for programs. Never decides. Called by those who
//! answer requests.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::metrics::exposition::{self, Page};

/// What is answered.
pub type Answer = Response<Full<Bytes>>;

/// An answer in words. Its connection is for one request.
pub fn text(status: StatusCode, message: &str) -> Answer {
    let mut answer = Response::new(Full::new(format!("{message}\n").into()));
    *answer.status_mut() = status;
    put(&mut answer, header::CONNECTION, "close");
    put(
        &mut answer,
        header::CONTENT_TYPE,
        "text/plain; charset=utf-8",
    );
    put(&mut answer, header::CACHE_CONTROL, "no-store");
    answer
}

/// A page of metrics.
pub fn metrics(page: Page) -> Answer {
    let mut answer = text(StatusCode::OK, "");
    *answer.body_mut() = Full::new(page.finish().into());
    put(&mut answer, header::CONTENT_TYPE, exposition::CONTENT_TYPE);
    answer
}

/// Sets a header, where the value can be one.
pub fn put(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// Lets the script of an allowed page, which asks from another origin, read the answer, and post with
/// these headers. Only where `hosts::allow` has let the origin pass.
pub fn shared(request: &HeaderMap, mut answer: Answer, headers: &str) -> Answer {
    if let Some(origin) = request.get(header::ORIGIN) {
        let allowed = answer.headers_mut();
        allowed.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        put(&mut answer, header::VARY, "Origin");
        put(&mut answer, header::ACCESS_CONTROL_ALLOW_METHODS, "POST");
        put(&mut answer, header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
        put(
            &mut answer,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "Retry-After",
        );
        put(&mut answer, header::ACCESS_CONTROL_MAX_AGE, "600");
    }
    answer
}

/// An answer to come again later.
pub fn wait(reason: &str, wait: Duration) -> Answer {
    later(StatusCode::TOO_MANY_REQUESTS, reason, wait)
}

/// The same with another status.
pub fn later(status: StatusCode, reason: &str, wait: Duration) -> Answer {
    let mut answer = text(status, reason);
    let seconds = wait.as_secs().max(1).to_string();
    put(&mut answer, header::RETRY_AFTER, &seconds);
    answer
}

//! Requests: a post in, an answer out.
//!
//! Owns the port and its connections, what is answered, and the bounds on what is in flight (I4). Decides
//! nothing about records: `body` finds them and `desk` says what became of them. Called by the source,
//! which opens it and waits for its last answers.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::Plan;
use super::body::{Cut, Kind, Unfit};
use super::desk::{Desk, Post, Untaken};
use super::intent::{KEY_BYTES_MAX, Key};
use super::outcome::Outcome;
use crate::credentials::Scope;
use crate::metrics::{Counter, Metrics};
use crate::port::answer::{Answer, later, put, shared, text, wait};
use crate::port::door::Door;
use crate::port::farewell::farewell;
use crate::port::gate::presented::client;
use crate::port::gate::{Gate, Lease};
use crate::port::hosts::allow;
use crate::port::requests;
use crate::port::tls::Tls;
use crate::port::visitors::{Busy, Visitors};

/// Connections beyond `requests_max`, for those who ask and are refused.
const VISITORS_MAX: usize = 64;
/// Longest wait, while a run ends, for answers to leave.
const ANSWERED_TIMEOUT: Duration = Duration::from_millis(500);
/// When to come again where there is no room.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// The same where the run ends.
const ENDING_WAIT: Duration = Duration::from_secs(5);
/// What a permit for bytes stands for.
const PERMIT_BYTES: u64 = 1024;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What a page of another origin may say beside its body.
const POST_HEADERS: &str = "Authorization, Content-Type, Idempotency-Key";
const GUID_PATH: &str = "/v1/ingest/";

/// What every connection shares.
pub(super) struct Server {
    plan: Plan,
    desk: Desk,
    gate: Gate,
    tls: Option<Tls>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Posts that are not answered yet.
    posts: AtomicUsize,
    metrics: Arc<Metrics>,
    answered: Notify,
}

/// A post from its head to its answer, which it is told when it is dropped.
struct Counted<'a>(&'a Server);

impl<'a> Counted<'a> {
    fn new(server: &'a Server) -> Self {
        server.posts.fetch_add(1, Ordering::AcqRel);
        Self(server)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.posts.fetch_sub(1, Ordering::AcqRel);
        self.0.answered.notify_waiters();
    }
}

impl Server {
    pub(super) fn new(
        plan: Plan,
        desk: Desk,
        gate: Gate,
        tls: Option<Tls>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let permits = plan.in_flight.div_ceil(PERMIT_BYTES) as usize;
        Self {
            requests: Arc::new(Semaphore::new(plan.requests_max as usize)),
            bytes: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            posts: AtomicUsize::new(0),
            metrics,
            answered: Notify::new(),
            plan,
            desk,
            gate,
            tls,
        }
    }

    /// The path by the stream's GUID, where it has one.
    pub(super) fn guid_path(&self) -> Option<String> {
        self.gate.stream().map(|guid| format!("{GUID_PATH}{guid}"))
    }

    /// Waits until those who were told what became of their posts have been answered.
    pub(super) async fn answered(&self) {
        let answered = async {
            loop {
                let told = self.answered.notified();
                if self.posts.load(Ordering::Acquire) <= self.desk.waiting() {
                    return;
                }
                told.await;
            }
        };
        let _ = timeout(ANSWERED_TIMEOUT, answered).await;
        // hyper writes an answer in the poll in which it gets it.
        tokio::task::yield_now().await;
    }

    fn is_here(&self, path: &str) -> bool {
        path == self.plan.path || self.guid_path().is_some_and(|guid_path| guid_path == path)
    }
}

/// Serves until `over`.
pub(super) async fn run(server: Arc<Server>, mut door: Door, over: CancellationToken) {
    let tls = async {
        match &server.tls {
            Some(tls) => tls.follow().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = over.cancelled() => (),
        () = server.gate.follow() => (),
        () = tls => (),
        () = accept(&server, &mut door) => (),
    }
}

async fn accept(server: &Arc<Server>, door: &mut Door) {
    let mut visitors = Visitors::new(server.plan.requests_max as usize + VISITORS_MAX);
    loop {
        let (stream, peer) = door.next().await;
        let busy = Busy::default();
        let serve = serve(stream, peer, Arc::clone(server), Arc::clone(&busy));
        visitors.admit_busy(busy, serve).await;
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, server: Arc<Server>, busy: Busy) {
    let patience = server.plan.read_timeout;
    let _ = stream.set_nodelay(true);
    let stream = match &server.tls {
        None => Either::Left(stream),
        Some(tls) => match timeout(patience, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => Either::Right(stream),
            Ok(Err(error)) => return tracing::debug!(%peer, "no TLS: {error}"),
            Err(_) => return tracing::debug!(%peer, "dropped: no TLS in time"),
        },
    };
    let service = hyper::service::service_fn(|request| {
        let answer = answer(&server, peer, request, &busy);
        Box::pin(async { Ok::<_, Infallible>(answer.await) })
    });
    let mut connection = requests(patience).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = poll_fn(|cx| connection.poll_without_shutdown(cx)).await {
        tracing::debug!(%peer, "request failed: {error}");
    }
    // Who is refused may be still sending, and many send all before they read an answer.
    let mut stream = connection.into_parts().io.into_inner();
    let _ = farewell(&mut stream).await;
}

/// Answers a request.
async fn answer(
    server: &Server,
    peer: SocketAddr,
    request: Request<Incoming>,
    busy: &Busy,
) -> Answer {
    let (request, body) = request.into_parts();
    let answer = match admit(server, peer, &request) {
        Ok(lease) => post(server, &lease, &request.headers, body, busy).await,
        Err(refusal) => Err(refusal),
    };
    busy.store(false, Ordering::Release);
    let answer = answer.unwrap_or_else(|refusal| *refusal);
    if request.method == Method::POST {
        server.metrics.posts.answered(answer.status().as_u16());
    }
    let port = &server.plan.port;
    match allow(&request.headers, &port.hosts, &port.origins) {
        Ok(()) => shared(&request.headers, answer, POST_HEADERS),
        Err(_) => answer,
    }
}

/// What a request that may post holds of its credential, or what it is answered instead.
fn admit(server: &Server, peer: SocketAddr, request: &Parts) -> Result<Lease, Box<Answer>> {
    let path = request.uri.path();
    let asks = matches!(request.method, Method::GET | Method::HEAD);
    let ready = !server.desk.is_closed();
    let is_stuck = server.metrics.flow.journal_waits.get() > 0;
    match path {
        "/healthz" if asks => return Err(Box::new(text(StatusCode::OK, "alive"))),
        "/readyz" if asks && ready && is_stuck => {
            let why = "the journal cannot be written";
            return Err(Box::new(text(StatusCode::SERVICE_UNAVAILABLE, why)));
        }
        "/readyz" if asks && ready => return Err(Box::new(text(StatusCode::OK, "ready"))),
        "/readyz" if asks => return Err(Box::new(ending())),
        _ => {}
    }
    let port = &server.plan.port;
    if let Err(reason) = allow(&request.headers, &port.hosts, &port.origins) {
        if server.gate.is_news(peer.ip()) {
            tracing::warn!(%peer, "refused: {reason} (further ones of this address are not told for a minute)");
        }
        return Err(Box::new(text(StatusCode::FORBIDDEN, &reason)));
    }
    // What a browser asks first for a page of another origin: it shows no credential yet.
    if request.method == Method::OPTIONS && request.headers.contains_key(header::ORIGIN) {
        return Err(Box::new(text(StatusCode::NO_CONTENT, "")));
    }
    let grant = server.gate.admit(Scope::Ingest, request);
    let grant = grant.map_err(|refused| {
        let client = client(peer.ip(), &request.headers, &port.trusted_proxies);
        Box::new(server.gate.refuse(refused, client).0)
    })?;
    // Behind the gate: who may not post learns nothing of what is here.
    if !server.is_here(path) {
        let hint = format!("nothing here; post to {}", server.plan.path);
        return Err(Box::new(text(StatusCode::NOT_FOUND, &hint)));
    }
    if request.method != Method::POST {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "this is for POST");
        put(&mut answer, header::ALLOW, "POST");
        return Err(Box::new(answer));
    }
    if !ready {
        return Err(Box::new(ending()));
    }
    let lease = server.gate.lease(grant);
    lease.map_err(|spent| Box::new(wait(&spent.reason, spent.wait)))
}

fn ending() -> Answer {
    let reason = "the run is ending; post it again later";
    later(StatusCode::SERVICE_UNAVAILABLE, reason, ENDING_WAIT)
}

/// Takes a post and waits for what becomes of it.
async fn post(
    server: &Server,
    lease: &Lease,
    headers: &HeaderMap,
    body: Incoming,
    busy: &Busy,
) -> Result<Answer, Box<Answer>> {
    if is_ambiguous(headers) {
        let reason = "one Content-Type, one Idempotency-Key, and no Transfer-Encoding but chunked";
        return Err(Box::new(text(StatusCode::BAD_REQUEST, reason)));
    }
    let named = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let content_type = named(header::CONTENT_TYPE);
    let kind = Kind::of(content_type).map_err(unfit)?;
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).into_iter();
    if encodings.any(|encoding| encoding != "identity") {
        let reason = "a body with a Content-Encoding is not taken";
        return Err(Box::new(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason)));
    }
    let key = headers.get(IDEMPOTENCY_KEY).map(|key| key.to_str().ok());
    if key.is_some_and(|key| !key.is_some_and(Key::is_one)) {
        let reason =
            format!("an Idempotency-Key has 1 to {KEY_BYTES_MAX} printable characters of ASCII");
        return Err(Box::new(text(StatusCode::BAD_REQUEST, &reason)));
    }
    check_room(server, named(header::CONTENT_LENGTH))?;
    let (body, bytes) = read(server, lease, body).await?;
    // Not before: who sends slowly keeps nobody out, and gives way to those who come.
    busy.store(true, Ordering::Release);
    let _counted = Counted::new(server);
    let request = Arc::clone(&server.requests).try_acquire_owned();
    let request = request.map_err(|_| full("requests_max", &server.metrics.too_many.requests))?;
    let key = key.flatten();
    let key = key.map(|key| Key::new(key, content_type.unwrap_or_default(), &body));
    let records = kind.cut(body, server.plan.bounds).map_err(unfit)?;
    let held = vec![request, bytes, beside(server, &records)?];
    let outcome = match server.desk.post(records, key, held) {
        Ok(Post::Taken(outcome)) => outcome,
        Ok(Post::Waits(outcome)) => {
            let outcome = outcome.await.map_err(|_| {
                let reason = "the run ended before the records were safe; post them again";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Box::new(later(status, reason, ENDING_WAIT))
            })?;
            outcome.map_err(|untaken| Box::new(told(untaken)))?
        }
        Err(untaken) => return Err(Box::new(told(untaken))),
    };
    Ok(safe(&outcome))
}

/// Whether somebody on the way may have understood the head differently. (Where it has a Content-Length
/// beside chunks, hyper goes by the chunks and closes: RFC 9112, section 6.3.)
fn is_ambiguous(headers: &HeaderMap) -> bool {
    let several = |name| headers.get_all(name).iter().nth(1).is_some();
    let coding = headers.get(header::TRANSFER_ENCODING);
    coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || several(&header::TRANSFER_ENCODING)
        || several(&header::CONTENT_TYPE)
        || several(&IDEMPOTENCY_KEY)
}

fn unfit(unfit: Unfit) -> Box<Answer> {
    Box::new(text(unfit.status, &unfit.words))
}

fn told(untaken: Untaken) -> Answer {
    match untaken {
        Untaken::Closed => ending(),
        Untaken::Busy => {
            let reason = "the same Idempotency-Key waits for its answer";
            later(StatusCode::CONFLICT, reason, BUSY_WAIT)
        }
        Untaken::Differs => text(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the Idempotency-Key was given to another body",
        ),
        Untaken::Unkept => {
            let reason = "Idempotency-Keys cannot be written down now; post it again later";
            later(StatusCode::SERVICE_UNAVAILABLE, reason, BUSY_WAIT)
        }
    }
}

fn full(key: &str, count: &Counter) -> Box<Answer> {
    count.add(1);
    let reason = format!("too much waits for its answer (`{key}`)");
    Box::new(wait(&reason, BUSY_WAIT))
}

/// Refuses a body that says of itself that there is no room for it. What is only announced holds nothing:
/// whoever sends slowly keeps nobody out.
fn check_room(server: &Server, content_length: Option<&str>) -> Result<(), Box<Answer>> {
    let length: Option<u64> = content_length.and_then(|length| length.parse().ok());
    let length = length.unwrap_or(0);
    if length > server.plan.bounds.body_bytes_max as u64 {
        return Err(too_large(server));
    }
    match length.div_ceil(PERMIT_BYTES) <= server.bytes.available_permits() as u64 {
        true => Ok(()),
        false => Err(full("in_flight", &server.metrics.too_many.in_flight)),
    }
}

/// What tiny records take of what may be in flight beyond their body's share: then it is what is remembered
/// of them that counts, and not they.
fn beside(server: &Server, records: &Cut) -> Result<OwnedSemaphorePermit, Box<Answer>> {
    let bytes = records.bytes_beside();
    if bytes > server.plan.in_flight {
        let reason = format!(
            "{} records in one post are too many for `in_flight`; none was taken",
            records.len()
        );
        return Err(Box::new(text(StatusCode::PAYLOAD_TOO_LARGE, &reason)));
    }
    hold(server, bytes.saturating_sub(records.bytes()))
}

/// So many bytes of what may be in flight.
fn hold(server: &Server, bytes: u64) -> Result<OwnedSemaphorePermit, Box<Answer>> {
    let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).expect("a body has a GiB at most");
    let bytes = Arc::clone(&server.bytes).try_acquire_many_owned(permits);
    bytes.map_err(|_| full("in_flight", &server.metrics.too_many.in_flight))
}

fn too_large(server: &Server) -> Box<Answer> {
    let most = server.plan.bounds.body_bytes_max;
    let reason = format!("a body may have {most} bytes (`body_max`)");
    Box::new(text(StatusCode::PAYLOAD_TOO_LARGE, &reason))
}

/// Reads a body within its bounds and its time, and takes its share of what may be in flight as it comes.
async fn read(
    server: &Server,
    lease: &Lease,
    body: Incoming,
) -> Result<(Bytes, OwnedSemaphorePermit), Box<Answer>> {
    let whole = timeout(server.plan.read_timeout, collect(server, lease, body)).await;
    whole.unwrap_or_else(|_| {
        let reason = "the body did not come in time (`read_timeout`)";
        Err(Box::new(text(StatusCode::REQUEST_TIMEOUT, reason)))
    })
}

async fn collect(
    server: &Server,
    lease: &Lease,
    mut body: Incoming,
) -> Result<(Bytes, OwnedSemaphorePermit), Box<Answer>> {
    let mut held = hold(server, 0)?;
    // Copied, and not kept as it came: a chunk of one byte would cost dozens.
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let reason = format!("the body does not come to its end: {error}");
            Box::new(text(StatusCode::BAD_REQUEST, &reason))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        lease.sent(data.len());
        if whole.len() + data.len() > server.plan.bounds.body_bytes_max {
            return Err(too_large(server));
        }
        whole.extend_from_slice(&data);
        let bytes_held = held.num_permits() as u64 * PERMIT_BYTES;
        held.merge(hold(
            server,
            (whole.len() as u64).saturating_sub(bytes_held),
        )?);
    }
    Ok((whole.into(), held))
}

/// The answer to a post whose records are safe.
fn safe(outcome: &Outcome) -> Answer {
    let body = serde_json::to_string(outcome).expect("numbers and texts are JSON");
    let mut answer = Response::new(Full::new(format!("{body}\n").into()));
    put(&mut answer, header::CONTENT_TYPE, "application/json");
    put(&mut answer, header::CACHE_CONTROL, "no-store");
    answer
}

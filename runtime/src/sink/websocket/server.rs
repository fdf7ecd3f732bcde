//! The server side: `listen:` publishes the journal to whoever subscribes.
//!
//! Owns the port: config, bind, the accept loop, the bound on subscribers, the end. Never confirms:
//! appended is published (I1), and a subscriber holds nothing back. `http` answers requests,
//! `entry` lets subscribers in, `subscriber` is one connection's loop, `release` decides when new frames go out, `names` who holds
//! the journal.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::either::Either;
use tokio_util::task::TaskTracker;

use crate::driver::{BoxFuture, ProbeStep};
use crate::port::door::Door;
use crate::port::gate::Gate;
use crate::port::keys::PortPlan;
use crate::port::probe::probe;
use crate::port::requests;
use crate::port::tls::Tls;
use crate::port::visitors::Visitors;
use crate::sink::framing::Framing;
use crate::sink::{Delivered, Delivery, Sink, SinkContext, SinkError, SinkPlan};

mod alone;
mod config;
#[cfg(test)]
pub(super) mod echo;
mod entry;
mod exposition;
mod gathered;
mod http;
mod lag;
mod names;
mod opening;
mod page;
mod release;
mod socket;
mod subscriber;
#[cfg(test)]
mod tests;
mod v1;
mod wire;

pub use config::{check, schema};

/// Connections beyond `subscribers_max`, for the page, for health checks and for being refused.
const VISITORS_MAX: usize = 64;
/// Most bytes of a subscriber that the kernel holds without sending them: two pieces of what is written
/// together, so that a line never runs dry.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// What happens once the source is at its end and the journal is closed.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Deserialize,
    serde::Serialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AtEnd {
    /// Keep the port and the subscribers until the run is stopped.
    #[default]
    Serve,
    /// Once the connected have everything: close them and end the run.
    Exit,
}

/// Who may see how the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Operate {
    /// Requests of this machine itself, and who shows a credential that allows it.
    Loopback,
    /// Only who shows such a credential.
    Credential,
}

/// A checked server.
#[derive(Clone, Debug)]
pub struct Plan {
    port: PortPlan,
    /// Path of the stream.
    path: String,
    operate: Operate,
    at_end: AtEnd,
    subscribers_max: NonZeroU32,
    framing: Framing,
    lag: lag::LagPlan,
    timing: Timing,
}

/// Bounds in time (I4).
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// Longest hold-back of small frames.
    flush: Duration,
    /// How long a connection may be silent before it is asked, and then before it counts as dead.
    ping_interval: Duration,
    /// Longest silence towards a subscriber of `wirefall.v1`.
    heartbeat: Duration,
    /// Longest wait for a request, and then for `subscribe`.
    handshake_timeout: Duration,
    /// Longest wait for a subscriber that takes nothing.
    write_timeout: Duration,
}

impl Plan {
    /// Reads the certificate, where there is to be TLS.
    fn open_tls(&self) -> Result<Option<Tls>, SinkError> {
        let opened = self.port.tls.clone().map(Tls::open).transpose();
        opened.map_err(|message| SinkError::Environment { message })
    }
}

impl SinkPlan for Plan {
    fn describe(&self) -> String {
        format!(
            "publish on {}://{}{}",
            self.port.scheme("ws"),
            self.port.listen,
            self.path
        )
    }

    fn asks_for_credentials(&self) -> bool {
        self.port.asks
    }

    fn listens(&self) -> Option<SocketAddr> {
        Some(self.port.listen)
    }

    fn delivery(&self) -> Delivery {
        Delivery::Published
    }

    fn guarantee(&self) -> String {
        "published at least once: a record is settled when the journal has it; each subscriber \
         sees what comes while it is connected; with wirefall.v1 it goes on where it was, as far as \
         the journal reaches, and is told what it missed"
            .to_owned()
    }

    fn framing(&self) -> Framing {
        self.framing.clone()
    }

    fn open(&self, context: SinkContext) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>> {
        Box::pin(async move {
            let tls = self.open_tls()?;
            let metrics = Arc::clone(&context.metrics);
            let gate = Gate::open(&context.credentials, self.port.asks, metrics)
                .map_err(|message| SinkError::Environment { message })?;
            let door = open_door(self.port.listen)?;
            let address = door.address();
            raise_open_files(self.subscribers_max.get() as u64);
            let sink: Box<dyn Sink> = Box::new(Server {
                door,
                hub: Arc::new(Hub::new(self.clone(), address, context, gate, tls)),
            });
            Ok(sink)
        })
    }

    fn probe(&self) -> BoxFuture<'_, Vec<ProbeStep>> {
        Box::pin(async { probe(&self.port) })
    }
}

fn open_door(listen: SocketAddr) -> Result<Door, SinkError> {
    Door::open(listen).map_err(|message| SinkError::Environment { message })
}

/// Raises the soft limit of open files to the hard one: each subscriber takes a descriptor, and the
/// usual soft limit is 1,024.
fn raise_open_files(subscribers_max: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls are given a valid pointer to a limit that outlives them.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
        }
    };
    let needed = subscribers_max + 2 * VISITORS_MAX as u64;
    if !raised || limit.rlim_cur < needed {
        tracing::warn!(
            "subscribers_max: {subscribers_max} needs {needed} open files and the system allows \
             {}; raise `ulimit -n` or lower it",
            limit.rlim_cur
        );
    }
}

/// An open server: the port is bound, nobody is let in before `run`.
struct Server {
    door: Door,
    hub: Arc<Hub>,
}

/// What every connection of a server shares.
struct Hub {
    plan: Plan,
    /// Where it really listens: the port may have been 0.
    address: SocketAddr,
    context: SinkContext,
    /// One permit a subscriber (I4).
    seats: Arc<Semaphore>,
    released: release::Released,
    names: names::Names,
    subscribers: TaskTracker,
    draining: AtomicBool,
    page: page::Page,
    gate: Gate,
    closes: entry::Closes,
    tls: Option<Tls>,
}

impl Hub {
    fn new(
        plan: Plan,
        address: SocketAddr,
        context: SinkContext,
        gate: Gate,
        tls: Option<Tls>,
    ) -> Self {
        let marks = *context.journal.marks().borrow();
        Self {
            seats: Arc::new(Semaphore::new(plan.subscribers_max.get() as usize)),
            released: release::Released::new(marks),
            names: names::Names::new(
                &plan.lag,
                Arc::clone(&context.journal),
                Arc::clone(&context.metrics),
            ),
            subscribers: TaskTracker::new(),
            draining: AtomicBool::new(false),
            page: page::Page::new(&context.pipeline, &plan.path, &plan.framing, plan.port.asks),
            gate,
            closes: entry::Closes::default(),
            tls,
            plan,
            address,
            context,
        }
    }

    /// Whether it still takes subscribers.
    fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed)
    }

    /// Why no new work should be sent here, if so; for whoever routes it.
    fn unready(&self) -> Option<&'static str> {
        let journal_waits = || self.context.journal.trouble().is_some();
        match self.is_ready() {
            false => Some("ending"),
            true => journal_waits().then_some("the journal cannot be written"),
        }
    }

    fn stop_taking_subscribers(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.subscribers.close();
    }
}

impl Sink for Server {
    fn greeting(&self) -> Vec<String> {
        let Hub { address, plan, .. } = &*self.hub;
        let (page, stream) = (plan.port.scheme("http"), plan.port.scheme("ws"));
        let mut lines = vec![format!("page    {page}://{address}/")];
        lines.extend(
            self.hub
                .gate
                .stream()
                .map(|guid| format!("stream  {stream}://{address}/v1/streams/{guid}")),
        );
        lines.push(format!("stream  {stream}://{address}{}", plan.path));
        lines
    }

    fn run(self: Box<Self>) -> BoxFuture<'static, Result<Delivered, SinkError>> {
        Box::pin(async move {
            let Self { mut door, hub } = *self;
            let stop = hub.context.stop.clone();
            let flush = hub.plan.timing.flush;
            let serving = async {
                ended(&hub).await;
                hub.stop_taking_subscribers();
                hub.subscribers.wait().await;
                // What was read is published before the run ends (I1), be there subscribers or not.
                closed(&hub).await;
            };
            tokio::select! {
                () = hub.released.follow(hub.context.journal.marks(), &stop, flush) => {
                    hub.stop_taking_subscribers();
                }
                () = hub.names.watch() => (),
                () = hub.gate.follow() => (),
                () = follow_tls(&hub) => (),
                // To the end: who comes meanwhile is told that it is ending.
                () = accept(&mut door, &hub) => (),
                () = serving => (),
            }
            hub.names.end();
            Ok(Delivered {
                confirmed: hub.context.journal.marks().borrow().durable,
                ..Delivered::default()
            })
        })
    }
}

/// Follows the certificate, where there is one. Never returns.
async fn follow_tls(hub: &Hub) {
    match &hub.tls {
        Some(tls) => tls.follow().await,
        None => std::future::pending().await,
    }
}

/// Returns when the server is to take no more subscribers: asked to drain, or at the end of the
/// source where `at_end: exit` says so.
async fn ended(hub: &Hub) {
    match hub.plan.at_end {
        AtEnd::Serve => hub.context.stop.drain.cancelled().await,
        AtEnd::Exit => tokio::select! {
            () = hub.context.stop.drain.cancelled() => (),
            () = closed(hub) => (),
        },
    }
}

/// Returns when the journal is closed.
async fn closed(hub: &Hub) {
    let mut marks = hub.context.journal.marks();
    // A journal that is gone is closed.
    let _ = marks.wait_for(|marks| marks.closed).await;
}

async fn accept(door: &mut Door, hub: &Arc<Hub>) {
    let places = hub.plan.subscribers_max.get() as usize + VISITORS_MAX;
    let mut visitors = Visitors::new(places);
    loop {
        let (stream, peer) = door.next().await;
        let hub = Arc::clone(hub);
        visitors
            .admit(async move { serve(stream, peer, &hub).await })
            .await;
    }
}

/// What is not on its way yet waits in the journal, which everybody shares, and not in the kernel, which
/// would keep 4 MiB of it for each subscriber that reads nothing (I4).
fn hold_little(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// Answers the one request of a connection; an upgraded one goes on in a task of its own.
async fn serve(stream: TcpStream, peer: SocketAddr, hub: &Arc<Hub>) {
    let patience = hub.plan.timing.handshake_timeout;
    // Frames are coalesced by `release`; the kernel is not to wait once more.
    let _ = stream.set_nodelay(true);
    hold_little(&stream);
    let stream = match &hub.tls {
        None => Either::Left(stream),
        Some(tls) => match timeout(patience, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => Either::Right(stream),
            Ok(Err(error)) => return tracing::debug!(%peer, "no TLS: {error}"),
            Err(_) => return tracing::debug!(%peer, "dropped: no TLS in time"),
        },
    };
    let service = hyper::service::service_fn(|request| {
        let answer = http::answer(hub, peer, request);
        async { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let connection = requests(patience)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // Twice: for the request, and for the peer to take the answer.
    match timeout(patience * 2, connection).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) => tracing::debug!(%peer, "request failed: {error}"),
        Err(_) => tracing::debug!(%peer, "dropped: took no answer in time"),
    }
}

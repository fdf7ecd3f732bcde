//! The port of operators: how a run is, for programs that watch it (`service.metrics`).
//!
//! Owns what is answered there, and readiness. Reads counters and changes none. Only this machine reaches
//! it. Opened with the pipeline, and gone with it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::metrics::exposition::Page;
use crate::port::answer::{Answer, metrics, put, text};
use crate::port::door::Door;
use crate::port::hosts::{Hosts, allow};
use crate::port::requests;
use crate::port::visitors::Visitors;
use crate::sink::{Delivery, Stop};

/// Most connections at a time (I4); then the one that was silent for longest gives way.
const VISITORS_MAX: usize = 32;
/// Longest wait for a request.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What is watched.
pub(super) struct Watched {
    pub(super) pipeline: String,
    pub(super) delivery: Delivery,
    pub(super) metrics: Arc<Metrics>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) stop: Stop,
}

/// See the module.
pub(super) struct Operations {
    door: Door,
    watched: Arc<Watched>,
}

impl Operations {
    /// Listens.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn open(listen: SocketAddr, watched: Watched) -> Result<Self, String> {
        Ok(Self {
            door: Door::open(listen)?,
            watched: Arc::new(watched),
        })
    }

    /// Where to look.
    pub(super) fn greeting(&self) -> String {
        format!("metrics http://{}/metrics", self.door.address())
    }

    /// Answers, for as long as it is polled.
    pub(super) async fn serve(mut self) {
        let mut visitors = Visitors::new(VISITORS_MAX);
        loop {
            let (stream, _) = self.door.next().await;
            visitors
                .admit(visit(stream, Arc::clone(&self.watched)))
                .await;
        }
    }
}

async fn visit(stream: TcpStream, watched: Arc<Watched>) {
    let service = hyper::service::service_fn(|request| {
        let answer = watched.answer(&request);
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = requests(READ_TIMEOUT).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("request failed: {error}");
    }
}

impl Watched {
    fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "this is for GET, HEAD");
            put(&mut answer, header::ALLOW, "GET, HEAD");
            return answer;
        }
        let hosts = Hosts {
            is_loopback: true,
            listed: Vec::new(),
        };
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "alive"),
            "/readyz" => match self.unready() {
                None => text(StatusCode::OK, "ready"),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            },
            "/metrics" => match allow(request.headers(), &hosts, &[]) {
                Ok(()) => metrics(self.page()),
                Err(reason) => text(StatusCode::FORBIDDEN, &reason),
            },
            _ => text(StatusCode::NOT_FOUND, "nothing here; there is /metrics"),
        }
    }

    /// Why records do not go on now, if they do not.
    fn unready(&self) -> Option<&'static str> {
        if self.stop.drain.is_cancelled() {
            Some("ending")
        } else if self.journal.trouble().is_some() {
            Some("the journal cannot be written")
        } else if self.metrics.disconnected.get() > 0 {
            Some("not connected")
        } else {
            None
        }
    }

    fn page(&self) -> Page {
        let mut page = Page::of(&self.pipeline, &self.metrics);
        let marks = *self.journal.marks().borrow();
        page.journal(marks.tail.0, marks.head.0, self.journal.bytes());
        match self.delivery {
            Delivery::Confirmed => page.push(&self.metrics),
            Delivery::Published => page.subscribers(&self.metrics),
        }
        page
    }
}

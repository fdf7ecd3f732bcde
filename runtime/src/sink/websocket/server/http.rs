//! Requests: health, what browsers are served, and subscribers.
//!
//! Owns what is answered, and who may ask at all (Host, Origin, seats); `auth` decides who is let in.
//! Never writes to a stream: an upgraded connection goes to `subscriber`. Called for each request of
//! the port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::subscriber::{self, Spoken};
use super::{Hub, entry, exposition, opening, page};
use crate::port::answer::{Answer, later, put, shared, text};
use crate::port::gate::presented::client;
use crate::port::hosts::allow;
use crate::sink::websocket::protocol::V1;

/// When to come again where a name cannot be forgotten.
const NOTE_WAIT: Duration = Duration::from_secs(5);

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Alive,
    Ready,
    Page,
    Script,
    Stream,
    Status,
    Names,
    Name,
    Tickets,
    Metrics,
    Nothing,
}

impl Place {
    fn of(hub: &Hub, path: &str) -> Self {
        match path {
            "/healthz" => return Self::Alive,
            "/readyz" => return Self::Ready,
            "/metrics" => return Self::Metrics,
            page::SCRIPT_PATH => return Self::Script,
            _ => (),
        }
        if path == hub.plan.path {
            return Self::Stream;
        }
        let (stream, rest) = if let Some(stream) = path.strip_suffix("/tickets") {
            (stream, Self::Tickets)
        } else if let Some(stream) = path.strip_suffix("/status") {
            (stream, Self::Status)
        } else if let Some(stream) = path.strip_suffix("/names") {
            (stream, Self::Names)
        } else if let Some((stream, _)) = path.rsplit_once("/names/") {
            (stream, Self::Name)
        } else {
            (path, Self::Stream)
        };
        let is_guid = || {
            let named = stream.strip_prefix("/v1/streams/");
            named.is_some_and(|named| hub.gate.stream().is_some_and(|guid| guid == named))
        };
        if stream == hub.plan.path || is_guid() {
            rest
        } else if path == "/" {
            Self::Page
        } else {
            Self::Nothing
        }
    }

    fn methods(self) -> (&'static [Method], &'static str) {
        match self {
            Self::Tickets => (&[Method::POST, Method::OPTIONS], "POST, OPTIONS"),
            Self::Name => (&[Method::DELETE], "DELETE"),
            _ => (&[Method::GET, Method::HEAD], "GET, HEAD"),
        }
    }
}

/// Answers a request. Bodies are not read: none of them says anything.
pub(super) async fn answer(hub: &Arc<Hub>, peer: SocketAddr, request: Request<Incoming>) -> Answer {
    let (mut request, _body) = request.into_parts();
    let place = Place::of(hub, request.uri.path());
    let (methods, named) = place.methods();
    if !methods.contains(&request.method) {
        let hint = format!("this is for {named}");
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, &hint);
        put(&mut answer, header::ALLOW, named);
        return answer;
    }
    match place {
        Place::Alive => return text(StatusCode::OK, "alive"),
        Place::Ready => {
            return match hub.unready() {
                None => text(StatusCode::OK, "ready"),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            };
        }
        _ => (),
    }
    let port = &hub.plan.port;
    let client = client(peer.ip(), &request.headers, &port.trusted_proxies);
    // The port stays that of the connection, which is how its proxy knows it.
    let peer = SocketAddr::new(client, peer.port());
    if let Err(reason) = allow(&request.headers, &port.hosts, &port.origins) {
        // Not the path, which may be anything that somebody took for an address.
        if hub.gate.is_news(client) {
            tracing::warn!(%peer, "refused: {reason} (further ones of this address are not told for a minute)");
        }
        return text(StatusCode::FORBIDDEN, &reason);
    }
    match place {
        Place::Stream => subscribe(hub, peer, &mut request).unwrap_or_else(|refusal| *refusal),
        Place::Tickets => {
            let answer = match request.method == Method::OPTIONS {
                true => text(StatusCode::NO_CONTENT, ""),
                false => entry::ticket(hub, client, &request),
            };
            shared(&request.headers, answer, "Authorization")
        }
        Place::Metrics => match entry::operator(hub, client, &request) {
            Ok(()) => exposition::answer(hub),
            Err(refusal) => *refusal,
        },
        Place::Status => match entry::operator(hub, client, &request) {
            Ok(()) => page::status(hub, request.uri.query()),
            Err(refusal) => *refusal,
        },
        Place::Names => match entry::operator(hub, client, &request) {
            Ok(()) => page::names(hub),
            Err(refusal) => *refusal,
        },
        Place::Name => match entry::operator(hub, client, &request) {
            Ok(()) => forget(hub, request.uri.path()).await,
            Err(refusal) => *refusal,
        },
        Place::Page => hub.page.answer(),
        Place::Script => shared(&request.headers, page::script(), "Authorization"),
        Place::Alive | Place::Ready | Place::Nothing => {
            let hint = format!("nothing here; the stream is at {}", hub.plan.path);
            text(StatusCode::NOT_FOUND, &hint)
        }
    }
}

/// Forgets the name at the end of the path.
async fn forget(hub: &Hub, path: &str) -> Answer {
    let name = path.rsplit('/').next().unwrap_or_default();
    let Ok(forgotten) = hub.names.forget(name) else {
        let hint = "a session has this name now: it cannot be deleted before that is over";
        return text(StatusCode::CONFLICT, hint);
    };
    match timeout(hub.plan.timing.handshake_timeout, forgotten).await {
        Ok(true) => {
            tracing::info!(name, "the cursor of a subscriber was deleted");
            text(StatusCode::NO_CONTENT, "")
        }
        Ok(false) => text(StatusCode::NOT_FOUND, "no such name has a cursor"),
        Err(_) => {
            let reason = "it cannot be written down now; ask again later";
            later(StatusCode::SERVICE_UNAVAILABLE, reason, NOTE_WAIT)
        }
    }
}

/// Upgrades a subscriber, or says why not.
fn subscribe(hub: &Arc<Hub>, peer: SocketAddr, request: &mut Parts) -> Result<Answer, Box<Answer>> {
    let key = opening::handshake(request)?;
    let lease = entry::subscriber(hub, peer.ip(), request, &key)?;
    let seat = take_seat(hub)?;
    let (answer, chosen) = opening::switching(&key, &request.headers);
    let spoken = match chosen {
        Some(V1) => Spoken::V1,
        // From the newest on, as of the answer: whoever has read it sees all that is published after it.
        _ => Spoken::Plain(hub.context.journal.marks().borrow().durable),
    };
    let upgrade = request.extensions.remove::<OnUpgrade>();
    let upgrade = upgrade.expect("hyper gives it to every request that `handshake` takes");
    let upgraded = {
        let hub = Arc::clone(hub);
        async move {
            if let Some((wire, read_ahead)) = opening::upgraded(upgrade, peer).await {
                subscriber::run(&hub, peer, wire, read_ahead, spoken, lease).await;
            }
            drop(seat);
        }
    };
    hub.subscribers.spawn(upgraded);
    Ok(answer)
}

fn take_seat(hub: &Hub) -> Result<OwnedSemaphorePermit, Box<Answer>> {
    let busy = |reason: &str| {
        let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, reason);
        put(&mut answer, header::RETRY_AFTER, "5");
        Box::new(answer)
    };
    if !hub.is_ready() {
        return Err(busy("the stream is ending"));
    }
    Arc::clone(&hub.seats).try_acquire_owned().map_err(|_| {
        hub.context.metrics.too_many.subscribers.add(1);
        busy(&format!(
            "all {} seats are taken (subscribers_max)",
            hub.plan.subscribers_max
        ))
    })
}

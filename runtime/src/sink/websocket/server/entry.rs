//! The answers to those who come in, and to those who do not.
//!
//! Owns status codes, headers and Closes: 401, 403, 429 and 4401, 4403, 4429, and the tickets. Called by
//! `http`; the gate decides.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::opening::switching;
use super::{Hub, Operate};
use crate::credentials::Scope;
use crate::port::answer::{self, Answer, put, text};
use crate::port::gate::presented::{is_forwarded, is_of_a_script};
use crate::port::gate::{Gate, Lease, Refused, Spent, TICKET_LIFETIME};
use crate::port::hosts::names_this_machine;
use crate::sink::websocket::protocol::close;

/// Refusals by Close that are going on at a time (I4); beyond, the refusal is plain HTTP.
const CLOSES_MAX: usize = 64;
/// Longest wait for the answer to such a Close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Header of a Close frame, final and unmasked.
const CLOSE_FRAME: u8 = 0x88;

/// What a refusal is told by.
enum Told {
    Refused(Refused),
    Later { reason: String, wait: Duration },
}

impl From<Spent> for Told {
    fn from(spent: Spent) -> Self {
        let Spent { reason, wait, .. } = spent;
        Self::Later { reason, wait }
    }
}

/// The places of refusals by Close.
pub(super) struct Closes(Arc<Semaphore>);

impl Default for Closes {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CLOSES_MAX)))
    }
}

/// Lets a subscriber in, or gives the answer that it gets instead.
pub(super) fn subscriber(
    hub: &Arc<Hub>,
    client: IpAddr,
    request: &mut Parts,
    key: &str,
) -> Result<Lease, Box<Answer>> {
    let admitted = hub.gate.admit(Scope::Subscribe, request);
    let leased = admitted
        .map_err(Told::Refused)
        .and_then(|grant| hub.gate.lease(grant).map_err(Told::from));
    let told = match leased {
        Ok(lease) => return Ok(lease),
        Err(told) => told,
    };
    let (answer, is_throttled) = in_http(&hub.gate, client, &told);
    // A script sees nothing of an answer that is no upgrade, and would try again for ever.
    let place = Arc::clone(&hub.closes.0).try_acquire_owned().ok();
    let place = place.filter(|_| !is_throttled && is_of_a_script(&request.headers));
    let upgrade = request.extensions.remove::<OnUpgrade>();
    if let (Some(place), Some(upgrade)) = (place, upgrade) {
        let frame = close_frame(&told);
        hub.subscribers.spawn(async move {
            // Whoever does not take it in time does without.
            let _ = timeout(CLOSE_TIMEOUT, close(upgrade, frame)).await;
            drop(place);
        });
        return Err(Box::new(switching(key, &request.headers).0));
    }
    Err(Box::new(answer))
}

/// Gives out a ticket.
pub(super) fn ticket(hub: &Hub, client: IpAddr, request: &Parts) -> Answer {
    if !hub.gate.asks() {
        let hint = "no credentials are asked for here: subscribe without";
        return text(StatusCode::NOT_FOUND, hint);
    }
    let grant = match hub.gate.admit(Scope::Subscribe, request) {
        Ok(grant) => grant.expect("credentials are asked for"),
        Err(refused) => return in_http(&hub.gate, client, &Told::Refused(refused)).0,
    };
    match hub.gate.ticket(grant) {
        Ok(ticket) => {
            let told = json!({
                "ticket": ticket.reveal(),
                "expires_in_s": TICKET_LIFETIME.as_secs(),
                "stream": hub.gate.stream(),
            });
            let mut answer = text(StatusCode::OK, "");
            *answer.body_mut() = Full::new(format!("{told}\n").into());
            put(&mut answer, header::CONTENT_TYPE, "application/json");
            answer
        }
        Err(reason) => {
            let wait = TICKET_LIFETIME;
            in_http(&hub.gate, client, &Told::Later { reason, wait }).0
        }
    }
}

/// Whether somebody may see how the run is: from this machine itself, or with a credential.
pub(super) fn operator(hub: &Hub, client: IpAddr, request: &Parts) -> Result<(), Box<Answer>> {
    if hub.plan.operate == Operate::Loopback && is_local(client, &request.headers) {
        return Ok(());
    }
    if !hub.gate.asks() {
        let hint = match hub.plan.operate {
            Operate::Loopback => {
                "this is for requests from the machine itself; with `auth: required`, for credentials that allow `operate`"
            }
            Operate::Credential => {
                "`hosts` or `trusted_proxies` say that others reach this port, so this is for credentials that allow `operate` (`auth: required`), unless `operate: loopback` says that no proxy passes it on"
            }
        };
        return Err(Box::new(text(StatusCode::FORBIDDEN, hint)));
    }
    match hub.gate.admit(Scope::Operate, request) {
        Ok(_) => Ok(()),
        Err(refused) => Err(Box::new(
            in_http(&hub.gate, client, &Told::Refused(refused)).0,
        )),
    }
}

/// Whether a request is this machine's own, as far as it tells: a proxy here speaks for others, and most
/// say so by a header, or pass on the name by which they were asked.
fn is_local(client: IpAddr, headers: &HeaderMap) -> bool {
    client.is_loopback() && !is_forwarded(headers) && names_this_machine(headers)
}

/// A refusal as an answer, and whether the address is to wait because it failed too often.
fn in_http(gate: &Gate, client: IpAddr, told: &Told) -> (Answer, bool) {
    match told {
        Told::Refused(refused) => gate.refuse(*refused, client),
        Told::Later { reason, wait } => (answer::wait(reason, *wait), false),
    }
}

/// A whole Close frame.
fn close_frame(told: &Told) -> Vec<u8> {
    let (code, reason) = match told {
        Told::Refused(refused @ (Refused::Scope(_) | Refused::Name)) => {
            (close::FORBIDDEN, refused.words())
        }
        Told::Refused(refused) => (close::UNKNOWN, refused.words()),
        Told::Later { reason, .. } => (close::TOO_MANY, reason.clone()),
    };
    let reason = &reason[..reason.floor_char_boundary(close::REASON_BYTES_MAX)];
    let mut frame = vec![CLOSE_FRAME, 2 + reason.len() as u8];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

/// Says the Close and nothing more, and waits until the other end has gone: to leave with something
/// unread would reset the connection, and the Close with it.
async fn close(upgrade: OnUpgrade, frame: Vec<u8>) {
    let Ok(upgraded) = upgrade.await else {
        return;
    };
    let mut io = TokioIo::new(upgraded);
    if io.write_all(&frame).await.is_err() || io.shutdown().await.is_err() {
        return;
    }
    let mut ignored = [0; 512];
    while io.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
}

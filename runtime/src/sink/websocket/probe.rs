//! `check --connect`: reaches for the peer, layer by layer, and sends one Ping.
//!
//! Owns nothing that lasts. Called by the plans of those who dial.

use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::connect;
use super::endpoint::Endpoint;
use super::layers::Layers;
use super::line::{Connected, Line};
use super::outbound::Control;
use super::session::DialFailure;
use super::{tls, words};
use crate::driver::ProbeStep;
use crate::journal::Position;

/// What is seen at each layer, up to the first that fails.
pub async fn probe(endpoint: &Endpoint) -> Vec<ProbeStep> {
    let mut layers = Layers::default();
    // Each failure is noted in `layers`: what comes back says the same for a sink that tries again.
    let _ = attempt(endpoint, &mut layers).await;
    layers.into_steps()
}

async fn attempt(endpoint: &Endpoint, layers: &mut Layers) -> Result<(), DialFailure> {
    let tls = tls::of(endpoint).map_err(|wrong| layers.refused("tls", wrong))?;
    let connected = connect::connect(endpoint, tls.as_ref(), layers).await?;
    let patience = endpoint.connect_timeout;
    let sent = Instant::now();
    match timeout(patience, answer_to_ping(connected)).await {
        Ok(Ok(())) => {
            layers.succeeded("ping", format!("answered in {:.1?}", sent.elapsed()));
            Ok(())
        }
        Ok(Err(wrong)) => Err(layers.failed("ping", wrong)),
        Err(_) => Err(layers.failed("ping", format!("not answered within {patience:?}"))),
    }
}

/// Whether the peer answers a Ping with its payload; an error is what it did instead.
async fn answer_to_ping(connected: Connected) -> Result<(), String> {
    let payload = fastrand::u128(..).to_be_bytes();
    let mut line = Line::new(connected, Position::default()).map_err(|error| error.to_string())?;
    line.push_control(Control::Ping, &payload);
    loop {
        while let Some(message) = line.next() {
            match message {
                Ok(Message::Pong(pong)) if *pong == payload[..] => return Ok(()),
                Ok(Message::Close(close)) => return Err(words::of_close(close.as_ref())),
                Ok(_) => {}
                Err(error) => return Err(words::of_error(&error)),
            }
        }
        line.take_answers();
        let moved = line.moved(true).await;
        if let Some(Err(error)) = moved.read.or(moved.wrote) {
            return Err(words::of_read(&error));
        }
    }
}

//! What an attempt to connect has seen, layer by layer.
//!
//! Owns the list that `check --connect` shows, and makes of its end what a failed attempt says. Pure.

use std::io;
use std::time::Duration;

use super::session::DialFailure;
use crate::driver::ProbeStep;

/// See the module; the layers in the order in which they were tried.
#[derive(Default)]
pub(super) struct Layers {
    steps: Vec<ProbeStep>,
    trying: &'static str,
}

impl Layers {
    /// Notes which layer is tried now.
    pub(super) fn trying(&mut self, layer: &'static str) {
        self.trying = layer;
    }

    /// Notes that the layer that is tried has no time left.
    pub(super) fn timed_out(&mut self, after: Duration) -> DialFailure {
        self.failed(self.trying, format!("no answer within {after:?}"))
    }

    /// Notes a layer that worked.
    pub(super) fn succeeded(&mut self, layer: &'static str, detail: impl Into<String>) {
        self.push(layer, true, detail.into());
    }

    /// Notes a layer that failed, and says so of the attempt: another may succeed.
    pub(super) fn failed(&mut self, layer: &'static str, detail: impl Into<String>) -> DialFailure {
        let detail = detail.into();
        let message = format!("{layer}: {detail}");
        self.push(layer, false, detail);
        DialFailure {
            message,
            ..DialFailure::default()
        }
    }

    /// The same of a failure that no other attempt mends.
    pub(super) fn refused(
        &mut self,
        layer: &'static str,
        detail: impl Into<String>,
    ) -> DialFailure {
        DialFailure {
            permanent: true,
            ..self.failed(layer, detail)
        }
    }

    /// The same of TLS: a certificate, ours or the peer's, is not taken. It may have been renewed.
    pub(super) fn distrusted(&mut self, detail: impl Into<String>) -> DialFailure {
        DialFailure {
            unauthorized: true,
            ..self.refused("tls", detail)
        }
    }

    /// The layer that was tried last.
    pub(super) fn last(&self) -> Option<&'static str> {
        self.steps.last().map(|step| step.layer)
    }

    /// All of them.
    pub(super) fn into_steps(self) -> Vec<ProbeStep> {
        self.steps
    }

    fn push(&mut self, layer: &'static str, ok: bool, detail: String) {
        self.steps.push(ProbeStep { layer, ok, detail });
    }
}

/// Whether TLS itself failed: a certificate that does not verify, or an alert about ours, is not a bad
/// moment of the network.
pub(super) fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|error| error.is::<rustls::Error>())
}

//! What an attempt to connect has seen, layer by layer.
//!
//! Owns the words of `check --connect` and of a failed attempt, which are the same. Pure.

use std::io;

use super::session::DialFailure;
use crate::sink::ProbeStep;

/// See the module; the layers in the order in which they were tried.
#[derive(Default)]
pub(super) struct Layers(Vec<ProbeStep>);

impl Layers {
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

    /// The layer that was tried last.
    pub(super) fn last(&self) -> Option<&'static str> {
        self.0.last().map(|step| step.layer)
    }

    /// All of them.
    pub(super) fn into_steps(self) -> Vec<ProbeStep> {
        self.0
    }

    fn push(&mut self, layer: &'static str, ok: bool, detail: String) {
        self.0.push(ProbeStep { layer, ok, detail });
    }
}

/// Whether TLS itself failed: a certificate that does not verify, or an alert about ours, is not a bad
/// moment of the network.
pub(super) fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|error| error.is::<rustls::Error>())
}

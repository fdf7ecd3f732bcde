//! What `check --connect` sees of a port: whether it is free, and whether its certificate fits its key and
//! is good.
//!
//! Keeps neither open. Called by the plans of those who listen.

use super::door::Door;
use super::keys::PortPlan;
use super::tls::{Ending, Tls};
use crate::driver::ProbeStep;

/// Opens what a run would open.
pub fn probe(port: &PortPlan) -> Vec<ProbeStep> {
    let step = |layer, opened: Result<String, String>| ProbeStep {
        layer,
        ok: opened.is_ok(),
        detail: opened.unwrap_or_else(|why| why),
    };
    let free = Door::open(port.listen).map(|_| format!("{} is free", port.listen));
    let mut steps = vec![step("listen", free)];
    if let Some(tls) = &port.tls {
        let cert = tls.cert.display();
        let fits = Tls::open(tls.clone()).and_then(|opened| match opened.ending() {
            None => Ok(format!("{cert} fits its key")),
            Some(soon @ Ending::Soon(..)) => Ok(format!("{cert} fits its key, and {soon}")),
            Some(over) => Err(format!("{cert} {over}")),
        });
        steps.push(step("tls", fits));
    }
    steps
}

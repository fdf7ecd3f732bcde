//! What `check --connect` sees of a port: whether it is free, and whether its certificate fits its key.
//!
//! Keeps neither open. Called by the plans of those who listen.

use super::door::Door;
use super::keys::PortPlan;
use super::tls::Tls;
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
        let fits = Tls::open(tls.clone()).map(|_| format!("{} fits its key", tls.cert.display()));
        steps.push(step("tls", fits));
    }
    steps
}

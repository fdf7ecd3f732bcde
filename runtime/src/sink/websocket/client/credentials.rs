//! Credentials that change while a run goes on.
//!
//! Owns what is read again, and when it is taken. Never changes where the records go. Called by the
//! client before it dials after a refusal.

use super::super::{config, tls};
use super::Client;

impl Client {
    /// Takes today's credentials, where they can be read and are right.
    pub(super) fn reread(&mut self) {
        let plan = (self.context.reread)().and_then(|config| {
            config::check(config, &self.plan.facts).map_err(|problems| {
                let messages = problems.into_iter().map(|problem| problem.message);
                messages.collect::<Vec<_>>().join("; ")
            })
        });
        match plan {
            Ok(plan) => {
                tracing::info!(
                    "read the credentials for {} again",
                    self.plan.endpoint.address
                );
                self.plan.endpoint.take_credentials(plan.endpoint);
            }
            Err(error) => tracing::warn!("the sink's config cannot be read again: {error}"),
        }
        // The files may have changed where the config has not. Half of a change is none: the next
        // refusal reads again.
        match tls::of(&self.plan.endpoint) {
            Ok(tls) => self.tls = tls,
            Err(error) => tracing::warn!("the certificates cannot be read again: {error}"),
        }
    }
}

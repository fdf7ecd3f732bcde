//! Credentials that change while a run goes on.
//!
//! Owns what is taken of a config that was read again. Never changes where is dialled. Called before a dial
//! that follows a refusal: by `client` and by `subscription`.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::tls;

/// Takes today's credentials, where they can be read and are right.
pub(super) fn renew(
    endpoint: &mut Endpoint,
    tls: &mut Option<Arc<rustls::ClientConfig>>,
    today: Result<Endpoint, String>,
) {
    let address = &endpoint.address;
    match today {
        Ok(today) => {
            tracing::info!("read the credentials for {address} again");
            endpoint.take_credentials(today);
        }
        Err(error) => tracing::warn!("the config of {address} cannot be read again: {error}"),
    }
    // The files may have changed where the config has not.
    reread(endpoint, tls);
}

/// Takes the certificates that the endpoint's files have today. Half of a change is none: the next refusal
/// reads again.
pub(super) fn reread(endpoint: &Endpoint, tls: &mut Option<Arc<rustls::ClientConfig>>) {
    match tls::of(endpoint) {
        Ok(today) => *tls = today,
        Err(error) => tracing::warn!("the certificates cannot be read again: {error}"),
    }
}

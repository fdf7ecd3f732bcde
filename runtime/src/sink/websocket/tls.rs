//! TLS of the client: whom to trust, who we are.
//!
//! Owns the reading of PEM files and the rustls config. Called before anything is dialled.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::endpoint::{Endpoint, TlsPlan};
use crate::port::tls::certificates;

/// The config for an endpoint, where it is reached by TLS.
pub(super) fn of(endpoint: &Endpoint) -> Result<Option<Arc<ClientConfig>>, String> {
    match endpoint.address.secure {
        true => client_config(&endpoint.tls).map(Some),
        false => Ok(None),
    }
}

/// Builds the config; an error says which file and what to do.
fn client_config(plan: &TlsPlan) -> Result<Arc<ClientConfig>, String> {
    let roots = match &plan.ca {
        Some(path) => private_roots(path)?,
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots);
    let config = match &plan.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let key_der = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| format!("the key {}: {error}", key.display()))?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|error| format!("the certificate {}: {error}", cert.display()))?
        }
    };
    Ok(Arc::new(config))
}

fn private_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| format!("the authorities {}: {error}", path.display()))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found
            .errors
            .first()
            .map(|error| format!(" ({error})"))
            .unwrap_or_default();
        return Err(format!(
            "TLS: this system has no certificates of authorities{why}; \
             install them (ca-certificates), or name a file of authorities (`tls.ca`, or `--ca`)"
        ));
    }
    Ok(roots)
}

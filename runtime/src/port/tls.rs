//! TLS of the port: the certificate that is shown, and its renewal.
//!
//! Owns the two PEM files and what was read of them last. A certificate that is renewed is shown to those
//! who connect from then on; sessions go on with theirs. One that ends soon is warned of. Called when the port
//! is opened and for each connection.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;

use crate::files::Stamp;

mod ending;

pub use ending::Ending;

/// How often the files are looked at.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// How often it is warned of a certificate that ends soon, or has ended.
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// What to do about files that are no certificate with its key.
const HELP: &str = "`tls.cert` names the PEM file of the certificate and its chain, `tls.key` that of its key: \
     both must be there, belong together, and be readable for the user that runs this";

/// Where the certificate is.
#[derive(Clone, Debug)]
pub struct TlsPlan {
    /// PEM file of the certificate, and of the chain behind it.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
}

impl TlsPlan {
    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| format!("the key {}: {error}", self.key.display()))?;
        // Compares the key with the certificate too.
        CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            let (cert, key) = (self.cert.display(), self.key.display());
            format!("the certificate {cert} with the key {key}: {error}")
        })
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.cert, &self.key].map(|path| Stamp::of(path))
    }
}

/// See the module.
pub struct Tls {
    plan: TlsPlan,
    provider: Arc<CryptoProvider>,
    shown: Arc<Shown>,
    acceptor: TlsAcceptor,
}

/// The certificate that is shown now.
struct Shown(RwLock<Arc<CertifiedKey>>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.read();
        Some(Arc::clone(
            &*shown.expect("no code panics while it holds it"),
        ))
    }
}

impl Tls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Which file is wrong, and how, and what to do.
    pub fn open(plan: TlsPlan) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let read = plan.read(&provider);
        let read = read.map_err(|error| format!("{error}\n  {HELP}"))?;
        let shown = Arc::new(Shown(RwLock::new(Arc::new(read))));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS: {error}"))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            plan,
            provider,
            shown,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// For the handshake of a connection.
    pub fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// What there is to say of the end of the certificate that is shown.
    pub fn ending(&self) -> Option<Ending> {
        let shown = self.shown.0.read().expect("see `resolve`");
        ending::ending(&shown.cert, SystemTime::now())
    }

    /// Shows what the files have whenever they change, and warns once a day where that ends soon. Two files
    /// are never replaced in one moment: what does not fit together is told once, and looked at again when
    /// either changes. Never returns.
    pub async fn follow(&self) {
        let mut look = interval(FOLLOW_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut warn = interval(WARN_EVERY);
        // As of before the first look: a file that changed since it was opened is read once more.
        let mut known = [None; 2];
        loop {
            tokio::select! {
                biased;
                _ = look.tick() => if self.reload(&mut known) {
                    warn.reset_immediately();
                },
                _ = warn.tick() => if let Some(ending) = self.ending() {
                    tracing::warn!("the certificate {} {ending}", self.plan.cert.display());
                },
            }
        }
    }

    /// Reads the files again where they are others than those that are `known`; whether another certificate
    /// is shown.
    fn reload(&self, known: &mut [Option<Stamp>; 2]) -> bool {
        let stamps = self.plan.stamps();
        if stamps == *known {
            return false;
        }
        *known = stamps;
        match self.plan.read(&self.provider) {
            Ok(read) => {
                let mut shown = self.shown.0.write().expect("see `resolve`");
                let is_new = shown.cert != read.cert;
                if is_new {
                    tracing::info!(
                        "{} was renewed: it is shown from now on",
                        self.plan.cert.display()
                    );
                }
                *shown = Arc::new(read);
                is_new
            }
            Err(error) => {
                tracing::warn!("{error}; the certificate that was read before is still shown");
                false
            }
        }
    }
}

/// The certificates of a PEM file: one at least.
///
/// # Errors
/// Which file is wrong, and how.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| wrong(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&error))?;
    if certificates.is_empty() {
        return Err(format!("{}: no certificate in it", path.display()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
    }

    /// Half of a renewal, and files that are gone, leave what is shown; the other half renews it.
    #[test]
    fn what_does_not_fit_together_leaves_what_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let plan = TlsPlan {
            cert: folder.path().join("server.pem"),
            key: folder.path().join("server.key"),
        };
        std::fs::copy(pem("tests/peers/localhost.pem"), &plan.cert).unwrap();
        std::fs::copy(pem("tests/peers/localhost.key"), &plan.key).unwrap();
        let tls = Tls::open(plan.clone()).unwrap();
        let mut known = plan.stamps();
        let shown = || tls.shown.0.read().unwrap().cert.clone();
        let first = shown();
        std::fs::remove_file(&plan.cert).unwrap();
        tls.reload(&mut known);
        assert_eq!((known[0], shown()), (None, first.clone()));
        std::fs::copy(pem("runtime/tests/tls/server.pem"), &plan.cert).unwrap();
        tls.reload(&mut known);
        assert_eq!(shown(), first, "the key is the old one's");
        std::fs::remove_file(&plan.key).unwrap();
        std::fs::copy(pem("runtime/tests/tls/server.key"), &plan.key).unwrap();
        tls.reload(&mut known);
        assert_ne!(shown(), first);
    }
}

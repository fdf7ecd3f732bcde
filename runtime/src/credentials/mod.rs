//! Credentials of a stream: who may subscribe to it, feed it or operate it, and until when.
//!
//! Owns the stream's GUID, its credentials and their arithmetic: made, rotated, revoked, recognised, run
//! out. Never keeps a secret, only its digest (I7), and does no I/O: [`store`] is the file. Called by
//! the verbs and by whatever listens.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::Secret;

pub mod secret;
pub mod store;

pub use secret::Digest;
pub use store::{Store, StoreError};

/// Most credentials of a stream (I4).
pub const CREDENTIALS_MAX: usize = 1_000;
/// Most secrets of a credential at a time: the newest, and those whose grace is not over (I4).
const SECRETS_MAX: usize = 8;

/// A moment in seconds since the Unix epoch.
pub type UnixSeconds = u64;

/// What a credential allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To receive the stream.
    Subscribe,
    /// To send records into the pipeline.
    Ingest,
    /// To read metrics and the like.
    Operate,
}

impl Scope {
    /// All that there are: what the credential of a first run allows.
    pub const ALL: [Self; 3] = [Self::Subscribe, Self::Ingest, Self::Operate];

    /// Its name, as in the file and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Ingest => "ingest",
            Self::Operate => "operate",
        }
    }
}

/// What the holders of a credential may use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most sessions at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    /// Most bytes a second, all sessions together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// One credential, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The ingestion ID: public, names the credential in lists and logs.
    pub id: Arc<str>,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created: UnixSeconds,
    /// When it ends; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixSeconds>,
    /// What its holders may use.
    #[serde(default)]
    pub limits: Limits,
    /// Digests of its secrets, the newest last.
    secrets: Vec<Kept>,
}

/// What is kept of a secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    digest: Digest,
    created: UnixSeconds,
    /// The end of its grace, once it was rotated away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<UnixSeconds>,
}

impl Credential {
    /// How many secrets are good at `now`: more than one while a rotation's grace lasts.
    pub fn secrets_good(&self, now: UnixSeconds) -> usize {
        let good = |kept: &&Kept| kept.until.is_none_or(|until| now < until);
        self.secrets.iter().filter(good).count()
    }

    fn standing(&self, kept: &Kept, now: UnixSeconds) -> Result<(), Denial> {
        if self.expires.is_some_and(|expires| expires <= now) {
            Err(Denial::Expired)
        } else if kept.until.is_some_and(|until| until <= now) {
            Err(Denial::Replaced)
        } else {
            Ok(())
        }
    }
}

/// The credentials of one stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyring {
    /// The stream's address, whatever the pipeline is called: a random UUID.
    pub stream: String,
    /// In the order in which they were made.
    pub credentials: Vec<Credential>,
}

/// What a credential is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// How long it is good; for ever if absent.
    pub lifetime: Option<Duration>,
    /// What its holders may use.
    pub limits: Limits,
}

/// A secret that was made just now: the only time that it is seen.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The stream's GUID.
    pub stream: String,
    /// The ingestion ID.
    pub id: Arc<str>,
    /// To be shown once and kept nowhere.
    pub secret: Secret,
}

/// Who was recognised, and by which secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The credential's ID.
    pub id: Arc<str>,
    /// What it allows.
    pub scopes: Arc<[Scope]>,
    /// What it may use.
    pub limits: Limits,
    /// Which of its secrets was shown.
    digest: Digest,
}

impl Grant {
    /// Whether it allows `scope`.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// Why a secret does not open, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No credential has this secret, or not under this ID.
    #[error("the credential is wrong")]
    Wrong,
    /// The credential is past its end.
    #[error("the credential has expired")]
    Expired,
    /// The credential has a newer secret, and the grace of this one is over.
    #[error("the secret was replaced by a newer one")]
    Replaced,
    /// The credential is gone.
    #[error("the credential was revoked")]
    Revoked,
}

/// Why a keyring cannot be changed so.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// There is no such credential.
    #[error("there is no credential `{0}` in this stream")]
    Unknown(String),
    /// There are as many as may be.
    #[error("the stream has {CREDENTIALS_MAX} credentials, and may not have more; revoke some")]
    Full,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] io::Error),
}

impl Keyring {
    /// A stream with a new GUID and no credential.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new() -> Result<Self, KeyringError> {
        Ok(Self {
            stream: secret::guid()?,
            credentials: Vec::new(),
        })
    }

    /// Makes a credential.
    ///
    /// # Errors
    /// There are too many, or the system gives no random bytes.
    pub fn create(&mut self, wanted: Wanted, now: UnixSeconds) -> Result<Issued, KeyringError> {
        if self.credentials.len() >= CREDENTIALS_MAX {
            return Err(KeyringError::Full);
        }
        let id: Arc<str> = secret::id()?.into();
        let secret = secret::secret()?;
        let mut scopes = wanted.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        self.credentials.push(Credential {
            id: Arc::clone(&id),
            scopes,
            created: now,
            expires: wanted
                .lifetime
                .map(|lifetime| now.saturating_add(lifetime.as_secs())),
            limits: wanted.limits,
            secrets: vec![Kept {
                digest: Digest::of(secret.reveal()),
                created: now,
                until: None,
            }],
        });
        let stream = self.stream.clone();
        Ok(Issued { stream, id, secret })
    }

    /// Makes a new secret for a credential. Its earlier ones are good for `grace` more at the longest.
    ///
    /// # Errors
    /// There is no such credential, or the system gives no random bytes.
    pub fn rotate(
        &mut self,
        id: &str,
        grace: Duration,
        now: UnixSeconds,
    ) -> Result<Issued, KeyringError> {
        let stream = self.stream.clone();
        let credential = self.credentials.iter_mut().find(|one| *one.id == *id);
        let credential = credential.ok_or_else(|| KeyringError::Unknown(id.to_owned()))?;
        let secret = secret::secret()?;
        let ends = now.saturating_add(grace.as_secs());
        let secrets = &mut credential.secrets;
        // Those that are over stay until then: whoever still shows one is told that it was replaced.
        for kept in secrets.iter_mut() {
            kept.until = Some(kept.until.map_or(ends, |until| until.min(ends)));
        }
        secrets.drain(..(secrets.len() + 1).saturating_sub(SECRETS_MAX));
        secrets.push(Kept {
            digest: Digest::of(secret.reveal()),
            created: now,
            until: None,
        });
        let id = Arc::clone(&credential.id);
        Ok(Issued { stream, id, secret })
    }

    /// Ends a credential at once.
    ///
    /// # Errors
    /// There is no such credential.
    pub fn revoke(&mut self, id: &str) -> Result<(), KeyringError> {
        let before = self.credentials.len();
        self.credentials.retain(|one| *one.id != *id);
        match self.credentials.len() < before {
            true => Ok(()),
            false => Err(KeyringError::Unknown(id.to_owned())),
        }
    }

    /// Recognises a secret, shown with the ID of its credential or alone.
    ///
    /// # Errors
    /// It opens nothing.
    pub fn recognise(
        &self,
        id: Option<&str>,
        secret: &str,
        now: UnixSeconds,
    ) -> Result<Grant, Denial> {
        let shown = Digest::of(secret);
        let mut found = None;
        // All of them are compared, each in constant time: how long it takes tells nothing.
        for credential in &self.credentials {
            for kept in &credential.secrets {
                if kept.digest.is(&shown) {
                    found = Some((credential, kept));
                }
            }
        }
        let (credential, kept) = found.ok_or(Denial::Wrong)?;
        if id.is_some_and(|id| *id != *credential.id) {
            return Err(Denial::Wrong);
        }
        credential.standing(kept, now)?;
        Ok(Grant {
            id: Arc::clone(&credential.id),
            scopes: credential.scopes.as_slice().into(),
            limits: credential.limits,
            digest: kept.digest,
        })
    }

    /// Whether a grant that was given earlier still holds.
    ///
    /// # Errors
    /// Why it does not.
    pub fn standing(&self, grant: &Grant, now: UnixSeconds) -> Result<(), Denial> {
        let credential = self.credentials.iter().find(|one| one.id == grant.id);
        let credential = credential.ok_or(Denial::Revoked)?;
        let kept = credential.secrets.iter();
        let kept = kept.clone().find(|kept| kept.digest.is(&grant.digest));
        credential.standing(kept.ok_or(Denial::Replaced)?, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn wanted(scopes: &[Scope], lifetime: Option<Duration>) -> Wanted {
        Wanted {
            scopes: scopes.to_vec(),
            lifetime,
            limits: Limits::default(),
        }
    }

    fn ring() -> (Keyring, Issued) {
        let mut ring = Keyring::new().unwrap();
        let issued = ring.create(wanted(&[Scope::Subscribe], None), 100).unwrap();
        (ring, issued)
    }

    #[test]
    fn a_secret_opens_what_its_credential_allows_and_nothing_else() {
        let (mut ring, reader) = ring();
        let all = ring.create(wanted(&Scope::ALL, None), 100).unwrap();
        let grant = ring.recognise(None, reader.secret.reveal(), 100).unwrap();
        assert_eq!(grant.id, reader.id);
        assert!(grant.allows(Scope::Subscribe) && !grant.allows(Scope::Operate));
        let named = ring.recognise(Some(&all.id), all.secret.reveal(), 100);
        assert!(named.unwrap().allows(Scope::Operate));
        for (id, secret) in [
            (Some(&*reader.id), all.secret.reveal()),
            (None, "wf_"),
            (None, ""),
            (Some("nobody"), reader.secret.reveal()),
        ] {
            assert_eq!(
                ring.recognise(id, secret, 100),
                Err(Denial::Wrong),
                "{id:?}"
            );
        }
    }

    #[test]
    fn a_credential_ends_in_its_second() {
        let mut ring = Keyring::new().unwrap();
        let issued = ring
            .create(wanted(&[Scope::Ingest], Some(HOUR)), 100)
            .unwrap();
        let secret = issued.secret.reveal();
        let grant = ring.recognise(None, secret, 3699).unwrap();
        assert_eq!(ring.standing(&grant, 3699), Ok(()));
        assert_eq!(ring.recognise(None, secret, 3700), Err(Denial::Expired));
        assert_eq!(ring.standing(&grant, 3700), Err(Denial::Expired));
    }

    #[test]
    fn a_rotated_secret_is_good_until_its_grace_is_over() {
        let (mut ring, old) = ring();
        let grant = ring.recognise(None, old.secret.reveal(), 100).unwrap();
        let new = ring.rotate(&old.id, HOUR, 200).unwrap();
        assert_eq!(new.id, old.id);
        assert!(ring.recognise(None, new.secret.reveal(), 9999).is_ok());
        assert_eq!(ring.standing(&grant, 3799), Ok(()));
        assert_eq!(ring.standing(&grant, 3800), Err(Denial::Replaced));
        let shown = ring.recognise(None, old.secret.reveal(), 3800);
        assert_eq!(shown, Err(Denial::Replaced));
    }

    /// A second rotation shortens the grace of the first, and never lengthens it.
    #[test]
    fn no_rotation_lengthens_a_grace() {
        let (mut ring, first) = ring();
        let grant = ring.recognise(None, first.secret.reveal(), 100).unwrap();
        ring.rotate(&first.id, HOUR, 200).unwrap();
        ring.rotate(&first.id, 2 * HOUR, 300).unwrap();
        assert_eq!(ring.standing(&grant, 3800), Err(Denial::Replaced));
        ring.rotate(&first.id, Duration::ZERO, 400).unwrap();
        assert_eq!(ring.standing(&grant, 400), Err(Denial::Replaced));
    }

    #[test]
    fn i4_secrets_and_credentials_are_bounded() {
        let (mut ring, first) = ring();
        for _ in 0..50 {
            ring.rotate(&first.id, HOUR, 200).unwrap();
        }
        assert_eq!(ring.credentials[0].secrets_good(200), SECRETS_MAX);
        for _ in 1..CREDENTIALS_MAX {
            ring.create(wanted(&[], None), 100).unwrap();
        }
        let more = ring.create(wanted(&[], None), 100);
        assert!(matches!(more, Err(KeyringError::Full)));
    }

    #[test]
    fn a_revoked_credential_is_gone_for_those_who_are_in_as_well() {
        let (mut ring, issued) = ring();
        let grant = ring.recognise(None, issued.secret.reveal(), 100).unwrap();
        ring.revoke(&issued.id).unwrap();
        assert_eq!(ring.standing(&grant, 100), Err(Denial::Revoked));
        let shown = ring.recognise(None, issued.secret.reveal(), 100);
        assert_eq!(shown, Err(Denial::Wrong));
        let again = ring.revoke(&issued.id);
        assert!(matches!(again, Err(KeyringError::Unknown(_))));
    }

    #[test]
    fn i7_what_is_kept_and_shown_has_no_secret() {
        let (ring, issued) = ring();
        let kept = serde_json::to_string(&ring).unwrap();
        let grant = ring.recognise(None, issued.secret.reveal(), 100).unwrap();
        for shown in [kept, format!("{ring:?}{grant:?}{issued:?}")] {
            assert!(!shown.contains(issued.secret.reveal()), "{shown}");
        }
    }
}

//! The keyring as the file has it now.
//!
//! Owns what was read of the file last, and when the file is looked at again: from time to time, and where
//! somebody shows what is not known. What cannot be read changes nothing. The gates of a pipeline share one,
//! so that a change is read once, and told once. Called by `gate`.

use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use crate::credentials::{Keyring, Store};
use crate::files::Stamp;

/// However many show what is not known, the file is looked at once in so long on their account (I4). Shorter
/// than it takes to pass on a secret that was made after the last look.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// The credentials of a pipeline, for whoever of it listens: read when the first one asks for them.
pub struct Credentials {
    store: Store,
    followed: Mutex<Option<Arc<Followed>>>,
}

impl Credentials {
    /// Those whose state is in this folder; nothing is read yet.
    pub fn of(state_dir: &Path) -> Arc<Self> {
        Arc::new(Self {
            store: Store::of(state_dir),
            followed: Mutex::default(),
        })
    }

    /// Where they are kept.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// What is followed of them.
    ///
    /// # Errors
    /// The file is not there, or cannot be read; in words.
    pub(super) fn follow(&self) -> Result<Arc<Followed>, String> {
        let mut followed = self.followed.lock().expect("no code panics meanwhile");
        if let Some(followed) = &*followed {
            return Ok(Arc::clone(followed));
        }
        let opened = Arc::new(Followed::open(self.store.clone())?);
        Ok(Arc::clone(followed.insert(opened)))
    }
}

/// See the module.
pub(super) struct Followed {
    store: Store,
    /// The keyring, and the version of the file that it is of.
    read: RwLock<(Arc<Keyring>, Option<Stamp>)>,
    /// When the last look began. Held for as long as one takes, so that whoever comes meanwhile has what it
    /// finds.
    looked: Mutex<Option<Instant>>,
}

impl Followed {
    fn open(store: Store) -> Result<Self, String> {
        let stamp = store.stamp();
        let ring = store.load().map_err(|error| error.advice())?;
        let ring = ring.ok_or_else(|| {
            format!(
                "{} is not there, so nobody could come in; `wirefall credentials create` makes it",
                store.path().display()
            )
        })?;
        Ok(Self {
            read: RwLock::new((Arc::new(ring), stamp)),
            looked: Mutex::default(),
            store,
        })
    }

    /// As it was read last.
    pub(super) fn ring(&self) -> Arc<Keyring> {
        let read = self.read.read();
        Arc::clone(&read.expect("no code panics while it holds the keyring").0)
    }

    /// The keyring after a look at the file.
    pub(super) fn look(&self) -> Arc<Keyring> {
        self.look_unless(|_| false)
    }

    /// The same for somebody who shows what is not known at `now`: it may have been made a moment ago.
    pub(super) fn look_again(&self, now: Instant) -> Arc<Keyring> {
        self.look_unless(|last| now.saturating_duration_since(last) < LOOK_AGAIN_AFTER)
    }

    fn look_unless(&self, is_enough: impl Fn(Instant) -> bool) -> Arc<Keyring> {
        let mut looked = self.looked.lock().expect("no code panics during a look");
        if !looked.is_some_and(is_enough) {
            *looked = Some(Instant::now());
            self.reload();
        }
        self.ring()
    }

    /// Reads the file again where it is another one. Where it cannot be read, what was read last goes on.
    fn reload(&self) {
        let stamp = self.store.stamp();
        let known = self.read.read().expect("see `ring`").1;
        if stamp == known {
            return;
        }
        // Taken note of in any case: what is wrong is told once, not every second.
        let ring = match self.store.load() {
            Ok(Some(ring)) => {
                tracing::info!(
                    credentials = ring.credentials.len(),
                    "credentials were read again"
                );
                Arc::new(ring)
            }
            Ok(None) => {
                let path = self.store.path().display();
                tracing::warn!("{path} is gone; the credentials that it had go on");
                self.ring()
            }
            Err(error) => {
                tracing::warn!("{error}; the credentials that were read before go on");
                self.ring()
            }
        };
        *self.read.write().expect("see `ring`") = (ring, stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::store::now;
    use crate::credentials::{Issued, Limits, Scope, Wanted};

    fn issue(store: &Store) -> Issued {
        let wanted = Wanted {
            scopes: vec![Scope::Subscribe],
            lifetime: None,
            limits: Limits::default(),
        };
        store.change(|ring| ring.create(wanted, now())).unwrap()
    }

    fn knows(ring: &Keyring, issued: &Issued) -> bool {
        let secret = issued.secret.reveal();
        ring.recognise(None, secret, now()).is_ok()
    }

    /// A file that is damaged, or gone, throws nobody out; one that is whole again counts.
    #[test]
    fn credentials_that_cannot_be_read_again_go_on_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(folder.path());
        let first = issue(&store);
        let followed = Followed::open(store.clone()).unwrap();
        std::fs::write(store.path(), "{").unwrap();
        assert!(knows(&followed.look(), &first), "damaged");
        std::fs::remove_file(store.path()).unwrap();
        assert!(knows(&followed.look(), &first), "gone");
        let second = issue(&store);
        let ring = followed.look();
        assert!(knows(&ring, &second) && !knows(&ring, &first));
    }

    #[test]
    fn credentials_are_followed_once() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = Credentials::of(folder.path());
        assert!(credentials.follow().is_err(), "they are not there");
        issue(credentials.store());
        let first = credentials.follow().unwrap();
        let second = credentials.follow().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn i4_whoever_shows_what_is_not_known_has_the_file_looked_at_so_often_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(folder.path());
        issue(&store);
        let followed = Followed::open(store.clone()).unwrap();
        let second = issue(&store);
        assert!(knows(&followed.look_again(Instant::now()), &second));
        let looked = followed.looked.lock().unwrap().expect("there was a look");
        let third = issue(&store);
        let almost = looked + LOOK_AGAIN_AFTER - Duration::from_nanos(1);
        assert!(!knows(&followed.look_again(almost), &third));
        assert!(knows(
            &followed.look_again(looked + LOOK_AGAIN_AFTER),
            &third
        ));
    }
}

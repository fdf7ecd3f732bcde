//! Cursors with names: where each reader that comes back left off.
//!
//! Owns how many there are and which one goes for a new one. Pure; the backends keep it, and write it
//! down where they can. A name is checked by whoever was given it.

use std::collections::HashMap;
use std::sync::Arc;

use super::Position;

/// Most cursors with names (I4): peers give the names.
pub const CURSORS_MAX: usize = 1000;

/// What is remembered under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    /// Where its reader left off.
    pub at: Position,
    /// Whose it is, in words that mean nothing here; nobody's if absent.
    pub owner: Option<Arc<str>>,
    /// It is forgotten for no other: for the few names that the configuration lists.
    pub stays: bool,
}

/// Nobody's.
impl From<Position> for Bookmark {
    fn from(at: Position) -> Self {
        Self {
            at,
            owner: None,
            stays: false,
        }
    }
}

/// Bookmarks by name, each with when it was last asked for or moved.
#[derive(Debug, Default)]
pub struct Cursors {
    by_name: HashMap<String, Remembered>,
    uses: u64,
}

#[derive(Clone, Debug)]
struct Remembered {
    bookmark: Bookmark,
    used: u64,
}

impl Cursors {
    /// The bookmark of `name`, which counts as used from now on.
    pub fn get(&mut self, name: &str) -> Option<Bookmark> {
        self.uses += 1;
        let cursor = self.by_name.get_mut(name)?;
        cursor.used = self.uses;
        Some(cursor.bookmark.clone())
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bookmark)> {
        let all = self.by_name.iter();
        all.map(|(name, cursor)| (name.as_str(), &cursor.bookmark))
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<(String, Bookmark)> {
        let all = self.iter();
        let mut all: Vec<_> = all
            .map(|(name, at)| (name.to_owned(), at.clone()))
            .collect();
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    /// Sets the bookmark of `name`, also to an earlier position. Where there are [`CURSORS_MAX`] others,
    /// one is forgotten, and its name returned: of those that do not stay, and of the owner that has most
    /// of them, the one that was unused for longest. So nobody who makes up names pushes out those of others.
    pub fn set(&mut self, name: &str, bookmark: Bookmark) -> Option<String> {
        self.uses += 1;
        let used = self.uses;
        if let Some(cursor) = self.by_name.get_mut(name) {
            *cursor = Remembered { bookmark, used };
            return None;
        }
        let forgotten = (self.by_name.len() >= CURSORS_MAX)
            .then(|| self.least_missed(bookmark.owner.as_ref()).to_owned());
        if let Some(name) = &forgotten {
            self.by_name.remove(name);
        }
        self.by_name
            .insert(name.to_owned(), Remembered { bookmark, used });
        forgotten
    }

    /// Forgets `name`; whether it was there.
    pub fn forget(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }

    /// The name that goes for one more of `owner`.
    fn least_missed(&self, owner: Option<&Arc<str>>) -> &str {
        let mut counts = HashMap::from([(owner, 1)]);
        let goes = |cursor: &&Remembered| !cursor.bookmark.stays;
        for cursor in self.by_name.values().filter(goes) {
            *counts.entry(cursor.bookmark.owner.as_ref()).or_insert(0) += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        let of_most = |cursor: &&Remembered| counts[&cursor.bookmark.owner.as_ref()] == most;
        let cursors = self.by_name.iter().filter(|(_, cursor)| goes(cursor));
        let of_most = cursors.filter(|(_, cursor)| of_most(cursor));
        let unused = of_most.min_by_key(|(_, cursor)| cursor.used);
        unused.expect("who has most has one that is kept").0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i4_the_cursor_that_was_unused_for_longest_goes() {
        let at = |at| Bookmark::from(Position(at));
        let mut cursors = Cursors::default();
        for number in 0..CURSORS_MAX as u64 {
            assert_eq!(cursors.set(&number.to_string(), at(number)), None);
        }
        assert_eq!(cursors.get("0"), Some(at(0)));
        assert_eq!(cursors.set("new", at(7)), Some("1".to_owned()));
        assert_eq!(cursors.get("1"), None);
        assert_eq!(cursors.get("0"), Some(at(0)));
        assert_eq!(cursors.set("0", at(3)), None, "it is there already");
        assert_eq!(cursors.get("0"), Some(at(3)));
    }

    #[test]
    fn i4_who_makes_up_names_pushes_out_none_of_others() {
        let of = |owner: &str| Bookmark {
            at: Position(1),
            owner: Some(owner.into()),
            stays: false,
        };
        let mut cursors = Cursors::default();
        cursors.set("archive", of("a"));
        cursors.set("nobody's", Position(1).into());
        for number in 0..3 * CURSORS_MAX {
            cursors.set(&number.to_string(), of("b"));
        }
        assert_eq!(cursors.iter().count(), CURSORS_MAX);
        assert_eq!(cursors.get("archive"), Some(of("a")));
        assert!(cursors.get("nobody's").is_some());
        // And whoever comes new takes the place of one of those.
        assert_eq!(cursors.set("c", of("c")), Some("2002".to_owned()));
    }

    /// Also where its owner has most, and each of the others has one.
    #[test]
    fn what_stays_is_forgotten_for_nobody() {
        let mut cursors = Cursors::default();
        for name in ["archive", "billing"] {
            let stays = Bookmark {
                stays: true,
                ..Position(1).into()
            };
            cursors.set(name, stays);
        }
        for number in 0..2 * CURSORS_MAX {
            let owner = Some(number.to_string().into());
            let bookmark = Bookmark {
                owner,
                ..Position(1).into()
            };
            cursors.set(&number.to_string(), bookmark);
        }
        assert_eq!(cursors.iter().count(), CURSORS_MAX);
        assert!(cursors.get("archive").is_some() && cursors.get("billing").is_some());
    }
}

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
}

/// Nobody's.
impl From<Position> for Bookmark {
    fn from(at: Position) -> Self {
        Self { at, owner: None }
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

    /// Sets the bookmark of `name`, also to an earlier position. Where there are [`CURSORS_MAX`] others, the
    /// one that was unused for longest is forgotten, and its name returned.
    pub fn set(&mut self, name: &str, bookmark: Bookmark) -> Option<String> {
        self.uses += 1;
        let used = self.uses;
        if let Some(cursor) = self.by_name.get_mut(name) {
            *cursor = Remembered { bookmark, used };
            return None;
        }
        let forgotten = (self.by_name.len() >= CURSORS_MAX).then(|| {
            let unused = self.by_name.iter().min_by_key(|(_, cursor)| cursor.used);
            unused.expect("there are some").0.clone()
        });
        if let Some(name) = &forgotten {
            self.by_name.remove(name);
        }
        self.by_name
            .insert(name.to_owned(), Remembered { bookmark, used });
        forgotten
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
}

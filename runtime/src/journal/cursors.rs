//! Cursors with names: where each reader that comes back left off.
//!
//! Owns how many there are and which one goes for a new one. Pure; the backends keep it, and write it
//! down where they can. A name is checked by whoever was given it.

use std::collections::HashMap;

use super::Position;

/// Most cursors with names (I4): peers give the names.
pub const CURSORS_MAX: usize = 1000;

/// Named positions, each with when it was last asked for or moved.
#[derive(Debug, Default)]
pub struct Cursors {
    by_name: HashMap<String, Remembered>,
    uses: u64,
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    at: Position,
    used: u64,
}

impl Cursors {
    /// The position of `name`, which counts as used from now on.
    pub fn get(&mut self, name: &str) -> Option<Position> {
        self.uses += 1;
        let cursor = self.by_name.get_mut(name)?;
        cursor.used = self.uses;
        Some(cursor.at)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Position)> {
        let all = self.by_name.iter();
        all.map(|(name, cursor)| (name.as_str(), cursor.at))
    }

    /// Sets the position of `name`, also to an earlier one. Where there are [`CURSORS_MAX`] others, the
    /// one that was unused for longest is forgotten, and its name returned.
    pub fn set(&mut self, name: &str, at: Position) -> Option<String> {
        self.uses += 1;
        let used = self.uses;
        if let Some(cursor) = self.by_name.get_mut(name) {
            *cursor = Remembered { at, used };
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
            .insert(name.to_owned(), Remembered { at, used });
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i4_the_cursor_that_was_unused_for_longest_goes() {
        let mut cursors = Cursors::default();
        for number in 0..CURSORS_MAX as u64 {
            assert_eq!(cursors.set(&number.to_string(), Position(number)), None);
        }
        assert_eq!(cursors.get("0"), Some(Position(0)));
        assert_eq!(cursors.set("new", Position(7)), Some("1".to_owned()));
        assert_eq!(cursors.get("1"), None);
        assert_eq!(cursors.get("0"), Some(Position(0)));
        assert_eq!(cursors.set("0", Position(3)), None, "it is there already");
        assert_eq!(cursors.get("0"), Some(Position(3)));
    }
}

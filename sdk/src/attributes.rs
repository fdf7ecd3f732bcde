//! What a source knows of a record beside payload, key and timestamp: names and values.
//!
//! Owns their encoding: for each pair the length of the name (u32, little endian), the name (UTF-8),
//! the length of the value, the value. Names may repeat; order is the source's. Known names are
//! `topic`, `stream`, `operation`, and `header.NAME` for each header.

/// The attributes of one record, read where they lie.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Attributes in their encoded form. What is cut off or not UTF-8 ends the iteration.
    pub fn new(encoded: &'a [u8]) -> Self {
        Self { rest: encoded }
    }

    /// The first value under `name`.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.into_iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = split(self.rest)?;
        let (value, rest) = split(rest)?;
        self.rest = rest;
        Some((std::str::from_utf8(name).ok()?, value))
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Adds a pair to `encoded`; for tests, and for sources written elsewhere.
///
/// # Panics
/// If name or value is longer than 4 GiB.
pub fn encode(encoded: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), value] {
        let length = u32::try_from(part.len()).expect("an attribute is below 4 GiB");
        encoded.extend_from_slice(&length.to_le_bytes());
        encoded.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_in_order_and_the_first_of_a_name_wins() {
        let mut encoded = Vec::new();
        encode(&mut encoded, "topic", b"trades");
        encode(&mut encoded, "header.id", b"\xff\x00");
        encode(&mut encoded, "header.id", b"");
        let attributes = Attributes::new(&encoded);
        assert_eq!(attributes.get("topic"), Some(&b"trades"[..]));
        assert_eq!(attributes.get("header.id"), Some(&b"\xff\x00"[..]));
        assert_eq!(attributes.get("stream"), None);
        assert_eq!(attributes.count(), 3);
    }

    #[test]
    fn a_cut_value_ends_the_iteration() {
        let mut encoded = Vec::new();
        encode(&mut encoded, "a", b"1");
        encode(&mut encoded, "b", b"22");
        for length in 0..encoded.len() {
            let whole = Attributes::new(&encoded[..length]).count();
            assert_eq!(whole, usize::from(length >= 10), "cut at {length}");
        }
    }
}

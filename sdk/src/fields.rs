//! A few fields of a JSON object, found without parsing the rest.
//!
//! Owns the scan: it steps over values by their quotes and brackets and stops at the last field that is
//! wanted. What it steps over is not validated, what comes after is not looked at.

use std::borrow::Cow;

use serde::Deserialize;

use crate::Reject;

/// A field of a record, as it is written there.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a, 'n> {
    name: &'n str,
    raw: Option<&'a [u8]>,
}

impl<'a> Field<'a, '_> {
    /// The value as JSON; `None` where the record lacks the field.
    pub fn raw(&self) -> Option<&'a [u8]> {
        self.raw
    }

    /// The value as a `T`. A missing field is `null`: `Option<T>` takes it, another type does not.
    ///
    /// # Errors
    /// Where the value is no `T`, with the field's name.
    pub fn get<T: Deserialize<'a>>(&self) -> Result<T, Reject> {
        serde_json::from_slice(self.raw.unwrap_or(b"null")).map_err(|error| self.wrong(error))
    }

    /// The value as text, borrowed unless it has escapes.
    ///
    /// # Errors
    /// Where it is no string.
    #[inline]
    pub fn text(&self) -> Result<Cow<'a, str>, Reject> {
        if let Some([b'"', text @ .., b'"']) = self.raw
            && !text.contains(&b'\\')
            && let Ok(text) = std::str::from_utf8(text)
        {
            return Ok(Cow::Borrowed(text));
        }
        self.get::<String>().map(Cow::Owned)
    }

    fn wrong(&self, error: serde_json::Error) -> Reject {
        let name = self.name;
        match self.raw {
            None => Reject::new(format_args!("the record lacks the field `{name}`")),
            Some(_) => Reject::new(format_args!(
                "the field `{name}` is not as expected: {error}"
            )),
        }
    }
}

/// The fields `names` of the object in `json`.
pub(crate) fn find<'a, 'n, const N: usize>(
    json: &'a [u8],
    names: [&'n str; N],
) -> Result<[Field<'a, 'n>; N], Reject> {
    let mut fields = names.map(|name| Field { name, raw: None });
    let mut scan = Scan { json, at: 0 };
    match scan.object(&mut fields) {
        Some(()) => Ok(fields),
        None => Err(Reject::new(format_args!(
            "the record is no JSON object: byte {} is not as expected",
            scan.at
        ))),
    }
}

/// A place in a text of JSON. `None` from a step: the text is wrong at `at`.
struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn object(&mut self, fields: &mut [Field<'a, '_>]) -> Option<()> {
        let mut wanted = fields.len();
        self.space();
        self.expect(b'{')?;
        self.space();
        if self.peek()? == b'}' {
            return Some(());
        }
        while wanted > 0 {
            let name = self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            let start = self.at;
            self.value()?;
            if let Some(field) = field_named(fields, name) {
                field.raw = Some(&self.json[start..self.at]);
                wanted -= 1;
            }
            self.space();
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => break,
                _ => return None,
            }
            self.space();
        }
        Some(())
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Steps over a string; returns what is between its quotes.
    #[inline]
    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            self.at = quote_or_escape(self.json, self.at)?;
            if self.json[self.at] == b'"' {
                let text = &self.json[start..self.at];
                self.at += 1;
                return Some(text);
            }
            // The escaped byte may be a quote.
            self.at += 2;
        }
    }

    #[inline]
    fn value(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' | b'[' => self.container(),
            _ => {
                let start = self.at;
                while let Some(byte) = self.peek()
                    && !matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t')
                {
                    self.at += 1;
                }
                (self.at > start).then_some(())
            }
        }
    }

    /// Steps over an object or an array, however deep.
    fn container(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

/// The field with this name that has no value yet: where a name is there twice, the first counts.
#[inline]
fn field_named<'f, 'a, 'n>(
    fields: &'f mut [Field<'a, 'n>],
    name: &[u8],
) -> Option<&'f mut Field<'a, 'n>> {
    let found = |field: &&mut Field<'a, 'n>| field.raw.is_none() && field.name.as_bytes() == name;
    if name.contains(&b'\\') {
        return escaped_field_named(fields, name);
    }
    fields.iter_mut().find(found)
}

/// The same for a name with escapes.
#[cold]
fn escaped_field_named<'f, 'a, 'n>(
    fields: &'f mut [Field<'a, 'n>],
    name: &[u8],
) -> Option<&'f mut Field<'a, 'n>> {
    let quoted = [b"\"", name, b"\""].concat();
    let name: String = serde_json::from_slice(&quoted).ok()?;
    fields
        .iter_mut()
        .find(|field| field.raw.is_none() && field.name == name)
}

/// Where the next `"` or `\` is, from `at` on. Looks at eight bytes at a time.
#[inline]
fn quote_or_escape(json: &[u8], mut at: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    /// The high bit of every byte that is zero; exact up to the first such byte.
    fn zeros(word: u64) -> u64 {
        word.wrapping_sub(ONES) & !word & HIGHS
    }
    while let Some((word, _)) = json.get(at..)?.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let found = json[at..]
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(at + found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raws<const N: usize>(json: &str, names: [&str; N]) -> Result<Vec<String>, String> {
        let fields = find(json.as_bytes(), names).map_err(|reject| reject.to_string())?;
        let raw = |field: Field| String::from_utf8_lossy(field.raw.unwrap_or(b"-")).into_owned();
        Ok(fields.into_iter().map(raw).collect())
    }

    #[test]
    fn fields_are_found_in_any_order_and_as_they_are_written() {
        let json = r#" { "a" : 1.50 ,"b":{"a":[2,"}\""],"c":"]"},"c":"x\"y\\" ,"d":null,"long name here":[]}"#;
        assert_eq!(
            raws(json, ["c", "a", "z", "d"]).unwrap(),
            [r#""x\"y\\""#, "1.50", "-", "null"]
        );
        assert_eq!(
            raws(json, ["long name here", "b"]).unwrap(),
            ["[]", r#"{"a":[2,"}\""],"c":"]"}"#]
        );
        assert_eq!(raws("{}", ["a"]).unwrap(), ["-"]);
        assert_eq!(raws(r#"{"\u0061b":1,"ab":2}"#, ["ab"]).unwrap(), ["1"]);
        assert_eq!(raws(r#"{"a":1,"a":2}"#, ["a", "b"]).unwrap(), ["1", "-"]);
    }

    #[test]
    fn what_is_no_object_is_rejected_with_the_place() {
        for (json, byte) in [
            ("", 0),
            ("[1]", 0),
            ("{", 1),
            ("{a}", 1),
            (r#"{"a"}"#, 4),
            (r#"{"a":}"#, 5),
            (r#"{"a":1 2}"#, 7),
        ] {
            let reject = raws(json, ["z"]).unwrap_err();
            assert!(
                reject.contains(&format!("byte {byte} ")),
                "{json}: {reject}"
            );
        }
    }

    #[test]
    fn it_agrees_with_serde_on_every_object_and_never_panics_on_a_broken_one() {
        let json = r#"{"k0":-1.5e3,"kk1":"ä\u00e9\"","k2":{"k0":[[],{}," ]"]},"k3":true,"quite a long key":"quite a long value, with \\ and \" in it","k5":[1,2,{"x":"}"}]}"#;
        let names = ["k0", "kk1", "k2", "k3", "quite a long key", "k5", "none"];
        let whole: serde_json::Value = serde_json::from_str(json).unwrap();
        for field in find(json.as_bytes(), names).unwrap() {
            assert_eq!(
                field.get::<serde_json::Value>().unwrap(),
                whole.get(field.name).cloned().unwrap_or_default()
            );
        }
        for cut in 0..json.len() {
            assert!(
                find(&json.as_bytes()[..cut], names).is_err(),
                "cut at {cut}"
            );
        }
        for place in 0..json.len() {
            for byte in [b'"', b'\\', b'{', b'}', b'[', b']', b',', b':', 0xff] {
                let mut broken = json.as_bytes().to_vec();
                broken[place] = byte;
                let _ = find(&broken, names);
            }
        }
    }

    #[test]
    fn values_are_read_as_types() {
        let [a, b, c, d] = find(br#"{"a":2.5,"b":"x","c":"\n"}"#, ["a", "b", "c", "d"]).unwrap();
        assert_eq!(a.get::<f64>().unwrap(), 2.5);
        assert!(matches!(b.text().unwrap(), Cow::Borrowed("x")));
        assert_eq!(c.text().unwrap(), "\n");
        assert_eq!(d.get::<Option<f64>>().unwrap(), None);
        assert_eq!(
            d.get::<f64>().unwrap_err().reason(),
            "the record lacks the field `d`"
        );
        let reason = a.text().unwrap_err().to_string();
        assert!(
            reason.starts_with("the field `a` is not as expected: invalid type"),
            "{reason}"
        );
        assert!(find(b"{\"a\":\"\xff\"}", ["a"]).unwrap()[0].text().is_err());
    }
}

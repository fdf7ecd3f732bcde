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
    match object(json, &mut fields) {
        Ok(()) => Ok(fields),
        Err(at) => Err(Reject::new(format_args!(
            "the record is no JSON object: byte {at} is not as expected"
        ))),
    }
}

/// Where a step goes on, or where the text is not as expected. Places are passed and returned rather
/// than kept in a struct: in WebAssembly that would be memory, read and written again for every byte.
type Step = Result<usize, usize>;

fn object<'a>(json: &'a [u8], fields: &mut [Field<'a, '_>]) -> Result<(), usize> {
    let mut wanted = fields.len();
    let mut at = expect(json, space(json, 0), b'{')?;
    at = space(json, at);
    if peek(json, at)? == b'}' {
        return Ok(());
    }
    while wanted > 0 {
        let (name, escaped, end) = string(json, at)?;
        at = expect(json, space(json, end), b':')?;
        let start = space(json, at);
        let end = value(json, start)?;
        let field = match escaped {
            false => field_named(fields, name),
            true => escaped_field_named(fields, name),
        };
        if let Some(field) = field {
            field.raw = Some(&json[start..end]);
            wanted -= 1;
        }
        at = space(json, end);
        match peek(json, at)? {
            b',' => at = space(json, at + 1),
            b'}' => break,
            _ => return Err(at),
        }
    }
    Ok(())
}

#[inline(always)]
fn peek(json: &[u8], at: usize) -> Result<u8, usize> {
    json.get(at).copied().ok_or(at)
}

#[inline(always)]
fn expect(json: &[u8], at: usize, byte: u8) -> Step {
    if peek(json, at)? == byte {
        Ok(at + 1)
    } else {
        Err(at)
    }
}

/// Steps over white space. What machines write has mostly none: that costs one comparison.
#[inline(always)]
fn space(json: &[u8], at: usize) -> usize {
    match json.get(at) {
        Some(..=b' ') => spaces(json, at),
        _ => at,
    }
}

#[inline(never)]
fn spaces(json: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = json.get(at) {
        at += 1;
    }
    at
}

/// Steps over a string: what is between its quotes, whether there are escapes in it, and where it ends.
#[inline(always)]
fn string(json: &[u8], at: usize) -> Result<(&[u8], bool, usize), usize> {
    let start = expect(json, at, b'"')?;
    let mut from = start;
    let mut escaped = false;
    loop {
        let found = first(json, from, quote_or_escape).ok_or(from)?;
        if json[found] == b'"' {
            return Ok((&json[start..found], escaped, found + 1));
        }
        escaped = true;
        // The escaped byte may be a quote.
        from = found + 2;
    }
}

/// Steps over a value.
#[inline(always)]
fn value(json: &[u8], at: usize) -> Step {
    match peek(json, at)? {
        b'"' => string(json, at).map(|(_, _, end)| end),
        b'{' | b'[' => container(json, at),
        _ => match scalar(json, at) {
            end if end > at => Ok(end),
            _ => Err(at),
        },
    }
}

/// Steps over a number or a word.
#[inline(always)]
fn scalar(json: &[u8], at: usize) -> usize {
    let mut end = at;
    loop {
        end = first(json, end, scalar_end).unwrap_or(json.len());
        match json.get(end) {
            Some(b'\t' | b'\n' | b'\r' | b' '..) | None => return end,
            Some(_control) => end += 1,
        }
    }
}

/// Steps over an object or an array, however deep.
#[inline(never)]
fn container(json: &[u8], mut at: usize) -> Step {
    let mut depth = 0_usize;
    loop {
        match peek(json, at)? {
            b'"' => {
                at = string(json, at)?.2;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Ok(at);
        }
    }
}

/// The field with this name that has no value yet: where a name is there twice, the first counts.
#[inline]
fn field_named<'f, 'a, 'n>(
    fields: &'f mut [Field<'a, 'n>],
    name: &[u8],
) -> Option<&'f mut Field<'a, 'n>> {
    let named = |field: &&mut Field<'a, 'n>| field.raw.is_none() && field.name.as_bytes() == name;
    fields.iter_mut().find(named)
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

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The first byte from `at` on that `marks` marks. Looks at eight bytes at a time: names and numbers
/// are short, and a loop over bytes costs a mispredicted branch where it ends.
#[inline(always)]
fn first(json: &[u8], mut at: usize, marks: impl Fn(u64) -> u64) -> Option<usize> {
    while let Some(word) = json.get(at..)?.first_chunk::<8>() {
        let found = marks(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    // What fills the last word up comes after every byte that counts.
    let (word, bytes) = last_word(json, at);
    let found = marks(word).trailing_zeros() as usize / 8;
    (found < bytes).then_some(at + found)
}

/// The fewer than eight bytes from `at` on, and how many they are.
#[inline(never)]
fn last_word(json: &[u8], at: usize) -> (u64, usize) {
    let rest = &json[at..];
    let word = rest
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte));
    (word, rest.len())
}

/// Sets the high bit of every byte below `bound` (128 at most). Exact up to the first such byte, above
/// which there may be others; so is whatever is made of several by `|`.
#[inline(always)]
fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(bound)) & !word & HIGHS
}

/// The same for every byte that is `byte`.
#[inline(always)]
fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

/// Marks `"` and `\`.
#[inline(always)]
fn quote_or_escape(word: u64) -> u64 {
    equal(word, b'"') | equal(word, b'\\')
}

/// Marks what ends a number or a word: `,`, `}`, `]` and white space; and other control characters,
/// which are no white space.
#[inline(always)]
fn scalar_end(word: u64) -> u64 {
    // `]` and `}` differ in one bit.
    equal(word, b',') | equal(word | (ONES * 0x20), b'}') | below(word, b' ' + 1)
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
        // Not validated: a control character is part of what it stands in.
        assert_eq!(
            raws("{\"a\":1\u{1}2\t,\"b\":[]}", ["a", "b"]).unwrap(),
            ["1\u{1}2", "[]"]
        );
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

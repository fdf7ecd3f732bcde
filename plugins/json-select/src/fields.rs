//! The fields of a record, in its order, each value as it is written.
//!
//! Owns reading an object and finding what a name or a JSON pointer means in it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use wirefall_sdk::prelude::Reject;
use wirefall_sdk::serde_json::{self, value::RawValue};

/// An object.
pub(crate) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (&**name, value.get()))
    }

    /// The field's value; the last, where a name is there twice, as most readers of JSON have it.
    fn get(&self, name: &str) -> Option<&'a str> {
        let mut fields = self.0.iter().rev();
        let found = fields.find(|(found, _)| found == name);
        found.map(|(_, value)| value.get())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::with_capacity(24);
                while let Some(Name(name)) = object.next_key()? {
                    fields.push((name, object.next_value()?));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A name, borrowed unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// A field by name, or by JSON pointer where it starts with `/`.
pub(crate) struct Path {
    /// The field of the record, then what is inside.
    parts: Vec<String>,
}

impl Path {
    pub(crate) fn new(field: &str) -> Self {
        let parts = match field.strip_prefix('/') {
            None => vec![field.to_owned()],
            Some(pointer) => pointer
                .split('/')
                .map(|part| part.replace("~1", "/").replace("~0", "~"))
                .collect(),
        };
        Self { parts }
    }

    /// The last part: the name under which the value goes on.
    pub(crate) fn name(&self) -> &str {
        self.parts.last().map_or("", |part| part)
    }

    /// What the path leads to in a record, as it is written there.
    pub(crate) fn find<'a>(&self, fields: &Fields<'a>) -> Result<Option<&'a str>, Reject> {
        let Some((first, inside)) = self.parts.split_first() else {
            return Ok(None);
        };
        let mut value = fields.get(first);
        for part in inside {
            let Some(text) = value else { break };
            value = match text.as_bytes().first() {
                Some(b'{') => serde_json::from_str::<Fields>(text)?.get(part),
                Some(b'[') => {
                    let items: Vec<&RawValue> = serde_json::from_str(text)?;
                    let index = part.parse().ok();
                    index.and_then(|index: usize| items.get(index).map(|item| item.get()))
                }
                _ => None,
            };
        }
        Ok(value)
    }
}

//! What a formatter emits.
//!
//! Owns the output columns while a batch is formatted: values are written in place, and what a
//! rejected record had emitted is taken back.

use std::fmt::Display;
use std::io::Write;

use serde::Serialize;

use crate::Reject;

/// Takes the outputs of the record at hand: none, one or several.
#[derive(Debug, Default)]
pub struct Output {
    pub(crate) payloads: Vec<u8>,
    pub(crate) ends: Vec<u32>,
    pub(crate) sources: Vec<u32>,
    keys: Vec<u8>,
    /// Which outputs have a key of their own (ascending), and where it ends in `keys`.
    keyed: Vec<(u32, u32)>,
    index: u32,
}

impl Output {
    /// Emits a value as JSON.
    ///
    /// # Errors
    /// Where the value has no JSON form; nothing is emitted.
    #[inline]
    pub fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Reject> {
        self.build(|bytes| serde_json::to_writer(bytes, value).map_err(Reject::from))
    }

    /// Emits text: a `&str`, or `format_args!("{} {}", …)`.
    ///
    /// # Errors
    /// Where `Display` fails, or the batch's outputs pass 4 GiB; nothing is emitted.
    #[inline]
    pub fn text(&mut self, text: impl Display) -> Result<(), Reject> {
        self.build(|bytes| write!(bytes, "{text}").map_err(Reject::from))
    }

    /// Emits bytes as they are.
    ///
    /// # Errors
    /// Where the batch's outputs pass 4 GiB; nothing is emitted.
    #[inline]
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Reject> {
        self.build(|buffer| {
            buffer.extend_from_slice(bytes.as_ref());
            Ok(())
        })
    }

    /// Emits what `write` appends to the buffer, for formats of your own. The buffer holds earlier
    /// outputs too: append only.
    ///
    /// # Errors
    /// What `write` returns, or where the batch's outputs pass 4 GiB; nothing is emitted.
    #[inline]
    pub fn build(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Reject>,
    ) -> Result<(), Reject> {
        let start = self.payloads.len();
        let written = write(&mut self.payloads);
        let end = u32::try_from(self.payloads.len());
        match (written, end) {
            (Ok(()), Ok(end)) => {
                self.ends.push(end);
                self.sources.push(self.index);
                Ok(())
            }
            (written, _) => {
                self.payloads.truncate(start);
                written.and(Err(Reject::new("the outputs of a batch pass 4 GiB")))
            }
        }
    }

    /// The next output gets this key; without one it has its input's.
    ///
    /// ```
    /// # use wirefall_sdk::prelude::*;
    /// # fn f(out: &mut Output) -> Result<(), Reject> {
    /// out.keyed("AAPL").json(&("AAPL", 12.5))
    /// # }
    /// ```
    pub fn keyed<K: AsRef<[u8]>>(&mut self, key: K) -> Keyed<'_, K> {
        Keyed { out: self, key }
    }

    pub(crate) fn with_capacity(outputs: usize, bytes: usize) -> Self {
        Self {
            payloads: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(outputs),
            sources: Vec::with_capacity(outputs),
            ..Self::default()
        }
    }

    /// Goes on to input `index`; returns where to go [back](Self::withdraw) to.
    #[inline]
    pub(crate) fn next(&mut self, index: u32) -> usize {
        self.index = index;
        self.ends.len()
    }

    /// Takes back all outputs from the `kept`th on.
    pub(crate) fn withdraw(&mut self, kept: usize) {
        let end = |ends: &[u32]| ends.last().map_or(0, |end| *end as usize);
        self.ends.truncate(kept);
        self.sources.truncate(kept);
        self.payloads.truncate(end(&self.ends));
        let keyed = self
            .keyed
            .partition_point(|(output, _)| (*output as usize) < kept);
        self.keyed.truncate(keyed);
        self.keys
            .truncate(self.keyed.last().map_or(0, |(_, end)| *end as usize));
    }

    /// The key column: empty where no output has a key of its own, else with `inherited` filled in.
    pub(crate) fn take_keys<'a>(
        &mut self,
        inherited: impl Fn(u32) -> &'a [u8],
    ) -> (Vec<u8>, Vec<u32>) {
        let own_keys = std::mem::take(&mut self.keys);
        let keyed = std::mem::take(&mut self.keyed);
        if keyed.len() == self.sources.len() {
            return (own_keys, keyed.into_iter().map(|(_, end)| end).collect());
        }
        if keyed.is_empty() {
            return Default::default();
        }
        let (mut keys, mut ends) = (Vec::new(), Vec::with_capacity(self.sources.len()));
        let mut own = keyed.iter().peekable();
        let mut start = 0;
        for (output, source) in self.sources.iter().enumerate() {
            match own.next_if(|(keyed, _)| *keyed as usize == output) {
                Some(&(_, end)) => {
                    keys.extend_from_slice(&own_keys[start..end as usize]);
                    start = end as usize;
                }
                None => keys.extend_from_slice(inherited(*source)),
            }
            ends.push(u32::try_from(keys.len()).expect("keys of a batch are below 4 GiB"));
        }
        (keys, ends)
    }
}

/// An output with a key of its own, from [`Output::keyed`].
#[derive(Debug)]
#[must_use = "emit something with the key"]
pub struct Keyed<'o, K> {
    out: &'o mut Output,
    key: K,
}

impl<K: AsRef<[u8]>> Keyed<'_, K> {
    /// As [`Output::json`].
    ///
    /// # Errors
    /// As there.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Reject> {
        self.with(|out| out.json(value))
    }

    /// As [`Output::text`].
    ///
    /// # Errors
    /// As there.
    pub fn text(self, text: impl Display) -> Result<(), Reject> {
        self.with(|out| out.text(text))
    }

    /// As [`Output::bytes`].
    ///
    /// # Errors
    /// As there.
    pub fn bytes(self, bytes: impl AsRef<[u8]>) -> Result<(), Reject> {
        self.with(|out| out.bytes(bytes))
    }

    /// As [`Output::build`].
    ///
    /// # Errors
    /// As there.
    pub fn build(
        self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Reject>,
    ) -> Result<(), Reject> {
        self.with(|out| out.build(write))
    }

    fn with(self, emit: impl FnOnce(&mut Output) -> Result<(), Reject>) -> Result<(), Reject> {
        let Self { out, key } = self;
        emit(out)?;
        out.keys.extend_from_slice(key.as_ref());
        let end = u32::try_from(out.keys.len()).expect("keys of a batch are below 4 GiB");
        out.keyed.push((out.ends.len() as u32 - 1, end));
        Ok(())
    }
}

//! What happens before there is a config to say it: the tests write another word over the last one, in
//! the bytes of the component.
//!
//! Owns the two marks and reading them. Called when an instance is made, and by the exports.

use std::hint::black_box;

use crate::{endless, grow, trap};

/// When an instance is made.
static AT_START: &[u8; 20] = b"at start:    nothing";

/// In `describe`.
static IN_DESCRIBE: &[u8; 20] = b"in describe: nothing";

/// Where the word of a mark begins.
const WORD_AT: usize = 13;

fn word(mark: &'static [u8; 20]) -> &'static [u8] {
    // What is there is only known when it runs.
    black_box(mark)[WORD_AT..].trim_ascii()
}

fn does(word: &[u8]) {
    match word {
        b"panic" => panic!("cannot bear to be"),
        b"trap" => trap(),
        b"loop" => endless(),
        b"grow" => grow(),
        _ => {}
    }
}

/// Breaks as the mark says.
pub(crate) fn in_describe() {
    does(word(IN_DESCRIBE));
}

/// Runs when an instance is made, as the constructors of a C++ library would.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = {
    extern "C" fn start() {
        does(word(AT_START));
    }
    start
};

//! Lines for the host's log: `log::info!("…")`. Natively they go to standard error.
//!
//! The host keeps a bounded number of lines a call (`limits.log_lines`) and counts the rest.

use std::fmt::Arguments;

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is broken.
    Error,
    /// Something is odd.
    Warn,
    /// Something worth knowing.
    Info,
    /// For whoever looks for a fault.
    Debug,
    /// Every step.
    Trace,
}

/// Writes a line; the macros of this module are shorter.
pub fn write(level: Level, line: Arguments<'_>) {
    #[cfg(target_family = "wasm")]
    to_host(level, &line.to_string());
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {line}");
}

#[cfg(target_family = "wasm")]
fn to_host(level: Level, line: &str) {
    use crate::bindings::wirefall::plugin::log as host;
    let level = match level {
        Level::Error => host::Level::Error,
        Level::Warn => host::Level::Warn,
        Level::Info => host::Level::Info,
        Level::Debug => host::Level::Debug,
        Level::Trace => host::Level::Trace,
    };
    host::write(level, line);
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_error { ($($line:tt)+) => { $crate::log::write($crate::log::Level::Error, ::std::format_args!($($line)+)) } }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn { ($($line:tt)+) => { $crate::log::write($crate::log::Level::Warn, ::std::format_args!($($line)+)) } }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info { ($($line:tt)+) => { $crate::log::write($crate::log::Level::Info, ::std::format_args!($($line)+)) } }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug { ($($line:tt)+) => { $crate::log::write($crate::log::Level::Debug, ::std::format_args!($($line)+)) } }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace { ($($line:tt)+) => { $crate::log::write($crate::log::Level::Trace, ::std::format_args!($($line)+)) } }

#[doc(inline)]
pub use crate::{
    __log_debug as debug, __log_error as error, __log_info as info, __log_trace as trace,
    __log_warn as warn,
};

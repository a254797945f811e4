//! Log lines, which appear in the host's log with plugin, object and pass.
//!
//! Use the macros: `windlass::info!("{} of {} are ready", ready, wanted)`. `println!` and panics
//! arrive there as well. A call may log 16 KiB; a line is at most 4,096 bytes.

use std::fmt::Arguments;

/// Severity of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever writes the plugin.
    Debug,
    /// Something changed.
    Info,
    /// Something is wrong and mends itself.
    Warn,
    /// Somebody has to act.
    Error,
}

/// Writes one line; the macros call it. In a native test it goes to stderr.
pub fn write(level: Level, line: Arguments<'_>) {
    #[cfg(target_family = "wasm")]
    crate::raw::log(level, &line.to_string());
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {line}");
}

/// Logs what only the plugin's author wants to know; formats like `println!`.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Debug, ::core::format_args!($($arg)*)) };
}

/// Logs that something changed; formats like `println!`.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, ::core::format_args!($($arg)*)) };
}

/// Logs that something is wrong and mends itself; formats like `println!`.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warn, ::core::format_args!($($arg)*)) };
}

/// Logs that somebody has to act; formats like `println!`.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, ::core::format_args!($($arg)*)) };
}

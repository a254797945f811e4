//! The escape drill: native code of a stranger's, inside the fences, tries what it can.
//!
//! One table of attempts. Each runs in a process of its own (this binary again), as root and as
//! another user, from the first thread and from a later one, and must get nothing. The same table runs without
//! the fences, where most of it must succeed: so it is known that the attempts are real.
//! `-- --nocapture` prints what each attempt got.
#![allow(unsafe_code)] // It plays an attacker.

mod attempts;
mod cell;
mod drill;
mod files;
mod kernel;
mod memory;
mod network;
mod prisoner;
mod processes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("prisoner") => prisoner::run(&args[1..]),
        Some("victim") => prisoner::victim(args[1..].iter().any(|arg| arg == "hidden")),
        Some("--list") => {
            drill::TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
            ExitCode::SUCCESS
        }
        _ => drill::run(&args),
    }
}

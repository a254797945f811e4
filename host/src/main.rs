//! The binary `windlass`. Everything is in the modules; this file only says how a
//! run ends.

mod access;
mod args;
mod connect;
mod decide;
mod election;
mod end;
mod endpoint;
mod fence;
mod inside;
mod lead;
mod logs;
mod memory;
mod observe;
mod plugins;
mod quarantine;
mod reviews;
mod rights;
mod role;
mod run;
mod sandbox;
mod tasks;
mod told;
mod trust;
mod views;
mod watchdog;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::end::End;

fn main() -> ExitCode {
    let flags = match Cli::parse().command {
        Command::Run(flags) => flags,
        Command::Worker(flags) => return inside::worker(*flags),
        Command::Compile(flags) => return inside::compile(&flags),
    };
    let end = match flags.check() {
        Ok(()) => run::run(*flags),
        Err(sentence) => End::Unusable(sentence),
    };
    end.report()
}

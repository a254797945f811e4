//! The binary `windlass`. Everything is in the modules; this file only says how a
//! run ends.

mod args;
mod decide;
mod election;
mod end;
mod fence;
mod lead;
mod logs;
mod observe;
mod plugins;
mod role;
mod run;
mod tasks;
mod views;
mod watchdog;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::end::End;

fn main() -> ExitCode {
    let Command::Run(flags) = Cli::parse().command;
    let end = match flags.check() {
        Ok(()) => run::run(*flags),
        Err(sentence) => End::Unusable(sentence),
    };
    end.report()
}

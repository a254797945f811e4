//! Everything that is run by hand: `cargo xtask up | test | plugin | author | dist | image | nemesis | fuzz | bench`.

mod author;
mod bench;
mod build;
mod demo;
mod dist;
mod drill;
mod fuzz;
mod image;
mod nemesis;
mod plugin;
mod steps;
mod test;
mod tour;
mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs, tests, packages and measures Windlass.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a control plane and three replicas, reconcile a sample WebApp, show what happens.
    ///
    /// Builds all that is needed first (once; kept). Ctrl-C ends it and leaves nothing behind.
    Up(up::Up),
    /// Run every check that fits CI: format, lints, tests against a real API server, the tour, dependencies.
    Test(test::Test),
    /// Build one plugin of this tree and package it, as `kubectl windlass package` does for any.
    Plugin(plugin::Args),
    /// Walk docs/packages.md from an empty folder: each file and each command in it, on a cluster that demands signatures.
    Author,
    /// Build the plugins to where `deploy/` finds them, and write dist/install.yaml.
    Dist,
    /// Build the host's image as an OCI archive, without a containers engine, and the bill of what is in it.
    Image(image::Image),
    /// Kill, freeze, stop, cut off and slow leaders under load, and judge it by the API server's own records.
    Nemesis(nemesis::Nemesis),
    /// Throw bytes at what reads strangers' bytes, guided by coverage; the corpus is in fuzz/.
    Fuzz(fuzz::Fuzz),
    /// Measure on this machine and print the figures of docs/benchmarks.md.
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(up) => up.run(),
        Command::Test(test) => test.run(),
        Command::Plugin(args) => args.run(),
        Command::Author => author::run(),
        Command::Dist => dist::run(),
        Command::Image(image) => image.run(),
        Command::Nemesis(nemesis) => nemesis.run(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Bench(bench) => bench.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

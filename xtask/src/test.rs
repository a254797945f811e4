//! `cargo xtask test`: every check that fits CI, in the order in which they fail fastest.

use std::process::Command;

use anyhow::{Result, ensure};
use windlass_testbed::nodes::Cluster;
use windlass_testbed::{Binaries, component, progress};

use crate::steps::{Steps, run, run_with};
use crate::{drill, plugin, root};

/// Version of cargo-deny that is installed when none is there.
const CARGO_DENY: &str = "0.20.2";

/// Largest example component, plain and compressed: small plugins are a promise of the SDK.
const EXAMPLE_BYTES: usize = 250_000;
const EXAMPLE_COMPRESSED_BYTES: usize = 100_000;

/// How much to check.
#[derive(clap::Args)]
pub(crate) struct Test {
    /// Also run what takes long: the storms and the repeated kills.
    #[arg(long)]
    full: bool,
    /// Instead: deploy the host's image on real nodes, and do to it all that production does. About 20 minutes.
    #[arg(long, conflicts_with = "full")]
    nodes: bool,
    #[command(flatten)]
    drill: drill::Drill,
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        if self.nodes {
            return self.drill.run();
        }
        let mut steps = Steps::default();
        steps.step("format", || run("cargo", &["fmt", "--all", "--check"]));
        steps.step("clippy", || {
            run("cargo", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
        });
        steps.step("components", components);
        steps.step("control plane", || Binaries::locate_or_build(&*progress::detect()).map(drop));
        steps.step("nodes", nodes);
        steps.step("unit, component and integration tests", || tests(self.full));
        steps.step("tests of the tests: each broken rule of leadership and of the memos is found", mutants);
        if self.full {
            steps.step("fuzzing, a minute a target", || run("cargo", &["xtask", "fuzz", "--seconds", "60"]));
        }
        steps.step("documentation tests", || run("cargo", &["test", "--workspace", "--locked", "--doc"]));
        steps.step("README: cargo xtask up --tour", || run("cargo", &["xtask", "up", "--tour"]));
        steps.step("docs/packages.md: cargo xtask author", || run("cargo", &["xtask", "author"]));
        steps.step("README: cargo xtask dist", || run("cargo", &["xtask", "dist"]));
        steps.step("dependencies: bans, licences, sources", deny);
        steps.finish()
    }
}

/// Builds the components that the tests load, so that no test waits for a compiler.
fn components() -> Result<()> {
    for example in ["plugins/webapp", "plugins/tenant"] {
        let package = plugin::build(&root().join(example))?;
        plugin::check_rights(&package, &root().join(example))?;
        let (raw, compressed) = (package.wasm.len(), package.compressed.len());
        println!("{example}: {raw} bytes, {compressed} compressed");
        ensure!(
            raw < EXAMPLE_BYTES && compressed < EXAMPLE_COMPRESSED_BYTES,
            "the component of {example} has grown too large"
        );
    }
    for example in fixtures()? {
        component("windlass-fixtures", Some(&example))?;
    }
    Ok(())
}

/// What nodes are made of, where this machine allows some. Where it does not that is said, and their tests say it too.
fn nodes() -> Result<()> {
    match Cluster::possible() {
        Ok(()) => Cluster::prepare(&*progress::detect()),
        Err(reason) => {
            eprintln!("note: nothing is tested on real nodes: {reason:#}");
            Ok(())
        }
    }
}

/// Every fixture in the tree: one example a fault.
fn fixtures() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("plugins/fixtures/examples"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") {
            names.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn tests(full: bool) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["test", "--workspace", "--locked", "--lib", "--bins", "--tests", "--no-fail-fast"]);
    if full {
        command.env("WINDLASS_TEST_FULL", "1");
    }
    run_with(&mut command)
}

/// The elector and the memos with one rule broken at a time: the model, the simulation and the pair of hosts must find each. The
/// whole workspace is named, or every dependency would be built once more with other features.
fn mutants() -> Result<()> {
    let which =
        ["--features", "windlass-host/mutants", "--test", "model", "--test", "simulation", "--test", "same"];
    run("cargo", &[&["test", "--workspace", "--locked", "--bin", "windlass"][..], &which[..]].concat())
}

fn deny() -> Result<()> {
    if run("cargo", &["deny", "--version"]).is_err() {
        run("cargo", &["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--debug"])?;
    }
    run("cargo", &["deny", "check", "bans", "licenses", "sources"])?;
    // The advisory database lives outside the package registries: where it cannot be
    // reached that is said, and does not pass for a clean answer.
    let advisories =
        Command::new("cargo").args(["deny", "check", "advisories"]).current_dir(root()).output()?;
    let said = String::from_utf8_lossy(&advisories.stderr);
    if said.contains("failed to fetch advisory database") {
        eprintln!("note: advisories were NOT checked: their database cannot be reached from here");
        return Ok(());
    }
    eprint!("{said}");
    anyhow::ensure!(advisories.status.success(), "cargo deny check advisories failed");
    Ok(())
}

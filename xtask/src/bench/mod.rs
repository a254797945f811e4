//! `cargo xtask bench NAME`: honest figures from this machine, with floors and peers measured in the same run.
//!
//! Not tests: nothing here asserts a time. Each benchmark writes `target/bench/NAME.json`, and a picture beside it where one
//! says more than a table.

mod apart;
mod bars;
mod baseline;
mod cache;
mod coldstart;
mod crowd;
mod deployed;
mod failover;
mod hop;
mod idle;
mod latency;
mod noisy;
mod observe;
mod outside;
mod peers;
mod picture;
mod proc;
mod ratio;
mod reload;
mod report;
mod resync;
mod rig;
mod sandbox;
mod scrape;
mod shelf;
mod sizing;
mod stamp;
mod storm;
mod stream;
mod wake;
mod work;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use self::apart::Apart;

pub(crate) use failover::Contender;
pub(crate) use stamp::{Stamp, deployed};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// Which benchmark.
    name: Name,
    /// Measure this host binary instead of building one for release.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Few rounds, to see that it works.
    #[arg(long)]
    quick: bool,
    /// Control plane and load on one half of the processors, the host on the other: what is measured is the host's doing.
    #[arg(long)]
    apart: bool,
    /// failover: crashes of ours; of everything else there are at most as many. storm, latency, resync: rounds, 3 unless said; cache: 5.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// failover, cache, coldstart, storm, latency, resync: who takes part, in this order.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    peers: Option<Vec<Contender>>,
    /// failover: milliseconds between two changes; else as fast as 30 % of what the slowest can follow, and at least 5.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=1000))]
    every_ms: Option<u64>,
    /// failover: go on with the turns that this report of an interrupted run lacks.
    #[arg(long, value_name = "JSON")]
    resume: Option<PathBuf>,
}

/// The benchmarks.
#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Latency, memory and failover of the host alone.
    Baseline,
    /// What a crash, an end, a freeze and an outage cost, beside peers that do the same job.
    Failover,
    /// What production does to a deployment on real nodes, beside a peer that is deployed the same way.
    Deployed,
    /// What a hundred plugins cost while nothing happens, and how long one takes to wake.
    Idle,
    /// What it costs that plugins run in another process, and in a sandbox at all.
    Sandbox,
    /// How long a swap takes, whether a change is lost, and what the other plugins feel of it.
    Reload,
    /// How near to the API server's write ceiling many new objects are worked off, and for how much CPU.
    Storm,
    /// How long a change takes to its effect, beside a bare watcher that answers with one prepared write.
    Latency,
    /// What good plugins feel of one that loops, grabs memory, panics or floods the log.
    Noisy,
    /// What an object costs that is held, beside its own JSON and beside peers.
    Cache,
    /// What it costs to look at every object again although nothing changed, and at a takeover.
    Resync,
    /// From the start of a process until it holds everything, beside a bare list.
    Coldstart,
    /// What the sizes of deploy/components carry in a pod on a real node.
    Sizing,
    /// What a call costs that wakes one of many plugins, in the process that runs them.
    Wake,
    /// What an object and a change cost with more and more objects and plugins.
    Work,
}

impl Bench {
    pub(crate) fn run(mut self) -> Result<()> {
        let folder = tempfile::tempdir().context("make a temporary directory")?;
        if self.apart {
            self.binary = Some(Apart::divide(self.binary.take(), folder.path())?);
        }
        match self.name {
            Name::Baseline => baseline::run(&self),
            Name::Failover => failover::run(&self),
            Name::Deployed => deployed::run(&self),
            Name::Idle => idle::run(&self),
            Name::Sandbox => sandbox::run(&self),
            Name::Reload => reload::run(&self),
            Name::Storm => storm::run(&self),
            Name::Latency => latency::run(&self),
            Name::Noisy => noisy::run(&self),
            Name::Cache => cache::run(&self),
            Name::Resync => resync::run(&self),
            Name::Coldstart => coldstart::run(&self),
            Name::Sizing => sizing::run(&self),
            Name::Wake => wake::run(&self),
            Name::Work => work::run(&self),
        }
    }
}

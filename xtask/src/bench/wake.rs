//! `cargo xtask bench wake`: what a call costs that wakes one of many idle plugins, in the process that runs them and nowhere else.
//!
//! `idle` sees a wake from the queue to the decision, in a whole host on a control plane. This is the part of it that is the
//! worker's, without either, so that it can be looked at by itself. Each round has five scenes: `busy` asks one plugin again and again, `paced` with a
//! pause before each call, `beside` does so while two calls that loop have the processors, `others` asks a hundred plugins in turn with that pause, and `rested` does so once after
//! all have rested for so long that their code has been given back. CPU and faults are the worker's, and hardly
//! change with what else runs on the machine; wall time does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use windlass_core::name::PluginName;
use windlass_core::snapshot::Snapshot;
use windlass_plugin::Plugin;

use super::Bench;
use super::outside::{self, Outside};
use super::reload::Ready;
use super::report::{Report, load_average, quantile};
use super::stamp::{Stamp, component};
use crate::build;

/// Before a call, where there is a pause: a processor that has nothing else to do has gone to sleep by then.
const PAUSE: Duration = Duration::from_millis(10);
/// Longer than the code of a plugin stays that nobody asks.
const REST: Duration = Duration::from_secs(9);

/// Calls that loop at once.
const LOOPS: usize = 2;
/// Until they have begun, and until their threads have ended.
const BEGUN: Duration = Duration::from_millis(100);

/// One scene of one round.
struct Taken {
    scene: &'static str,
    wall_us: Vec<f64>,
    cpu_us: f64,
    faults: f64,
}

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let binary = bench.binary.clone().map_or_else(|| build::host(true), Ok)?;
    let (plugins, rounds) = if bench.quick { (20, 2) } else { (100, 5) };
    let (stamp, outside) = (Stamp::build()?, Outside::start(&binary)?);
    let mut report = Report::new("wake");
    eprintln!("{plugins} plugins are compiled");
    let members = (0..plugins).map(|number| Ready::new(&outside, &stamp.member(number, 1)?));
    let members = members.collect::<Result<Vec<_>>>()?;
    let worker = outside.worker()?;
    let loops = Loops::new(&outside)?;
    let (one, all) = (&members[..1], &members[..]);
    let mut scenes = Vec::new();
    for round in 0..bench.rounds.unwrap_or(rounds) {
        let times = members.len();
        for taken in [
            scene("busy", worker, one, times, Duration::ZERO)?,
            scene("paced", worker, one, times, PAUSE)?,
            loops.beside(|| scene("beside", worker, one, 3 * times, PAUSE))?,
            scene("others", worker, all, times, PAUSE)?,
            {
                std::thread::sleep(REST);
                scene("rested", worker, all, times, PAUSE)?
            },
        ] {
            let Taken { scene, wall_us, cpu_us, faults } = &taken;
            let at = |share| quantile(&sorted(wall_us.clone()), share).map(f64::round);
            let value = json!({
                "round": round, "scene": scene, "p50_us": at(0.5), "p99_us": at(0.99), "cpu_us": cpu_us.round(),
                "faults": (faults * 10.0).round() / 10.0, "load_average": load_average(),
            });
            eprintln!("{value}");
            report.rounds.push(value);
            scenes.push(taken);
        }
    }
    for name in ["busy", "paced", "beside", "others", "rested"] {
        figures(&mut report, name, &scenes);
    }
    report.conditions.insert("plugins".to_owned(), json!(plugins));
    report.conditions.insert("component_bytes".to_owned(), json!(stamp.bytes()));
    let path = report.write()?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, path.display());
    Ok(())
}

/// A plugin that loops whenever it is asked.
struct Loops {
    plugin: Plugin,
    snapshot: Snapshot,
}

impl Loops {
    fn new(outside: &Outside) -> Result<Self> {
        let wasm = std::fs::read(component("windlass-fixtures", Some("loops"))?).context("read a fixture")?;
        let plugin = outside::load(&outside.loader, &PluginName::try_new("loops")?, &wasm)?;
        let whole = outside::primary(&json!({ "mode": "tight" }));
        let snapshot = outside::snapshot(&plugin.manifest().primary, &whole, &[])?;
        Ok(Self { plugin, snapshot })
    }

    /// Does `what` while as many of its calls are under way as there are processors on a small machine.
    fn beside(&self, what: impl FnOnce() -> Result<Taken>) -> Result<Taken> {
        let stop = AtomicBool::new(false);
        let taken = std::thread::scope(|threads| {
            for _ in 0..LOOPS {
                threads.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        // E202: that is what it is here for.
                        let _ = outside::ask(&self.plugin, &self.snapshot);
                    }
                });
            }
            std::thread::sleep(BEGUN);
            let taken = what();
            stop.store(true, Ordering::Relaxed);
            taken
        });
        // Threads that end would be missing in what the next scene has used.
        std::thread::sleep(BEGUN);
        taken
    }
}

/// Asks one plugin after the other.
fn scene(
    scene: &'static str,
    worker: u32,
    members: &[Ready],
    times: usize,
    pause: Duration,
) -> Result<Taken> {
    let mut wall_us = Vec::with_capacity(times);
    let before = Used::of(worker)?;
    for member in members.iter().cycle().take(times) {
        std::thread::sleep(pause);
        let began = std::time::Instant::now();
        member.ask()?;
        wall_us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let after = Used::of(worker)?;
    let each = |of: fn(&Used) -> f64| (of(&after) - of(&before)) / times as f64;
    Ok(Taken { scene, wall_us, cpu_us: each(|used| used.cpu_us), faults: each(|used| used.faults) })
}

fn figures(report: &mut Report, name: &str, scenes: &[Taken]) {
    let mine: Vec<_> = scenes.iter().filter(|taken| taken.scene == name).collect();
    let wall = sorted(mine.iter().flat_map(|taken| taken.wall_us.iter().copied()).collect());
    let middle = |of: fn(&Taken) -> f64| {
        quantile(&sorted(mine.iter().map(|taken| of(taken)).collect()), 0.5)
            .map(|v| (v * 10.0).round() / 10.0)
    };
    let figures: [(&str, Value); 4] = [
        ("p50_us", json!(quantile(&wall, 0.5).map(f64::round))),
        ("p99_us", json!(quantile(&wall, 0.99).map(f64::round))),
        ("cpu_us", json!(middle(|taken| taken.cpu_us))),
        ("faults", json!(middle(|taken| taken.faults))),
    ];
    report.figures.extend(figures.map(|(figure, value)| (format!("{name}_{figure}"), value)));
}

/// What the threads of a process have used since they began.
struct Used {
    cpu_us: f64,
    faults: f64,
}

impl Used {
    fn of(pid: u32) -> Result<Self> {
        let mut used = Self { cpu_us: 0.0, faults: 0.0 };
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).context("the worker has ended")?;
        for task in tasks {
            let path = task.context("list threads")?.path();
            // To the nanosecond, which /proc/<pid>/stat is not.
            let schedule = std::fs::read_to_string(path.join("schedstat")).context("read schedstat")?;
            let stat = std::fs::read_to_string(path.join("stat")).context("read stat")?;
            let number = |text: Option<&str>| text.and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
            used.cpu_us += number(schedule.split(' ').next()) / 1e3;
            used.faults += number(stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(7)));
        }
        Ok(used)
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

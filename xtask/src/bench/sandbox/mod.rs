//! `cargo xtask bench sandbox`: what it costs that a decision is made in a sandbox, and in another process.
//!
//! First a whole host is measured: CPU of host and worker for each decision while WebApps change. Then one of its decisions
//! (plugins/webapp, the objects as that cluster had them) is made over and over in three ways that take turns: through the worker
//! process, as shipped; in a sandbox in this process; and compiled natively, which is the floor. A smallest call, a guest
//! that answers with a fault, bounds what a fresh instance and the way to the other process cost. Calls are made back to back, and
//! again with a pause after each: then processors and caches are as cold as they are in a host.
//!
//! A host that runs plugins in its own process does not exist, so what it would use is derived: the CPU that was measured,
//! less what a paced call costs through the worker, plus what it costs in process.

mod host;

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use webapp::WebApp;
use windlass_core::limits::Limits;
use windlass_core::name::PluginName;
use windlass_core::snapshot::Snapshot;
use windlass_plugin::{Loader, Plugin};

use self::host::{EndToEnd, end_to_end};
use super::outside::{self, Outside, ask, primary};
use super::picture::{Axis, Row, log_rows};
use super::proc::cpu;
use super::report::{Report, load_average, quantile};
use super::{Bench, stamp};
use crate::build;

/// Between two paced calls.
const PAUSE: Duration = Duration::from_millis(5);

/// How much is measured.
struct Scope {
    rounds: usize,
    calls: usize,
    /// Calls with a pause after each.
    paced: usize,
    /// End to end.
    during: Duration,
    /// Changes a second.
    rate: f64,
}

/// The ways in which a decision can be made.
struct Ways {
    worker: Plugin,
    here: Plugin,
    small_worker: Plugin,
    small_here: Plugin,
    decision: Inputs,
    small: Snapshot,
    outside: Outside,
}

/// What is decided about, for the sandbox and for native code.
struct Inputs {
    snapshot: Snapshot,
    primary: String,
    children: Vec<String>,
}

/// One way in one round.
struct Taken {
    /// Microseconds of wall time, sorted.
    wall_us: Vec<f64>,
    /// CPU of all processes for each call, in microseconds.
    cpu_us: f64,
}

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let binary = bench.binary.clone().map_or_else(|| build::host(true), Ok)?;
    let scope = if bench.quick {
        Scope { rounds: 2, calls: 500, paced: 300, during: Duration::from_secs(8), rate: 30.0 }
    } else {
        Scope { rounds: 5, calls: 5000, paced: 2000, during: Duration::from_secs(60), rate: 50.0 }
    };
    let mut report = Report::new("sandbox");
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let host = runtime.block_on(end_to_end(&mut report, scope.rate, scope.during, binary.clone()))?;
    report.write()?;
    let per_call = calls(&mut report, &scope, &binary, &host)?;
    let whole = host.cpu_us;
    let ratio = whole / (whole - per_call.0 + per_call.1);
    report.figures.insert("tax_ratio_end_to_end".to_owned(), json!((ratio * 1000.0).round() / 1000.0));
    let path = report.write()?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, path.display());
    Ok(())
}

impl Ways {
    fn new(binary: &Path, host: &EndToEnd) -> Result<Self> {
        let wasm = std::fs::read(stamp::component("webapp", None)?).context("read webapp")?;
        let fails =
            std::fs::read(stamp::component("windlass-fixtures", Some("fails"))?).context("read a fixture")?;
        let (name, small) = (PluginName::try_new("webapp")?, PluginName::try_new("fails")?);
        let (outside, inside) = (Outside::start(binary)?, Loader::in_process(Limits::default())?);
        let worker = outside::load(&outside.loader, &name, &wasm)?;
        let small_worker = outside::load(&outside.loader, &small, &fails)?;
        let mode = primary(&json!({ "mode": "transient" }));
        Ok(Self {
            decision: Inputs::of(&worker, host)?,
            small: outside::snapshot(&small_worker.manifest().primary, &mode, &[])?,
            here: outside::load(&inside, &name, &wasm)?,
            small_here: outside::load(&inside, &small, &fails)?,
            worker,
            small_worker,
            outside,
        })
    }
}

impl Inputs {
    /// A WebApp with its children.
    fn of(plugin: &Plugin, host: &EndToEnd) -> Result<Self> {
        Ok(Self {
            snapshot: outside::snapshot(&plugin.manifest().primary, &host.primary, &host.children)?,
            primary: host.primary.to_string(),
            children: host.children.iter().map(|(_, child)| child.to_string()).collect(),
        })
    }

    /// The same decision as native code, from text to text.
    fn natively(&self) -> Result<usize> {
        let parse = |text: &String| serde_json::from_str::<Value>(text);
        let children = self.children.iter().map(parse).collect::<Result<_, _>>()?;
        let app = windlass::Snapshot::<WebApp>::new(parse(&self.primary)?, children, None)
            .map_err(|fault| anyhow::anyhow!("{fault}"))?;
        let decision =
            webapp::reconcile(&app, &windlass::Cache::fixed()).map_err(|fault| anyhow::anyhow!("{fault}"))?;
        let texts: Vec<_> = decision.children.iter().map(|child| child.as_value().to_string()).collect();
        let status = decision.status.map(|status| status.to_string());
        Ok(black_box((texts, status)).0.len())
    }
}

/// Calls without a host, the ways in turn. Gives back CPU for each call in microseconds: through the worker, and in process.
fn calls(report: &mut Report, scope: &Scope, binary: &Path, host: &EndToEnd) -> Result<(f64, f64)> {
    let ways = Ways::new(binary, host)?;
    report.conditions.insert("snapshot_bytes".to_owned(), json!(ways.decision.snapshot.bytes()));
    let worker = ways.outside.worker()?;
    let decide =
        |plugin: &Plugin| ask(plugin, &ways.decision.snapshot).map_err(|error| anyhow::anyhow!("{error}"));
    let fault = |plugin: &Plugin| match ask(plugin, &ways.small) {
        Err(windlass_core::ports::CallError::Fault(_)) => Ok(()),
        other => anyhow::bail!("a fault was expected, not {other:?}"),
    };
    let (times, paced) = (scope.calls, scope.paced);
    type Way<'a> = (&'static str, Box<dyn Fn() -> Result<Taken> + 'a>);
    let none = Duration::ZERO;
    let mut all: Vec<Way<'_>> = vec![
        ("decision", Box::new(|| taken(times, none, worker, || decide(&ways.worker)))),
        ("in_process", Box::new(|| taken(times, none, worker, || decide(&ways.here)))),
        ("native", Box::new(|| taken(times, none, worker, || ways.decision.natively().map(drop)))),
        ("smallest", Box::new(|| taken(times, none, worker, || fault(&ways.small_worker)))),
        ("instantiate", Box::new(|| taken(times, none, worker, || fault(&ways.small_here)))),
        ("paced_decision", Box::new(|| taken(paced, PAUSE, worker, || decide(&ways.worker)))),
        ("paced_in_process", Box::new(|| taken(paced, PAUSE, worker, || decide(&ways.here)))),
    ];
    let mut rounds = Vec::new();
    for round in 0..scope.rounds {
        eprintln!("round {} of {}: {times} calls each way", round + 1, scope.rounds);
        for (name, way) in &all {
            let taken = way()?;
            report.rounds.push(json!({
                "round": round, "way": name, "p50_us": quantile(&taken.wall_us, 0.5), "p99_us": quantile(&taken.wall_us, 0.99),
                "cpu_us": tenth(taken.cpu_us), "load_average": load_average(),
            }));
            rounds.push((*name, taken));
        }
        all.reverse();
    }
    figures(report, &rounds);
    picture(report, &rounds)?;
    let cpu = |name| median_of(&rounds, name, |taken| taken.cpu_us);
    Ok((cpu("paced_decision"), cpu("paced_in_process")))
}

/// Calls that are measured, after a tenth as many that are not.
fn taken(times: usize, pause: Duration, worker: u32, call: impl Fn() -> Result<()>) -> Result<Taken> {
    for _ in 0..times / 10 {
        call()?;
    }
    let both = || Ok::<_, anyhow::Error>(cpu(std::process::id())? + cpu(worker)?);
    let (mut wall_us, before) = (Vec::with_capacity(times), both()?);
    for _ in 0..times {
        let began = Instant::now();
        call()?;
        wall_us.push(began.elapsed().as_secs_f64() * 1e6);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    let cpu_us = (both()? - before).as_secs_f64() * 1e6 / times as f64;
    wall_us.sort_by(f64::total_cmp);
    Ok(Taken { wall_us, cpu_us })
}

fn figures(report: &mut Report, rounds: &[(&'static str, Taken)]) {
    let at = |name, share| median_of(rounds, name, |taken| quantile(&taken.wall_us, share).unwrap_or(0.0));
    let cpu = |name| median_of(rounds, name, |taken| taken.cpu_us);
    for (figure, value) in [
        ("decision_us", at("decision", 0.5)),
        ("decision_p99_us", at("decision", 0.99)),
        ("in_process_us", at("in_process", 0.5)),
        ("in_process_p99_us", at("in_process", 0.99)),
        ("native_us", at("native", 0.5)),
        ("smallest_us", at("smallest", 0.5)),
        ("instantiate_us", at("instantiate", 0.5)),
        ("lane_us", at("smallest", 0.5) - at("instantiate", 0.5)),
        ("decision_cpu_us", cpu("decision")),
        ("in_process_cpu_us", cpu("in_process")),
        ("native_cpu_us", cpu("native")),
        ("paced_decision_us", at("paced_decision", 0.5)),
        ("paced_decision_p99_us", at("paced_decision", 0.99)),
        ("paced_in_process_us", at("paced_in_process", 0.5)),
        ("paced_decision_cpu_us", cpu("paced_decision")),
        ("paced_in_process_cpu_us", cpu("paced_in_process")),
    ] {
        report.figures.insert(figure.to_owned(), json!(tenth(value)));
    }
    let ratio = cpu("decision") / cpu("in_process");
    report.figures.insert("tax_ratio_of_a_call".to_owned(), json!((ratio * 1000.0).round() / 1000.0));
    for (what, says) in [
        (
            "decision",
            "plugins/webapp, one of the snapshots that the host had; median over rounds of each round's quantile",
        ),
        ("native", "the same function compiled for this machine, from the same text to the same text"),
        (
            "instantiate",
            "the smallest call in this process: instantiate, decode a small object, answer with a fault, drop",
        ),
        ("lane", "the smallest call through the worker, less that"),
        (
            "end_to_end",
            "CPU of host and worker for each call while WebApps change; the ratio is that over the same with a paced call's CPU in process in place of a paced call's CPU through the worker",
        ),
    ] {
        report.conditions.insert(what.to_owned(), json!(says));
    }
}

/// The median over rounds.
fn median_of(rounds: &[(&'static str, Taken)], name: &str, of: impl Fn(&Taken) -> f64) -> f64 {
    let mut values: Vec<_> =
        rounds.iter().filter(|(way, _)| *way == name).map(|(_, taken)| of(taken)).collect();
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5).unwrap_or(0.0)
}

fn picture(report: &Report, rounds: &[(&'static str, Taken)]) -> Result<()> {
    let titles = [
        ("native", "native"),
        ("in_process", "sandbox in the same process"),
        ("decision", "sandbox in the worker"),
        ("paced_in_process", "with pauses, same process"),
        ("paced_decision", "with pauses, in the worker"),
        ("instantiate", "smallest call, same process"),
        ("smallest", "smallest call, worker"),
    ];
    let row = |(name, label): (&str, &str)| {
        let taken = rounds.iter().filter(|(way, _)| *way == name).flat_map(|(_, taken)| &taken.wall_us);
        let mut values: Vec<_> = taken.map(|us| us / 1000.0).collect();
        values.sort_by(f64::total_cmp);
        Row { group: "one call".to_owned(), label: label.to_owned(), values }
    };
    let title = format!("What a decision costs, and where it is made ({})", report.started());
    let path = report.path("svg")?;
    std::fs::write(&path, log_rows(Axis::SHORT, &title, &titles.map(row), None))
        .with_context(|| format!("write {}", path.display()))
}

/// To the tenth.
fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

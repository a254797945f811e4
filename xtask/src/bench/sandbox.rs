//! `cargo xtask bench sandbox`: what it costs that a decision is made in a sandbox, and in another process.
//!
//! The same decision (plugins/webapp, the same snapshot) in three ways that take turns: through the worker process of the host, as
//! shipped; in a sandbox in this process; and compiled natively, which is the floor. A smallest call, a guest that answers with a
//! fault, bounds what a fresh instance and the way to the other process cost.
//!
//! End to end a whole host is measured: CPU of host and worker for each decision of a stream of changes. A host that runs plugins
//! in its own process does not exist, so what it would use is derived: the measured CPU, less what a call costs through the
//! worker, plus what it costs in process.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use webapp::WebApp;
use windlass_core::limits::Limits;
use windlass_core::name::PluginName;
use windlass_core::snapshot::Snapshot;
use windlass_plugin::{Loader, Plugin};
use windlass_testbed::Options;

use super::outside::{self, Outside, ask, primary};
use super::picture::{Axis, Row, log_rows};
use super::proc::cpu;
use super::report::{Report, load_average, quantile};
use super::scrape::Scrape;
use super::stream::{self, Target};
use super::{Bench, stamp};
use crate::demo::Demo;
use crate::plugin::Package;
use crate::{build, root};

/// WebApps that are changed end to end.
const APPS: usize = 20;

/// How much is measured.
struct Scope {
    rounds: usize,
    calls: usize,
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
        Scope { rounds: 2, calls: 500, during: Duration::from_secs(8), rate: 30.0 }
    } else {
        Scope { rounds: 5, calls: 5000, during: Duration::from_secs(60), rate: 50.0 }
    };
    let mut report = Report::new("sandbox");
    let per_call = calls(&mut report, &scope, &binary)?;
    report.write()?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    runtime.block_on(end_to_end(&mut report, &scope, binary, per_call))?;
    let path = report.write()?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, path.display());
    Ok(())
}

impl Ways {
    fn new(binary: &Path) -> Result<Self> {
        let wasm = std::fs::read(stamp::component("webapp", None)?).context("read webapp")?;
        let fails =
            std::fs::read(stamp::component("windlass-fixtures", Some("fails"))?).context("read a fixture")?;
        let (name, small) = (PluginName::try_new("webapp")?, PluginName::try_new("fails")?);
        let (outside, inside) = (Outside::start(binary)?, Loader::in_process(Limits::default())?);
        let worker = outside::load(&outside.loader, &name, &wasm)?;
        let small_worker = outside::load(&outside.loader, &small, &fails)?;
        let mode = primary(&json!({ "mode": "transient" }));
        Ok(Self {
            decision: Inputs::of(&worker)?,
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
    /// A WebApp whose Deployment and Service exist, and run.
    fn of(plugin: &Plugin) -> Result<Self> {
        let labels = json!({ "app.kubernetes.io/name": "shop", "windlass.dev/owned-by": "webapp" });
        let whole = primary(&json!({ "image": "example.com/shop:1", "replicas": 2, "port": 8080 }));
        let container = json!([{ "name": "app", "image": "example.com/shop:1" }]);
        let children = [
            (
                "apps/v1/Deployment",
                json!({
                    "apiVersion": "apps/v1", "kind": "Deployment",
                    "metadata": { "name": "shop", "namespace": "ns", "uid": "u-2", "resourceVersion": "8", "labels": labels },
                    "spec": { "replicas": 2, "template": { "spec": { "containers": container } } },
                    "status": { "replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "observedGeneration": 1 },
                }),
            ),
            (
                "v1/Service",
                json!({
                    "apiVersion": "v1", "kind": "Service",
                    "metadata": { "name": "shop", "namespace": "ns", "uid": "u-3", "resourceVersion": "9", "labels": labels },
                    "spec": { "ports": [{ "port": 80, "targetPort": 8080 }] },
                }),
            ),
        ];
        Ok(Self {
            snapshot: outside::snapshot(&plugin.manifest().primary, &whole, &children)?,
            primary: whole.to_string(),
            children: children.iter().map(|(_, child)| child.to_string()).collect(),
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
fn calls(report: &mut Report, scope: &Scope, binary: &Path) -> Result<(f64, f64)> {
    let ways = Ways::new(binary)?;
    let worker = ways.outside.worker()?;
    let decide =
        |plugin: &Plugin| ask(plugin, &ways.decision.snapshot).map_err(|error| anyhow::anyhow!("{error}"));
    let fault = |plugin: &Plugin| match ask(plugin, &ways.small) {
        Err(windlass_core::ports::CallError::Fault(_)) => Ok(()),
        other => anyhow::bail!("a fault was expected, not {other:?}"),
    };
    let times = scope.calls;
    type Way<'a> = (&'static str, Box<dyn Fn() -> Result<Taken> + 'a>);
    let mut all: Vec<Way<'_>> = vec![
        ("decision", Box::new(|| taken(times, worker, || decide(&ways.worker)))),
        ("in_process", Box::new(|| taken(times, worker, || decide(&ways.here)))),
        ("native", Box::new(|| taken(times, worker, || ways.decision.natively().map(drop)))),
        ("smallest", Box::new(|| taken(times, worker, || fault(&ways.small_worker)))),
        ("instantiate", Box::new(|| taken(times, worker, || fault(&ways.small_here)))),
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
    Ok((cpu("decision"), cpu("in_process")))
}

/// Calls that are measured, after a tenth as many that are not.
fn taken(times: usize, worker: u32, call: impl Fn() -> Result<()>) -> Result<Taken> {
    for _ in 0..times / 10 {
        call()?;
    }
    let both = || Ok::<_, anyhow::Error>(cpu(std::process::id())? + cpu(worker)?);
    let (mut wall_us, before) = (Vec::with_capacity(times), both()?);
    for _ in 0..times {
        let began = Instant::now();
        call()?;
        wall_us.push(began.elapsed().as_secs_f64() * 1e6);
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
    ] {
        report.figures.insert(figure.to_owned(), json!(tenth(value)));
    }
    let ratio = cpu("decision") / cpu("in_process");
    report.figures.insert("tax_ratio_of_a_call".to_owned(), json!((ratio * 1000.0).round() / 1000.0));
    for (what, says) in [
        (
            "decision",
            "plugins/webapp, a snapshot with two children; median over rounds of each round's quantile",
        ),
        ("native", "the same function compiled for this machine, from the same text to the same text"),
        (
            "instantiate",
            "the smallest call in this process: instantiate, decode a small object, answer with a fault, drop",
        ),
        ("lane", "the smallest call through the worker, less that"),
        (
            "end_to_end",
            "CPU of host and worker for each call while WebApps change; the ratio is that over the same with a call's CPU in process in place of a call's CPU through the worker",
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

/// CPU of a whole host for each call while WebApps change.
async fn end_to_end(
    report: &mut Report,
    scope: &Scope,
    binary: PathBuf,
    (outside, inside): (f64, f64),
) -> Result<()> {
    // The API server's CPU is nobody's here, and its disk nobody's business.
    let options = Options { kubelet: None, ..Options::default() };
    let artefacts = tempfile::tempdir().context("make a folder for compiled plugins")?;
    let folder = format!("--artefact-dir={}", artefacts.path().display());
    let mut demo = Demo::start(None, binary, options).await?.with_flags(&["--log=warn", &folder]);
    demo.install(&Package::build(&root().join("plugins/webapp"))?).await?;
    demo.replicas(1).await?;
    let client = demo.control.client()?;
    let apps = "/apis/apps.windlass.dev/v1alpha1/namespaces/default/webapps";
    let yaml: Vec<_> = (0..APPS).map(|app| format!(
        "apiVersion: apps.windlass.dev/v1alpha1\nkind: WebApp\nmetadata: {{ name: app-{app}, namespace: default }}\nspec: {{ image: nginx, replicas: 0, host: c0.example.com }}\n"
    )).collect();
    demo.until("WebApps can be made", || async { demo.control.apply(&yaml.join("---\n")).await.ok() })
        .await?;
    let targets: Vec<_> = (0..APPS)
        .map(|app| Target {
            path: format!("{apps}/app-{app}"),
            effect: format!("app-{app}"),
            change: |text| json!({ "spec": { "host": format!("c{text}.example.com") } }),
        })
        .collect();
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses".to_owned();
    let host_of = |ingress: &Value| {
        let host = ingress["spec"]["rules"][0]["host"].as_str().unwrap_or_default();
        host.trim_start_matches('c').trim_end_matches(".example.com").to_owned()
    };
    let observer = super::observe::Observer::start(client.clone(), ingresses, host_of).await?;
    stream::flow(&client, &observer, &targets, scope.rate, Duration::from_secs(5)).await?;

    let host = demo.replicas.first().context("no host runs")?;
    let (_, view) = host.ask("/debug/sandbox").await?;
    let view: Value = serde_json::from_str(&view).context("/debug/sandbox is no JSON")?;
    let worker =
        view["worker"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("no worker")?;
    let calls =
        || async { Ok::<_, anyhow::Error>(Scrape::of(host).await?.sum("windlass_plugin_calls_total", None)) };
    let (asked, hosts, workers) = (calls().await?, cpu(host.pid())?, cpu(worker)?);
    eprintln!("end to end: {} changes a second for {:?}", scope.rate, scope.during);
    let flowed = stream::flow(&client, &observer, &targets, scope.rate, scope.during).await?;
    let (hosts, workers) =
        ((cpu(host.pid())? - hosts).as_secs_f64() * 1e6, (cpu(worker)? - workers).as_secs_f64() * 1e6);
    let asked = calls().await? - asked;
    ensure!(asked > 0.0 && flowed.made > 0, "nothing was asked");
    let whole = (hosts + workers) / asked;
    for (figure, value) in [
        ("end_to_end_cpu_us_a_call", tenth(whole)),
        ("end_to_end_host_cpu_us_a_call", tenth(hosts / asked)),
        ("end_to_end_worker_cpu_us_a_call", tenth(workers / asked)),
        ("end_to_end_cpu_us_a_change", tenth((hosts + workers) / flowed.made as f64)),
        ("tax_ratio_end_to_end", (whole / (whole - outside + inside) * 1000.0).round() / 1000.0),
    ] {
        report.figures.insert(figure.to_owned(), json!(value));
    }
    report.figures.insert("end_to_end".to_owned(), json!({ "calls": asked, "changes": flowed }));
    Ok(())
}

fn picture(report: &Report, rounds: &[(&'static str, Taken)]) -> Result<()> {
    let titles = [
        ("native", "native"),
        ("in_process", "sandbox in the same process"),
        ("decision", "sandbox in the worker"),
        ("instantiate", "smallest call, same process"),
        ("smallest", "smallest call, worker"),
    ];
    let row = |(name, label): (&str, &str)| {
        // Every tenth call: more dots would say nothing more.
        let taken = rounds
            .iter()
            .filter(|(way, _)| *way == name)
            .flat_map(|(_, taken)| taken.wall_us.iter().step_by(10));
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

//! `cargo xtask bench reload`: how long a swap takes, whether a change is lost by it, and what the others feel.
//!
//! Twice. First without a host, where nothing else is in the figure: from a component whose artefact is in the cache to its
//! first decision, through the worker, with a hundred plugins loaded while another thread asks them half of the time. Then
//! with a host under half of the load that it can follow: two builds of one plugin are offered in turn, and each object says which
//! build decided it last. Rounds with and without swaps take turns.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use windlass_core::snapshot::Snapshot;
use windlass_plugin::Plugin;

use super::crowd::{Crowd, RARE, Sizes};
use super::observe::Observer;
use super::outside::{self, Outside, ask, primary};
use super::picture::{Axis, Row, log_rows};
use super::report::{Report, load_average, milliseconds, quantile};
use super::stamp::{Member, Stamp};
use super::stream::{self, Flowed};
use super::{Bench, ratio};
use crate::build;

/// Between two swaps: longer than the host waits for a ConfigMap to be quiet.
const EVERY: Duration = Duration::from_millis(700);
/// Changes a second to the objects of the plugin that is swapped.
const OWN_RATE: f64 = 5.0;
/// How long a swap may take until its effect is seen.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much is measured.
struct Scope {
    sizes: Sizes,
    /// Swaps without a host.
    swaps: usize,
    rounds: usize,
    phase: Duration,
}

/// What one phase has shown.
struct Phase {
    others: Flowed,
    own: Flowed,
    /// From the sending of a build to its first effect, in milliseconds.
    seen_ms: Vec<f64>,
}

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let binary = bench.binary.clone().map_or_else(|| build::host(true), Ok)?;
    let scope = if bench.quick {
        let sizes = Sizes { plugins: 10, objects_each: 4, config_maps: 20 };
        Scope { sizes, swaps: 30, rounds: 1, phase: Duration::from_secs(6) }
    } else {
        let sizes = Sizes { plugins: 100, objects_each: 4, config_maps: 100 };
        Scope { sizes, swaps: 500, rounds: 5, phase: Duration::from_secs(20) }
    };
    let stamp = Stamp::build()?;
    let mut report = Report::new("reload");
    let alone = swapped_alone(&mut report, &scope, &binary, &stamp)?;
    report.write()?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let seen = runtime.block_on(swapped_in_a_host(&mut report, &scope, &stamp, binary))?;
    picture(&report, alone, seen)?;
    let path = report.write()?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, path.display());
    Ok(())
}

/// Milliseconds from a compiled artefact to its first decision.
fn swapped_alone(report: &mut Report, scope: &Scope, binary: &Path, stamp: &Stamp) -> Result<Vec<f64>> {
    let outside = Outside::start(binary)?;
    let count = scope.sizes.plugins;
    eprintln!("{count} plugins are compiled");
    let others = (1..count)
        .map(|number| Ready::new(&outside, &stamp.member(number, 1)?))
        .collect::<Result<Vec<_>>>()?;
    let builds = [stamp.member(0, 1)?, stamp.member(0, 2)?];
    let mut serving = Some(Ready::new(&outside, &builds[0])?);
    drop(Ready::new(&outside, &builds[1])?);
    eprintln!("{} swaps", scope.swaps);
    let stop = AtomicBool::new(false);
    let took = std::thread::scope(|threads| {
        let busy = threads.spawn(|| half_of_the_time(&others, &stop));
        let took = swaps(&outside, &builds, &mut serving, scope.swaps);
        stop.store(true, Ordering::Relaxed);
        let asked = busy.join().map_err(|_| anyhow::anyhow!("the other thread panicked"))?;
        Ok::<_, anyhow::Error>((took?, asked?))
    });
    let (mut took, asked) = took?;
    took.sort_by(f64::total_cmp);
    for (figure, share) in [("reload_p50_ms", 0.5), ("reload_p99_ms", 0.99), ("reload_max_ms", 1.0)] {
        report.figures.insert(figure.to_owned(), json!(quantile(&took, share)));
    }
    let says = "Loader::load of a component whose artefact is in the cache, and its first decision, through the worker; every other build in turn";
    report.conditions.insert("reload".to_owned(), json!(says));
    report.conditions.insert("others_asked_meanwhile".to_owned(), json!(asked));
    report.conditions.insert("sizes".to_owned(), json!(scope.sizes));
    report.conditions.insert("component_bytes".to_owned(), json!(stamp.bytes()));
    Ok(took)
}

/// A plugin that is loaded, and what it may be asked.
pub(super) struct Ready {
    plugin: Plugin,
    snapshot: Snapshot,
}

impl Ready {
    pub(super) fn new(outside: &Outside, member: &Member) -> Result<Self> {
        let plugin = outside::load(&outside.loader, &member.name, &member.wasm)?;
        let whole = primary(&json!({ "text": "1", "source": "shared-0001" }));
        let snapshot = outside::snapshot(&plugin.manifest().primary, &whole, &[])?;
        Ok(Self { plugin, snapshot })
    }

    pub(super) fn ask(&self) -> Result<()> {
        ask(&self.plugin, &self.snapshot).map_err(|error| anyhow::anyhow!("{error}"))
    }
}

/// Asks one after the other, and rests for as long as each took.
fn half_of_the_time(others: &[Ready], stop: &AtomicBool) -> Result<usize> {
    let mut asked = 0;
    for other in others.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
        let began = Instant::now();
        other.ask()?;
        std::thread::sleep(began.elapsed());
        asked += 1;
    }
    Ok(asked)
}

fn swaps(
    outside: &Outside,
    builds: &[Member; 2],
    serving: &mut Option<Ready>,
    count: usize,
) -> Result<Vec<f64>> {
    let mut took = Vec::with_capacity(count);
    for number in 0..count {
        let build = &builds[(number + 1) % 2];
        let began = Instant::now();
        let next = Ready::new(outside, build)?;
        next.ask()?;
        took.push(milliseconds(began.elapsed()));
        // The old one goes when the new one serves, as in the host.
        *serving = Some(next);
    }
    Ok(took)
}

async fn swapped_in_a_host(
    report: &mut Report,
    scope: &Scope,
    stamp: &Stamp,
    binary: PathBuf,
) -> Result<Vec<f64>> {
    let mut crowd = Crowd::start(binary, stamp, scope.sizes, RARE, &[]).await?;
    crowd.serve().await?;
    eprintln!("the plugins are compiled");
    crowd.offer().await?;
    crowd.converged().await?;
    let builds = [stamp.member(0, 1)?, stamp.member(0, 2)?];
    let watched = Watched::new(&crowd).await?;
    // Once, so that both are compiled.
    for build in [&builds[1], &builds[0]] {
        watched.swap(&crowd, build).await?;
        tokio::time::sleep(EVERY).await;
    }
    let capacity = stream::capacity(
        &crowd.client,
        watched.others.clone(),
        &crowd.targets(others(&crowd)),
        scope.phase / 2,
    )
    .await?;
    eprintln!("{capacity:.0} changes a second are followed; half of that are made");
    report.conditions.insert("changes_per_s_followed".to_owned(), json!(capacity.round()));
    report.conditions.insert("etcd_fsync".to_owned(), json!(false));
    report.conditions.insert("apiserver_gogc".to_owned(), json!(RARE));
    let (mut ratios, mut seen, mut lost) = (Vec::new(), Vec::new(), 0);
    for round in 0..scope.rounds {
        let mut p99 = [None, None];
        // With and without take turns at being first.
        for swapping in if round % 2 == 0 { [false, true] } else { [true, false] } {
            let phase = phase(
                &crowd,
                &watched,
                &builds,
                swapping.then_some(scope.phase),
                scope.phase,
                capacity / 2.0,
            )
            .await?;
            eprintln!("round {}, swapping {swapping}: others p99 {:?} ms", round + 1, phase.others.p99_ms);
            p99[usize::from(swapping)] = phase.others.p99_ms;
            lost += phase.own.lost + phase.others.lost;
            report.rounds.push(json!({
                "round": round, "swapping": swapping, "others": phase.others, "own": phase.own,
                "swaps": phase.seen_ms.len(), "load_average": load_average(),
            }));
            seen.extend(phase.seen_ms);
        }
        if let [Some(without), Some(with)] = p99 {
            ratios.push(with / without);
        }
    }
    seen.sort_by(f64::total_cmp);
    for (figure, value) in [
        ("lost", json!(lost)),
        ("swaps_in_a_host", json!(seen.len())),
        ("swap_seen_p50_ms", json!(quantile(&seen, 0.5))),
        ("swap_seen_p99_ms", json!(quantile(&seen, 0.99))),
        ("others_p99_ratio", json!(ratio::median(&ratios))),
        ("others_p99_ratios", json!(ratio::spread(&ratios))),
    ] {
        report.figures.insert(figure.to_owned(), value);
    }
    let says = "sending a ConfigMap with the other build -> the first child that it wrote, in the observer's watch: with the API server, the watch, decompression and the write";
    report.conditions.insert("swap_seen".to_owned(), json!(says));
    Ok(seen)
}

/// Everybody but the one that is swapped.
fn others(crowd: &Crowd) -> Range<usize> {
    1..crowd.members.len()
}

/// Watches of the effects.
struct Watched {
    others: Arc<Observer>,
    own: Observer,
    builds: Observer,
}

impl Watched {
    async fn new(crowd: &Crowd) -> Result<Self> {
        let builds = crowd.watch(|map| map["data"]["mark"].as_str().unwrap_or_default().to_owned()).await?;
        Ok(Self { others: Arc::new(crowd.observe().await?), own: crowd.observe().await?, builds })
    }

    /// Offers a build. Gives back milliseconds until a child says that it decided.
    async fn swap(&self, crowd: &Crowd, build: &Member) -> Result<f64> {
        let path = format!("/api/v1/namespaces/windlass-system/configmaps/{}", build.config_map_name());
        let change = json!({ "binaryData": build.data()? });
        let ours: Vec<_> = crowd.targets(0..1).into_iter().map(|target| target.effect).collect();
        self.builds.clear();
        let sent = Instant::now();
        crowd.demo.patch(&path, change).await?;
        loop {
            let first = ours.iter().filter_map(|name| self.builds.first(name, &build.mark)).min();
            if let Some(at) = first {
                return Ok(milliseconds(at.saturating_duration_since(sent)));
            }
            ensure!(
                sent.elapsed() < PATIENCE,
                "a build is offered and decides nothing:\n{}",
                crowd.host()?.log()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn phase(
    crowd: &Crowd,
    watched: &Watched,
    builds: &[Member; 2],
    swapping: Option<Duration>,
    during: Duration,
    rate: f64,
) -> Result<Phase> {
    let (theirs, ours) = (crowd.targets(others(crowd)), crowd.targets(0..1));
    let swaps = async {
        let (mut seen_ms, began) = (Vec::new(), Instant::now());
        let mut turn = builds.iter().rev().cycle();
        while swapping.is_some_and(|during| began.elapsed() < during) {
            let build = turn.next().context("there are two builds")?;
            seen_ms.push(watched.swap(crowd, build).await?);
            tokio::time::sleep(EVERY).await;
        }
        // Ends as it began, so that the first swap of the next phase is one.
        if seen_ms.len() % 2 == 1 {
            watched.swap(crowd, &builds[0]).await?;
        }
        anyhow::Ok(seen_ms)
    };
    let (others, own, seen_ms) = tokio::try_join!(
        stream::flow(&crowd.client, &watched.others, &theirs, rate, during),
        stream::flow(&crowd.client, &watched.own, &ours, OWN_RATE, during),
        swaps
    )?;
    Ok(Phase { others, own, seen_ms })
}

fn picture(report: &Report, alone: Vec<f64>, seen: Vec<f64>) -> Result<()> {
    let row =
        |group: &str, label: &str, values| Row { group: group.to_owned(), label: label.to_owned(), values };
    let rows = [
        row("without a host", "artefact -> first decision", alone),
        row("in a host under half load", "ConfigMap sent -> effect seen", seen),
    ];
    let title = format!("Swapping one plugin of many ({})", report.started());
    let path = report.path("svg")?;
    std::fs::write(&path, log_rows(Axis::MIDDLE, &title, &rows, None))
        .with_context(|| format!("write {}", path.display()))
}

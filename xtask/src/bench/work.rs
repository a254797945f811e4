//! `cargo xtask bench work`: what an object costs in memory and a change in CPU time, with more and more of both objects and
//! plugins. Flat is the aim: the host's cost is that of what happens, not of what there is.
//!
//! Each point has a control plane and a host of its own. A change is one annotation of one object, after which nothing has to be
//! written: event, cache, queue, snapshot, call, plan. They come at a fixed rate that no point finds hard, so that
//! what is compared is not how well work is batched under load.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::Bench;
use super::bars::{Bar, bars};
use super::crowd::{Crowd, Sizes};
use super::proc::{Memory, cpu};
use super::report::{Report, load_average};
use super::scrape::Scrape;
use super::stamp::Stamp;
use crate::build;

/// After a start, until memory has settled: longer than code that rests is kept.
const SETTLE: Duration = Duration::from_secs(12);
/// Between two changes.
const EVERY: Duration = Duration::from_millis(20);

/// One point: how many plugins, and how many objects of all of them together.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Point {
    plugins: u16,
    objects: usize,
}

/// What was found at one.
struct Found {
    point: Point,
    /// Private memory of host and worker, in MiB.
    private: f64,
    /// CPU time of both a change, in microseconds.
    cpu_us: f64,
    passes: f64,
}

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let binary = bench.binary.clone().map_or_else(|| build::host(true), Ok)?;
    let point = |plugins, objects| Point { plugins, objects };
    let (by_objects, by_plugins, changes) = if bench.quick {
        (vec![point(1, 100), point(1, 1_000)], vec![point(1, 1_000), point(10, 1_000)], 250)
    } else {
        (
            vec![point(1, 1_000), point(1, 10_000), point(1, 100_000)],
            vec![point(1, 1_000), point(10, 1_000), point(100, 1_000)],
            1_500,
        )
    };
    let stamp = Stamp::build()?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("work");
    for (what, value) in [
        ("changes", json!(changes)),
        ("every_ms", json!(EVERY.as_millis())),
        ("settled_s", json!(SETTLE.as_secs())),
        ("etcd_fsync", json!(false)),
        ("cpu", json!("host and worker while changes come, less what they use in as long a time of silence")),
    ] {
        report.conditions.insert(what.to_owned(), value);
    }
    let empty = runtime.block_on(empty(binary.clone(), &stamp))?;
    report.figures.insert("empty_private_mib".to_owned(), json!(round(empty)));
    let mut all: Vec<Found> = Vec::new();
    // The most objects last: that point takes as long as all others together.
    let (most, fewer) = by_objects.split_last().context("there are points")?;
    for point in fewer.iter().chain(by_plugins.iter().skip(1)).chain([most]) {
        let found = runtime.block_on(measure(*point, changes, binary.clone(), &stamp))?;
        let bytes = (found.private - empty) * 1_048_576.0 / point.objects as f64;
        report.rounds.push(json!({
            "plugins": point.plugins, "objects": point.objects, "private_mib": round(found.private),
            "bytes_per_object": bytes.round(), "cpu_us_per_change": found.cpu_us.round(),
            "passes_per_change": round(found.passes), "load_average": load_average(),
        }));
        let name = format!("{}_plugins_{}_objects", point.plugins, point.objects);
        report.figures.insert(format!("{name}_cpu_us_per_change"), json!(found.cpu_us.round()));
        report.figures.insert(format!("{name}_bytes_per_object"), json!(bytes.round()));
        report.write()?;
        all.push(found);
    }
    picture(&report, &all, empty)?;
    let path = report.write()?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, path.display());
    Ok(())
}

/// Private memory of a host without plugins.
async fn empty(binary: PathBuf, stamp: &Stamp) -> Result<f64> {
    let sizes = Sizes { plugins: 0, objects_each: 0, config_maps: 0 };
    let mut crowd = Crowd::start(binary, stamp, sizes, None, &[]).await?;
    crowd.serve().await?;
    tokio::time::sleep(SETTLE).await;
    private(&crowd).await
}

async fn measure(point: Point, changes: usize, binary: PathBuf, stamp: &Stamp) -> Result<Found> {
    let objects_each = point.objects / usize::from(point.plugins);
    let sizes = Sizes { plugins: point.plugins, objects_each, config_maps: 10 };
    eprintln!("{} plugins, {} objects", point.plugins, point.objects);
    let mut crowd = Crowd::start(binary, stamp, sizes, None, &[]).await?;
    crowd.serve().await?;
    crowd.offer().await?;
    crowd.converged().await?;
    // A start of its own: what compiling and making all of them has left behind is nobody's.
    crowd.stop().await?;
    crowd.serve().await?;
    crowd.decided().await?;
    tokio::time::sleep(SETTLE).await;
    let private = private(&crowd).await?;

    let idle = spent(&crowd).await?;
    tokio::time::sleep(EVERY * u32::try_from(changes).unwrap_or(u32::MAX)).await;
    let (before, began) = (spent(&crowd).await?, passes(&crowd).await?);
    let targets = crowd.targets(0..crowd.members.len());
    let mut next = Instant::now();
    for number in 0..changes {
        let note =
            json!({ "metadata": { "annotations": { "fixtures.windlass.dev/wake": number.to_string() } } });
        crowd.demo.patch(&targets[number % targets.len()].path, note).await?;
        next += EVERY;
        tokio::time::sleep_until(next.into()).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = spent(&crowd).await?;
    let cpu = (after - before).saturating_sub(before - idle);
    Ok(Found {
        point,
        private,
        cpu_us: cpu.as_secs_f64() * 1e6 / changes as f64,
        passes: (passes(&crowd).await? - began) / changes as f64,
    })
}

async fn private(crowd: &Crowd) -> Result<f64> {
    let host = Memory::of(crowd.host()?.pid())?;
    Ok(host.and(Memory::of(crowd.worker().await?)?).private)
}

async fn spent(crowd: &Crowd) -> Result<Duration> {
    Ok(cpu(crowd.host()?.pid())? + cpu(crowd.worker().await?)?)
}

async fn passes(crowd: &Crowd) -> Result<f64> {
    Ok(Scrape::of(crowd.host()?).await?.sum("controller_runtime_reconcile_total", None))
}

fn picture(report: &Report, all: &[Found], empty: f64) -> Result<()> {
    let label = |found: &Found| format!("{} plugins, {} objects", found.point.plugins, found.point.objects);
    let cpu: Vec<Bar> = all.iter().map(|found| Bar { label: label(found), value: found.cpu_us }).collect();
    let memory: Vec<Bar> = (all.iter())
        .map(|found| Bar {
            label: label(found),
            value: (found.private - empty) * 1_048_576.0 / found.point.objects as f64,
        })
        .collect();
    for (name, title, unit, rows) in [
        ("cpu", "CPU time a change", "µs", cpu),
        ("memory", "Private memory an object, plugins and children included", "bytes", memory),
    ] {
        let path = report.path("svg")?.with_file_name(format!("work-{name}.svg"));
        let title = format!("{title} ({})", report.started());
        std::fs::write(&path, bars(&title, unit, &rows))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// To the hundredth.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

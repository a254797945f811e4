//! `cargo xtask bench cache`: what an object costs that is held, beside its own JSON and beside peers.
//!
//! Each contender is started on an empty shelf, and again on a full one: the difference is the objects'. What counts
//! is private memory that has settled, so that whatever an allocator keeps counts against its program.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Bench;
use super::bars::{Bar, bars};
use super::failover::Contender;
use super::report::{Report, load_average, quantile};
use super::shelf::{Held, Shelf};
use crate::build;

/// What a pod has without `managedFields`.
const POD_BYTES: usize = 4_400;
/// The size of the large set's objects.
const SMALL_BYTES: usize = 2_000;

struct Scope {
    objects: usize,
    /// Objects of the large set, which only Windlass holds.
    many: usize,
    rounds: usize,
    /// After a start, until memory has settled.
    settle: Duration,
}

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let binary = bench.binary.clone().map_or_else(|| build::host(true), Ok)?;
    let scope = if bench.quick {
        Scope { objects: 2_000, many: 5_000, rounds: 1, settle: Duration::from_secs(4) }
    } else {
        Scope {
            objects: 10_000,
            many: 100_000,
            rounds: bench.rounds.unwrap_or(5),
            settle: Duration::from_secs(15),
        }
    };
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("cache");
    for (what, value) in [
        (
            "objects",
            json!({ "count": scope.objects, "bytes": POD_BYTES, "many": scope.many, "many_bytes": SMALL_BYTES }),
        ),
        ("settled_s", json!(scope.settle.as_secs())),
        (
            "bytes_per_object",
            json!(
                "private memory on the full shelf less that on the empty one, a start each, divided by the objects"
            ),
        ),
        ("peak_ratio", json!("highest resident memory since the start divided by the settled one")),
        ("load_average", json!(load_average())),
    ] {
        report.conditions.insert(what.to_owned(), value);
    }
    runtime.block_on(measure(&mut report, bench, &scope, binary))?;
    picture(&report)?;
    let path = report.write()?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, path.display());
    Ok(())
}

async fn measure(
    report: &mut Report,
    bench: &Bench,
    scope: &Scope,
    binary: std::path::PathBuf,
) -> Result<()> {
    let mut shelf = Shelf::start(bench, binary).await?;
    let mut empty: BTreeMap<Contender, Held> = BTreeMap::new();
    for contender in shelf.contenders(0) {
        empty.insert(contender, held(report, &mut shelf, contender, scope.settle).await?);
    }
    shelf.fill(scope.objects, POD_BYTES).await?;
    let raw = shelf.raw_bytes().await?;
    let mut full: BTreeMap<Contender, Vec<Held>> = BTreeMap::new();
    for round in 0..scope.rounds {
        for contender in shelf.contenders(round) {
            let now = held(report, &mut shelf, contender, scope.settle).await?;
            full.entry(contender).or_default().push(now);
            report.write()?;
        }
    }
    report.figures.insert("raw_bytes_per_object".to_owned(), json!(raw.round()));
    for (contender, rounds) in &full {
        let Some(before) = empty.get(contender) else { continue };
        let each = median(
            rounds
                .iter()
                .map(|held| (held.cache.private - before.cache.private) * MIB / scope.objects as f64),
        );
        let peak = median(rounds.iter().map(|held| held.peak / held.cache.rss));
        let mut set = |name: &str, value: f64| {
            report
                .figures
                .insert(format!("{}{name}", contender.prefix()), json!((value * 100.0).round() / 100.0))
        };
        set("bytes_per_object", each.round());
        set("to_raw_ratio", each / raw);
        set("peak_ratio", peak);
        set("private_mib", median(rounds.iter().map(|held| held.cache.private)));
        set("empty_private_mib", before.cache.private);
    }
    many(report, &mut shelf, scope).await
}

/// The large set, for Windlass alone: all its processes together.
async fn many(report: &mut Report, shelf: &mut Shelf, scope: &Scope) -> Result<()> {
    if !shelf.contenders(0).contains(&Contender::Ours) {
        return Ok(());
    }
    shelf.clear().await?;
    shelf.fill(scope.many, SMALL_BYTES).await?;
    let raw = shelf.raw_bytes().await?;
    let held = held(report, shelf, Contender::Ours, scope.settle).await?;
    for (name, value) in [
        ("many_total_mib", held.all),
        ("many_bytes_per_object", held.cache.private * MIB / scope.many as f64),
        ("many_raw_bytes_per_object", raw),
        ("many_peak_ratio", held.peak / held.cache.rss),
    ] {
        report.figures.insert(name.to_owned(), json!((value * 100.0).round() / 100.0));
    }
    Ok(())
}

const MIB: f64 = 1_048_576.0;

async fn held(
    report: &mut Report,
    shelf: &mut Shelf,
    contender: Contender,
    settle: Duration,
) -> Result<Held> {
    let holding = shelf.hold(contender).await?;
    tokio::time::sleep(settle).await;
    let held = holding.memory()?;
    eprintln!(
        "{} with {}: {:.1} MiB private, {:.1} at most",
        contender.title(),
        shelf.count,
        held.cache.private,
        held.peak
    );
    report.rounds.push(json!({
        "contender": contender.name(), "objects": shelf.count, "memory": held, "load_average": load_average(),
    }));
    holding.end().await?;
    Ok(held)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5).unwrap_or(0.0)
}

fn picture(report: &Report) -> Result<()> {
    let figure = |name: &str| report.figures.get(name).and_then(Value::as_f64);
    let mut rows = Vec::new();
    rows.extend(figure("raw_bytes_per_object").map(|value| Bar { label: "its JSON".to_owned(), value }));
    use Contender::{Cr, CrTuned, KubeRs, KubeRsTuned, Ours};
    for contender in [Ours, Cr, CrTuned, KubeRs, KubeRsTuned] {
        let value = figure(&format!("{}bytes_per_object", contender.prefix()));
        rows.extend(value.map(|value| Bar { label: contender.title().to_owned(), value }));
    }
    let title = format!("Bytes of memory an object ({})", report.started());
    let path = report.path("svg")?;
    std::fs::write(&path, bars(&title, "bytes", &rows)).with_context(|| format!("write {}", path.display()))
}

//! `cargo xtask bench coldstart`: from the start of a process until it holds everything, beside a bare list of the same objects.
//!
//! What a start costs without any object is measured as well, and so can be taken off: Windlass starts a second process and
//! takes its plugin out of a ConfigMap before it knows what to list.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::Bench;
use super::failover::Contender;
use super::picture::{Axis, Row, log_rows};
use super::report::{Report, load_average, milliseconds, quantile};
use super::shelf::Shelf;
use crate::build;

/// What a pod has without `managedFields`.
const BYTES: usize = 4_400;

/// One series of measurements: a number of objects, and who was measured; `None`: the floor.
type Series = BTreeMap<(usize, Option<Contender>), Vec<f64>>;

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let binary = bench.binary.clone().map_or_else(|| build::host(true), Ok)?;
    let (counts, rounds): (&[usize], _) =
        if bench.quick { (&[0, 1_000], 3) } else { (&[0, 1_000, 10_000], 7) };
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("coldstart");
    for (what, value) in [
        ("objects", json!({ "counts": counts, "bytes": BYTES })),
        ("rounds", json!(rounds)),
        (
            "ready_ms",
            json!(
                "from the start of the process to the first 200 of /readyz, asked each 5 ms; the plugin is compiled already"
            ),
        ),
        (
            "list_floor_ms",
            json!("a list in pages of 500 whose bytes are read and dropped, by a client that is connected"),
        ),
    ] {
        report.conditions.insert(what.to_owned(), value);
    }
    let times = runtime.block_on(measure(&mut report, bench, counts, rounds, binary))?;
    figures(&mut report, &times, counts);
    picture(&report, times)?;
    let path = report.write()?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, path.display());
    Ok(())
}

async fn measure(
    report: &mut Report,
    bench: &Bench,
    counts: &[usize],
    rounds: usize,
    binary: std::path::PathBuf,
) -> Result<Series> {
    let mut shelf = Shelf::start(bench, binary).await?;
    let mut times = Series::new();
    for count in counts {
        shelf.fill(*count, BYTES).await?;
        for round in 0..rounds {
            let mut one = serde_json::Map::new();
            for contender in shelf.contenders(round) {
                // Next to each contender, so that a machine that slows down slows both.
                let floor = milliseconds(shelf.bare_list().await?);
                times.entry((*count, None)).or_default().push(floor);
                let holding = shelf.hold(contender).await?;
                let ready = milliseconds(holding.ready);
                times.entry((*count, Some(contender))).or_default().push(ready);
                let peak = holding.memory()?.peak;
                let value = json!({
                    "ready_ms": ready, "list_floor_ms": floor, "cpu_ms": milliseconds(holding.cpu), "peak_mib": peak,
                });
                one.insert(contender.name().to_owned(), value);
                holding.end().await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            eprintln!("{count} objects, round {}: {}", round + 1, json!(one));
            report
                .rounds
                .push(json!({ "objects": count, "round": round, "of": one, "load_average": load_average() }));
            report.write()?;
        }
    }
    Ok(times)
}

fn figures(report: &mut Report, times: &Series, counts: &[usize]) {
    let at = |count: usize, of: Option<Contender>| times.get(&(count, of)).and_then(|all| middle(all));
    let mut contenders: Vec<Contender> = times.keys().filter_map(|(_, of)| *of).collect();
    contenders.sort();
    contenders.dedup();
    let largest = counts.last().copied().unwrap_or_default();
    for count in counts {
        let suffix = if *count == largest { String::new() } else { format!("_{count}") };
        let mut set = |name: String, value: Option<f64>| {
            if let Some(value) = value {
                report.figures.insert(name, json!((value * 100.0).round() / 100.0));
            }
        };
        let floor = at(*count, None);
        set(format!("list_floor_ms{suffix}"), floor);
        for contender in &contenders {
            let (prefix, ready) = (contender.prefix(), at(*count, Some(*contender)));
            set(format!("{prefix}ready_ms{suffix}"), ready);
            if *count > 0 {
                let over = |part: Option<f64>| Some(part? / floor?);
                set(format!("{prefix}to_floor_ratio{suffix}"), over(ready));
                // What the objects add, without what any start costs.
                let added = ready.zip(at(0, Some(*contender))).map(|(ready, empty)| ready - empty);
                set(format!("{prefix}added_to_floor_ratio{suffix}"), over(added));
            }
        }
    }
    let peaks = report.rounds.iter().filter(|round| round["objects"] == largest);
    let peak = peaks.filter_map(|round| round["of"]["ours"]["peak_mib"].as_f64()).fold(0.0, f64::max);
    report.figures.insert("peak_mib".to_owned(), json!((peak * 100.0).round() / 100.0));
}

fn middle(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

fn picture(report: &Report, times: Series) -> Result<()> {
    let rows = times.into_iter().map(|((count, of), mut values)| {
        values.sort_by(f64::total_cmp);
        let label = of.map_or("a bare list", Contender::title).to_owned();
        Row { group: format!("{count} objects"), label, values }
    });
    let title = format!("From the start of a process until it holds everything ({})", report.started());
    let path = report.path("svg")?;
    std::fs::write(&path, log_rows(Axis::LONG, &title, &rows.collect::<Vec<_>>(), None))
        .with_context(|| format!("write {}", path.display()))
}

//! `cargo xtask bench storm`: many objects exist, the operator starts, each object becomes three children and a status.
//!
//! Everybody has its turn on a control plane of its own. F1, the write ceiling, is measured in each round on one more: the very
//! requests that the operators have to make, ready to be sent, with 1, 8, 32 and 64 of them on the wire, once as an administrator
//! and once with impersonation and the fence as Windlass makes them. A share of the ceiling is taken against the like one. CPU is
//! that of the contender's processes from exec until all objects are as they should be, less that of a start with no objects.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubectl_windlass::Package;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::failover::{self, Contender};
use super::observe::Observer;
use super::picture::{Axis, Row, log_rows};
use super::proc::cpu;
use super::report::{Report, load_average, milliseconds};
use super::rig::{PATIENCE, Rig, apps, config_maps, cpu_of_all, requests_for};
use super::scrape::Scrape;
use super::{Bench, peers, ratio};
use crate::{plugin, root};

/// What every object costs at least: three children and a status.
const WRITES_EACH: usize = 4;
/// A round whose floor is further from the median floor than this is left out of the figures.
const FLOOR_MOVES: f64 = 0.1;

/// How much is measured.
struct Scope {
    objects: usize,
    rounds: usize,
    /// Requests on the wire at once while the ceiling is measured.
    in_flight: &'static [usize],
    /// Objects for one measurement of the ceiling.
    floor_objects: usize,
    contenders: Vec<Contender>,
}

impl Scope {
    fn of(bench: &Bench) -> Self {
        let quick = bench.quick;
        let few = vec![Contender::Ours, Contender::CrTuned];
        let all = vec![Contender::Ours, Contender::Cr, Contender::CrTuned, Contender::KubeRs];
        let contenders = bench.peers.clone().unwrap_or(if quick { few } else { all });
        if quick {
            Self { objects: 150, rounds: 1, in_flight: &[8, 32], floor_objects: 60, contenders }
        } else {
            let rounds = bench.rounds.unwrap_or(3);
            Self { objects: 1_000, rounds, in_flight: &[1, 8, 32, 64], floor_objects: 150, contenders }
        }
    }
}

/// The ceiling: writes a second by what was on the wire at once.
#[derive(Clone, Debug, Serialize)]
struct Ceiling {
    plain: BTreeMap<usize, f64>,
    fenced: BTreeMap<usize, f64>,
}

impl Ceiling {
    /// The best of those that were made like the contender's own.
    fn like(&self, contender: Contender) -> f64 {
        let of = if contender.is_ours() { &self.fenced } else { &self.plain };
        of.values().copied().fold(0.0, f64::max)
    }
}

/// One contender's storm.
#[derive(Clone, Debug, Serialize)]
struct Storm {
    round: usize,
    contender: &'static str,
    /// First child to last status, as the one observer saw them.
    took_ms: f64,
    /// The writes that were needed, a second.
    needed_per_s: f64,
    ceiling_share: f64,
    writes_per_object: f64,
    cpu_s_per_1000: f64,
    /// The same a second after the last status: with what each status written brings back.
    settled_cpu_s_per_1000: f64,
    ours: Option<Ours>,
    load_average: String,
}

/// What only our own metrics tell, an object, a second after the last status.
#[derive(Clone, Debug, Default, Serialize)]
struct Ours {
    /// CPU seconds of the host alone for 1,000 objects.
    host_cpu_s_per_1000: f64,
    passes: f64,
    /// Passes that ended at once, because the cache had not yet shown the pass's own writes.
    waits: f64,
    /// Passes that a memo spared the plugin.
    skipped: f64,
    calls: f64,
    /// Time that a call took, the way to the worker and back included.
    call_us: f64,
    /// Time that a write took.
    write_us: f64,
    events: f64,
}

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let scope = Scope::of(bench);
    ensure!(scope.contenders.contains(&Contender::Ours), "--peers leaves ours out");
    let binaries = failover::binaries(bench, &scope.contenders)?;
    let package = plugin::build(&root().join("plugins/webapp"))?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("storm");
    conditions(&mut report, &scope)?;
    let (mut ceilings, mut storms) = (Vec::new(), Vec::new());
    for round in 0..scope.rounds {
        let ceiling =
            runtime.block_on(ceiling(&binaries, &package, &scope)).context("measure the ceiling")?;
        eprintln!("round {}: {ceiling:?}", round + 1);
        let mut order = scope.contenders.clone();
        if round % 2 == 1 {
            order.reverse();
        }
        for contender in order {
            let storm = runtime
                .block_on(storm(&binaries, &package, &scope, contender, round, &ceiling))
                .with_context(|| contender.title().to_owned())?;
            eprintln!("  {storm:?}");
            storms.push(storm);
        }
        ceilings.push(ceiling);
        write(&mut report, &scope, &ceilings, &storms)?;
    }
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, report.write()?.display());
    Ok(())
}

fn conditions(report: &mut Report, scope: &Scope) -> Result<()> {
    report.versions.extend(peers::versions()?.into_iter().map(|(name, version)| (name, json!(version))));
    for (what, value) in [
        ("objects", json!(scope.objects)),
        ("rounds", json!(scope.rounds)),
        ("etcd_fsync", json!(true)),
        ("controllers", json!("stopped: nothing but the contender works on the objects")),
        ("services", json!("headless, by a mutating policy, for floors and contenders alike")),
        ("audit_log", json!("blocking-strict, writes without bodies")),
        ("http", json!("floor: HTTP/1.1, a connection a request on the wire, as Windlass does")),
        (
            "peers_rights",
            json!(
                "cluster-admin, without fence and impersonation; their share is of the ceiling without them"
            ),
        ),
    ] {
        report.conditions.insert(what.to_owned(), value);
    }
    Ok(())
}

/// The fenced write ceiling of this moment, in writes a second, on a control plane of its own.
///
/// # Errors
/// If a prepared request is not accepted.
pub(super) async fn best(binaries: &BTreeMap<Contender, PathBuf>, package: &Package) -> Result<f64> {
    let scope =
        Scope { objects: 0, rounds: 1, in_flight: &[8, 32], floor_objects: 100, contenders: Vec::new() };
    Ok(ceiling(binaries, package, &scope).await?.like(Contender::Ours))
}

/// F1 on a control plane of its own.
async fn ceiling(
    binaries: &BTreeMap<Contender, PathBuf>,
    package: &Package,
    scope: &Scope,
) -> Result<Ceiling> {
    let rig = Rig::start(binaries, package).await?;
    rig.claim().await?;
    let client = rig.client()?;
    let mut ceiling = Ceiling { plain: BTreeMap::new(), fenced: BTreeMap::new() };
    for (turn, (fenced, k)) in scope.in_flight.iter().flat_map(|k| [(false, *k), (true, *k)]).enumerate() {
        let namespace = format!("floor-{turn}");
        rig.namespace(&namespace).await?;
        // A tenth of the objects is enough where one request after the other is sent.
        let count = if k == 1 { scope.floor_objects / 5 } else { scope.floor_objects };
        let apps = rig.create_apps(&namespace, count, false).await?;
        let mut requests = Vec::new();
        for app in &apps {
            requests.extend(requests_for(app)?);
        }
        // Connections and caches of both sides are warm in a contender, too.
        let warm: Vec<_> = requests.drain(..WRITES_EACH).collect();
        stream::iter(warm.into_iter().map(|request| request.send(&client, fenced)))
            .buffer_unordered(WRITES_EACH)
            .try_collect::<Vec<()>>()
            .await?;
        let (sent, began) = (requests.len(), Instant::now());
        stream::iter(requests.into_iter().map(|request| request.send(&client, fenced)))
            .buffer_unordered(k)
            .try_collect::<Vec<()>>()
            .await?;
        let rate = sent as f64 / began.elapsed().as_secs_f64();
        let of = if fenced { &mut ceiling.fenced } else { &mut ceiling.plain };
        of.insert(k, rate.round());
    }
    Ok(ceiling)
}

async fn storm(
    binaries: &BTreeMap<Contender, PathBuf>,
    package: &Package,
    scope: &Scope,
    contender: Contender,
    round: usize,
    ceiling: &Ceiling,
) -> Result<Storm> {
    let rig = Rig::start(binaries, package).await?;
    rig.namespace("empty").await?;
    let idle = rig.contender(contender, "empty").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (start, host_start) = (cpu_of_all(idle.pid())?, cpu(idle.pid())?);
    idle.terminate(Duration::from_secs(20)).await?;

    rig.namespace("storm").await?;
    rig.create_apps("storm", scope.objects, false).await?;
    let generation = |app: &Value| app["status"]["observedGeneration"].to_string();
    let statuses = Observer::start(rig.client()?, apps("storm"), generation).await?;
    let children = Observer::start(rig.client()?, config_maps("storm"), |_| String::new()).await?;
    let mark = rig.demo.control.audit()?.mark()?;
    let load = load_average();
    let replica = rig.contender(contender, "storm").await?;
    let last = done(&statuses, scope.objects).await?;
    let used = cpu_of_all(replica.pid())?.saturating_sub(start);
    // What is written after everything is done was not needed, and is counted.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let settled = cpu_of_all(replica.pid())?.saturating_sub(start);
    let host = cpu(replica.pid())?.saturating_sub(host_start);
    let writes = rig.writes(mark, "storm")?;
    let first = children.seen().first().map(|seen| seen.at).context("no child was seen")?;
    let took = last.saturating_duration_since(first);
    let needed_per_s = (scope.objects * WRITES_EACH) as f64 / took.as_secs_f64();
    let objects = scope.objects as f64;
    let ours = match contender.is_ours() {
        true => Some(Ours::of(&Scrape::of(&replica).await?, host, objects)),
        false => None,
    };
    Ok(Storm {
        round,
        contender: contender.name(),
        took_ms: milliseconds(took),
        needed_per_s: needed_per_s.round(),
        ceiling_share: rounded(needed_per_s / ceiling.like(contender)),
        writes_per_object: rounded(writes as f64 / objects),
        cpu_s_per_1000: rounded(used.as_secs_f64() * 1000.0 / objects),
        settled_cpu_s_per_1000: rounded(settled.as_secs_f64() * 1000.0 / objects),
        ours,
        load_average: load,
    })
}

impl Ours {
    fn of(scrape: &Scrape, host: Duration, objects: f64) -> Self {
        let each = |name: &str, label| rounded(scrape.sum(name, label) / objects);
        let mean = |name: &str| {
            let (sum, count) =
                (scrape.sum(&format!("{name}_sum"), None), scrape.sum(&format!("{name}_count"), None));
            (sum * 1e6 / count.max(1.0)).round()
        };
        Self {
            host_cpu_s_per_1000: rounded(host.as_secs_f64() * 1000.0 / objects),
            passes: each("controller_runtime_reconcile_total", None),
            waits: each("controller_runtime_reconcile_total", Some(("result", "requeue"))),
            skipped: each("windlass_passes_skipped_total", None),
            calls: each("windlass_plugin_calls_total", None),
            call_us: mean("windlass_plugin_call_seconds"),
            write_us: mean("windlass_write_seconds"),
            events: each("windlass_watch_events_total", None),
        }
    }
}

/// When the last of the objects had its status.
async fn done(statuses: &Observer, objects: usize) -> Result<Instant> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let mut first: BTreeMap<String, Instant> = BTreeMap::new();
        for seen in statuses.seen() {
            if seen.mark == "1" {
                first.entry(seen.name).or_insert(seen.at);
            }
        }
        if first.len() == objects {
            return first.into_values().max().context("no objects");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("not all objects have a status after {PATIENCE:?}")
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Rounds whose ceiling is near the median one, for both kinds of requests.
fn steady(ceilings: &[Ceiling]) -> Vec<usize> {
    let near = |of: fn(&Ceiling) -> f64| {
        let all: Vec<f64> = ceilings.iter().map(of).collect();
        let middle = ratio::median(&all).unwrap_or_default();
        move |ceiling: &Ceiling| (of(ceiling) / middle - 1.0).abs() <= FLOOR_MOVES
    };
    let (fenced, plain) = (near(|c| c.like(Contender::Ours)), near(|c| c.like(Contender::CrTuned)));
    let fits = |round: &usize| fenced(&ceilings[*round]) && plain(&ceilings[*round]);
    (0..ceilings.len()).filter(fits).collect()
}

/// What the rounds come to.
fn figures(scope: &Scope, ceilings: &[Ceiling], storms: &[Storm]) -> Map<String, Value> {
    let steady = steady(ceilings);
    let kept = |contender: Contender, of: fn(&Storm) -> f64| -> Vec<f64> {
        let own = storms.iter().filter(|s| s.contender == contender.name() && steady.contains(&s.round));
        own.map(of).collect()
    };
    let mut figures = Map::new();
    figures.insert("rounds_left_out".to_owned(), json!(ceilings.len() - steady.len()));
    for (name, like) in [("f1_fenced_per_s", Contender::Ours), ("f1_plain_per_s", Contender::CrTuned)] {
        let all: Vec<f64> = steady.iter().map(|round| ceilings[*round].like(like)).collect();
        figures.insert(name.to_owned(), json!(ratio::median(&all)));
    }
    for contender in &scope.contenders {
        let prefix = contender.prefix();
        for (name, of) in [
            ("ceiling_share", (|s: &Storm| s.ceiling_share) as fn(&Storm) -> f64),
            ("needed_per_s", |s| s.needed_per_s),
            ("cpu_s_per_1000", |s| s.cpu_s_per_1000),
            ("settled_cpu_s_per_1000", |s| s.settled_cpu_s_per_1000),
            ("writes_per_object", |s| s.writes_per_object),
        ] {
            let values = kept(*contender, of);
            figures.insert(format!("{prefix}{name}"), json!(ratio::median(&values)));
            figures.insert(format!("{prefix}{name}_spread"), ratio::spread(&values));
        }
    }
    let (ours, tuned) =
        (kept(Contender::Ours, |s| s.cpu_s_per_1000), kept(Contender::CrTuned, |s| s.cpu_s_per_1000));
    let ratios: Vec<f64> = ours.iter().zip(&tuned).map(|(ours, tuned)| ours / tuned).collect();
    figures.insert("cpu_ratio_to_tuned".to_owned(), json!(ratio::median(&ratios)));
    figures.insert("cpu_ratio_to_tuned_spread".to_owned(), ratio::spread(&ratios));
    figures
}

/// Brings report and picture up to date.
fn write(report: &mut Report, scope: &Scope, ceilings: &[Ceiling], storms: &[Storm]) -> Result<()> {
    report.figures = figures(scope, ceilings, storms);
    report.rounds = ceilings.iter().map(|ceiling| json!({ "ceiling": ceiling })).collect();
    report.rounds.extend(storms.iter().map(|storm| json!({ "storm": storm })));
    report.write()?;
    let rows: Vec<Row> = scope
        .contenders
        .iter()
        .map(|contender| {
            let own = storms.iter().filter(|storm| storm.contender == contender.name());
            let mut values: Vec<f64> = own.map(|storm| storm.took_ms / scope.objects as f64).collect();
            values.sort_by(f64::total_cmp);
            Row { group: "Time an object".to_owned(), label: contender.title().to_owned(), values }
        })
        .collect();
    let best = ceilings.iter().map(|ceiling| ceiling.like(Contender::Ours)).fold(0.0, f64::max);
    let floor = (best > 0.0).then(|| WRITES_EACH as f64 * 1000.0 / best);
    let title = format!("{} objects, three children and a status each ({})", scope.objects, report.started());
    let path = report.path("svg")?;
    std::fs::write(&path, log_rows(Axis::MIDDLE, &title, &rows, floor))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceiling(plain: f64, fenced: f64) -> Ceiling {
        Ceiling { plain: [(8, plain), (32, plain / 2.0)].into(), fenced: [(8, fenced)].into() }
    }

    fn storm(round: usize, contender: Contender, share: f64, cpu: f64) -> Storm {
        Storm {
            round,
            contender: contender.name(),
            took_ms: 1.0,
            needed_per_s: 1.0,
            ceiling_share: share,
            writes_per_object: 4.0,
            cpu_s_per_1000: cpu,
            settled_cpu_s_per_1000: cpu,
            ours: None,
            load_average: String::new(),
        }
    }

    #[test]
    fn a_round_whose_floor_moved_is_left_out_and_that_is_said() {
        let contenders = vec![Contender::Ours, Contender::CrTuned];
        let scope = Scope { objects: 1, rounds: 3, in_flight: &[8], floor_objects: 1, contenders };
        let ceilings = [ceiling(700.0, 600.0), ceiling(710.0, 610.0), ceiling(500.0, 600.0)];
        let storms: Vec<_> = (0..3)
            .flat_map(|round| {
                let odd = if round == 2 { 0.1 } else { 0.9 };
                [storm(round, Contender::Ours, odd, 0.5), storm(round, Contender::CrTuned, 0.5, 2.0)]
            })
            .collect();
        let figures = figures(&scope, &ceilings, &storms);
        assert_eq!(figures["rounds_left_out"], 1);
        assert_eq!(figures["ceiling_share"], 0.9);
        assert_eq!(figures["f1_plain_per_s"], 700.0);
        assert_eq!(figures["cpu_ratio_to_tuned"], 0.25);
        assert_eq!(figures["peer_tuned_ceiling_share_spread"]["n"], 2);
    }

    #[test]
    fn what_every_operator_has_to_write_is_three_children_and_a_status() {
        let app = json!({"apiVersion": "apps.windlass.dev/v1alpha1", "kind": "WebApp",
            "metadata": {"name": "a", "namespace": "n", "uid": "u"},
            "spec": {"image": "x", "replicas": 0, "config": {"A": "1"}}});
        let requests = requests_for(&app).expect("decided");
        assert_eq!(requests.len(), WRITES_EACH);
    }
}

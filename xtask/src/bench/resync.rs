//! `cargo xtask bench resync`: what it costs to look at every object again although nothing has changed, and at a takeover.
//!
//! Everybody has its turn on a control plane of its own. The objects are made and worked off first. Then the contender runs
//! once without a resync, for what it costs to do nothing, and once with one each few seconds; CPU is that of all its processes,
//! the idle share taken off, divided by the resyncs. API calls are writes in the audit log and lists; guest calls are ours alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kubectl_windlass::Package;
use serde::Serialize;
use serde_json::{Map, Value, json};
use windlass_testbed::Replica;

use super::failover::{self, Contender};
use super::picture::{Axis, Row, log_rows};
use super::report::{Report, load_average};
use super::rig::{PATIENCE, Rig, apps, cpu_of_all};
use super::scrape::Scrape;
use super::{Bench, peers, ratio};
use crate::{plugin, root};

const NAMESPACE: &str = "resync";
/// How many resyncs are measured, for a figure that the kernel's ticks of 10 ms do not blur.
const OURS: u32 = 20;
const PEERS: u32 = 2;
/// After a start or a takeover, until nothing but the resync goes on.
const REST: Duration = Duration::from_secs(5);

/// How much is measured.
struct Scope {
    objects: usize,
    rounds: usize,
    /// Between two resyncs: enough for one of ours, and for one of a peer.
    every: [Duration; 2],
    contenders: Vec<Contender>,
}

impl Scope {
    fn of(bench: &Bench) -> Self {
        let few = vec![Contender::Ours, Contender::CrTuned];
        let all = vec![Contender::Ours, Contender::Cr, Contender::CrTuned, Contender::KubeRsTuned];
        let contenders = bench.peers.clone().unwrap_or(if bench.quick { few } else { all });
        let seconds = |ours, peers| [Duration::from_secs(ours), Duration::from_secs(peers)];
        match bench.quick {
            true => Self { objects: 1_000, rounds: 1, every: seconds(1, 8), contenders },
            false => {
                Self { objects: 10_000, rounds: bench.rounds.unwrap_or(3), every: seconds(1, 60), contenders }
            }
        }
    }
}

/// One contender's turn.
#[derive(Clone, Debug, Serialize)]
struct Turn {
    round: usize,
    contender: &'static str,
    /// One resync, the idle share taken off; below zero when the machine was too busy to tell.
    cpu_ms: f64,
    /// The same with the idle share of a period: what it is at most.
    gross_cpu_ms: f64,
    idle_cpu_ms_per_s: f64,
    /// All resyncs that were measured.
    resyncs: u32,
    writes: usize,
    ours: Option<Ours>,
    load_average: String,
}

/// What only our metrics tell.
#[derive(Clone, Debug, Default, Serialize)]
struct Ours {
    skipped: f64,
    guest_calls: f64,
    lists: f64,
    /// CPU of the successor in the seconds of a takeover, the idle share taken off.
    takeover_cpu_ms: f64,
    takeover_guest_calls: f64,
    takeover_writes: usize,
}

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let scope = Scope::of(bench);
    ensure!(scope.contenders.contains(&Contender::Ours), "--peers leaves ours out");
    let binaries = failover::binaries(bench, &scope.contenders)?;
    let package = plugin::build(&root().join("plugins/webapp"))?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("resync");
    report.versions.extend(peers::versions()?.into_iter().map(|(name, version)| (name, json!(version))));
    for (what, value) in [
        ("objects", json!(scope.objects)),
        ("rounds", json!(scope.rounds)),
        ("resyncs", json!({ "ours": OURS, "peers": PEERS })),
        (
            "cpu_ms",
            json!("one resync of all objects, all processes of the contender, to about 1 ms for ours"),
        ),
        ("kube_rs", json!("has no resync: each pass asks to be run again after the same time")),
    ] {
        report.conditions.insert(what.to_owned(), value);
    }
    let mut turns = Vec::new();
    for round in 0..scope.rounds {
        let mut order = scope.contenders.clone();
        if round % 2 == 1 {
            order.reverse();
        }
        for contender in order {
            let turn = runtime
                .block_on(turn(&binaries, &package, &scope, contender, round))
                .with_context(|| contender.title().to_owned())?;
            eprintln!("  {turn:?}");
            turns.push(turn);
            save(&mut report, &scope, &turns)?;
        }
    }
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, report.write()?.display());
    Ok(())
}

async fn turn(
    binaries: &BTreeMap<Contender, PathBuf>,
    package: &Package,
    scope: &Scope,
    contender: Contender,
    round: usize,
) -> Result<Turn> {
    let (resyncs, every) = if contender.is_ours() { (OURS, scope.every[0]) } else { (PEERS, scope.every[1]) };
    let rig = Rig::start(binaries, package).await?;
    rig.namespace(NAMESPACE).await?;
    rig.create_apps(NAMESPACE, scope.objects, false).await?;
    let never = rig.contender_with(contender, NAMESPACE, &["--sync-period=36000s"]).await?;
    settled(&rig, scope.objects).await?;
    let idle = at_rest(&never).await?;
    let mut ours = None;
    if contender.is_ours() {
        ours = Some(takeover(&rig, never, idle).await?);
    } else {
        never.terminate(Duration::from_secs(20)).await?;
    }

    let period = format!("--sync-period={}s", every.as_secs());
    let replica = rig.contender_with(contender, NAMESPACE, &[&period]).await?;
    // The first period has the start in it, and the passes that a start brings.
    tokio::time::sleep(REST.max(every) + every / 2).await;
    if contender.is_ours() {
        asks_no_more(&replica).await?;
    }
    let mut resyncs = resyncs;
    let (mark, before) = (rig.demo.control.audit()?.mark()?, scraped(&replica, contender).await?);
    let load = load_average();
    let window = every * resyncs;
    let used = used(&replica, window).await?;
    let after = scraped(&replica, contender).await?;
    let writes = rig.writes(mark, NAMESPACE)?;
    if let (Some(ours), Some(before), Some(after)) = (&mut ours, before, after) {
        let grown = |name: &str| after.sum(name, None) - before.sum(name, None);
        ours.skipped = grown("windlass_passes_skipped_total");
        ours.guest_calls = grown("windlass_plugin_calls_total");
        ours.lists = grown("windlass_watch_lists_total");
        // A period begins when the last resync has ended: a slow machine fits fewer of them in.
        let wanted = f64::from(resyncs / 2) * scope.objects as f64;
        ensure!(ours.skipped >= wanted, "only {} of {wanted} keys were looked at", ours.skipped);
        resyncs = (ours.skipped / scope.objects as f64).round() as u32;
    }
    let cpu = used.as_secs_f64() - idle * window.as_secs_f64();
    Ok(Turn {
        round,
        contender: contender.name(),
        cpu_ms: rounded(cpu * 1000.0 / f64::from(resyncs)),
        gross_cpu_ms: rounded(used.as_secs_f64() * 1000.0 / f64::from(resyncs)),
        idle_cpu_ms_per_s: rounded(idle * 1000.0),
        resyncs,
        writes,
        ours,
        load_average: load,
    })
}

/// The leader goes, and a standby that has looked at everything takes over.
async fn takeover(rig: &Rig, leader: Replica, idle: f64) -> Result<Ours> {
    let standby = rig.demo.replica_with("windlass-1", &["--sync-period=36000s"])?;
    let began = Instant::now();
    while !standby.is_ready().await {
        ensure!(began.elapsed() < PATIENCE, "the standby is not ready:\n{}", standby.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Its passes: each object once.
    let calls = asks_no_more(&standby).await?;
    let mark = rig.demo.control.audit()?.mark()?;
    let cpu = cpu_of_all(standby.pid())?;
    let began = Instant::now();
    leader.terminate(Duration::from_secs(20)).await?;
    tokio::time::sleep(REST).await;
    let used = cpu_of_all(standby.pid())?.saturating_sub(cpu);
    let after = Scrape::of(&standby).await?;
    let leads = after.sum("leader_election_master_status", None);
    ensure!(leads == 1.0, "the standby does not lead:\n{}", standby.log());
    let cpu = used.as_secs_f64() - idle * began.elapsed().as_secs_f64();
    let ours = Ours {
        takeover_cpu_ms: rounded(cpu * 1000.0),
        takeover_guest_calls: after.sum("windlass_plugin_calls_total", None) - calls,
        takeover_writes: rig.writes(mark, NAMESPACE)?,
        ..Ours::default()
    };
    standby.terminate(Duration::from_secs(20)).await?;
    Ok(ours)
}

/// Waits until no plugin has been asked anything for a while; how often they were until then.
async fn asks_no_more(replica: &Replica) -> Result<f64> {
    let mut calls = -1.0;
    loop {
        let now = Scrape::of(replica).await?.sum("windlass_plugin_calls_total", None);
        if now == calls {
            return Ok(calls);
        }
        calls = now;
        tokio::time::sleep(REST).await;
    }
}

/// Our own metrics; others' are not asked.
async fn scraped(replica: &Replica, contender: Contender) -> Result<Option<Scrape>> {
    match contender.is_ours() {
        true => Ok(Some(Scrape::of(replica).await?)),
        false => Ok(None),
    }
}

/// What a contender uses during that time.
async fn used(replica: &Replica, during: Duration) -> Result<Duration> {
    let before = cpu_of_all(replica.pid())?;
    tokio::time::sleep(during).await;
    Ok(cpu_of_all(replica.pid())?.saturating_sub(before))
}

/// Waits until a contender has used no less for a while; what it uses then, as a share of a processor.
async fn at_rest(replica: &Replica) -> Result<f64> {
    let (mut least, mut since) = (f64::INFINITY, 0);
    for _ in 0..36 {
        let now = used(replica, REST).await?.as_secs_f64() / REST.as_secs_f64();
        since = if now < least * 0.9 { 0 } else { since + 1 };
        least = least.min(now);
        if since == 4 {
            break;
        }
    }
    Ok(least)
}

/// Waits until every object has a status. By lists: a status that was written before a watch had begun would never be seen.
async fn settled(rig: &Rig, objects: usize) -> Result<()> {
    let client = rig.client()?;
    let (began, most) = (Instant::now(), PATIENCE + Duration::from_millis(60) * u32::try_from(objects)?);
    loop {
        let request = http::Request::get(apps(NAMESPACE)).body(Vec::new())?;
        let all: Value = client.request(request).await.context("list the WebApps")?;
        let items = all["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let done = items.iter().filter(|app| app["status"]["observedGeneration"] == 1).count();
        if done == objects {
            return Ok(());
        }
        ensure!(began.elapsed() < most, "{done} of {objects} objects have a status");
        tokio::time::sleep(REST).await;
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// What the turns come to.
fn figures(scope: &Scope, turns: &[Turn]) -> Map<String, Value> {
    let mut figures = Map::new();
    for contender in &scope.contenders {
        let own: Vec<&Turn> = turns.iter().filter(|turn| turn.contender == contender.name()).collect();
        let prefix = contender.prefix();
        let cpu: Vec<f64> = own.iter().map(|turn| turn.cpu_ms).collect();
        figures.insert(format!("{prefix}cpu_ms"), json!(ratio::median(&cpu)));
        figures.insert(format!("{prefix}cpu_ms_spread"), ratio::spread(&cpu));
        let gross: Vec<f64> = own.iter().map(|turn| turn.gross_cpu_ms).collect();
        figures.insert(format!("{prefix}gross_cpu_ms"), json!(ratio::median(&gross)));
        figures.insert(format!("{prefix}writes"), json!(own.iter().map(|turn| turn.writes).sum::<usize>()));
    }
    let ours: Vec<&Ours> = turns.iter().filter_map(|turn| turn.ours.as_ref()).collect();
    let sum = |of: fn(&Ours) -> f64| ours.iter().map(|ours| of(ours)).sum::<f64>();
    let written: usize = turns.iter().filter(|turn| turn.ours.is_some()).map(|turn| turn.writes).sum();
    let calls = sum(|ours| ours.lists) + written as f64;
    figures.insert("api_calls".to_owned(), json!(calls));
    figures.insert("guest_calls".to_owned(), json!(sum(|ours| ours.guest_calls)));
    let takeovers: Vec<f64> = ours.iter().map(|ours| ours.takeover_cpu_ms).collect();
    figures.insert("takeover_cpu_ms".to_owned(), json!(ratio::median(&takeovers)));
    figures.insert("takeover_guest_calls".to_owned(), json!(sum(|ours| ours.takeover_guest_calls)));
    figures.insert("takeover_writes".to_owned(), json!(sum(|ours| ours.takeover_writes as f64)));
    figures
}

/// Brings report and picture up to date.
fn save(report: &mut Report, scope: &Scope, turns: &[Turn]) -> Result<()> {
    report.figures = figures(scope, turns);
    report.rounds = turns.iter().map(|turn| json!(turn)).collect();
    report.write()?;
    let rows = scope.contenders.iter().map(|contender| {
        let own = turns.iter().filter(|turn| turn.contender == contender.name());
        // A picture of logarithms has no place for nothing.
        let mut values: Vec<f64> = own.map(|turn| turn.cpu_ms.max(0.1)).collect();
        values.sort_by(f64::total_cmp);
        Row { group: "CPU of one resync".to_owned(), label: contender.title().to_owned(), values }
    });
    let title = format!("{} objects that have not changed ({})", scope.objects, report.started());
    let path = report.path("svg")?;
    std::fs::write(&path, log_rows(Axis::LONG, &title, &rows.collect::<Vec<_>>(), None))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_summed_and_times_are_medians() {
        let turn = |round, contender: Contender, cpu_ms, ours| Turn {
            round,
            contender: contender.name(),
            cpu_ms,
            gross_cpu_ms: cpu_ms,
            idle_cpu_ms_per_s: 1.0,
            resyncs: 2,
            writes: 1,
            ours,
            load_average: String::new(),
        };
        let ours = Ours { guest_calls: 2.0, lists: 3.0, takeover_cpu_ms: 7.0, ..Ours::default() };
        let contenders = vec![Contender::Ours, Contender::CrTuned];
        let scope = Scope { objects: 1, rounds: 2, every: [Duration::ZERO; 2], contenders };
        let turns = [
            turn(0, Contender::Ours, 10.0, Some(ours.clone())),
            turn(0, Contender::CrTuned, 400.0, None),
            turn(1, Contender::Ours, 10.0, Some(ours)),
        ];
        let figures = figures(&scope, &turns);
        assert_eq!((&figures["cpu_ms"], &figures["peer_tuned_cpu_ms"]), (&json!(10.0), &json!(400.0)));
        assert_eq!((&figures["api_calls"], &figures["guest_calls"]), (&json!(8.0), &json!(4.0)));
        assert_eq!(figures["takeover_cpu_ms"], 7.0);
    }
}

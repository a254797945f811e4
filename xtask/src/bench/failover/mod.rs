//! `cargo xtask bench failover`: what it costs when a leader crashes, ends, freezes, or loses its API server.
//!
//! Contenders take turns on one control plane. In its turn each has three replicas and a namespace of its own, in which the same
//! steady, open-loop stream changes twenty WebApps; each change asks for one new child write (an Ingress) and a status. A gap
//! is the time from the last child write of the old leader to the first of the new one as the harness's own watch shows them;
//! whose write it was is known from the audit log, by its resourceVersion. A fault comes right after an effect of the leader was
//! seen, and one change more is made at that moment, so that the stream's own pauses are no part of a gap.

mod contender;
mod fault;
mod figures;
mod floor;
mod load;
mod round;
mod stage;
mod team;
mod turn;
mod writes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

pub(crate) use contender::Contender;

use self::contender::Counts;
use self::round::Round;
use self::stage::Stage;
use super::report::Report;
use super::{Bench, peers, picture};
use crate::build;

/// How many turns everybody has.
const TURNS: usize = 5;
/// The stream is this share of what the slowest contender can follow,
const STREAM_SHARE: f64 = 0.3;
/// within these bounds: faster says nothing new, and slower is no stream.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(100);
/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(60);

/// What a run is to do.
pub(super) struct Order {
    contenders: Vec<Contender>,
    turns: usize,
    quick: bool,
    rounds: Option<usize>,
    /// Where the host's binary comes from; if it was given, its version is not known.
    binary: &'static str,
    /// Between two changes; measured at the start unless somebody said it.
    every: Option<Duration>,
    /// How long the API server is away.
    pub(super) outage: Duration,
}

impl Order {
    fn of(bench: &Bench) -> Result<Self> {
        let few = [Contender::Ours, Contender::CrTuned];
        let all = [Contender::Ours, Contender::Cr, Contender::CrTuned, Contender::KubeRs];
        let default = if bench.quick { few.to_vec() } else { all.to_vec() };
        let contenders = bench.peers.clone().unwrap_or(default);
        ensure!(!contenders.is_empty(), "--peers names nobody");
        Ok(Self {
            contenders,
            turns: if bench.quick { 1 } else { TURNS },
            quick: bench.quick,
            rounds: bench.rounds,
            binary: if bench.binary.is_some() {
                "given with --binary"
            } else {
                "built from this tree for release"
            },
            every: bench.every_ms.map(Duration::from_millis),
            outage: if bench.quick { OUTAGE / 3 } else { OUTAGE },
        })
    }

    /// What one contender goes through in one turn.
    fn counts(&self, contender: Contender, turn: usize) -> Counts {
        let mut total = contender.rounds(self.quick);
        if let Some(most) = self.rounds {
            total = total.at_most(most, contender);
        }
        // Spread over the turns, so that each has nearly the same.
        let part = |of: usize| of * (turn + 1) / self.turns - of * turn / self.turns;
        Counts {
            crashes: part(total.crashes),
            ends: part(total.ends),
            freezes: part(total.freezes),
            outages: usize::from(turn + 1 == self.turns) * total.outages,
        }
    }

    /// Everybody's turns: A B C, C B A, A B C …
    fn sequence(&self) -> impl Iterator<Item = (usize, Contender)> {
        (0..self.turns).flat_map(|turn| {
            let mut order = self.contenders.clone();
            if turn % 2 == 1 {
                order.reverse();
            }
            order.into_iter().map(move |contender| (turn, contender))
        })
    }
}

/// Runs all turns; what is known after each is on disk.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let mut order = Order::of(bench)?;
    let binaries = binaries(bench, &order.contenders)?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    runtime.block_on(async {
        let stage = Stage::start(binaries).await?;
        let (mut report, mut rounds) = match &bench.resume {
            Some(path) => resume(path, &mut order)?,
            None => {
                let mut report = Report::new("failover");
                calibrate(&mut report, &stage, &mut order).await?;
                conditions(&mut report, &stage, &order).await?;
                (report, Vec::new())
            }
        };
        for (turn, contender) in order.sequence() {
            if played(&report, turn, contender) {
                continue;
            }
            let counts = order.counts(contender, turn);
            eprintln!("turn {}: {}: {counts}", turn + 1, contender.title());
            let notes = match turn::play(&stage, contender, turn, counts, &order, &mut rounds).await {
                Ok(notes) => notes,
                // The others' turns are worth having all the same.
                Err(error) => {
                    eprintln!("  this turn is over: {error:#}");
                    json!({ "failed": format!("{error:#}") })
                }
            };
            report.conditions.insert(key(turn, contender), notes);
            save(&mut report, &mut rounds, &order.contenders)?;
        }
        println!("{}", serde_json::to_string_pretty(&report.figures)?);
        println!("-> {}\n-> {}", report.path("json")?.display(), report.path("svg")?.display());
        let failed = report.conditions.values().filter(|notes| !notes["failed"].is_null()).count();
        ensure!(failed == 0, "{failed} turns ended early; see the conditions in the JSON");
        Ok(())
    })
}

/// What an interrupted run has shown, under the conditions that it had; rounds of turns that did not end are left out.
fn resume(path: &std::path::Path, order: &mut Order) -> Result<(Report, Vec<Round>)> {
    let report = Report::resume("failover", path)?;
    let every = report.conditions.get("change_every_ms").and_then(serde_json::Value::as_f64);
    let every = every.context("the report does not say how often something changed")?;
    order.every = Some(Duration::from_secs_f64(every / 1000.0));
    let mut rounds: Vec<Round> =
        report.rounds.iter().cloned().map(serde_json::from_value).collect::<Result<_, _>>()?;
    rounds.retain(|round| played(&report, round.turn, round.contender));
    Ok((report, rounds))
}

/// Whether a turn has been played to its end.
fn played(report: &Report, turn: usize, contender: Contender) -> bool {
    report.conditions.get(&key(turn, contender)).is_some_and(|notes| notes["failed"].is_null())
}

/// Under which name a turn's notes are kept.
fn key(turn: usize, contender: Contender) -> String {
    format!("turn_{}_{}", turn + 1, contender.name())
}

pub(super) fn binaries(bench: &Bench, contenders: &[Contender]) -> Result<BTreeMap<Contender, PathBuf>> {
    let mut binaries = BTreeMap::new();
    for contender in contenders {
        let binary = match contender {
            Contender::Ours => match &bench.binary {
                Some(binary) => binary.canonicalize().with_context(|| format!("no {}", binary.display()))?,
                None => build::host(true)?,
            },
            Contender::Cr | Contender::CrTuned => peers::controller_runtime()?,
            Contender::KubeRs | Contender::KubeRsTuned => peers::kube_rs()?,
        };
        binaries.insert(*contender, binary);
    }
    Ok(binaries)
}

/// Measures what everybody can follow, and chooses the stream so that the slowest has it easy.
async fn calibrate(report: &mut Report, stage: &Stage, order: &mut Order) -> Result<()> {
    let mut capacities = BTreeMap::new();
    for contender in &order.contenders {
        let capacity =
            turn::capacity(stage, *contender).await.with_context(|| contender.title().to_owned())?;
        eprintln!("{} follows {capacity:.0} changes a second", contender.title());
        capacities.insert(contender.name(), capacity);
    }
    let slowest = capacities.values().copied().fold(f64::INFINITY, f64::min);
    let easy = Duration::from_secs_f64(1.0 / (slowest * STREAM_SHARE)).clamp(SHORTEST, LONGEST);
    let every = *order.every.get_or_insert(easy);
    let share = |capacity: &f64| (100.0 / every.as_secs_f64() / capacity).round() / 100.0;
    let shares: BTreeMap<_, _> = capacities.iter().map(|(name, capacity)| (*name, share(capacity))).collect();
    eprintln!(
        "a change every {:.1} ms; shares of what each can follow: {shares:?}",
        every.as_secs_f64() * 1000.0
    );
    let capacities: BTreeMap<_, _> =
        capacities.into_iter().map(|(name, most)| (name, most.round())).collect();
    report.conditions.insert("changes_per_s_followed".to_owned(), json!(capacities));
    report.conditions.insert("stream_share_of_that".to_owned(), json!(shares));
    Ok(())
}

async fn conditions(report: &mut Report, stage: &Stage, order: &Order) -> Result<()> {
    let versions = peers::versions()?.into_iter().map(|(name, version)| (name, json!(version)));
    report.versions.extend(versions);
    report.versions.insert("kubernetes".to_owned(), json!(stage.kubernetes_version().await?));
    for (what, value) in [
        ("change_every_ms", json!(order.every.map(crate::bench::report::milliseconds))),
        ("webapps", json!(load::APPS)),
        ("replicas", json!(team::REPLICAS)),
        ("etcd_fsync", json!(true)),
        ("audit_log", json!("blocking-strict, writes of children, Leases and Roles with both bodies")),
        ("fence", json!(true)),
        ("host_binary", json!(order.binary)),
        ("peers_rights", json!("cluster-admin")),
        ("outage_s", json!(order.outage.as_secs())),
        (
            "contenders",
            json!(order.contenders.iter().map(|c| (c.name(), c.title())).collect::<BTreeMap<_, _>>()),
        ),
        (
            "gap",
            json!(
                "last child write of the old leader to the first of the new one, in one observer's watch, CLOCK_MONOTONIC"
            ),
        ),
    ] {
        report.conditions.insert(what.to_owned(), value);
    }
    Ok(())
}

/// Brings the report up to date and writes it with its picture.
fn save(report: &mut Report, rounds: &mut [Round], contenders: &[Contender]) -> Result<()> {
    figures::judge(rounds);
    report.rounds = rounds.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    report.figures = figures::of(rounds, contenders);
    report.write()?;
    let rows = figures::rows(rounds, contenders);
    let floor = report.figures.get("floor_ms").and_then(serde_json::Value::as_f64);
    let title = format!("Without a leader: time to the next effect ({})", report.started());
    let svg = picture::log_rows(picture::Axis::LONG, &title, &rows, floor);
    let path = report.path("svg")?;
    std::fs::write(&path, svg).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(turns: usize, rounds: Option<usize>) -> Order {
        let contenders = vec![Contender::Ours, Contender::Cr];
        Order { contenders, turns, quick: false, rounds, binary: "", every: None, outage: OUTAGE }
    }

    #[test]
    fn turns_alternate_and_their_rounds_add_up() {
        let order = order(5, None);
        let turns: Vec<_> = order.sequence().map(|(_, contender)| contender).take(4).collect();
        assert_eq!(turns, [Contender::Ours, Contender::Cr, Contender::Cr, Contender::Ours]);
        let sum = |contender| (0..5).map(|turn| order.counts(contender, turn).crashes).sum::<usize>();
        assert_eq!((sum(Contender::Ours), sum(Contender::Cr)), (100, 12));
        let outages: Vec<_> = (0..5).map(|turn| order.counts(Contender::Cr, turn).outages).collect();
        assert_eq!(outages, [0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_number_of_rounds_bounds_everybody() {
        let order = order(1, Some(3));
        for contender in [Contender::Ours, Contender::Cr] {
            let counts = order.counts(contender, 0);
            assert_eq!((counts.crashes, counts.ends, counts.freezes), (3, 3, 3));
        }
    }
}

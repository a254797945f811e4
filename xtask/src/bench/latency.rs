//! `cargo xtask bench latency`: how long a change of a spec takes until its effect, whoever follows.
//!
//! Changes come open-loop, whether anybody keeps up or not, at 10, 50 and 80 % of the write ceiling that the same round has shown;
//! a change costs three writes (itself, an Ingress, a status). The time is from the sending of the change until the observer's
//! watch shows the Ingress that says the same. F2, the floor, is a bare watcher in this process that answers each event with the
//! two prepared writes, the Ingress first: no queue, no cache, no decision, no comparison.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use kubectl_windlass::Package;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::failover::{self, Contender};
use super::observe::{Observer, watch};
use super::picture::{Axis, Row, log_rows};
use super::report::{Report, load_average, quantile};
use super::rig::{PATIENCE, Prepared, Rig, apps, ingresses, requests_for};
use super::stream::{Flowed, Target, flow};
use super::{Bench, peers, ratio, storm};
use crate::{plugin, root};

/// Objects that are changed in turn: more than may be on the way at once.
const OBJECTS: usize = 100;
/// What one change costs.
const WRITES_EACH: f64 = 3.0;
const NAMESPACE: &str = "latency";
/// Before the first measurement, so that connections are open and code is warm.
const WARM: Duration = Duration::from_secs(2);

/// How much is measured.
struct Scope {
    rounds: usize,
    /// Shares of the write ceiling, in percent.
    loads: &'static [u32],
    during: Duration,
    contenders: Vec<Contender>,
}

/// Who follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follower {
    Floor,
    Contender(Contender),
}

impl Follower {
    fn prefix(self) -> &'static str {
        match self {
            Self::Floor => "floor_",
            Self::Contender(contender) => contender.prefix(),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Floor => "floor: a bare watcher",
            Self::Contender(contender) => contender.title(),
        }
    }
}

/// One stream of changes.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    round: usize,
    follower: &'static str,
    load_percent: u32,
    changes_per_s: f64,
    #[serde(flatten)]
    flowed: Flowed,
    load_average: String,
}

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let all = [Contender::Ours, Contender::Cr, Contender::CrTuned, Contender::KubeRs];
    let few = [Contender::Ours, Contender::CrTuned];
    let default = if bench.quick { few.to_vec() } else { all.to_vec() };
    let contenders = bench.peers.clone().unwrap_or(default);
    ensure!(contenders.contains(&Contender::Ours), "--peers leaves ours out");
    let scope = if bench.quick {
        Scope { rounds: 1, loads: &[50], during: Duration::from_secs(6), contenders }
    } else {
        let rounds = bench.rounds.unwrap_or(3);
        Scope { rounds, loads: &[10, 50, 80], during: Duration::from_secs(8), contenders }
    };
    let binaries = failover::binaries(bench, &scope.contenders)?;
    let package = plugin::build(&root().join("plugins/webapp"))?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("latency");
    conditions(&mut report, &scope)?;
    let mut measured = Vec::new();
    let mut ceilings = Vec::new();
    for round in 0..scope.rounds {
        let ceiling = runtime.block_on(storm::best(&binaries, &package))?;
        ceilings.push(ceiling);
        let mut order = vec![Follower::Floor];
        order.extend(scope.contenders.iter().copied().map(Follower::Contender));
        if round % 2 == 1 {
            order.reverse();
        }
        for follower in order {
            let streams = follow(&binaries, &package, &scope, follower, round, ceiling);
            measured.extend(runtime.block_on(streams).with_context(|| follower.title().to_owned())?);
        }
        report.conditions.insert("write_ceiling_per_s".to_owned(), json!(ceilings));
        save(&mut report, &scope, &measured)?;
    }
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, report.write()?.display());
    Ok(())
}

fn conditions(report: &mut Report, scope: &Scope) -> Result<()> {
    report.versions.extend(peers::versions()?.into_iter().map(|(name, version)| (name, json!(version))));
    for (what, value) in [
        ("objects", json!(OBJECTS)),
        ("rounds", json!(scope.rounds)),
        ("seconds_each", json!(scope.during.as_secs())),
        ("etcd_fsync", json!(true)),
        (
            "load",
            json!("open-loop; percent of the fenced write ceiling of the same round, three writes a change"),
        ),
        ("from_to", json!("sending of the change to the Ingress in one observer's watch, CLOCK_MONOTONIC")),
        ("controllers", json!("stopped: nothing but the contender works on the objects")),
    ] {
        report.conditions.insert(what.to_owned(), value);
    }
    Ok(())
}

async fn follow(
    binaries: &BTreeMap<Contender, PathBuf>,
    package: &Package,
    scope: &Scope,
    follower: Follower,
    round: usize,
    ceiling: f64,
) -> Result<Vec<Measured>> {
    let rig = Rig::start(binaries, package).await?;
    rig.namespace(NAMESPACE).await?;
    let made = rig.create_apps(NAMESPACE, OBJECTS, true).await?;
    let observer = Observer::start(rig.client()?, ingresses(NAMESPACE), said).await?;
    let mut bare = JoinSet::new();
    let _replica = match follower {
        Follower::Floor => {
            rig.claim().await?;
            let client = rig.client()?;
            for app in &made {
                for request in requests_for(app)? {
                    request.send(&client, true).await?;
                }
            }
            bare.spawn(answer(client, made.clone()));
            None
        }
        Follower::Contender(contender) => Some(rig.contender(contender, NAMESPACE).await?),
    };
    settled(&observer).await?;
    let targets: Vec<_> = made.iter().map(target).collect();
    let client = rig.client()?;
    let mut measured = Vec::new();
    for load in scope.loads {
        let rate = ceiling / WRITES_EACH * f64::from(*load) / 100.0;
        flow(&client, &observer, &targets, rate, WARM).await?;
        let flowed = flow(&client, &observer, &targets, rate, scope.during).await?;
        eprintln!(
            "round {}: {} at {load} %: p50 {:?} p99 {:?} ms, {} made, {} failed, {} lost",
            round + 1,
            follower.title(),
            flowed.p50_ms,
            flowed.p99_ms,
            flowed.made,
            flowed.failed,
            flowed.lost
        );
        let follower = follower.title();
        let (changes_per_s, load_average) = (rate.round(), load_average());
        measured.push(Measured { round, follower, load_percent: *load, changes_per_s, flowed, load_average });
    }
    Ok(measured)
}

/// Waits until each object has its Ingress.
async fn settled(observer: &Observer) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let names: std::collections::BTreeSet<_> =
            observer.seen().into_iter().map(|seen| seen.name).collect();
        if names.len() == OBJECTS {
            // The statuses are behind the Ingresses.
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("not all objects have an Ingress after {PATIENCE:?}")
}

fn target(app: &Value) -> Target {
    let name = app["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Target {
        path: format!("{}/{name}", apps(NAMESPACE)),
        effect: name,
        change: |text| json!({ "spec": { "host": format!("c{text}.example.com") } }),
    }
}

/// What an Ingress says: the text of the change.
fn said(ingress: &Value) -> String {
    let host = ingress["spec"]["rules"][0]["host"].as_str().unwrap_or_default();
    host.strip_prefix('c').and_then(|rest| rest.strip_suffix(".example.com")).unwrap_or_default().to_owned()
}

/// F2: each event is answered with the Ingress, then with the status, both made out of text that was prepared.
async fn answer(client: kube::Client, made: Vec<Value>) -> Result<()> {
    let uids: BTreeMap<String, Value> = made
        .iter()
        .map(|app| {
            (app["metadata"]["name"].as_str().unwrap_or_default().to_owned(), app["metadata"]["uid"].clone())
        })
        .collect();
    let mut events = watch(&client, &apps(NAMESPACE)).await?;
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    let mut writes = JoinSet::new();
    while let Some(app) = events.next().await {
        while writes.try_join_next().is_some() {}
        let name = app["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let host = app["spec"]["host"].as_str().unwrap_or_default().to_owned();
        // Its own status is an event, too.
        if last.insert(name.clone(), host.clone()).is_none_or(|before| before != host) {
            let (ingress, status) = answers(&name, &host, &uids[&name]);
            let client = client.clone();
            writes.spawn(async move {
                ingress.send(&client, true).await?;
                status.send(&client, true).await
            });
        }
    }
    Ok(())
}

fn answers(name: &str, host: &str, uid: &Value) -> (Prepared, Prepared) {
    let backend = json!({ "service": { "name": name, "port": { "name": "http" } } });
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "rules": [{ "host": host,
            "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] } }] },
    });
    let status = json!({
        "apiVersion": "apps.windlass.dev/v1alpha1", "kind": "WebApp",
        "metadata": { "name": name, "namespace": NAMESPACE, "uid": uid },
        "status": { "url": format!("http://{host}") },
    });
    let path = format!("{}/{name}", ingresses(NAMESPACE));
    (
        Prepared::apply(&path, &ingress),
        Prepared::apply(&format!("{}/{name}/status", apps(NAMESPACE)), &status),
    )
}

/// The figures: medians over rounds, at half load under the short name, at the others with `_at_<percent>`.
fn figures(scope: &Scope, measured: &[Measured]) -> Map<String, Value> {
    let mut figures = Map::new();
    let mut followers = vec![Follower::Floor];
    followers.extend(scope.contenders.iter().copied().map(Follower::Contender));
    for load in scope.loads {
        let suffix = if *load == 50 { String::new() } else { format!("_at_{load}") };
        let of = |follower: Follower, value: fn(&Flowed) -> Option<f64>| -> Vec<f64> {
            let own = measured.iter().filter(|m| m.follower == follower.title() && m.load_percent == *load);
            own.filter_map(|m| value(&m.flowed)).collect()
        };
        for follower in &followers {
            let prefix = follower.prefix();
            for (name, value) in
                [("p50_ms", (|f: &Flowed| f.p50_ms) as fn(&Flowed) -> Option<f64>), ("p99_ms", |f| f.p99_ms)]
            {
                let own = of(*follower, value);
                figures.insert(format!("{prefix}{name}{suffix}"), json!(ratio::median(&own)));
                if *follower != Follower::Floor {
                    let floor = of(Follower::Floor, value);
                    let above: Vec<f64> = own.iter().zip(&floor).map(|(own, floor)| own - floor).collect();
                    let name = format!("{prefix}above_floor_{name}{suffix}");
                    figures.insert(name, json!(ratio::median(&above)));
                }
            }
            let lost: usize = measured
                .iter()
                .filter(|m| m.follower == follower.title() && m.load_percent == *load)
                .map(|m| m.flowed.lost)
                .sum();
            figures.insert(format!("{prefix}lost{suffix}"), json!(lost));
        }
    }
    figures
}

/// Brings report and picture up to date.
fn save(report: &mut Report, scope: &Scope, measured: &[Measured]) -> Result<()> {
    report.figures = figures(scope, measured);
    report.rounds = measured.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    report.write()?;
    let mut rows = Vec::new();
    let mut followers = vec![Follower::Floor];
    followers.extend(scope.contenders.iter().copied().map(Follower::Contender));
    for load in scope.loads {
        for follower in &followers {
            let own = measured.iter().filter(|m| m.follower == follower.title() && m.load_percent == *load);
            let mut values: Vec<f64> = own.flat_map(|m| m.flowed.took_ms.iter().copied()).collect();
            values.sort_by(f64::total_cmp);
            // A dot for every change would be a picture of megabytes.
            let shares = (0..=100).map(|percent| f64::from(percent) / 100.0);
            let values = shares.filter_map(|share| quantile(&values, share)).collect();
            rows.push(Row {
                group: format!("{load} % of the write ceiling"),
                label: follower.title().to_owned(),
                values,
            });
        }
    }
    let title = format!("A change until its effect, each percentile a dot ({})", report.started());
    let path = report.path("svg")?;
    std::fs::write(&path, log_rows(Axis::LONG, &title, &rows, None))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_known_again_in_its_ingress() {
        let app = json!({"metadata": {"name": "a"}});
        let change = (target(&app).change)("17");
        let host = change["spec"]["host"].as_str().expect("a host");
        let ingress = json!({"spec": {"rules": [{"host": host}]}});
        assert_eq!(said(&ingress), "17");
        assert_eq!(said(&json!({})), "");
    }
}

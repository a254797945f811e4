//! `cargo xtask bench baseline`: the first honest figures, on this machine, with
//! floors measured in the same run. Not a test: nothing here asserts a time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt as _;
use kubectl_windlass::Package;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use windlass_testbed::Options;

use super::Bench;
use super::observe::watch;
use super::report::{Report, load_average, spread};
use crate::demo::Demo;
use crate::up::{HELLO, create_sample, ready};
use crate::{build, plugin, root};

/// The child that the bare watcher writes.
const BARE: &str = "/api/v1/namespaces/default/configmaps/bare";

/// An event as the one observer saw it.
struct Seen {
    at: Instant,
    /// `webapp`, `child` or `bare`.
    what: &'static str,
    /// The counter that it carries.
    counter: u64,
}

/// Measures latency, memory and failover of the host alone.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let binary = bench.binary.clone().map_or_else(|| build::host(true), Ok)?;
    let package = plugin::build(&root().join("plugins/webapp"))?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("baseline");
    report.figures = runtime.block_on(measure(bench.quick, &binary, &package))?;
    let path = report.write()?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, path.display());
    Ok(())
}

async fn measure(quick: bool, binary: &Path, package: &Package) -> Result<Map<String, Value>> {
    let (changes, kills, stops) = if quick { (50, 1, 2) } else { (500, 5, 20) };
    // etcd with its fsync: a figure without it would flatter everybody.
    let options = Options { unsafe_no_fsync: false, ..Options::default() };
    let mut demo = Demo::start(None, binary.to_owned(), options).await?.with_flags(&["--log=warn"]);
    demo.install(package).await?;
    demo.replicas(3).await?;
    create_sample(&demo).await?;
    ready(&demo, Instant::now()).await?;
    let load = load_average();
    eprintln!("latency: {changes} changes, one after the other");
    let latency = latency(&demo, changes).await?;
    eprintln!("memory: idle");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let memory = memory(&demo).await?;
    eprintln!("failover: {stops} times SIGTERM, {kills} times SIGKILL, lease 15 s / 10 s / 2 s");
    let graceful = failover(&mut demo, stops, false).await?;
    let crash = failover(&mut demo, kills, true).await?;
    let figures = json!({
        "load_average_at_start": load,
        "latency": latency,
        "memory": memory,
        "graceful_gap": spread(graceful),
        "crash_gap": spread(crash),
    });
    Ok(figures.as_object().cloned().unwrap_or_default())
}

/// Event -> child write of the host, and of a bare watcher that answers each event
/// with one prepared write; both as one observer sees them.
async fn latency(demo: &Demo, changes: u64) -> Result<Value> {
    let (send, mut seen) = mpsc::channel(4096);
    let observers = [
        tokio::spawn(observe(demo.control.client()?, WEBAPPS, "webapp", send.clone())),
        tokio::spawn(observe(demo.control.client()?, CHILDREN, "child", send)),
    ];
    let bare = tokio::spawn(bare_watcher(demo.control.client()?));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for counter in 1..=changes {
        demo.patch(HELLO, json!({"spec": {"config": {"COUNTER": counter.to_string()}}})).await?;
        let (mut event, mut child, mut answered) = (None, None, None);
        let all = async {
            while event.is_none() || child.is_none() || answered.is_none() {
                let Some(seen) = seen.recv().await else { break };
                let slot = match seen.what {
                    "webapp" => &mut event,
                    "child" => &mut child,
                    _ => &mut answered,
                };
                if seen.counter == counter {
                    slot.get_or_insert(seen.at);
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.context("a change was not followed")?;
        let from = event.context("the observer's watch ended")?;
        ours.extend(child.map(|at| at.saturating_duration_since(from)));
        floor.extend(answered.map(|at| at.saturating_duration_since(from)));
    }
    for task in observers {
        task.abort();
    }
    bare.abort();
    Ok(json!({"event_to_child_write": spread(ours), "floor_bare_watcher": spread(floor)}))
}

const WEBAPPS: &str = "/apis/apps.windlass.dev/v1alpha1/namespaces/default/webapps";
const CHILDREN: &str = "/api/v1/namespaces/default/configmaps";

/// Tells of every change to the objects of a collection that carry a counter.
async fn observe(
    client: kube::Client,
    collection: &str,
    what: &'static str,
    to: mpsc::Sender<Seen>,
) -> Result<()> {
    let mut events = watch(&client, collection).await?;
    while let Some(object) = events.next().await {
        let at = Instant::now();
        let data =
            if what == "webapp" { &object["spec"]["config"]["COUNTER"] } else { &object["data"]["COUNTER"] };
        let what = if object["metadata"]["name"] == "bare" { "bare" } else { what };
        let Some(counter) = data.as_str().and_then(|text| text.parse().ok()) else { continue };
        if to.send(Seen { at, what, counter }).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The floor: each event is answered with one prepared server-side apply.
async fn bare_watcher(client: kube::Client) -> Result<()> {
    let mut events = watch(&client, WEBAPPS).await?;
    while let Some(object) = events.next().await {
        let Some(counter) = object["spec"]["config"]["COUNTER"].as_str() else { continue };
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"bare","namespace":"default"}},"data":{{"COUNTER":"{counter}"}}}}"#
        );
        let request = http::Request::patch(format!("{BARE}?fieldManager=bare&force=true"))
            .header("content-type", "application/apply-patch+yaml")
            .body(body.into_bytes())?;
        client.request::<Value>(request).await?;
    }
    Ok(())
}

/// Gaps between the last child write before a leader ends and the first after it,
/// under a steady stream of changes.
async fn failover(demo: &mut Demo, rounds: usize, kill: bool) -> Result<Vec<Duration>> {
    let mut gaps = Vec::new();
    for _ in 0..rounds {
        let (send, mut seen) = mpsc::channel(65_536);
        let observer = tokio::spawn(observe(demo.control.client()?, CHILDREN, "child", send));
        let changes = tokio::spawn(steady_changes(demo.control.client()?));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (_, leader) = demo.leading().await?;
        let process = demo.take(&leader.name)?;
        let ended = Instant::now();
        let ending = tokio::spawn(async move {
            if kill {
                process.kill().await.map(drop)
            } else {
                process.terminate(Duration::from_secs(30)).await.map(drop)
            }
        });
        demo.until("another replica leads", || async {
            demo.leader().await.filter(|next| next.term > leader.term)
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        observer.abort();
        changes.abort();
        ending.await??;
        let mut times = Vec::new();
        while let Ok(event) = seen.try_recv() {
            times.push(event.at);
        }
        gaps.extend(longest_gap(&times, ended));
        let again = demo.replica(&leader.name)?;
        demo.replicas.push(again);
        demo.until("it is ready again", || async { demo.replicas.last()?.is_ready().await.then_some(()) })
            .await?;
    }
    Ok(gaps)
}

/// The gap in which leadership changed: the longest that ends after `from`.
fn longest_gap(times: &[Instant], from: Instant) -> Option<Duration> {
    let pairs = times.windows(2).filter(|pair| pair[1] > from);
    pairs.map(|pair| pair[1] - pair[0]).max()
}

/// A change every 20 ms.
async fn steady_changes(client: kube::Client) -> Result<()> {
    let mut every = tokio::time::interval(Duration::from_millis(20));
    for counter in 1_000_000_u64.. {
        every.tick().await;
        let body = json!({"spec": {"config": {"COUNTER": counter.to_string()}}}).to_string();
        let request = http::Request::patch(HELLO)
            .header("content-type", "application/merge-patch+json")
            .body(body.into_bytes())?;
        client.request::<Value>(request).await?;
    }
    Ok(())
}

/// Memory of the leader and of a standby, from the kernel's own accounting.
async fn memory(demo: &Demo) -> Result<Value> {
    let (_, leader) = demo.leading().await?;
    let mut figures = serde_json::Map::new();
    for replica in &demo.replicas {
        let role = if replica.name() == leader.name { "leader" } else { "standby" };
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", replica.pid()))?;
        let kib = |field: &str| -> u64 {
            let line = rollup.lines().find(|line| line.starts_with(field));
            line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        figures.insert(
            role.to_owned(),
            json!({
                "private_mib": mib(kib("Private_Clean:") + kib("Private_Dirty:")),
                "private_dirty_mib": mib(kib("Private_Dirty:")),
                "pss_mib": mib(kib("Pss:")),
                "rss_mib": mib(kib("Rss:")),
            }),
        );
    }
    Ok(figures.into())
}

fn mib(kib: u64) -> f64 {
    (kib as f64 / 102.4).round() / 10.0
}

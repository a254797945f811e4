//! `cargo xtask bench sizing`: what the sizes of `deploy/components` carry, measured in pods on a real node.
//!
//! One replica alone, under the component's requests and limits: so many plugins with so many objects, each with a child. Memory is what the
//! kernel counts for the pod; the rate is how fast as many changes as the API server takes are worked off.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use windlass_testbed::drill::{Pod, container_figure};
use windlass_testbed::nodes::{Cluster, is_ready};

use super::Bench;
use super::bars::{Bar, bars};
use super::crowd::NAMESPACE;
use super::observe::Observer;
use super::report::{Report, load_average};
use super::stamp::{Stamp, deployed, deployed_name};
use crate::demo::Demo;
use crate::image::Image;

/// Requests of ours at once.
const AT_ONCE: usize = 16;
/// Changes whose effects are waited for.
const CHANGES: usize = 3_000;
/// After everything has its child: code that rests is dropped by then.
const SETTLE: Duration = Duration::from_secs(12);
/// How long the pod is looked at while nothing happens: what it costs then is not what a change costs.
const REST: Duration = Duration::from_secs(20);
/// How long a size may take to get there, and how much longer for each object.
const PATIENCE: Duration = Duration::from_secs(300);
const PER_OBJECT: Duration = Duration::from_millis(20);

/// What one size is asked to carry.
#[derive(Clone, Copy, serde::Serialize)]
struct Load {
    size: &'static str,
    plugins: u16,
    objects: usize,
}

const LOADS: [Load; 3] = [
    Load { size: "small", plugins: 50, objects: 10_000 },
    Load { size: "medium", plugins: 100, objects: 20_000 },
    Load { size: "large", plugins: 200, objects: 40_000 },
];

pub(crate) fn run(bench: &Bench) -> Result<()> {
    Cluster::possible().context("this machine allows no nodes")?;
    let image = bench.binary.clone().map_or_else(Image::of_this_tree, Ok)?;
    let stamp = Stamp::build()?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("sizing");
    let mut rows = Vec::new();
    for load in LOADS {
        let load = if bench.quick {
            Load { plugins: load.plugins / 10, objects: load.objects / 20, ..load }
        } else {
            load
        };
        eprintln!("{}: {} plugins, {} objects", load.size, load.plugins, load.objects);
        let found = runtime.block_on(Box::pin(measure(load, &image, &stamp)))?;
        for (name, value) in found.as_object().into_iter().flatten() {
            report.figures.insert(format!("{}_{name}", load.size), value.clone());
        }
        let amount = |name: &str| found[name].as_f64().unwrap_or(0.0);
        let label =
            |what: &str| format!("{}, {} plugins, {} objects: {what}", load.size, load.plugins, load.objects);
        rows.push(Bar { label: label("settled"), value: amount("working_set_mib") });
        rows.push(Bar { label: label("peak"), value: amount("peak_mib") });
        report.rounds.push(json!({ "load": load, "found": found, "load_average": load_average() }));
        report.write()?;
    }
    std::fs::write(report.path("svg")?, bars("Memory of one replica in its pod, MiB", "MiB", &rows))?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, report.path("json")?.display());
    Ok(())
}

async fn measure(load: Load, image: &Path, stamp: &Stamp) -> Result<Value> {
    let demo = Demo::on_nodes_with(1, vec![image.to_owned()], &[format!("size-{}", load.size)]).await?;
    let system = ["--namespace", "windlass-system"];
    demo.kubectl(&[&["scale", "deployment/windlass", "--replicas=1"][..], &system[..]].concat()).await?;
    let members: Vec<_> = (0..load.plugins).map(|number| stamp.member(number, 1)).collect::<Result<_>>()?;
    let each = load.objects / members.len();
    let all = members.len() * each;
    let crowd = deployed(&members, each, NAMESPACE)?;
    crowd.bring(&demo.control).await?;
    let began = Instant::now();
    crowd.served(&demo.control, PATIENCE + PER_OBJECT * load.objects as u32).await?;
    let converged = began.elapsed();
    tokio::time::sleep(SETTLE).await;
    let pod = pod(&demo).await?;
    let rest = rest(&demo, &pod).await?;
    let usage = |hierarchy: &str, file: &str| {
        container_figure(demo.cluster().context("there are nodes")?, &pod, "windlass", hierarchy, file)
    };
    let cached = usage("memory", "memory.stat:total_inactive_file")?;
    let settled = usage("memory", "memory.usage_in_bytes")?.saturating_sub(cached);
    let peak = usage("memory", "memory.max_usage_in_bytes")?;
    let limit = usage("memory", "memory.limit_in_bytes")?;

    let changes = CHANGES.min(all);
    let client = demo.control.client()?;
    let text = |map: &Value| map["data"]["text"].as_str().unwrap_or_default().to_owned();
    let observer = Observer::start(client.clone(), crowd.children.clone(), text).await?;
    let cpu = usage("cpuacct", "cpuacct.usage")?;
    let throttled = usage("cpu", "cpu.stat:throttled_time")?;
    let began = Instant::now();
    let sent = (0..changes).map(|number| {
        let (member, object) = (&members[number % members.len()], number / members.len());
        let path =
            format!("{}/{}", member.collection(NAMESPACE), deployed_name(number % members.len(), object));
        let client = client.clone();
        async move {
            let request = http::Request::patch(path)
                .header("content-type", "application/merge-patch+json")
                .body(json!({ "spec": { "text": "changed" } }).to_string().into_bytes())?;
            anyhow::Ok(client.request::<Value>(request).await.map(drop)?)
        }
    });
    stream::iter(sent).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    changed(&observer, changes).await?;
    let took = began.elapsed();
    let spent = (usage("cpuacct", "cpuacct.usage")? - cpu) as f64 - rest * took.as_nanos() as f64;
    let throttled = usage("cpu", "cpu.stat:throttled_time")? - throttled;
    let mib = |bytes: u64| (bytes as f64 / 1_048_576.0 * 10.0).round() / 10.0;
    Ok(json!({
        "working_set_mib": mib(settled), "peak_mib": mib(peak), "limit_mib": mib(limit),
        "first_pass_s": (converged.as_secs_f64() * 10.0).round() / 10.0,
        "changes": changes,
        "changes_per_s": (changes as f64 / took.as_secs_f64()).round(),
        "cpu_us_per_change": (spent / 1e3 / changes as f64).round(),
        "cpu_percent_at_rest": (rest * 1e4).round() / 1e2,
        "throttled_s": (throttled as f64 / 1e8).round() / 10.0,
        "restarts": pod.restarts,
    }))
}

/// What share of a processor the replica takes when it has nothing left to do: every object has its child, but not yet its status.
async fn rest(demo: &Demo, pod: &Pod) -> Result<f64> {
    let cluster = demo.cluster().context("there are nodes")?;
    let spent = || container_figure(cluster, pod, "windlass", "cpuacct", "cpuacct.usage");
    let began = Instant::now();
    let mut last = f64::INFINITY;
    while began.elapsed() < PATIENCE {
        let before = spent()?;
        tokio::time::sleep(REST).await;
        let share = (spent()? - before) as f64 / REST.as_nanos() as f64;
        // Twice the same is what it takes; before, it gets less and less.
        if share > last * 0.8 && share < 0.1 {
            return Ok(share.min(last));
        }
        eprintln!("  {:.1} % of a processor", share * 1e2);
        last = share;
    }
    anyhow::bail!("after {PATIENCE:?} without a change it still takes {:.1} % of a processor", last * 1e2)
}

/// The replica.
async fn pod(demo: &Demo) -> Result<Pod> {
    let pods = demo.host_pods().await;
    let pod = pods.iter().find(|pod| is_ready(pod)).context("the replica is ready")?;
    Ok(Pod::of(pod))
}

/// Waits until so many children say that they are changed. One watch: to list tens of thousands again and again would be most of what
/// the machine does.
async fn changed(observer: &Observer, changes: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let seen = observer.seen();
        let said: BTreeSet<_> =
            seen.iter().filter(|one| one.mark == "changed").map(|one| &one.name).collect();
        if said.len() >= changes {
            return Ok(());
        }
        anyhow::ensure!(
            began.elapsed() < PATIENCE,
            "{} of {changes} effects within {PATIENCE:?}",
            said.len()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

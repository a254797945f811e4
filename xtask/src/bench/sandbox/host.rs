//! A whole host while WebApps change: what it uses of CPU for each decision, and what it decides about.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use windlass_testbed::{Options, Replica};

use super::tenth;
use crate::bench::observe::Observer;
use crate::bench::proc::cpu;
use crate::bench::report::Report;
use crate::bench::scrape::Scrape;
use crate::bench::stream::{self, Target};
use crate::demo::Demo;
use crate::{plugin, root};

/// WebApps that are changed.
const APPS: usize = 20;
/// Where they are, and their children.
const WEBAPPS: &str = "/apis/apps.windlass.dev/v1alpha1/namespaces/default/webapps";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
const CHILDREN: [(&str, &str); 3] = [
    ("apps/v1/Deployment", "/apis/apps/v1/namespaces/default/deployments"),
    ("v1/Service", "/api/v1/namespaces/default/services"),
    ("networking.k8s.io/v1/Ingress", INGRESSES),
];

/// What a host used and had.
pub(super) struct EndToEnd {
    /// CPU of host and worker for each call into the plugin, in microseconds.
    pub(super) cpu_us: f64,
    /// A WebApp.
    pub(super) primary: Value,
    /// Its children, each with its kind.
    pub(super) children: Vec<(&'static str, Value)>,
}

/// Runs a host for as long as `during`, with `rate` changes a second.
pub(super) async fn end_to_end(
    report: &mut Report,
    rate: f64,
    during: Duration,
    binary: PathBuf,
) -> Result<EndToEnd> {
    // The API server's CPU is nobody's here, and its disk nobody's business.
    let options = Options { kubelet: None, ..Options::default() };
    let artefacts = tempfile::tempdir().context("make a folder for compiled plugins")?;
    let folder = format!("--artefact-dir={}", artefacts.path().display());
    let mut demo = Demo::start(None, binary, options).await?.with_flags(&["--log=warn", &folder]);
    demo.install(&plugin::build(&root().join("plugins/webapp"))?).await?;
    demo.replicas(1).await?;
    let client = demo.control.client()?;
    let yaml: Vec<_> = (0..APPS).map(webapp).collect();
    demo.until("WebApps can be made", || async { demo.control.apply(&yaml.join("---\n")).await.ok() })
        .await?;
    let targets: Vec<_> = (0..APPS).map(target).collect();
    let observer = Observer::start(client.clone(), INGRESSES.to_owned(), number).await?;
    // All children are made first.
    stream::flow(&client, &observer, &targets, rate, Duration::from_secs(5)).await?;

    let host = demo.replicas.first().context("no host runs")?;
    let worker = worker(host).await?;
    let before = (calls(host).await?, cpu(host.pid())?, cpu(worker)?);
    eprintln!("end to end: {rate} changes a second for {during:?}");
    let flowed = stream::flow(&client, &observer, &targets, rate, during).await?;
    let us = |of: Duration| of.as_secs_f64() * 1e6;
    let (hosts, workers) = (us(cpu(host.pid())? - before.1), us(cpu(worker)? - before.2));
    let asked = calls(host).await? - before.0;
    ensure!(asked > 0.0 && flowed.made > 0, "nothing was asked");
    for (figure, value) in [
        ("end_to_end_cpu_us_a_call", (hosts + workers) / asked),
        ("end_to_end_host_cpu_us_a_call", hosts / asked),
        ("end_to_end_worker_cpu_us_a_call", workers / asked),
        ("end_to_end_cpu_us_a_change", (hosts + workers) / flowed.made as f64),
    ] {
        report.figures.insert(figure.to_owned(), json!(tenth(value)));
    }
    report
        .rounds
        .push(json!({ "way": "end_to_end", "calls": asked, "changes_a_s": rate, "changes": flowed }));
    let mut children = Vec::new();
    for (kind, path) in CHILDREN {
        children.push((kind, bare(&demo, &format!("{path}/app-0")).await?));
    }
    Ok(EndToEnd {
        cpu_us: (hosts + workers) / asked,
        primary: bare(&demo, &format!("{WEBAPPS}/app-0")).await?,
        children,
    })
}

fn webapp(app: usize) -> String {
    format!(
        "apiVersion: apps.windlass.dev/v1alpha1\nkind: WebApp\nmetadata: {{ name: app-{app}, namespace: default }}\n\
         spec: {{ image: nginx, replicas: 0, host: c0.example.com }}\n"
    )
}

fn target(app: usize) -> Target {
    Target {
        path: format!("{WEBAPPS}/app-{app}"),
        effect: format!("app-{app}"),
        change: |text| json!({ "spec": { "host": format!("c{text}.example.com") } }),
    }
}

/// The number of the change that an Ingress shows.
fn number(ingress: &Value) -> String {
    let host = ingress["spec"]["rules"][0]["host"].as_str().unwrap_or_default();
    host.trim_start_matches('c').trim_end_matches(".example.com").to_owned()
}

async fn calls(host: &Replica) -> Result<f64> {
    Ok(Scrape::of(host).await?.sum("windlass_plugin_calls_total", None))
}

/// The process in which plugins run.
async fn worker(host: &Replica) -> Result<u32> {
    let (_, view) = host.ask("/debug/sandbox").await?;
    let view: Value = serde_json::from_str(&view).context("/debug/sandbox is no JSON")?;
    view["worker"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("the host names no worker")
}

/// An object as the host's cache holds it.
async fn bare(demo: &Demo, path: &str) -> Result<Value> {
    let mut object = demo.get(path).await.with_context(|| format!("no {path}"))?;
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    Ok(object)
}

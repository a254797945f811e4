//! Real nodes: pods run and reach each other, a machine can be frozen, cut off and left without its kubelet, and nothing is left.
//!
//! Where this machine allows no nodes these tests say so and prove nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use windlass_testbed::nodes::{Cluster, HELLO, Images, Settings, is_ready};

const PATIENCE: Duration = Duration::from_secs(90);

/// Set in the copy of this program that is started to be killed.
const VICTIM: &str = "WINDLASS_TESTBED_NODES_VICTIM";

fn possible() -> bool {
    match Cluster::possible() {
        Ok(()) => true,
        Err(reason) => {
            eprintln!("NOT TESTED: no nodes on this machine: {reason:#}");
            false
        }
    }
}

async fn get(cluster: &Cluster, path: &str) -> Result<Value> {
    Ok(cluster.control().client()?.request(http::Request::get(path).body(Vec::new())?).await?)
}

async fn eventually<F: Future<Output = Result<bool>>>(what: &str, holds: impl Fn() -> F) -> Result<Duration> {
    let started = Instant::now();
    while !holds().await.unwrap_or(false) {
        ensure!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(started.elapsed())
}

/// What may be left of a cluster: its interface, its control groups, processes with its name in their command lines.
fn leftovers(id: &str) -> Vec<String> {
    let mut left = Vec::new();
    let interface = format!("/sys/class/net/wl{id}");
    left.extend(Path::new(&interface).exists().then_some(interface));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let group = hierarchy.path().join(format!("windlass-{id}"));
        left.extend(group.exists().then(|| group.display().to_string()));
    }
    left
}

/// Processes that were started out of this folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&folder))
        .collect()
}

/// Three web servers that would rather be on different nodes, and a Service before them.
fn web() -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web, namespace: default }}
spec:
  replicas: 3
  selector: {{ matchLabels: &labels {{ app: web }} }}
  template:
    metadata: {{ labels: *labels }}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm: {{ topologyKey: kubernetes.io/hostname, labelSelector: {{ matchLabels: *labels }} }}
      securityContext: {{ runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, seccompProfile: {{ type: RuntimeDefault }} }}
      containers:
        - name: web
          image: {HELLO}
          readinessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}
          securityContext: {{ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{ drop: [ALL] }} }}
---
apiVersion: v1
kind: Service
metadata: {{ name: web, namespace: default }}
spec: {{ selector: {{ app: web }}, ports: [{{ port: 80, targetPort: 8080 }}] }}
"
    )
}

#[tokio::test]
async fn pods_run_on_machines_that_can_be_frozen_cut_off_and_switched_off() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let began = Instant::now();
    let cluster = Cluster::start(Settings::default(), &Images::default()).await?;
    eprintln!("two nodes Ready after {:.1?}", began.elapsed());
    let (id, folder) = (cluster.id().to_owned(), cluster.control().directory()?.to_owned());

    cluster.control().apply(&web()).await?;
    let took = eventually("three pods are Ready", async || {
        Ok(get(&cluster, "/apis/apps/v1/namespaces/default/deployments/web").await?["status"]["readyReplicas"] == 3)
    })
    .await?;
    eprintln!("three pods Ready after {took:.1?}");
    let pods = get(&cluster, "/api/v1/namespaces/default/pods").await?;
    let pods = pods["items"].as_array().context("a list")?;
    for node in cluster.nodes() {
        let here: Vec<_> = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).collect();
        assert!(!here.is_empty(), "no pod on {node}");
        let uid = here[0]["metadata"]["uid"].as_str().context("a uid")?;
        let mut programs: Vec<_> =
            cluster.processes(node, uid)?.into_iter().map(|(_, program)| program).collect();
        programs.sort();
        assert_eq!(programs, ["hello", "pause"]);
    }

    // From this machine to a pod, and from a pod's machine through the Service to any.
    let address = pods[0]["status"]["podIP"].as_str().context("an address")?;
    assert!(fetch(address, 8080).await?.contains("hello from web-"));
    let log = cluster.control().kubectl(&["logs", "deployment/web"]).await?;
    assert!(String::from_utf8_lossy(&log.stdout).contains("serving on"), "{log:?}");

    // Frozen: whoever asks waits. Thawed: as if nothing had been.
    let node = pods[0]["spec"]["nodeName"].as_str().context("a node")?;
    cluster.freeze(node)?;
    assert!(fetch(address, 8080).await.is_err(), "a frozen machine answered");
    cluster.thaw(node)?;
    assert!(fetch(address, 8080).await.is_ok());

    cluster.cut_from_api_server(node)?;
    assert!(fetch(address, 8080).await.is_err(), "this machine is where the API server is");
    cluster.reconnect_to_api_server(node)?;
    assert!(fetch(address, 8080).await.is_ok());

    cluster.stop_kubelet(node)?;
    eventually("a stopped kubelet answers nobody", async || {
        Ok(tokio::net::TcpStream::connect((cluster.address(node)?, 10250)).await.is_err())
    })
    .await?;
    assert!(fetch(address, 8080).await.is_ok(), "pods need no kubelet to run");
    cluster.start_kubelet(node)?;
    let path = format!("/api/v1/nodes/{node}");
    eventually("it comes back", async || {
        let there = tokio::net::TcpStream::connect((cluster.address(node)?, 10250)).await.is_ok();
        Ok(there && is_ready(&get(&cluster, &path).await?))
    })
    .await?;

    // Even frozen: what cannot run cannot end.
    cluster.freeze(node)?;
    let began = Instant::now();
    drop(cluster);
    eprintln!("gone after {:.1?}", began.elapsed());
    assert_eq!(leftovers(&id), Vec::<String>::new());
    assert_eq!(processes_of(&folder), Vec::<String>::new());
    assert!(!folder.exists(), "{} is left", folder.display());
    Ok(())
}

async fn fetch(address: &str, port: u16) -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect((address, port)).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    tokio::time::timeout(Duration::from_secs(3), ask).await.context("no answer within 3 s")?
}

/// Not a test of its own: what the copy does for the next one. Says where it is, and waits.
#[tokio::test]
async fn a_copy_of_this_program_waits_to_be_killed() -> Result<()> {
    let Some(file) = std::env::var_os(VICTIM) else { return Ok(()) };
    let cluster = Cluster::start(Settings { nodes: 1, ..Settings::default() }, &Images::default()).await?;
    cluster.freeze("node1")?;
    let file = PathBuf::from(file);
    std::fs::write(
        file.with_extension("new"),
        format!("{}\n{}", cluster.id(), cluster.control().directory()?.display()),
    )?;
    std::fs::rename(file.with_extension("new"), file)?;
    std::future::pending().await
}

#[test]
fn nothing_of_a_node_outlives_a_process_that_is_killed() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("report");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_copy_of_this_program_waits_to_be_killed"])
        .env(VICTIM, &file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let began = Instant::now();
    while !file.exists() && began.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let ready = file.exists();
    child.kill()?;
    child.wait()?;
    ensure!(ready, "the copy never got ready");
    let report = std::fs::read_to_string(&file)?;
    let (id, folder) = report.split_once('\n').context("two lines")?;
    let began = Instant::now();
    loop {
        let mut left = leftovers(id);
        left.extend(processes_of(Path::new(folder)));
        left.extend(Path::new(folder).exists().then(|| folder.to_owned()));
        if left.is_empty() {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(30), "left: {left:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    eprintln!("gone {:.1?} after the kill", began.elapsed());
    Ok(())
}

//! `cargo xtask bench deployed`: what production does to a deployment on real nodes, beside an operator on controller-runtime that
//! is deployed the same way.
//!
//! Each contender has a cluster of its own with two nodes and three replicas, and the same stream of changes to the same WebApps.
//! A gap is the longest time between two committed Ingresses from the moment of the disturbance on, by the API server's audit log.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use windlass_testbed::drill::{self, Disturbance, Plan, Subject, Work};
use windlass_testbed::image::{Contents, File, write};
use windlass_testbed::nodes::Cluster;
use windlass_testbed::progress;

use super::report::Report;
use super::{Bench, Contender, peers};
use crate::image::Image;
use crate::{plugin, root};

/// What everybody goes through.
const DISTURBANCES: [Disturbance; 5] = [
    Disturbance::Delete,
    Disturbance::Kill,
    Disturbance::Drain,
    Disturbance::Freeze,
    Disturbance::RollingUpdate,
];

/// Rounds of each; `--rounds` says otherwise.
const ROUNDS: usize = 3;

/// The image of a peer.
const PEER: &str = "windlass.dev/peer:bench";

pub(crate) fn run(bench: &Bench) -> Result<()> {
    Cluster::possible().context("this machine allows no nodes")?;
    let contenders =
        bench.peers.clone().unwrap_or_else(|| vec![Contender::Ours, Contender::Cr, Contender::CrTuned]);
    let rounds = if bench.quick { 1 } else { bench.rounds.unwrap_or(ROUNDS) };
    let folder = tempfile::tempdir().context("no temporary directory")?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("deployed");
    report.versions.extend(peers::versions()?.into_iter().map(|(name, version)| (name, json!(version))));
    report.conditions.insert("rounds".to_owned(), json!(rounds));
    for contender in contenders {
        let plan = plan(contender, bench, folder.path(), rounds)?;
        eprintln!("{}: {} disturbances", contender.title(), plan.disturbances.len());
        let done = runtime.block_on(Box::pin(drill::run(&plan, &progress::Silent)))?;
        println!("{}\n{}\n", contender.title(), done.summary());
        for disturbance in DISTURBANCES {
            let of: Vec<_> = done.rounds.iter().filter(|round| round.disturbance == disturbance).collect();
            let mut gaps: Vec<u64> = of.iter().map(|round| round.gap_ms).collect();
            gaps.sort_unstable();
            let key = format!("{}{}", contender.prefix(), disturbance.name().replace('-', "_"));
            report.figures.insert(format!("{key}_gap_ms"), json!(gaps));
            report
                .figures
                .insert(format!("{key}_fewest_ready"), json!(of.iter().map(|r| r.fewest_ready).min()));
            report.figures.insert(format!("{key}_refused"), json!(of.iter().map(|r| r.refused).sum::<u64>()));
        }
        report.rounds.push(json!({ "contender": contender.name(), "report": done }));
        report.write()?;
    }
    println!("-> {}", report.path("json")?.display());
    Ok(())
}

fn plan(contender: Contender, bench: &Bench, folder: &Path, rounds: usize) -> Result<Plan> {
    let mut plan = if contender.is_ours() { ours(bench)? } else { peer(contender, folder)? };
    plan.disturbances = DISTURBANCES.iter().flat_map(|one| std::iter::repeat_n(*one, rounds)).collect();
    plan.rate = 20;
    Ok(plan)
}

/// The host's released image, and the plugin `webapp` as it is packaged.
fn ours(bench: &Bench) -> Result<Plan> {
    let image = match &bench.binary {
        Some(archive) => archive.clone(),
        None => Image::of_this_tree()?,
    };
    ensure!(image.extension().is_some_and(|end| end == "tar"), "--binary names the archive of an image here");
    let mut plan = Plan::new(image);
    plan.subject.manifests = plugin::build(&root().join("plugins/webapp"))?.yaml()?;
    plan.work = Work::WebApps("default".to_owned());
    Ok(plan)
}

fn peer(contender: Contender, folder: &Path) -> Result<Plan> {
    let binary = match contender {
        Contender::Cr | Contender::CrTuned => peers::controller_runtime()?,
        _ => bail!("{} has no image", contender.title()),
    };
    let archive = packed(&binary, folder)?;
    let crd = std::fs::read_to_string(root().join("plugins/webapp/crd.yaml")).context("read the CRD")?;
    let mut plan = Plan::new(archive);
    plan.work = Work::WebApps("peer".to_owned());
    plan.subject = Subject {
        namespace: "peer".to_owned(),
        name: "webapp".to_owned(),
        program: "webapp-operator".to_owned(),
        lease: "webapp".to_owned(),
        claims: false,
        account: "system:serviceaccount:peer:webapp".to_owned(),
        manifests: format!("{crd}\n---\n{}", manifests(contender.is_tuned())),
        components: Vec::new(),
    };
    Ok(plan)
}

fn packed(binary: &Path, folder: &Path) -> Result<PathBuf> {
    let bytes = std::fs::read(binary).with_context(|| binary.display().to_string())?;
    let contents = Contents {
        name: PEER,
        files: &[File { path: "webapp-operator", bytes: &bytes }],
        command: &[],
        labels: [("title", "webapp-operator".to_owned())].into(),
        made_by: "cargo xtask bench",
        created: jiff::Timestamp::UNIX_EPOCH,
    };
    let archive = folder.join("peer.tar");
    std::fs::write(&archive, write(&contents)?.archive)?;
    Ok(archive)
}

/// What `deploy/overlays/production` says of the host's pods, for the peer's: replicas, strategy, affinity, probes, resources, budget.
fn manifests(tuned: bool) -> String {
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{ name: peer }}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: webapp, namespace: peer }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{ name: peer }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }}
subjects: [{{ kind: ServiceAccount, name: webapp, namespace: peer }}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{ name: webapp, namespace: peer }}
spec:
  minAvailable: 2
  selector: {{ matchLabels: {{ app.kubernetes.io/name: webapp }} }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: webapp, namespace: peer }}
spec:
  replicas: 3
  selector: {{ matchLabels: &labels {{ app.kubernetes.io/name: webapp }} }}
  strategy: {{ rollingUpdate: {{ maxSurge: 1, maxUnavailable: 0 }} }}
  template:
    metadata: {{ labels: *labels }}
    spec:
      serviceAccountName: webapp
      terminationGracePeriodSeconds: 30
      securityContext: {{ runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, seccompProfile: {{ type: RuntimeDefault }} }}
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm: {{ topologyKey: kubernetes.io/hostname, labelSelector: {{ matchLabels: *labels }} }}
      containers:
        - name: webapp
          image: {PEER}
          args:
            - --leader-elect=true
            - --pod-name=$(POD_NAME)
            - --namespace=peer
            - --tuned={tuned}
          env:
            - name: POD_NAME
              valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }}
          livenessProbe:
            httpGet: {{ path: /healthz, port: 8081 }}
            initialDelaySeconds: 15
            periodSeconds: 20
          readinessProbe:
            httpGet: {{ path: /readyz, port: 8081 }}
            initialDelaySeconds: 5
            periodSeconds: 10
          resources: {{ requests: {{ cpu: 100m, memory: 512Mi }}, limits: {{ memory: 512Mi }} }}
          securityContext: {{ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{ drop: [ALL] }} }}
"#
    )
}

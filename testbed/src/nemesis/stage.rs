//! Where the nemesis plays: a control plane, the proxy, three replicas behind it, and one plugin.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::report::Report;
use super::{HOST, Plan};
use crate::checker::{Kind, Records, options};
use crate::clocks::Clocks;
use crate::components::component;
use crate::control_plane::ControlPlane;
use crate::faultd::{Faultd, Port};
use crate::manifests::may_act_as;
use crate::process::Signal;
use crate::replica::{Replica, ReplicaOptions};
use crate::runtime::blocking;
use crate::second::SecondApiserver;

/// How many replicas there are.
const REPLICAS: usize = 3;

/// How long anything may take that no fault hinders.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a takeover may take beyond the lease's time before the round is given up.
const TAKEOVER: Duration = Duration::from_secs(20);

/// Between two looks.
const POLL: Duration = Duration::from_millis(10);

/// What the plugin may do, and what the host watches for it.
pub(crate) const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: nemesis-plugin}
rules:
  - {apiGroups: [fixtures.windlass.dev], resources: [widgets], verbs: [get, patch]}
  - {apiGroups: [fixtures.windlass.dev], resources: [widgets/status], verbs: [patch]}
  - {apiGroups: [fixtures.windlass.dev], resources: [widgets/finalizers], verbs: [update]}
  - {apiGroups: [''], resources: [configmaps], verbs: [create, delete, get, patch]}
  - {apiGroups: [''], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nemesis-plugin}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nemesis-plugin}
subjects:
  - {kind: ServiceAccount, name: plugin-greeter, namespace: windlass-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: nemesis-watches
  labels: {windlass.dev/aggregate-to-host: 'true'}
rules:
  - {apiGroups: [fixtures.windlass.dev], resources: [widgets], verbs: [get, list, watch]}
  - {apiGroups: [''], resources: [configmaps], verbs: [get, list, watch]}
";

/// The CRD of the fixtures' primary.
pub(crate) const CRD: &str = include_str!("../../../plugins/fixtures/crd.yaml");

/// Everything that runs. The fields are dropped in this order.
pub(super) struct Stage {
    seats: Vec<Seat>,
    _faultds: Vec<Faultd>,
    client: kube::Client,
    /// Namespace of the load's objects.
    pub(super) namespace: String,
    /// Where the records begin.
    pub(super) records: Records,
    logs: PathBuf,
    _second: Option<SecondApiserver>,
    pub(super) plane: ControlPlane,
}

/// A replica's place, which stays when the replica goes.
struct Seat {
    name: String,
    port: Port,
    kubeconfig: PathBuf,
    /// Who it is in the audit log.
    sender: String,
    replica: Option<Replica>,
}

/// Who leads, as the Lease tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) pod: String,
    pub(super) identity: String,
    pub(super) term: u64,
}

/// The wall clock. Unit: microseconds since 1970, as in the checker's records: it runs on the same machine.
pub(crate) fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

impl Stage {
    /// Starts everything, and waits until three replicas are ready and one leads.
    pub(super) async fn set(plan: &Plan) -> Result<Self> {
        let plane = ControlPlane::start(options()).await?;
        let fence: &[&str] = if plan.fence { &["fence"] } else { &[] };
        plane.apply(&plane.manifests(HOST, fence).await?).await?;
        plane.apply(CRD).await?;
        plane.apply(RIGHTS).await?;
        plane.apply(&may_act_as(HOST, "greeter")).await?;
        let client = plane.client()?;
        install(&client).await?;
        let namespace = plane.namespace("nemesis").await?;
        let kinds = [
            Kind::new("fixtures.windlass.dev", "widgets"),
            Kind::new("", "configmaps"),
            Kind::new("", "events").expiring(),
        ];
        let mut records = Records::begin(&plane, &kinds).await?;
        let mut faultds = vec![Faultd::start(&plane)?];
        let second = if plan.servers > 1 { Some(plane.second_apiserver().await?) } else { None };
        if let Some(second) = &second {
            faultds.push(Faultd::before(&plane, second.server_url())?);
            records = records.and(second.audit().clone());
        }
        let mut seats = Vec::new();
        for number in 0..REPLICAS {
            let name = format!("windlass-{number}");
            let token = plane.service_account_token(HOST, "windlass").await?;
            let port = faultds[number % faultds.len()].listen().await?;
            let kubeconfig = port.kubeconfig(&plane, &name, &token)?;
            seats.push(Seat { name, port, kubeconfig, sender: sender(&token)?, replica: None });
        }
        let logs = plane.directory()?.to_owned();
        let mut stage =
            Self { seats, _faultds: faultds, client, namespace, records, logs, _second: second, plane };
        stage.recover(plan, &mut Report::default()).await?;
        Ok(stage)
    }

    /// The administrator's client.
    pub(super) fn client(&self) -> kube::Client {
        self.client.clone()
    }

    pub(super) fn port(&self, seat: usize) -> &Port {
        &self.seats[seat].port
    }

    /// Another seat than this one.
    pub(super) fn after(&self, seat: usize) -> usize {
        (seat + 1) % self.seats.len()
    }

    /// Pods by what the audit log calls them.
    pub(super) fn pods(&self) -> BTreeMap<String, String> {
        self.seats.iter().map(|seat| (seat.sender.clone(), seat.name.clone())).collect()
    }

    pub(super) fn signal(&self, seat: usize, signal: Signal) -> Result<()> {
        self.seats[seat].replica.as_ref().context("a leader runs")?.signal(signal)
    }

    /// Takes a replica off its seat.
    pub(super) fn take(&mut self, seat: usize) -> Result<Replica> {
        self.seats[seat].replica.take().context("a leader runs")
    }

    /// Whom the Lease names, if anybody.
    async fn holder(&self) -> Option<Leader> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass");
        let lease = self.get(&path).await?;
        let identity = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
        Some(Leader {
            pod: identity.split('_').next()?.to_owned(),
            identity: identity.to_owned(),
            term: lease["metadata"]["annotations"]["windlass.dev/term"].as_str()?.parse().ok()?,
        })
    }

    /// Whom the claim Role names: who may write. Without a Role it is whom the Lease names.
    pub(super) async fn claimant(&self) -> Option<Leader> {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{HOST}/roles/windlass-claim");
        let Some(role) = self.get(&path).await else { return self.holder().await };
        let (identity, term) = role["rules"][0]["resourceNames"][0].as_str()?.rsplit_once('/')?;
        Some(Leader {
            pod: identity.split('_').next()?.to_owned(),
            identity: identity.to_owned(),
            term: term.parse().ok()?,
        })
    }

    /// Who leads, by the Lease and by the Role, and on which seat.
    pub(super) async fn leading(&self) -> Result<(Leader, usize)> {
        let leads = async || {
            let leader = self.claimant().await?;
            self.holder().await.filter(|holder| holder.identity == leader.identity)?;
            let seat =
                self.seats.iter().position(|seat| seat.name == leader.pod && seat.replica.is_some())?;
            Some((leader, seat))
        };
        let leading = until(PATIENCE, leads).await;
        leading.with_context(|| format!("nobody leads\n{}", self.ends_of_logs()))
    }

    /// Waits until somebody may write in another term than this one. Holding the Lease alone is not enough.
    pub(super) async fn successor(&self, leader: &Leader, plan: &Plan) -> Result<Option<Leader>> {
        let next = async || self.claimant().await.filter(|next| next != leader);
        Ok(until(plan.lease + TAKEOVER, next).await)
    }

    /// Starts whoever is missing, and waits until all are ready and one leads.
    pub(super) async fn recover(&mut self, plan: &Plan, report: &mut Report) -> Result<()> {
        let began = Instant::now();
        loop {
            let mut ready = true;
            for seat in &mut self.seats {
                if let Some(error) = seat.replica.as_mut().and_then(|replica| replica.check_alive().err()) {
                    let said = error.to_string();
                    report.notes.push(format!("{}: {}", seat.name, said.lines().next().unwrap_or_default()));
                    seat.replica = None;
                }
                match &seat.replica {
                    Some(replica) => ready &= replica.is_ready().await,
                    None => {
                        seat.replica = Some(seat.start(plan, &self.logs)?);
                        ready = false;
                    }
                }
            }
            if ready {
                break;
            }
            if began.elapsed() > PATIENCE {
                bail!("not every replica is ready within {PATIENCE:?}\n{}", self.ends_of_logs());
            }
            tokio::time::sleep(POLL).await;
        }
        self.leading().await.map(drop)
    }

    /// An object, if it exists.
    pub(super) async fn get(&self, path: &str) -> Option<Value> {
        self.client.request(http::Request::get(path).body(Vec::new()).ok()?).await.ok()
    }

    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        let request = http::Request::delete(path).body(Vec::new())?;
        self.client.request::<Value>(request).await.map(drop).with_context(|| format!("delete {path}"))
    }

    fn ends_of_logs(&self) -> String {
        let logs = self.seats.iter().filter_map(|seat| seat.replica.as_ref());
        let ends = logs.map(|replica| {
            let log = replica.log();
            let lines: Vec<_> = log.lines().collect();
            format!("--- {}\n{}\n", replica.name(), lines[lines.len().saturating_sub(20)..].join("\n"))
        });
        ends.collect()
    }
}

impl Seat {
    /// The clocks of this seat, if they are not the machine's.
    fn environment(&self, plan: &Plan, directory: &Path) -> Result<Vec<(OsString, OsString)>> {
        let number = self.name.rsplit('-').next().and_then(|digits| digits.parse::<usize>().ok());
        match number.and_then(|seat| plan.rates.get(seat)) {
            Some(rate) => Ok(Clocks::new(directory, &self.name, *rate)?.environment()),
            None => Ok(Vec::new()),
        }
    }

    fn start(&self, plan: &Plan, logs: &Path) -> Result<Replica> {
        let ms = |duration: Duration| format!("{}ms", duration.as_millis());
        let ours = [
            format!("--lease-duration={}", ms(plan.lease)),
            format!("--renew-deadline={}", ms(plan.claim)),
            format!("--retry-period={}", ms(plan.retry)),
            format!("--request-timeout={}", ms(plan.request)),
        ];
        Replica::start(ReplicaOptions {
            binary: plan.binary.clone(),
            name: self.name.clone(),
            namespace: HOST.to_owned(),
            kubeconfig: self.kubeconfig.clone(),
            directory: logs.to_owned(),
            flags: ours.iter().chain(&plan.flags).map(Into::into).collect(),
            environment: self.environment(plan, logs)?,
        })
    }
}

/// Writes the ConfigMap of the plugin.
pub(crate) async fn install(client: &kube::Client) -> Result<()> {
    let wasm = blocking(|| {
        let path = component("windlass-fixtures", Some("greeter"))?;
        std::fs::read(&path).with_context(|| path.display().to_string())
    })
    .await?;
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "greeter-plugin", "labels": { "windlass.dev/plugin": "greeter" } },
        "binaryData": { "plugin.wasm": STANDARD.encode(wasm) },
    });
    let request = http::Request::post(format!("/api/v1/namespaces/{HOST}/configmaps"))
        .header("content-type", "application/json")
        .body(object.to_string().into_bytes())?;
    client.request::<Value>(request).await.map(drop).context("install the plugin")
}

/// What the API server calls the holder of a token: the token's own id.
fn sender(token: &str) -> Result<String> {
    let payload = token.split('.').nth(1).context("a token has three parts")?;
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    Ok(format!("JTI={}", payload["jti"].as_str().context("a token of a ServiceAccount has an id")?))
}

/// Asks until there is an answer or patience has run out.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> Option<T> {
    let began = Instant::now();
    while began.elapsed() < patience {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        tokio::time::sleep(POLL).await;
    }
    None
}

//! The control plane that all contenders share, and what is installed on it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use kube::Client;
use windlass_testbed::{Options, Replica, ReplicaOptions, User};

use super::contender::Contender;
use crate::demo::Demo;
use crate::{plugin, root};

/// The group of the peers' users. It may do everything: what a peer is allowed is not what is measured.
const PEERS: &str = "windlass-bench:peers";

/// Writes by contenders, and nothing else: the log of a run of hours has to be read again and again.
const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
  - level: RequestResponse
    verbs: [create, update, patch, delete]
    resources:
      - { group: '', resources: [configmaps, services] }
      - { group: apps, resources: [deployments] }
      - { group: networking.k8s.io, resources: [ingresses] }
      - { group: policy, resources: [poddisruptionbudgets] }
      - { group: apps.windlass.dev, resources: [webapps/status] }
      - { group: coordination.k8s.io, resources: [leases] }
      - { group: rbac.authorization.k8s.io, resources: [roles] }
  - level: None
";

/// A control plane with everything on it that any contender needs.
pub(super) struct Stage {
    pub(super) demo: Demo,
    binaries: BTreeMap<Contender, PathBuf>,
    logs: tempfile::TempDir,
}

impl Stage {
    pub(super) async fn start(binaries: BTreeMap<Contender, PathBuf>) -> Result<Self> {
        let users =
            (0..super::team::REPLICAS).map(|i| User::new(format!("peer-{i}")).in_group(PEERS)).collect();
        let options = Options {
            users,
            // A figure without etcd's fsync would flatter everybody.
            unsafe_no_fsync: false,
            audit_policy: Some(AUDIT_POLICY.to_owned()),
            ..Options::default()
        };
        let ours = binaries.get(&Contender::Ours).cloned().unwrap_or_default();
        let demo = Demo::start(None, ours, options).await?.with_flags(&["--log=warn"]);
        // The CRD is what everybody needs; the plugin itself is only read by Windlass.
        demo.install(&plugin::build(&root().join("plugins/webapp"))?).await?;
        demo.control.apply(&peers_rights()).await?;
        let logs = tempfile::tempdir().context("make a temporary directory")?;
        Ok(Self { demo, binaries, logs })
    }

    /// Starts one replica of a contender. It is not ready yet when this returns.
    pub(super) fn replica(&self, contender: Contender, namespace: &str, index: usize) -> Result<Replica> {
        if contender.is_ours() {
            return self.demo.replica(&format!("windlass-{index}"));
        }
        let name = format!("peer-{index}");
        let mut flags = vec!["--leader-elect=true".into()];
        flags.extend(contender.is_tuned().then(|| "--tuned=true".into()));
        Replica::start(ReplicaOptions {
            binary: self.binaries.get(&contender).context("it was built")?.clone(),
            kubeconfig: self.demo.control.kubeconfig_for(&name)?,
            name,
            namespace: namespace.to_owned(),
            directory: self.logs.path().to_owned(),
            flags,
            environment: Vec::new(),
        })
    }

    /// A client that says at once what the server says.
    pub(super) fn client(&self) -> Result<Client> {
        let mut config = self.demo.control.config()?;
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    pub(super) async fn kubernetes_version(&self) -> Result<String> {
        let version = self.client()?.apiserver_version().await.context("ask for the version")?;
        Ok(version.git_version.trim_start_matches('v').to_owned())
    }
}

fn peers_rights() -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{ name: bench-peers }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }}
subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: '{PEERS}' }}]
"
    )
}

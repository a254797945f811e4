//! The files and command lines of one control plane: what each program is told, and why.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::access::{Access, Credential};
use crate::binaries::Binaries;
use crate::options::Options;
use crate::pki::{Authority, token_key};

/// Below the range that the kernel takes for outgoing connections (32768 and up), so that a client that keeps knocking on a stopped
/// server's port can neither take the port nor connect to itself.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// The controllers that operators lean on. Each one left out saves a bit of every start; garbage collection, aggregation and the
/// publisher of root certificates are relied on by RBAC and by pods.
const CONTROLLERS: [&str; 16] = [
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
];

/// Those that look after nodes, where there are some.
const NODE_CONTROLLERS: [&str; 4] = [
    "daemonset-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "taint-eviction-controller",
];

/// How many of its objects a controller looks at in one go; the default of 5 makes 500 objects slow.
const CONCURRENCY: [(&str, u8); 9] = [
    ("deployment", 20),
    ("disruption", 5),
    ("gc", 50),
    ("job", 10),
    ("namespace", 20),
    ("replicaset", 20),
    ("service-endpoint", 10),
    ("serviceaccount-token", 10),
    ("statefulset", 10),
];

/// Reads without a body, writes with both bodies. A read has no RequestReceived stage, so that each one counts once; a write has one,
/// so that it is known even when the server dies while it works. The controllers' own writes carry no bodies: nobody checks those.
const AUDIT_POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: None
  nonResourceURLs: ["/readyz*", "/livez*", "/healthz*", "/openapi/*"]
- level: Metadata
  verbs: ["get", "list", "watch"]
  omitStages: ["RequestReceived"]
- level: Metadata
  users: ["system:kube-controller-manager", "system:apiserver", "windlass-testbed:kubelet"]
  omitStages: ["RequestReceived"]
- level: RequestResponse
"#;

/// Who our stand-in for a kubelet is in the audit log.
pub(crate) const KUBELET_USER: &str = "windlass-testbed:kubelet";

/// The ports of one control plane; all on 127.0.0.1, unless the API server has an address of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) etcd: u16,
    pub(crate) etcd_peer: u16,
    pub(crate) apiserver: u16,
}

impl Ports {
    /// Three ports that are free now. Another process may still take one before our programs do; then they are chosen anew.
    pub(crate) fn free() -> Self {
        let [etcd, etcd_peer, apiserver] = free_ports();
        Self { etcd, etcd_peer, apiserver }
    }
}

/// Different ports on 127.0.0.1 that were free a moment ago, clear of outgoing connections, and that this process
/// has not given to anybody lately: who was given one may not have bound it yet.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    if given.len() > PORTS.len() / 2 {
        // Whoever had the first of them has long begun or ended.
        given.clear();
    }
    std::array::from_fn(|_| {
        loop {
            let port = rand::random_range(PORTS);
            if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                given.insert(port);
                return port;
            }
        }
    })
}

/// One control plane's files, and the commands that read them.
#[derive(Debug)]
pub(crate) struct Layout {
    directory: PathBuf,
    binaries: Binaries,
    ports: Ports,
    options: Options,
}

impl Layout {
    /// Writes keys, certificates, kubeconfigs, tokens and the audit policy into the directory.
    pub(crate) fn write(
        directory: &Path,
        binaries: Binaries,
        options: Options,
        authority: &Authority,
    ) -> Result<(Self, Access)> {
        let mut ports = Ports::free();
        if options.address.is_some() {
            // Nobody else is at an address of its own, so it may be the port that NetworkPolicies know.
            ports.apiserver = 6443;
        }
        let layout = Self { directory: directory.to_owned(), binaries, ports, options };
        let address = layout.address().to_string();
        let serving = authority.server(&[
            &address,
            "10.96.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ])?;
        let (token_private, token_public) = token_key()?;
        // As whom the API server asks a kubelet for logs and for commands in containers.
        let to_kubelets = authority.client("kube-apiserver-kubelet-client", "system:masters")?;
        let tokens: String = layout.options.users.iter().map(crate::User::token_line).collect();
        let policy = layout.options.audit_policy.as_deref().unwrap_or(AUDIT_POLICY);
        let files = [
            ("ca.crt", authority.certificate_pem()),
            ("apiserver.crt", &serving.certificate_pem),
            ("apiserver.key", &serving.key_pem),
            ("kubelets.crt", &to_kubelets.certificate_pem),
            ("kubelets.key", &to_kubelets.key_pem),
            ("tokens.key", &token_private),
            ("tokens.pub", &token_public),
            ("tokens.csv", &tokens),
            ("audit-policy.yaml", policy),
        ];
        for (name, content) in files {
            layout.write_file(name, content)?;
        }
        let access = layout.access(authority)?;
        Ok((layout, access))
    }

    /// The administrator's access, and the kubeconfig files that the programs and people read.
    fn access(&self, authority: &Authority) -> Result<Access> {
        let admin = Credential::Certificate(authority.client("admin", "system:masters")?);
        let server = format!("https://{}:{}", self.address(), self.ports.apiserver);
        let tokens = self.options.users.iter().map(|user| (user.name.clone(), user.token.clone())).collect();
        let access = Access::new(server, authority, admin, tokens, self.path("kubeconfig"));
        let controllers =
            Credential::Certificate(authority.client("system:kube-controller-manager", "system:masters")?);
        self.write_file("kubeconfig", &access.kubeconfig(access.admin()))?;
        self.write_file("controllers.kubeconfig", &access.kubeconfig(&controllers))?;
        Ok(access)
    }

    /// Where a file of this control plane is, or will be.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where the API server listens.
    fn address(&self) -> Ipv4Addr {
        self.options.address.unwrap_or(Ipv4Addr::LOCALHOST)
    }

    pub(crate) fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.etcd)
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.path("audit.log")
    }

    fn write_file(&self, name: &str, content: &str) -> Result<()> {
        fs::write(self.path(name), content).with_context(|| format!("cannot write {name}"))
    }

    fn file_flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }

    pub(crate) fn etcd(&self) -> Command {
        let (client, peer) = (self.etcd_url(), format!("http://127.0.0.1:{}", self.ports.etcd_peer));
        let mut command = Command::new(self.binaries.etcd());
        command.args([
            self.file_flag("data-dir", "etcd"),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // Ours is the only member, so nobody else's heartbeat can be late: the first election need not wait a second.
            "--heartbeat-interval=50".to_owned(),
            "--election-timeout=250".to_owned(),
            "--log-level=warn".to_owned(),
        ]);
        if self.options.unsafe_no_fsync {
            command.arg("--unsafe-no-fsync");
        }
        command.args(&self.options.etcd_flags);
        command
    }

    pub(crate) fn apiserver(&self) -> Command {
        let mut command = Command::new(self.binaries.apiserver());
        command.args([
            format!("--etcd-servers={}", self.etcd_url()),
            format!("--bind-address={}", self.address()),
            format!("--advertise-address={}", self.address()),
            format!("--secure-port={}", self.ports.apiserver),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--allow-privileged=true".to_owned(),
        ]);
        command.args([
            self.file_flag("cert-dir", "certs"),
            self.file_flag("tls-cert-file", "apiserver.crt"),
            self.file_flag("tls-private-key-file", "apiserver.key"),
            self.file_flag("client-ca-file", "ca.crt"),
            self.file_flag("token-auth-file", "tokens.csv"),
            self.file_flag("service-account-key-file", "tokens.pub"),
            self.file_flag("service-account-signing-key-file", "tokens.key"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        ]);
        if self.options.address.is_some() {
            command.args([
                "--authorization-mode=Node,RBAC".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
                self.file_flag("kubelet-client-certificate", "kubelets.crt"),
                self.file_flag("kubelet-client-key", "kubelets.key"),
            ]);
        } else {
            // A loopback address is no valid endpoint of the `kubernetes` Service; nobody here asks for it.
            command.args(["--authorization-mode=RBAC", "--endpoint-reconciler-type=none"]);
        }
        command.args([
            self.file_flag("audit-policy-file", "audit-policy.yaml"),
            format!("--audit-log-path={}", self.audit_log().display()),
            // An event is on disk before the request goes on, and a request whose event cannot be written fails: the log is complete.
            "--audit-log-mode=blocking-strict".to_owned(),
            "--audit-log-maxsize=0".to_owned(),
            "--max-requests-inflight=3000".to_owned(),
            "--max-mutating-requests-inflight=1000".to_owned(),
            "--delete-collection-workers=8".to_owned(),
            // Without it an end in order waits a minute for watches that nobody told to end.
            "--shutdown-watch-termination-grace-period=2s".to_owned(),
        ]);
        command.args(&self.options.apiserver_flags);
        command.envs(self.options.apiserver_gogc.map(|percent| ("GOGC", percent.to_string())));
        command
    }

    pub(crate) fn controller_manager(&self) -> Command {
        let mut command = Command::new(self.binaries.controller_manager());
        let mut controllers = CONTROLLERS.to_vec();
        if self.options.address.is_some() {
            controllers.extend(NODE_CONTROLLERS);
        }
        command.args([
            self.file_flag("kubeconfig", "controllers.kubeconfig"),
            format!("--controllers={}", controllers.join(",")),
            "--leader-elect=false".to_owned(),
            // Serves nothing: no port to find, no certificate to make.
            "--secure-port=0".to_owned(),
            self.file_flag("root-ca-file", "ca.crt"),
            self.file_flag("service-account-private-key-file", "tokens.key"),
            "--kube-api-qps=2000".to_owned(),
            "--kube-api-burst=4000".to_owned(),
            // Zero would put the seconds-long default jitter back.
            "--controller-start-interval=0s".to_owned(),
            "--endpointslice-updates-batch-period=0s".to_owned(),
        ]);
        command.args(CONCURRENCY.iter().map(|(what, many)| format!("--concurrent-{what}-syncs={many}")));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_while_others_may_not_have_bound_theirs_yet() {
        let all: BTreeSet<u16> = (0..500).flat_map(|_| free_ports::<3>()).collect();
        assert_eq!(all.len(), 1500);
    }

    #[test]
    fn ports_differ_and_stay_clear_of_outgoing_connections() {
        let ports = Ports::free();
        let all = [ports.etcd, ports.etcd_peer, ports.apiserver];
        assert!(all.iter().all(|port| PORTS.contains(port)));
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    }
}

//! One machine: its processes, and what may befall them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::cgroups::Cgroups;
use super::network::{Addresses, run, wait_for};
use super::tools::Tools;
use crate::access::Credential;
use crate::control_plane::ControlPlane;
use crate::process::Process;

/// What it does when it is switched on.
const BOOT: &str = include_str!("machine.sh");

/// How long it may take until it is up; its images are unpacked by then.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// The image that holds a pod's namespaces.
pub(super) const PAUSE: &str = "windlass.dev/pause:testbed";

/// A switched-on machine. Dropping it pulls the plug.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    number: u8,
    addresses: Addresses,
    directory: PathBuf,
    tools: Tools,
    /// Process 1 of its namespaces, by our number.
    init: u32,
    process: Process,
}

impl Machine {
    /// Writes what it is to know, and switches it on. Its cable is still to be connected.
    pub(super) fn switch_on(
        number: u8,
        machines: u8,
        addresses: Addresses,
        control: &ControlPlane,
        groups: &Cgroups,
        tools: &Tools,
        directory: &Path,
    ) -> Result<Self> {
        let name = name(number);
        let directory = directory.join(&name);
        fs::create_dir_all(directory.join("network")).context("no folder for a machine")?;
        let files = Files { name: &name, number, addresses, directory: &directory, tools, control, groups };
        files.write()?;
        let routes: Vec<_> = (1..=machines)
            .filter(|other| *other != number)
            .map(|other| format!("{} {}", addresses.pods_of(other), addresses.machine(other)))
            .collect();
        // It counts as one of its control groups before it starts anything.
        let join: String =
            groups.lists(&name).iter().map(|list| format!("echo $$ >{}\n", list.display())).collect();
        let spaces =
            ["--net", "--mount", "--uts", "--ipc", "--pid", "--mount-proc", "--fork", "--kill-child"];
        let mut command = Command::new("/bin/sh");
        command
            .args(["-euc", &format!("{join}exec unshare {} sh -c \"$BOOT\"", spaces.join(" "))])
            .env("BOOT", BOOT)
            .env("DIRECTORY", &directory)
            .env("NAME", &name)
            .env("ADDRESS", addresses.machine(number).to_string())
            .env("GATEWAY", addresses.here().to_string())
            .env("ROUTES", routes.join("\n"))
            .env("TOOLS", &tools.packages)
            .env("NODES", &tools.built);
        let process = Process::spawn("machine", command, &directory.join("boot.log"))?;
        let init = child_of(process.id())?;
        Ok(Self { name, number, addresses, directory, tools: tools.clone(), init, process })
    }

    /// Its process 1, by our number.
    pub(super) fn init(&self) -> u32 {
        self.init
    }

    /// Waits until its container runtime has its images and its kubelet was started.
    pub(super) fn await_up(&mut self) -> Result<()> {
        let (process, name) = (&mut self.process, &self.name);
        let up = wait_for(&format!("{name} is up"), UP_WITHIN, || {
            process.check_alive()?;
            Ok(process.log_contains("up\n").then_some(()))
        });
        up.map_err(|error| process.with_log(&error.to_string()))
    }

    /// Runs a program as one of the machine's own processes, and gives back what it printed.
    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let (target, libraries) =
            (self.init.to_string(), self.tools.package_file("usr/lib/x86_64-linux-gnu"));
        let library_path = format!("LD_LIBRARY_PATH={libraries}");
        let plugins = format!("XTABLES_LIBDIR={libraries}/xtables");
        let enter = [
            "--target",
            &target,
            "--mount",
            "--net",
            "--pid",
            "--uts",
            "--ipc",
            "env",
            &library_path,
            &plugins,
            program,
        ];
        run("nsenter", &[&enter[..], arguments].concat()).with_context(|| format!("on {}", self.name))
    }

    /// The same for `ctr`, the command of the container runtime.
    pub(super) fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let socket = self.directory.join("containerd.sock").display().to_string();
        let there = ["--address", &socket, "--namespace", "k8s.io"];
        self.run(&self.tools.package_file("usr/bin/ctr"), &[&there[..], arguments].concat())
    }

    /// Takes an image into its store.
    pub(super) fn import(&self, archive: &Path) -> Result<()> {
        self.ctr(&["images", "import", &archive.display().to_string()]).map(drop)
    }

    /// Drops what goes to, and what comes from, each of these networks, its own packets and its pods'; or no longer does.
    pub(super) fn cut(&self, networks: &[String], cut: bool) -> Result<()> {
        let iptables = self.directory.join("bin/iptables").display().to_string();
        let change = if cut { "-I" } else { "-D" };
        for network in networks {
            for (chain, side) in [("INPUT", "-s"), ("OUTPUT", "-d"), ("FORWARD", "-s"), ("FORWARD", "-d")] {
                self.run(&iptables, &["-w", change, chain, side, network, "-j", "DROP"])?;
            }
        }
        Ok(())
    }

    /// Whether the Service `kubernetes` leads to the API server, by what kube-proxy has made of it.
    pub(super) fn knows_api_server(&self) -> bool {
        let iptables = self.directory.join("bin/iptables").display().to_string();
        let rules = self.run(&iptables, &["-w", "-t", "nat", "-S"]).unwrap_or_default();
        rules.contains(&format!("--to-destination {}:6443", self.addresses.here()))
    }

    /// Puts a chain of rules, and those that it names, before everything that passes through.
    pub(super) fn filter(&self, chain: &str, rules: &str) -> Result<()> {
        let file = self.directory.join("policy.rules");
        fs::write(&file, rules).context("cannot write rules")?;
        let program = |name: &str| self.directory.join("bin").join(name).display().to_string();
        self.run(&program("iptables-restore"), &["-w", "--noflush", &file.display().to_string()])?;
        let iptables = program("iptables");
        if self.run(&iptables, &["-w", "-C", "FORWARD", "-j", chain]).is_err() {
            self.run(&iptables, &["-w", "-I", "FORWARD", "-j", chain])?;
        }
        Ok(())
    }

    /// Where the API server is, as a network.
    pub(super) fn api_server(&self) -> Vec<String> {
        vec![format!("{}/32", self.addresses.here())]
    }

    /// Another machine and its pods.
    pub(super) fn networks_of(&self, other: &Self) -> Vec<String> {
        vec![format!("{}/32", self.addresses.machine(other.number)), self.addresses.pods_of(other.number)]
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        self.addresses.machine(self.number)
    }

    /// Ends its kubelet and keeps it from coming back; or lets it.
    pub(super) fn kubelet(&self, on: bool) -> Result<()> {
        let off = self.directory.join("kubelet.off");
        if on {
            fs::remove_file(&off).context("the kubelet was not stopped")?;
            return Ok(());
        }
        fs::write(&off, "").context("cannot stop the kubelet")?;
        for child in children(self.init) {
            if program_of(child) == "kubelet" {
                signal(child, Signal::TERM)?;
            }
        }
        Ok(())
    }

    /// The last lines of a log: `kubelet`, `containerd`, `kube-proxy`.
    pub(super) fn log(&self, of: &str) -> String {
        let text = fs::read(self.directory.join(format!("{of}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With the first process everything in its namespaces ends, and `unshare`, which waits for it, after that.
        drop(signal(self.init, Signal::KILL));
        for _ in 0..500 {
            if self.process.check_alive().is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The n-th machine's name.
pub(super) fn name(number: u8) -> String {
    format!("node{number}")
}

/// The files that are read on the machine.
struct Files<'a> {
    name: &'a str,
    number: u8,
    addresses: Addresses,
    directory: &'a Path,
    tools: &'a Tools,
    control: &'a ControlPlane,
    groups: &'a Cgroups,
}

impl Files<'_> {
    fn write(&self) -> Result<()> {
        let kubeconfig = |user: &str, group: &str| {
            let identity = self.control.authority()?.client(user, group)?;
            let access = self.control.access();
            anyhow::Ok(access.kubeconfig(&Credential::Certificate(identity)))
        };
        let files = [
            ("containerd.toml", self.containerd()),
            ("network/10-pods.conflist", self.network().to_string()),
            ("kubelet.yaml", self.kubelet().to_string()),
            ("kube-proxy.yaml", self.kube_proxy().to_string()),
            ("kubelet.kubeconfig", kubeconfig(&format!("system:node:{}", self.name), "system:nodes")?),
            ("kube-proxy.kubeconfig", kubeconfig("system:kube-proxy", "system:node-proxier")?),
        ];
        for (name, text) in files {
            fs::write(self.directory.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn containerd(&self) -> String {
        let (runc, shim) = (
            self.tools.package_file("usr/sbin/runc"),
            self.tools.package_file("usr/bin/containerd-shim-runc-v2"),
        );
        format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE no process may be made less likely to be killed than we are.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{network}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = "{shim}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
      Root = "{runs}"
"#,
            root = self.path("containerd"),
            state = self.path("containerd-state"),
            socket = self.path("containerd.sock"),
            opt = self.path("containerd-opt"),
            plugins = self.tools.package_file("usr/lib/cni"),
            network = self.path("network"),
            runs = self.path("runc"),
        )
    }

    fn network(&self) -> serde_json::Value {
        let range = json!([[{ "subnet": self.addresses.pods_of(self.number) }]]);
        let addresses = json!({
            "type": "host-local", "dataDir": self.path("pod-addresses"), "ranges": range,
            "routes": [{ "dst": "0.0.0.0/0" }],
        });
        let bridge = json!({
            "type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true, "ipMasq": false,
            "ipam": addresses,
        });
        json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [bridge] })
    }

    /// JSON, which every reader of YAML reads.
    fn kubelet(&self) -> serde_json::Value {
        let address = self.addresses.machine(self.number).to_string();
        let authority =
            self.control.directory().map(|directory| directory.join("ca.crt")).unwrap_or_default();
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "readOnlyPort": 0,
            "healthzBindAddress": address,
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": authority },
            },
            "authorization": { "mode": "Webhook" },
            "containerRuntimeEndpoint": format!("unix://{}", self.path("containerd.sock")),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.groups.root_of(self.name),
            "failCgroupV1": false,
            "failSwapOn": false,
            "clusterDomain": "cluster.local",
            // There is no cluster DNS: what a pod needs it finds by address.
            "resolvConf": "",
            "podLogsDir": self.path("pod-logs"),
            "volumePluginDir": self.path("volume-plugins"),
            // The disk is this machine's, and how full it is no node's affair.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {
                "memory.available": "100Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi", "nodefs.inodesFree": "1",
            },
            "nodeStatusUpdateFrequency": "5s",
            "makeIPTablesUtilChains": false,
        })
    }

    fn kube_proxy(&self) -> serde_json::Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": { "kubeconfig": self.path("kube-proxy.kubeconfig") },
            "hostnameOverride": self.name,
            "clusterCIDR": self.addresses.all(),
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            // These belong to the kernel and not to a network namespace.
            "conntrack": { "maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
            "iptables": { "localhostNodePorts": false },
        })
    }
}

/// The one child of a process that has just been started and is about to have one.
pub(super) fn child_of(process: u32) -> Result<u32> {
    let ours = || Ok(children(process).into_iter().find(|child| program_of(*child) != "unshare"));
    wait_for("unshare has a child", Duration::from_secs(5), ours)
}

/// The children of a process that have not ended.
pub(super) fn children(process: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|child| parent_of(*child) == Some(process)).collect()
}

fn parent_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The name of the program that a process runs; empty when it has ended.
pub(super) fn program_of(process: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

pub(super) fn signal(process: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { bail!("{process} is no process") };
    kill_process(pid, signal).with_context(|| format!("process {process} cannot be signalled"))
}

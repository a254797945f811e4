//! Real nodes beside the control plane: kubelet, kube-proxy, containerd and runc, and a network between them.
//!
//! A node is a machine of its own as far as Linux goes: it has its own processes, mounts, network and name, and one control group
//! around all of it. So it can be frozen, cut off and switched off as a whole, and nothing of it stays when its first process ends.
//! No container engine is needed on this machine, and nothing is installed on it.
//!
//! ```no_run
//! # async fn doc() -> anyhow::Result<()> {
//! use windlass_testbed::nodes::{Cluster, Images, Settings};
//! if let Err(reason) = Cluster::possible() {
//!     eprintln!("no nodes here: {reason}");
//!     return Ok(());
//! }
//! let cluster = Cluster::start(Settings::default(), &Images::default()).await?;
//! cluster.control().apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: a }").await?;
//! cluster.freeze("node1")?;
//! # Ok(()) }
//! ```
//!
//! | file | what |
//! |---|---|
//! | `tools` | where the programs come from |
//! | `network` | the switch and the cables |
//! | `cgroups` | the control groups, and their end |
//! | `machine` | one machine, and what may befall it |
//! | `machine.sh` | what a machine does when it is switched on |
//! | `policy` | NetworkPolicies, as far as `deploy/` uses them |
//! | `host_image` | the host's own build as an image, with the libraries that it needs |

mod cgroups;
mod host_image;
mod machine;
mod network;
mod policy;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

pub use host_image::host_image;

use crate::access::Credential;
use crate::control_plane::ControlPlane;
use crate::image::{Contents, File, write};
use crate::options::Options;
use crate::process::{Janitor, Process, Signal, StateDirectory};
use crate::progress::Progress;
use crate::runtime::blocking;
use cgroups::{Cgroups, SWEEP};
use machine::Machine;
use network::{Switch, run};
use tools::Tools;

/// The image of a small web server, for pods that are to be pods and nothing else. It listens on `$PORT`, else 8080.
pub const HELLO: &str = "windlass.dev/hello:testbed";

/// How long it may take until a node is Ready: some seconds, on a machine that does nothing else.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How a cluster is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many nodes, 1 to 9. Default 2.
    pub nodes: u8,
    /// The control plane. Its `address` and `kubelet` are decided on here.
    pub control: Options,
}

impl Default for Settings {
    fn default() -> Self {
        Self { nodes: 2, control: Options::default() }
    }
}

/// OCI archives that every node has from the beginning, besides [`HELLO`]. A pod's image is never fetched from anywhere.
pub type Images = Vec<PathBuf>;

/// A control plane with nodes. Dropping it ends everything and leaves nothing behind; so does the end of this process.
///
/// The fields are dropped in this order.
#[derive(Debug)]
pub struct Cluster {
    _scheduler: Process,
    machines: Vec<Machine>,
    control: ControlPlane,
    _switch: Switch,
    /// After the machines: their control groups can be removed when nothing runs in them.
    _sweeper: Janitor,
    groups: Cgroups,
    id: String,
    _directory: StateDirectory,
}

impl Cluster {
    /// Builds and fetches what nodes are made of, so that no test waits for it: a minute or some, once.
    ///
    /// # Errors
    /// If there is no Go or no Debian.
    pub fn prepare(progress: &dyn Progress) -> Result<()> {
        Tools::locate_or_make(progress).map(drop)
    }

    /// Whether this machine can have nodes.
    ///
    /// # Errors
    /// The reason why it cannot, and what would help.
    pub fn possible() -> Result<()> {
        ensure!(cfg!(target_os = "linux"), "nodes are Linux machines");
        ensure!(
            rustix::process::geteuid().is_root(),
            "nodes take root: namespaces, mounts and control groups"
        );
        Cgroups::possible()?;
        for program in ["ip", "nsenter", "unshare"] {
            run(program, &["-V"])
                .with_context(|| format!("nodes need {program} (packages iproute2, util-linux)"))?;
        }
        run("unshare", &["--net", "--mount", "--pid", "--fork", "true"])
            .context("the kernel allows no namespaces")?;
        Ok(())
    }

    /// Starts a control plane and so many nodes, and waits until they are Ready.
    ///
    /// # Errors
    /// If a program cannot be had or started, or the kernel refuses; the message says which, with the end of its log.
    pub async fn start(settings: Settings, images: &Images) -> Result<Self> {
        ensure!((1..=9).contains(&settings.nodes), "a cluster here has 1 to 9 nodes, not {}", settings.nodes);
        let Settings { nodes, mut control } = settings;
        let progress = control.progress.clone();
        let tools = blocking(move || {
            Self::possible()?;
            Tools::locate_or_make(&*progress)
        })
        .await?;
        let directory = StateDirectory::create()?;
        let id = format!("{:06x}", rand::random::<u32>() & 0x00ff_ffff);
        let names: Vec<_> = (1..=nodes).map(machine::name).collect();
        let groups = Cgroups::create(&format!("windlass-{id}"), &names)?;
        let sweeper = Janitor::hire(SWEEP, groups.tops())?;
        // Another cluster may take the same addresses in the moment between the look and the use.
        let switch = match Switch::create(&id, nodes, &directory) {
            Ok(switch) => switch,
            Err(_) => Switch::create(&id, nodes, &directory)?,
        };
        (control.address, control.kubelet) = (Some(switch.addresses.here()), None);
        let control = ControlPlane::start(control).await?;
        let scheduler = scheduler(&control, &tools)?;

        let store = store(&tools, directory.path(), images)?;
        let mut machines = Vec::new();
        for number in 1..=nodes {
            let folder = directory.path().join(machine::name(number));
            fs::create_dir_all(&folder)?;
            std::os::unix::fs::symlink(&store, folder.join("images")).context("no folder for images")?;
            let addresses = switch.addresses;
            let machine =
                Machine::switch_on(number, nodes, addresses, &control, &groups, &tools, directory.path())?;
            switch.connect(&machine.name, machine.init())?;
            machines.push(machine);
        }
        let mut cluster = Self {
            _scheduler: scheduler,
            machines,
            control,
            _switch: switch,
            _sweeper: sweeper,
            groups,
            id,
            _directory: directory,
        };
        cluster.await_ready().await?;
        Ok(cluster)
    }

    async fn await_ready(&mut self) -> Result<()> {
        for machine in &mut self.machines {
            machine.await_up()?;
        }
        let client = self.control.client()?;
        let began = Instant::now();
        for machine in &self.machines {
            let path = format!("/api/v1/nodes/{}", machine.name);
            loop {
                let node: Option<Value> =
                    client.request(http::Request::get(&path).body(Vec::new())?).await.ok();
                if node.is_some_and(|node| is_ready(&node)) {
                    break;
                }
                ensure!(
                    began.elapsed() < READY_WITHIN,
                    "{} is not Ready after {READY_WITHIN:?}; its kubelet said:\n{}",
                    machine.name,
                    machine.log("kubelet")
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// What sets it apart from others on this machine: its interface is `wl<id>`, its control groups are in `windlass-<id>`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The control plane.
    pub fn control(&self) -> &ControlPlane {
        &self.control
    }

    /// The nodes' names.
    pub fn nodes(&self) -> Vec<&str> {
        self.machines.iter().map(|machine| &*machine.name).collect()
    }

    fn machine(&self, name: &str) -> Result<&Machine> {
        let found = self.machines.iter().find(|machine| machine.name == name);
        found.with_context(|| format!("no node is called {name}, only: {}", self.nodes().join(", ")))
    }

    /// A node's address, which is also where its kubelet answers.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn address(&self, node: &str) -> Result<std::net::Ipv4Addr> {
        Ok(self.machine(node)?.address())
    }

    /// Brings an OCI archive to every node.
    ///
    /// # Errors
    /// What the container runtime says against it.
    pub fn import(&self, archive: &Path) -> Result<()> {
        self.machines.iter().try_for_each(|machine| machine.import(archive))
    }

    /// Stops everything on a node where it is, as a suspended machine: its pods, its kubelet, its runtime.
    ///
    /// # Errors
    /// If there is no such node, or the kernel refuses.
    pub fn freeze(&self, node: &str) -> Result<()> {
        self.groups.freeze(&self.machine(node)?.name, true)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As for [`freeze`](Self::freeze).
    pub fn thaw(&self, node: &str) -> Result<()> {
        self.groups.freeze(&self.machine(node)?.name, false)
    }

    /// Drops every packet between a node, with its pods, and the API server.
    ///
    /// # Errors
    /// If there is no such node, or iptables refuses.
    pub fn cut_from_api_server(&self, node: &str) -> Result<()> {
        let machine = self.machine(node)?;
        machine.cut(&machine.api_server(), true)
    }

    /// Ends that.
    ///
    /// # Errors
    /// As for [`cut_from_api_server`](Self::cut_from_api_server), and if it was not cut off.
    pub fn reconnect_to_api_server(&self, node: &str) -> Result<()> {
        let machine = self.machine(node)?;
        machine.cut(&machine.api_server(), false)
    }

    /// Waits until the pods of every node reach the API server by the address of its Service. An API server that ends in order
    /// takes itself off that Service, and a kube-proxy that lost it asks for it again with pauses of up to a minute.
    ///
    /// # Errors
    /// If they do not for three minutes.
    pub async fn await_service(&self) -> Result<()> {
        let began = Instant::now();
        while !self.machines.iter().all(Machine::knows_api_server) {
            ensure!(
                began.elapsed() < Duration::from_secs(180),
                "the Service of the API server leads nowhere"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Drops every packet between two nodes and their pods.
    ///
    /// # Errors
    /// If there are no such nodes, or iptables refuses.
    pub fn cut_apart(&self, node: &str, other: &str) -> Result<()> {
        let (machine, other) = (self.machine(node)?, self.machine(other)?);
        machine.cut(&machine.networks_of(other), true)
    }

    /// Ends that; in the same order of the two.
    ///
    /// # Errors
    /// As for [`cut_apart`](Self::cut_apart), and if they were not.
    pub fn join_again(&self, node: &str, other: &str) -> Result<()> {
        let (machine, other) = (self.machine(node)?, self.machine(other)?);
        machine.cut(&machine.networks_of(other), false)
    }

    /// Enforces the NetworkPolicies that there are, for the pods that there are. What comes later needs another call.
    ///
    /// # Errors
    /// If a policy says something that is not understood here, the API server does not answer, or iptables refuses.
    pub async fn enforce_policies(&self) -> Result<()> {
        let client = self.control.client()?;
        let list = async |path: &str| -> Result<Vec<Value>> {
            let list: Value = client.request(http::Request::get(path).body(Vec::new())?).await?;
            Ok(list["items"].as_array().cloned().unwrap_or_default())
        };
        let world = policy::World {
            pods: list("/api/v1/pods").await?,
            namespaces: list("/api/v1/namespaces").await?,
            policies: list("/apis/networking.k8s.io/v1/networkpolicies").await?,
        };
        let rules = world.rules()?;
        self.machines.iter().try_for_each(|machine| machine.filter(policy::CHAIN, &rules))
    }

    /// Takes a pod off the network: nothing that it sends arrives, and nothing arrives at it, as when its node loses power.
    ///
    /// # Errors
    /// If there is no such node or process, or the kernel refuses.
    pub fn unplug(&self, node: &str, pod_uid: &str, program: &str) -> Result<()> {
        let processes = self.processes(node, pod_uid)?;
        let first = processes.iter().find(|(_, name)| name == program);
        let (process, _) = first.with_context(|| format!("pod {pod_uid} on {node} runs no {program}"))?;
        let target = process.to_string();
        run("nsenter", &["--target", &target, "--net", "ip", "link", "set", "dev", "eth0", "down"]).map(drop)
    }

    /// Ends a node's kubelet, and keeps it from coming back. Its pods run on.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn stop_kubelet(&self, node: &str) -> Result<()> {
        self.machine(node)?.kubelet(false)
    }

    /// Lets it come back.
    ///
    /// # Errors
    /// If there is no such node, or its kubelet was not stopped.
    pub fn start_kubelet(&self, node: &str) -> Result<()> {
        self.machine(node)?.kubelet(true)
    }

    /// The processes of a pod's containers and of its sandbox, each with its program's name. Unit: process numbers of this machine.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn processes(&self, node: &str, pod_uid: &str) -> Result<Vec<(u32, String)>> {
        let top = self.groups.folder("pids", &self.machine(node)?.name);
        let (mut folders, mut found) = (vec![(top, false)], Vec::new());
        while let Some((folder, inside)) = folders.pop() {
            if inside && let Ok(list) = fs::read_to_string(folder.join("cgroup.procs")) {
                found.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
            }
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let of_pod = entry.file_name().to_string_lossy() == format!("pod{pod_uid}");
                    folders.push((entry.path(), inside || of_pod));
                }
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|id| (id, machine::program_of(id))).collect())
    }

    /// Sends a signal to every process of a pod that runs this program, and says how many there were.
    ///
    /// # Errors
    /// If there is no such node, or a process cannot be signalled.
    pub fn signal(&self, node: &str, pod_uid: &str, program: &str, signal: Signal) -> Result<usize> {
        let processes = self.processes(node, pod_uid)?;
        let meant: Vec<_> = processes.into_iter().filter(|(_, name)| name == program).collect();
        for (process, _) in &meant {
            machine::signal(*process, signal)?;
        }
        Ok(meant.len())
    }

    /// The control group of the container in which a pod's first process of this program runs, in one hierarchy: `memory`, `cpu`.
    ///
    /// # Errors
    /// If there is no such node or process.
    pub fn container_group(
        &self,
        node: &str,
        pod_uid: &str,
        program: &str,
        hierarchy: &str,
    ) -> Result<PathBuf> {
        let processes = self.processes(node, pod_uid)?;
        let first = processes.iter().find(|(_, name)| name == program);
        let (process, _) = first.with_context(|| format!("pod {pod_uid} on {node} runs no {program}"))?;
        let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
        // `4:memory:/windlass-…/node1/kubepods/…`
        let path = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            (parts.next()? == hierarchy).then(|| parts.next())?
        });
        let path = path.with_context(|| format!("no hierarchy {hierarchy}"))?;
        Ok(Path::new("/sys/fs/cgroup").join(hierarchy).join(path.trim_start_matches('/')))
    }

    /// The end of a log on a node: `kubelet`, `containerd` or `kube-proxy`.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn log(&self, node: &str, of: &str) -> Result<String> {
        Ok(self.machine(node)?.log(of))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What cannot run cannot end. What is wrong with a group shows when it is removed.
        for machine in &self.machines {
            drop(self.groups.freeze(&machine.name, false));
        }
    }
}

/// Whether an object's condition `Ready` is true.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

fn scheduler(control: &ControlPlane, tools: &Tools) -> Result<Process> {
    let directory = control.directory()?;
    let identity = control.authority()?.client("system:kube-scheduler", "system:kube-scheduler")?;
    let kubeconfig = directory.join("scheduler.kubeconfig");
    fs::write(&kubeconfig, control.access().kubeconfig(&Credential::Certificate(identity)))?;
    let mut command = Command::new(tools.built.join("kube-scheduler"));
    command.arg("--kubeconfig").arg(&kubeconfig).args(["--leader-elect=false", "--secure-port=0"]);
    Process::spawn("kube-scheduler", command, &directory.join("kube-scheduler.log"))
}

/// A folder with all archives that a machine takes in when it is switched on.
fn store(tools: &Tools, directory: &Path, images: &Images) -> Result<PathBuf> {
    let store = directory.join("images");
    fs::create_dir_all(&store)?;
    for (name, program) in [(machine::PAUSE, "pause"), (HELLO, "hello")] {
        let bytes = fs::read(tools.built.join(program))?;
        let contents = Contents {
            name,
            files: &[File { path: program, bytes: &bytes }],
            command: &[],
            labels: [("title", program.to_owned())].into(),
            made_by: "windlass-testbed",
            created: Timestamp::UNIX_EPOCH,
        };
        fs::write(store.join(format!("{program}.tar")), write(&contents)?.archive)?;
    }
    for (number, image) in images.iter().enumerate() {
        let image = image.canonicalize().with_context(|| image.display().to_string())?;
        std::os::unix::fs::symlink(&image, store.join(format!("{number}.tar")))?;
    }
    Ok(store)
}

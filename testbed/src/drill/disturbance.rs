//! What production does to a deployment, one thing at a time.

use std::fmt;
use std::fs;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::crowd;
use super::report::Round;
use super::site::{Pod, Site};
use crate::nemesis::HOST;
use crate::process::Signal;
use crate::servers::Stop;

/// How long a machine or a network is gone: longer than a lease, shorter than it takes the control plane to give a node up.
const OUTAGE: Duration = Duration::from_secs(25);

/// How long a machine is frozen: the control plane has given it up by then.
const FROZEN: Duration = Duration::from_secs(60);

/// How long a container is short of CPU time.
const THROTTLED: Duration = Duration::from_secs(30);

/// How long a crowd may take until each of its objects has what it asks for.
const CROWDED: Duration = Duration::from_secs(300);

/// How long a kubelet may take to renew the tokens of its pods after it was started again: it looks at each once a minute or so.
const RENEWED_WITHIN: Duration = Duration::from_secs(180);

/// One of them. What befalls a replica befalls the leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disturbance {
    /// Its pod is deleted.
    Delete,
    /// Its pod is deleted with `--force --grace-period=0`.
    ForceDelete,
    /// Its container's first process gets SIGKILL.
    Kill,
    /// Its pod loses its network and is then killed: whoever listens hears nothing, as when a machine loses power.
    Vanish,
    /// It is killed for want of memory.
    OutOfMemory,
    /// Its node is drained, and taken back.
    Drain,
    /// Its node and its pods lose the API server for 25 s.
    CutFromApi,
    /// The two nodes and their pods lose each other for 25 s.
    CutApart,
    /// Its node's kubelet is away for 25 s.
    KubeletStopped,
    /// Its node stands still for 60 s.
    Freeze,
    /// Every pod is replaced by one of another version, and back.
    RollingUpdate,
    /// A version is rolled out that ends when it starts, and is taken back.
    BrokenUpdate,
    /// 3 replicas, 1, 5, 3.
    Scale,
    /// `kubectl rollout restart`.
    Restart,
    /// The plugin's ConfigMap is replaced by `kubectl apply -k`.
    PluginSwap,
    /// The kubelet renews its token.
    TokenRotated,
    /// The API server is ended in order and started again.
    ApiServerRestart,
    /// Its liveness probe gets no answer until the kubelet loses patience.
    LivenessFails,
    /// It may run for 10 ms in each 100 for half a minute.
    Throttled,
    /// Many plugins with many objects come, and then its container's first process gets SIGKILL.
    Crowd,
}

use Disturbance::*;

impl Disturbance {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Delete,
        ForceDelete,
        Kill,
        Vanish,
        OutOfMemory,
        Drain,
        CutFromApi,
        CutApart,
        KubeletStopped,
        Freeze,
        RollingUpdate,
        BrokenUpdate,
        Scale,
        Restart,
        PluginSwap,
        TokenRotated,
        ApiServerRestart,
        LivenessFails,
        Throttled,
        Crowd,
    ];

    /// What CI has time for.
    pub const SHORT: [Self; 4] = [Delete, Kill, Drain, RollingUpdate];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Delete => "delete",
            ForceDelete => "force-delete",
            Kill => "kill",
            Vanish => "vanish",
            OutOfMemory => "out-of-memory",
            Drain => "drain",
            CutFromApi => "cut-from-api",
            CutApart => "cut-apart",
            KubeletStopped => "kubelet-stopped",
            Freeze => "freeze",
            RollingUpdate => "rolling-update",
            BrokenUpdate => "broken-update",
            Scale => "scale",
            Restart => "restart",
            PluginSwap => "plugin-swap",
            TokenRotated => "token-rotated",
            ApiServerRestart => "api-server-restart",
            LivenessFails => "liveness-fails",
            Throttled => "throttled",
            Crowd => "crowd",
        }
    }

    /// How many replicas have to be ready all the time: two where somebody asked for it and could wait, one where nobody asked.
    pub fn least_ready(self) -> usize {
        match self {
            Delete | Drain | RollingUpdate | BrokenUpdate | Restart | PluginSwap | TokenRotated
            | KubeletStopped | CutApart => 2,
            ForceDelete | Kill | Vanish | OutOfMemory | CutFromApi | Freeze | ApiServerRestart
            | LivenessFails | Throttled | Crowd => 1,
            // Somebody wanted one, and that one may be new.
            Scale => 0,
        }
    }

    /// The longest pause in work that it may cost. Unit: milliseconds. A lease of 15 s is waited for where the leader cannot be seen to
    /// be gone, and the API server takes its time to come back.
    pub fn longest_gap_ms(self) -> u64 {
        match self {
            Delete | Drain | RollingUpdate | Restart | Scale | BrokenUpdate => 5_000,
            PluginSwap | TokenRotated | KubeletStopped | CutApart => 5_000,
            Kill | Vanish | OutOfMemory | ForceDelete | Throttled | Crowd => 20_000,
            CutFromApi | Freeze | LivenessFails => 30_000,
            // As long as it is away, which is kube-proxy's affair too.
            ApiServerRestart => 180_000,
        }
    }

    /// Lets it happen, and takes back what was made for it.
    pub(super) async fn strike(self, site: &Site, round: &mut Round) -> Result<()> {
        let (leader, claim) = (site.leading().await?, site.claim().await?);
        round.begin();
        match self {
            Delete => {
                site.kubectl(&[
                    "delete",
                    "pod",
                    &leader.name,
                    "--namespace",
                    &site.subject.namespace,
                    "--wait=false",
                ])
                .await?;
                site.successor(&claim).await
            }
            ForceDelete => {
                let force = ["--force", "--grace-period=0"];
                let delete = ["delete", "pod", &leader.name, "--namespace", &site.subject.namespace];
                site.kubectl(&[&delete[..], &force[..]].concat()).await?;
                site.successor(&claim).await
            }
            Kill => {
                kill(site, &leader)?;
                site.successor(&claim).await
            }
            Vanish => {
                site.cluster().unplug(&leader.node, &leader.uid, &site.subject.program)?;
                kill(site, &leader)?;
                let next = site.successor(&claim).await;
                // Its container is started again in the same sandbox, where it reaches nobody.
                site.kubectl(&["delete", "pod", &leader.name, "--namespace", &site.subject.namespace])
                    .await?;
                next
            }
            OutOfMemory => {
                let full = OutOf::memory(site, &leader)?;
                site.successor(&claim).await?;
                drop(full);
                ended_for(site, &leader, "OOMKilled").await
            }
            Drain => drain(site, &leader).await,
            CutFromApi => {
                site.cluster().cut_from_api_server(&leader.node)?;
                let next = site.successor(&claim).await;
                tokio::time::sleep(OUTAGE.saturating_sub(round.elapsed())).await;
                site.cluster().reconnect_to_api_server(&leader.node)?;
                next
            }
            CutApart => {
                let [one, other] = site.cluster().nodes()[..] else { bail!("there are two nodes") };
                site.cluster().cut_apart(one, other)?;
                tokio::time::sleep(OUTAGE).await;
                site.cluster().join_again(one, other)
            }
            KubeletStopped => {
                site.cluster().stop_kubelet(&leader.node)?;
                tokio::time::sleep(OUTAGE).await;
                site.cluster().start_kubelet(&leader.node)
            }
            Freeze => {
                site.cluster().freeze(&leader.node)?;
                let next = site.successor(&claim).await;
                tokio::time::sleep(FROZEN.saturating_sub(round.elapsed())).await;
                site.cluster().thaw(&leader.node)?;
                next
            }
            RollingUpdate => rolling_update(site).await,
            BrokenUpdate => broken_update(site).await,
            Scale => {
                for replicas in ["1", "5", "3"] {
                    let count = format!("--replicas={replicas}");
                    site.kubectl(&[
                        "scale",
                        &site.workload(),
                        "--namespace",
                        &site.subject.namespace,
                        &count,
                    ])
                    .await?;
                    site.whole().await?;
                }
                Ok(())
            }
            Restart => {
                site.kubectl(&[
                    "rollout",
                    "restart",
                    &site.workload(),
                    "--namespace",
                    &site.subject.namespace,
                ])
                .await?;
                site.whole().await
            }
            PluginSwap => swap_plugin(site).await,
            TokenRotated => rotate_token(site, &leader).await,
            ApiServerRestart => {
                site.control().restart_apiserver(Stop::Term).await?;
                // Until then it is not back for anybody who runs on a node.
                site.cluster().await_service().await
            }
            LivenessFails => {
                site.cluster().signal(&leader.node, &leader.uid, &site.subject.program, Signal::STOP)?;
                site.successor(&claim).await?;
                restarted(site, &leader).await
            }
            Throttled => {
                let group = site.cluster().container_group(
                    &leader.node,
                    &leader.uid,
                    &site.subject.program,
                    "cpu",
                )?;
                let quota = group.join("cpu.cfs_quota_us");
                let before = fs::read_to_string(&quota)?;
                fs::write(&quota, "10000").context("a quota of a tenth of a processor")?;
                tokio::time::sleep(THROTTLED).await;
                // It may have ended, and its group with it.
                fs::write(&quota, before.trim()).ok();
                Ok(())
            }
            Crowd => {
                let before = site.pods().await?;
                site.crowd()?.bring(site.control()).await?;
                site.crowd()?.served(site.control(), CROWDED).await?;
                let carried = crowd::within_limit(site, &before).await?;
                let (leader, claim) = (site.leading().await?, site.claim().await?);
                kill(site, &leader)?;
                site.successor(&claim).await?;
                site.whole().await?;
                // Who was killed has begun anew.
                let mut others = site.pods().await?;
                others.retain(|pod| pod.uid != leader.uid);
                let taken_over = crowd::within_limit(site, &others).await?;
                round.peak_mib = Some(carried.max(taken_over));
                Ok(())
            }
        }
    }
}

/// Ends a container as a crash does: the first process of it, by age.
fn kill(site: &Site, pod: &Pod) -> Result<()> {
    let processes = site.cluster().processes(&pod.node, &pod.uid)?;
    let first = processes.iter().find(|(_, name)| *name == site.subject.program);
    let (process, _) = first.with_context(|| format!("{} runs no {}", pod.name, site.subject.program))?;
    let pid = i32::try_from(*process).ok().and_then(rustix::process::Pid::from_raw).context("a process")?;
    Ok(rustix::process::kill_process(pid, Signal::KILL)?)
}

/// Something that eats all memory of a container, from within its control group. Dropping it ends it.
struct OutOf(std::process::Child);

impl OutOf {
    fn memory(site: &Site, pod: &Pod) -> Result<Self> {
        let group = site.cluster().container_group(&pod.node, &pod.uid, &site.subject.program, "memory")?;
        let list = group.join("cgroup.procs");
        // One line without an end, which `tail` has to keep. The kernel takes the host first: a kubelet makes containers likelier to
        // be killed than what runs outside of them.
        let script = format!("echo $$ >{}; exec tail /dev/zero", list.display());
        let child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for OutOf {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits until the pod's container was started again, and makes sure of the reason.
async fn ended_for(site: &Site, pod: &Pod, reason: &str) -> Result<()> {
    let again = restarted_pod(site, pod).await?;
    ensure!(again.last_end == reason, "{} ended for {:?} and not for {reason}", pod.name, again.last_end);
    Ok(())
}

async fn restarted(site: &Site, pod: &Pod) -> Result<()> {
    restarted_pod(site, pod).await.map(drop)
}

async fn restarted_pod(site: &Site, pod: &Pod) -> Result<Pod> {
    let again = site
        .until(async || {
            let pods = site.pods().await.ok()?;
            pods.into_iter().find(|now| now.uid == pod.uid && now.restarts > pod.restarts)
        })
        .await;
    again.with_context(|| format!("{}'s container was not started again", pod.name))
}

async fn drain(site: &Site, leader: &Pod) -> Result<()> {
    let node = &*leader.node;
    let drained = site
        .kubectl(&["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=100s"])
        .await;
    let left = site.pods().await?.into_iter().filter(|pod| pod.node == node).count();
    let whole = site.whole().await;
    site.kubectl(&["uncordon", node]).await?;
    drained?;
    ensure!(left == 0, "{left} replicas are left on the drained {node}");
    whole
}

/// Another version, which is the second image of the plan if it has one and the same program under another name if not; and back.
async fn rolling_update(site: &Site) -> Result<()> {
    let before = site.leading().await?.image;
    let other = site.other_image().unwrap_or(&before).to_owned();
    for image in [&other, &before] {
        let set = format!("{}={image}", site.subject.name);
        site.kubectl(&["set", "image", &site.workload(), &set, "--namespace", &site.subject.namespace])
            .await?;
        // The same image is no change, and an annotation of the pods is one.
        let stamp = json!({ "spec": { "template": { "metadata": { "annotations": { "drill": image_stamp(image, &before) } } } } });
        site.merge(&site.subject.deployment(), &stamp).await?;
        site.whole().await?;
    }
    Ok(())
}

fn image_stamp(image: &str, before: &str) -> String {
    if image == before { format!("back-{:x}", rand::random::<u32>()) } else { "other".to_owned() }
}

async fn broken_update(site: &Site) -> Result<()> {
    let before: Vec<_> = site.pods().await?.into_iter().map(|pod| pod.name).collect();
    let template = |arguments: &[&str]| json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/args", "value": arguments }]);
    site.json_patch(&site.subject.deployment(), &template(&["run", "--no-such-flag"])).await?;
    let crashed = site
        .until(async || {
            let pods = site.pods().await.ok()?;
            pods.into_iter().find(|pod| !before.contains(&pod.name) && pod.restarts >= 2)
        })
        .await;
    let still = site.pods().await?.into_iter().filter(|pod| before.contains(&pod.name) && pod.ready).count();
    let leader = site.leading().await?.name;
    site.json_patch(&site.subject.deployment(), &template(&["run"])).await?;
    site.whole().await?;
    crashed.context("the broken version did not crash")?;
    ensure!(still == 3, "{still} of the 3 old replicas were ready beside a version that crashes");
    ensure!(before.contains(&leader), "{leader} leads, and is none of the old ones");
    Ok(())
}

/// Replaces the component by the same one with one more section of no meaning, whose digest is another.
async fn swap_plugin(site: &Site) -> Result<()> {
    let path = format!("/api/v1/namespaces/{HOST}/configmaps/greeter-plugin");
    let map = site.get(&path).await?;
    let digest = |map: &serde_json::Value| {
        map["metadata"]["annotations"]["windlass.dev/digest"].as_str().map(str::to_owned)
    };
    let before = digest(&map);
    let wasm = map["binaryData"]["plugin.wasm"].as_str().context("a component")?;
    let next = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "greeter-plugin", "namespace": HOST, "labels": map["metadata"]["labels"] },
        "binaryData": { "plugin.wasm": with_section(wasm)? },
    });
    let folder = tempfile::tempdir().context("no temporary directory")?;
    fs::write(folder.path().join("plugin.yaml"), next.to_string())?;
    fs::write(folder.path().join("kustomization.yaml"), "resources: [plugin.yaml]\n")?;
    let folder = folder.path().display().to_string();
    site.kubectl(&["apply", "--server-side", "--force-conflicts", "--kustomize", &folder]).await?;
    let swapped = site
        .until(async || {
            let map = site.get(&path).await.ok()?;
            let serving = map["metadata"]["annotations"]["windlass.dev/state"] == "serving";
            (serving && digest(&map) != before).then_some(())
        })
        .await;
    swapped.context("the new version of the plugin does not serve")
}

/// Appends a custom section to a component in base64.
fn with_section(wasm: &str) -> Result<String> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let mut bytes = STANDARD.decode(wasm)?;
    let name = format!("drill-{:08x}", rand::random::<u32>());
    bytes.extend([0, name.len() as u8 + 1, name.len() as u8]);
    bytes.extend(name.as_bytes());
    Ok(STANDARD.encode(bytes))
}

/// A kubelet forgets the tokens that it gave out when it ends, and gives every pod a new one after it has started.
async fn rotate_token(site: &Site, leader: &Pod) -> Result<()> {
    let before = site.credentials_of(&leader.name)?;
    site.cluster().stop_kubelet(&leader.node)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.cluster().start_kubelet(&leader.node)?;
    let began = std::time::Instant::now();
    while began.elapsed() < RENEWED_WITHIN {
        if site.credentials_of(&leader.name)?.iter().any(|credential| !before.contains(credential)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bail!("{} writes with no other token than before within {RENEWED_WITHIN:?}", leader.name)
}

impl fmt::Display for Disturbance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Disturbance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| format!("no disturbance is called {text:?}, only: {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_by_its_name() {
        for disturbance in Disturbance::ALL {
            assert_eq!(disturbance.name().parse(), Ok(disturbance));
        }
        let message = "nap".parse::<Disturbance>().unwrap_err();
        assert!(message.contains("delete, force-delete"), "{message}");
    }

    #[test]
    fn a_section_changes_the_bytes_and_nothing_else() {
        use base64::Engine;
        let engine = base64::engine::general_purpose::STANDARD;
        let before = engine.encode(b"\0asm");
        let after = engine.decode(with_section(&before).unwrap()).unwrap();
        assert_eq!(&after[..5], b"\0asm\0");
        assert_eq!(after.len(), 4 + 2 + usize::from(after[5]));
    }
}

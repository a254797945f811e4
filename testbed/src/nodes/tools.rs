//! The programs of a node: what Kubernetes brings is built, the container runtime comes as Debian packages that are
//! unpacked and never installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::gobuild::{Module, cache_directory};
use crate::progress::Progress;

/// Built from `testbed/node`.
const MODULE: Module = Module {
    name: "node",
    programs: &["hello", "kube-proxy", "kube-scheduler", "kubelet", "pause"],
    label: ("nodes", &[("kubelet", "k8s.io/kubernetes ")]),
};

/// The runtime, the network plugins, and iptables for kube-proxy with the libraries that a small system lacks.
const PACKAGES: [&str; 11] = [
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "libip4tc2",
    "libip6tc2",
    "libxtables12",
    "libmnl0",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftnl11",
];

/// What has to be among it, or the packages are not those that we know.
const EXPECTED: [&str; 5] = [
    "usr/bin/containerd",
    "usr/bin/containerd-shim-runc-v2",
    "usr/bin/ctr",
    "usr/lib/cni/bridge",
    "usr/sbin/xtables-nft-multi",
];

/// Where everything is.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    /// A root folder with the packages' files.
    pub(super) packages: PathBuf,
    /// The folder with what was built.
    pub(super) built: PathBuf,
}

impl Tools {
    /// Takes them from the cache, or builds and fetches them into it: a minute or some, once.
    ///
    /// # Errors
    /// If there is no Go, or no Debian.
    pub(super) fn locate_or_make(progress: &dyn Progress) -> Result<Self> {
        let packages = packages(&cache_directory()?, progress)?;
        Ok(Self { packages, built: MODULE.locate_or_build(progress)? })
    }

    pub(super) fn package_file(&self, path: &str) -> String {
        self.packages.join(path).display().to_string()
    }
}

fn packages(cache: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(PACKAGES.join(" "));
    hash.update(release);
    let name: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let target = cache.join("node-packages").join(name);
    let complete = || EXPECTED.iter().all(|file| target.join(file).is_file());
    if complete() {
        return Ok(target);
    }
    fs::create_dir_all(&target).with_context(|| format!("cannot make the cache {}", target.display()))?;
    let lock = File::create(target.with_extension("lock")).context("cannot make the cache's lock")?;
    lock.lock().context("cannot take the cache's lock")?;
    if !complete() {
        progress.begin(
            "nodes: containerd, runc, network plugins, iptables",
            "Debian packages, unpacked and not installed",
        );
        let fetched = fetch(&target, progress);
        progress.finish(fetched.is_ok());
        fetched?;
        ensure!(complete(), "the packages {} lack {}", PACKAGES.join(" "), EXPECTED.join(", "));
    }
    Ok(target)
}

fn fetch(target: &Path, progress: &dyn Progress) -> Result<()> {
    let folder = tempfile::tempdir().context("no temporary directory")?;
    let download = || {
        let output = Command::new("apt-get")
            .arg("download")
            .args(PACKAGES)
            .current_dir(folder.path())
            .output()
            .context("the container runtime comes as Debian packages, and apt-get did not start")?;
        if output.status.success() {
            return Ok(());
        }
        bail!("apt-get download: {}", String::from_utf8_lossy(&output.stderr).trim())
    };
    if download().is_err() {
        // It may never have been told which packages there are.
        let output = Command::new("apt-get").args(["update", "--quiet"]).output()?;
        ensure!(
            output.status.success(),
            "apt-get update: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        download()?;
    }
    let files: Vec<_> = fs::read_dir(folder.path())?.flatten().map(|entry| entry.path()).collect();
    for (done, file) in files.iter().enumerate() {
        progress.step(done as u64, files.len() as u64);
        let status = Command::new("dpkg")
            .arg("--extract")
            .args([file, target])
            .status()
            .context("dpkg did not start")?;
        ensure!(status.success(), "dpkg cannot unpack {}", file.display());
    }
    Ok(())
}

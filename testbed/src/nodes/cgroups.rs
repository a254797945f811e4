//! The control groups of the machines: one folder a machine in every hierarchy, below one of the cluster's.
//!
//! Version 1 only: there the hierarchies are the machine's own, and a child of any of them may be made. What is below is the
//! kubelet's affair.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const ROOT: &str = "/sys/fs/cgroup";

/// What a kubelet asks for. The freezer is ours.
const NEEDED: [&str; 5] = ["cpu", "cpuset", "freezer", "memory", "pids"];

/// The folders of a cluster's machines.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// Below the root of every hierarchy.
    name: String,
    hierarchies: Vec<PathBuf>,
}

impl Cgroups {
    /// Why there can be none here, if so.
    ///
    /// # Errors
    /// The reason.
    pub(super) fn possible() -> Result<()> {
        ensure!(
            !Path::new(ROOT).join("cgroup.controllers").exists(),
            "{ROOT} is the one hierarchy of cgroup v2, and the testbed's nodes only know version 1"
        );
        let there = hierarchies();
        let missing: Vec<_> =
            NEEDED.into_iter().filter(|name| !there.contains(&Path::new(ROOT).join(name))).collect();
        ensure!(missing.is_empty(), "{ROOT} lacks the hierarchies {}", missing.join(", "));
        Ok(())
    }

    /// Makes a folder for each machine.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn create(name: &str, machines: &[String]) -> Result<Self> {
        let groups = Self { name: name.to_owned(), hierarchies: hierarchies() };
        for hierarchy in &groups.hierarchies {
            for machine in machines {
                let mut folder = hierarchy.clone();
                for part in [name, machine] {
                    folder.push(part);
                    make(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
                }
            }
        }
        Ok(groups)
    }

    /// What a kubelet calls the folder of its machine.
    pub(super) fn root_of(&self, machine: &str) -> String {
        format!("/{}/{machine}", self.name)
    }

    /// The folder of a machine in one hierarchy.
    pub(super) fn folder(&self, hierarchy: &str, machine: &str) -> PathBuf {
        Path::new(ROOT).join(hierarchy).join(&self.name).join(machine)
    }

    /// The lists to which a process adds itself to be one of the machine's.
    pub(super) fn lists(&self, machine: &str) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|at| at.join(&self.name).join(machine).join("cgroup.procs")).collect()
    }

    /// Stops every process of the machine where it is, or lets all go on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn freeze(&self, machine: &str, frozen: bool) -> Result<()> {
        let state = self.folder("freezer", machine).join("freezer.state");
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        fs::write(&state, wanted).with_context(|| format!("{wanted} to {}", state.display()))?;
        // It is FREEZING for as long as one of them is in the middle of something.
        for _ in 0..500 {
            if fs::read_to_string(&state)?.trim() == wanted {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        anyhow::bail!("{} is not {wanted} after 5 s", state.display())
    }

    /// The arguments of [`SWEEP`]: every folder that may be ours. The runtime makes some beside those of version 1 too.
    pub(super) fn tops(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().join(&self.name)).collect()
    }
}

/// Removes the folders once nothing is in them any more. What is frozen does not end, so it is thawed first.
pub(super) const SWEEP: &str = r#"i=0; while [ $i -lt 100 ]; do
  for top in "$@"; do
    [ -d "$top" ] || continue
    for state in "$top"/*/freezer.state; do [ ! -e "$state" ] || echo THAWED >"$state"; done
    find "$top" -depth -type d -exec rmdir {} + 2>/dev/null
  done
  left=; for top in "$@"; do [ ! -d "$top" ] || left=1; done
  [ -n "$left" ] || exit 0
  sleep 0.1; i=$((i+1)); done"#;

fn hierarchies() -> Vec<PathBuf> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
    // A list of threads is version 1's; links are other names of the same hierarchy.
    let mut found: Vec<_> =
        entries.filter(|path| path.join("tasks").is_file() && !path.is_symlink()).collect();
    found.sort();
    found
}

fn make(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir(folder)?;
    // Without them nothing may be in it.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let above = folder.parent().unwrap_or(folder).join(file);
        if above.is_file() {
            fs::write(folder.join(file), fs::read(above)?)?;
        }
    }
    Ok(())
}

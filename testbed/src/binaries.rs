//! Where the four programs of the control plane come from.
//!
//! Either somebody has them already and says so with `KUBEBUILDER_ASSETS`, or the Go module beside this crate is built, once,
//! into a cache outside the work tree. The cache is keyed by everything that goes into the programs, so it is never wrong and
//! never asked to be cleared.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::gobuild::Module;
use crate::progress::Progress;

/// The programs, in the order in which an error names them.
const PROGRAMS: &[&str] = &["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];

/// What is built when nobody brings them.
const MODULE: Module = Module {
    name: "controlplane",
    programs: PROGRAMS,
    label: (
        "control plane",
        &[("etcd", "go.etcd.io/etcd/server/v3 "), ("kube-apiserver", "k8s.io/kubernetes ")],
    ),
};

/// Paths of the four programs, all of which existed when this was made.
#[derive(Debug, Clone)]
pub struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Finds ready-made programs through `KUBEBUILDER_ASSETS`, or takes them from the cache, or builds them into it.
    ///
    /// A first build takes about six minutes on two cores and downloads the Kubernetes sources; later calls take milliseconds. Two
    /// processes that come here at once build once: the second one waits. Blocks the calling thread.
    ///
    /// # Errors
    /// If `KUBEBUILDER_ASSETS` names a directory that lacks one of the programs (the message says which), if there is no Go, or
    /// if the build fails (with the end of its output).
    pub fn locate_or_build(progress: &dyn Progress) -> Result<Self> {
        if let Some(directory) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
            return Self::ready_made(Path::new(&directory));
        }
        Ok(Self { directory: MODULE.locate_or_build(progress)? })
    }

    /// Takes the programs of one directory as they are.
    ///
    /// # Errors
    /// If one is missing; the message names each that is.
    pub fn ready_made(directory: &Path) -> Result<Self> {
        let missing: Vec<&str> =
            PROGRAMS.iter().copied().filter(|program| !directory.join(program).is_file()).collect();
        ensure!(
            missing.is_empty(),
            "KUBEBUILDER_ASSETS={} lacks {}; it has to hold {}",
            directory.display(),
            missing.join(" and "),
            PROGRAMS.join(", ")
        );
        Ok(Self { directory: directory.to_owned() })
    }

    /// The directory that holds all four, as `KUBEBUILDER_ASSETS` could name it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of `etcd`.
    pub fn etcd(&self) -> PathBuf {
        self.directory.join("etcd")
    }

    /// The path of `kube-apiserver`.
    pub fn apiserver(&self) -> PathBuf {
        self.directory.join("kube-apiserver")
    }

    /// The path of `kube-controller-manager`.
    pub fn controller_manager(&self) -> PathBuf {
        self.directory.join("kube-controller-manager")
    }

    /// The path of `kubectl`.
    pub fn kubectl(&self) -> PathBuf {
        self.directory.join("kubectl")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_directory_is_refused_with_what_it_lacks() {
        let directory = tempfile::tempdir().unwrap();
        for program in ["etcd", "kube-apiserver"] {
            std::fs::write(directory.path().join(program), "").unwrap();
        }
        let message = Binaries::ready_made(directory.path()).unwrap_err().to_string();
        assert!(message.contains("lacks kube-controller-manager and kubectl"), "{message}");
    }
}

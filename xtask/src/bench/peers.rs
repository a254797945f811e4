//! Builds the peers of `bench/peers/` into `target/peers/`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::root;

/// Builds the operator on controller-runtime.
///
/// # Errors
/// If there is no Go, or it does not build.
pub(crate) fn controller_runtime() -> Result<PathBuf> {
    let go = Command::new("go").arg("version").output();
    if !go.is_ok_and(|output| output.status.success()) {
        bail!(
            "the peers on controller-runtime need Go 1.26 or newer (https://go.dev/dl), and `go version` does not work here; \
             leave them out with --peers ours,kube-rs"
        );
    }
    let binary = root().join("target/peers/controller-runtime/webapp-operator");
    eprintln!("building bench/peers/controller-runtime (the first time takes minutes)");
    let built = Command::new("go")
        .current_dir(root().join("bench/peers/controller-runtime"))
        .env("CGO_ENABLED", "0")
        .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(&binary)
        .arg(".")
        .status()
        .context("start go")?;
    ensure!(built.success(), "bench/peers/controller-runtime does not build");
    Ok(binary)
}

/// Builds the operator on kube-rs.
///
/// # Errors
/// If it does not build.
pub(crate) fn kube_rs() -> Result<PathBuf> {
    let target = root().join("target/peers/kube-rs");
    eprintln!("building bench/peers/kube-rs (the first time takes minutes)");
    let built = Command::new("cargo")
        .current_dir(root())
        .args([
            "build",
            "--release",
            "--locked",
            "--manifest-path",
            "bench/peers/kube-rs/Cargo.toml",
            "--target-dir",
        ])
        .arg(&target)
        .status()
        .context("start cargo")?;
    ensure!(built.success(), "bench/peers/kube-rs does not build");
    Ok(target.join("release/webapp-operator-kube-rs"))
}

/// The versions that `go.mod` and `Cargo.lock` of the peers pin.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn versions() -> Result<Vec<(String, String)>> {
    let read = |path: &str| {
        std::fs::read_to_string(root().join("bench/peers").join(path)).with_context(|| format!("read {path}"))
    };
    let (modules, lock) = (read("controller-runtime/go.mod")?, read("kube-rs/Cargo.lock")?);
    let mut found = Vec::new();
    for module in ["sigs.k8s.io/controller-runtime", "k8s.io/client-go"] {
        let line = modules.lines().find_map(|line| line.trim().strip_prefix(module)?.strip_prefix(' '));
        found.extend(line.map(|version| (module.to_owned(), version.trim_start_matches('v').to_owned())));
    }
    for package in ["kube", "kube-lease-manager"] {
        let entry =
            lock.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{package}\"\n")));
        let version = entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
        found.extend(version.map(|version| (package.to_owned(), version.to_owned())));
    }
    Ok(found)
}

//! The host as `deploy/overlays/production` deploys it, in pods on real nodes, and what production does to it.
//!
//! Here is the short part: a pod deleted, a container killed, a node drained, a version rolled out and back. `cargo xtask test --nodes`
//! plays all of it. Where this machine allows no nodes this says so and proves nothing.

use windlass_testbed::drill::{Disturbance, Plan, run};
use windlass_testbed::nodes::{Cluster, host_image};
use windlass_testbed::progress;

/// What `deploy/base` asks for, as a container runtime completes the name.
const IMAGE: &str = concat!("docker.io/library/windlass:", env!("CARGO_PKG_VERSION"));

/// The same program under another name: a version to roll out.
const OTHER: &str = concat!("docker.io/library/windlass:", env!("CARGO_PKG_VERSION"), "-other");

#[tokio::test]
async fn the_deployment_outlives_what_production_does_to_it() {
    if let Err(reason) = Cluster::possible() {
        eprintln!("NOT TESTED: no nodes on this machine: {reason:#}");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let archives = [IMAGE, OTHER].map(|name| {
        let archive = folder.path().join(format!("{}.tar", name.rsplit(':').next().unwrap_or_default()));
        host_image(env!("CARGO_BIN_EXE_windlass").as_ref(), name, &archive).expect("an image");
        archive
    });
    let plan = Disturbance::SHORT.into_iter().fold(Plan::new(&archives[0]), Plan::then);
    let report = run(&plan.update_to(&archives[1], OTHER), &progress::Silent).await.expect("a drill");
    eprintln!("{}", report.summary());
    assert!(report.passed(), "{}", report.summary());
}

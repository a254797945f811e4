//! The drill: the host as it is deployed, on real nodes and under load, and what production does to it.
//!
//! `deploy/overlays/production` is applied as it stands. Then one disturbance after the other: a load runs through each and goes on
//! until the deployment is whole again; when it ends everything has to be as it is wanted within 30 s, and silent. The judgement over
//! the whole run is the [`checker`]'s, as in the [`nemesis`], whose load this is.
//!
//! ```no_run
//! # async fn doc() -> anyhow::Result<()> {
//! use windlass_testbed::drill::{Disturbance, Plan, run};
//! let plan = Plan::new("dist/windlass-0.1.0-linux-amd64.oci.tar").then(Disturbance::Kill).then(Disturbance::Drain);
//! let report = run(&plan, &windlass_testbed::progress::Silent).await?;
//! assert!(report.passed(), "{}", report.summary());
//! # Ok(()) }
//! ```
//!
//! [`checker`]: crate::checker
//! [`nemesis`]: crate::nemesis

mod disturbance;
mod report;
mod site;
mod watcher;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

pub use disturbance::Disturbance;
pub use report::{Report, Round};
pub use site::{Pod, Site};

use crate::checker::{Rules, check};
use crate::nemesis::HOST;
use crate::nemesis::load::{Load, Stream};
use crate::nemesis::settle::{Place, settle};
use crate::progress::Progress;
use watcher::Watcher;

/// How long the load runs undisturbed before and after.
const CALM: Duration = Duration::from_secs(2);

/// What is to happen.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The image of the host, as an OCI archive; its name is the one that `deploy/base` asks for.
    pub image: PathBuf,
    /// Another version: the archive and the name of the image in it. Without one a rolling update replaces all pods by others of the
    /// same version.
    pub other: Option<(PathBuf, String)>,
    /// Components of `deploy/` on top of the production overlay.
    pub components: Vec<String>,
    /// In this order.
    pub disturbances: Vec<Disturbance>,
    /// Changes a second. Default 25.
    pub rate: u32,
    /// How many objects are changed in turn. Default 60.
    pub objects: u32,
    /// Decides on everything that is random here.
    pub seed: u64,
}

impl Plan {
    /// Nothing happens yet.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            other: None,
            components: Vec::new(),
            disturbances: Vec::new(),
            rate: 25,
            objects: 60,
            seed: 1,
        }
    }

    /// The same with one more disturbance.
    #[must_use]
    pub fn then(mut self, disturbance: Disturbance) -> Self {
        self.disturbances.push(disturbance);
        self
    }

    /// The same with another version to update to.
    #[must_use]
    pub fn update_to(mut self, archive: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        self.other = Some((archive.into(), name.into()));
        self
    }
}

/// Runs a plan on a cluster of its own with two nodes, and judges it.
///
/// # Errors
/// If something does not come about that no disturbance excuses: the cluster does not start, the deployment is not whole again within two
/// minutes. Broken promises are no errors; the report holds them.
///
/// # Cancel safety
/// Dropping the future ends everything that was started.
pub async fn run(plan: &Plan, progress: &dyn Progress) -> Result<Report> {
    progress.begin("drill", &format!("{} disturbances", plan.disturbances.len()));
    let done = rounds(plan, progress).await;
    progress.finish(done.is_ok());
    done
}

async fn rounds(plan: &Plan, progress: &dyn Progress) -> Result<Report> {
    let mut site = Site::set(plan).await?;
    let mut report = Report { deployed_ms: site.deployed_ms(), ..Report::default() };
    for (number, disturbance) in plan.disturbances.iter().enumerate() {
        progress.step(number as u64, plan.disturbances.len() as u64);
        let round = round(&mut site, plan, *disturbance, number as u64).await;
        report.rounds.push(round.with_context(|| format!("{disturbance}"))?);
    }
    let history = site.records.read(site.control()).await?;
    let pods = history
        .requests
        .iter()
        .map(|request| &request.sender)
        .filter(|sender| sender.starts_with("windlass-"));
    let rules = pods.fold(Rules::new(HOST), |rules, pod| rules.pod(pod, pod));
    if rules.pods.is_empty() {
        report.problems.push("the audit log does not tell one pod from another".to_owned());
    }
    report.verdict = check(&history, &rules);
    (report.verdict.term_list, report.verdict.lease_terms) = Default::default();
    Ok(report)
}

async fn round(site: &mut Site, plan: &Plan, disturbance: Disturbance, number: u64) -> Result<Round> {
    site.whole().await?;
    let mark = site.control().audit()?.mark()?;
    let stream = Stream { rate: plan.rate, objects: plan.objects, seed: plan.seed + number };
    let load = Load::start(site.client(), &site.namespace, stream);
    tokio::time::sleep(CALM).await;
    let watcher = Watcher::start(site);
    let mut round = Round::new(disturbance);
    let struck = disturbance.strike(site, &mut round).await;
    let whole = match struck {
        Ok(()) => site.whole().await,
        Err(error) => Err(error),
    };
    tokio::time::sleep(CALM).await;
    round.seen(watcher.stop().await);
    // What earlier loads wanted is wanted still.
    site.wanted.extend(load.stop().await?);
    whole?;
    let client = site.client();
    let place = Place { client: &client, namespace: &site.namespace, records: &site.records };
    round.settled(settle(&place, &site.wanted).await?);
    round.measure(&site.control().audit()?, mark)?;
    Ok(round)
}

/// Where the manifests are.
fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

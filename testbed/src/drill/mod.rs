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

mod crowd;
mod disturbance;
mod report;
mod site;
mod subject;
mod watcher;
mod webapps;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

pub use crowd::Crowd;
pub use disturbance::Disturbance;
pub use report::{Report, Round};
pub use site::{Pod, Site, container_figure, production};
pub use subject::{Image, Subject, Work};

use crate::checker::{Rules, check};
use crate::nemesis::HOST;
use crate::nemesis::load::{Load, Stream};
use crate::nemesis::settle::{Place, settle};
use crate::progress::Progress;
use watcher::Watcher;
use webapps::Changes;

/// How long the load runs undisturbed before and after.
const CALM: Duration = Duration::from_secs(2);

/// What is to happen.
#[derive(Debug, Clone)]
pub struct Plan {
    /// To whom.
    pub subject: Subject,
    /// Its image, by the name that its Deployment asks for.
    pub image: PathBuf,
    /// Another version. Without one a rolling update replaces all pods by others of the same version.
    pub other: Option<Image>,
    /// What it has to do meanwhile.
    pub work: Work,
    /// Who comes in [`Disturbance::Crowd`].
    pub crowd: Option<Crowd>,
    /// In this order.
    pub disturbances: Vec<Disturbance>,
    /// Changes a second. Default 25.
    pub rate: u32,
    /// How many widgets are changed in turn. Default 60.
    pub objects: u32,
    /// Decides on everything that is random here.
    pub seed: u64,
}

impl Plan {
    /// The host, out of this archive. Nothing happens yet.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            subject: Subject::host(),
            image: image.into(),
            other: None,
            work: Work::Widgets,
            crowd: None,
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
        self.other = Some(Image { archive: archive.into(), name: name.into() });
        self
    }
}

/// Runs a plan on a cluster of its own with two nodes, and judges it.
///
/// # Errors
/// If the cluster or the deployment does not start. Broken promises are no errors; the report holds them.
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
    if plan.subject.is_host() {
        report.problems.extend(site.warnings().await?);
    }
    for (number, disturbance) in plan.disturbances.iter().enumerate() {
        progress.step(number as u64, plan.disturbances.len() as u64);
        match Box::pin(round(&mut site, plan, *disturbance, number as u64)).await {
            Ok(round) => report.rounds.push(round),
            // The others are worth having all the same, if there is still something to disturb.
            Err(error) => {
                report.problems.push(format!("{disturbance}: {error:#}"));
                if site.whole().await.is_err() {
                    break;
                }
            }
        }
    }
    if !plan.subject.is_host() {
        return Ok(report);
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
    site.spread().await?;
    let mark = site.control().audit()?.mark()?;
    let load = Burden::start(site, plan, number);
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
    load.stop(site).await?;
    whole?;
    if matches!(plan.work, Work::Widgets) {
        let client = site.client();
        let place = Place { client: &client, namespace: &site.namespace, records: &site.records };
        round.settled(settle(&place, &site.wanted).await?);
    }
    round.measure(&site.control().audit()?, mark, &plan.subject, &plan.work, &site.namespace)?;
    Ok(round)
}

/// The load of one round.
enum Burden {
    Widgets(Load),
    WebApps(Changes),
}

impl Burden {
    fn start(site: &Site, plan: &Plan, number: u64) -> Self {
        match &plan.work {
            Work::Widgets => {
                let stream = Stream { rate: plan.rate, objects: plan.objects, seed: plan.seed + number };
                Self::Widgets(Load::start(site.client(), &site.namespace, stream))
            }
            Work::WebApps(namespace) => {
                Self::WebApps(Changes::start(site.client(), namespace.clone(), plan.rate))
            }
        }
    }

    async fn stop(self, site: &mut Site) -> Result<()> {
        match self {
            // What earlier loads wanted is wanted still.
            Self::Widgets(load) => site.wanted.extend(load.stop().await?),
            Self::WebApps(changes) => changes.stop().await,
        }
        Ok(())
    }
}

/// Where the manifests are.
fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

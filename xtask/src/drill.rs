//! `cargo xtask test --nodes`: the host's image on real nodes, and everything that production does to it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use windlass_testbed::drill::{self, Disturbance, Plan, run};
use windlass_testbed::nodes::Cluster;

use crate::bench::{Stamp, deployed};
use crate::image::Image;
use crate::nemesis::Shown;
use crate::root;
use crate::steps::output;

/// What the deployment has to carry within the memory that it ships with, and how many objects of all of them.
const PLUGINS: u16 = 50;
const OBJECTS: usize = 10_000;

/// How to go about it.
#[derive(clap::Args)]
pub(crate) struct Drill {
    /// With --nodes: an image of the host as an OCI archive, instead of one that is built here for release.
    #[arg(long, value_name = "FILE", requires = "nodes")]
    image: Option<PathBuf>,
    /// With --nodes: the archive of another version, which a rolling update brings and takes back. Default: the same version again, or
    /// with --previous one that is built here.
    #[arg(long, value_name = "FILE", requires_all = ["nodes", "other_name"])]
    other: Option<PathBuf>,
    /// With --nodes: builds the host of this commit too, for the rolling update. Default without --image: the commit before this tree.
    #[arg(long, value_name = "REVISION", requires = "nodes", conflicts_with = "other")]
    previous: Option<String>,
    /// The name of the image in --other.
    #[arg(long, value_name = "NAME", requires = "other")]
    other_name: Option<String>,
    /// With --nodes: only these disturbances, in this order. Default: all of them.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', requires = "nodes")]
    only: Vec<Disturbance>,
    /// With --nodes: a component of deploy/ on top of the production overlay; may be given several times.
    #[arg(long, value_name = "NAME", requires = "nodes")]
    component: Vec<String>,
}

impl Drill {
    pub(crate) fn run(self) -> Result<()> {
        Cluster::possible().context("this machine allows no nodes")?;
        let only = |disturbance| self.only.is_empty() || self.only.contains(&disturbance);
        let earlier = self.image.is_none() && self.other.is_none() && only(Disturbance::RollingUpdate);
        let previous = self.previous.or_else(|| earlier.then(before_this_tree));
        let mut other = self.other.zip(self.other_name);
        if let Some(revision) = previous {
            other = Some(Image::of_a_commit(&revision)?);
        }
        let image = match self.image {
            Some(image) => image,
            None => Image::of_this_tree()?,
        };
        let mut plan = Plan::new(image);
        plan.subject.components = self.component;
        plan.other = other.map(|(archive, name)| drill::Image { archive, name });
        plan.disturbances = if self.only.is_empty() { Disturbance::ALL.to_vec() } else { self.only };
        if plan.disturbances.contains(&Disturbance::Crowd) {
            let stamp = Stamp::build()?;
            let members = (0..PLUGINS).map(|number| stamp.member(number, 1)).collect::<Result<Vec<_>>>()?;
            plan.crowd = Some(deployed(&members, OBJECTS / usize::from(PLUGINS), "crowd")?);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let report = runtime.block_on(Box::pin(run(&plan, &Shown::default())))?;
        let folder = root().join("target/drill");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let file = folder.join("report.json");
        fs::write(&file, serde_json::to_string_pretty(&report)?)?;
        println!("{}\n\n{}", report.summary(), file.display());
        ensure!(report.passed(), "a promise was broken, or the records do not say");
        Ok(())
    }
}

/// The commit that comes before what is in the tree: the last one where something is changed since, the one before it where nothing is.
fn before_this_tree() -> String {
    let changes = output("git", &["status", "--porcelain"], &root()).unwrap_or_default();
    if changes.trim().is_empty() { "HEAD~1".to_owned() } else { "HEAD".to_owned() }
}

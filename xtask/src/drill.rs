//! `cargo xtask test --nodes`: the host's image on real nodes, and everything that production does to it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use windlass_testbed::drill::{self, Disturbance, Plan, run};
use windlass_testbed::nodes::Cluster;

use crate::image::Image;
use crate::nemesis::Shown;
use crate::root;

/// How to go about it.
#[derive(clap::Args)]
pub(crate) struct Drill {
    /// With --nodes: an image of the host as an OCI archive, instead of one that is built here for release.
    #[arg(long, value_name = "FILE", requires = "nodes")]
    image: Option<PathBuf>,
    /// With --nodes: the archive of another version, which a rolling update brings and takes back. Default: the same version again.
    #[arg(long, value_name = "FILE", requires_all = ["nodes", "other_name"])]
    other: Option<PathBuf>,
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
        let image = match self.image {
            Some(image) => image,
            None => Image::of_this_tree()?,
        };
        let mut plan = Plan::new(image);
        plan.subject.components = self.component;
        plan.other = self.other.zip(self.other_name).map(|(archive, name)| drill::Image { archive, name });
        plan.disturbances = if self.only.is_empty() { Disturbance::ALL.to_vec() } else { self.only };
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

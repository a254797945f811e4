//! `cargo xtask image`: the host's image, without a containers engine.
//!
//! | file | what it does |
//! |---|---|
//! | `compile` | a static binary whose bytes do not depend on where it is built |
//! | `packages` | what is linked into it, by cargo's word |
//! | `audit` | that list inside the binary, as `cargo auditable` puts it there |
//! | `bom` | the same list beside the image, as CycloneDX |
//!
//! The archive itself is written by `windlass_testbed::image`, as those of the testbed's nodes are.
//!
//! glibc and not musl: the host gives memory back with `malloc_trim`, which musl does not have, and with musl's allocator
//! threads wait for each other. A static glibc needs nothing from the system to find an address by name
//! (since 2.34 both `files` and `dns` are in it), and a position-independent executable stays one.

mod audit;
mod bom;
mod compile;
mod packages;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::root;
use crate::steps::output;
use compile::Product;
use windlass_testbed::image::{self, ARCHITECTURE, Contents, File};

/// The only platform so far, as Rust names it.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What `deploy/base` asks for, as a container runtime completes the name.
const NAME: &str = concat!("docker.io/library/windlass:", env!("CARGO_PKG_VERSION"));

/// What to put into the image, and where it goes.
#[derive(clap::Args)]
pub(crate) struct Image {
    /// The profile of cargo that the host is built with.
    #[arg(long, default_value = "release", value_name = "PROFILE")]
    profile: String,
    /// A static binary that exists already, instead of one that is built now.
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    binary: Option<PathBuf>,
    /// The host as it was at this commit (`HEAD~1`), instead of this tree's; the default of its name ends with the commit, and it goes to
    /// a folder `earlier` within that of the output, beside this tree's and not in its place.
    #[arg(long, value_name = "REVISION", conflicts_with = "binary")]
    revision: Option<String>,
    /// The image's whole name: what `image:` in a manifest comes to [default: that of deploy/base]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The folder for the archive and the bill of materials.
    #[arg(long, value_name = "FOLDER", default_value = "dist")]
    output: PathBuf,
}

/// What was made.
struct Made {
    /// The archive.
    archive: PathBuf,
    /// The bill of materials.
    bom: PathBuf,
    /// The digest of the image's manifest.
    digest: String,
    /// Bytes of the binary.
    binary_bytes: usize,
}

impl Image {
    /// The host of this tree, built for release and packed into `dist/` under the name that `deploy/base` asks for.
    ///
    /// # Errors
    /// If it does not build.
    pub(crate) fn of_this_tree() -> Result<PathBuf> {
        let product = Product::host(&root());
        let binary = compile::build(&product, "release")?;
        Ok(make(&product, &binary, NAME, &root().join("dist"))?.archive)
    }

    /// The host at a commit, built for release and packed below `target/`; its archive and the name of the image.
    ///
    /// # Errors
    /// If git knows no such commit, or its host does not build.
    pub(crate) fn of_a_commit(revision: &str) -> Result<(PathBuf, String)> {
        let product = Product::at(&root(), revision)?;
        let name = name_at(&product)?;
        let binary = compile::build(&product, "release")?;
        Ok((make(&product, &binary, &name, &root().join("target/earlier-image"))?.archive, name))
    }

    pub(crate) fn run(self) -> Result<()> {
        let (product, usual) = match &self.revision {
            Some(revision) => {
                let product = Product::at(&root(), revision)?;
                let name = name_at(&product)?;
                (product, name)
            }
            None => (Product::host(&root()), NAME.to_owned()),
        };
        let name = self.name.as_ref().unwrap_or(&usual);
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => compile::build(&product, &self.profile)?,
        };
        let mut folder = root().join(&self.output);
        if self.revision.is_some() {
            folder.push("earlier");
        }
        let made = make(&product, &binary, name, &folder)?;
        println!("{}", made.archive.display());
        println!("  {name} {}", made.digest);
        println!("  /windlass, {:.1} MB, static, as 65532:65532", made.binary_bytes as f64 / 1e6);
        println!("{}   what is linked into it", made.bom.display());
        println!();
        println!("on a node:       ctr --namespace k8s.io images import {}", made.archive.display());
        println!(
            "to a registry:   skopeo copy oci-archive:{} docker://<registry>/windlass",
            made.archive.display()
        );
        Ok(())
    }
}

/// What the image of an earlier commit is called.
fn name_at(product: &Product) -> Result<String> {
    let commit = output("git", &["rev-parse", "--short", "HEAD"], &product.root)?;
    Ok(format!("{NAME}-{}", commit.trim()))
}

/// Packs a static binary.
///
/// # Errors
/// If the binary needs anything beside itself, or nobody knows what was linked into it.
fn make(product: &Product, binary: &Path, name: &str, folder: &Path) -> Result<Made> {
    let packages = packages::linked(product)?;
    let bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    compile::check_static(&bytes).with_context(|| binary.display().to_string())?;
    let bytes = audit::with_list(binary, bytes, &packages)?;
    let source = Source::of(&product.root);
    let labels = [
        ("licenses", packages.licence.clone()),
        ("revision", source.revision.unwrap_or_default()),
        ("source", packages.repository.clone()),
        ("title", product.binary.clone()),
        ("version", packages.version.clone()),
    ];
    let contents = Contents {
        name,
        files: &[File { path: &product.binary, bytes: &bytes }],
        command: &["run"],
        labels: labels.into(),
        made_by: "cargo xtask image",
        created: source.date,
    };
    let image = image::write(&contents)?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let stem = format!("{}-{}-linux-{ARCHITECTURE}", product.binary, packages.version);
    let write = |end: &str, bytes: &[u8]| {
        let path = folder.join(format!("{stem}.{end}"));
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        anyhow::Ok(path)
    };
    let bom = bom::json(&product.binary, &bytes, &packages);
    Ok(Made {
        archive: write("oci.tar", &image.archive)?,
        bom: write("cdx.json", format!("{bom:#}\n").as_bytes())?,
        digest: image.digest,
        binary_bytes: bytes.len(),
    })
}

/// Of which commit an image is.
struct Source {
    /// The commit, if nothing in the tree differs from it.
    revision: Option<String>,
    /// What the image says that it was made at: `SOURCE_DATE_EPOCH`, else when the commit was made, else 1970. Never now:
    /// the same source gives the same image.
    date: Timestamp,
}

impl Source {
    fn of(root: &Path) -> Self {
        let git = |arguments: &[&str]| output("git", arguments, root).ok().map(|said| said.trim().to_owned());
        let is_clean = git(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
        let revision = git(&["rev-parse", "HEAD"]).filter(|_| is_clean);
        let said = std::env::var("SOURCE_DATE_EPOCH").ok().or_else(|| git(&["log", "-1", "--format=%ct"]));
        let seconds = said.and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        Self { revision, date: Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH) }
    }
}

//! What is linked into a program: the packages that cargo resolves for it, on its platform and with its features.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::TARGET;
use super::compile::Product;
use crate::steps::output;

/// All of them, ordered by name and version.
#[derive(Debug)]
pub(super) struct Packages {
    pub(super) all: Vec<Package>,
    /// Which of them is the program's own.
    pub(super) root: usize,
    /// The program's version.
    pub(super) version: String,
    /// The program's licence, an SPDX expression.
    pub(super) licence: String,
    /// Where the program's source is.
    pub(super) repository: String,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// An SPDX expression; empty if it names none.
    pub(super) licence: String,
    pub(super) repository: String,
    /// Whether it comes from crates.io, and not from this tree.
    pub(super) is_published: bool,
    /// SHA-256 of the package as it was published.
    pub(super) checksum: Option<String>,
    /// Which of all it uses.
    pub(super) uses: Vec<usize>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<RawPackage>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct RawPackage {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// Asks cargo what is linked into `product`.
///
/// # Errors
/// If cargo does not say, for one because the lock file is out of date.
pub(super) fn linked(product: &Product) -> Result<Packages> {
    let cargo = |arguments: &[&str]| output("cargo", arguments, &product.root);
    // `tree` knows which features the program has by itself; `metadata` says more, but of the whole workspace.
    let tree = cargo(&[
        "tree",
        "--locked",
        "--package",
        &product.package,
        "--target",
        TARGET,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ])?;
    let linked: BTreeSet<(&str, &str)> = tree.lines().filter_map(name_and_version).collect();
    let metadata = cargo(&["metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET])?;
    let Metadata { mut packages, resolve } =
        serde_json::from_str(&metadata).context("what cargo metadata says")?;
    packages.retain(|package| linked.contains(&(&*package.name, &*package.version)));
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    let lock = std::fs::read_to_string(product.root.join("Cargo.lock")).context("read Cargo.lock")?;
    let checksums = checksums(&lock);
    let places: BTreeMap<&str, usize> = packages.iter().enumerate().map(|(i, p)| (&*p.id, i)).collect();
    let nodes: BTreeMap<&str, &Node> = resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
    let uses = |package: &RawPackage| {
        let all = nodes.get(&*package.id).into_iter().flat_map(|node| &node.deps);
        let normal = all.filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        let uses: BTreeSet<usize> = normal.filter_map(|used| places.get(&*used.pkg).copied()).collect();
        uses.into_iter().collect()
    };
    let all = packages.iter().map(|package| Package {
        name: package.name.clone(),
        version: package.version.clone(),
        // As it was written before there were expressions.
        licence: package.license.as_deref().unwrap_or_default().replace('/', " OR "),
        repository: package.repository.clone().unwrap_or_default(),
        is_published: package.source.is_some(),
        checksum: checksums.get(&(&*package.name, &*package.version)).map(|sum| (*sum).to_owned()),
        uses: uses(package),
    });
    let all: Vec<_> = all.collect();
    let root = all
        .iter()
        .position(|package| package.name == product.package)
        .context("the program is not in its own tree")?;
    let Package { version, licence, repository, .. } = &all[root];
    let (version, licence, repository) = (version.clone(), licence.clone(), repository.clone());
    Ok(Packages { all, root, version, licence, repository })
}

/// `serde v1.0.0 (proc-macro)`
fn name_and_version(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split(' ');
    Some((words.next()?, words.next()?.strip_prefix('v')?))
}

/// The checksums in a lock file, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let blocks = lock.split("[[package]]");
    let entries = blocks.filter_map(|block| {
        Some(((entry(block, "name")?, entry(block, "version")?), entry(block, "checksum")?))
    });
    entries.collect()
}

/// The text of an entry in a block of a lock file.
fn entry<'a>(block: &'a str, name: &str) -> Option<&'a str> {
    block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_has_the_checksums_of_what_was_published() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry\"\nchecksum = \"ab\"\n\
                    \n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\ndependencies = [\n \"a\",\n]\n";
        assert_eq!(checksums(lock), BTreeMap::from([(("a", "1.0.0"), "ab")]));
    }

    #[test]
    fn a_line_of_the_tree_names_a_package() {
        assert_eq!(name_and_version("serde v1.0.2 (proc-macro) (*)"), Some(("serde", "1.0.2")));
        assert_eq!(name_and_version(""), None);
    }
}

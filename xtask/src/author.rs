//! `cargo xtask author`: the way of somebody who has never seen this tree, as docs/packages.md tells it.
//!
//! The page is the script: a block with a file's name behind its language is written, a block marked `sh` is run.
//! The cluster is ours, with everything on that production has: the fence, three replicas, signatures enforced.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use minisign::KeyPair;
use tokio::process::Command;
use windlass_testbed::{Binaries, Options, progress};

use crate::demo::Demo;
use crate::{build, root};

const PAGE: &str = "docs/packages.md";
/// How long one block may take: a first build fetches and compiles the SDK.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the cluster says in the end.
const GREETED: &str = "Hello, world!";

/// One block of the page that is to be carried out.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    /// A file with its text.
    File(String, String),
    /// Commands.
    Run(String),
}

pub(crate) fn run() -> Result<()> {
    let (host, command) = (build::host(false)?, build::kubectl_windlass()?);
    let kubectl = Binaries::locate_or_build(&*progress::detect())?.kubectl();
    let page = fs::read_to_string(root().join(PAGE)).with_context(|| format!("read {PAGE}"))?;
    let blocks = blocks(&page);
    let place = Place::new(&kubectl, &command)?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    runtime.block_on(walk(&place, host, &blocks))
}

async fn walk(place: &Place, host: PathBuf, blocks: &[Block]) -> Result<()> {
    let demo = Demo::start(None, host, Options::default()).await?;
    let production =
        demo.control.manifests("windlass-system", &["fence", "flowschema", "signatures"]).await?;
    demo.control.apply(&production).await?;
    let keys = format!("--plugin-keys={}", place.folder.path().join("release.pub").display());
    let mut demo = demo.with_flags(&["--log=info", "--plugin-signatures=enforce", &keys]);
    demo.replicas(3).await?;

    let kubeconfig = demo.control.kubeconfig_path().to_owned();
    let mut here = place.folder.path().to_owned();
    let mut said = String::new();
    let began = Instant::now();
    for block in blocks {
        match block {
            Block::File(name, text) => {
                let path = here.join(name);
                fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
                fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            }
            Block::Run(script) => {
                let began = Instant::now();
                for line in script.lines() {
                    println!("$ {line}");
                }
                said = place.run(script, &mut here, &kubeconfig).await?;
                println!("{said}\n  {:.1} s\n", began.elapsed().as_secs_f64());
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    ensure!(said.trim().ends_with(GREETED), "the page ends with {said:?} and not with {GREETED:?}");
    println!("from an empty folder to a plugin that reconciles: {took:.1} s");
    Ok(())
}

/// A folder outside of the tree, and what somebody there has on the path.
struct Place {
    folder: tempfile::TempDir,
    programs: tempfile::TempDir,
}

impl Place {
    fn new(kubectl: &Path, command: &Path) -> Result<Self> {
        let place = Self { folder: tempfile::tempdir()?, programs: tempfile::tempdir()? };
        // The checkout that the page begins with.
        symlink(root(), place.folder.path().join("windlass")).context("link the tree")?;
        symlink(kubectl, place.programs.path().join("kubectl")).context("link kubectl")?;
        symlink(command, place.programs.path().join("kubectl-windlass")).context("link kubectl-windlass")?;
        let pair = KeyPair::generate_unencrypted_keypair().context("make a key")?;
        let (secret, public) = (pair.sk.to_box(None)?.into_string(), pair.pk.to_box()?.into_string());
        fs::write(place.folder.path().join("release.key"), secret).context("write the secret key")?;
        fs::write(place.folder.path().join("release.pub"), public).context("write the public key")?;
        Ok(place)
    }

    /// Runs commands where the last ones ended, and gives back what they printed.
    async fn run(&self, script: &str, here: &mut PathBuf, kubeconfig: &Path) -> Result<String> {
        let ended_in = self.programs.path().join("here");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(self.programs.path().to_owned()).chain(std::env::split_paths(&path));
        let mut command = Command::new("sh");
        command.arg("-ec").arg(format!("{script}\npwd > {}", ended_in.display()));
        command.current_dir(&*here).env("KUBECONFIG", kubeconfig).env("PATH", std::env::join_paths(paths)?);
        let ended = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output());
        let ended = ended.await.with_context(|| format!("not within {PATIENCE:?}: {script}"))??;
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        let also = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(ended.status.success(), "{script}\nended with {}:\n{said}{also}", ended.status);
        *here = fs::read_to_string(&ended_in)?.trim().into();
        Ok(said)
    }
}

/// What the page says is to be done, in its order.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(marks) = line.strip_prefix("```") else { continue };
        let text: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let text = text.join("\n") + "\n";
        match marks.split_once(' ') {
            Some((_, name)) => blocks.push(Block::File(name.to_owned(), text)),
            None if marks == "sh" => blocks.push(Block::Run(text)),
            None => {}
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_files_and_commands() {
        let page = "# A\n```toml Cargo.toml\na = 1\n```\n```console\n$ no\n```\n\n```sh\nls\npwd\n```\n";
        let expected =
            [Block::File("Cargo.toml".to_owned(), "a = 1\n".to_owned()), Block::Run("ls\npwd\n".to_owned())];
        assert_eq!(blocks(page), expected);
    }

    #[test]
    fn the_page_has_what_is_to_be_walked() {
        let page = fs::read_to_string(root().join(PAGE)).expect("it is there");
        let blocks = blocks(&page);
        for command in ["check", "rbac", "package"] {
            let said = format!("kubectl windlass {command}");
            assert!(blocks.iter().any(|b| matches!(b, Block::Run(text) if text.contains(&said))), "{said}");
        }
        for file in ["Cargo.toml", "src/lib.rs", "crd.yaml"] {
            assert!(blocks.iter().any(|b| matches!(b, Block::File(name, _) if name == file)), "{file}");
        }
    }
}

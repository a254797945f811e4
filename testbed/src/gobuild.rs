//! Programs that are built from a Go module of this tree, once, into a cache outside the work tree.
//!
//! The cache is keyed by everything that goes into the programs, so it is never wrong and never asked to be cleared.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::progress::Progress;

/// What to do about it when nothing can be built; one sentence, because it is all that a newcomer reads.
const WITHOUT_GO: &str = "the control plane is built with Go 1.26 or newer, which was not found: install it, or let KUBEBUILDER_ASSETS \
     name a directory with etcd, kube-apiserver, kube-controller-manager and kubectl, or use a cluster of yours with --kubeconfig";

/// How the name of a directory begins that a build writes into.
const SCRATCH: &str = ".build-";

/// The oldest Go that builds the modules, as their `go.mod` says.
const OLDEST_GO: (u32, u32) = (1, 26);

/// A Go module beside this crate. What it builds is kept under the same name.
pub(crate) struct Module {
    pub(crate) name: &'static str,
    /// One a folder of `cmd`.
    pub(crate) programs: &'static [&'static str],
    /// What a progress bar says, and a module whose version it says: `("etcd", "go.etcd.io/etcd/server/v3 ")`.
    pub(crate) label: (&'static str, &'static [(&'static str, &'static str)]),
}

impl Module {
    fn directory(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.name)
    }

    /// The directory with all programs, which are built if they are not there.
    ///
    /// # Errors
    /// If there is no Go, or the build fails (with the end of its output).
    pub(crate) fn locate_or_build(&self, progress: &dyn Progress) -> Result<PathBuf> {
        Build::plan(self, &self.directory(), &cache_directory()?)?.run(progress)
    }

    fn complete(&self, directory: &Path) -> bool {
        self.programs.iter().all(|program| directory.join(program).is_file())
    }
}

/// One build: what goes in, and the directory that its hash names.
struct Build<'a> {
    module: &'a Module,
    source: PathBuf,
    target: PathBuf,
    /// Kubernetes' version, without the v.
    kubernetes: String,
    label: String,
}

impl<'a> Build<'a> {
    fn plan(module: &'a Module, source: &Path, cache: &Path) -> Result<Self> {
        let go = go_version(source)?;
        let go_mod = fs::read_to_string(source.join("go.mod"))
            .with_context(|| format!("the Go module {} is not readable", module.name))?;
        let kubernetes = pinned(&go_mod, "k8s.io/kubernetes ")?;
        let mut hash = Sha256::new();
        for file in inputs(source)? {
            let content = fs::read(&file).with_context(|| format!("{} is not readable", file.display()))?;
            hash.update(file.strip_prefix(source).unwrap_or(&file).as_os_str().as_encoded_bytes());
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(&content);
        }
        hash.update(flags(&kubernetes).join(" "));
        hash.update(go);
        let name: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let (what, versions) = module.label;
        let versions: Vec<_> = versions
            .iter()
            .map(|(program, module)| Ok(format!("{program} {}", pinned(&go_mod, module)?)))
            .collect::<Result<_>>()?;
        let label = format!("{what}: {}", versions.join(", "));
        let target = cache.join(module.name).join(name);
        Ok(Self { module, source: source.to_owned(), target, kubernetes, label })
    }

    /// Builds what is not there. The lock is held while looking and building, so a second process finds the first one's work.
    fn run(&self, progress: &dyn Progress) -> Result<PathBuf> {
        if self.module.complete(&self.target) {
            return Ok(self.target.clone());
        }
        fs::create_dir_all(&self.target)
            .with_context(|| format!("cannot make the cache {}", self.target.display()))?;
        let lock = File::create(self.target.join(".lock")).context("cannot make the cache's lock")?;
        lock.lock().context("cannot take the cache's lock")?;
        if !self.module.complete(&self.target) {
            progress.begin(&self.label, "once; kept in the cache");
            let built = self.build(progress);
            progress.finish(built.is_ok());
            built?;
        }
        Ok(self.target.clone())
    }

    /// Builds into a directory beside the result and moves each program into place, so that a half-written one is never found.
    fn build(&self, progress: &dyn Progress) -> Result<()> {
        self.sweep();
        let scratch = tempfile::Builder::new()
            .prefix(SCRATCH)
            .tempdir_in(&self.target)
            .context("cannot make a scratch directory")?;
        let total = self.count_packages().unwrap_or(0);
        let mut child = self
            .go("build")
            .args(["-v", "-o"])
            .arg(format!("{}/", scratch.path().display()))
            .args(flags(&self.kubernetes))
            .args(self.packages())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("go build did not start")?;
        let stderr = child.stderr.take().expect("standard error was piped two lines above");
        let tail = follow(BufReader::new(stderr), total, progress);
        let status = child.wait().context("go build was lost")?;
        ensure!(
            status.success(),
            "go build of testbed/{} failed ({status}):\n{}",
            self.module.name,
            tail.join("\n")
        );
        for program in self.module.programs {
            fs::rename(scratch.path().join(program), self.target.join(program))
                .with_context(|| format!("cannot keep {program}"))?;
        }
        Ok(())
    }

    /// Removes what a build that was killed has left. The lock is ours, so no build that runs is meant.
    fn sweep(&self) {
        let entries = fs::read_dir(&self.target).into_iter().flatten().flatten();
        for entry in
            entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(SCRATCH.as_bytes()))
        {
            // What cannot be removed is only in the way of disk space.
            drop(fs::remove_dir_all(entry.path()));
        }
    }

    /// How many packages the programs are made of, which is how many lines `go build -v` writes when none is cached.
    fn count_packages(&self) -> Result<u64> {
        let output = self.go("list").arg("-deps").args(self.packages()).stderr(Stdio::null()).output()?;
        ensure!(output.status.success(), "go list failed");
        Ok(output.stdout.iter().filter(|byte| **byte == b'\n').count() as u64)
    }

    fn packages(&self) -> impl Iterator<Item = String> {
        self.module.programs.iter().map(|program| format!("./cmd/{program}"))
    }

    fn go(&self, subcommand: &str) -> Command {
        let mut command = go(&self.source);
        command.arg(subcommand);
        command
    }
}

/// The version of a module that `go.mod` pins, without the v.
fn pinned(go_mod: &str, module: &str) -> Result<String> {
    go_mod
        .lines()
        .filter_map(|line| line.trim().strip_prefix(module)?.trim().strip_prefix('v'))
        .find_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .with_context(|| format!("go.mod names no version of {module}"))
}

/// Kubernetes says its version only when the linker told it; without, clients take it for v0.0.0.
fn flags(kubernetes: &str) -> Vec<String> {
    let mut numbers = kubernetes.split('.');
    let (major, minor) = (numbers.next().unwrap_or("1"), numbers.next().unwrap_or("0"));
    let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    let version = format!("v{kubernetes}");
    let ldflags =
        ["-s -w".to_owned(), set("gitVersion", &version), set("gitMajor", major), set("gitMinor", minor)]
            .join(" ");
    vec!["-trimpath".to_owned(), "-ldflags".to_owned(), ldflags]
}

/// Counts the packages that go by until the build's output ends; gives back the last lines, which hold the error if there is one.
fn follow(output: impl BufRead + Send + 'static, total: u64, progress: &dyn Progress) -> Vec<String> {
    let (lines, seen) = mpsc::sync_channel(64);
    let reader = std::thread::spawn(move || {
        output.lines().map_while(std::io::Result::ok).try_for_each(|line| lines.send(line))
    });
    let (mut done, mut tail) = (0, Vec::new());
    loop {
        match seen.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                // Downloads are announced too, as `go: downloading …`; they are no packages.
                done += u64::from(!line.starts_with("go: "));
                tail.push(line);
                let surplus = tail.len().saturating_sub(30);
                tail.drain(..surplus);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.step(done, total.max(done));
    }
    // The reader ends with the output that it reads; all that is left of it is to be joined.
    drop(reader.join());
    tail
}

/// `go` in the module, with everything in the environment that would change the programs taken away.
fn go(module: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env_remove("GOFLAGS")
        .stdin(Stdio::null());
    for target in ["GOOS", "GOARCH"] {
        command.env_remove(target);
    }
    command
}

/// What `go version` says, which names the platform too.
fn go_version(module: &Path) -> Result<String> {
    let Ok(output) = go(module).arg("version").output() else { bail!(WITHOUT_GO) };
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match parse_go_version(&text) {
        Some(found) if found >= OLDEST_GO => Ok(text),
        Some((major, minor)) => bail!("Go {major}.{minor} is too old; {WITHOUT_GO}"),
        None => bail!(WITHOUT_GO),
    }
}

/// `go version go1.26.8 linux/amd64` -> (1, 26).
fn parse_go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(2)?.strip_prefix("go")?.split('.');
    let minor = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    Some((numbers.next()?.parse().ok()?, minor(numbers.next()?)?))
}

/// Every file that the programs are made of, in a fixed order.
fn inputs(module: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![module.join("go.mod"), module.join("go.sum")];
    let mut directories = vec![module.join("cmd")];
    while let Some(directory) = directories.pop() {
        for entry in
            fs::read_dir(&directory).with_context(|| format!("{} is not readable", directory.display()))?
        {
            let path = entry?.path();
            if path.is_dir() { directories.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// `$WINDLASS_CACHE_DIR`, `$XDG_CACHE_HOME/windlass` or `~/.cache/windlass`, the first that is set.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("WINDLASS_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("windlass")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/windlass")))
        .context("no place for a cache: set WINDLASS_CACHE_DIR, XDG_CACHE_HOME or HOME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_versions_are_read_from_the_module() {
        let go_mod = "require (\n\tk8s.io/kubernetes v1.37.2\n)\nreplace k8s.io/api => k8s.io/api v0.37.2\n";
        let version = pinned(go_mod, "k8s.io/kubernetes ").unwrap();
        assert_eq!(version, "1.37.2");
        assert!(flags(&version)[2].contains("gitVersion=v1.37.2"));
        assert!(pinned(go_mod, "go.etcd.io/etcd ").is_err());
    }

    #[test]
    fn any_spelling_of_a_go_version_is_understood() {
        assert_eq!(parse_go_version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(parse_go_version("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(parse_go_version("go version devel linux/amd64"), None);
        assert_eq!(parse_go_version(""), None);
    }

    #[test]
    fn another_source_file_means_another_directory() {
        let (module, cache) = (tempfile::tempdir().unwrap(), Path::new("/cache"));
        let programs = Module { name: "some", programs: &["main"], label: ("some", &[]) };
        fs::create_dir(module.path().join("cmd")).unwrap();
        fs::write(module.path().join("go.mod"), "require k8s.io/kubernetes v1.37.2\n").unwrap();
        fs::write(module.path().join("go.sum"), "").unwrap();
        let Ok(before) = Build::plan(&programs, module.path(), cache) else {
            return; /* no Go here: nothing is built either */
        };
        fs::write(module.path().join("cmd/main.go"), "package main").unwrap();
        let after = Build::plan(&programs, module.path(), cache).unwrap();
        assert_ne!(before.target, after.target);
        assert!(after.target.starts_with("/cache/some"));
    }

    #[derive(Default)]
    struct Recorded(std::sync::Mutex<Vec<(u64, u64)>>);

    impl Progress for Recorded {
        fn begin(&self, _label: &str, _note: &str) {}
        fn step(&self, done: u64, total: u64) {
            self.0.lock().unwrap().push((done, total));
        }
        fn finish(&self, _success: bool) {}
    }

    #[test]
    fn packages_are_counted_and_downloads_are_not() {
        let progress = Recorded::default();
        let output = "go: downloading k8s.io/api v0.37.2\nk8s.io/api\nk8s.io/apimachinery\n";
        let tail = follow(output.as_bytes(), 5, &progress);
        assert_eq!(tail.len(), 3);
        assert_eq!(progress.0.lock().unwrap().last(), Some(&(2, 5)));
    }

    #[test]
    fn only_the_end_of_a_long_output_is_kept() {
        let output: String = (0..100).map(|number| format!("package/{number}\n")).collect();
        let tail = follow(std::io::Cursor::new(output), 0, &crate::progress::Silent);
        assert_eq!((tail.len(), tail[29].as_str()), (30, "package/99"));
    }
}

//! Components for tests: the workspace's own plugins, built when a test asks for one.
//!
//! Fixtures are never committed as binaries, so the first test that wants one builds it, into a target directory of its own: the
//! usual one is locked by the `cargo test` that we run under.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

const TARGET: &str = "wasm32-wasip2";

/// What would change the components, or where they land, if a test run passed it on to its builds.
const NOT_PASSED_ON: [&str; 8] = [
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
];

type Name = (String, Option<String>);
type Built = Arc<OnceLock<Result<PathBuf, String>>>;

/// Builds a package's component, or one of its examples, and gives back the path of the `.wasm`.
///
/// Each is built once a process; cargo's own freshness check makes later processes quick. Adds the compile target by rustup when it
/// is missing. Blocks, for about a minute when nothing is built yet.
///
/// # Errors
/// If the build fails (with the compiler's output), or makes no component; everybody who asks for it gets the same message.
pub fn component(package: &str, example: Option<&str>) -> Result<PathBuf> {
    static BUILT: OnceLock<Mutex<HashMap<Name, Built>>> = OnceLock::new();
    let all = BUILT.get_or_init(Mutex::default);
    let name = (package.to_owned(), example.map(str::to_owned));
    let one = Arc::clone(all.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default());
    one.get_or_init(|| build(package, example).map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|message| anyhow::anyhow!(message))
}

fn build(package: &str, example: Option<&str>) -> Result<PathBuf> {
    let root = workspace();
    let target_directory = root.join("target/components");
    fs::create_dir_all(&target_directory).context("cannot make the components' target directory")?;
    let lock = File::create(target_directory.join(".lock")).context("cannot make the components' lock")?;
    lock.lock().context("cannot take the components' lock")?;
    ensure_target(&root)?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&root).args(["build", "--profile", "component", "--target", TARGET, "--target-dir"]);
    command.arg(&target_directory).args(["-p", package, "--message-format", "json-render-diagnostics"]);
    command.args(example.into_iter().flat_map(|example| ["--example", example]));
    for variable in NOT_PASSED_ON {
        command.env_remove(variable);
    }
    let output = command.stdin(Stdio::null()).output().context("cargo did not start")?;
    let what = example.map_or_else(|| package.to_owned(), |example| format!("{package}, example {example}"));
    ensure!(output.status.success(), "{what} does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    let artifacts = String::from_utf8(output.stdout).context("cargo's messages are no text")?;
    let wanted = example.unwrap_or(package);
    find(&artifacts, wanted, example.is_some())
        .with_context(|| format!("{what} built, but made no component"))
}

/// The parts of cargo's messages that matter here.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    target: Target,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Finds the file that cargo says it made. A library's name has underscores where the package's may have hyphens.
fn find(messages: &str, wanted: &str, example: bool) -> Option<PathBuf> {
    let wasm = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wasm");
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.target.name.replace('_', "-") == wanted.replace('_', "-"))
        .filter(|message| message.target.kind.iter().any(|kind| kind == "example") == example)
        .find_map(|message| message.filenames.into_iter().find(wasm))
}

/// Adds the compile target if the toolchain lacks it and rustup can.
fn ensure_target(root: &Path) -> Result<()> {
    let rustc = Command::new("rustc")
        .current_dir(root)
        .args(["--print", "sysroot"])
        .output()
        .context("rustc did not start")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&rustc.stdout).trim());
    if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        return Ok(());
    }
    match Command::new("rustup").current_dir(root).args(["target", "add", TARGET]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!("rustup target add {TARGET}: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(_) => bail!("the Rust toolchain lacks the target {TARGET}, and there is no rustup to add it"),
    }
}

fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = concat!(
        r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"serde"},"filenames":["/t/libserde.rlib"]}"#,
        "\n",
        r#"{"reason":"compiler-artifact","target":{"kind":["cdylib","rlib"],"name":"web_app"},"filenames":["/t/libweb_app.rlib","/t/web_app.wasm"]}"#,
        "\n",
        r#"{"reason":"compiler-artifact","target":{"kind":["example"],"name":"spins"},"filenames":["/t/examples/spins.wasm"]}"#,
        "\n",
        r#"{"reason":"build-finished","success":true}"#,
    );

    #[test]
    fn the_component_is_the_file_that_cargo_names() {
        assert_eq!(find(MESSAGES, "web-app", false), Some("/t/web_app.wasm".into()));
        assert_eq!(find(MESSAGES, "spins", true), Some("/t/examples/spins.wasm".into()));
    }

    #[test]
    fn an_example_is_not_mistaken_for_a_package() {
        assert_eq!(find(MESSAGES, "spins", false), None);
        assert_eq!(find(MESSAGES, "serde", false), None);
    }

    #[test]
    fn a_package_that_is_not_there_is_an_error_that_says_so() {
        let message = component("windlass-no-such-package", None).unwrap_err().to_string();
        assert!(message.contains("windlass-no-such-package"), "{message}");
    }
}

//! A plugin's crate, built as its author would build it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// What components are compiled for.
const TARGET: &str = "wasm32-wasip2";

/// A crate that makes a component.
#[derive(Debug)]
pub(crate) struct Crate {
    folder: PathBuf,
    /// The package's name.
    name: String,
    /// The name of the library in it that becomes the component.
    library: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    #[serde(default)]
    crate_types: Vec<String>,
}

/// The parts of cargo's messages that matter here.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    target: Option<Target>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

impl Crate {
    /// Asks cargo about the crate in `folder`.
    ///
    /// # Errors
    /// When there is none, or it makes no component; with what to change.
    pub(crate) fn find(folder: &Path) -> Result<Self> {
        let manifest = folder.join("Cargo.toml");
        ensure!(
            manifest.is_file(),
            "{} is not the folder of a crate: there is no Cargo.toml; name the plugin's crate, or a component (.wasm)",
            folder.display()
        );
        let asked = cargo(folder)
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .output()
            .context("start cargo; it comes with Rust, https://rustup.rs")?;
        ensure!(
            asked.status.success(),
            "cargo metadata in {}: {}",
            folder.display(),
            String::from_utf8_lossy(&asked.stderr).trim()
        );
        let metadata = serde_json::from_slice(&asked.stdout).context("read what cargo metadata says")?;
        let manifest = manifest.canonicalize().with_context(|| manifest.display().to_string())?;
        Self::among(metadata, folder, &manifest)
    }

    fn among(metadata: Metadata, folder: &Path, manifest: &Path) -> Result<Self> {
        let names: Vec<_> = metadata.packages.iter().map(|package| package.name.clone()).collect();
        let is_it = |package: &Package| package.manifest_path == manifest;
        let Some(package) = metadata.packages.into_iter().find(is_it) else {
            bail!(
                "{} is a workspace and no crate: name the folder of one of {}",
                folder.display(),
                names.join(", ")
            );
        };
        let is_component = |target: &Target| target.crate_types.iter().any(|kind| kind == "cdylib");
        let Some(target) = package.targets.into_iter().find(is_component) else {
            bail!(
                "the crate {} makes no component: put this into its Cargo.toml:\n\n  [lib]\n  crate-type = [\"cdylib\", \"rlib\"]",
                package.name
            );
        };
        Ok(Self { folder: folder.to_owned(), name: package.name, library: target.name })
    }

    /// Builds it, with cargo's own words on standard error, and says where the component is. Blocks for
    /// as long as the compiler takes.
    ///
    /// # Errors
    /// When the target is missing, or it does not build.
    pub(crate) fn build(&self, profile: &str) -> Result<PathBuf> {
        self.has_target()?;
        let mut command = cargo(&self.folder);
        command.args(["build", "--profile", profile, "--target", TARGET, "--package", &self.name, "--lib"]);
        command.args(["--message-format", "json-render-diagnostics"]);
        let built = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("start cargo")?;
        ensure!(built.status.success(), "{} does not build: the compiler's words are above", self.name);
        let messages = String::from_utf8(built.stdout).context("cargo's messages are no text")?;
        component(&messages, &self.library)
            .with_context(|| format!("{} built, but made no component", self.name))
    }

    fn has_target(&self) -> Result<()> {
        let asked = Command::new("rustc").current_dir(&self.folder).args(["--print", "sysroot"]).output();
        let asked = asked.context("start rustc; it comes with Rust, https://rustup.rs")?;
        let sysroot = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
        ensure!(
            sysroot.join("lib/rustlib").join(TARGET).is_dir(),
            "this Rust toolchain cannot build components: add the target with\n\n  rustup target add {TARGET}"
        );
        Ok(())
    }
}

fn cargo(folder: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(folder);
    command
}

/// The file that cargo says it made of the library.
fn component(messages: &str, library: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.target.as_ref().is_some_and(|target| target.name == library))
        .flat_map(|message| message.filenames)
        .find(|path| path.extension().is_some_and(|extension| extension == "wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{"packages":[
        {"name":"plain","manifest_path":"/w/plain/Cargo.toml","targets":[{"name":"plain","crate_types":["lib"]}]},
        {"name":"my-plugin","manifest_path":"/w/my-plugin/Cargo.toml","targets":[
            {"name":"tests","crate_types":["bin"]},{"name":"my_plugin","crate_types":["cdylib","rlib"]}]}]}"#;

    fn found(manifest: &str) -> Result<Crate> {
        let metadata = serde_json::from_str(METADATA).expect("JSON");
        Crate::among(metadata, Path::new("/w"), Path::new(manifest))
    }

    #[test]
    fn a_crate_that_is_no_plugin_is_told_what_to_change() {
        let found_one = found("/w/my-plugin/Cargo.toml").expect("a plugin");
        assert_eq!((&*found_one.name, &*found_one.library), ("my-plugin", "my_plugin"));
        let error = found("/w/plain/Cargo.toml").expect_err("no cdylib").to_string();
        assert!(error.contains("crate-type = [\"cdylib\""), "{error}");
        let error = found("/w/Cargo.toml").expect_err("a workspace").to_string();
        assert!(error.contains("one of plain, my-plugin"), "{error}");
        let error = Crate::find(Path::new("/nowhere")).expect_err("nothing there").to_string();
        assert!(error.contains("no Cargo.toml"), "{error}");
    }

    #[test]
    fn the_component_is_the_file_that_cargo_names() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"serde"},"filenames":["/t/libserde.rlib"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"my_plugin"},"filenames":["/t/libmy_plugin.rlib","/t/my_plugin.wasm"]}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(component(messages, "my_plugin"), Some("/t/my_plugin.wasm".into()));
        assert_eq!(component(messages, "serde"), None);
    }
}

//! `kubectl windlass package | rbac | check`: from a plugin's crate to what is applied to a cluster.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use kubectl_windlass::{Input, Package, Place, Sign, check};
use windlass_core::code::Refusal;
use windlass_core::kind::Gvk;

/// Checks plugins as a Windlass host would, says what rights they need, and packages them.
///
/// Each command takes the folder of a plugin's crate, which is built for wasm32-wasip2, or a component
/// (.wasm) from any language, which is taken as it is.
#[derive(Parser)]
#[command(name = "kubectl windlass", bin_name = "kubectl windlass", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write all that has to be applied for a plugin: ConfigMap, account, exactly the rights it needs, CRDs.
    ///
    /// One YAML file, or with --kustomize a folder. CRDs (crd.yaml, crds/) and settings.yaml beside the plugin
    /// belong to it.
    Package(PackageArgs),
    /// Print the rights that a plugin needs, each with the reason why.
    Rbac(RbacArgs),
    /// Say what a host would say of a plugin, with the same codes, and what to do about it.
    ///
    /// Also takes a package (.yaml). Exit code: 0 a host takes it, 1 a host refuses it, 2 it could not be checked.
    Check(CheckArgs),
}

#[derive(clap::Args)]
struct PackageArgs {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    place: Place,
    /// Where the YAML goes. `-` is standard output. Default: <plugin>.yaml here.
    #[arg(short, long, value_name = "FILE", conflicts_with = "kustomize")]
    output: Option<PathBuf>,
    /// Write a folder for `kubectl apply -k` instead: kustomization.yaml, rbac.yaml, the component, CRDs, settings.
    ///
    /// A kustomization.yaml of your own is left as it is.
    #[arg(long, value_name = "DIR")]
    kustomize: Option<PathBuf>,
    #[command(flatten)]
    sign: Sign,
}

#[derive(clap::Args)]
struct RbacArgs {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    place: Place,
    /// Check as a host with this flag would: plugins may write this kind after all.
    #[arg(long, value_name = "GROUP/VERSION/KIND", value_delimiter = ',')]
    allow_reserved_kind: Vec<Gvk>,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Package(args) => args.run(),
        Command::Rbac(args) => args.run(),
        Command::Check(args) => args.run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

/// A package of the plugin, for its place.
fn package(input: &Input, place: &Place) -> Result<Package> {
    let made = Package::of(input.component()?, input.beside()?);
    let mut package = made.map_err(|error| match error.is::<Refusal>() {
        true => error.context("a host would refuse it, and `kubectl windlass check` says what to do"),
        false => error,
    })?;
    input.teach(&mut package)?;
    package.place = place.clone();
    for note in package.notes() {
        eprintln!("note: {note}");
    }
    Ok(package)
}

impl PackageArgs {
    fn run(self) -> Result<ExitCode> {
        let mut package = package(&self.input, &self.place)?;
        package.signature = self.sign.signature(&package.manifest.name, &package.digest)?;
        if let Some(folder) = &self.kustomize {
            self.folder(&package, folder)?;
        } else {
            self.file(&package)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn file(&self, package: &Package) -> Result<()> {
        let yaml = package.yaml()?;
        let path = self.output.clone().unwrap_or_else(|| format!("{}.yaml", package.manifest.name).into());
        if path == Path::new("-") {
            print!("{yaml}");
            return Ok(());
        }
        fs::write(&path, yaml).with_context(|| format!("write {}", path.display()))?;
        println!("{} -> {}", summary(package), path.display());
        println!("  kubectl apply --server-side -f {}", path.display());
        Ok(())
    }

    fn folder(&self, package: &Package, folder: &Path) -> Result<()> {
        let written = package.write_kustomize(folder)?;
        println!("{} -> {}", summary(package), folder.display());
        for file in &written.files {
            println!("  wrote {}", file.display());
        }
        if written.kept_kustomization {
            println!("  kept {}/kustomization.yaml, which is your own", folder.display());
        }
        println!("  kubectl apply --server-side -k {}", folder.display());
        Ok(())
    }
}

impl RbacArgs {
    fn run(self) -> Result<ExitCode> {
        print!("{}", package(&self.input, &self.place)?.rights_yaml()?);
        Ok(ExitCode::SUCCESS)
    }
}

impl CheckArgs {
    fn run(self) -> Result<ExitCode> {
        let allowed: BTreeSet<Gvk> = self.allow_reserved_kind.into_iter().collect();
        let report = check(&self.input, &self.place, &allowed)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{report}");
        }
        Ok(if report.refused.is_some() { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}

fn summary(package: &Package) -> String {
    let (manifest, digest) = (&package.manifest, package.digest.to_string());
    let kilobytes = package.compressed.len().div_ceil(1000);
    format!("{} {} ({}…, {kilobytes} KB compressed)", manifest.name, manifest.version, &digest[..19])
}

//! What it costs to compile a plugin: time and memory for each way of compiling.
//!
//! `cargo run --release -p windlass-plugin --example compile_cost [-- <component.wasm>...]`.
//! Without components: the shipped example and the one made of Kubernetes' own types. Each measurement is a
//! process of its own under the memory limits that the host sets, so that a peak is a
//! peak and "fits" means what it means there.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use rustix::process::{Resource, Rlimit, setrlimit};
use windlass_core::guests::Tier;
use windlass_core::limits::Limits;
use windlass_plugin::compile_to;

/// Names this program when it measures.
const MEASURE: &str = "measure";
/// What `RLIMIT_DATA` is set to, in MiB; the last one is as good as none.
const LIMITS_MIB: [u64; 7] = [96, 128, 192, 256, 320, 512, 4096];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.as_slice() {
        [measure, tier, mib, component] if measure == MEASURE => measure_one(tier, mib, component),
        components => table(components),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn table(components: &[String]) -> Result<(), Box<dyn Error>> {
    let mut paths: Vec<PathBuf> = components.iter().map(PathBuf::from).collect();
    if paths.is_empty() {
        for package in ["webapp", "windlass-fixtures-typed"] {
            paths.push(windlass_testbed::component(package, None)?);
        }
    }
    println!(
        "component                        bytes  tier       CPU s  peak RSS MiB  artefact bytes  fits into MiB"
    );
    for path in paths {
        for tier in [Tier::Optimised, Tier::Cheap] {
            row(&path, tier)?;
        }
    }
    Ok(())
}

fn row(path: &Path, tier: Tier) -> Result<(), Box<dyn Error>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = std::fs::metadata(path)?.len();
    let (mut fits, mut figures) = (None, String::new());
    for mib in LIMITS_MIB.into_iter().rev() {
        let output = Command::new(std::env::current_exe()?)
            .args([MEASURE, &format!("{tier:?}"), &mib.to_string()])
            .arg(path)
            .output()?;
        if !output.status.success() {
            if figures.is_empty() {
                figures = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            }
            break;
        }
        fits = Some(mib);
        if figures.is_empty() {
            figures = String::from_utf8(output.stdout)?.trim().to_owned();
        }
    }
    let fits = fits.map_or_else(|| "none".to_owned(), |mib| mib.to_string());
    println!("{name:<30} {bytes:>7}  {:<9}  {figures}  {fits:>13}", format!("{tier:?}"));
    Ok(())
}

/// Compiles under a limit and prints what it took.
fn measure_one(tier: &str, mib: &str, component: &str) -> Result<(), Box<dyn Error>> {
    let component = std::fs::read(component)?;
    let most = Some(mib.parse::<u64>()? << 20);
    setrlimit(Resource::Data, Rlimit { current: most, maximum: most })?;
    let tier = if tier == "Cheap" { Tier::Cheap } else { Tier::Optimised };
    let (mut artefact, begun) = (Count(0), Instant::now());
    compile_to(&component, &Limits::default(), tier, &mut artefact)?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{seconds:>7.2}  {:>12}  {:>14}", peak_mib()?, artefact.0);
    Ok(())
}

/// Takes any number of bytes.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The most that was resident at any time.
fn peak_mib() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()? >> 10)
}

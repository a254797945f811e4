//! The two processes without powers, started by the host over standard input: what strangers
//! wrote is run in one and compiled in the other.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use windlass_core::limits::Limits;
use windlass_plugin::{Courtesy, Engine, compile_to};
use windlass_worker::compile::serve_compile;
use windlass_worker::confine::{Confinement, Role};
use windlass_worker::courtesy::step_back;
use windlass_worker::serve::{Serving, serve};

use crate::sandbox::whole;

/// The host's own frames on the stack of a guest, in bytes.
const FRAMES_BYTES: usize = 256 << 10;

/// Flags of `windlass worker`: what the process keeps.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerFlags {
    /// A directory with compiled plugins.
    #[arg(long, value_name = "DIR")]
    readable: Vec<PathBuf>,
    /// Private memory in bytes.
    #[arg(long, value_name = "N")]
    data_bytes: u64,
    /// Calls at once.
    #[arg(long, value_name = "N")]
    lanes: usize,
    /// The largest limits of any plugin, as JSON: they shape the compiled code.
    #[arg(long, value_name = "JSON", value_parser = limits)]
    limits: Limits,
}

/// Flags of `windlass compile`: what the process keeps.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompileFlags {
    /// Private memory in bytes.
    #[arg(long, value_name = "N")]
    data_bytes: u64,
    /// CPU time in seconds.
    #[arg(long, value_name = "N")]
    cpu_seconds: u64,
}

/// Runs plugins until the host has no more use for this process.
pub(crate) fn worker(flags: WorkerFlags) -> ExitCode {
    let serving = Serving {
        confinement: Confinement {
            readable: flags.readable,
            data_bytes: flags.data_bytes,
            cpu: None,
            role: Role::Worker,
        },
        lanes: flags.lanes,
        lane_stack_bytes: flags.limits.stack_bytes + FRAMES_BYTES,
    };
    let courtesy = Courtesy { after: Courtesy::AFTER, step_back };
    ended("worker", serve(&serving, || Engine::new(&flags.limits)?.courteous(courtesy)))
}

/// Compiles one component.
pub(crate) fn compile(flags: &CompileFlags) -> ExitCode {
    let confinement = Confinement {
        readable: Vec::new(),
        data_bytes: flags.data_bytes,
        cpu: Some(Duration::from_secs(flags.cpu_seconds)),
        role: Role::Compile,
    };
    ended(
        "compile",
        serve_compile(&confinement, |component, limits, tier, file| {
            compile_to(component, limits, tier, file)
        }),
    )
}

fn ended<E: std::error::Error>(who: &str, how: Result<(), E>) -> ExitCode {
    let Err(error) = how else {
        return ExitCode::SUCCESS;
    };
    eprintln!("windlass {who}: {}", whole(&error));
    ExitCode::FAILURE
}

fn limits(text: &str) -> Result<Limits, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

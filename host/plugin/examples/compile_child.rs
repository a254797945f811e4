//! Plays `windlass compile` in tests of this crate: the real confinement, the real compiler.

use std::process::ExitCode;
use std::time::Duration;

use windlass_plugin::compile_to;
use windlass_worker::compile::serve_compile;
use windlass_worker::confine::{Confinement, Role};

fn main() -> ExitCode {
    let number = |name: &str| {
        let value = std::env::args().find_map(|arg| arg.strip_prefix(name).map(str::to_owned));
        value.and_then(|value| value.parse().ok())
    };
    let (Some(data_bytes), Some(seconds)) = (number("--data-bytes="), number("--cpu-seconds=")) else {
        eprintln!("started by tests: --data-bytes=<n> --cpu-seconds=<n>");
        return ExitCode::FAILURE;
    };
    let confinement = Confinement {
        readable: Vec::new(),
        data_bytes,
        cpu: Some(Duration::from_secs(seconds)),
        role: Role::Compile,
    };
    match serve_compile(&confinement, |component, limits, tier, file| {
        compile_to(component, limits, tier, file)
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

//! Compilation: bytes -> checked -> compiled -> a file. What the compile child runs; tests run
//! it in their own process.

use std::io::Write;
use std::path::Path;

use windlass_core::code::Refusal;
use windlass_core::guests::{Compile, Tier};
use windlass_core::limits::Limits;

use crate::engine::{EngineError, compiler};
use crate::{artefact, check};

/// Checks and compiles in this process. Strangers' bytes are parsed and compiled here: outside
/// tests that belongs into a process without powers.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompileHere;

/// Checks `component`, compiles it for `tier` and writes the artefact. `limits` are the largest
/// that any plugin may have: they shape the code, and what it may consist of.
///
/// # Errors
/// E110 to E123 from the check, E113, E115 and E152 from the compiler.
pub fn compile_to(component: &[u8], limits: &Limits, tier: Tier, into: impl Write) -> Result<(), Refusal> {
    let engine = compiler(limits, tier).map_err(|e| no_compiler(&e))?;
    let features = engine.get_wasm_features();
    check::check(component, features, &limits.check)?;
    let compiled = wasmtime::component::Component::from_binary(&engine, component)
        .map_err(|e| check::compile_failure(component, features, &e))?;
    artefact::write(&compiled, into)
}

impl Compile for CompileHere {
    fn compile(&self, component: &[u8], limits: &Limits, into: &Path) -> Result<Tier, Refusal> {
        let file = artefact::create(into)?;
        let written = compile_to(component, limits, Tier::Optimised, file);
        if written.is_err() {
            // What is left of it is of no use, and the refusal says more than this could.
            let _ = std::fs::remove_file(into);
        }
        written.map(|()| Tier::Optimised)
    }
}

fn no_compiler(error: &EngineError) -> Refusal {
    let text = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    Refusal::new(windlass_core::code::Code::CompileFailed, format!("{error}{text}"))
}

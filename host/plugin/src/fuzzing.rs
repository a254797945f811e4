//! The check alone, for those who throw random bytes at it.

use std::sync::OnceLock;

use windlass_core::code::Refusal;
use windlass_core::guests::Tier;
use windlass_core::limits::{CheckLimits, Limits};

use crate::check;
use crate::engine::compiler;

/// Checks `component` as it is checked before it is compiled, and does not compile it.
///
/// # Errors
/// E110 to E123. Panics where there is no compiler.
pub fn check_component(component: &[u8]) -> Result<(), Refusal> {
    static FEATURES: OnceLock<wasmtime::wasmparser::WasmFeatures> = OnceLock::new();
    let features = FEATURES.get_or_init(|| {
        compiler(&Limits::default(), Tier::Cheap).expect("this machine compiles").get_wasm_features()
    });
    check::check(component, *features, &CheckLimits::default()).map(drop)
}

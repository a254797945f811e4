//! How hard the compiler tries: what a tier means in the engine's settings.

use wasmtime::{Config, OptLevel, RegallocAlgorithm};
use windlass_core::guests::Tier;

/// Sets what the two tiers differ in. None of it decides whether an artefact can be loaded.
pub(crate) fn apply(config: &mut Config, tier: Tier) {
    match tier {
        Tier::Optimised => {
            config.cranelift_opt_level(OptLevel::Speed);
        }
        Tier::Cheap => {
            config.cranelift_opt_level(OptLevel::None);
            config.cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
        }
    }
}

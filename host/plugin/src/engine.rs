//! The engine: how guests are compiled and what they can never do.
//!
//! One a process. It carries the linker's work and the ticker, so that nothing
//! can run a guest without deadlines. The engine's own file cache is not used.

use std::hash::{Hash as _, Hasher as _};

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::wasmparser::WasmFeatures;
use wasmtime::{Config, Engine, WasmBacktraceDetails};
use windlass_core::guests::Tier;
use windlass_core::limits::Limits;

use crate::bindings::floor::Floor;
use crate::call::Inside;
use crate::courtesy::Courtesy;
use crate::proof::deadlines_hold;
use crate::teardown::Teardown;
use crate::ticker::{Running, Ticker};
use crate::tiers;
use crate::worlds::{Guest, World, world_of};

/// Frames of a guest's stack that are remembered when it traps.
pub(crate) const FRAMES_MAX: usize = 20;

/// Address space of a guest's memory: all that a 32-bit address can name, so that compiled code needs
/// no check of its own for any access. Neither memory nor `RLIMIT_DATA` knows of it.
const RESERVED_BYTES: u64 = 1 << 32;

/// Unmapped bytes after that, for the offset of a field access.
const GUARD_BYTES: u64 = 1 << 20;

/// Why there is no engine: this machine or these limits cannot run guests.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A limit that the engine cannot work with, or a processor that it does not know.
    #[error("configure the engine for plugins")]
    Configure(#[source] wasmtime::Error),
    /// The contract could not be linked: a fault of this build.
    #[error("link the contract")]
    Link(#[source] wasmtime::Error),
    /// Without ticks there are no deadlines.
    #[error("start the epoch ticker")]
    Ticker(#[source] std::io::Error),
    /// Calls that have taken long could not be cleared away.
    #[error("start the teardown thread")]
    Teardown(#[source] std::io::Error),
    /// Deadlines do not end what they should.
    #[error("{0}")]
    Deadline(String),
    /// There is no directory for artefacts.
    #[error("make a directory for compiled components")]
    Scratch(#[source] std::io::Error),
}

/// Runs compiled components and lends ticks.
pub(crate) struct Sandbox {
    engine: Engine,
    linker: Linker<Inside>,
    worlds: &'static [&'static World],
    ticker: Ticker,
    /// What is done with calls that take long; nothing where the threads are somebody else's.
    courteous: Option<(Courtesy, Teardown)>,
}

impl Sandbox {
    /// An engine for guests within `limits` that were built for one of `worlds`.
    pub(crate) fn new(limits: &Limits, worlds: &'static [&'static World]) -> Result<Self, EngineError> {
        let engine = compiler(limits, Tier::Optimised)?;
        let mut linker = Linker::new(&engine);
        for world in worlds {
            (world.offer)(&mut linker).map_err(EngineError::Link)?;
        }
        Floor::add_to_linker::<_, HasSelf<_>>(&mut linker, |inside| inside).map_err(EngineError::Link)?;
        let ticker = Ticker::start(engine.clone()).map_err(EngineError::Ticker)?;
        let running = ticker.run();
        deadlines_hold(&engine).map_err(EngineError::Deadline)?;
        drop(running);
        Ok(Self { engine, linker, worlds, ticker, courteous: None })
    }

    /// Has calls that take long step back like this.
    pub(crate) fn be_courteous(&mut self, courtesy: Courtesy) -> Result<(), EngineError> {
        self.courteous = Some((courtesy, Teardown::start().map_err(EngineError::Teardown)?));
        Ok(())
    }

    pub(crate) fn courtesy(&self) -> Option<Courtesy> {
        self.courteous.as_ref().map(|(courtesy, _)| *courtesy)
    }

    /// Who clears away what is left of a call that has stepped back.
    pub(crate) fn teardown(&self) -> Option<&Teardown> {
        self.courteous.as_ref().map(|(_, teardown)| teardown)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Finds what the component imports and exports, once for all calls.
    pub(crate) fn link(&self, component: &Component) -> wasmtime::Result<Box<dyn Guest>> {
        let world = world_of(component, self.worlds)?;
        (world.link)(self.linker.instantiate_pre(component)?)
    }

    /// To be held while a guest runs.
    pub(crate) fn running(&self) -> Running<'_> {
        self.ticker.run()
    }
}

/// What compiles guests within `limits` at `tier`, and says what they may be made of.
///
/// # Errors
/// [`EngineError::Configure`].
pub(crate) fn compiler(limits: &Limits, tier: Tier) -> Result<Engine, EngineError> {
    Engine::new(&config(limits, tier)).map_err(EngineError::Configure)
}

/// A number that is equal for engines that can use each other's artefacts: version, processor
/// and every setting count.
///
/// # Errors
/// [`EngineError::Configure`].
pub fn compatibility(limits: &Limits) -> Result<u64, EngineError> {
    let engine = compiler(limits, Tier::Optimised)?;
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Ok(hasher.finish())
}

fn config(limits: &Limits, tier: Tier) -> Config {
    let mut config = Config::new();
    // No host function waits, so no guest is ever suspended: no fibers, no tasks.
    config.concurrency_support(false);
    let off = WasmFeatures::THREADS
        | WasmFeatures::SHARED_EVERYTHING_THREADS
        | WasmFeatures::GC
        | WasmFeatures::FUNCTION_REFERENCES
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::MEMORY64
        | WasmFeatures::STACK_SWITCHING
        | WasmFeatures::RELAXED_SIMD
        | WasmFeatures::CM_ASYNC
        | WasmFeatures::CM_ERROR_CONTEXT;
    config.wasm_features(off, false);
    // The same bits on every processor: a decision can be replayed elsewhere.
    config.cranelift_nan_canonicalization(true);
    tiers::apply(&mut config, tier);
    config.epoch_interruption(true);
    config.max_wasm_stack(limits.stack_bytes);
    // The limiter holds a memory to its limit, not the reservation.
    config.memory_reservation(RESERVED_BYTES);
    config.memory_guard_size(GUARD_BYTES);
    config.memory_reservation_for_growth(0);
    config.memory_may_move(false);
    // Pages of the initial memory are mapped from an image and copied when written.
    config.memory_init_cow(true);
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(FRAMES_MAX));
    config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config
}

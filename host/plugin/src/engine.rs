//! The engine: how guests are compiled and what they can never do.
//!
//! One a process. It carries the linker's work and the ticker, so that nothing
//! can run a guest without deadlines. Compiled code never comes from outside and
//! the engine's own file cache is not used.

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::wasmparser::WasmFeatures;
use wasmtime::{Config, Engine, OptLevel, WasmBacktraceDetails};
use windlass_core::limits::Limits;

use crate::bindings::contract::{Reconciler, ReconcilerPre};
use crate::bindings::floor::Floor;
use crate::call::Inside;
use crate::ticker::{Running, Ticker};

/// Frames of a guest's stack that are remembered when it traps.
pub(crate) const FRAMES_MAX: usize = 20;

/// Unmapped bytes after a guest's memory. Large enough that the compiler can
/// leave out the bounds check of a field access, small in address space.
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
}

/// Compiles components and lends ticks.
pub(crate) struct Sandbox {
    engine: Engine,
    linker: Linker<Inside>,
    ticker: Ticker,
}

impl Sandbox {
    /// An engine for guests within `limits`.
    pub(crate) fn new(limits: &Limits) -> Result<Self, EngineError> {
        let config = config(limits);
        let engine = Engine::new(&config).map_err(EngineError::Configure)?;
        let mut linker = Linker::new(&engine);
        Reconciler::add_to_linker::<_, HasSelf<_>>(&mut linker, |inside| inside)
            .map_err(EngineError::Link)?;
        Floor::add_to_linker::<_, HasSelf<_>>(&mut linker, |inside| inside).map_err(EngineError::Link)?;
        let ticker = Ticker::start(engine.clone()).map_err(EngineError::Ticker)?;
        Ok(Self { engine, linker, ticker })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What guests may be made of; the check and the compiler use the same.
    pub(crate) fn features(&self) -> WasmFeatures {
        self.engine.get_wasm_features()
    }

    /// Compiles; takes up to seconds for a large component. The bytes are a
    /// component's, never native code: that is what `from_binary` means.
    pub(crate) fn compile(&self, bytes: &[u8]) -> wasmtime::Result<Component> {
        Component::from_binary(&self.engine, bytes)
    }

    /// Finds what the component imports and exports, once for all calls.
    pub(crate) fn link(&self, component: &Component) -> wasmtime::Result<ReconcilerPre<Inside>> {
        ReconcilerPre::new(self.linker.instantiate_pre(component)?)
    }

    /// To be held while a guest runs.
    pub(crate) fn running(&self) -> Running<'_> {
        self.ticker.run()
    }
}

fn config(limits: &Limits) -> Config {
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
    config.cranelift_opt_level(OptLevel::Speed);
    config.epoch_interruption(true);
    config.max_wasm_stack(limits.stack_bytes);
    // A memory never needs more than its limit: reserving that, and not the usual
    // 4 GiB a call, keeps the address space small enough for an rlimit.
    config.memory_reservation(limits.memory_bytes as u64);
    config.memory_guard_size(GUARD_BYTES);
    config.memory_reservation_for_growth(0);
    config.memory_may_move(false);
    // Pages of the initial memory are mapped from an image and copied when written.
    config.memory_init_cow(true);
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(FRAMES_MAX));
    config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config
}

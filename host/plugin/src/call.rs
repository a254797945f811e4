//! One call into a guest: a store of its own, limits before anything runs, and
//! whatever happens the store is gone afterwards. Nothing survives a call: state
//! that an earlier one left cannot be seen, and a trap poisons nobody.

use std::sync::Arc;

use wasmtime::{Error, Store, UpdateDeadline};
use windlass_core::code::Refusal;
use windlass_core::limits::Limits;
use windlass_core::ports::Reader;

use crate::bindings::contract::{Reconciler, ReconcilerPre};
use crate::budget::{Budget, StandingClock};
use crate::engine::Sandbox;
use crate::entropy::Entropy;
use crate::failure::classify;
use crate::limiter::Limiter;
use crate::output::{Output, Speaker};

/// Handles (streams, pollables) that a guest may hold at once.
const HANDLES_MAX: usize = 1_000;

/// How much of the end of stderr goes into a message: half of what a refusal
/// holds, so that the names of the frames have room.
const LAST_WORDS_BYTES: usize = 512;

/// What the host knows of a call while it runs; the store's data.
pub(crate) struct Inside {
    pub(crate) limiter: Limiter,
    pub(crate) budget: Budget,
    pub(crate) clock: StandingClock,
    pub(crate) entropy: Entropy,
    pub(crate) output: Output,
    pub(crate) reader: Arc<dyn Reader>,
    /// Questions asked of the reader so far.
    pub(crate) questions: usize,
    /// Largest answer of the reader in bytes.
    pub(crate) answer_bytes: usize,
}

/// Who calls, on whose behalf.
pub(crate) struct Caller<'a> {
    pub(crate) speaker: Speaker,
    /// Seeds randomness: the primary's uid.
    pub(crate) seed: &'a str,
    pub(crate) reader: Arc<dyn Reader>,
}

/// What came of a call.
pub(crate) struct Called<R> {
    pub(crate) result: Result<R, Refusal>,
    /// Whether the guest asked what time it is.
    pub(crate) read_clock: bool,
}

/// Instantiates the component, asks it, and drops it. Blocks this thread for at
/// most the limits' wall time.
pub(crate) fn call<R>(
    sandbox: &Sandbox,
    limits: &Limits,
    component: &ReconcilerPre<Inside>,
    caller: Caller<'_>,
    ask: impl FnOnce(&Reconciler, &mut Store<Inside>) -> wasmtime::Result<R>,
) -> Called<R> {
    // Held to the end: without ticks there is no deadline.
    let _ticking = sandbox.running();
    let mut store = store(sandbox, limits, caller);
    let result = component.instantiate(&mut store).and_then(|guest| ask(&guest, &mut store));
    let mut inside = store.into_data();
    inside.output.finish();
    Called { result: result.map_err(|e| refusal(&e, &inside, limits)), read_clock: inside.clock.was_read() }
}

fn refusal(error: &Error, inside: &Inside, limits: &Limits) -> Refusal {
    classify(error, &inside.output.last_words(LAST_WORDS_BYTES), limits)
}

fn store(sandbox: &Sandbox, limits: &Limits, caller: Caller<'_>) -> Store<Inside> {
    let budget = Budget::start(limits.cpu);
    // Even without any time there is a first tick, at which the call ends.
    let ticks = budget.ticks_left().unwrap_or(1);
    let inside = Inside {
        limiter: Limiter::new(limits),
        budget,
        clock: StandingClock::now(),
        entropy: Entropy::from_uid(caller.seed),
        output: Output::new(caller.speaker, limits.log_bytes),
        reader: caller.reader,
        questions: 0,
        answer_bytes: limits.snapshot_bytes,
    };
    let mut store = Store::new(sandbox.engine(), inside);
    store.limiter(|inside| &mut inside.limiter);
    store.set_hostcall_fuel(limits.decision_bytes);
    store.set_max_component_handles(HANDLES_MAX);
    store.set_epoch_deadline(ticks);
    store.epoch_deadline_callback(|store| store.data().budget.ticks_left().map(UpdateDeadline::Continue));
    store
}

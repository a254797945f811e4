//! One call into a guest: a store of its own, limits before anything runs, and
//! whatever happens the store is gone afterwards. Nothing survives a call: state
//! that an earlier one left cannot be seen, and a trap poisons nobody.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Error, Store, UpdateDeadline};
use windlass_core::code::Refusal;
use windlass_core::guests::{Line, Texts, Used};
use windlass_core::limits::Limits;

use crate::budget::{Budget, StandingClock};
use crate::engine::Sandbox;
use crate::entropy::Entropy;
use crate::failure::classify;
use crate::limiter::Limiter;
use crate::output::Output;

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
    pub(crate) texts: Arc<dyn Texts>,
    /// Questions asked of the cache so far.
    pub(crate) questions: usize,
    /// Largest answer of the cache in bytes.
    pub(crate) answer_bytes: usize,
}

/// What a call is given beside its arguments.
pub(crate) struct Given<'a> {
    /// Seeds randomness: the primary's uid.
    pub(crate) seed: &'a str,
    /// What time it is, since 1970.
    pub(crate) now: Duration,
    pub(crate) texts: Arc<dyn Texts>,
}

/// What came of a call, whatever was asked.
pub(crate) struct Ended<R> {
    pub(crate) result: Result<R, Refusal>,
    pub(crate) read_clock: bool,
    pub(crate) lines: Vec<Line>,
    pub(crate) dropped_bytes: u64,
    /// All but the size of the decision, which only whoever reads it knows.
    pub(crate) used: Used,
}

/// Lets `ask` instantiate a component and ask it, and drops all of it. Blocks this thread
/// for at most the limits' wall time.
pub(crate) fn call<R>(
    sandbox: &Sandbox,
    limits: &Limits,
    given: Given<'_>,
    ask: impl FnOnce(&mut Store<Inside>) -> wasmtime::Result<R>,
) -> Ended<R> {
    // Held to the end: without ticks there is no deadline.
    let _ticking = sandbox.running();
    let mut store = store(sandbox, limits, given);
    let result = ask(&mut store);
    match sandbox.teardown() {
        Some(teardown) if store.data().budget.has_stepped_back() => {
            let ended = ended(result, store.data_mut(), limits);
            teardown.drop(store);
            ended
        }
        _ => ended(result, &mut store.into_data(), limits),
    }
}

/// What the host has seen of a call that is over.
fn ended<R>(result: wasmtime::Result<R>, inside: &mut Inside, limits: &Limits) -> Ended<R> {
    inside.output.finish();
    Ended {
        result: result.map_err(|e| refusal(&e, inside, limits)),
        read_clock: inside.clock.was_read(),
        lines: inside.output.take_lines(),
        dropped_bytes: inside.output.dropped() as u64,
        used: Used {
            cpu: inside.budget.used(),
            memory_bytes: inside.limiter.memory_used() as u64,
            decision_bytes: 0,
            log_bytes: inside.output.written() as u64,
        },
    }
}

fn refusal(error: &Error, inside: &Inside, limits: &Limits) -> Refusal {
    classify(error, &inside.output.last_words(LAST_WORDS_BYTES), limits)
}

fn store(sandbox: &Sandbox, limits: &Limits, given: Given<'_>) -> Store<Inside> {
    let mut budget = Budget::start(limits.cpu, sandbox.courtesy());
    // Even without any time there is a first tick, at which the call ends.
    let ticks = budget.look(0).unwrap_or(1);
    let inside = Inside {
        limiter: Limiter::new(limits),
        budget,
        clock: StandingClock::at(given.now),
        entropy: Entropy::from_uid(given.seed),
        output: Output::new(limits.log_bytes),
        texts: given.texts,
        questions: 0,
        answer_bytes: limits.snapshot_bytes,
    };
    let mut store = Store::new(sandbox.engine(), inside);
    store.limiter(|inside| &mut inside.limiter);
    store.set_hostcall_fuel(limits.decision_bytes);
    store.set_max_component_handles(HANDLES_MAX);
    store.set_epoch_deadline(ticks);
    store.epoch_deadline_callback(|mut store| {
        let Inside { budget, limiter, .. } = store.data_mut();
        budget.look(limiter.memory_used()).map(UpdateDeadline::Continue)
    });
    store
}

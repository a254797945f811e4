//! The proof that a deadline ends a guest: a loop without an end is run before any stranger's code.
//!
//! That the epoch moves says only that a thread runs. What counts is that compiled code looks
//! at it, and that depends on settings of the engine that a mistake could turn off.

use std::time::{Duration, Instant};

use wasmtime::{Engine, Instance, Module, Store, Trap};

/// `(module (func (export "spin") (loop br 0)))`.
const SPINS: [u8; 39] = [
    0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, // magic, version
    0x01, 0x04, 0x01, 0x60, 0x00, 0x00, // type 0: () -> ()
    0x03, 0x02, 0x01, 0x00, // function 0 is of it
    0x07, 0x08, 0x01, 0x04, b's', b'p', b'i', b'n', 0x00, 0x00, // exported
    0x0a, 0x09, 0x01, 0x07, 0x00, 0x03, 0x40, 0x0c, 0x00, 0x0b, 0x0b, // loop; br 0; end; end
];

/// How many ticks the loop gets.
const TICKS: u64 = 2;

/// How late its end may be on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the loop until its deadline ends it. The ticker must be running. Without deadlines this
/// never returns, and whoever started the process ends it for being late.
///
/// # Errors
/// One sentence: it was not ended by its deadline, or ended as something else.
pub(crate) fn deadlines_hold(engine: &Engine) -> Result<Duration, String> {
    let said = |error: wasmtime::Error| format!("a loop without an end cannot be tried: {error:#}");
    let module = Module::new(engine, SPINS).map_err(said)?;
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(TICKS);
    let instance = Instance::new(&mut store, &module, &[]).map_err(said)?;
    let spin = instance.get_typed_func::<(), ()>(&mut store, "spin").map_err(said)?;
    let began = Instant::now();
    match spin.call(&mut store, ()).map_err(|error| error.downcast_ref::<Trap>().copied()) {
        Err(Some(Trap::Interrupt)) if began.elapsed() < PATIENCE => Ok(began.elapsed()),
        Err(Some(Trap::Interrupt)) => {
            Err(format!("a loop without an end ran {:?} beyond its deadline", began.elapsed()))
        }
        other => Err(format!("a loop without an end ended as {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::Config;

    #[test]
    fn a_loop_ends_at_its_deadline_and_an_engine_that_does_not_look_is_found_out() {
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config).expect("an engine");
        let ticker = crate::ticker::Ticker::start(engine.clone()).expect("ticks");
        let running = ticker.run();
        assert!(deadlines_hold(&engine).expect("they hold") >= crate::ticker::TICK);
        drop(running);
        // Fuel stands in for what else could end a loop.
        config.epoch_interruption(false).consume_fuel(true);
        let engine = Engine::new(&config).expect("an engine");
        let said = deadlines_hold(&engine).expect_err("no deadline ended it");
        assert!(said.contains("ended as"), "{said}");
    }
}

//! Random runs against clean ones: whatever happened before, the end is the same.
//!
//! The real stages (watch, queue, reconcile, apply) run against a small API server in this process, in virtual time. A seed
//! decides what happens: changes, strangers, watches that break, requests that fail, leaders that die. When it is over, within
//! 30 s the objects must be what a run without any of it comes to, and then nothing is written any more.
//!
//! Time is virtual and what happens is drawn from the seed, but pauses inside the host are spread by chance of its own: a
//! seed that fails once fails often, not always. `WINDLASS_SEED=n` runs one seed two hundred times, `WINDLASS_SEEDS=n` that
//! many seeds.

mod api;
mod brain;
mod mutant;
mod replica;
mod run;
mod schedule;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mutant::Mutant;
use run::{Figures, run};

/// Seeds of the ordinary test, and with `cargo xtask test --full`.
const SEEDS: u64 = 1_000;
const SEEDS_FULL: u64 = 10_000;
/// Seeds within which each mistake must be found.
const SEEDS_OF_A_MUTANT: u64 = 60;
/// How often one seed is run when it is asked for by number.
const REPEATS: u64 = 200;

/// Runs seeds on all processors until one fails or all are done.
fn sweep(seeds: impl Fn(u64) -> Option<u64> + Sync, mutant: Mutant) -> Result<Vec<Figures>, (u64, String)> {
    let (next, all, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(None));
    let work = || {
        while failed.lock().expect("no thread panics with it").is_none() {
            let Some(seed) = seeds(next.fetch_add(1, Ordering::Relaxed)) else { return };
            match run(seed, mutant) {
                Ok(figures) => all.lock().expect("no thread panics with it").push(figures),
                Err(why) => {
                    failed.lock().expect("no thread panics with it").get_or_insert((seed, why));
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    match failed.into_inner().expect("no thread panics with it") {
        Some(failure) => Err(failure),
        None => Ok(all.into_inner().expect("no thread panics with it")),
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn whatever_happens_the_end_is_that_of_a_clean_run_and_then_there_is_silence() {
    let began = std::time::Instant::now();
    let ordinary = if std::env::var_os("WINDLASS_TEST_FULL").is_some() { SEEDS_FULL } else { SEEDS };
    let done = match (number("WINDLASS_SEED"), number("WINDLASS_SEEDS").unwrap_or(ordinary)) {
        (Some(seed), _) => sweep(|turn| (turn < REPEATS).then_some(seed), Mutant::None),
        (None, seeds) => sweep(|turn| (turn < seeds).then_some(turn), Mutant::None),
    };
    let figures = done.unwrap_or_else(|(seed, why)| panic!("{why}\nWINDLASS_SEED={seed} runs it again"));
    let mut converged: Vec<Duration> = figures.iter().map(|figures| figures.converged).collect();
    converged.sort_unstable();
    let writes: usize = figures.iter().map(|figures| figures.writes).sum();
    eprintln!(
        "{} runs in {:.1?}: {writes} writes under faults; as it should be after {:?} at the median, {:?} at most",
        figures.len(),
        began.elapsed(),
        converged[converged.len() / 2],
        converged[converged.len() - 1],
    );
}

#[test]
fn mistakes_made_on_purpose_are_found() {
    for mutant in Mutant::ALL {
        let found = sweep(|turn| (turn < SEEDS_OF_A_MUTANT).then_some(turn), mutant);
        let (seed, why) =
            found.err().unwrap_or_else(|| panic!("{mutant:?} passes {SEEDS_OF_A_MUTANT} seeds"));
        let why = why.lines().last().unwrap_or_default();
        eprintln!("{mutant:?} is found by seed {seed}: {why}");
    }
}

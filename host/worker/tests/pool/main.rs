//! The pool over real processes that do everything a hostile guest could have them do.
//!
//! Without the usual harness, because this program is also the worker: it is started again
//! with `worker`, and with `host` to be a host that is killed. Arguments choose tests by parts of their
//! names; those that only measure run with `--measure`. Each test runs twice: with calls that a thread waits for, and with
//! calls as tasks.

mod courtesy;
mod deaths;
mod fake;
mod figures;
mod life;
mod scene;
mod tasks;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A name and what it says.
type Test = (&'static str, fn());

/// Names functions after themselves.
macro_rules! tests {
    ($($in:ident::$name:ident,)+) => { &[$((concat!(stringify!($in), "::", stringify!($name)), $in::$name as fn()),)+] };
}

const TESTS: &[Test] = tests![
    life::a_call_is_answered_and_may_ask_the_cache,
    life::refusals_of_the_cache_end_the_call_and_nothing_else,
    life::a_snapshot_of_eight_mebibytes_arrives,
    life::an_answer_that_is_too_large_is_refused_by_its_size,
    life::time_that_the_host_takes_does_not_count,
    life::what_was_unloaded_is_not_asked_any_more,
    life::a_worker_without_room_serves_over_fewer_lanes,
    life::a_worker_that_cannot_run_guests_says_why,
    life::a_pool_that_is_shut_down_leaves_no_process,
    life::a_worker_ends_with_its_host,
    courtesy::a_call_that_takes_long_is_nice_and_the_next_is_not,
    courtesy::a_call_that_is_suspected_waits_for_everybody_and_the_next_does_not,
    courtesy::a_call_whose_time_is_over_is_answered_for,
    courtesy::a_load_whose_time_is_over_is_answered_for,
    courtesy::what_is_answered_for_is_not_heard_later,
    courtesy::a_call_that_ends_in_time_answers_for_itself,
    courtesy::without_room_for_another_thread_the_same_one_goes_on,
    deaths::a_worker_that_dies_fails_only_the_guilty_plugin,
    deaths::twenty_innocent_calls_in_flight_all_get_their_answer,
    deaths::a_worker_that_hangs_is_killed_within_its_deadline,
    deaths::others_in_flight_beside_one_that_hangs_get_their_answer,
    deaths::garbage_from_the_worker_ends_the_worker,
    deaths::a_flood_of_questions_ends_the_worker,
    deaths::suspects_are_trusted_again_after_twenty_good_calls,
    deaths::a_component_that_dies_when_it_is_loaded_is_refused_alone,
    deaths::a_component_that_dies_when_it_is_loaded_again_kills_one_worker,
    deaths::without_a_worker_calls_fail_within_their_deadline,
    deaths::good_plugins_never_fail_beside_bad_ones,
    deaths::no_zombies_and_no_descriptors_are_left,
    tasks::a_call_needs_no_thread_that_blocks,
    tasks::what_nobody_waits_for_any_more_ends_and_its_lane_is_used_again,
    tasks::what_hangs_and_is_not_waited_for_any_more_is_known_all_the_same,
    figures::a_new_worker_has_all_plugins_soon,
];

const MEASURES: &[Test] = tests![figures::round_trips,];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("worker") => return fake::main(&args[1..]),
        Some("host") => return life::host(&args[1..]),
        _ => {}
    }
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let tests = if args.iter().any(|arg| arg == "--measure") { MEASURES } else { TESTS };
    for (name, test, as_tasks) in
        tests.iter().flat_map(|(name, test)| [(name, test, false), (name, test, true)])
    {
        let how = if as_tasks { " as tasks" } else { "" };
        if args.iter().any(|arg| arg == "--list") {
            println!("{name}{how}: test");
        } else if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            let (begun, tasks) = (Instant::now(), scene::TASKS.load(Ordering::Relaxed));
            scene::AS_TASKS.store(as_tasks, Ordering::Relaxed);
            test();
            let tasks = scene::TASKS.load(Ordering::Relaxed) - tasks;
            println!("test {name}{how} ... ok ({:.2} s, {tasks} tasks)", begun.elapsed().as_secs_f64());
        }
    }
    ExitCode::SUCCESS
}

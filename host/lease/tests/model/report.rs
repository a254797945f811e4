//! Runs the checker and says what it saw: how many states, or the way to what must not be.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::deeds::Action;
use crate::scenario::Scenario;
use crate::world::World;

/// Looks at every state within the bounds. What must hold holds in all, and what must be
/// possible was seen.
pub(crate) fn holds(title: &str, scenario: Scenario) {
    let begin = Instant::now();
    let finish = HasDiscoveries::AnyFailures;
    let checker = scenario.clone().checker().threads(2).finish_when(finish).spawn_dfs().join();
    let took = begin.elapsed().as_secs_f64();
    let states = checker.unique_state_count();
    println!(
        "{title}: {states} states, {} steps, depth {}, {took:.1} s, {:.0} states/s",
        checker.state_count(),
        checker.max_depth(),
        states as f64 / took
    );
    for (name, path) in checker.discoveries() {
        let property = scenario.property(name);
        if property.expectation.discovery_is_failure() {
            panic!("{title}: not so: {name}\n{}", told(path));
        }
    }
    checker.assert_properties();
}

/// Finds the shortest way to break `property`, and says how long it is.
pub(crate) fn refuted(title: &str, scenario: Scenario, property: &'static str) {
    let begin = Instant::now();
    let finish = HasDiscoveries::AnyOf([property].into());
    let checker = scenario.checker().finish_when(finish).spawn_bfs().join();
    let found = checker.discovery(property).unwrap_or_else(|| panic!("{title}: {property}: not refuted"));
    println!(
        "{title}: refuted: {property}: {} steps, found among {} states in {:.1} s\n{}",
        found.clone().into_actions().len(),
        checker.unique_state_count(),
        begin.elapsed().as_secs_f64(),
        told(found)
    );
}

/// One line a step.
fn told(path: Path<World, Action>) -> String {
    let line = |(w, action): (World, Option<Action>)| match action {
        Some(Action::Carry(at) | Action::Repeat(at)) => {
            format!(
                "  {:>2}  {} {}\n",
                w.tick,
                if action == Some(Action::Carry(at)) { "->" } else { "->>" },
                w.net[at]
            )
        }
        Some(action) => format!("  {:>2}  {action:?}\n", w.tick),
        None => format!("  {:>2}  the end\n", w.tick),
    };
    path.into_vec().into_iter().map(line).collect()
}

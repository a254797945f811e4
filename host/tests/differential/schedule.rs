//! What happens in one run: drawn from a seed, all of it before it begins.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::api::store::Kind;
use crate::api::streams::{Mishap, Scramble};
use crate::api::weather::Weather;

/// Primaries that there may be.
pub(crate) const WEBS: [&str; 3] = ["a", "b", "c"];
/// Objects that there may be to read.
const PALETTES: [&str; 2] = ["red", "blue"];

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// Somebody makes a primary, or gives it another spec.
    Web(&'static str, Value),
    /// Somebody deletes a primary.
    Delete(&'static str),
    /// Somebody makes or changes what is read.
    Palette(&'static str, &'static str),
    /// Somebody deletes what is read.
    NoPalette(&'static str),
    /// The plugin has other settings.
    Settings(&'static str),
    /// A stranger does something to the nth child that there is.
    Child(usize, Edit),
    /// A stranger writes nonsense into a primary's status.
    Status(&'static str),
    /// A stranger makes an object that looks like a child of this primary.
    Lookalike(&'static str),
    /// Something happens to watches: of one kind or all.
    Streams(Option<Kind>, Mishap),
    /// Watches say nothing for so long.
    Hold(Option<Kind>, Duration),
    /// A child of a primary is deleted, made again and deleted again, and its watch is so late that it lists instead of hearing of
    /// more than the first.
    Gap(&'static str),
    /// Events are lost, doubled and swapped from now on, or no more.
    Scramble(Scramble),
    /// The server forgets the past.
    Compact,
    /// Requests fail from now on, or no more.
    Weather(Weather),
    /// The leader dies, and a replica that has just started leads after so long.
    Crash(Duration),
    /// The leader steps down, and another replica leads after so long.
    HandOver(Duration),
}

/// What a stranger does to a child.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Edit {
    /// Another value in a field that the plugin owns.
    Change,
    /// A field that the plugin owns is taken out.
    Remove,
    /// A field that nobody else has.
    Add,
    /// Our labels are taken off.
    Unlabel,
    /// Our annotations are taken off.
    Unannotate,
    /// The owner reference is taken off.
    Disown,
    /// It is deleted.
    Delete,
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// Whether the plugin finalizes.
    pub(crate) finalizes: bool,
    /// Replicas at once, one or two.
    pub(crate) replicas: usize,
    /// What happens, each after a pause.
    pub(crate) ops: Vec<(Duration, Op)>,
}

impl Schedule {
    /// The same for the same seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let replicas = if rng.random_bool(0.3) { 2 } else { 1 };
        let finalizes = rng.random();
        let mut ops = Vec::new();
        for name in WEBS {
            ops.push((Duration::ZERO, Op::Web(name, spec(&mut rng))));
        }
        for _ in 0..rng.random_range(8..24) {
            // Some at once, some while the one before is worked on, some long after it.
            let pause = match rng.random_range(0..24) {
                0..6 => 0,
                6..18 => rng.random_range(1..60),
                18..23 => rng.random_range(100..3_000),
                // So long that pauses between attempts grow to their longest.
                _ => rng.random_range(5_000..60_000),
            };
            ops.push((Duration::from_millis(pause), op(&mut rng, replicas)));
        }
        Self { finalizes, replicas, ops }
    }
}

fn pick<T: Copy>(rng: &mut Xoshiro256PlusPlus, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

fn spec(rng: &mut Xoshiro256PlusPlus) -> Value {
    let mut spec = json!({
        "text": pick(rng, &["one", "two", "four", "seven"]),
        "parts": rng.random_range(0..4),
        "box": rng.random::<bool>(),
        "follows": rng.random_bool(0.3),
    });
    if rng.random() {
        spec["palette"] = pick(rng, &PALETTES).into();
    }
    spec
}

fn op(rng: &mut Xoshiro256PlusPlus, replicas: usize) -> Op {
    let web = pick(rng, &WEBS);
    let kind = if rng.random_bool(0.5) { None } else { Some(pick(rng, &Kind::ALL)) };
    let moment = |rng: &mut Xoshiro256PlusPlus| Duration::from_millis(rng.random_range(0..2_000));
    match rng.random_range(0..40) {
        0..8 => Op::Web(web, spec(rng)),
        8..10 => Op::Delete(web),
        10..13 => Op::Palette(pick(rng, &PALETTES), pick(rng, &["#100", "#200", "#300"])),
        13 => Op::NoPalette(pick(rng, &PALETTES)),
        14 => Op::Settings(pick(rng, &["\"plain\"", "\"fancy\""])),
        15..21 => {
            let edits = [
                Edit::Change,
                Edit::Remove,
                Edit::Add,
                Edit::Unlabel,
                Edit::Unannotate,
                Edit::Disown,
                Edit::Delete,
                Edit::Delete,
            ];
            Op::Child(rng.random_range(0..100), pick(rng, &edits))
        }
        21 => Op::Status(web),
        22 => Op::Lookalike(web),
        23..27 => {
            let mishaps = [Mishap::Reset, Mishap::End, Mishap::Gone, Mishap::Garbage, Mishap::OldBookmark];
            Op::Streams(kind, pick(rng, &mishaps))
        }
        27 | 28 => {
            let longest = if rng.random_bool(0.1) { 40_000 } else { 5_000 };
            Op::Hold(kind, Duration::from_millis(rng.random_range(10..longest)))
        }
        29 => {
            let lose = if rng.random_bool(0.3) { 0.2 } else { 0.0 };
            Op::Scramble(Scramble { lose, double: 0.2, swap: 0.3 })
        }
        30 => Op::Compact,
        31..34 => {
            let (writes, reads) = (pick(rng, &[0.1, 0.4, 0.8]), pick(rng, &[0.0, 0.2, 0.6]));
            Op::Weather(Weather { outage: rng.random_bool(0.2), writes, reads })
        }
        34 => Op::Weather(Weather::default()),
        35 => Op::Crash(moment(rng)),
        36 | 37 => Op::Gap(web),
        _ if replicas > 1 => Op::HandOver(moment(rng)),
        _ => Op::Crash(moment(rng)),
    }
}

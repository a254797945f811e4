//! What the rounds come to.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::contender::Contender;
use super::round::{Fault, Round};
use crate::bench::picture::Row;
use crate::bench::report::quantile;

/// A round whose floor differs from the median floor by more than this share is dropped.
const FLOOR_MOVES: f64 = 0.1;

/// Marks the rounds whose floor had moved. If that were most of them the machine was never quiet, and none is dropped.
pub(super) fn judge(rounds: &mut [Round]) {
    let median = floor(rounds);
    let moved = |round: &Round| has_moved(round, median);
    let many = rounds.iter().filter(|round| moved(round)).count() * 2 > rounds.len();
    for round in rounds {
        round.dropped = !many && moved(round);
    }
}

/// Whether the floor of a round differs too much from the median floor.
fn has_moved(round: &Round, median: Option<f64>) -> bool {
    let share = round.floor_ms.zip(median).map(|(floor, median)| (floor / median - 1.0).abs());
    share.is_none_or(|share| share > FLOOR_MOVES)
}

fn floor(rounds: &[Round]) -> Option<f64> {
    quantile(&sorted(rounds.iter().filter_map(|round| round.floor_ms)), 0.5)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The gaps that count, sorted.
fn gaps(rounds: &[Round], contender: Contender, kind: Fault) -> Vec<f64> {
    let fitting = rounds.iter().filter(|r| r.contender == contender && r.kind == kind && !r.dropped);
    sorted(fitting.filter_map(|round| round.gap_ms))
}

/// The figures of everybody, with the names of the benchmark's table.
pub(super) fn of(rounds: &[Round], contenders: &[Contender]) -> Map<String, Value> {
    let mut figures = Map::new();
    figures.insert("floor_ms".to_owned(), json!(floor(rounds)));
    let floors = sorted(rounds.iter().filter_map(|round| round.floor_ms));
    figures.insert("floor_range_ms".to_owned(), json!([floors.first(), floors.last()]));
    let dropped = rounds.iter().filter(|round| round.dropped).count();
    figures.insert("rounds_dropped".to_owned(), json!(format!("{dropped} of {}", rounds.len())));
    let moved = rounds.iter().filter(|round| has_moved(round, floor(rounds))).count();
    if moved > dropped {
        let says = format!("in {moved} of {} rounds, which is most: none is dropped", rounds.len());
        figures.insert("floor_moved".to_owned(), json!(says));
    }
    for contender in contenders {
        of_one(rounds, *contender, &mut figures);
    }
    for peer in contenders.iter().filter(|contender| !contender.is_ours()) {
        for (kind, word) in [(Fault::Crash, "crash"), (Fault::Graceful, "graceful")] {
            if let Some(ratio) = ratio(rounds, *peer, kind) {
                figures.insert(format!("{}{word}_ratio", peer.prefix()), ratio);
            }
        }
    }
    figures
}

fn of_one(rounds: &[Round], contender: Contender, figures: &mut Map<String, Value>) {
    let mut put = |name: &str, value: Value| figures.insert(format!("{}{name}", contender.prefix()), value);
    for (kind, word) in [(Fault::Crash, "crash"), (Fault::Graceful, "graceful"), (Fault::Freeze, "freeze")] {
        let gaps = gaps(rounds, contender, kind);
        if gaps.is_empty() {
            continue;
        }
        put(&format!("{word}_rounds"), json!(gaps.len()));
        put(&format!("{word}_gap_p50_ms"), json!(quantile(&gaps, 0.5)));
        put(&format!("{word}_gap_p99_ms"), json!(quantile(&gaps, 0.99)));
        put(&format!("{word}_gap_max_ms"), json!(gaps.last()));
    }
    let mine: Vec<_> = rounds.iter().filter(|round| round.contender == contender).collect();
    // These are counts, not times: no round is left out.
    put("late_writes", json!(mine.iter().map(|round| round.late_writes).sum::<usize>()));
    put("interleaved_writes", json!(mine.iter().map(|round| round.interleaved_writes).sum::<usize>()));
    put("without_successor", json!(mine.iter().filter(|round| round.gap_ms.is_none()).count()));
    let outages: Vec<_> = mine.iter().filter(|round| round.kind == Fault::Outage).collect();
    if !outages.is_empty() {
        put("outage_restarts", json!(outages.iter().map(|round| round.restarts).sum::<usize>()));
        let resumed = sorted(outages.iter().filter_map(|round| round.resume_ms));
        put("outage_resume_ms", json!(resumed.last()));
    }
}

/// A peer's median gap in each turn as a multiple of ours in the same turn: median and range of those.
fn ratio(rounds: &[Round], peer: Contender, kind: Fault) -> Option<Value> {
    let mut turns: BTreeMap<usize, Vec<Round>> = BTreeMap::new();
    for round in rounds {
        turns.entry(round.turn).or_default().push(round.clone());
    }
    let median = |rounds: &[Round], contender| quantile(&gaps(rounds, contender, kind), 0.5);
    let ratios = turns.values().filter_map(|turn| {
        let (peer, ours) = (median(turn, peer)?, median(turn, Contender::Ours)?);
        (ours > 0.0).then_some((peer / ours * 10.0).round() / 10.0)
    });
    let ratios = sorted(ratios);
    Some(json!({ "median": quantile(&ratios, 0.5)?, "least": ratios.first(), "most": ratios.last() }))
}

/// The rows of the picture: fault by fault, so that contenders stand below each other.
pub(super) fn rows(rounds: &[Round], contenders: &[Contender]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, word) in [(Fault::Crash, "SIGKILL"), (Fault::Graceful, "SIGTERM"), (Fault::Freeze, "SIGSTOP")]
    {
        for contender in contenders {
            let values = gaps(rounds, *contender, kind);
            if !values.is_empty() {
                rows.push(Row { group: word.to_owned(), label: contender.title().to_owned(), values });
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn round(contender: Contender, turn: usize, gap_ms: u64, floor_ms: u64) -> Round {
        let floor = [Duration::from_millis(floor_ms)];
        let gap = Some(Duration::from_millis(gap_ms));
        Round::begin(contender, turn, Fault::Crash, &floor).between("a", "b", gap)
    }

    #[test]
    fn a_round_whose_floor_moved_is_left_out() {
        let mut rounds: Vec<_> = (0..9).map(|_| round(Contender::Ours, 0, 20, 10)).collect();
        rounds.push(round(Contender::Ours, 0, 900, 12));
        judge(&mut rounds);
        let figures = of(&rounds, &[Contender::Ours]);
        assert_eq!(figures["crash_gap_p99_ms"], 20.0);
        assert_eq!(figures["rounds_dropped"], "1 of 10");
    }

    #[test]
    fn no_round_is_left_out_when_the_floor_never_stands_still() {
        let mut rounds: Vec<_> = [5, 10, 20, 40].map(|floor| round(Contender::Ours, 0, 20, floor)).into();
        judge(&mut rounds);
        let figures = of(&rounds, &[Contender::Ours]);
        assert_eq!(figures["rounds_dropped"], "0 of 4");
        assert_eq!(figures["floor_moved"], "in 3 of 4 rounds, which is most: none is dropped");
    }

    #[test]
    fn peers_are_compared_turn_by_turn() {
        let rounds = [
            round(Contender::Ours, 0, 10, 5),
            round(Contender::CrTuned, 0, 1000, 5),
            round(Contender::Ours, 1, 20, 5),
            round(Contender::CrTuned, 1, 1000, 5),
        ];
        let figures = of(&rounds, &[Contender::Ours, Contender::CrTuned]);
        assert_eq!(figures["peer_tuned_crash_ratio"], json!({"median": 50.0, "least": 50.0, "most": 100.0}));
        assert_eq!(figures["peer_tuned_crash_gap_p50_ms"], 1000.0);
    }
}

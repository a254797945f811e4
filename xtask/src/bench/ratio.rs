//! Ratios of rounds, each of two phases that were measured one after the other.

use serde_json::{Value, json};

use super::report::quantile;

/// The median, to the thousandth.
pub(crate) fn median(ratios: &[f64]) -> Option<f64> {
    quantile(&sorted(ratios), 0.5).map(thousandth)
}

/// Least, median and most.
pub(crate) fn spread(ratios: &[f64]) -> Value {
    let sorted = sorted(ratios);
    let at = |share| quantile(&sorted, share).map(thousandth);
    json!({ "n": sorted.len(), "least": at(0.0), "median": at(0.5), "most": at(1.0) })
}

fn sorted(ratios: &[f64]) -> Vec<f64> {
    let mut sorted = ratios.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn thousandth(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_ratio_that_was_measured() {
        assert_eq!(median(&[3.0, 1.0, 1.23456]), Some(1.235));
        assert_eq!(median(&[]), None);
        assert_eq!(spread(&[2.0, 1.0]), json!({ "n": 2, "least": 1.0, "median": 1.0, "most": 2.0 }));
    }
}

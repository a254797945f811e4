//! The host's metrics, read the way a scraper would, and compared from one moment to the next.

use anyhow::{Result, ensure};
use windlass_testbed::Replica;

/// All metrics of one moment.
pub(crate) struct Scrape(String);

impl Scrape {
    /// Asks the host.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) async fn of(replica: &Replica) -> Result<Self> {
        let (status, text) = replica.ask("/metrics").await?;
        ensure!(status == 200, "/metrics answered {status}");
        Ok(Self(text))
    }

    /// The sum of all series of this name; of those with this label, if one is given.
    pub(crate) fn sum(&self, name: &str, label: Option<(&str, &str)>) -> f64 {
        let label = label.map(|(key, value)| format!("{key}=\"{value}\""));
        let of = |line: &str| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with([' ', '{'])
                || label.as_ref().is_some_and(|label| !rest.contains(label.as_str()))
            {
                return None;
            }
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        };
        self.0.lines().filter_map(of).sum()
    }
}

/// How often and for how long something was measured between two moments, if the host has a histogram of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Growth {
    /// How often.
    pub(crate) count: u64,
    /// In sum, in seconds.
    pub(crate) seconds: f64,
}

impl Growth {
    /// Of the histogram `name` for this label.
    pub(crate) fn between(before: &Scrape, after: &Scrape, name: &str, label: (&str, &str)) -> Self {
        let grown = |part: &str| {
            let name = format!("{name}_{part}");
            after.sum(&name, Some(label)) - before.sum(&name, Some(label))
        };
        Self { count: grown("count").max(0.0) as u64, seconds: grown("sum") }
    }
}

/// How long the measurements of a histogram took, of all its series together, between two moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Distribution {
    /// How many took at most as long, in seconds, by that bound.
    up_to: Vec<(f64, f64)>,
}

impl Distribution {
    /// Of the histogram `name`, without the series that have this label.
    pub(crate) fn between(before: &Scrape, after: &Scrape, name: &str, without: (&str, &str)) -> Self {
        let mut grown = Self::default();
        grown.count(after, name, without, 1.0);
        grown.count(before, name, without, -1.0);
        grown
    }

    fn count(&mut self, scrape: &Scrape, name: &str, (key, value): (&str, &str), sign: f64) {
        let (name, without) = (format!("{name}_bucket{{"), format!("{key}=\"{value}\""));
        for line in scrape.0.lines().filter(|line| line.starts_with(&name) && !line.contains(&without)) {
            let bound = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            let bound = bound.and_then(|bound| bound.parse::<f64>().ok());
            let many = line.rsplit(' ').next().and_then(|many| many.parse::<f64>().ok());
            if let (Some(bound), Some(many)) = (bound, many) {
                self.add(bound, sign * many);
            }
        }
    }

    fn add(&mut self, bound: f64, many: f64) {
        match self.up_to.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
            Ok(at) => self.up_to[at].1 += many,
            Err(at) => self.up_to.insert(at, (bound, many)),
        }
    }

    /// This and another one of the same histogram.
    pub(crate) fn and(&mut self, other: &Self) {
        for (bound, many) in &other.up_to {
            self.add(*bound, *many);
        }
    }

    /// The value, in seconds, below which `share` of the measurements are, taken as spread evenly within a bucket. That of the
    /// largest bound if it is above all of them.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = self.up_to.last().map(|(_, all)| all * share).filter(|rank| *rank > 0.0)?;
        let mut below = (0.0, 0.0);
        for (bound, many) in self.up_to.iter().copied() {
            if bound.is_infinite() {
                return Some(below.0);
            }
            if many >= rank {
                return Some(below.0 + (bound - below.0) * (rank - below.1) / (many - below.1));
            }
            below = (bound, many);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_label() {
        let text = "a_sum{p=\"x\"} 1.5\na_sum{p=\"y\"} 2\na_sum_of{p=\"x\"} 9\nb 3\n";
        let scrape = Scrape(text.to_owned());
        assert_eq!(scrape.sum("a_sum", None), 3.5);
        assert_eq!(scrape.sum("a_sum", Some(("p", "x"))), 1.5);
        assert_eq!(scrape.sum("b", None), 3.0);
        assert_eq!(scrape.sum("c", None), 0.0);
    }

    #[test]
    fn what_grew_between_two_moments_is_a_count_and_a_sum() {
        let at =
            |count: u64, sum: f64| Scrape(format!("t_sum{{p=\"x\"}} {sum}\nt_count{{p=\"x\"}} {count}\n"));
        let growth = Growth::between(&at(3, 1.0), &at(4, 1.25), "t", ("p", "x"));
        assert_eq!(growth, Growth { count: 1, seconds: 0.25 });
    }

    #[test]
    fn a_distribution_is_of_all_series_but_one_and_its_quantiles_are_within_buckets() {
        let at = |x: u64, y: u64| {
            Scrape(format!(
                "t_bucket{{le=\"1\",p=\"x\"}} {x}\nt_bucket{{le=\"3\",p=\"x\"}} {x}\nt_bucket{{le=\"+Inf\",p=\"x\"}} {x}\n\
                 t_bucket{{le=\"1\",p=\"y\"}} 0\nt_bucket{{le=\"3\",p=\"y\"}} {y}\nt_bucket{{le=\"+Inf\",p=\"y\"}} {y}\n\
                 t_bucket{{le=\"1\",p=\"bad\"}} 999\n"
            ))
        };
        let grown = Distribution::between(&at(5, 0), &at(9, 4), "t", ("p", "bad"));
        assert_eq!(grown.up_to, [(1.0, 4.0), (3.0, 8.0), (f64::INFINITY, 8.0)]);
        assert_eq!((grown.quantile(0.25), grown.quantile(0.75)), (Some(0.5), Some(2.0)));
        assert_eq!(Distribution::default().quantile(0.5), None);
        let mut twice = grown.clone();
        twice.and(&grown);
        assert_eq!(twice.quantile(0.75), Some(2.0));
    }
}

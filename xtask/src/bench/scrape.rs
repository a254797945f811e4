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
}

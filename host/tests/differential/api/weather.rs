//! What becomes of a request: as a rule nothing, in bad weather all that networks, load balancers and servers do.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

/// How likely it is that something happens to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Weather {
    /// Nobody listens.
    pub(crate) outage: bool,
    /// For a write, and a look at one object.
    pub(crate) writes: f64,
    /// For a list, a watch and discovery.
    pub(crate) reads: f64,
}

/// What is asked for, as far as its fate depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Write,
    Look,
    List,
    Watch,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    /// It is carried out and answered.
    Pass,
    /// It arrives so much later, whether or not its client still waits.
    Late(Duration),
    /// It is carried out, and answered so much later.
    LateAnswer(Duration),
    /// It is not carried out, and answered with this code; with a pause that is asked for, in seconds.
    Refused(u16, Option<u64>),
    /// It is carried out, and answered with this code.
    Masked(u16),
    /// The connection is cut before it arrives.
    Lost,
    /// The connection is cut after it was carried out.
    Unanswered,
    /// It is carried out or not, and answered with a page of a load balancer.
    Page(bool),
    /// It is carried out, and answered with half of the answer.
    Half,
}

impl Weather {
    pub(crate) fn fate(&self, sort: Sort, rng: &mut Xoshiro256PlusPlus) -> Fate {
        let chance = if matches!(sort, Sort::Write | Sort::Look) { self.writes } else { self.reads };
        if chance == 0.0 || !rng.random_bool(chance) {
            return Fate::Pass;
        }
        let mut late = || Duration::from_millis(rng.random_range(50..7_000));
        match sort {
            Sort::Write => {
                let late = late();
                match rng.random_range(0..13) {
                    0 | 1 => Fate::Late(late),
                    2 => Fate::LateAnswer(late),
                    3 => Fate::Refused(409, None),
                    4 => Fate::Refused(429, Some(rng.random_range(1..4))),
                    5 => Fate::Refused(500, None),
                    6 => Fate::Refused(503, None),
                    7 => Fate::Masked(504),
                    8 => Fate::Masked(500),
                    9 => Fate::Lost,
                    10 => Fate::Unanswered,
                    11 => Fate::Page(rng.random()),
                    _ => Fate::Half,
                }
            }
            Sort::Look | Sort::List => {
                let late = late();
                match rng.random_range(0..6) {
                    0 => Fate::LateAnswer(late),
                    1 => Fate::Refused(500, None),
                    2 => Fate::Refused(429, Some(1)),
                    3 => Fate::Lost,
                    4 => Fate::Page(false),
                    _ => Fate::Half,
                }
            }
            Sort::Watch => match rng.random_range(0..5) {
                0 => Fate::Refused(410, None),
                1 => Fate::Refused(503, None),
                2 => Fate::Refused(429, Some(1)),
                3 => Fate::Lost,
                _ => Fate::Page(false),
            },
        }
    }
}

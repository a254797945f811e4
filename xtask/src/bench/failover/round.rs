//! One round: what was done to a leader, and what it cost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::contender::Contender;
use super::writes::{Late, Path};
use crate::bench::report::{load_average, milliseconds, quantile};

/// What is done to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fault {
    /// SIGKILL.
    Crash,
    /// SIGTERM.
    Graceful,
    /// SIGSTOP until another leads, then SIGCONT.
    Freeze,
    /// The API server is killed and comes back.
    Outage,
}

/// What a round has shown, as the JSON holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Round {
    #[serde(serialize_with = "name", deserialize_with = "named")]
    pub(super) contender: Contender,
    pub(super) turn: usize,
    pub(super) kind: Fault,
    /// When, RFC 3339.
    at: String,
    load_average: String,
    /// Median of the floor measured just before.
    pub(super) floor_ms: Option<f64>,
    /// Whether the figures leave it out, because the floor had moved.
    pub(super) dropped: bool,
    /// None if no effect followed.
    pub(super) gap_ms: Option<f64>,
    old: String,
    new: String,
    pub(super) late_writes: usize,
    pub(super) interleaved_writes: usize,
    late_refused: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<Path>,
    /// Processes that ended by themselves and had to be started again.
    pub(super) restarts: usize,
    /// Outage: from the API server's return to the first effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resume_ms: Option<f64>,
    /// Graceful: how the process ended, and after how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit: Option<String>,
}

impl Round {
    /// A round that is about to begin.
    pub(super) fn begin(contender: Contender, turn: usize, kind: Fault, floor: &[Duration]) -> Self {
        let mut floor: Vec<_> = floor.iter().copied().map(milliseconds).collect();
        floor.sort_by(f64::total_cmp);
        Self {
            contender,
            turn,
            kind,
            at: jiff::Timestamp::now().to_string(),
            load_average: load_average(),
            floor_ms: quantile(&floor, 0.5),
            dropped: false,
            gap_ms: None,
            old: String::new(),
            new: String::new(),
            late_writes: 0,
            interleaved_writes: 0,
            late_refused: 0,
            path: None,
            restarts: 0,
            resume_ms: None,
            exit: None,
        }
    }

    pub(super) fn between(mut self, old: &str, new: &str, gap: Option<Duration>) -> Self {
        (self.old, self.new) = (old.to_owned(), new.to_owned());
        self.gap_ms = gap.map(milliseconds);
        self
    }

    pub(super) fn with_late(mut self, late: Late) -> Self {
        self.late_writes = late.accepted;
        self.interleaved_writes = late.interleaved;
        self.late_refused = late.refused;
        self
    }

    pub(super) fn with_path(mut self, path: Path) -> Self {
        self.path = Some(path);
        self
    }

    pub(super) fn with_restarts(mut self, restarts: usize) -> Self {
        self.restarts = restarts;
        self
    }

    pub(super) fn with_resume(mut self, resume: Duration) -> Self {
        self.resume_ms = Some(milliseconds(resume));
        self
    }

    pub(super) fn with_exit(mut self, exit: String) -> Self {
        self.exit = Some(exit);
        self
    }

    /// One line for whoever watches.
    pub(super) fn line(&self) -> String {
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} ms"));
        let mut line = format!("  {:?}: gap {}, floor {}", self.kind, ms(self.gap_ms), ms(self.floor_ms));
        if let Some(path) = &self.path {
            line += &format!(", {path:?}");
        }
        if self.late_writes + self.late_refused + self.restarts > 0 {
            line += &format!(
                ", late {} (interleaved {}), late refused {}, restarts {}",
                self.late_writes, self.interleaved_writes, self.late_refused, self.restarts
            );
        }
        line
    }
}

fn name<S: serde::Serializer>(contender: &Contender, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(contender.name())
}

fn named<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Contender, D::Error> {
    let name = String::deserialize(from)?;
    Contender::named(&name).ok_or_else(|| serde::de::Error::custom(format!("no contender is called {name}")))
}

//! The nemesis: three real replicas under load, whose leader is killed, frozen, stopped, cut off or slowed, again and again.
//!
//! It works against the promise that there is never more than one leader, and leaves the judgement to the [`checker`]: what
//! counts is what the API server and etcd recorded, not what anybody noticed. A run is one control plane of its own with as many
//! rounds as memory is good for; several runs add up.
//!
//! ```no_run
//! # async fn doc() -> anyhow::Result<()> {
//! use windlass_testbed::nemesis::{Fault, Plan, run};
//! let plan = Plan::scaled("target/debug/windlass").rounds(Fault::Kill, 6).rounds(Fault::Cut, 3);
//! let report = run(&plan, &windlass_testbed::progress::Silent).await?.report;
//! assert!(report.passed(), "{}", report.summary());
//! # Ok(()) }
//! ```
//!
//! [`checker`]: crate::checker

mod fault;
pub(crate) mod load;
mod report;
pub(crate) mod settle;
pub(crate) mod stage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

pub use fault::Fault;
pub use report::{Report, Round};

use crate::checker::{Rules, check, timeline};
use crate::progress::Progress;
use load::{Load, Stream};
use settle::Place;
use stage::Stage;

/// Namespace of the host, as `deploy/` has it.
pub(crate) const HOST: &str = "windlass-system";

/// What is to happen in one run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The binary `windlass`.
    pub binary: PathBuf,
    /// `--lease-duration`: what a takeover without evidence of death takes.
    pub lease: Duration,
    /// `--renew-deadline`: how long a leader writes after its last renewal.
    pub claim: Duration,
    /// `--retry-period`.
    pub retry: Duration,
    /// `--request-timeout`: what a write in flight may last.
    pub request: Duration,
    /// Whether the API server judges claims, which is what `deploy/components/fence` brings about. Default true.
    pub fence: bool,
    /// How many API servers there are, 1 or 2. With two, every second replica talks to the other one. Default 1.
    pub servers: usize,
    /// How many seconds the clocks of replica 0, 1, … count in a real one; the machine's own where nothing is said.
    pub rates: Vec<f64>,
    /// Further flags for every replica; they win over ours.
    pub flags: Vec<String>,
    /// How often each fault falls on the leader; the seed decides on the order.
    pub rounds: Vec<(Fault, u32)>,
    /// How many changes a second the load makes. Default 50.
    pub rate: u32,
    /// How many objects it changes in turn. Default 60.
    pub objects: u32,
    /// Decides on everything that is random here.
    pub seed: u64,
}

impl Plan {
    /// Durations of a fifth of the defaults, and no rounds yet.
    pub fn scaled(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            lease: Duration::from_secs(3),
            claim: Duration::from_secs(2),
            retry: Duration::from_millis(400),
            request: Duration::from_secs(2),
            fence: true,
            servers: 1,
            rates: Vec::new(),
            flags: Vec::new(),
            rounds: Vec::new(),
            rate: 50,
            objects: 60,
            seed: 1,
        }
    }

    /// The durations that the host is shipped with.
    pub fn defaults(binary: impl Into<PathBuf>) -> Self {
        Self {
            lease: Duration::from_secs(15),
            claim: Duration::from_secs(10),
            retry: Duration::from_secs(2),
            request: Duration::from_secs(5),
            ..Self::scaled(binary)
        }
    }

    /// The same with so many rounds of one more fault.
    #[must_use]
    pub fn rounds(mut self, fault: Fault, count: u32) -> Self {
        self.rounds.push((fault, count));
        self
    }

    /// The same with another seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same without the fence, which shows what the host's own care is worth, and that the checker sees what it misses.
    #[must_use]
    pub fn unfenced(mut self) -> Self {
        self.fence = false;
        self
    }

    /// The same with clocks that run fast or slow.
    #[must_use]
    pub fn rates(mut self, rates: impl Into<Vec<f64>>) -> Self {
        self.rates = rates.into();
        self
    }

    /// The same with one more flag for each replica.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// The faults in the order in which they fall.
    fn sequence(&self) -> Vec<Fault> {
        let each = self.rounds.iter().flat_map(|(fault, count)| (0..*count).map(|_| *fault));
        let mut sequence: Vec<_> = each.collect();
        sequence.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(self.seed));
        sequence
    }
}

/// What a run leaves behind.
#[derive(Debug)]
pub struct Run {
    /// Everything in numbers.
    pub report: Report,
    /// The timeline, as SVG.
    pub picture: String,
}

/// Runs a plan on a control plane of its own, and judges it.
///
/// # Errors
/// If something does not come about that no fault excuses: the control plane or a replica does not start, nobody leads after
/// everything was healed. Broken promises are no errors; the report holds them.
///
/// # Cancel safety
/// Dropping the future ends everything that was started.
pub async fn run(plan: &Plan, progress: &dyn Progress) -> Result<Run> {
    let sequence = plan.sequence();
    progress.begin("nemesis", &format!("{} rounds, seed {}", sequence.len(), plan.seed));
    let done = rounds(plan, &sequence, progress).await;
    progress.finish(done.is_ok());
    done
}

async fn rounds(plan: &Plan, sequence: &[Fault], progress: &dyn Progress) -> Result<Run> {
    let total = sequence.len() as u64;
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(plan.seed);
    let mut stage = Stage::set(plan).await?;
    let stream = Stream { rate: plan.rate, objects: plan.objects, seed: plan.seed };
    let load = Load::start(stage.client(), &stage.namespace, stream);
    let mut report = Report { seed: plan.seed, ..Report::default() };
    for (number, fault) in sequence.iter().enumerate() {
        progress.step(number as u64, total);
        // The load goes on for a while under each leader, so that each has written something.
        tokio::time::sleep(Duration::from_millis(dice.random_range(300..1_200))).await;
        let round = fault.strike(&mut stage, plan, &mut dice, &mut report).await?;
        report.rounds.push(round);
        stage.recover(plan, &mut report).await?;
    }
    progress.step(total, total);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let wanted = load.stop().await?;
    let client = stage.client();
    let place = Place { client: &client, namespace: &stage.namespace, records: &stage.records };
    let settled = settle::settle(&place, &wanted).await?;
    (report.converged_ms, report.writes_after) = (settled.converged_ms, settled.writes_after);
    report.problems.extend(settled.problems);

    let history = stage.records.read(&stage.plane).await?;
    let rules = Rules::new(HOST).servers(plan.servers);
    let rules = stage.pods().iter().fold(rules, |rules, (sender, pod)| rules.pod(sender, pod));
    if !history.requests.iter().any(|request| rules.pods.contains_key(&request.sender)) {
        report.problems.push("the audit log does not tell one replica from another".to_owned());
    }
    report.verdict = check(&history, &rules);
    report.measure();
    let picture = timeline(&history, &report.verdict);
    (report.verdict.term_list, report.verdict.lease_terms) = Default::default();
    Ok(Run { report, picture })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_on_the_order_of_the_faults_and_loses_none() {
        let plan = Plan::scaled("windlass").rounds(Fault::Kill, 5).rounds(Fault::Cut, 3);
        let sequence = plan.sequence();
        assert_eq!(sequence, plan.sequence());
        assert_eq!(sequence.iter().filter(|fault| **fault == Fault::Cut).count(), 3);
        assert_eq!(sequence.len(), 8);
        let others = (2..6).map(|seed| plan.clone().seed(seed).sequence());
        assert!(others.into_iter().any(|other| other != sequence));
    }
}

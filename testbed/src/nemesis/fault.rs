//! What happens to a leader, one fault a round.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

use super::report::{Report, Round};
use super::stage::{Leader, Stage, now_us};
use super::{HOST, Plan};
use crate::faultd::{Action, EventFault, Rule, Verb, Way};
use crate::process::Signal;

/// How long a replica may take to end after SIGTERM: more than `--shutdown-timeout`.
const END_WITHIN: Duration = Duration::from_secs(25);

/// How long it takes a standby to read or write the Lease: less than it waits for an answer.
const RACE: Duration = Duration::from_millis(700);

/// The pieces of the time for which writes of a leader that ends are on their way; all together
/// less than it may wait for them. Each write is late by some of them, so that some arrive when
/// another leads and has not come to the same object yet.
const ON_THE_WAY: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(350),
];

/// A way to lose a leader, or to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP until another leads and a bit longer, then SIGCONT.
    Freeze,
    /// SIGTERM.
    Stop,
    /// Silence between it and the API server until another leads and a bit longer; what was on its way arrives then.
    Cut,
    /// The answers to its renewals come later than its claim ends, and its writes arrive late.
    Slow,
    /// Its renewals and its writes are held on their way; the writes arrive when another leads and has written.
    Hold,
    /// Its last renewal is answered only shortly before its claim ends, and no later one arrives.
    Lag,
    /// SIGKILL, while one standby is slow to read and to write the Lease: what it sends arrives in the other's term.
    Race,
    /// SIGTERM, while its writes are on their way for most of a second.
    Drain,
    /// SIGSTOP for less than its claim lasts, then SIGCONT: no reason for anybody to take over.
    Doze,
    /// For twice the lease it may run 5 ms in each 100, as under a CPU quota of 5 %: it may keep the Lease or lose it.
    Starve,
    /// The Lease is deleted by hand.
    Wipe,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Kill,
        Self::Freeze,
        Self::Stop,
        Self::Cut,
        Self::Slow,
        Self::Hold,
        Self::Lag,
        Self::Race,
        Self::Drain,
        Self::Doze,
        Self::Starve,
        Self::Wipe,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Stop => "stop",
            Self::Cut => "cut",
            Self::Slow => "slow",
            Self::Hold => "hold",
            Self::Lag => "lag",
            Self::Race => "race",
            Self::Drain => "drain",
            Self::Doze => "doze",
            Self::Starve => "starve",
            Self::Wipe => "wipe",
        }
    }

    /// Whether a new term has to follow.
    pub fn ends_a_term(self) -> bool {
        !matches!(self, Self::Doze | Self::Starve)
    }

    /// Falls on whoever leads, waits for the next term, and takes itself back.
    pub(super) async fn strike(
        self,
        stage: &mut Stage,
        plan: &Plan,
        dice: &mut Xoshiro256PlusPlus,
        report: &mut Report,
    ) -> Result<Round> {
        let (leader, seat) = stage.leading().await?;
        let at_us = now_us();
        let beyond = Duration::from_millis(dice.random_range(0..1_500));
        let next = match self {
            Self::Kill => {
                stage.take(seat)?.kill().await?;
                stage.successor(&leader, plan).await?
            }
            Self::Stop => stop(stage, seat, &leader, plan, report).await?,
            Self::Drain => {
                drain(stage, seat, dice).await?;
                let next = stop(stage, seat, &leader, plan, report).await;
                stage.port(seat).clear();
                next?
            }
            Self::Freeze => {
                stage.signal(seat, Signal::STOP)?;
                let next = stage.successor(&leader, plan).await;
                tokio::time::sleep(beyond).await;
                stage.signal(seat, Signal::CONT)?;
                next?
            }
            Self::Cut => {
                stage.port(seat).cut();
                let next = stage.successor(&leader, plan).await;
                tokio::time::sleep(beyond).await;
                stage.port(seat).heal().await?;
                next?
            }
            Self::Slow => slow(stage, seat, &leader, plan).await?,
            Self::Hold => hold(stage, seat, &leader, plan, beyond).await?,
            Self::Lag => lag(stage, seat, &leader, plan, beyond).await?,
            Self::Race => {
                let late = Rule::new(Action::Delay(Way::Request, RACE)).resource("leases");
                let late = late.verb(Verb::Get).verb(Verb::Update).verb(Verb::Create).verb(Verb::Patch);
                let late = stage.port(stage.after(seat)).rule(late);
                stage.take(seat)?.kill().await?;
                let next = stage.successor(&leader, plan).await;
                tokio::time::sleep(RACE + beyond).await;
                late.remove();
                next?
            }
            Self::Doze => {
                stage.signal(seat, Signal::STOP)?;
                tokio::time::sleep(plan.claim.mul_f64(dice.random_range(0.3..0.9))).await;
                stage.signal(seat, Signal::CONT)?;
                tokio::time::sleep(Duration::from_millis(500)).await;
                None
            }
            Self::Starve => {
                starve(stage, seat, plan.lease * 2).await?;
                stage.claimant().await.filter(|next| *next != leader)
            }
            Self::Wipe => {
                stage
                    .delete(&format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass"))
                    .await?;
                stage.successor(&leader, plan).await?
            }
        };
        if next.is_none() && self.ends_a_term() {
            report.problems.push(format!("nobody took over after {self} of {}", leader.identity));
        }
        Ok(Round::new(self, at_us, &leader, next.as_ref()))
    }
}

/// Lets it run for a twentieth of the time, in slices as the kernel's own quota has them.
async fn starve(stage: &Stage, seat: usize, duration: Duration) -> Result<()> {
    let (runs, waits) = (Duration::from_millis(5), Duration::from_millis(95));
    let end = tokio::time::Instant::now() + duration;
    while tokio::time::Instant::now() < end {
        stage.signal(seat, Signal::STOP)?;
        tokio::time::sleep(waits).await;
        stage.signal(seat, Signal::CONT)?;
        tokio::time::sleep(runs).await;
    }
    Ok(())
}

/// Makes its writes late, and waits until some are on their way.
async fn drain(stage: &Stage, seat: usize, dice: &mut Xoshiro256PlusPlus) -> Result<()> {
    let mut on_their_way = Vec::new();
    for piece in ON_THE_WAY {
        let late = Rule::new(Action::Delay(Way::Request, piece)).writes().resource("configmaps");
        on_their_way.push(stage.port(seat).rule(late.share(0.5, dice.random())));
    }
    for late in on_their_way {
        late.hit(2, END_WITHIN).await.context("a leader under load writes")?;
    }
    Ok(())
}

/// Asks it to end as a kubelet does.
async fn stop(
    stage: &mut Stage,
    seat: usize,
    leader: &Leader,
    plan: &Plan,
    report: &mut Report,
) -> Result<Option<Leader>> {
    let (status, took) = stage.take(seat)?.terminate(END_WITHIN).await?;
    if status.code() != Some(0) {
        report.problems.push(format!("{} ended with {status} after {took:?}", leader.pod));
    }
    stage.successor(leader, plan).await
}

/// Renewals are answered after the claim's end, and what was sent arrives half a claim late: often in somebody else's term.
async fn slow(stage: &Stage, seat: usize, leader: &Leader, plan: &Plan) -> Result<Option<Leader>> {
    let port = stage.port(seat);
    let answers = Action::Delay(Way::Response, plan.claim + Duration::from_secs(1));
    port.rule(Rule::new(answers).resource("leases").verb(Verb::Update).verb(Verb::Patch));
    port.rule(
        Rule::new(Action::Delay(Way::Request, plan.claim / 2)).resource("configmaps").verb(Verb::Patch),
    );
    let next = stage.successor(leader, plan).await;
    port.clear();
    next.context("while the leader was slow")
}

/// A leader that counts its claim from the answer, and not from when it asked, writes on beyond the lease.
async fn lag(
    stage: &Stage,
    seat: usize,
    leader: &Leader,
    plan: &Plan,
    beyond: Duration,
) -> Result<Option<Leader>> {
    let port = stage.port(seat);
    // As late as an answer may come: the claim that it is to prolong began a retry period before.
    let late = plan.claim.saturating_sub(plan.retry).mul_f64(0.95);
    let answer = Action::Delay(Way::Response, late);
    let last = port.rule(Rule::new(answer).writes().resource("leases").first(1));
    last.hit(1, plan.retry * 10).await.context("a leader renews")?;
    // Nor does it see who else takes the Lease: only its own clock can tell it to stop.
    port.rule(Rule::new(Action::Events(EventFault::Hold)).resource("leases"));
    port.rule(Rule::new(Action::Blackhole(Way::Request)).resource("leases"));
    let next = stage.successor(leader, plan).await;
    tokio::time::sleep(Duration::from_millis(500) + beyond).await;
    port.clear();
    next
}

/// Its writes are carried out only when somebody else leads: the oldest of them had not been answered for a whole claim by then.
async fn hold(
    stage: &Stage,
    seat: usize,
    leader: &Leader,
    plan: &Plan,
    beyond: Duration,
) -> Result<Option<Leader>> {
    let port = stage.port(seat);
    for resource in ["configmaps", "widgets"] {
        port.rule(Rule::new(Action::Hold(Way::Request)).writes().resource(resource));
    }
    // A moment with renewals, so that there are writes to hold.
    tokio::time::sleep(plan.retry).await;
    port.rule(Rule::new(Action::Blackhole(Way::Request)).writes().resource("leases"));
    let next = stage.successor(leader, plan).await;
    tokio::time::sleep(Duration::from_millis(500) + beyond).await;
    // Removing the rules lets go of what they hold.
    port.clear();
    next
}

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|fault| fault.name() == text);
        found.ok_or_else(|| format!("no fault is called {text:?}, only: {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_found_by_its_name() {
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.to_string());
        }
        assert!("nap".parse::<Fault>().unwrap_err().contains("kill, freeze"));
    }
}

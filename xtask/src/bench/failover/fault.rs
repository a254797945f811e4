//! The faults: each is done to the leader under the stream, and followed until another one's effects are seen.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use windlass_testbed::{Mark, Signal, Stop};

use super::floor::Floor;
use super::load;
use super::round::{Fault, Round};
use super::team::{PATIENCE, Team};
use super::writes::{History, Moment};
use crate::bench::observe::Observer;

/// Effects of a new leader that are waited for: it works, and not only by chance.
const ENOUGH: usize = 20;
/// The leader works at least so long before a fault, and at most a retry period longer: faults meet leases of every age.
const WORKS: Duration = Duration::from_millis(300);
const RETRY_PERIOD_MS: u64 = 2000;
/// How long a frozen leader stays frozen after another one works.
const STAYS_FROZEN: Duration = Duration::from_secs(2);
/// How long is looked on after it resumes: longer than any deadline that it may believe to have.
const AFTER_RESUME: Duration = Duration::from_secs(14);
/// How long is looked on after an outage, for processes that end late.
const AFTER_OUTAGE: Duration = Duration::from_secs(15);

/// Everything that a round needs.
pub(super) struct Scene<'a> {
    pub(super) team: Team<'a>,
    pub(super) client: Client,
    pub(super) observer: Observer,
    pub(super) floor: Floor,
    pub(super) turn: usize,
    pub(super) outage: Duration,
}

impl Scene<'_> {
    /// Does one fault to the leader of a team that has settled.
    pub(super) async fn round(&mut self, fault: Fault) -> Result<Round> {
        let old = self.team.settled().await?;
        let floor = self.floor.measure().await?;
        let mark = self.team.stage.demo.control.audit()?.mark()?;
        self.observer.clear();
        let age = RandomState::new().build_hasher().finish() % RETRY_PERIOD_MS;
        tokio::time::sleep(WORKS + Duration::from_millis(age)).await;
        let round = Round::begin(self.team.contender, self.turn, fault, &floor);
        let round = match fault {
            Fault::Crash | Fault::Graceful => self.end(round, fault, &old, mark).await?,
            Fault::Freeze => self.freeze(round, &old, mark).await?,
            Fault::Outage => self.outage(round, &old, mark).await?,
        };
        eprintln!("{}", round.line());
        Ok(round)
    }

    async fn end(&mut self, round: Round, fault: Fault, old: &str, mark: Mark) -> Result<Round> {
        let process = self.team.take(old)?;
        self.next_effect().await?;
        let at = Moment::now();
        if fault == Fault::Crash {
            process.signal(Signal::KILL)?;
        }
        let ending = tokio::spawn(async move {
            match fault {
                Fault::Crash => process.kill().await.map(|status| (status, None)),
                _ => process.terminate(PATIENCE).await.map(|(status, took)| (status, Some(took))),
            }
        });
        self.one_more().await?;
        let new = self.followed(old).await?;
        let (status, took) = ending.await.context("the process was lost")??;
        let history = self.history(mark).await?;
        let between = history.between(&self.observer.seen(), old);
        let gap = between.map(|(last, first)| first - last);
        self.team.start_again(old)?;
        let restarts = self.team.mend()?;
        let round = round
            .between(old, &new, gap)
            .with_late(history.late(old))
            .with_path(history.path(at, &new, between));
        let round = round.with_restarts(restarts);
        Ok(match took {
            Some(took) => round.with_exit(format!("{status} after {} ms", took.as_millis())),
            None => round,
        })
    }

    async fn freeze(&mut self, round: Round, old: &str, mark: Mark) -> Result<Round> {
        self.next_effect().await?;
        let at = Moment::now();
        self.team.get(old)?.signal(Signal::STOP)?;
        self.one_more().await?;
        let new = self.followed(old).await;
        let new = match new {
            Ok(new) => new,
            Err(error) => {
                self.team.get(old)?.signal(Signal::CONT)?;
                return Err(error);
            }
        };
        tokio::time::sleep(STAYS_FROZEN).await;
        self.team.get(old)?.signal(Signal::CONT)?;
        tokio::time::sleep(AFTER_RESUME).await;
        let history = self.history(mark).await?;
        let between = history.between(&self.observer.seen(), old);
        let gap = between.map(|(last, first)| first - last);
        let restarts = self.team.mend()?;
        let round = round
            .between(old, &new, gap)
            .with_late(history.late(old))
            .with_path(history.path(at, &new, between));
        Ok(round.with_restarts(restarts))
    }

    async fn outage(&mut self, round: Round, old: &str, mark: Mark) -> Result<Round> {
        let control = &self.team.stage.demo.control;
        control.stop_apiserver(Stop::Kill).await?;
        let (gone, mut restarts) = (Instant::now(), 0);
        while gone.elapsed() < self.outage {
            restarts += self.team.mend()?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        control.start_apiserver().await?;
        let back = Instant::now();
        let mut settled_since = None;
        while settled_since.is_none_or(|since: Instant| since.elapsed() < AFTER_OUTAGE) {
            restarts += self.team.mend()?;
            if self.observer.count_after(back) >= ENOUGH {
                settled_since.get_or_insert_with(Instant::now);
            } else if back.elapsed() > PATIENCE {
                bail!("no effects within {PATIENCE:?} after the outage");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let seen = self.observer.seen();
        let first = seen.iter().find(|seen| seen.at > gone).context("effects were seen")?;
        let last = seen.iter().rev().find(|seen| seen.at <= gone);
        let gap = last.map(|last| first.at.saturating_duration_since(last.at));
        let new = self.team.leader().await.unwrap_or_default();
        let history = self.history(mark).await?;
        let late = if new == old { Default::default() } else { history.late(old) };
        let resume = first.at.saturating_duration_since(back);
        Ok(round.between(old, &new, gap).with_late(late).with_restarts(restarts).with_resume(resume))
    }

    /// Waits for the leader's next effect: a fault hits it at work, and the gap does not begin with an idle moment.
    async fn next_effect(&self) -> Result<()> {
        let began = Instant::now();
        while self.observer.count_after(began) == 0 {
            if began.elapsed() > PATIENCE {
                bail!("the leader does nothing");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Asks for something to do right now.
    async fn one_more(&self) -> Result<()> {
        load::one_more(&self.client, &self.team.namespace).await
    }

    /// Waits until another replica leads and its effects are seen.
    async fn followed(&self, old: &str) -> Result<String> {
        let new = self.team.other_than(old).await?;
        let led = Instant::now();
        self.team
            .until("the new leader works", || async {
                (self.observer.count_after(led) >= ENOUGH).then_some(())
            })
            .await?;
        Ok(new)
    }

    /// Reads the audit log, off the runtime's threads.
    async fn history(&self, mark: Mark) -> Result<History> {
        let (contender, namespace) = (self.team.contender, &self.team.namespace);
        let control = &self.team.stage.demo.control;
        tokio::task::block_in_place(|| History::read(control, mark, contender, namespace))
    }
}

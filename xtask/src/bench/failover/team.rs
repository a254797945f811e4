//! The three replicas of the contender whose turn it is.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use windlass_testbed::Replica;

use super::contender::Contender;
use super::stage::Stage;

/// How many replicas everybody has.
pub(super) const REPLICAS: usize = 3;
/// How long anything may take before a turn is given up; the longest lease here is 30 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the Lease. Coarse on purpose: no figure depends on it, and looking costs the API server.
const LOOK: Duration = Duration::from_millis(50);
/// After a replica is ready: its standby duties (watches, connections) settle.
const SETTLE: Duration = Duration::from_millis(300);
/// A process that ends is started again at once, but then no sooner than this: about what a kubelet does.
const RESTART_PAUSE: Duration = Duration::from_secs(10);

/// Running replicas, and who supervises them.
pub(super) struct Team<'a> {
    pub(super) stage: &'a Stage,
    pub(super) contender: Contender,
    pub(super) namespace: String,
    replicas: Vec<Replica>,
    restarted: BTreeMap<String, Instant>,
}

impl<'a> Team<'a> {
    /// Starts all replicas and waits until they are ready and one leads.
    pub(super) async fn start(stage: &'a Stage, contender: Contender, namespace: &str) -> Result<Self> {
        let mut replicas = Vec::new();
        for index in 0..REPLICAS {
            replicas.push(stage.replica(contender, namespace, index)?);
        }
        let namespace = namespace.to_owned();
        let mut team = Self { stage, contender, namespace, replicas, restarted: BTreeMap::new() };
        team.settled().await?;
        Ok(team)
    }

    /// Waits until all are ready, one leads, and the standbys have settled. Says who leads.
    pub(super) async fn settled(&mut self) -> Result<String> {
        let began = Instant::now();
        for replica in &mut self.replicas {
            while !replica.is_ready().await {
                replica.check_alive()?;
                if began.elapsed() > PATIENCE {
                    bail!("{} is not ready after {PATIENCE:?}:\n{}", replica.name(), tail(replica));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let team = &*self;
        let leader = team
            .until("one of them leads", || async {
                let leader = team.leader().await?;
                team.replicas.iter().any(|replica| replica.name() == leader).then_some(leader)
            })
            .await?;
        tokio::time::sleep(SETTLE).await;
        Ok(leader)
    }

    /// The replica that the Lease names.
    pub(super) async fn leader(&self) -> Option<String> {
        let namespace = if self.contender.is_ours() { "windlass-system" } else { &self.namespace };
        let name = self.contender.lease();
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}");
        let lease = self.stage.demo.get(&path).await?;
        let holder = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
        holder.split('_').next().map(str::to_owned)
    }

    /// Waits until somebody else than `old` leads. Says who.
    pub(super) async fn other_than(&self, old: &str) -> Result<String> {
        self.until("another replica leads", || async { self.leader().await.filter(|leader| leader != old) })
            .await
    }

    pub(super) fn get(&self, name: &str) -> Result<&Replica> {
        self.replicas.iter().find(|replica| replica.name() == name).context("no such replica")
    }

    /// Takes one out, to end it.
    pub(super) fn take(&mut self, name: &str) -> Result<Replica> {
        let at =
            self.replicas.iter().position(|replica| replica.name() == name).context("no such replica")?;
        Ok(self.replicas.swap_remove(at))
    }

    /// Starts a replica of this name again.
    pub(super) fn start_again(&mut self, name: &str) -> Result<()> {
        let index =
            name.rsplit('-').next().and_then(|index| index.parse().ok()).context("a replica's number")?;
        self.replicas.push(self.stage.replica(self.contender, &self.namespace, index)?);
        Ok(())
    }

    /// Starts again whoever has ended by itself, as a kubelet would. Says how many had ended.
    pub(super) fn mend(&mut self) -> Result<usize> {
        let mut ended = Vec::new();
        for replica in &mut self.replicas {
            let pausing = self.restarted.get(replica.name()).is_some_and(|at| at.elapsed() < RESTART_PAUSE);
            if !pausing && replica.check_alive().is_err() {
                ended.push(replica.name().to_owned());
            }
        }
        for name in &ended {
            drop(self.take(name)?);
            self.start_again(name)?;
            self.restarted.insert(name.clone(), Instant::now());
        }
        Ok(ended.len())
    }

    /// Asks every now and then until there is an answer.
    pub(super) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut ask: impl FnMut() -> F,
    ) -> Result<T> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(answer) = ask().await {
                return Ok(answer);
            }
            tokio::time::sleep(LOOK).await;
        }
        let logs: Vec<_> = self.replicas.iter().map(|r| format!("--- {}\n{}", r.name(), tail(r))).collect();
        bail!("not within {PATIENCE:?}: {what}\n{}", logs.join("\n"))
    }

    /// Ends all replicas in order.
    pub(super) async fn stop(self) -> Result<()> {
        for replica in self.replicas {
            replica.terminate(Duration::from_secs(10)).await.ok();
        }
        Ok(())
    }
}

/// The end of a replica's log.
fn tail(replica: &Replica) -> String {
    let log = replica.log();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

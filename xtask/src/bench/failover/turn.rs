//! One contender's turn: a namespace of its own, three replicas, the stream, the faults, and everything removed again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Order;
use super::contender::{Contender, Counts};
use super::fault::Scene;
use super::floor::Floor;
use super::load::{self, Stream};
use super::round::{Fault, Round};
use super::stage::Stage;
use super::team::Team;
use crate::bench::observe::Observer;

/// How long it is measured how much a contender can follow.
const CAPACITY: Duration = Duration::from_secs(5);
/// How long the last changes may take to be followed before they count as lost.
const CATCH_UP: Duration = Duration::from_secs(30);

/// Plays the turn. Rounds are added as they end, so that those before a failure are kept; the notes say what else was seen.
pub(super) async fn play(
    stage: &Stage,
    contender: Contender,
    turn: usize,
    counts: Counts,
    order: &Order,
    rounds: &mut Vec<Round>,
) -> Result<Value> {
    stage.demo.renew_token().await?;
    let namespace = stage.demo.control.namespace(&format!("bench-{}", contender.name())).await?;
    load::create(stage, &namespace).await?;
    let result = rounds_of(stage, contender, turn, counts, order, &namespace, rounds).await;
    // In any case, so that the next contender finds nothing of this one's.
    let removed = load::remove(stage, &namespace).await;
    let notes = result?;
    removed.map(|()| notes)
}

async fn rounds_of(
    stage: &Stage,
    contender: Contender,
    turn: usize,
    counts: Counts,
    order: &Order,
    namespace: &str,
    rounds: &mut Vec<Round>,
) -> Result<Value> {
    let team = Team::start(stage, contender, namespace).await?;
    stage.demo.until("all children exist", || in_step(stage, namespace)).await?;
    let client = stage.client()?;
    let observer = Observer::start(client.clone(), load::children(namespace), load::host_of).await?;
    let floor = Floor::start(client.clone(), namespace).await?;
    let every = order.every.context("the stream was calibrated")?;
    let stream = Stream::start(client.clone(), namespace.to_owned(), every);
    let mut scene = Scene { team, client, observer, floor, turn, outage: order.outage };
    let kinds = [
        (Fault::Crash, counts.crashes),
        (Fault::Graceful, counts.ends),
        (Fault::Freeze, counts.freezes),
        (Fault::Outage, counts.outages),
    ];
    for (fault, count) in kinds {
        for _ in 0..count {
            rounds.push(scene.round(fault).await.with_context(|| format!("{fault:?}"))?);
        }
    }
    scene.team.settled().await?;
    let changes = stream.stop();
    let lost = lost(stage, namespace).await?;
    scene.team.stop().await?;
    Ok(json!({ "changes": changes, "lost_effects": lost }))
}

/// How many changes a second this contender can follow, with everything else on this machine.
pub(super) async fn capacity(stage: &Stage, contender: Contender) -> Result<f64> {
    stage.demo.renew_token().await?;
    let namespace = stage.demo.control.namespace(&format!("bench-{}", contender.name())).await?;
    load::create(stage, &namespace).await?;
    let team = Team::start(stage, contender, &namespace).await?;
    stage.demo.until("all children exist", || in_step(stage, &namespace)).await?;
    let capacity = load::follow(&stage.client()?, &namespace, CAPACITY).await;
    team.stop().await?;
    load::remove(stage, &namespace).await?;
    capacity
}

/// Says something once every WebApp has the Ingress that it asks for.
async fn in_step(stage: &Stage, namespace: &str) -> Option<()> {
    (load::behind(stage, namespace).await? == 0).then_some(())
}

/// How many changes were not followed in the end.
async fn lost(stage: &Stage, namespace: &str) -> Result<usize> {
    let began = Instant::now();
    loop {
        let behind = load::behind(stage, namespace).await.context("list what there is")?;
        if behind == 0 || began.elapsed() > CATCH_UP {
            return Ok(behind);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

//! A stream of changes at a steady pace, and what became of each: how long until its effect, whether it was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Client;
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::observe::Observer;
use super::report::{milliseconds, quantile};

/// Changes that may be on the way at once; further ones are left out and counted.
const IN_FLIGHT: usize = 64;
/// How long the last effects may take before they count as lost.
const LAST: Duration = Duration::from_secs(20);
/// Objects that are changed at once while it is measured how much can be followed.
const AT_ONCE: usize = 8;

/// What is changed, and where its effect is seen.
#[derive(Clone)]
pub(crate) struct Target {
    /// The object.
    pub(crate) path: String,
    /// The child that says afterwards what the change said.
    pub(crate) effect: String,
    /// The merge patch that says it.
    pub(crate) change: fn(&str) -> Value,
}

/// What came of a stream.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Flowed {
    /// From the sending of a change to its effect in the observer's watch, in milliseconds, sorted.
    #[serde(skip)]
    pub(crate) took_ms: Vec<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// The longest of those that were sent in each second of the stream.
    pub(crate) worst_ms: Vec<f64>,
    /// Changes that the API server took.
    pub(crate) made: usize,
    /// Changes that it did not, or for which there was no room.
    pub(crate) failed: usize,
    /// Changes whose effect was overtaken by that of a later one.
    pub(crate) merged: usize,
    /// Objects whose last change has had no effect, long afterwards.
    pub(crate) lost: usize,
}

/// One change that was sent.
struct Sent {
    target: usize,
    text: String,
    at: Instant,
    taken: bool,
}

/// Texts are never used twice in a run.
static NEXT: AtomicU64 = AtomicU64::new(1);

fn next_text() -> String {
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

/// Changes the targets in turn, `rate` a second for as long as `during`, whether anybody follows or not.
///
/// # Errors
/// If a task of ours is lost.
pub(crate) async fn flow(
    client: &Client,
    observer: &Observer,
    targets: &[Target],
    rate: f64,
    during: Duration,
) -> Result<Flowed> {
    observer.clear();
    let mut clock = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    // After a stall of the harness itself: no burst.
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut on_the_way, mut sent, mut left_out) = (JoinSet::new(), Vec::new(), 0);
    let until = Instant::now() + during;
    let mut turn = (0..targets.len()).cycle();
    while Instant::now() < until {
        clock.tick().await;
        while let Some(done) = on_the_way.try_join_next() {
            sent.push(done.context("a change was lost")?);
        }
        let Some(target) = turn.next().filter(|_| on_the_way.len() < IN_FLIGHT) else {
            left_out += 1;
            continue;
        };
        let (client, to) = (client.clone(), targets[target].clone());
        on_the_way.spawn(async move {
            let (text, at) = (next_text(), Instant::now());
            let taken = change(&client, &to, &text).await.is_ok();
            Sent { target, text, at, taken }
        });
    }
    while let Some(done) = on_the_way.join_next().await {
        sent.push(done.context("a change was lost")?);
    }
    settle(observer, targets, &sent).await;
    Ok(judge(observer, targets, &sent, left_out))
}

/// Waits until each target's last change has had its effect, or it is too late.
async fn settle(observer: &Observer, targets: &[Target], sent: &[Sent]) {
    let began = Instant::now();
    let last = last(sent);
    while began.elapsed() < LAST {
        let seen = effects(observer);
        if last
            .iter()
            .all(|(target, text)| seen.contains_key(&(targets[*target].effect.clone(), (*text).to_owned())))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The last change that was made to each target. Two to one object are never on the way at once, as long as there are more
/// targets than [`IN_FLIGHT`]; with fewer the later one by sending is taken.
fn last(sent: &[Sent]) -> HashMap<usize, &str> {
    let mut last: HashMap<usize, &Sent> = HashMap::new();
    for change in sent.iter().filter(|change| change.taken) {
        let known = last.entry(change.target).or_insert(change);
        if known.at <= change.at {
            *known = change;
        }
    }
    last.into_iter().map(|(target, change)| (target, change.text.as_str())).collect()
}

/// When each effect was first seen.
fn effects(observer: &Observer) -> HashMap<(String, String), Instant> {
    let mut effects = HashMap::new();
    for seen in observer.seen() {
        effects.entry((seen.name, seen.mark)).or_insert(seen.at);
    }
    effects
}

fn judge(observer: &Observer, targets: &[Target], sent: &[Sent], left_out: usize) -> Flowed {
    let seen = effects(observer);
    let when = |target: usize, text: &str| seen.get(&(targets[target].effect.clone(), text.to_owned()));
    let lost = last(sent).into_iter().filter(|(target, text)| when(*target, text).is_none()).count();
    let made: Vec<_> = sent.iter().filter(|change| change.taken).collect();
    let took = made
        .iter()
        .filter_map(|change| Some(when(change.target, &change.text)?.saturating_duration_since(change.at)));
    let mut took_ms: Vec<_> = took.map(milliseconds).collect();
    took_ms.sort_by(f64::total_cmp);
    Flowed {
        worst_ms: worst(&made, |change| when(change.target, &change.text).copied()),
        p50_ms: quantile(&took_ms, 0.5),
        p99_ms: quantile(&took_ms, 0.99),
        made: made.len(),
        failed: sent.len() - made.len() + left_out,
        merged: made.len() - took_ms.len() - lost.min(made.len() - took_ms.len()),
        lost,
        took_ms,
    }
}

/// The longest time from sending to effect of each second, in milliseconds; 0 where nothing was sent.
fn worst(made: &[&Sent], effect: impl Fn(&Sent) -> Option<Instant>) -> Vec<f64> {
    let mut worst = Vec::new();
    let Some(began) = made.iter().map(|change| change.at).min() else { return worst };
    for change in made {
        let second = usize::try_from((change.at - began).as_secs()).unwrap_or(usize::MAX);
        if let Some(at) = effect(change).filter(|_| second < 3600) {
            worst.resize(worst.len().max(second + 1), 0.0);
            worst[second] = worst[second].max(milliseconds(at.saturating_duration_since(change.at)));
        }
    }
    worst
}

/// Makes a change only when the one before it has been followed, on a few objects at once. Gives back changes a second.
///
/// # Errors
/// If a change is refused, or not followed for long.
pub(crate) async fn capacity(
    client: &Client,
    observer: Arc<Observer>,
    targets: &[Target],
    during: Duration,
) -> Result<f64> {
    observer.clear();
    let until = Instant::now() + during;
    let mut workers = JoinSet::new();
    let began = Instant::now();
    for worker in 0..AT_ONCE {
        let own: Vec<_> = targets.iter().skip(worker).step_by(AT_ONCE).cloned().collect();
        let (client, observer) = (client.clone(), observer.clone());
        workers.spawn(async move {
            let mut followed = 0_u32;
            for target in own.iter().cycle() {
                if Instant::now() > until {
                    break;
                }
                let text = next_text();
                change(&client, target, &text).await?;
                while observer.first(&target.effect, &text).is_none() {
                    anyhow::ensure!(Instant::now() < until + LAST, "a change is not followed");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                followed += 1;
            }
            anyhow::Ok(followed)
        });
    }
    let mut followed = 0;
    while let Some(worker) = workers.join_next().await {
        followed += worker.context("a worker was lost")??;
    }
    Ok(f64::from(followed) / began.elapsed().as_secs_f64())
}

/// One change.
pub(crate) async fn change(client: &Client, target: &Target, text: &str) -> Result<()> {
    let request = http::Request::patch(&target.path)
        .header("content-type", "application/merge-patch+json")
        .body((target.change)(text).to_string().into_bytes())?;
    client.request::<Value>(request).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_an_object_is_the_one_that_counts() {
        let now = Instant::now();
        let sent = |target, text: &str, ms, taken| Sent {
            target,
            text: text.to_owned(),
            at: now + Duration::from_millis(ms),
            taken,
        };
        let all =
            [sent(0, "b", 5, true), sent(0, "a", 1, true), sent(0, "c", 9, false), sent(1, "d", 2, true)];
        let last = last(&all);
        assert_eq!((last[&0], last[&1]), ("b", "d"));
    }
}

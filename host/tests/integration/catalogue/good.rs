//! Two plugins that behave, at work all the time: whatever happens beside them, what they
//! want comes true.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::offer::{Signer, signed};
use crate::scene::{Scene, built};

/// What was seen of the good plugins.
#[derive(Debug, Default)]
pub(crate) struct Worked {
    /// When a person changed something, and how long it took until the result was seen; in order.
    pub(crate) times: Vec<(Instant, Duration)>,
}

impl Worked {
    /// The time that so many in a hundred did not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut times: Vec<Duration> = self.times.iter().map(|(_, took)| *took).collect();
        times.sort_unstable();
        times[(times.len() * percent / 100).min(times.len() - 1)]
    }

    /// The longest time of what began within `phase`.
    pub(crate) fn longest(&self, phase: &RangeInclusive<Instant>) -> Duration {
        let began = self.times.iter().filter(|(at, _)| phase.contains(at));
        began.map(|(_, took)| *took).max().unwrap_or_default()
    }
}

/// Installs them.
pub(crate) async fn install(scene: &Scene, signer: &Signer) {
    for name in ["greeter", "sibling"] {
        let component = built("windlass-fixtures", Some(name)).await;
        scene.apply(signed(signer, name, &component, 1)).await;
    }
}

/// Changes what they are about, again and again, and waits for each result; until `done`.
pub(crate) async fn work(scene: &Scene, done: &AtomicBool) -> Worked {
    let mut worked = Worked::default();
    let mut turn = 0_u32;
    while !done.load(Ordering::Relaxed) {
        turn += 1;
        let name = format!("good-{}", turn % 7);
        let text = format!("turn {turn}");
        scene.widget(&name, json!({"text": text})).await;
        let since = Instant::now();
        scene
            .until("the good plugins go on", || async {
                let greeting = scene.own("ConfigMap", &format!("{name}-greeting")).await?;
                scene.own("ConfigMap", &format!("{name}-sibling")).await?;
                (greeting["data"]["text"] == text.as_str()).then_some(())
            })
            .await;
        worked.times.push((since, since.elapsed()));
    }
    worked
}

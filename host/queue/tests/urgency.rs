//! Who goes first among the keys of one plugin, on paused time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{advance, timeout};
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::outcome::Next;
use windlass_core::ports::Sink as _;
use windlass_queue::Urgency::{Change, Related, Resync, Startup};
use windlass_queue::{Config, Queue, Running, Urgency};

fn key(name: &str) -> Key {
    Key::new(PluginName::try_new("p").expect("valid"), "ns", name)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The next key within an hour of paused time.
async fn next(queue: &Arc<Queue>) -> Running {
    timeout(Duration::from_secs(3600), queue.next()).await.expect("a key is due")
}

/// How urgent a key is now.
fn urgency(queue: &Queue, name: &str) -> Urgency {
    let view = queue.snapshot();
    let row = view.rows.iter().find(|row| row.key == key(name).to_string());
    row.expect("it is queued").urgency
}

/// The names of all keys that are ready, in the order in which they are handed out.
async fn order(queue: &Arc<Queue>) -> String {
    let mut names = Vec::new();
    while queue.depth() > 0 {
        let running = next(queue).await;
        names.push(running.key().name.to_string());
        running.finish(Next::OnChange);
    }
    names.join(" ")
}

#[tokio::test(start_paused = true)]
async fn a_user_goes_before_echoes_and_these_before_what_nobody_waits_for() {
    let queue = Queue::new(Config::default());
    for (name, urgency) in [("start", Startup), ("all", Resync), ("child", Related), ("user", Change)] {
        queue.offer_as(key(name), urgency);
    }
    // The second turn of a lane is for what a child brought, and would be anyway.
    assert_eq!(order(&queue).await, "user child all start");
}

#[tokio::test(start_paused = true)]
async fn one_change_is_not_kept_waiting_by_ten_thousand_objects_that_a_start_brings() {
    let queue = Queue::new(Config::default());
    for n in 0..10_000 {
        queue.offer_as(key(&format!("o{n}")), Startup);
    }
    for n in 9_000..9_100 {
        next(&queue).await.finish(Next::OnChange);
        let changed = key(&format!("o{n}"));
        queue.offer(changed.clone());
        let before = async {
            let mut before = 0;
            loop {
                let running = next(&queue).await;
                let is_it = *running.key() == changed;
                running.finish(Next::OnChange);
                if is_it {
                    break before;
                }
                before += 1;
            }
        };
        assert!(before.await <= 1, "only a turn that is the others' own goes before it");
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_as_urgent_as_the_most_urgent_that_wants_it() {
    let queue = Queue::new(Config::default());
    for urgency in [Resync, Startup, Related, Resync] {
        queue.offer_as(key("a"), urgency);
    }
    assert_eq!(urgency(&queue, "a"), Related);
    let running = next(&queue).await;
    queue.offer_as(key("a"), Resync);
    queue.offer_as(key("a"), Related);
    queue.offer_as(key("a"), Startup);
    running.finish(Next::OnChange);
    assert_eq!(urgency(&queue, "a"), Related, "offered while it ran");
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_ended_well_leaves_its_urgency_behind_and_one_that_failed_does_not() {
    let queue = Queue::new(Config::default());
    for (next_is, then) in [(Next::OnChange, Resync), (Next::Backoff, Change), (Next::Soon, Change)] {
        queue.offer(key("a"));
        let running = next(&queue).await;
        queue.offer_as(key("a"), Resync);
        running.finish(next_is);
        assert_eq!(urgency(&queue, "a"), then, "{next_is:?}");
        next(&queue).await.finish(Next::OnChange);
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_that_was_asked_for_is_as_urgent_as_a_change() {
    let queue = Queue::new(Config::default());
    queue.offer_as(key("a"), Startup);
    next(&queue).await.finish(Next::After(ms(1000)));
    advance(ms(1001)).await;
    assert_eq!((queue.depth(), urgency(&queue, "a")), (1, Change));
}

#[tokio::test(start_paused = true)]
async fn what_comes_before_a_time_that_was_asked_for_is_only_as_urgent_as_itself() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    next(&queue).await.finish(Next::After(ms(1000)));
    queue.offer_as(key("a"), Resync);
    assert_eq!((queue.depth(), urgency(&queue, "a")), (1, Resync));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_could_not_be_worked_on_yet_stays_one() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    next(&queue).await.postpone(ms(1000));
    queue.offer_as(key("a"), Startup);
    assert_eq!((queue.depth(), urgency(&queue, "a")), (1, Change), "it was not done");
}

#[tokio::test(start_paused = true)]
async fn a_change_makes_a_failed_key_urgent_even_if_it_can_not_come_sooner() {
    let queue = Queue::new(Config::default());
    queue.offer_as(key("a"), Startup);
    let mut running = next(&queue).await;
    running.pause_at_least(ms(60_000));
    running.finish(Next::Backoff);
    queue.offer(key("a"));
    assert_eq!((queue.delayed(), urgency(&queue, "a")), (1, Change));
}

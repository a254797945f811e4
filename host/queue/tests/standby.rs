//! The queue of a standby, and what becomes of it at a takeover.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{advance, timeout};
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::outcome::Next;
use windlass_core::ports::Sink;
use windlass_queue::{Config, Queue, RowState, Running, Urgency};

fn key(name: &str) -> Key {
    Key::new(PluginName::try_new("p").expect("valid"), "ns", name)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn standby() -> Arc<Queue> {
    Queue::new(Config { standby: true, ..Config::default() })
}

/// The next key within an hour of paused time.
async fn next(queue: &Arc<Queue>) -> Running {
    timeout(Duration::from_secs(3600), queue.next()).await.expect("a key is due")
}

/// The next key if it can be had without any wait.
async fn at_once(queue: &Arc<Queue>) -> Option<Running> {
    timeout(Duration::ZERO, queue.next()).await.ok()
}

/// All keys that can be had without any wait, in their order.
async fn all_at_once(queue: &Arc<Queue>) -> String {
    let (mut names, mut taken) = (Vec::new(), Vec::new());
    while let Some(running) = at_once(queue).await {
        names.push(running.key().name.to_string());
        taken.push(running);
    }
    taken.into_iter().for_each(|running| running.finish(Next::OnChange));
    names.join(" ")
}

async fn nothing_for(queue: &Arc<Queue>, wait: Duration) {
    if let Ok(running) = timeout(wait, queue.next()).await {
        panic!("{} came early", running.key());
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_needs_a_leader_rests_until_there_is_one() {
    let queue = standby();
    queue.offer(key("a"));
    next(&queue).await.finish(Next::WhenLeading);
    assert_eq!((queue.parked(), queue.len(), queue.depth(), queue.delayed()), (1, 1, 0, 0));
    nothing_for(&queue, ms(3_000_000)).await;
    let view = queue.snapshot();
    assert_eq!((view.parked, view.standing_by, view.rows[0].state), (1, true, RowState::Parked));
    queue.lead();
    let running = at_once(&queue).await.expect("without any wait");
    assert_eq!((queue.parked(), queue.is_standing_by()), (0, false));
    running.finish(Next::OnChange);
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_woken_by_the_takeover() {
    let queue = standby();
    queue.offer(key("a"));
    next(&queue).await.finish(Next::WhenLeading);
    let lead = async {
        tokio::task::yield_now().await;
        queue.lead();
    };
    assert_eq!(*tokio::join!(next(&queue), lead).0.key(), key("a"));
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_goes_first_and_what_is_only_to_be_said_goes_last() {
    let queue = standby();
    for (name, urgency) in [("says", Urgency::Resync), ("parked", Urgency::Takeover)] {
        queue.offer(key(name));
        next(&queue).await.park(urgency);
        advance(ms(1)).await;
    }
    queue.offer(key("changed"));
    queue.lead();
    assert_eq!(all_at_once(&queue).await, "parked changed says");
}

#[tokio::test(start_paused = true)]
async fn an_event_brings_a_parked_key_back_after_a_moment_in_which_more_may_change() {
    let queue = standby();
    queue.offer(key("a"));
    next(&queue).await.finish(Next::WhenLeading);
    queue.offer(key("a"));
    assert_eq!(queue.parked(), 0);
    nothing_for(&queue, ms(60)).await;
    queue.offer(key("a"));
    next(&queue).await.finish(Next::OnChange);
    assert!(queue.is_empty(), "all events were one");
}

#[tokio::test(start_paused = true)]
async fn a_change_during_a_pass_that_finds_a_leader_needed_is_looked_at_too() {
    let queue = standby();
    queue.offer(key("a"));
    let running = next(&queue).await;
    queue.offer(key("a"));
    running.finish(Next::WhenLeading);
    assert_eq!((queue.parked(), queue.delayed()), (0, 1));
    next(&queue).await.finish(Next::OnChange);
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_goes_first_once_and_then_as_everybody_else() {
    let queue = standby();
    queue.offer(key("a"));
    next(&queue).await.finish(Next::WhenLeading);
    queue.lead();
    next(&queue).await.finish(Next::After(ms(100)));
    queue.offer_after(key("b"), ms(50));
    advance(ms(200)).await;
    assert_eq!(all_at_once(&queue).await, "b a");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_never_rests_is_handed_out_ten_times_a_second() {
    for how in [Next::OnChange, Next::WhenLeading, Next::After(Duration::ZERO)] {
        let queue = standby();
        let mut passes = 0;
        for _ in 0..1000 {
            queue.offer(key("a"));
            if let Ok(running) = timeout(ms(10), queue.next()).await {
                passes += 1;
                queue.offer(key("a"));
                running.finish(how);
            }
        }
        assert!((80..=101).contains(&passes), "{passes} passes in ten seconds");
    }
}

#[tokio::test(start_paused = true)]
async fn a_takeover_waits_neither_for_changes_to_gather_nor_for_a_backoff() {
    let queue = standby();
    queue.offer(key("failed"));
    for _ in 0..10 {
        next(&queue).await.finish(Next::Backoff);
    }
    queue.offer(key("later"));
    next(&queue).await.finish(Next::After(ms(60_000)));
    queue.offer(key("changed"));
    assert!(at_once(&queue).await.is_none());
    queue.lead();
    let running = at_once(&queue).await.expect("without any wait");
    assert_eq!((&*running.key().name, running.failures()), ("changed", 0));
    let running = at_once(&queue).await.expect("without any wait");
    assert_eq!((&*running.key().name, running.failures()), ("failed", 0));
    assert!(running.pause() <= ms(100), "its backoff begins anew");
    assert!(at_once(&queue).await.is_none(), "a time that was asked for is kept");
    assert_eq!(queue.delayed(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_standby_found_while_it_became_the_leader_is_looked_at_at_once() {
    for how in [Next::WhenLeading, Next::Backoff] {
        let queue = standby();
        queue.offer(key("a"));
        let running = next(&queue).await;
        queue.lead();
        running.finish(how);
        assert_eq!(at_once(&queue).await.expect("without any wait").failures(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_could_not_end_is_looked_at_once_more_by_the_standby() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    let running = next(&queue).await;
    queue.offer(key("b"));
    queue.stand_by();
    running.finish(Next::WhenLeading);
    assert_eq!(queue.parked(), 0);
    for name in ["b", "a"] {
        let running = next(&queue).await;
        assert_eq!(&*running.key().name, name);
        running.finish(Next::WhenLeading);
    }
    nothing_for(&queue, ms(10_000)).await;
    assert_eq!(queue.parked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_term_that_follows_another_brings_what_the_first_could_not_end() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    next(&queue).await.finish(Next::WhenLeading);
    assert!(at_once(&queue).await.is_none(), "nobody has told the queue of a term's end");
    queue.lead();
    let running = at_once(&queue).await.expect("without any wait");
    queue.lead();
    running.finish(Next::WhenLeading);
    assert!(at_once(&queue).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_is_gone_takes_its_parked_keys_along_and_each_can_be_discarded() {
    let queue = standby();
    for name in ["a", "b"] {
        queue.offer(key(name));
        next(&queue).await.finish(Next::WhenLeading);
    }
    let waiting = queue.waiting();
    assert!(waiting.iter().all(|one| one.key != key("a") || queue.discard(one)));
    assert_eq!((queue.parked(), queue.len()), (1, 1));
    let stats = queue.stats();
    assert_eq!(stats[&key("b").plugin].parked, 1);
    queue.forget_plugin(&key("b").plugin);
    assert_eq!((queue.parked(), queue.len()), (0, 0));
    queue.lead();
    assert!(at_once(&queue).await.is_none());
}

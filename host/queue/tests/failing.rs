//! Keys that fail, on paused time: by what their pauses grow, and what people see of them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, advance, timeout};
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::outcome::Next;
use windlass_core::ports::Sink as _;
use windlass_queue::{Config, Queue, Rate, Running, STUCK_AFTER, STUCK_FAILURES, STUCK_MAX};

fn plugin() -> PluginName {
    PluginName::try_new("p").expect("valid")
}

fn key(name: &str) -> Key {
    Key::new(plugin(), "ns", name)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The next key within an hour of paused time.
async fn next(queue: &Arc<Queue>) -> Running {
    timeout(Duration::from_secs(3600), queue.next()).await.expect("a key is due")
}

/// The next key, which fails; answers how long it took to come.
async fn fail(queue: &Arc<Queue>) -> Duration {
    let began = Instant::now();
    next(queue).await.finish(Next::Backoff);
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_a_pause_that_an_event_cut_short_does_not_make_the_next_one_longer() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    for _ in 0..7 {
        fail(&queue).await;
    }
    // The pause is between 3.2 s and 6.4 s now.
    for _ in 0..5 {
        queue.offer(key("a"));
        assert!(fail(&queue).await < ms(3_200), "the event was heard");
    }
    let pause = fail(&queue).await;
    assert!(pause > ms(3_199) && pause < ms(6_401), "{pause:?}");
    let pause = fail(&queue).await;
    assert!(pause > ms(6_399) && pause < ms(12_801), "that one was waited for: {pause:?}");
    assert_eq!(next(&queue).await.failures(), 14, "all of them are counted for people");
}

#[tokio::test(start_paused = true)]
async fn an_event_during_a_pass_that_fails_cuts_its_pause_short_all_the_same() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    for _ in 0..7 {
        fail(&queue).await;
    }
    for _ in 0..4 {
        let running = next(&queue).await;
        queue.offer(key("a"));
        running.finish(Next::Backoff);
    }
    // One that was waited for in full, and three that were not.
    assert!(fail(&queue).await < ms(3_200));
    let pause = fail(&queue).await;
    assert!(pause > ms(6_399) && pause < ms(12_801), "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_too_often_is_shown_with_its_last_error() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    for n in 1..=STUCK_FAILURES {
        let stuck = queue.snapshot().stuck;
        assert!(stuck.is_empty(), "{stuck:?} after {} failures", n - 1);
        let mut running = next(&queue).await;
        running.fails_because(&format!("failure number {n}\u{1b}[2J {}", "x".repeat(2_000)));
        running.finish(Next::Backoff);
    }
    let view = queue.snapshot();
    let [stuck] = &view.stuck[..] else { panic!("{:?}", view.stuck) };
    assert_eq!((&*stuck.key, stuck.failures), ("p:ns/a", STUCK_FAILURES));
    assert!(stuck.failing_for_ms > 6_000 && stuck.due_in_ms > 6_000, "{stuck:?}");
    let error = stuck.last_error.as_deref().expect("it is kept");
    assert!(error.starts_with("failure number 8 [2J x") && error.len() < 520, "{error}");
    assert_eq!(queue.stats()[&plugin()].stuck, 1);
    let json = serde_json::to_value(&view).expect("plain data");
    assert_eq!(json["stuck"][0]["failures"], STUCK_FAILURES);

    next(&queue).await.finish(Next::After(ms(10)));
    assert!(queue.snapshot().stuck.is_empty(), "it is mended");
    assert_eq!(queue.stats()[&plugin()].stuck, 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_for_too_long_is_stuck_however_seldom_it_is_tried() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    let mut running = next(&queue).await;
    running.pause_at_least(2 * STUCK_AFTER);
    running.finish(Next::Backoff);
    advance(STUCK_AFTER - ms(1)).await;
    assert!(queue.snapshot().stuck.is_empty());
    advance(ms(1)).await;
    let stuck = queue.snapshot().stuck;
    assert_eq!((stuck.len(), stuck[0].failures, &stuck[0].last_error), (1, 1, &None));
}

#[tokio::test(start_paused = true)]
async fn of_many_stuck_keys_those_are_shown_that_have_failed_for_longest() {
    let queue = Queue::new(Config::default());
    for n in 0..STUCK_MAX + 7 {
        queue.offer(key(&format!("k{n:03}")));
        let mut running = next(&queue).await;
        running.pause_at_least(3 * STUCK_AFTER);
        running.finish(Next::Backoff);
        advance(ms(1)).await;
    }
    advance(2 * STUCK_AFTER).await;
    let view = queue.snapshot();
    assert_eq!((view.stuck.len(), view.stuck_left_out), (STUCK_MAX, 7));
    let names: Vec<_> = view.stuck.iter().map(|stuck| stuck.key.clone()).collect();
    let wanted: Vec<_> = (0..STUCK_MAX).map(|n| format!("p:ns/k{n:03}")).collect();
    assert_eq!(names, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_panics_says_so_in_the_queue() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    drop(next(&queue).await);
    advance(STUCK_AFTER).await;
    let stuck = queue.snapshot().stuck;
    assert!(stuck[0].last_error.as_deref().is_some_and(|error| error.contains("dropped")), "{stuck:?}");
}

#[tokio::test(start_paused = true)]
async fn the_age_of_the_oldest_key_is_known_for_each_plugin() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    advance(ms(70)).await;
    queue.offer(key("b"));
    queue.offer(key("a"));
    queue.offer_after(key("later"), ms(5_000));
    advance(ms(30)).await;
    assert_eq!(queue.stats()[&plugin()].oldest, ms(100), "offers that merge do not make it younger");
    next(&queue).await.finish(Next::OnChange);
    assert_eq!(queue.stats()[&plugin()].oldest, ms(30));
    next(&queue).await.finish(Next::OnChange);
    assert_eq!(queue.stats()[&plugin()].oldest, ms(0), "what is not due has no age");
    queue.pause();
    queue.offer(key("a"));
    advance(ms(30)).await;
    assert_eq!(queue.stats()[&plugin()].oldest, ms(0), "nobody is expected to work on it");
}

#[tokio::test(start_paused = true)]
async fn a_plugin_begins_no_more_passes_a_second_than_its_rate_and_wakes_when_it_may() {
    let rate = NonZeroU32::new(20).map(|per_second| Rate { per_second });
    let queue = Queue::new(Config { rate, ..Config::default() });
    (0..1_000).for_each(|n| queue.offer(key(&format!("k{n}"))));
    let other = Key::new(PluginName::try_new("other").expect("valid"), "ns", "x");
    let began = Instant::now();
    for _ in 0..20 + 100 {
        next(&queue).await.finish(Next::OnChange);
    }
    let took = began.elapsed();
    assert!(took >= ms(5_000) && took < ms(5_200), "{took:?} for a hundred beyond the first twenty");
    queue.offer(other.clone());
    assert_eq!(*timeout(ms(1), queue.next()).await.expect("at once").key(), other);
}

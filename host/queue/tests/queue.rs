//! The queue on paused time: what its users rely on, one sentence each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, advance, timeout};
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::outcome::Next;
use windlass_core::ports::Sink;
use windlass_queue::{Config, Observer, Queue, ROWS_MAX, RowState, Running};

fn plugin(name: &str) -> PluginName {
    PluginName::try_new(name).expect("valid")
}

fn key(name: &str) -> Key {
    Key::new(plugin("p"), "ns", name)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The next key within an hour of paused time.
async fn next(queue: &Arc<Queue>) -> Running {
    timeout(Duration::from_secs(3600), queue.next()).await.expect("a key is due")
}

async fn nothing_for(queue: &Arc<Queue>, wait: Duration) {
    if let Ok(running) = timeout(wait, queue.next()).await {
        panic!("{} came early", running.key());
    }
}

/// How long it takes until the next key comes.
async fn pause_before_next(queue: &Arc<Queue>) -> (Running, Duration) {
    let began = Instant::now();
    let running = next(queue).await;
    (running, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn equal_keys_merge() {
    let queue = Queue::new(Config::default());
    for _ in 0..3 {
        queue.offer(key("a"));
    }
    assert_eq!((queue.len(), queue.depth()), (1, 1));
    next(&queue).await.finish(Next::OnChange);
    assert!(queue.is_empty());
    nothing_for(&queue, ms(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_offered_while_it_runs_runs_again_afterwards_and_not_before() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    let first = next(&queue).await;
    queue.offer(key("a"));
    queue.offer(key("a"));
    nothing_for(&queue, ms(1000)).await;
    first.finish(Next::OnChange);
    next(&queue).await.finish(Next::OnChange);
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_with_failures_and_shrink_with_success() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    next(&queue).await.finish(Next::Backoff);
    for full in [100, 200, 400, 800, 1600] {
        let (running, pause) = pause_before_next(&queue).await;
        assert!(pause >= ms(full / 2) && pause <= ms(full + 1), "{pause:?} for {full} ms");
        running.finish(Next::Backoff);
    }
    let running = next(&queue).await;
    assert_eq!(running.failures(), 6);
    running.finish(Next::OnChange);
    queue.offer(key("a"));
    let running = next(&queue).await;
    assert_eq!(running.failures(), 0);
    assert!(running.pause() <= ms(100));
}

#[tokio::test(start_paused = true)]
async fn no_pause_is_longer_than_five_minutes() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    for _ in 0..40 {
        next(&queue).await.finish(Next::Backoff);
    }
    assert!(next(&queue).await.pause() <= Duration::from_secs(300));
}

#[tokio::test(start_paused = true)]
async fn an_event_brings_a_failed_key_forward_but_not_below_the_first_pause() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    for _ in 0..10 {
        next(&queue).await.finish(Next::Backoff);
    }
    queue.offer(key("a"));
    let (running, pause) = pause_before_next(&queue).await;
    assert!(pause >= ms(50) && pause <= ms(101), "{pause:?}");
    assert_eq!(running.failures(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_never_rests_cannot_make_its_failures_a_hot_loop() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    let began = Instant::now();
    let mut passes = 0;
    while began.elapsed() < Duration::from_secs(60) {
        queue.offer(key("a"));
        if let Ok(running) = timeout(ms(10), queue.next()).await {
            passes += 1;
            running.finish(Next::Backoff);
        }
    }
    // 100 ms, doubling to 5 s, each at least half of that: far below one a second.
    assert!((10..=35).contains(&passes), "{passes} passes in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_comes_back_within_milliseconds_and_many_never_spin() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    next(&queue).await.finish(Next::Soon);
    let (running, pause) = pause_before_next(&queue).await;
    assert!(pause <= ms(11), "{pause:?}");
    running.finish(Next::Soon);
    let began = Instant::now();
    let mut passes = 0;
    while began.elapsed() < Duration::from_secs(60) {
        queue.offer(key("a"));
        if let Ok(running) = timeout(ms(10), queue.next()).await {
            passes += 1;
            running.finish(Next::Soon);
        }
    }
    // A second at most, each at least half of that.
    assert!((55..=130).contains(&passes), "{passes} passes in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_key_comes_at_its_time_and_an_event_brings_it_at_once() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    next(&queue).await.finish(Next::After(ms(5000)));
    assert_eq!((queue.depth(), queue.delayed()), (0, 1));
    nothing_for(&queue, ms(4990)).await;
    next(&queue).await.finish(Next::After(ms(5000)));
    queue.offer(key("a"));
    let (_running, pause) = pause_before_next(&queue).await;
    assert_eq!(pause, ms(0));
}

#[tokio::test(start_paused = true)]
async fn the_earliest_of_two_delays_wins() {
    let queue = Queue::new(Config::default());
    queue.offer_after(key("a"), ms(3000));
    queue.offer_after(key("a"), ms(1000));
    queue.offer_after(key("a"), ms(2000));
    let (running, pause) = pause_before_next(&queue).await;
    assert!(pause >= ms(1000) && pause < ms(1010), "{pause:?}");
    queue.offer_after(running.key().clone(), ms(100));
    running.finish(Next::After(ms(9000)));
    let (_running, pause) = pause_before_next(&queue).await;
    assert!(pause >= ms(100) && pause < ms(110), "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shorter_delay_wakes_whoever_waits_for_a_longer_one() {
    let queue = Queue::new(Config::default());
    queue.offer_after(key("late"), ms(60_000));
    let other = queue.clone();
    let waiter = async move { next(&other).await.key().clone() };
    let offer = async {
        tokio::task::yield_now().await;
        queue.offer_after(key("early"), ms(10));
    };
    assert_eq!(tokio::join!(waiter, offer).0, key("early"));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_takes_nothing_and_wakes_the_next_waiter() {
    let queue = Queue::new(Config::default());
    let second = queue.clone();
    let second = async move { next(&second).await.key().clone() };
    let first = async {
        nothing_for(&queue, ms(10)).await;
        queue.offer(key("a"));
    };
    assert_eq!(tokio::join!(first, second).1, key("a"));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_takes_over_the_timer_of_one_that_is_gone() {
    let queue = Queue::new(Config::default());
    let (one, two) = (queue.clone(), queue.clone());
    let first = async move { timeout(ms(50), one.next()).await.is_err() };
    let second = async move {
        let began = Instant::now();
        drop(next(&two).await);
        began.elapsed()
    };
    let offer = async {
        tokio::task::yield_now().await;
        // Only one of the two is woken, and sets its timer.
        queue.offer_after(key("a"), ms(100));
    };
    let (gone, waited, ()) = tokio::join!(first, second, offer);
    assert!(gone && waited < ms(110), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_capped_pause_does_not_grow_beyond_its_cap() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    for _ in 0..20 {
        let (mut running, pause) = pause_before_next(&queue).await;
        assert!(pause <= ms(20_010), "{pause:?}");
        running.pause_at_most(ms(20_000));
        assert!(running.pause() <= ms(20_000));
        running.finish(Next::Backoff);
    }
    assert_eq!(next(&queue).await.failures(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_a_pause_gets_it_even_when_events_come() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    let mut running = next(&queue).await;
    running.pause_at_least(ms(7000));
    assert_eq!(running.pause(), ms(7000));
    queue.offer(key("a"));
    running.finish(Next::Backoff);
    queue.offer(key("a"));
    nothing_for(&queue, ms(6990)).await;
    next(&queue).await.finish(Next::OnChange);
}

#[tokio::test(start_paused = true)]
async fn a_postponed_key_keeps_its_failures() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    next(&queue).await.finish(Next::Backoff);
    next(&queue).await.postpone(ms(1000));
    let (running, pause) = pause_before_next(&queue).await;
    assert!(pause >= ms(1000));
    assert_eq!(running.failures(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_dropped_comes_back_as_failed() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    let panicking = queue.clone();
    let task = tokio::spawn(async move {
        let _running = next(&panicking).await;
        panic!("in the middle of a pass");
    });
    assert!(task.await.is_err());
    assert_eq!(next(&queue).await.failures(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_keeps_what_it_is_offered() {
    let queue = Queue::new(Config { paused: true, ..Config::default() });
    queue.offer(key("a"));
    queue.offer_after(key("b"), ms(10));
    nothing_for(&queue, ms(1000)).await;
    let other = queue.clone();
    let waiter = async move { next(&other).await.key().clone() };
    let resume = async {
        tokio::task::yield_now().await;
        queue.resume();
    };
    assert_eq!(tokio::join!(waiter, resume).0, key("a"));
    assert_eq!(*next(&queue).await.key(), key("b"));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_lost_its_leader_comes_back() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    next(&queue).await.finish(Next::WhenLeading);
    queue.pause();
    nothing_for(&queue, ms(5000)).await;
    queue.resume();
    assert_eq!(*next(&queue).await.key(), key("a"));
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_is_gone_takes_its_keys_along() {
    let queue = Queue::new(Config::default());
    let other = Key::new(plugin("other"), "ns", "x");
    for name in ["running", "ready"] {
        queue.offer(key(name));
    }
    queue.offer_after(key("delayed"), ms(10));
    queue.offer_after(other.clone(), ms(5));
    let running = next(&queue).await;
    queue.forget_plugin(&plugin("p"));
    running.finish(Next::Backoff);
    assert_eq!(queue.len(), 1);
    assert_eq!(*next(&queue).await.key(), other);
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_returns_while_its_key_runs_gets_it_back() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    let running = next(&queue).await;
    queue.forget_plugin(&plugin("p"));
    queue.offer(key("a"));
    running.finish(Next::OnChange);
    assert_eq!(*next(&queue).await.key(), key("a"));
}

#[tokio::test(start_paused = true)]
async fn a_discarded_key_is_kept_when_it_was_offered_again() {
    let queue = Queue::new(Config::default());
    queue.offer(key("a"));
    queue.offer(key("b"));
    let waiting = queue.waiting();
    assert_eq!(waiting.len(), 2);
    queue.offer(key("a"));
    for one in &waiting {
        assert_eq!(queue.discard(one), one.key == key("b"));
    }
    assert_eq!(queue.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_overtakes_resyncs() {
    let queue = Queue::new(Config::default());
    for name in ["r1", "r2", "r3"] {
        queue.offer_resync(key(name));
    }
    queue.offer(key("c"));
    queue.offer(key("r2"));
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(next(&queue).await.key().name.to_string());
    }
    // Dropped keys come back as failures only after a pause; these came first.
    assert_eq!(order, ["r2", "c", "r1", "r3"]);
}

#[tokio::test(start_paused = true)]
async fn the_view_shows_each_key_where_it_is_and_has_an_end() {
    let queue = Queue::new(Config::default());
    queue.offer(key("failed"));
    next(&queue).await.finish(Next::Backoff);
    queue.offer_after(key("later"), Duration::from_secs(60));
    queue.offer(key("again"));
    let running = next(&queue).await;
    queue.offer(key("again"));
    queue.offer(key("ready"));
    let view = queue.snapshot();
    let rows: Vec<_> = view.rows.iter().map(|r| (&*r.key, r.state, r.failures)).collect();
    let want = [
        ("p:ns/again", RowState::Again, 0),
        ("p:ns/ready", RowState::Ready, 0),
        ("p:ns/failed", RowState::Backoff, 1),
        ("p:ns/later", RowState::Delayed, 0),
    ];
    assert_eq!(rows, want);
    assert_eq!(view.rows[3].due_in_ms, 60_000);
    let json = serde_json::to_value(&view).expect("plain data");
    assert_eq!(json["rows"][2]["state"], "backoff");
    for n in 0..ROWS_MAX {
        queue.offer(key(&format!("n{n}")));
    }
    let view = queue.snapshot();
    assert_eq!((view.rows.len(), view.left_out), (ROWS_MAX, 4));
    assert_eq!(view.rows[0].state, RowState::Again);
    running.finish(Next::OnChange);
}

#[derive(Default)]
struct Times {
    queued_ms: AtomicU64,
    worked_ms: AtomicU64,
}

struct Shared(Arc<Times>);

impl Observer for Shared {
    fn taken(&self, _key: &Key, queued: Duration) {
        self.0.queued_ms.fetch_add(queued.as_millis() as u64, Ordering::Relaxed);
    }

    fn finished(&self, _key: &Key, worked: Duration) {
        self.0.worked_ms.fetch_add(worked.as_millis() as u64, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_and_working_times_are_counted_for_each_plugin() {
    let times = Arc::new(Times::default());
    let queue = Queue::observed(Config::default(), Shared(times.clone()));
    queue.offer(key("a"));
    queue.offer(key("a"));
    advance(ms(30)).await;
    let a = next(&queue).await;
    queue.offer(key("b"));
    let b = next(&queue).await;
    advance(ms(20)).await;
    let stats = queue.stats().remove(&plugin("p")).expect("has keys");
    assert_eq!((stats.in_flight, stats.depth, stats.adds, stats.retries), (2, 0, 2, 0));
    assert_eq!((stats.unfinished, stats.longest), (ms(40), ms(20)));
    a.finish(Next::Backoff);
    b.finish(Next::OnChange);
    let stats = queue.stats().remove(&plugin("p")).expect("has keys");
    assert_eq!((stats.delayed, stats.adds, stats.retries), (1, 2, 1));
    assert_eq!(times.queued_ms.load(Ordering::Relaxed), 30);
    assert_eq!(times.worked_ms.load(Ordering::Relaxed), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_takers_at_once_never_share_a_key() {
    let queue = Queue::new(Config::default());
    let running = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
    let done = Arc::new(AtomicU64::new(0));
    for n in 0..50 {
        queue.offer(key(&format!("k{n}")));
    }
    let mut takers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (queue, running, done) = (queue.clone(), running.clone(), done.clone());
        takers.spawn(async move {
            while done.fetch_add(1, Ordering::Relaxed) < 4000 {
                let taken = queue.next().await;
                let key = taken.key().clone();
                assert!(running.lock().expect("no panic").insert(key.clone()));
                queue.offer(key.clone());
                tokio::task::yield_now().await;
                assert!(running.lock().expect("no panic").remove(&key));
                taken.finish(Next::OnChange);
            }
        });
    }
    while let Some(taker) = takers.join_next().await {
        taker.expect("no taker panics");
    }
    assert_eq!(queue.depth(), 50);
}

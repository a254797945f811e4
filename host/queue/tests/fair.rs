//! Fair between plugins, on paused time: what a good plugin waits for beside a bad one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::outcome::Next;
use windlass_core::ports::Sink as _;
use windlass_queue::{Config, Observer, Queue, Running, half_of};

/// Passes that run at once.
const SLOTS: usize = 8;
/// How long a pass of a bad plugin takes: what the limits let it.
const SLOW: Duration = Duration::from_secs(2);
/// How long a pass of a good one takes.
const QUICK: Duration = Duration::from_millis(5);

fn plugin(name: &str) -> PluginName {
    PluginName::try_new(name).expect("valid")
}

fn key(of: &str, n: usize) -> Key {
    Key::new(plugin(of), "ns", format!("k{n}"))
}

/// How long keys were ready before they ran, by plugin.
#[derive(Clone, Default)]
struct Delays(Arc<Mutex<BTreeMap<PluginName, Vec<Duration>>>>);

impl Observer for Delays {
    fn taken(&self, key: &Key, queued: Duration) {
        self.0.lock().expect("no panic").entry(key.plugin.clone()).or_default().push(queued);
    }
}

impl Delays {
    /// Sorted.
    fn of(&self, name: &str) -> Vec<Duration> {
        let mut delays = self.0.lock().expect("no panic").remove(&plugin(name)).unwrap_or_default();
        delays.sort_unstable();
        delays
    }
}

fn queue(slots: Option<usize>, per_plugin: Option<usize>) -> (Arc<Queue>, Delays) {
    let delays = Delays::default();
    let [slots, per_plugin] = [slots, per_plugin].map(|n| n.map(|n| n.try_into().expect("not zero")));
    (Queue::observed(Config { slots, per_plugin, ..Config::default() }, delays.clone()), delays)
}

/// What a queue is told of its slots.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// Nothing: whoever comes first has them all.
    Nothing,
    /// How many one plugin may have.
    Bound(usize),
    /// That, and how many there are.
    All(usize),
}

fn told(slots: usize, told: Told) -> (Arc<Queue>, Delays) {
    match told {
        Told::Nothing => queue(None, None),
        Told::Bound(most) => queue(None, Some(most)),
        Told::All(most) => queue(Some(slots), Some(most)),
    }
}

/// Works for so long with so many slots, as the loop of the host does. Bad plugins' names
/// begin with `bad`; their keys are offered again by their own passes, and never end.
async fn work(queue: &Arc<Queue>, slots: usize, until: Instant) {
    let mut passes = JoinSet::new();
    loop {
        tokio::select! {
            running = queue.next(), if passes.len() < slots => drop(passes.spawn(pass(queue.clone(), running))),
            Some(ended) = passes.join_next(), if !passes.is_empty() => ended.expect("no pass panics"),
            () = sleep_until(until) => return,
        }
    }
}

async fn pass(queue: Arc<Queue>, running: Running) {
    let bad = running.key().plugin.as_str().starts_with("bad");
    sleep(if bad { SLOW } else { QUICK }).await;
    let key = running.key().clone();
    running.finish(Next::OnChange);
    if bad {
        queue.offer(key);
    }
}

/// What the good plugin's one key waits for, offered every so often for a minute beside
/// bad plugins with so many keys each.
async fn delays_of_the_good(bad: &[&str], keys: usize, slots: usize, say: Told) -> Vec<Duration> {
    let (queue, delays) = told(slots, say);
    queue.offer(key("good", 0));
    for bad in bad {
        (0..keys).for_each(|n| queue.offer(key(bad, n)));
    }
    let until = Instant::now() + Duration::from_secs(60);
    let offers = async {
        loop {
            sleep(Duration::from_millis(97)).await;
            queue.offer(key("good", 0));
        }
    };
    tokio::select! {
        () = work(&queue, slots, until) => {}
        () = offers => {}
    }
    let delays = delays.of("good");
    assert!(delays.len() > 20, "only {} passes in a minute", delays.len());
    delays
}

#[tokio::test(start_paused = true)]
async fn a_plugin_with_ten_thousand_slow_keys_does_not_delay_anothers_one() {
    let most = half_of(SLOTS).get();
    let delays = delays_of_the_good(&["bad"], 10_000, SLOTS, Told::Bound(most)).await;
    assert_eq!(delays.last(), Some(&Duration::ZERO), "a slot was free all the time");
}

#[tokio::test(start_paused = true)]
async fn nor_do_several_such_plugins_as_long_as_they_are_fewer_than_slots() {
    let bad = ["bad-a", "bad-b", "bad-c", "bad-d", "bad-e", "bad-f", "bad-g"];
    for bad in [&bad[..2], &bad[..4], &bad[..SLOTS - 1]] {
        let delays = delays_of_the_good(bad, 1_000, SLOTS, Told::All(half_of(SLOTS).get())).await;
        assert_eq!(delays.last(), Some(&Duration::ZERO), "beside {}", bad.len());
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_bound_a_key_waits_for_one_slow_pass_and_never_for_two() {
    for slots in [1, SLOTS] {
        let delays = delays_of_the_good(&["bad"], 10_000, slots, Told::Nothing).await;
        let most = *delays.last().expect("some");
        assert!(most > QUICK && most <= SLOW, "{most:?} with {slots} slots");
    }
}

#[tokio::test(start_paused = true)]
async fn beside_plugins_that_fill_every_slot_a_key_gets_the_next_one() {
    let most = half_of(SLOTS).get();
    let delays = delays_of_the_good(&["bad-a", "bad-b", "bad-c"], 1_000, SLOTS, Told::Bound(most)).await;
    let most = *delays.last().expect("some");
    assert!(most <= SLOW, "{most:?}");
}

#[tokio::test(start_paused = true)]
async fn slots_are_shared_evenly_between_those_that_have_work_for_all_of_them() {
    let (queue, delays) = queue(None, None);
    for n in 0..1_000 {
        queue.offer(key("bad-a", n));
        queue.offer(key("bad-b", n));
    }
    work(&queue, SLOTS, Instant::now() + Duration::from_secs(60)).await;
    let (a, b) = (delays.of("bad-a").len(), delays.of("bad-b").len());
    assert!(a.abs_diff(b) <= 1 && a + b >= 29 * SLOTS, "{a} and {b} passes");
}

/// The time that passes of each of two plugins took within ten seconds, when both have work all the
/// time: for the one 1 ms a pass, for the other 50 ms.
async fn spent(slots: usize, say: Told) -> [Duration; 2] {
    let (queue, _) = told(slots, say);
    for n in 0..4 * SLOTS {
        queue.offer(key("quick", n));
        queue.offer(key("slow", n));
    }
    let spent = Arc::new(Mutex::new([Duration::ZERO; 2]));
    let mut workers = JoinSet::new();
    for _ in 0..slots {
        let (queue, spent) = (queue.clone(), spent.clone());
        workers.spawn(async move {
            loop {
                let running = queue.next().await;
                let which = usize::from(running.key().plugin.as_str() == "slow");
                let took = Duration::from_millis([1, 50][which]);
                sleep(took).await;
                queue.offer(running.key().clone());
                running.finish(Next::OnChange);
                spent.lock().expect("no panic")[which] += took;
            }
        });
    }
    sleep(Duration::from_secs(10)).await;
    workers.shutdown().await;
    *spent.lock().expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn a_plugin_with_passes_of_1_ms_and_one_of_50_ms_have_the_same_time() {
    for (slots, say) in [(1, Told::Nothing), (3, Told::Nothing), (SLOTS, Told::All(half_of(SLOTS).get()))] {
        let [quick, slow] = spent(slots, say).await;
        let share = quick.as_secs_f64() / (quick + slow).as_secs_f64();
        assert!((0.49..0.51).contains(&share), "{quick:?} and {slow:?} with {slots} slots");
    }
}

/// Everything that is handed out before somebody has to wait.
async fn handed_out(queue: &Arc<Queue>) -> Vec<Running> {
    let mut all = Vec::new();
    while let Ok(running) = timeout(Duration::from_millis(1), queue.next()).await {
        all.push(running);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_is_alone_has_every_slot_and_shares_once_there_is_another() {
    let (queue, _) = queue(None, Some(4));
    (0..20).for_each(|n| queue.offer(key("a", n)));
    let mut a: Vec<_> = Vec::new();
    for _ in 0..SLOTS {
        a.push(queue.next().await);
    }
    queue.offer(key("b", 0));
    assert_eq!(queue.bound_of(&plugin("a")), Some(half_of(SLOTS)));
    let b = queue.next().await;
    assert_eq!(b.key(), &key("b", 0));
    a.drain(..5).for_each(|running| running.finish(Next::OnChange));
    let more = handed_out(&queue).await;
    assert_eq!(more.len(), 1, "three of its passes run still");
    assert_eq!(queue.stats()[&plugin("a")].most, Some(half_of(SLOTS)));
}

#[tokio::test(start_paused = true)]
async fn a_bound_that_is_raised_wakes_whoever_waits() {
    let (queue, _) = queue(None, None);
    queue.bound(&plugin("a"), Some(half_of(1)));
    (0..3).for_each(|n| queue.offer(key("a", n)));
    let first = queue.next().await;
    let waits = tokio::spawn({
        let queue = queue.clone();
        async move { queue.next().await.key().clone() }
    });
    tokio::task::yield_now().await;
    assert!(!waits.is_finished(), "one of it runs");
    queue.bound(&plugin("a"), Some(half_of(4)));
    let second = timeout(Duration::from_secs(1), waits).await.expect("woken").expect("no panic");
    assert_ne!(&second, first.key());
}

#[tokio::test(start_paused = true)]
async fn the_last_plugin_that_is_left_has_every_slot_again() {
    let (queue, _) = queue(None, Some(1));
    queue.offer(key("b", 0));
    (0..3).for_each(|n| queue.offer(key("a", n)));
    let running = handed_out(&queue).await;
    assert_eq!(running.len(), 2);
    queue.forget_plugin(&plugin("b"));
    assert_eq!(handed_out(&queue).await.len(), 2, "the rest of a");
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_is_forgotten_leaves_no_bound_behind() {
    let (queue, _) = queue(None, None);
    queue.bound(&plugin("a"), Some(half_of(2)));
    queue.offer(key("a", 0));
    queue.forget_plugin(&plugin("a"));
    assert_eq!(queue.bound_of(&plugin("a")), None);
}

#[tokio::test(start_paused = true)]
#[ignore = "takes long: the table of docs/plugins.md, run with --ignored --nocapture"]
async fn with_slots_and_bounds_a_good_plugin_never_waits_whoever_is_beside_it() {
    println!("8 slots; passes of 2 s with 10,000 keys each; one key of a good plugin, ready for ms:");
    println!("{:>5} {:>12} {:>8} {:>8} {:>8} {:>8}", "bad", "told", "passes", "p50", "p99", "most");
    let names = ["bad-a", "bad-b", "bad-c", "bad-d"];
    for bad in [1, 2, 4] {
        for say in [Told::Nothing, Told::Bound(4), Told::Bound(2), Told::All(4)] {
            let delays = delays_of_the_good(&names[..bad], 10_000, SLOTS, say).await;
            let at = |percent: usize| delays[(delays.len() - 1) * percent / 100].as_millis();
            let (name, passes) = (format!("{say:?}"), delays.len());
            println!("{bad:>5} {name:>12} {passes:>8} {:>8} {:>8} {:>8}", at(50), at(99), at(100));
            if matches!(say, Told::All(_)) {
                assert_eq!(at(100), 0, "{bad} bad ones");
            }
        }
    }
}

//! How many allocations a pass costs that has nothing to do, and how many one that is skipped.
//!
//! A test binary of its own, because it counts every allocation of its thread. What the fakes allocate is counted too: the
//! numbers are for one plugin with one child, and hold the loop to what it is.

#[allow(dead_code, reason = "shared with the other tests of the loop")]
#[path = "passes/world/mod.rs"]
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use windlass_core::guests::LoadId;
use windlass_core::key::Key;
use windlass_core::memo::{Basis, Fingerprint, Memos};
use windlass_core::object::Object;
use windlass_core::ports::Serving;
use windlass_reconcile::Config;

use world::{HOST, WEB, World, config_map, gvk, ms, plugin, serving};

/// Bytes that are allocated and not freed, by anybody.
static HELD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Allocations of this thread.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[allow(unsafe_code, reason = "an allocator cannot be counted without being one")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // The thread may be ending.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const KEYS: usize = 64;
/// Of a pass that is skipped: its place in the queue and in the loop, the look at the cache.
const SKIPPED_MOST: usize = 15;
/// Of a pass that asks a plugin and plans, and finds nothing to do.
const NO_OP_MOST: usize = 125;
/// Of a resync that looks at a thousand keys and skips them: room for the fingerprints of a page, and a few a page.
const RESYNC_MOST: usize = 340;
/// What a thousand keys more add: nothing a key.
const RESYNC_MORE_MOST: usize = 40;
/// Bytes of a memo, its place in the map included, for a key with three children whose names the cache has.
const MEMO_BYTES_MOST: usize = 200;

/// Allocations of one pass on average, once everything has its room.
async fn a_pass(skips: bool) -> usize {
    let world = World::with(
        |pass, _, _| config_map(&pass.key.name, "v"),
        Config { skip_unchanged: skips, ..Config::new(HOST) },
    );
    world.lead(1);
    let names: Vec<String> = (0..KEYS).map(|n| format!("w{n}")).collect();
    names.iter().for_each(|name| world.cluster.web(name));
    world.run_for(ms(5000)).await;
    let offer = || names.iter().for_each(|name| world.offer(name));
    for _ in 0..3 {
        offer();
        world.run_for(ms(10)).await;
    }
    let (before, asked) = (COUNT.get(), world.brain.calls());
    offer();
    world.run_for(ms(10)).await;
    let count = COUNT.get() - before;
    assert_eq!(world.brain.calls() - asked, if skips { 0 } else { KEYS });
    count / KEYS
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_is_skipped_allocates_little_and_one_that_has_nothing_to_do_not_much() {
    let (skipped, no_op) = (a_pass(true).await, a_pass(false).await);
    println!("{skipped} allocations of a pass that is skipped, {no_op} of one that has nothing to do");
    assert!(skipped <= SKIPPED_MOST, "{skipped} allocations of a pass that is skipped");
    assert!(no_op <= NO_OP_MOST, "{no_op} allocations of a pass that has nothing to do");
    assert!(no_op > 2 * skipped, "or there is nothing to be gained by it");
}

#[tokio::test(start_paused = true)]
async fn a_resync_allocates_next_to_nothing_for_a_key_that_it_skips() {
    let of = async |keys: usize| {
        let world = World::leader(|_, _, _| world::decision(&[]));
        (0..keys).for_each(|n| world.cluster.web(&format!("w{n}")));
        world.run_for(ms(5000)).await;
        let before = COUNT.get();
        let found = world.reconciler.resync().await;
        let count = COUNT.get() - before;
        assert_eq!((found.offered, found.skipped), (0, keys));
        count
    };
    let (count, of_more) = (of(1_000).await, of(2_000).await);
    println!("{count} allocations of a resync of 1,000 keys, {of_more} of 2,000");
    assert!(count <= RESYNC_MOST, "{count} allocations of a resync of 1,000 keys");
    assert!(of_more - count <= RESYNC_MORE_MOST, "{} for a thousand keys more", of_more - count);
}

#[test]
fn a_hundred_thousand_memos_cost_little_memory() {
    let object = |name: &str| {
        let text = format!(r#"{{"metadata":{{"name":"{name}","namespace":"ns"}}}}"#);
        Arc::new(Object::parse(&gvk(WEB), &text).expect("an object"))
    };
    let basis = Basis::of(&Serving { load: LoadId(1), ..serving("web", false) }, |_| 1);
    let primaries: Vec<_> = (0..100_000).map(|n| object(&format!("w{n}"))).collect();
    let child = object("child");
    let before = HELD.load(Ordering::Relaxed);
    let mut memos = Memos::default();
    let until = std::time::Instant::now() + Duration::from_secs(3600);
    for primary in &primaries {
        let mut seen = Fingerprint::default();
        seen.begin(primary);
        (0..3).for_each(|_| seen.child(&child));
        let meta = primary.meta();
        let key = Key::new(plugin("web"), meta.namespace.clone(), meta.name.clone());
        memos.remember(&key, &basis, &seen, None, Some(until));
    }
    let each = (HELD.load(Ordering::Relaxed) - before) / primaries.len();
    println!("{each} bytes a memo");
    assert_eq!(memos.len(), primaries.len());
    assert!(each <= MEMO_BYTES_MOST, "{each} bytes a memo");
}

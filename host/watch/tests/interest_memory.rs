//! What it costs in memory that the host knows who read what: a hundred thousand keys that each read a few objects and a list.
//!
//! A test binary of its own, because it counts every allocation of its process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::Gvk;
use windlass_core::name::PluginName;
use windlass_core::ports::{Cache as _, Sink};
use windlass_core::reads::{Query, Reads};
use windlass_core::urgency::Urgency;
use windlass_watch::watches::Watches;

/// Bytes that are allocated and not freed.
static HELD: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[allow(unsafe_code, reason = "an allocator cannot be counted without being one")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
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

struct Nobody;

impl Sink for Nobody {
    fn offer_as(&self, _: Key, _: Urgency) {}
}

const KEYS: usize = 100_000;
/// Objects that each key reads of its own, and those that all read.
const OWN: usize = 2;
/// Bytes a key, its own name and those of what it read included.
const MOST: usize = 1_600;

#[tokio::test]
async fn a_hundred_thousand_keys_that_read_a_few_things_each_cost_little_memory() {
    let kind: Gvk = "v1/ConfigMap".parse().expect("a kind");
    let plugin = PluginName::try_new("tenant").expect("a name");
    // Nothing is sent: no watch is started.
    let config = kube::Config::new("http://127.0.0.1:9".parse().expect("an address"));
    let client = kube::Client::try_from(config).expect("a client");
    let cache = Watches::new(client, "windlass-system", Arc::new(Nobody), None).cache();
    let before = HELD.load(Ordering::Relaxed);
    let keys: Vec<Key> = (0..KEYS).map(|n| Key::new(plugin.clone(), "", format!("tenant-{n:06}"))).collect();
    for (n, key) in keys.iter().enumerate() {
        let object = |name: String| ObjectRef {
            gvk: kind.clone(),
            namespace: "tenant-defaults".into(),
            name: name.into(),
        };
        let mut reads = Reads::default();
        reads.objects.extend((0..OWN).map(|i| object(format!("quota-{n:06}-{i}"))));
        reads.objects.insert(object("house-rules".to_owned()));
        // Ten plans: each list is read by a tenth of all.
        reads.lists.insert(Query {
            gvk: kind.clone(),
            namespace: Some("tenant-defaults".into()),
            labels: vec![("tenant.example.com/share".to_owned(), format!("plan-{}", n % 10))],
        });
        cache.watch_reads(key, reads);
    }
    let each = (HELD.load(Ordering::Relaxed) - before) / KEYS;
    println!("{each} bytes a key with {} objects and a list", OWN + 1);
    assert!(each <= MOST, "{each} bytes a key, at most {MOST}");
    for key in &keys {
        cache.watch_reads(key, Reads::default());
    }
    drop(keys);
    let left = HELD.load(Ordering::Relaxed).saturating_sub(before) / KEYS;
    // Tables keep their size; what was in them is gone.
    assert!(left <= MOST / 4, "{left} bytes a key stay behind");
}

//! What an object costs beside its JSON: counted by the allocator, not estimated.
//!
//! A test binary of its own, because the allocator is the process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use windlass_core::kind::Gvk;
use windlass_core::object::Object;

/// Bytes and allocations that are alive.
static BYTES: AtomicUsize = AtomicUsize::new(0);
static BLOCKS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: all is left to the system's allocator; beside it only counters change.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        BLOCKS.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An object like a pod: five labels, an owner, two annotations of others, `managedFields`.
fn pod(number: usize, json_bytes: usize) -> String {
    let fields = r#"{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{"f:image":{}}}}}"#;
    let text = |fill: &str| {
        format!(
            r#"{{"metadata":{{"name":"web-7c9f8d7b6c-{number:05}","generateName":"web-7c9f8d7b6c-","namespace":"default",
            "uid":"7f1ee1c4-5b0a-4c36-9d2e-{number:012}","resourceVersion":"{}","creationTimestamp":"2026-01-01T00:00:00Z",
            "labels":{{"app":"web","app.kubernetes.io/name":"web","app.kubernetes.io/part-of":"shop","pod-template-hash":"7c9f8d7b6c","tier":"front"}},
            "annotations":{{"prometheus.io/scrape":"true","prometheus.io/port":"8080"}},
            "ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-7c9f8d7b6c","uid":"0c1c9a55-3a0e-4b3b-8a55-000000000001","controller":true}}],
            "managedFields":[{{"manager":"kubelet","operation":"Update","fieldsV1":{fields}}}]}},"spec":{{"fill":"{fill}"}}}}"#,
            1_000_000 + number
        )
    };
    let bare = Object::parse(&kind(), &text("")).expect("an object").json().len();
    text(&"x".repeat(json_bytes.saturating_sub(bare)))
}

fn kind() -> Gvk {
    "v1/Pod".parse().expect("valid")
}

/// Bytes and allocations for each of `count` objects as a cache holds them, and their own count.
fn cost(count: usize, json_bytes: usize) -> (f64, f64, f64) {
    let namespace: Arc<str> = "default".into();
    let mut held = Vec::with_capacity(count);
    let before = (BYTES.load(Ordering::Relaxed), BLOCKS.load(Ordering::Relaxed));
    for number in 0..count {
        let mut object = Object::parse(&kind(), &pod(number, json_bytes)).expect("an object");
        let name = object.meta().name.clone();
        object.share_names(&namespace, &name);
        held.push(Arc::new(object));
    }
    let each = |after: usize, before: usize| (after - before) as f64 / count as f64;
    let bytes = each(BYTES.load(Ordering::Relaxed), before.0);
    let blocks = each(BLOCKS.load(Ordering::Relaxed), before.1);
    let own = held.iter().map(|object| object.bytes()).sum::<usize>() as f64 / count as f64;
    (bytes, blocks, own)
}

#[test]
fn an_object_costs_little_more_than_its_json_and_says_so_itself() {
    for (count, json_bytes, most) in [(2_000, 4_400, 1.15), (2_000, 2_000, 1.32)] {
        let (bytes, blocks, own) = cost(count, json_bytes);
        println!("{json_bytes} bytes of JSON: {bytes:.0} bytes in {blocks:.1} allocations; it says {own:.0}");
        assert!(bytes / json_bytes as f64 <= most, "{bytes:.0} bytes for {json_bytes} of JSON");
        assert!(blocks <= 9.0, "{blocks} allocations");
        // Its name, and the counts of shared allocations, are not its own.
        assert!((0.0..=80.0).contains(&(bytes - own)), "{bytes:.0} bytes, it says {own:.0}");
    }
}

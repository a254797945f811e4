//! How many allocations the reading of an object costs: each event of a watch and each answer to a write is one.
//!
//! A test binary of its own, because it counts every allocation of its thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use windlass_core::kind::Gvk;
use windlass_core::object::{Meta, Object};

thread_local! {
    /// Allocations of this thread.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[allow(unsafe_code, reason = "an allocator cannot be counted without being one")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // The thread may be ending.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Of a child with labels, annotations, an owner and three managers.
const OBJECT_MOST: usize = 22;
/// Of the same without its text.
const META_MOST: usize = 20;

const CHILD: &str = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a-cfg","namespace":"ns","uid":"u1","resourceVersion":"42",
    "generation":3,"labels":{"windlass.dev/owned-by":"webapp","windlass.dev/host":"windlass-system","x":"y"},
    "annotations":{"windlass.dev/primary":"ns/a","windlass.dev/applied":"h1","other":"dropped from the header"},
    "ownerReferences":[{"apiVersion":"v1","kind":"W","name":"a","uid":"p1","controller":true,"blockOwnerDeletion":true}],
    "managedFields":[{"manager":"windlass/webapp","operation":"Apply","apiVersion":"v1","fieldsV1":{"f:data":{"f:k":{}}}},
                     {"manager":"windlass/webapp","operation":"Apply","subresource":"status","fieldsV1":{}},
                     {"manager":"kubectl","operation":"Update","fieldsV1":{"f:x":{}}}]},
    "data":{"k":"v \u00fc"}}"#;

/// Allocations of `work`; what it makes is freed.
fn allocations<T>(work: impl Fn() -> T) -> usize {
    let before = COUNT.get();
    drop(work());
    COUNT.get() - before
}

#[test]
fn an_object_is_read_with_few_allocations() {
    let gvk: Gvk = "v1/ConfigMap".parse().expect("valid");
    let object = allocations(|| Object::parse(&gvk, CHILD).expect("an object"));
    let meta = allocations(|| Meta::parse(CHILD).expect("an object"));
    println!("{object} allocations of an object, {meta} of metadata alone");
    assert!(object <= OBJECT_MOST, "{object} allocations of an object");
    assert!(meta <= META_MOST, "{meta} allocations of metadata alone");
}

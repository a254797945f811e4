//! What one more component costs the process that runs plugins, while nobody asks it.
//!
//! A test binary of its own, because it counts every allocation of its process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use windlass_core::guests::{Guests as _, Load, LoadId, Tier};
use windlass_core::limits::Limits;
use windlass_core::name::{Digest, PluginName};
use windlass_plugin::{Engine, compile_to};

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

/// Components that are loaded one after the other.
const LOADS: usize = 10;
/// Bytes each: what wasmtime reads out of an artefact, types and names for the most part (59 KB of 64), and what links it.
const MOST: usize = 80 << 10;

#[test]
fn a_component_that_nobody_asks_holds_little_beside_its_mapped_code() {
    let limits = Limits::default();
    let file = windlass_testbed::component("windlass-fixtures", Some("idle")).expect("it builds");
    let component = std::fs::read(file).expect("it is there");
    let directory = tempfile::tempdir().expect("a folder");
    let artefact = directory.path().join("idle");
    let into = std::fs::File::create(&artefact).expect("a file");
    compile_to(&component, &limits, Tier::Optimised, into).expect("it compiles");
    let engine = Engine::new(&limits).expect("an engine");
    let load = |number: usize| {
        let plugin = PluginName::try_new("idle-placeholder-000").expect("a name");
        let digest = Digest::of(&component);
        engine.load(&Load {
            id: LoadId(number as u64),
            plugin,
            digest,
            artefact: artefact.clone(),
            limits: limits.clone(),
        })
    };
    // What all have in common comes with the first.
    load(0).expect("it loads");
    let before = HELD.load(Ordering::Relaxed);
    for number in 1..=LOADS {
        load(number).expect("it loads");
    }
    let each = (HELD.load(Ordering::Relaxed) - before) / LOADS;
    println!("{each} bytes a component");
    assert!(each <= MOST, "{each} bytes a component, at most {MOST}");
}

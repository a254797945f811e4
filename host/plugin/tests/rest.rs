//! Compiled code of plugins that nobody asks. A file of its own, because it looks at what is mapped in the whole process.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{Guest, Objects, answer, any_snapshot, load, pass};
use windlass_core::decision::Fault;
use windlass_core::limits::Limits;
use windlass_core::ports::CallError;
use windlass_plugin::Loader;

/// Far more than two looks, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// KiB of artefacts that this process has in memory.
fn code_kib() -> u64 {
    artefacts_kib("Rss:")
}

/// KiB of artefacts that are this process's own, because something has written to them since they were mapped.
fn written_kib() -> u64 {
    artefacts_kib("Anonymous:")
}

fn artefacts_kib(field: &str) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("linux");
    let mut artefact = false;
    let mut kib = 0;
    for line in maps.lines() {
        match line.strip_prefix(field) {
            Some(size) if artefact => {
                kib += size.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
            }
            None if line.contains('-') && !line.contains("kB") => {
                artefact = line.contains("windlass-artefacts-")
            }
            _ => {}
        }
    }
    kib
}

#[test]
fn a_plugin_that_nobody_asks_keeps_no_code_in_memory_and_answers_as_before() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    // A fault with the text that is there in memory.
    let reconcile = format!("(i32.store8 (i32.const 8192) (i32.const 120)) {}", answer(&[1, 1, 8192, 1]));
    let plugin = load(&loader, &Guest { reconcile: &reconcile, ..Guest::default() }.build()).expect("good");
    let asked = || plugin.decide(&pass("probe"), &any_snapshot(), Arc::new(Objects::default()));
    let expected = Err(CallError::Fault(Fault::Permanent("x".into())));
    assert_eq!(asked(), expected);
    assert!(code_kib() > 0, "it has just run");
    assert_eq!(written_kib(), 0, "what was written would be lost with the page");
    for _ in 0..2 {
        let begun = Instant::now();
        while code_kib() > 0 {
            assert!(begun.elapsed() < PATIENCE, "{} KiB of code are still there", code_kib());
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(asked(), expected);
        assert!(code_kib() > 0, "it has just run");
        assert_eq!(written_kib(), 0, "what was written would be lost with the page");
    }
}

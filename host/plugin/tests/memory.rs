//! What calls leave behind in this process: nothing. One test, because it looks at
//! the memory of the whole process.

mod support;

use support::{Guest, answer, any_snapshot, load, refused, resident_kib};
use windlass_core::code::Code;
use windlass_core::limits::Limits;
use windlass_plugin::{Loader, Plugin};

/// What may stay: pages that the allocator keeps for itself.
const GROWTH_KIB: u64 = 16 << 10;

fn plugin(loader: &Loader, memory: &str, reconcile: &str) -> Plugin {
    let guest = Guest { memory, reconcile, ..Guest::default() };
    load(loader, &guest.build()).expect("a good component")
}

#[test]
fn neither_huge_answers_nor_many_traps_cost_the_host_memory() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    huge_answers_are_refused_before_the_host_holds_them(&loader);
    calls_after_many_traps_need_no_more_memory(&loader);
}

fn huge_answers_are_refused_before_the_host_holds_them(loader: &Loader) {
    let texts: String = [(8192, 65536), (8196, 3_000_000), (8200, 65536), (8204, 3_000_000)]
        .map(|(at, word)| format!("(i32.store (i32.const {at}) (i32.const {word})) "))
        .concat();
    for (what, reconcile) in [
        ("50 MiB as the text of a fault", answer(&[1, 0, 65536, 50 << 20])),
        ("a million empty children", answer(&[0, 65536, 1_000_000])),
        ("twice the same 3 MB", format!("{texts} {}", answer(&[0, 8192, 2]))),
    ] {
        let plugin = plugin(loader, "(memory (export \"memory\") 900)", &reconcile);
        let before = resident_kib();
        let refusal = refused(&plugin, &any_snapshot());
        assert_eq!(refusal.code, Code::OutputTooLarge, "{what}: {refusal}");
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < GROWTH_KIB, "{what}: {grown} KiB more than before");
    }
}

fn calls_after_many_traps_need_no_more_memory(loader: &Loader) {
    let memory = "(memory (export \"memory\") 2)";
    let trapping = plugin(loader, memory, "(drop (memory.grow (i32.const 500))) unreachable");
    let run = |times: usize| (0..times).for_each(|_| drop(refused(&trapping, &any_snapshot())));
    run(50);
    let before = resident_kib();
    run(500);
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < GROWTH_KIB, "{grown} KiB more than before");
}

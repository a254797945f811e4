//! B18: components that every check lets through and no compiler should be asked for.

use super::guest::Guest;
use super::offer::holding;
use super::row::{Kit, Row, name_of};

/// What makes the bombs go off in seconds: by default a component has a minute of CPU time and,
/// where nothing limits the container, 1 GiB.
pub(crate) const FLAGS: [&str; 2] = ["--compile-timeout=3s", "--spare-memory=192Mi"];

/// Both of them.
pub(crate) fn rows(kit: &Kit) -> Vec<Row> {
    let bomb = |what: &'static str, code, says: &[&str], component: &[u8]| {
        let plugin = name_of(what);
        // As it is: compressed it would be a bomb for the decompression first.
        let mut map = holding(&plugin, "plugin.wasm", component);
        map["data"]["plugin.sig"] = kit.signer.vouches(&plugin, component, 1).into();
        Row::refused(what, code, says, vec![map])
    };
    let (time, memory) = ("B18 time", "B18 memory");
    vec![
        bomb(
            time,
            "E150 CompileTimeout",
            &["3s of CPU time", "without optimisation too"],
            &slow(&name_of(time)),
        ),
        bomb(
            memory,
            "E151 CompileMemory",
            &["within 192 MiB", "without optimisation too"],
            &Guest { name: &name_of(memory), fields: &loops(4_000), ..Guest::default() }.build(),
        ),
    ]
}

/// A component of many functions that each take the compiler a good part of a second.
pub(crate) fn slow(plugin: &str) -> Vec<u8> {
    Guest { name: plugin, fields: &loops(300).repeat(60), ..Guest::default() }.build()
}

/// A function of many loops inside each other, with many variables that all of them carry: a few
/// bytes a loop, and work and memory with the product.
fn loops(depth: usize) -> String {
    let locals = "i32 ".repeat(1_000);
    let heads = "loop local.get 0 br_if 0 ".repeat(depth);
    let uses: String =
        (0..1_000).map(|i| format!("local.get {i} i32.const 1 i32.add local.set {i} ")).collect();
    let ends = "end ".repeat(depth);
    format!("(func (local {locals}) {heads} {uses} {ends})")
}

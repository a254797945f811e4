//! Generated bindings, in quarantine: nothing here is written by hand.
//!
//! One module a world: [`contract`] is `wit/windlass.wit`, what a plugin is;
//! [`floor`] is `wit/floor.wit`, the part of WASI that languages need. Both are
//! the synchronous flavour: a call runs on the thread that asks.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]

/// The world `windlass:operator/reconciler`.
pub(crate) mod contract {
    wasmtime::component::bindgen!({
        path: "../../wit/windlass.wit",
        world: "windlass:operator/reconciler",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: { default: trappable },
        include_component_type: true,
    });
}

/// The world `windlass:sandbox/floor`.
pub(crate) mod floor {
    wasmtime::component::bindgen!({
        path: "wit/floor.wit",
        world: "windlass:sandbox/floor",
        imports: { default: trappable },
        include_component_type: true,
        include_component_type: true,
    });
}

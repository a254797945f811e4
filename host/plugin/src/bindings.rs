//! Generated bindings, in quarantine: nothing here is written by hand.
//!
//! [`floor`] is `wit/floor.wit`, the part of WASI that languages need; the contract's own
//! bindings are a version's each, in [`worlds`](crate::worlds). All are the synchronous
//! flavour: a call runs on the thread that asks.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]

/// The world `windlass:sandbox/floor`.
pub(crate) mod floor {
    wasmtime::component::bindgen!({
        path: "wit/floor.wit",
        world: "windlass:sandbox/floor",
        imports: { default: trappable },
        include_component_type: true,
    });
}

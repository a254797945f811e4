//! The nouns of Windlass and the pure functions over them: no I/O, no tokio, no kube, no wasmtime.

//! The attribute macros of the `windlass` crate.
//!
//! They turn one function into a component and its manifest, and check at compile time what the
//! host would otherwise refuse when the plugin is loaded. Every error points at the author's own
//! words and says what to write instead. Use them through `windlass`, which documents them by
//! example; nothing here is meant to be named directly.

mod args;
mod names;
mod primary;
mod reconciler;
mod scope;

use proc_macro::TokenStream;
use syn::{Error, Result};

/// Says which Kubernetes objects a struct stands for: `#[primary(group = "apps.example.com",
/// version = "v1", kind = "WebApp")]`.
///
/// `group` is empty for the core group; `kind` defaults to the name of the struct. The struct is
/// deserialized from the whole object, so its fields are usually `spec` and `status`.
#[proc_macro_derive(Primary, attributes(primary))]
pub fn derive_primary(input: TokenStream) -> TokenStream {
    tokens(primary::expand(input.into()))
}

/// Makes a function the whole of a component.
///
/// | argument | meaning | default |
/// |---|---|---|
/// | `labels` | only primary objects with all these labels, at most 16: `"tier=web"`, or `"tier"` for any value. One that loses a label is let go: what was made for it goes. Not together with `finalize` | every object |
/// | `namespaces` | only primary objects in these namespaces, at most 16 | all |
/// | `children` | kinds that it may create, at most 32, as `"apps/v1/Deployment"`; `orphan("v1/Secret")` leaves such a child in place when it is no longer wanted instead of deleting it | none |
/// | `reads` | further kinds that it may look at through the cache, at most 32; `labelled("v1/ConfigMap", "tier=web")` only those with these labels; `only("v1/Pod", labels = ["tier"], namespaces = ["a"], fields = ["spec.nodeName=n"], metadata_only)` with any of these four | none |
/// | `finalize` | the function to call while the primary object is being deleted | none: no finalizer is kept |
/// | `name` | name of the plugin, a DNS label of at most 40 bytes | the name of the package |
/// | `version` | semantic version of the plugin, at most 64 bytes | the version of the package |
///
/// The function itself stays as it is and can be called in tests. Beside it a constant `MANIFEST`
/// appears, which holds what the component tells the host.
#[proc_macro_attribute]
pub fn reconciler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let item = proc_macro2::TokenStream::from(item);
    let expanded = reconciler::expand(arguments.into(), item.clone());
    // The function stays even then, so that the one mistake is the only thing reported.
    tokens(expanded.or_else(|error| {
        let error = error.into_compile_error();
        Ok(quote::quote! { #item #error })
    }))
}

/// The expansion, or the compile errors in its place.
fn tokens(expanded: Result<proc_macro2::TokenStream>) -> TokenStream {
    expanded.unwrap_or_else(Error::into_compile_error).into()
}

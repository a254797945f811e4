//! `#[windlass::reconciler]`: one function becomes a component and its manifest.

use crate::args::{Arguments, Child, Read};
use crate::names::{self, KindName, Rule};
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::{Error, FnArg, ItemFn, LitStr, Result, ReturnType};

/// The signature in full, for messages.
const SIGNATURE: &str = "fn reconcile(app: &Snapshot<WebApp>, cache: &Cache) -> Result<Decision, Fault>";

/// Writes the function, its manifest and, for wasm, the component around it.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = syn::parse2(item.clone()).map_err(|error| {
        Error::new(error.span(), format!("the attribute goes on a function: {SIGNATURE}"))
    })?;
    let arguments: Arguments = syn::parse2(arguments)?;
    check_signature(&function)?;
    let manifest = manifest(&arguments, &function)?;
    let component = component(&arguments, &function);
    Ok(quote! {
        #item
        #manifest
        #component
    })
}

/// Refuses what the type checker would refuse less clearly.
fn check_signature(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    if let Some(word) = &signature.asyncness {
        return Err(Error::new(
            word.span,
            "a reconciler waits for nothing: remove `async`; what it may know is in the snapshot and the cache",
        ));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &signature.generics,
            "a reconciler is for one kind: remove the generics",
        ));
    }
    if let Some(receiver @ FnArg::Receiver(_)) = signature.inputs.first() {
        return Err(Error::new_spanned(
            receiver,
            format!("a reconciler keeps nothing between calls: write {SIGNATURE}"),
        ));
    }
    if signature.inputs.len() != 2 {
        return Err(Error::new(
            signature.ident.span(),
            format!(
                "a reconciler takes two arguments, this one {}: write {SIGNATURE}",
                signature.inputs.len()
            ),
        ));
    }
    if matches!(signature.output, ReturnType::Default) {
        return Err(Error::new(
            signature.ident.span(),
            format!("a reconciler returns what it wants: write {SIGNATURE}"),
        ));
    }
    Ok(())
}

/// The constant `MANIFEST`, and the proof that the functions fit.
fn manifest(arguments: &Arguments, function: &ItemFn) -> Result<TokenStream> {
    let name = name(arguments)?;
    let version = version(arguments)?;
    let selects = arguments.selects.tokens();
    let children = arguments.children.iter().map(child);
    let reads = arguments.reads.iter().map(read);
    let finalizes = arguments.finalize.is_some();
    let visibility = &function.vis;
    let reconcile = &function.sig.ident;
    // The anonymous constant keeps a native build, which has no component, from calling the
    // author's functions unused; it also is where a wrong `finalize` is reported.
    let finalize_fits = arguments.finalize.as_ref().map(|path| {
        quote! {
            ::windlass::raw::finalizer_of(#reconcile, #path);
        }
    });
    Ok(quote! {
        /// What the component tells the host about itself.
        #visibility const MANIFEST: ::windlass::Manifest = ::windlass::Manifest {
            name: #name,
            version: #version,
            primary: ::windlass::raw::primary_of(#reconcile),
            selects: #selects,
            children: &[#(#children),*],
            reads: &[#(#reads),*],
            finalizes: #finalizes,
        };
        const _: () = {
            let _ = &MANIFEST;
            #finalize_fits
        };
    })
}

/// The component's exports, which only exist on wasm.
fn component(arguments: &Arguments, function: &ItemFn) -> TokenStream {
    let reconcile = &function.sig.ident;
    let component = format_ident!("Component");
    let finalize = match &arguments.finalize {
        Some(path) => quote! { ::windlass::raw::finalize(snapshot, #path) },
        None => quote! { ::windlass::raw::nothing_to_finalize(snapshot) },
    };
    quote! {
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct #component;
            impl ::windlass::raw::Guest for #component {
                fn manifest() -> ::windlass::raw::types::Manifest {
                    ::windlass::raw::manifest(&MANIFEST)
                }
                fn reconcile(
                    snapshot: ::windlass::raw::types::Snapshot,
                ) -> ::core::result::Result<::windlass::raw::types::Decision, ::windlass::raw::types::Fault> {
                    ::windlass::raw::reconcile(snapshot, #reconcile)
                }
                fn finalize(
                    snapshot: ::windlass::raw::types::Snapshot,
                ) -> ::core::result::Result<::windlass::raw::types::Finalization, ::windlass::raw::types::Fault> {
                    #finalize
                }
            }
            ::windlass::raw::export!(#component with_types_in ::windlass::raw::bindings);
        };
    }
}

/// The plugin's name: as said, or the package's.
fn name(arguments: &Arguments) -> Result<LitStr> {
    from_package(arguments.name.as_ref(), "CARGO_PKG_NAME", |name| {
        names::check_plugin_name(name).map_err(|message| format!("the package's name {message}"))
    })
}

/// The plugin's version: as said, or the package's.
fn version(arguments: &Arguments) -> Result<LitStr> {
    from_package(arguments.version.as_ref(), "CARGO_PKG_VERSION", names::check_plugin_version)
}

/// What was said (checked when it was parsed), or what Cargo says.
fn from_package(said: Option<&LitStr>, variable: &str, check: Rule) -> Result<LitStr> {
    if let Some(said) = said {
        return Ok(said.clone());
    }
    let span = Span::call_site();
    let value = std::env::var(variable).map_err(|_| {
        Error::new(span, format!("{variable} is not set: give name and version, or build with cargo"))
    })?;
    check(&value).map_err(|message| Error::new(span, message))?;
    Ok(LitStr::new(&value, span))
}

/// One element of `Manifest::children`.
fn child(child: &Child) -> TokenStream {
    let kind = kind(&child.kind);
    let unwanted = if child.orphan {
        quote! { Orphan }
    } else {
        quote! { Delete }
    };
    quote! {
        ::windlass::manifest::Child { kind: #kind, unwanted: ::windlass::manifest::Unwanted::#unwanted }
    }
}

/// One element of `Manifest::reads`.
fn read(read: &Read) -> TokenStream {
    let kind = kind(&read.kind);
    let scope = read.scope.tokens();
    quote! {
        ::windlass::manifest::Read { kind: #kind, scope: #scope }
    }
}

/// A kind as an expression.
fn kind(name: &KindName) -> TokenStream {
    let KindName { group, version, kind } = name;
    quote! { ::windlass::Kind::new(#group, #version, #kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "fn reconcile(app: &Snapshot<A>, _: &Cache) -> Result<Decision, Fault> {}";

    fn expanded(arguments: &str, item: &str) -> Result<String> {
        let tokens = |source: &str| source.parse::<TokenStream>().expect("tokens");
        expand(tokens(arguments), tokens(item)).map(|tokens| tokens.to_string())
    }

    #[test]
    fn name_and_version_default_to_the_packages() {
        let text = expanded("", GOOD).expect("accepted");
        assert!(text.contains("name : \"windlass-macros\""), "{text}");
        assert!(text.contains(concat!("version : \"", env!("CARGO_PKG_VERSION"), "\"")), "{text}");
        assert!(text.contains("finalizes : false"), "{text}");
    }

    #[test]
    fn children_and_reads_become_the_manifest() {
        let text = expanded(
            r#"children = ["apps/v1/Deployment", orphan("v1/Secret"),], reads = [labelled("v1/ConfigMap", "tier=web"), "v1/Namespace"], finalize = clean::up, name = "x", version = "1.2.3""#,
            GOOD,
        )
        .expect("accepted");
        for part in [
            r#"new ("apps" , "v1" , "Deployment") , unwanted : :: windlass :: manifest :: Unwanted :: Delete"#,
            r#"new ("" , "v1" , "Secret") , unwanted : :: windlass :: manifest :: Unwanted :: Orphan"#,
            r#"labels : & [("tier" , :: core :: option :: Option :: Some ("web"))]"#,
            "finalizes : true",
            "finalize (snapshot , clean :: up)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn what_is_looked_at_becomes_a_scope() {
        let text = expanded(
            r#"labels = ["plan", "tier=web"], namespaces = ["a", "b"],
            reads = [only("v1/Pod", labels = ["team"], namespaces = ["c"], fields = ["spec.nodeName=n", "status.phase="], metadata_only)]"#,
            GOOD,
        )
        .expect("accepted");
        let none = ":: core :: option :: Option :: None";
        for part in [
            &format!(
                r#"labels : & [("plan" , {none}) , ("tier" , :: core :: option :: Option :: Some ("web"))] , namespaces : & ["a" , "b"] , fields : & [] , metadata_only : false"#
            ),
            &format!(
                r#"labels : & [("team" , {none})] , namespaces : & ["c"] , fields : & [("spec.nodeName" , "n") , ("status.phase" , "")] , metadata_only : true"#
            ),
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn every_refused_argument_points_at_the_authors_words() {
        for (arguments, at, fix) in [
            (r#"children = ["Deployment"]"#, "\"Deployment\"", "apps/v1/Deployment"),
            ("children = [Deployment]", "Deployment", "in quotes"),
            (r#"children = "v1/Service""#, "\"v1/Service\"", "write a list"),
            (r#"children = ["v1/Service", "v1/Service"]"#, "\"v1/Service\"", "listed twice"),
            (r#"children = [keep("v1/Secret")]"#, "keep", "orphan("),
            (r#"children = [orphan("v1/Secret", "v1/Pod")]"#, "\"v1/Pod\"", "one kind each"),
            (r#"reads = [labelled("v1/Pod", "tier=-")]"#, "\"tier=-\"", "key=value"),
            (r#"reads = [labelled("v1/Pod", "-tier")]"#, "\"-tier\"", "for any value"),
            (r#"reads = [only("v1/Pod")]"#, "only", "or the kind alone"),
            (r#"reads = [only("v1/Pod", label = ["a"])]"#, "label", "there are labels, namespaces, fields"),
            (r#"reads = [only("v1/Pod", labels = [])]"#, "[]", "leave `labels` out"),
            (r#"reads = [only("v1/Pod", labels = ["a", "a=1"])]"#, "\"a=1\"", "once"),
            (r#"reads = [only("v1/Pod", labels = ["a"], labels = ["b"])]"#, "labels", "given twice"),
            (r#"reads = [only("v1/Pod", namespaces = ["*"])]"#, "\"*\"", "such as \"default\""),
            (r#"reads = [only("v1/Pod", fields = ["spec.nodeName"])]"#, "\"spec.nodeName\"", "path=value"),
            (
                r#"reads = [only("v1/Pod", fields = ["a=1", "b=1", "c=1", "d=1", "e=1"])]"#,
                "\"e=1\"",
                "at most 4 fields",
            ),
            (r#"labels = "a""#, "\"a\"", "write a list"),
            (r#"namespaces = ["A"]"#, "\"A\"", "not a namespace"),
            (r#"fields = ["a=1"]"#, "fields", "is for reads"),
            (r#"labels = ["a"], finalize = x"#, "\"a\"", "would keep its finalizer"),
            (r#"owns = ["v1/Pod"]"#, "owns", "write children ="),
            (r#"primary = "v1/Pod""#, "primary", "derive(Primary)"),
            (r#"finalize = "clean_up""#, "\"clean_up\"", "finalize = clean_up"),
            (r#"name = "My_App""#, "\"My_App\"", "name = \"my-app\""),
            (r#"version = "1""#, "\"1\"", "semantic version"),
            (r#"name = "a", name = "b""#, "name", "given twice"),
        ] {
            let error = expanded(arguments, GOOD).expect_err(arguments);
            assert!(error.to_string().contains(fix), "{arguments}: {error}");
            let found = error.span().source_text().unwrap_or_default();
            assert_eq!(found, at, "{arguments}: {error}");
        }
    }

    #[test]
    fn every_refused_function_points_at_the_authors_words() {
        for (item, at, fix) in [
            ("struct A;", "struct", "goes on a function"),
            ("async fn r(a: &S, c: &C) -> R {}", "async", "remove `async`"),
            ("fn r<T>(a: &S, c: &C) -> R {}", "<T>", "remove the generics"),
            ("fn r(a: &S) -> R {}", "r", "two arguments, this one 1"),
            ("fn r(&self, c: &C) -> R {}", "&self", "keeps nothing"),
            ("fn r(a: &S, c: &C) {}", "r", "returns what it wants"),
        ] {
            let error = expanded("", item).expect_err(item);
            assert!(error.to_string().contains(fix), "{item}: {error}");
            let found = error.span().source_text().unwrap_or_default();
            assert_eq!(found, at, "{item}: {error}");
        }
    }
}

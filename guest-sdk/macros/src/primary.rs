//! `#[derive(Primary)]`: which objects a struct stands for.

use crate::names::{self, Rule};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, LitStr, Result};

/// The attribute in full, for messages.
const EXAMPLE: &str = "#[primary(group = \"apps.example.com\", version = \"v1\", kind = \"WebApp\")]";

/// What `#[primary(...)]` says.
#[derive(Default)]
struct Said {
    group: Option<LitStr>,
    version: Option<LitStr>,
    kind: Option<LitStr>,
}

/// Writes the `Primary` implementation.
pub(crate) fn expand(input: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = syn::parse2(input)?;
    if !matches!(input.data, Data::Struct(_)) {
        return Err(Error::new(
            input.ident.span(),
            "a primary is a struct with the fields `spec` and, if it is read, `status`",
        ));
    }
    if !input.generics.params.is_empty() {
        return Err(Error::new(input.ident.span(), "a primary stands for one kind: remove its generics"));
    }
    let said = said(&input)?;
    let missing = |what: &str| {
        Error::new(input.ident.span(), format!("`{what}` is missing: write {EXAMPLE} above the struct"))
    };
    let group = said.group.as_ref().ok_or_else(|| missing("group"))?;
    let version = said.version.as_ref().ok_or_else(|| missing("version"))?;
    let own_name = LitStr::new(&input.ident.to_string(), input.ident.span());
    let kind = said.kind.as_ref().unwrap_or(&own_name);
    check(group, names::check_group)?;
    check(version, names::check_version)?;
    check(kind, names::check_kind)?;
    let ident = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl ::windlass::Primary for #ident {
            const KIND: ::windlass::Kind = ::windlass::Kind::new(#group, #version, #kind);
        }
    })
}

/// Reads the `#[primary(...)]` attribute.
fn said(input: &DeriveInput) -> Result<Said> {
    let mut said = Said::default();
    for attribute in &input.attrs {
        if !attribute.path().is_ident("primary") {
            continue;
        }
        attribute.parse_nested_meta(|meta| {
            let slot = if meta.path.is_ident("group") {
                &mut said.group
            } else if meta.path.is_ident("version") {
                &mut said.version
            } else if meta.path.is_ident("kind") {
                &mut said.kind
            } else {
                return Err(meta.error(format!("there are only group, version and kind: write {EXAMPLE}")));
            };
            *slot = Some(meta.value()?.parse()?);
            Ok(())
        })?;
    }
    Ok(said)
}

/// Applies a rule to a literal, with the error on the literal.
fn check(literal: &LitStr, rule: Rule) -> Result<()> {
    rule(&literal.value()).map_err(|message| Error::new(literal.span(), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(source: &str) -> (String, String) {
        let error = expand(source.parse().expect("tokens")).expect_err("refused");
        let at = error.span().source_text().unwrap_or_default();
        (error.to_string(), at)
    }

    #[test]
    fn the_kind_defaults_to_the_name_of_the_struct() {
        let tokens =
            expand(r#"#[primary(group = "a.b", version = "v1")] struct WebApp {}"#.parse().expect("tokens"))
                .expect("accepted");
        assert!(tokens.to_string().contains(r#"new ("a.b" , "v1" , "WebApp")"#));
    }

    #[test]
    fn every_refusal_points_at_the_authors_words() {
        for (source, at, fix) in [
            ("#[primary(version = \"v1\")] struct A {}", "A", "`group` is missing"),
            ("#[primary(group = \"a.b\")] struct A {}", "A", "`version` is missing"),
            ("#[primary(group = \"A.b\", version = \"v1\")] struct A {}", "\"A.b\"", "lower case"),
            ("#[primary(group = \"a.b\", version = \"1\")] struct A {}", "\"1\"", "such as \"v1\""),
            (
                "#[primary(group = \"a.b\", version = \"v1\", kind = \"widgets\")] struct A {}",
                "\"widgets\"",
                "CamelCase",
            ),
            ("#[primary(grup = \"a.b\")] struct A {}", "grup", "there are only group"),
            ("#[primary(group = \"a.b\", version = \"v1\")] enum A {}", "A", "is a struct"),
            ("#[primary(group = \"a.b\", version = \"v1\")] struct A<T>(T);", "A", "remove its generics"),
        ] {
            let (message, found) = error_of(source);
            assert!(message.contains(fix), "{source}: {message}");
            assert_eq!(found, at, "{source}");
        }
    }
}

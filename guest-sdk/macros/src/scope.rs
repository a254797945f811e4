//! Which objects of a kind: labels, namespaces, fields, and whether only metadata.

use crate::names;
use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::{Error, Ident, LitStr, Path, Result, Token, bracketed};

/// Most labels and most namespaces of a scope: the contract's bound.
const SCOPE_MAX: usize = 16;
/// Most fields of a scope: the contract's bound.
const FIELDS_MAX: usize = 4;

/// What is said of the objects of one kind.
#[derive(Default)]
pub(crate) struct Scope {
    /// Labels, with a value unless any will do.
    labels: Vec<(String, Option<String>)>,
    /// Namespaces.
    namespaces: Vec<String>,
    /// Paths and values.
    fields: Vec<(String, String)>,
    /// Whether bodies are left out.
    metadata_only: bool,
    /// The first label, to point at.
    label: Option<LitStr>,
}

impl Scope {
    /// Parses `, labels = [...], metadata_only` up to the end.
    pub(crate) fn parse_after(word: &Ident, input: ParseStream<'_>) -> Result<Self> {
        let mut scope = Self::default();
        let mut given: Vec<String> = Vec::new();
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let key: Ident = input.parse().map_err(|error| {
                Error::new(error.span(), "write only(\"v1/Pod\", labels = [\"tier=web\"])")
            })?;
            let name = key.to_string();
            if given.contains(&name) {
                return Err(Error::new(key.span(), format!("`{name}` is given twice")));
            }
            match name.as_str() {
                "metadata_only" => scope.metadata_only = true,
                "labels" | "namespaces" | "fields" => {
                    input.parse::<Token![=]>()?;
                    scope.read_list(&name, input)?;
                }
                _ => {
                    return Err(Error::new(
                        key.span(),
                        format!(
                            "`{name}` means nothing here: there are labels, namespaces, fields and metadata_only"
                        ),
                    ));
                }
            }
            given.push(name);
        }
        if given.is_empty() {
            return Err(Error::new(
                word.span(),
                "only what: write only(\"v1/Pod\", labels = [\"tier=web\"]), or the kind alone for every object",
            ));
        }
        Ok(scope)
    }

    /// Parses the list that stands after `name =`.
    pub(crate) fn read_list(&mut self, name: &str, input: ParseStream<'_>) -> Result<()> {
        if !input.peek(syn::token::Bracket) {
            return Err(input.error(format!("write a list: {name} = [\"...\"]")));
        }
        let inner;
        let bracket = bracketed!(inner in input);
        let literals = Punctuated::<LitStr, Token![,]>::parse_terminated(&inner)?;
        if literals.is_empty() {
            return Err(Error::new(
                bracket.span.join(),
                format!("an empty list selects nothing less than everything: leave `{name}` out"),
            ));
        }
        literals.iter().try_for_each(|literal| self.push(name, literal))
    }

    /// Adds one element of the list of this name.
    pub(crate) fn push(&mut self, name: &str, literal: &LitStr) -> Result<()> {
        let text = literal.value();
        let refused = |message: String| Error::new(literal.span(), message);
        let twice = || refused(format!("`{text}`: each of the {name} once"));
        let (count, most) = match name {
            "labels" => {
                let (key, value) = names::parse_requirement(&text).map_err(refused)?;
                if self.labels.iter().any(|(known, _)| *known == key) {
                    return Err(twice());
                }
                self.label.get_or_insert_with(|| literal.clone());
                self.labels.push((key, value));
                (self.labels.len(), SCOPE_MAX)
            }
            "namespaces" => {
                names::check_namespace(&text).map_err(refused)?;
                if self.namespaces.contains(&text) {
                    return Err(twice());
                }
                self.namespaces.push(text.clone());
                (self.namespaces.len(), SCOPE_MAX)
            }
            _ => {
                let (path, value) = names::parse_field(&text).map_err(refused)?;
                if self.fields.iter().any(|(known, _)| *known == path) {
                    return Err(twice());
                }
                self.fields.push((path, value));
                (self.fields.len(), FIELDS_MAX)
            }
        };
        if count > most {
            return Err(refused(format!("at most {most} {name}")));
        }
        Ok(())
    }

    /// Refuses labels on the primary of a reconciler that finalizes.
    pub(crate) fn refuse_a_finalizer(&self, finalize: Option<&Path>) -> Result<()> {
        match (finalize, &self.label) {
            (Some(_), Some(label)) => Err(Error::new(
                label.span(),
                "a reconciler that finalizes sees every object: one that loses the label would keep its finalizer; look at the label in the function",
            )),
            _ => Ok(()),
        }
    }

    /// The scope as an expression.
    pub(crate) fn tokens(&self) -> TokenStream {
        let labels = self.labels.iter().map(|(key, value)| match value {
            Some(value) => quote! { (#key, ::core::option::Option::Some(#value)) },
            None => quote! { (#key, ::core::option::Option::None) },
        });
        let namespaces = &self.namespaces;
        let fields = self.fields.iter().map(|(path, value)| quote! { (#path, #value) });
        let metadata_only = self.metadata_only;
        quote! {
            ::windlass::manifest::Scope {
                labels: &[#(#labels),*],
                namespaces: &[#(#namespaces),*],
                fields: &[#(#fields),*],
                metadata_only: #metadata_only,
            }
        }
    }
}

//! The arguments of `#[windlass::reconciler(...)]`, parsed and checked.
//!
//! Nothing here looks at the function; [`crate::reconciler`] joins the two.

use crate::names::{self, KindName, Rule};
use crate::scope::Scope;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Ident, LitStr, Path, Result, Token, bracketed, parenthesized};

/// Most children, and most reads, in a manifest: the contract's bound.
const KINDS_MAX: usize = 32;

/// A kind that the reconciler may create.
pub(crate) struct Child {
    /// Which.
    pub(crate) kind: KindName,
    /// Whether it is left in place when it is no longer wanted.
    pub(crate) orphan: bool,
}

/// A kind that the reconciler may look at.
pub(crate) struct Read {
    /// Which.
    pub(crate) kind: KindName,
    /// Which of its objects, and how much of each.
    pub(crate) scope: Scope,
}

/// All that the attribute says.
#[derive(Default)]
pub(crate) struct Arguments {
    /// `labels = [...]` and `namespaces = [...]`: of the primary.
    pub(crate) selects: Scope,
    /// `children = [...]`.
    pub(crate) children: Vec<Child>,
    /// `reads = [...]`.
    pub(crate) reads: Vec<Read>,
    /// `finalize = path`.
    pub(crate) finalize: Option<Path>,
    /// `name = "..."`.
    pub(crate) name: Option<LitStr>,
    /// `version = "..."`.
    pub(crate) version: Option<LitStr>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut arguments = Self::default();
        let mut given: Vec<String> = Vec::new();
        while !input.is_empty() {
            let key: Ident = input.parse().map_err(|error| {
                Error::new(error.span(), "write arguments as `children = [\"apps/v1/Deployment\"]`")
            })?;
            let word = key.to_string();
            if given.contains(&word) {
                return Err(Error::new(key.span(), format!("`{word}` is given twice")));
            }
            if !arguments.knows(&word) {
                return Err(unknown(&key));
            }
            input.parse::<Token![=]>()?;
            arguments.read_value(&word, input)?;
            given.push(word);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        arguments.selects.refuse_a_finalizer(arguments.finalize.as_ref())?;
        Ok(arguments)
    }
}

impl Arguments {
    /// Whether there is an argument of this name.
    fn knows(&self, word: &str) -> bool {
        ["labels", "namespaces", "children", "reads", "finalize", "name", "version"].contains(&word)
    }

    /// Parses what stands after `word =`.
    fn read_value(&mut self, word: &str, input: ParseStream<'_>) -> Result<()> {
        match word {
            "labels" | "namespaces" => self.selects.read_list(word, input)?,
            "children" => self.children = children(input)?,
            "reads" => self.reads = reads(input)?,
            "finalize" => self.finalize = Some(path(input)?),
            "name" => self.name = Some(checked(input, names::check_plugin_name)?),
            _ => self.version = Some(checked(input, names::check_plugin_version)?),
        }
        Ok(())
    }
}

/// The error for an argument that does not exist, with the nearest one that does.
fn unknown(key: &Ident) -> Error {
    let word = key.to_string();
    let meant = match word.as_str() {
        "child" | "childs" | "owns" | "creates" => Some("children = [\"apps/v1/Deployment\"]"),
        "read" | "watches" | "watch" => Some("reads = [\"v1/ConfigMap\"]"),
        "finalizer" | "finalizes" => Some("finalize = clean_up"),
        "label" | "selector" => Some("labels = [\"tier=web\"] for the primary's labels"),
        "namespace" => Some("namespaces = [\"default\"] for the primary's namespaces"),
        "fields" | "field" | "metadata_only" => {
            return Error::new(
                key.span(),
                format!(
                    "`{word}` is for reads, a primary is selected by labels and namespaces: write reads = [only(\"v1/Pod\", fields = [\"spec.nodeName=a\"], metadata_only)]"
                ),
            );
        }
        "primary" | "kind" => {
            return Error::new(
                key.span(),
                "the primary is the type inside the function's `&Snapshot<...>`: put #[derive(Primary)] on that struct",
            );
        }
        _ => None,
    };
    let text = match meant {
        Some(fix) => format!("`{word}` is not an argument: write {fix}"),
        None => format!(
            "`{word}` is not an argument: there are labels, namespaces, children, reads, finalize, name and version"
        ),
    };
    Error::new(key.span(), text)
}

/// A string literal that `check` accepts.
fn checked(input: ParseStream<'_>, check: Rule) -> Result<LitStr> {
    let literal: LitStr = input.parse()?;
    check(&literal.value()).map_err(|message| Error::new(literal.span(), message))?;
    Ok(literal)
}

/// The path of a function.
fn path(input: ParseStream<'_>) -> Result<Path> {
    if input.peek(LitStr) {
        let literal: LitStr = input.parse()?;
        return Err(Error::new(
            literal.span(),
            format!("name the function itself: write finalize = {}", literal.value()),
        ));
    }
    input.parse()
}

/// One element of a list: `"v1/ConfigMap"`, `word("v1/ConfigMap", "tier=web")` or
/// `only("v1/ConfigMap", labels = ["tier=web"], metadata_only)`.
struct Entry {
    /// `orphan`, `labelled` or `only`, if there is one.
    word: Option<Ident>,
    /// The kind and the texts that follow it.
    literals: Vec<LitStr>,
    /// What `only` says.
    scope: Scope,
}

impl Parse for Entry {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.peek(LitStr) {
            return Ok(Self { word: None, literals: vec![input.parse()?], scope: Scope::default() });
        }
        let word: Ident = input.parse().map_err(|error| {
            Error::new(error.span(), "write a kind in quotes, such as \"apps/v1/Deployment\"")
        })?;
        if !input.peek(syn::token::Paren) {
            return Err(Error::new(
                word.span(),
                "write a kind in quotes, with group and version, such as \"apps/v1/Deployment\"",
            ));
        }
        let inner;
        parenthesized!(inner in input);
        if word == "only" && inner.peek(LitStr) {
            let kind: LitStr = inner.parse()?;
            let scope = Scope::parse_after(&word, &inner)?;
            return Ok(Self { word: Some(word), literals: vec![kind], scope });
        }
        let literals: Vec<LitStr> =
            Punctuated::<LitStr, Token![,]>::parse_terminated(&inner)?.into_iter().collect();
        if literals.is_empty() {
            return Err(Error::new(word.span(), format!("`{word}` of what: write {word}(\"v1/ConfigMap\")")));
        }
        Ok(Self { word: Some(word), literals, scope: Scope::default() })
    }
}

impl Entry {
    /// The kind, checked against those `seen` in the same list.
    fn kind(&self, seen: &mut Vec<KindName>) -> Result<KindName> {
        let literal = &self.literals[0];
        let kind =
            names::parse_kind(&literal.value()).map_err(|message| Error::new(literal.span(), message))?;
        if seen.contains(&kind) {
            return Err(Error::new(literal.span(), format!("`{}` is listed twice", literal.value())));
        }
        if seen.len() == KINDS_MAX {
            return Err(Error::new(literal.span(), format!("a list holds at most {KINDS_MAX} kinds")));
        }
        seen.push(kind.clone());
        Ok(kind)
    }
}

/// What stands in the brackets.
fn entries(input: ParseStream<'_>) -> Result<Vec<Entry>> {
    if !input.peek(syn::token::Bracket) {
        return Err(input.error("write a list: [\"apps/v1/Deployment\", \"v1/Service\"]"));
    }
    let inner;
    bracketed!(inner in input);
    Ok(Punctuated::<Entry, Token![,]>::parse_terminated(&inner)?.into_iter().collect())
}

/// `["apps/v1/Deployment", orphan("v1/PersistentVolumeClaim")]`.
fn children(input: ParseStream<'_>) -> Result<Vec<Child>> {
    let mut seen = Vec::new();
    let mut children = Vec::new();
    for entry in entries(input)? {
        let orphan = match &entry.word {
            None => false,
            Some(word) if word == "orphan" => true,
            Some(word) => {
                return Err(Error::new(
                    word.span(),
                    format!(
                        "`{word}` means nothing here: a child is deleted when it is no longer wanted, orphan(\"v1/Secret\") leaves it in place"
                    ),
                ));
            }
        };
        if let Some(extra) = entry.literals.get(1) {
            return Err(Error::new(
                extra.span(),
                "one kind each: orphan(\"v1/Secret\"), orphan(\"v1/ConfigMap\")",
            ));
        }
        children.push(Child { kind: entry.kind(&mut seen)?, orphan });
    }
    Ok(children)
}

/// `["v1/Namespace", labelled("v1/ConfigMap", "tier=web")]`.
fn reads(input: ParseStream<'_>) -> Result<Vec<Read>> {
    let mut seen = Vec::new();
    let mut reads = Vec::new();
    for mut entry in entries(input)? {
        match &entry.word {
            None => {}
            Some(word) if word == "labelled" || word == "only" => {}
            Some(word) => {
                return Err(Error::new(
                    word.span(),
                    format!(
                        "`{word}` means nothing here: write labelled(\"v1/ConfigMap\", \"tier=web\") to see only objects with that label, or only(\"v1/ConfigMap\", namespaces = [\"default\"])"
                    ),
                ));
            }
        }
        for literal in &entry.literals[1..] {
            entry.scope.push("labels", literal)?;
        }
        let kind = entry.kind(&mut seen)?;
        reads.push(Read { kind, scope: entry.scope });
    }
    Ok(reads)
}

//! The exports of a component against the contract's, as text that people can compare.
//!
//! The expected side is not written down here: it is read from the binary form of
//! `wit/windlass.wit` that the bindings carry, through the same functions as the
//! found side, so the two cannot drift apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use wasmtime::wasmparser::component_types::{
    ComponentAnyTypeId, ComponentDefinedType, ComponentEntityType, ComponentValType,
};
use wasmtime::wasmparser::types::{Types, TypesRef};
use wasmtime::wasmparser::{Validator, WasmFeatures};
use windlass_core::code::{Code, Refusal, printable};

use crate::bindings::contract::COMPONENT_TYPE;
use crate::imports::CONTRACT;

/// How deep a signature is written out when every detail counts; nothing in the
/// contract is deeper.
const DEEP: usize = 16;
/// How deep for people.
const SHALLOW: usize = 4;
/// Longer than any signature of the contract, in bytes.
const LONG: usize = 8 << 10;

/// What the contract exports: name -> (every detail, for people).
static EXPECTED: LazyLock<BTreeMap<String, (String, String)>> = LazyLock::new(|| {
    let contract = Contract::read();
    contract
        .functions()
        .map(|(name, ty)| {
            let show = |depth| entity(contract.types.as_ref(), ty, depth);
            (name.to_owned(), (show(DEEP), show(SHALLOW)))
        })
        .collect()
});

/// Whether the component exports what the contract demands. What it exports
/// beyond that is nobody's concern.
///
/// # Errors
/// E122 with what was expected and what was found.
pub(crate) fn check(types: TypesRef<'_>, exports: &[String]) -> Result<(), Refusal> {
    for (name, (deep, shallow)) in EXPECTED.iter() {
        let Some(item) = types.component_item_for_export(name) else {
            return Err(missing(name, shallow, exports));
        };
        let found = entity(types, &item.ty, DEEP);
        if found != *deep {
            let (expected, found) = apart((deep, &found), (shallow, &entity(types, &item.ty, SHALLOW)));
            return Err(Refusal::new(
                Code::ExportMismatch,
                format!("{name}: expected {}, found {}", printable(&expected, 256), printable(&found, 256)),
            ));
        }
    }
    Ok(())
}

fn missing(name: &str, shallow: &str, exports: &[String]) -> Refusal {
    let found =
        if exports.is_empty() { "no exports".to_owned() } else { printable(&exports.join(", "), 128) };
    let hint = if exports.iter().any(|e| e.starts_with("wasi:cli/run")) {
        "; this is a program: build a library (crate-type cdylib)"
    } else {
        ""
    };
    Refusal::new(
        Code::ExportMismatch,
        format!("{name}: expected {}, found {found}{hint} (contract {CONTRACT})", printable(shallow, 256)),
    )
}

/// Two texts that show the difference: the short forms, or where the long ones part.
fn apart(deep: (&str, &str), shallow: (&str, &str)) -> (String, String) {
    if shallow.0 != shallow.1 {
        return (shallow.0.to_owned(), shallow.1.to_owned());
    }
    let same = deep.0.bytes().zip(deep.1.bytes()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(40);
    let cut = |text: &str| format!("…{}", text.chars().skip(from).take(120).collect::<String>());
    (cut(deep.0), cut(deep.1))
}

/// The contract's own binary form.
struct Contract {
    types: Types,
}

impl Contract {
    fn read() -> Self {
        let types = Validator::new_with_features(WasmFeatures::all())
            .validate_all(COMPONENT_TYPE)
            .expect("the bindings carry a valid component type");
        Self { types }
    }

    /// The world's exported functions. The world is a component type inside the
    /// component type that the binary form exports.
    fn functions(&self) -> impl Iterator<Item = (&str, &ComponentEntityType)> {
        let types = self.types.as_ref();
        let outer = types.component_item_for_export("reconciler").map(|item| item.ty);
        let Some(ComponentEntityType::Type { referenced: ComponentAnyTypeId::Component(outer), .. }) = outer
        else {
            unreachable!("the bindings were made from the world `reconciler`");
        };
        let world = self.types[outer].exports.values().find_map(|item| match item.ty {
            ComponentEntityType::Component(id) => Some(id),
            _ => None,
        });
        let world = world.expect("the binary form of a world holds one component type");
        self.types[world]
            .exports
            .iter()
            .filter(|(_, item)| matches!(item.ty, ComponentEntityType::Func(_)))
            .map(|(name, item)| (name.as_str(), &item.ty))
    }
}

/// An export as text.
fn entity(types: TypesRef<'_>, ty: &ComponentEntityType, depth: usize) -> String {
    let mut out = String::new();
    match ty {
        ComponentEntityType::Func(id) => {
            let function = &types[*id];
            out.push_str(if function.async_ { "async func(" } else { "func(" });
            for (i, (name, ty)) in function.params.iter().enumerate() {
                separate(&mut out, i);
                let _ = write!(out, "{name}: ");
                value(types, ty, depth - 1, &mut out);
            }
            out.push(')');
            if let Some(result) = &function.result {
                out.push_str(" -> ");
                value(types, result, depth - 1, &mut out);
            }
        }
        ComponentEntityType::Module(_) => out.push_str("a core module"),
        ComponentEntityType::Value(_) => out.push_str("a value"),
        ComponentEntityType::Type { .. } => out.push_str("a type"),
        ComponentEntityType::Instance(_) => out.push_str("an instance"),
        ComponentEntityType::Component(_) => out.push_str("a component"),
    }
    out
}

fn separate(out: &mut String, index: usize) {
    if index > 0 {
        out.push_str(", ");
    }
}

/// A value's type as text; beyond `depth` it is cut, and so is what is longer
/// than anything in the contract: a stranger's types may be of any size.
fn value(types: TypesRef<'_>, ty: &ComponentValType, depth: usize, out: &mut String) {
    if depth == 0 || out.len() > LONG {
        out.push_str(if out.len() > LONG { "" } else { "…" });
        return;
    }
    let id = match ty {
        ComponentValType::Primitive(primitive) => {
            let _ = write!(out, "{primitive}");
            return;
        }
        ComponentValType::Type(id) => *id,
    };
    let optional = |ty: &Option<ComponentValType>, out: &mut String| match ty {
        Some(ty) => value(types, ty, depth - 1, out),
        None => out.push('_'),
    };
    match &types[id] {
        ComponentDefinedType::Primitive(primitive) => {
            let _ = write!(out, "{primitive}");
        }
        ComponentDefinedType::Record(record) => {
            let fields = record.fields.iter().map(|(name, ty)| (name.as_str(), Some(*ty)));
            members(types, "record", fields, depth, out);
        }
        ComponentDefinedType::Variant(variant) => {
            let cases = variant.cases.iter().map(|(name, case)| (name.as_str(), case.ty));
            members(types, "variant", cases, depth, out);
        }
        ComponentDefinedType::Enum(names) => {
            members(types, "enum", names.iter().map(|name| (name.as_str(), None)), depth, out);
        }
        ComponentDefinedType::Flags(names) => {
            members(types, "flags", names.iter().map(|name| (name.as_str(), None)), depth, out);
        }
        ComponentDefinedType::List { element, .. } => wrapped("list", [element], types, depth, out),
        ComponentDefinedType::Option { ty, .. } => wrapped("option", [ty], types, depth, out),
        ComponentDefinedType::Tuple(tuple) => wrapped("tuple", tuple.types.iter(), types, depth, out),
        ComponentDefinedType::Result { ok, err, .. } => {
            out.push_str("result<");
            optional(ok, out);
            out.push_str(", ");
            optional(err, out);
            out.push('>');
        }
        // None of these is in the contract: a name is enough to tell them apart from what is.
        ComponentDefinedType::Map { .. } => out.push_str("map"),
        ComponentDefinedType::FixedLengthList { length, .. } => {
            let _ = write!(out, "list of {length}");
        }
        ComponentDefinedType::Own(_) => out.push_str("own"),
        ComponentDefinedType::Borrow(_) => out.push_str("borrow"),
        ComponentDefinedType::Future { .. } => out.push_str("future"),
        ComponentDefinedType::Stream { .. } => out.push_str("stream"),
    }
}

fn wrapped<'a>(
    name: &str,
    inner: impl IntoIterator<Item = &'a ComponentValType>,
    types: TypesRef<'_>,
    depth: usize,
    out: &mut String,
) {
    let _ = write!(out, "{name}<");
    for (i, ty) in inner.into_iter().enumerate() {
        separate(out, i);
        value(types, ty, depth - 1, out);
    }
    out.push('>');
}

fn members<'a>(
    types: TypesRef<'_>,
    what: &str,
    all: impl Iterator<Item = (&'a str, Option<ComponentValType>)>,
    depth: usize,
    out: &mut String,
) {
    let _ = write!(out, "{what} {{");
    for (i, (name, ty)) in all.enumerate() {
        separate(out, i);
        out.push_str(name);
        if let Some(ty) = ty
            && (depth > 2 || matches!(ty, ComponentValType::Primitive(_)))
        {
            out.push_str(": ");
            value(types, &ty, depth - 1, out);
        }
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_exports_its_three_functions() {
        let names: Vec<&str> = EXPECTED.keys().map(String::as_str).collect();
        assert_eq!(names, ["finalize", "manifest", "reconcile"]);
        let (deep, shallow) = &EXPECTED["reconcile"];
        assert!(deep.starts_with(
            "func(snapshot: record {primary: string, children: list<string>, settings: option<string>}) -> result<"
        ));
        assert!(deep.contains("severity: enum {normal, warning}"), "{deep}");
        assert!(!deep.contains('…') && shallow.len() < deep.len(), "{shallow}");
    }
}

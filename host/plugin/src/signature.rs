//! What a component exports and imports against what the host knows, as text that people can
//! compare.
//!
//! The expected side is not written down here: it is read from the binary form of the WIT that
//! the bindings carry, through the same functions as the found side, so the two cannot drift
//! apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use wasmtime::wasmparser::component_types::{
    ComponentAnyTypeId, ComponentDefinedType, ComponentEntityType, ComponentItem, ComponentType,
    ComponentValType,
};
use wasmtime::wasmparser::types::{Types, TypesRef};
use wasmtime::wasmparser::{Validator, WasmFeatures};
use windlass_core::code::{Code, Refusal, printable};

use crate::bindings::floor;
use crate::worlds::SERVED;

/// How deep a signature is written out when every detail counts; nothing in the
/// contract is deeper.
const DEEP: usize = 16;
/// How deep for people.
const SHALLOW: usize = 4;
/// Longer than any signature of the contract, in bytes.
const LONG: usize = 8 << 10;

/// The versions of the contract that this host serves, the newest last.
pub(crate) static WORLDS: LazyLock<Vec<World>> =
    LazyLock::new(|| SERVED.iter().map(|world| World::read("reconciler", world.component_type)).collect());

/// What is answered of WASI.
pub(crate) static FLOOR: LazyLock<World> = LazyLock::new(|| World::read("floor", floor::COMPONENT_TYPE));

/// One world, as far as components are compared with it.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// Version of its package.
    pub(crate) version: String,
    /// The functions that it demands, by name.
    pub(crate) exports: BTreeMap<String, Shown>,
    /// What may be imported, by `package/interface` without the version.
    pub(crate) imports: BTreeMap<String, Interface>,
}

/// The functions and resources of an interface, by name.
pub(crate) type Interface = BTreeMap<String, Shown>;

/// A signature as text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// With every detail.
    deep: String,
    /// For people.
    shallow: String,
}

impl Shown {
    fn of(types: TypesRef<'_>, ty: &ComponentEntityType) -> Self {
        Self { deep: entity(types, ty, DEEP), shallow: entity(types, ty, SHALLOW) }
    }
}

impl World {
    /// Reads the world `name` from the binary form that bindings carry.
    pub(crate) fn read(name: &str, component_type: &[u8]) -> Self {
        let types = Validator::new_with_features(WasmFeatures::all())
            .validate_all(component_type)
            .expect("the bindings carry a valid component type");
        let (full, world) = outermost(&types, name);
        let functions =
            world.exports.iter().filter(|(_, item)| matches!(item.ty, ComponentEntityType::Func(_)));
        let imports = world.imports.iter().filter_map(|(import, item)| {
            let interface = import.split('@').next().unwrap_or_default();
            Some((interface.to_owned(), interface_of(types.as_ref(), item)?))
        });
        Self {
            version: full.split_once('@').map(|(_, version)| version.to_owned()).unwrap_or_default(),
            exports: functions
                .map(|(name, item)| (name.clone(), Shown::of(types.as_ref(), &item.ty)))
                .collect(),
            imports: imports.collect(),
        }
    }

    /// What may be imported under `package/interface`.
    pub(crate) fn offered(&self, interface: &str) -> Option<&Interface> {
        self.imports.get(interface)
    }

    /// Whether the component exports what the contract demands. What it exports
    /// beyond that is nobody's concern.
    ///
    /// # Errors
    /// E122 with what was expected and what was found.
    pub(crate) fn exports(&self, types: TypesRef<'_>, exports: &[String]) -> Result<(), Refusal> {
        for (name, expected) in &self.exports {
            let Some(item) = types.component_item_for_export(name) else {
                return Err(self.missing(name, expected, exports));
            };
            let found = Shown::of(types, &item.ty);
            if found.deep != expected.deep {
                let (expected, found) = apart(expected, &found);
                return Err(Refusal::new(
                    Code::ExportMismatch,
                    format!(
                        "{name}: expected {}, found {} (contract {})",
                        printable(&expected, 256),
                        printable(&found, 256),
                        self.version
                    ),
                ));
            }
        }
        Ok(())
    }

    fn missing(&self, name: &str, expected: &Shown, exports: &[String]) -> Refusal {
        let found =
            if exports.is_empty() { "no exports".to_owned() } else { printable(&exports.join(", "), 128) };
        let hint = if exports.iter().any(|e| e.starts_with("wasi:cli/run")) {
            "; this is a program: build a library (crate-type cdylib)"
        } else {
            ""
        };
        Refusal::new(
            Code::ExportMismatch,
            format!(
                "{name}: expected {}, found {found}{hint} (contract {})",
                printable(&expected.shallow, 256),
                self.version
            ),
        )
    }
}

/// Whether the component imports under `name` only what is `offered`, as it is.
///
/// # Errors
/// E120 with the interface, the function, what is offered and what was found.
pub(crate) fn import(types: TypesRef<'_>, name: &str, offered: &Interface) -> Result<(), Refusal> {
    let refuse = |text: String| Err(Refusal::new(Code::ForbiddenImport, text));
    let item = types.component_item_for_import(name);
    let Some(ComponentEntityType::Instance(instance)) = item.map(|item| item.ty) else {
        return refuse(format!("{}: imported as something else than an interface", printable(name, 200)));
    };
    for (member, item) in &types[instance].exports {
        let Some(found) = needed(types, item) else {
            continue;
        };
        let at = format!("{}#{}", printable(name, 128), printable(member, 128));
        let Some(expected) = offered.get(member) else {
            let there =
                if offered.is_empty() { "nothing but types".to_owned() } else { offered_names(offered) };
            return refuse(format!("{at}: this host does not have it; the interface has {there}"));
        };
        if found.deep != expected.deep {
            let (expected, found) = apart(expected, &found);
            return refuse(format!(
                "{at}: this host has {}, the component wants {}",
                printable(&expected, 256),
                printable(&found, 256)
            ));
        }
    }
    Ok(())
}

/// The world's full name and type. It is a component type inside the component type that the
/// binary form exports under the world's short name.
fn outermost<'t>(types: &'t Types, name: &str) -> (&'t str, &'t ComponentType) {
    let item = types.component_item_for_export(name).map(|item| item.ty);
    let Some(ComponentEntityType::Type { referenced: ComponentAnyTypeId::Component(outer), .. }) = item
    else {
        unreachable!("the bindings were made from the world {name}");
    };
    let inner = types[outer].exports.iter().find_map(|(full, item)| match item.ty {
        ComponentEntityType::Component(id) => Some((full.as_str(), &types[id])),
        _ => None,
    });
    inner.expect("the binary form of a world holds one component type")
}

/// What of an imported instance the host has to provide.
fn interface_of(types: TypesRef<'_>, item: &ComponentItem) -> Option<Interface> {
    let ComponentEntityType::Instance(id) = item.ty else {
        return None;
    };
    let members = types[id].exports.iter();
    Some(members.filter_map(|(name, item)| Some((name.clone(), needed(types, item)?))).collect())
}

/// Its signature, if whoever provides the instance has to provide it: a type that equals
/// another one is only a name, a resource is not.
fn needed(types: TypesRef<'_>, item: &ComponentItem) -> Option<Shown> {
    match item.ty {
        ComponentEntityType::Type { referenced: ComponentAnyTypeId::Resource(_), .. } => {
            Some(Shown { deep: "resource".to_owned(), shallow: "a resource".to_owned() })
        }
        ComponentEntityType::Type { .. } => None,
        ty => Some(Shown::of(types, &ty)),
    }
}

fn offered_names(offered: &Interface) -> String {
    let names: Vec<&str> = offered.keys().map(String::as_str).collect();
    printable(&names.join(", "), 200)
}

/// Two texts that show the difference: the short forms, or where the long ones part.
fn apart(expected: &Shown, found: &Shown) -> (String, String) {
    if expected.shallow != found.shallow {
        return (expected.shallow.clone(), found.shallow.clone());
    }
    let same = expected.deep.bytes().zip(found.deep.bytes()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(40);
    let cut = |text: &str| format!("…{}", text.chars().skip(from).take(120).collect::<String>());
    (cut(&expected.deep), cut(&found.deep))
}

/// An item as text.
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
    fn the_contract_exports_its_three_functions_and_offers_two_interfaces() {
        let world = WORLDS.last().expect("one is served");
        assert_eq!(world.version, "0.2.0");
        let names: Vec<&str> = world.exports.keys().map(String::as_str).collect();
        assert_eq!(names, ["finalize", "manifest", "reconcile"]);
        let Shown { deep, shallow } = &world.exports["reconcile"];
        assert!(deep.starts_with(
            "func(snapshot: record {primary: string, children: list<string>, settings: option<string>}) -> result<"
        ));
        assert!(deep.contains("severity: enum {normal, warning}"), "{deep}");
        assert!(!deep.contains('…') && shallow.len() < deep.len(), "{shallow}");
        let offered = |interface: &str| offered_names(world.offered(interface).expect(interface));
        assert_eq!(offered("windlass:operator/cache"), "get, list");
        assert_eq!(offered("windlass:operator/log"), "write");
        assert_eq!(offered("windlass:operator/types"), "");
    }

    #[test]
    fn the_floor_is_what_is_linked_of_wasi() {
        assert_eq!(FLOOR.imports.len(), 18);
        let streams = FLOOR.offered("wasi:io/streams").expect("there");
        assert_eq!(streams["output-stream"].deep, "resource");
        assert!(
            streams["[method]output-stream.write"].deep.starts_with("func(self: borrow, contents: list<u8>)")
        );
    }
}

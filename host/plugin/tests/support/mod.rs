//! What the tests of this crate share: components made on the spot, and a reader.
//!
//! A component is a core module in WAT, given the contract's exports by the same
//! tool that compilers use. Only the function bodies differ from test to test.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use windlass_core::code::{Code, Refusal};
use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::Gvk;
use windlass_core::limits::Limits;
use windlass_core::name::PluginName;
use windlass_core::object::Object;
use windlass_core::ports::{CallError, Pass, Reader};
use windlass_core::reads::Query;
use windlass_core::snapshot::Snapshot;
use windlass_plugin::{Loader, Plugin, Source};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The bodies of a guest's functions, in WAT. What is not said is harmless.
pub(crate) struct Guest<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// `finalizes` and the start function are left out; module fields go here.
    pub(crate) fields: &'a str,
    /// Declaration of the memory.
    pub(crate) memory: &'a str,
    /// Body of `manifest`; `None`: one that answers with `name` and `version`.
    pub(crate) manifest: Option<&'a str>,
    /// Body of `reconcile`, which leaves a pointer on the stack.
    pub(crate) reconcile: &'a str,
}

/// A decision without anything: `ok`, with everything in it zero, at an address that nobody uses.
pub(crate) const NOTHING: &str = "i32.const 4096";

impl Default for Guest<'_> {
    fn default() -> Self {
        Self {
            name: "probe",
            version: "1.0.0",
            fields: "",
            memory: "(memory (export \"memory\") 2)",
            manifest: None,
            reconcile: NOTHING,
        }
    }
}

impl Guest<'_> {
    /// The component.
    pub(crate) fn build(&self) -> Vec<u8> {
        encode(&self.wat())
    }

    fn wat(&self) -> String {
        let Guest { name, version, fields, memory, reconcile, .. } = self;
        let record = manifest_record(name.len(), version.len());
        let manifest = self.manifest.unwrap_or("i32.const 0");
        format!(
            r#"(module
              {memory}
              (data (i32.const 0) "{record}")
              (data (i32.const 128) "{name}")
              (data (i32.const 192) "{version}")
              (data (i32.const 256) "example.comv1Probe")
              (global $free (mut i32) (i32.const 65536))
              {fields}
              (func (export "cabi_realloc") (param $old i32) (param $was i32) (param $align i32) (param $size i32) (result i32)
                (global.set $free (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get $size))))
              (func (export "manifest") (result i32) {manifest})
              (func $reconcile (export "reconcile") (param i32 i32 i32 i32 i32 i32 i32) (result i32) {reconcile})
              (func (export "finalize") (param i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 4096))"#
        )
    }
}

/// The 76 bytes of a manifest whose texts are where [`Guest::wat`] puts them.
fn manifest_record(name: usize, version: usize) -> String {
    // The primary's kind, labels and namespaces; children, reads, finalizes.
    let words = [128, name, 192, version, 256, 11, 267, 2, 269, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let bytes = words.iter().flat_map(|word| u32::try_from(*word).expect("small").to_le_bytes());
    bytes.map(|byte| format!("\\{byte:02x}")).collect()
}

/// A core module with the contract's functions as a component.
pub(crate) fn encode(core: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/windlass.wit"))
        .expect("the contract parses");
    let world = resolve.select_world(&[package], Some("reconciler")).expect("the contract has its world");
    let mut module = wat::parse_str(core).expect(core);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)
        .expect("the contract encodes");
    component(&module)
}

/// A component that implements another world, in WIT; its functions trap.
pub(crate) fn dummy(wit: &str, world: &str) -> Vec<u8> {
    dummy_in(wit, world, StringEncoding::UTF8)
}

/// As [`dummy`], with text in another encoding.
pub(crate) fn dummy_in(wit: &str, world: &str, encoding: StringEncoding) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("world.wit", wit).expect(wit);
    let world = resolve.select_world(&[package], Some(world)).expect("the world");
    let mut module = wit_component::dummy_module(&resolve, world, wit_parser::ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, encoding, false).expect("it encodes");
    component(&module)
}

fn component(module: &[u8]) -> Vec<u8> {
    ComponentEncoder::default()
        .validate(false)
        .module(module)
        .and_then(|encoder| encoder.encode())
        .expect("the module fits its world")
}

/// What a ConfigMap `ns/probe` with these bytes would give.
pub(crate) fn source(bytes: &[u8]) -> Source {
    source_of("probe", bytes, None)
}

pub(crate) fn source_of(plugin: &str, bytes: &[u8], settings: Option<&str>) -> Source {
    Source::local(name(plugin), bytes.into(), settings.map(Into::into))
}

pub(crate) fn name(plugin: &str) -> PluginName {
    PluginName::try_new(plugin).expect("valid")
}

pub(crate) fn load(loader: &Loader, bytes: &[u8]) -> Result<Plugin, Refusal> {
    let source = Source { limits: loader.limits().clone(), ..source(bytes) };
    loader.load(&source, &source.plugin)
}

/// Resident memory of this process. Only means something in a test that runs alone.
pub(crate) fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("there");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Writes 32-bit words from address 4096 on and answers with that address.
pub(crate) fn answer(words: &[i64]) -> String {
    let stores: String = words
        .iter()
        .enumerate()
        .map(|(i, word)| format!("(i32.store (i32.const {}) (i32.const {word})) ", 4096 + 4 * i))
        .collect();
    format!("{stores} i32.const 4096")
}

/// Limits for what is to run out of time: nothing else ends under them for certain, on a busy machine.
pub(crate) fn tight() -> Limits {
    Limits { cpu: std::time::Duration::from_millis(100), ..Limits::default() }
}

pub(crate) fn object(gvk: &str, json: &serde_json::Value) -> Arc<Object> {
    let gvk: Gvk = gvk.parse().expect("valid");
    Arc::new(Object::parse(&gvk, &json.to_string()).expect("an object"))
}

pub(crate) fn snapshot(gvk: &str, primary: &serde_json::Value) -> Snapshot {
    Snapshot { primary: object(gvk, primary), children: Vec::new(), settings: None }
}

/// A snapshot whose primary matters to nobody.
pub(crate) fn any_snapshot() -> Snapshot {
    let primary = serde_json::json!({"metadata": {"name": "x", "namespace": "ns", "uid": "u-1", "resourceVersion": "1"}});
    snapshot("example.com/v1/Probe", &primary)
}

pub(crate) fn pass(plugin: &str) -> Pass {
    Pass { key: Key::new(name(plugin), "ns", "x"), number: 1, finalize: false }
}

/// The code with which a call ends.
pub(crate) fn refused(plugin: &Plugin, snapshot: &Snapshot) -> Refusal {
    match plugin.decide(&pass("probe"), snapshot, Arc::new(Objects::default())) {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// A reader over a few objects; refuses kinds that it was not told of.
#[derive(Default)]
pub(crate) struct Objects(pub(crate) BTreeMap<ObjectRef, Arc<Object>>);

impl Objects {
    fn readable(&self, gvk: &Gvk) -> Result<(), Refusal> {
        if self.0.keys().any(|of| of.gvk == *gvk) {
            return Ok(());
        }
        Err(Refusal::new(Code::ReadNotAllowed, format!("{gvk} is not in the manifest")))
    }
}

impl Reader for Objects {
    fn get(&self, of: &ObjectRef) -> Result<Option<Arc<Object>>, Refusal> {
        self.readable(&of.gvk)?;
        Ok(self.0.get(of).cloned())
    }

    fn list(&self, query: &Query) -> Result<Vec<Arc<Object>>, Refusal> {
        self.readable(&query.gvk)?;
        let all = self.0.iter().filter(|(of, object)| of.gvk == query.gvk && query.matches(object.meta()));
        Ok(all.map(|(_, object)| Arc::clone(object)).collect())
    }
}

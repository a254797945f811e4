//! Several versions of the contract in one host.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use windlass_core::code::{Code, Refusal};
use windlass_core::decision::{Decision, Fault, Severity, Verdict};
use windlass_core::guests::{Call, Called, Guests, Load, LoadId, Text, Texts, Tier};
use windlass_core::key::ObjectRef;
use windlass_core::limits::{CheckLimits, Limits};
use windlass_core::manifest::Manifest;
use windlass_core::name::{Digest, PluginName};
use windlass_core::ports::CallError;
use windlass_core::reads::Query;
use windlass_core::scope::Scope;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::{World, next, v0_1, v0_2};
use crate::check::{Checked, check_within};
use crate::engine::compiler;
use crate::guests::Engine;
use crate::{artefact, signature};

/// What a host serves after the next release.
static ALL: &[&World] = &[&v0_1::WORLD, &v0_2::WORLD, &next::WORLD];

/// What every guest here has: memory, an allocator, texts.
const COMMON: &str = r#"
  (memory (export "memory") 2)
  (data (i32.const 128) "probe1.0.0example.com/v1Probe")
  (data (i32.const 192) "{\22a\22:1}whom")
  (global $free (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $free (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (local.get 3))))
"#;

/// Little-endian words at `address`.
fn words(address: u32, words: &[u32]) -> String {
    let bytes: String = words.iter().flat_map(|w| w.to_le_bytes()).map(|b| format!("\\{b:02x}")).collect();
    format!("(data (i32.const {address}) \"{bytes}\")")
}

/// A guest of 0.1.0 that wants one child.
fn of_today() -> Vec<u8> {
    let manifest = words(0, &[128, 5, 133, 5, 138, 11, 150, 2, 152, 5, 0, 0, 0, 0, 0]);
    // ok, one child, no status, no notices, no requeue.
    let decision = words(4096, &[0, 4160, 1]);
    let child = words(4160, &[192, 7]);
    let core = format!(
        r#"(module {COMMON} {manifest} {decision} {child}
          (func (export "manifest") (result i32) i32.const 0)
          (func (export "reconcile") (param i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 4096)
          (func (export "finalize") (param i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 4096))"#
    );
    encode("released/0.1.0/windlass.wit", &core)
}

/// The parts of a manifest of 0.2.0 that 0.1.0 lacks; every text lies in [`COMMON`].
#[derive(Clone, Copy)]
struct Scoped {
    labels: u32,
    namespaces: u32,
    fields: u32,
    finalizes: u32,
}

/// A guest of 0.2.0 that reads, and decides as [`of_today`] does. `scoped` says how many of each list the
/// manifest has: of its primary's labels and namespaces, and of its read's fields.
fn of_scopes(scoped: &Scoped) -> Vec<u8> {
    let Scoped { labels, namespaces, fields, finalizes } = *scoped;
    let manifest = words(
        0,
        &[128, 5, 133, 5, 138, 11, 150, 2, 152, 5, 512, labels, 640, namespaces, 0, 0, 704, 1, finalizes],
    );
    // `whom`, with any value; `a`, with the value `ns`.
    let labels = words(512, &[199, 4, 0, 0, 0, 194, 1, 1, 480, 2]);
    let namespaces = words(640, &[480, 2, 199, 4, 482, 2]);
    // Kind, labels, namespaces, fields, metadata-only.
    let read = words(704, &[138, 11, 150, 2, 152, 5, 512, 1, 640, 1, 832, fields, 1]);
    let field = words(832, &[199, 4, 480, 2, 199, 4, 480, 2]);
    let decision = words(4096, &[0, 4160, 1]);
    let child = words(4160, &[192, 7]);
    let core = format!(
        r#"(module {COMMON} {manifest} {labels} {namespaces} {read} {field} {decision} {child}
          (data (i32.const 480) "nsNs")
          (func (export "manifest") (result i32) i32.const 0)
          (func (export "reconcile") (param i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 4096)
          (func (export "finalize") (param i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 4096))"#
    );
    encode("released/0.2.0/windlass.wit", &core)
}

/// A guest of the next version whose `reconcile` answers with `body`.
fn of_tomorrow(fields: &str, body: &str) -> Vec<u8> {
    // name, version, primary (api-version, kind), no children.
    let manifest = words(0, &[128, 5, 133, 5, 138, 14, 152, 5, 0, 0]);
    let core = format!(
        r#"(module
          (import "windlass:operator/cache@0.3.0" "get"
            (func $get (param i32 i32 i32 i32 i32 i32 i32 i32 i32)))
          {COMMON} {manifest} {fields}
          (func (export "manifest") (result i32) i32.const 0)
          (func (export "reconcile") (param i64 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
            {body}))"#
    );
    encode("next-for-tests/windlass.wit", &core)
}

/// A decision with one child, and the key of the pass as the reason.
fn decides() -> Vec<u8> {
    let fields = words(4160, &[192, 7]);
    let body = "(i32.store (i32.const 4100) (i32.const 4160)) (i32.store (i32.const 4104) (i32.const 1))
        (i32.store (i32.const 4120) (i32.const 1)) (i32.store (i32.const 4124) (i32.wrap_i64 (local.get 0)))
        (i32.store (i32.const 4128) (i32.const 1))
        (i32.store (i32.const 4132) (local.get 1)) (i32.store (i32.const 4136) (local.get 2))
        i32.const 4096";
    of_tomorrow(&fields, body)
}

/// The fault that 0.1.0 does not have.
fn waits() -> Vec<u8> {
    let body = "(i32.store (i32.const 4096) (i32.const 1)) (i32.store (i32.const 4100) (i32.const 2))
        (i32.store (i32.const 4104) (i32.const 199)) (i32.store (i32.const 4108) (i32.const 4))
        i32.const 4096";
    of_tomorrow("", body)
}

/// What it reads becomes the status.
fn reads() -> Vec<u8> {
    let body = "(call $get (i32.const 138) (i32.const 14) (i32.const 152) (i32.const 5)
          (i32.const 128) (i32.const 5) (i32.const 128) (i32.const 5) (i32.const 4200))
        (i32.store (i32.const 4108) (i32.load (i32.const 4200)))
        (i32.store (i32.const 4112) (i32.load (i32.const 4204)))
        (i32.store (i32.const 4116) (i32.load (i32.const 4208)))
        i32.const 4096";
    of_tomorrow("", body)
}

fn encode(wit: &str, core: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit").join(wit);
    let (package, _) = resolve.push_path(path).expect("it parses");
    let world = resolve.select_world(&[package], Some("reconciler")).expect("its world");
    let mut module = wat::parse_str(core).expect(core);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).expect("it encodes");
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .expect("the module fits its world")
}

fn checked(component: &[u8], worlds: &[&World]) -> Result<Checked, Refusal> {
    let compiler = compiler(&Limits::default(), Tier::Cheap).expect("an engine");
    let worlds: Vec<signature::World> =
        worlds.iter().map(|world| signature::World::read("reconciler", world.component_type)).collect();
    check_within(component, compiler.get_wasm_features(), &CheckLimits::default(), &worlds)
}

/// A host that serves all versions.
struct Host {
    engine: Engine,
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let engine = Engine::serving(&Limits::default(), ALL).expect("an engine");
        Self { engine, folder: tempfile::tempdir().expect("a folder") }
    }

    /// Checks, compiles and loads.
    fn load(&self, id: u64, component: &[u8]) -> Result<Manifest, Refusal> {
        checked(component, ALL)?;
        let limits = Limits::default();
        let compiler = compiler(&limits, Tier::Optimised).expect("an engine");
        let compiled = wasmtime::component::Component::from_binary(&compiler, component).expect("compiles");
        let artefact = self.folder.path().join(id.to_string());
        artefact::write(&compiled, artefact::create(&artefact)?)?;
        let plugin = PluginName::try_new("probe").expect("valid");
        let digest = Digest::of(component);
        self.engine.load(&Load { id: LoadId(id), plugin, digest, artefact, limits })
    }

    fn ask(&self, id: u64, pass: u64) -> Called {
        let call = Call {
            load: LoadId(id),
            key: "ns/x".into(),
            pass,
            finalize: false,
            suspect: false,
            seed: "u-1".into(),
            now: Duration::from_secs(1),
            primary: "{}".into(),
            children: Vec::new(),
            settings: None,
        };
        let known = BTreeMap::from([(("probe", "probe"), "{\"found\":true}")]);
        self.engine.call(&call, Arc::new(Known(known)))
    }

    fn decision(&self, id: u64, pass: u64) -> Decision {
        match self.ask(id, pass).result {
            Ok(Verdict::Decision(decision)) => decision,
            other => panic!("{other:?}"),
        }
    }
}

struct Known(BTreeMap<(&'static str, &'static str), &'static str>);

impl Texts for Known {
    fn get(&self, of: &ObjectRef) -> Result<Option<Text>, Refusal> {
        assert_eq!(of.gvk.to_string(), "example.com/v1/Probe");
        Ok(self.0.get(&(&*of.namespace, &*of.name)).map(|text| Text::Own((*text).into())))
    }

    fn list(&self, _: &Query) -> Result<Vec<Text>, Refusal> {
        panic!("nobody lists")
    }
}

#[test]
fn versions_of_the_contract_are_served_side_by_side() {
    let host = Host::new();
    let today = host.load(1, &of_today()).expect("0.1.0");
    let tomorrow = host.load(2, &decides()).expect("0.3.0");
    assert_eq!(today.primary.to_string(), "example.com/v1/Probe");
    let strict = Manifest { strict: true, ..today };
    assert_eq!(tomorrow, strict, "the same manifest, said in two ways");
    // By turns: neither sees anything of the other.
    for pass in 1..=3 {
        let plain = host.decision(1, pass);
        assert_eq!((plain.children.as_slice(), plain.notices.len()), (&[r#"{"a":1}"#.to_owned()][..], 0));
        let richer = host.decision(2, pass);
        assert_eq!(richer.children, plain.children);
        assert_eq!(richer.requeue_after, Some(Duration::from_millis(pass)), "the argument that 0.1.0 lacks");
        let [notice] = richer.notices.as_slice() else { panic!("{:?}", richer.notices) };
        assert_eq!(
            (notice.severity, notice.message.as_str()),
            (Severity::Normal, "ns/x"),
            "the field that it lacks"
        );
    }
}

#[test]
fn the_scopes_of_a_manifest_arrive_as_they_were_said() {
    let host = Host::new();
    host.load(1, &of_today()).expect("0.1.0");
    let scoped = Scoped { labels: 2, namespaces: 2, fields: 1, finalizes: 0 };
    let manifest = host.load(2, &of_scopes(&scoped)).expect("0.2.0");
    let requirements = [("a".to_owned(), Some("ns".to_owned())), ("whom".to_owned(), None)];
    assert_eq!(manifest.selects.labels, requirements);
    assert_eq!(manifest.selects.namespaces, ["ns", "whom"]);
    let [read] = manifest.reads.as_slice() else { panic!("{:?}", manifest.reads) };
    assert_eq!(read.kind.to_string(), "example.com/v1/Probe");
    let scope = Scope {
        labels: vec![requirements[1].clone()],
        namespaces: vec!["ns".into()],
        fields: vec![("whom".into(), "ns".into())],
        metadata_only: true,
    };
    assert_eq!(read.scope, scope);
    assert!(manifest.strict);
    // Side by side, by turns.
    for pass in 1..=2 {
        assert_eq!(host.decision(1, pass).children, host.decision(2, pass).children);
    }
}

#[test]
fn a_scope_that_breaks_a_bound_is_refused_with_its_place() {
    let host = Host::new();
    let good = Scoped { labels: 2, namespaces: 2, fields: 1, finalizes: 0 };
    for (id, scoped, says) in [
        (1, Scoped { namespaces: 3, ..good }, "primary.namespaces: \"Ns\" is no DNS label"),
        (2, Scoped { fields: 2, ..good }, "reads[0].fields: \"whom\" is there twice"),
        (
            3,
            Scoped { finalizes: 1, ..good },
            "primary.labels: a plugin that finalizes cannot select by label",
        ),
    ] {
        let refusal = host.load(id, &of_scopes(&scoped)).expect_err(says);
        assert_eq!(refusal.code, Code::BadManifest, "{refusal}");
        assert!(refusal.message.contains(says), "{refusal}");
    }
}

#[test]
fn a_case_that_the_older_version_lacks_means_what_the_newer_says() {
    let host = Host::new();
    host.load(1, &waits()).expect("0.3.0");
    let fault = Fault::Transient("waiting for whom".to_owned());
    assert_eq!(host.ask(1, 1).result, Err(CallError::Fault(fault)));
}

#[test]
fn both_versions_read_the_same_cache_through_their_own_words() {
    let host = Host::new();
    host.load(1, &reads()).expect("0.3.0");
    assert_eq!(host.decision(1, 1).status.as_deref(), Some(r#"{"found":true}"#));
}

#[test]
fn a_version_that_is_not_served_is_named_beside_those_that_are() {
    let (today, tomorrow) = (of_today(), decides());
    assert_eq!(checked(&today, ALL).expect("served").world, "0.1.0");
    assert_eq!(checked(&tomorrow, ALL).expect("served").world, "0.3.0");
    for (component, worlds, says) in [
        (&tomorrow, super::SERVED, "targets windlass:operator@0.3.0, this host supports 0.1.0, 0.2.0:"),
        (&today, &[&next::WORLD][..], "targets windlass:operator@0.1.0, this host supports 0.3.0:"),
    ] {
        let refusal = checked(component, worlds).expect_err(says);
        assert_eq!(refusal.code, Code::WorldVersion, "{refusal}");
        assert!(refusal.message.contains(says), "{refusal}");
    }
    let third = text_with(&tomorrow, "@0.3.0", "@0.4.0");
    let refusal = checked(&third, ALL).expect_err("from far in the future");
    assert_eq!(refusal.code, Code::WorldVersion, "{refusal}");
    assert!(refusal.message.contains("@0.4.0, this host supports 0.1.0, 0.2.0, 0.3.0:"), "{refusal}");
}

#[test]
fn signatures_are_compared_with_those_of_the_version_that_is_targeted() {
    // A component that lies about its version. Names of equal length, so that it stays well-formed.
    for (component, from, to, code, says) in [
        (
            of_today(),
            "@0.1.0",
            "@0.3.0",
            Code::ExportMismatch,
            "manifest: expected func() -> record {name: string, version: string, primary: record {api-version",
        ),
        (
            decides(),
            "@0.3.0",
            "@0.1.0",
            Code::ForbiddenImport,
            "windlass:operator/cache@0.1.0#get: this host has func(key: record",
        ),
    ] {
        let refusal = checked(&text_with(&component, from, to), ALL).expect_err(says);
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.message.contains(says), "{refusal}");
    }
}

#[test]
fn the_versions_that_are_served_are_the_ones_that_the_bindings_were_made_from() {
    for world in ALL {
        let read = signature::World::read("reconciler", world.component_type);
        assert_eq!(read.version, world.version);
    }
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/released");
    for world in super::SERVED {
        assert!(released.join(world.version).is_dir(), "{} was never released", world.version);
    }
}

/// The bytes with every `from` replaced by `to`, which is as long.
fn text_with(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut out = bytes.to_vec();
    for at in 0..out.len().saturating_sub(from.len()) {
        if out[at..].starts_with(from.as_bytes()) {
            out[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    out
}

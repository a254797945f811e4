//! What is offered, and with which code it is refused before it serves.

mod support;

use support::{Guest, dummy, dummy_in, encode, load, name, source_of, tight};
use windlass_core::code::Code;
use windlass_core::limits::Limits;
use windlass_plugin::{Loader, Source};
use wit_component::StringEncoding;

/// The contract as a world of somebody else's making; `VERSION` and the exports differ.
const WORLD: &str = "
    package windlass:operator@VERSION;
    interface types {
      type json = string;
      record snapshot { primary: json, children: list<json>, settings: option<json> }
      variant fault { transient(string), permanent(string) }
    }
    world reconciler {
      use types.{snapshot, fault};
      EXPORTS
    }";

fn world(version: &str, exports: &str) -> Vec<u8> {
    world_in(version, exports, StringEncoding::UTF8)
}

fn world_in(version: &str, exports: &str, encoding: StringEncoding) -> Vec<u8> {
    dummy_in(&WORLD.replace("VERSION", version).replace("EXPORTS", exports), "reconciler", encoding)
}

/// A component that imports one interface with one function.
fn importing(package: &str, interface: &str) -> Vec<u8> {
    let wit = format!(
        "package {package} {{ interface {interface} {{ f: func(); }} }}
         package a:b {{ world w {{ import {}; export manifest: func(); }} }}",
        package.replace('@', &format!("/{interface}@"))
    );
    let wit = format!("package x:y;\n{}", wit.replace("package a:b", "package a:b@1.0.0"));
    dummy(&wit, "a:b/w@1.0.0")
}

fn refuses(loader: &Loader, what: &str, bytes: &[u8], code: Code, says: &str) {
    match load(loader, bytes) {
        Ok(_) => panic!("{what}: loaded"),
        Err(refusal) => {
            assert_eq!(refusal.code, code, "{what}: {refusal}");
            assert!(refusal.message.contains(says), "{what}: {refusal}");
        }
    }
}

#[test]
fn bytes_that_are_no_component_are_refused_by_what_they_are() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let core = wat::parse_str("(module)").expect("valid");
    let good = Guest::default().build();
    for (what, bytes, code, says) in [
        ("png", &b"\x89PNG\r\n\x1a\n"[..], Code::NotWasm, "magic is 89504e47, want 0061736d"),
        ("script", b"#!/bin/sh\necho", Code::NotWasm, "a script"),
        ("gzip", b"\x1f\x8b\x08\0", Code::NotWasm, "plugin.wasm.gz"),
        ("one byte", b"\0", Code::NotWasm, "magic is 00"),
        ("text", b"\n;; hi\n  (component)", Code::TextFormat, "wasm-tools parse"),
        ("core module", &core, Code::CoreModule, "wasm32-wasip2"),
        ("native code", b"\x7fELF\x02\x01\x01", Code::PrecompiledRefused, "never loaded"),
        ("odd layer", b"\0asm\x09\0\x01\0", Code::Malformed, "09000100, want 0d000100"),
        ("header only", b"\0asm", Code::Malformed, "offset 0x4"),
        ("cut short", &good[..good.len() / 2], Code::Malformed, "malformed at offset 0x"),
        ("trailing bytes", &[&good[..], b"more"].concat(), Code::Malformed, "malformed at offset 0x"),
        ("bad LEB", b"\0asm\x0d\0\x01\0\x01\xff\xff\xff\xff\xff", Code::Malformed, "malformed at offset 0x"),
    ] {
        refuses(&loader, what, bytes, code, says);
    }
}

#[test]
fn a_precompiled_component_is_never_loaded() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let engine = wasmtime::Engine::default();
    let native = engine.precompile_component(&Guest::default().build()).expect("compiles");
    refuses(&loader, "cwasm", &native, Code::PrecompiledRefused, "native code");
}

#[test]
fn imports_outside_the_list_are_refused_by_name() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    for (package, interface, code, says) in [
        (
            "wasi:sockets@0.2.6",
            "tcp",
            Code::ForbiddenImport,
            "wasi:sockets/tcp@0.2.6: a plugin has no network",
        ),
        ("wasi:filesystem@0.2.0", "types", Code::ForbiddenImport, "a plugin has no files"),
        ("wasi:http@0.2.0", "outgoing-handler", Code::ForbiddenImport, "no network"),
        ("wasi:cli@0.3.0", "stdout", Code::ForbiddenImport, "wasi:cli/stdout@0.3.0"),
        ("acme:secrets@1.0.0", "vault", Code::ForbiddenImport, "acme:secrets/vault@1.0.0"),
        (
            "windlass:operator@9.0.0",
            "cache",
            Code::WorldVersion,
            "windlass:operator@9.0.0, this host supports 0.1.0, 0.2.0",
        ),
        ("windlass:operator@0.1.0", "apply", Code::ForbiddenImport, "windlass:operator/apply@0.1.0"),
    ] {
        refuses(&loader, package, &importing(package, interface), code, says);
    }
}

/// A component with all that the contract demands, which imports one interface more.
fn also_importing(package: &str, interface: &str, body: &str) -> Vec<u8> {
    let contract = include_str!("../../../wit/windlass.wit");
    let (name, version) = package.split_once('@').expect("a version");
    let world = format!("world reconciler {{\n import {name}/{interface}@{version};");
    let package = format!("package {package} {{ interface {interface} {{ {body} }} }}");
    dummy(&format!("{}\n{package}", contract.replace("world reconciler {", &world)), "reconciler")
}

#[test]
fn a_function_that_this_host_does_not_have_is_refused_with_its_interface() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    for (package, interface, body, says) in [
        (
            "wasi:cli@0.2.6",
            "stdout",
            "f: func();",
            "wasi:cli/stdout@0.2.6#f: this host does not have it; the interface has get-stdout",
        ),
        (
            "wasi:cli@0.2.6",
            "stdout",
            "get-stdout: func() -> u32;",
            "wasi:cli/stdout@0.2.6#get-stdout: this host has func() -> own, the component wants func() -> u32",
        ),
        (
            "wasi:io@0.2.0",
            "error",
            "resource other { constructor(); }",
            "wasi:io/error@0.2.0#other: this host does not have it; the interface has [method]error.to-debug-string",
        ),
    ] {
        let bytes = also_importing(package, interface, body);
        refuses(&loader, says, &bytes, Code::ForbiddenImport, says);
    }
    let contract = include_str!("../../../wit/windlass.wit");
    for (from, to, says) in [
        (
            "interface cache {",
            "interface cache { f: func();",
            "cache@0.2.0#f: this host does not have it; the interface has get, list",
        ),
        (
            "write: func(level: level, message: string);",
            "write: func(level: u8, message: string);",
            "log@0.2.0#write: this host has func(level: enum {debug, info, warn, error}, message: string), the \
             component wants func(level: u8, message: string)",
        ),
        (
            "interface types {",
            "interface types { f: func();",
            "types@0.2.0#f: this host does not have it; the interface has nothing but types",
        ),
    ] {
        assert_eq!(contract.matches(from).count(), 1, "{from}");
        let bytes = dummy(&contract.replace(from, to), "reconciler");
        refuses(&loader, says, &bytes, Code::ForbiddenImport, says);
    }
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let good = "export finalize: func(snapshot: snapshot) -> result<string, fault>;";
    for (encoding, says) in [
        (StringEncoding::UTF16, "utf16 at offset 0x"),
        (StringEncoding::CompactUTF16, "latin1+utf16 at offset 0x"),
    ] {
        let bytes = world_in("0.1.0", good, encoding);
        refuses(&loader, says, &bytes, Code::StringEncoding, says);
        refuses(&loader, says, &bytes, Code::StringEncoding, "expected utf8: componentize it with");
    }
}

#[test]
fn calls_that_are_not_synchronous_are_refused() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let lifted = |options: &str| {
        format!(
            "(component (core module $m (func (export \"f\"))) (core instance $i (instantiate $m))
             (func (canon lift (core func $i \"f\") {options})))"
        )
    };
    for (text, says) in [
        (lifted("async"), "an async call at offset 0x"),
        ("(component (core func (canon subtask.drop)))".to_owned(), "the built-in SubtaskDrop at offset 0x"),
        ("(component (core func (canon waitable-set.new)))".to_owned(), "the built-in WaitableSetNew"),
        ("(component (core func (canon error-context.drop)))".to_owned(), "the built-in ErrorContextDrop"),
    ] {
        let bytes = wat::parse_str(&text).expect(&text);
        refuses(&loader, &text, &bytes, Code::FeatureDisabled, says);
    }
}

#[test]
fn exports_are_compared_with_the_contract() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let reconcile = "export reconcile: func(snapshot: snapshot) -> result<string, fault>;";
    refuses(
        &loader,
        "nothing",
        &wat::parse_str("(component)").expect("valid"),
        Code::ExportMismatch,
        "finalize: expected func(snapshot: record {primary: string, children: list<string>, settings: option<string>}) -> result<variant {done, pending",
    );
    refuses(
        &loader,
        "string to string",
        &world("0.1.0", "export finalize: func(snapshot: string) -> string;"),
        Code::ExportMismatch,
        "found func(snapshot: string) -> string",
    );
    refuses(&loader, "missing", &world("0.1.0", reconcile), Code::ExportMismatch, "finalize: expected func(");
    refuses(
        &loader,
        "newer world",
        &world("0.3.0", reconcile),
        Code::WorldVersion,
        "windlass:operator@0.3.0",
    );
}

#[test]
fn a_feature_that_is_off_is_named() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    for (what, module, says) in [
        ("memory64", "(module (memory i64 1))", "memory64"),
        ("threads", "(module (memory 1 1 shared))", "thread"),
        ("gc", "(module (type (struct)))", "gc"),
        ("exceptions", "(module (tag))", "exception"),
        (
            "relaxed simd",
            "(module (func (param v128 v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))))",
            "relaxed",
        ),
    ] {
        let text = format!("(component (core {}", &module[1..]) + ")";
        let bytes = wat::parse_str(&text).expect(what);
        match load(&loader, &bytes) {
            // A function's body is the compiler's: the exports are looked at first.
            Err(refusal) if what == "relaxed simd" => {
                assert_eq!(refusal.code, Code::ExportMismatch, "{refusal}")
            }
            Err(refusal) => {
                assert_eq!(refusal.code, Code::FeatureDisabled, "{what}: {refusal}");
                assert!(refusal.message.to_lowercase().contains(says), "{what}: {refusal}");
            }
            Ok(_) => panic!("{what}: loaded"),
        }
    }
    let body = Guest {
        fields: "(func (param v128 v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 1))))",
        ..Guest::default()
    };
    refuses(&loader, "relaxed simd", &body.build(), Code::FeatureDisabled, "relaxed");
}

/// A component of nested component types, in its binary form: text would be parsed recursively.
fn nested_types(depth: usize) -> Vec<u8> {
    let mut section = vec![1];
    section.extend([0x41, 1, 1].repeat(depth));
    section.extend([0x41, 0]);
    with_section(b"\0asm\x0d\0\x01\0", 7, &section)
}

/// `bytes` and one more section.
fn with_section(bytes: &[u8], id: u8, content: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.push(id);
    let mut left = content.len();
    while left > 0x7f {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
    out.extend_from_slice(content);
    out
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_before_it_is_compiled() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let component = |fields: &str| wat::parse_str(format!("(component {fields})")).expect("valid");
    let module = |fields: &str| component(&format!("(core module {fields})"));
    let long = "x".repeat(513);
    for (what, bytes, says) in [
        ("functions", module(&"(func)".repeat(20_001)), "20001 functions, limit 20000"),
        (
            "body",
            module(&format!("(func {})", "nop ".repeat((1 << 20) + 1))),
            "bytes in the function at offset 0x",
        ),
        ("data", module(&"(data \"\")".repeat(10_001)), "10001 data segments, limit 10000"),
        ("elements", module(&"(elem func)".repeat(10_001)), "10001 element segments, limit 10000"),
        ("modules", component(&"(core module)".repeat(65)), "65 core modules, limit 64"),
        ("components", component(&"(component)".repeat(65)), "65 nested components, limit 64"),
        (
            "depth",
            component(&format!("{}{}", "(component ".repeat(9), ")".repeat(9))),
            "9 components inside each other, limit 8",
        ),
        ("types", component(&"(type u8)".repeat(50_001)), "50001 types, limit 50000"),
        ("core types", module(&"(type (func))".repeat(50_001)), "50001 types, limit 50000"),
        // The parser recurses here, and would end the process before anything else.
        ("nested types", nested_types(45_000), "33 types inside each other, limit 32"),
        ("long name", component(&format!("(import \"{long}\" (func))")), "513 bytes in the name xxx"),
        (
            "custom",
            with_section(&component(""), 0, &[b"\x01x", &[0; 17 << 20][..]].concat()),
            "custom sections",
        ),
    ] {
        refuses(&loader, what, &bytes, Code::TooComplex, says);
    }
}

#[test]
fn what_a_component_may_consist_of_is_what_the_limits_say() {
    let mut limits = Limits::default();
    limits.check.set("functions", 3).expect("a limit");
    let loader = Loader::in_process(limits).expect("an engine");
    let refusal = load(&loader, &Guest::default().build()).expect_err("it has more");
    assert_eq!(refusal.code, Code::TooComplex, "{refusal}");
    assert!(refusal.message.contains("functions, limit 3"), "{refusal}");
}

#[test]
fn what_goes_wrong_at_the_start_has_its_own_code() {
    let patient = Loader::in_process(Limits::default()).expect("an engine");
    let hurried = Loader::in_process(tight()).expect("an engine");
    let started = |body: &str| {
        Guest { fields: &format!("(func $init {body}) (start $init)"), ..Guest::default() }.build()
    };
    let said = |body: &'static str| Guest { manifest: Some(body), ..Guest::default() }.build();
    let read_of_nothing = "i32.const -4";
    for (what, bytes, code) in [
        ("trap in start", started("unreachable"), Code::InitTrap),
        ("loop in start", started("(loop (br 0))"), Code::InitTimeout),
        ("memory in start", started("(drop (memory.grow (i32.const 5000)))"), Code::MemoryLimit),
        ("trap in manifest", said("unreachable"), Code::InitTrap),
        ("loop in manifest", said("(loop (br 0)) unreachable"), Code::InitTimeout),
        ("manifest out of bounds", said(read_of_nothing), Code::BadAbiValue),
        ("unaligned manifest", said("i32.const 1"), Code::BadAbiValue),
    ] {
        let loader = if code == Code::InitTimeout { &hurried } else { &patient };
        refuses(loader, what, &bytes, code, "");
    }
}

#[test]
fn a_manifest_is_checked_as_a_whole() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    for (guest_name, version, code, says) in [
        ("", "1.0.0", Code::BadManifest, "name: \"\" is not the name of a plugin"),
        ("Bad-Name", "1.0.0", Code::BadManifest, "name: \"Bad-Name\""),
        (
            "other",
            "1.0.0",
            Code::NameMismatch,
            "the manifest's name is other, the ConfigMap's label windlass.dev/plugin says probe",
        ),
        ("probe", "", Code::BadManifest, "version: 0 bytes"),
        ("probe", "9.9.9-and-so-on-and-on-and-on-and-on-and-on-and-on-and-on", Code::BadManifest, "version"),
    ] {
        let guest = Guest {
            name: guest_name,
            version: &if version.len() > 10 {
                version.repeat(2)[..64].to_owned() + "x"
            } else {
                version.to_owned()
            },
            ..Guest::default()
        };
        // The long version would reach into the kind's text, which is not looked at before.
        refuses(&loader, guest_name, &guest.build(), code, says);
    }
}

#[test]
fn utf8_is_demanded_of_what_a_manifest_says() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let guest = Guest { name: "\\ff\\fe", ..Guest::default() };
    refuses(&loader, "not utf-8", &guest.build(), Code::BadAbiValue, "");
}

#[test]
fn a_change_of_settings_alone_compiles_nothing() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let bytes = Guest::default().build();
    let plain = loader.load(&source_of("probe", &bytes, None), &name("probe")).expect("loads");
    // The same digest with other bytes: only the memory of the first load makes this work.
    let unread =
        Source { component: b"never looked at"[..].into(), ..source_of("probe", &bytes, Some("{}")) };
    let set = loader.load(&unread, &name("probe")).expect("not compiled again");
    assert_eq!(set.serving().settings.as_deref(), Some("{}"));
    assert_eq!(plain.digest(), set.digest());
    drop((plain, set));
    loader.load(&unread, &name("probe")).expect_err("nothing is remembered that nobody uses");
}

#[test]
fn a_core_module_becomes_a_component_only_with_the_contract() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let bytes = encode(
        r#"(module (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
            (func (export "manifest") (result i32) i32.const 0)
            (func (export "reconcile") (param i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 0)
            (func (export "finalize") (param i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 0))"#,
    );
    refuses(&loader, "says nothing", &bytes, Code::BadManifest, "name");
}

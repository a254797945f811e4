//! The table, first half: plugins that never serve (B01 to B19, B42).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wit_component::StringEncoding;

use super::guest::{CONFIG_MAP, Guest, Kind, dummy, importing, section};
use super::offer::{self, annotated, empty, holding, signed, with_signature, zstd};
use super::row::{Kit, Row, name_of};

/// Begins each component.
const PREAMBLE: &[u8] = b"\0asm\x0d\0\x01\0";

/// More kinds than a manifest may list.
const MANY: [Kind<'static>; 200] = [CONFIG_MAP; 200];
/// What no manifest may list.
const RIGHTS: [Kind<'static>; 1] = [("rbac.authorization.k8s.io", "v1", "ClusterRole")];

/// Everything that is refused before it serves.
pub(crate) fn rows(kit: &Kit) -> Vec<Row> {
    let parts = [
        bytes(kit),
        shapes(kit),
        sizes(kit),
        imports(kit),
        exports(kit),
        signatures(kit),
        starts(kit),
        manifests(kit),
        limits(kit),
        sets(kit),
    ];
    parts.into_iter().flatten().collect()
}

/// A good component of this plugin.
fn good(plugin: &str) -> Vec<u8> {
    Guest { name: plugin, ..Guest::default() }.build()
}

/// A row whose component is signed by whom the host trusts: only the rest is wrong.
fn offered(kit: &Kit, what: &'static str, bytes: &[u8], code: &'static str, says: &[&str]) -> Row {
    Row::refused(what, code, says, vec![signed(&kit.signer, &name_of(what), bytes, 1)])
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// B01, B02: where the bytes are.
fn bytes(kit: &Kit) -> Vec<Row> {
    let row = |what: &'static str, code, says: &[&str], change: &dyn Fn(&mut Value)| {
        let mut map = empty(&name_of(what));
        change(&mut map);
        Row::refused(what, code, says, vec![map])
    };
    let component = STANDARD.encode(good("any"));
    let twice = STANDARD.encode(component.as_bytes());
    vec![
        row("B01 no key", "E101 NoPluginBytes", &["expected one of plugin.wasm", "found nothing"], &|_| {}),
        row("B01 another key", "E101 NoPluginBytes", &["found main.wasm"], &|map| {
            map["binaryData"]["main.wasm"] = component.clone().into();
        }),
        row("B01 empty", "E101 NoPluginBytes", &["key plugin.wasm is empty"], &|map| {
            map["binaryData"]["plugin.wasm"] = "".into();
        }),
        row("B02 text", "E102 NotBinary", &["put the component in binaryData"], &|map| {
            map["data"]["plugin.wasm"] = component.clone().into();
        }),
        row("B02 base64 twice", "E110 NotWasm", &["it has been encoded twice"], &|map| {
            map["binaryData"]["plugin.wasm"] = twice.clone().into();
            let statement = format!("windlass plugin={} sequence=1", name_of("B02 base64 twice"));
            map["data"]["plugin.sig"] = kit.signer.signs(component.as_bytes(), &statement).into();
        }),
    ]
}

/// B03 to B08: what the bytes are.
fn shapes(kit: &Kit) -> Vec<Row> {
    let whole = good("any");
    let code = |fields: &str| wat(&format!("(component (core module {fields}))"));
    let native = [&b"\x7fELF\x02\x01\x01"[..], &[0; 64]].concat();
    let noise: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
    let relaxed = Guest {
        fields: "(func (param v128 v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 1))))",
        ..Guest::default()
    };
    let lifted = wat(r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func (canon lift (core func $i "f") async)))"#);
    [
        (
            "B03 png",
            &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..],
            "E110 NotWasm",
            "magic is 89504e47, want 0061736d",
        ),
        ("B03 script", b"#!/bin/sh\necho pwned\n", "E110 NotWasm", "a script"),
        ("B03 noise", &noise, "E110 NotWasm", "want 0061736d"),
        ("B03 escape codes", b"\x1b[2J\x1b[31m\nERROR forged", "E110 NotWasm", "magic is 1b5b324a"),
        ("B04 text", b"(component)", "E111 TextFormat", "wasm-tools parse"),
        ("B05 core module", &wat("(module)"), "E112 CoreModule", "a core module, a component is needed"),
        ("B06 cut short", &whole[..whole.len() / 2], "E113 Malformed", "offset 0x"),
        ("B06 trailing", &[&whole[..], b"more"].concat(), "E113 Malformed", "offset 0x"),
        ("B06 bad LEB", b"\0asm\x0d\0\x01\0\x01\xff\xff\xff\xff\xff", "E113 Malformed", "offset 0x"),
        ("B06 header only", b"\0asm", "E113 Malformed", "offset 0x4"),
        ("B07 elf", &native, "E114 PrecompiledRefused", "never loaded"),
        ("B08 memory64", &code("(memory i64 1)"), "E115 FeatureDisabled", "memory64"),
        ("B08 threads", &code("(memory 1 1 shared)"), "E115 FeatureDisabled", "thread"),
        ("B08 gc", &code("(type (struct))"), "E115 FeatureDisabled", "gc"),
        ("B08 exceptions", &code("(tag)"), "E115 FeatureDisabled", "exception"),
        ("B08 relaxed simd", &relaxed.build(), "E115 FeatureDisabled", "relaxed"),
        ("B08 async", &lifted, "E115 FeatureDisabled", "an async call at offset 0x"),
    ]
    .into_iter()
    .map(|(what, bytes, code, says)| offered(kit, what, bytes, code, &[says]))
    .collect()
}

/// B09, B10: how much it is.
fn sizes(kit: &Kit) -> Vec<Row> {
    let component = |fields: &str| wat(&format!("(component {fields})"));
    let module = |fields: &str| component(&format!("(core module {fields})"));
    let nested = [&[1][..], &[0x41, 1, 1].repeat(300_000), &[0x41, 0]].concat();
    // Signed bytes that do not compress to nothing: else the ratio is what is refused first.
    let sized = |what: &'static str, bytes: &[u8], says: &str| {
        let mut map = holding(&name_of(what), "plugin.wasm", bytes);
        map["data"]["plugin.sig"] = kit.signer.vouches(&name_of(what), bytes, 1).into();
        Row::refused(what, "E116 TooComplex", &[says], vec![map])
    };
    let bomb = |what: &'static str, key: &str, packed: &[u8]| {
        let says = ["stopped at 1024 KiB", "20 times the packed size"];
        Row::refused(what, "E117 DecompressedTooLarge", &says, vec![holding(&name_of(what), key, packed)])
    };
    let zeros = vec![0; 4 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &zeros).expect("in memory");
    let gzip = gzip.finish().expect("in memory");
    vec![
        sized("B09 functions", &module(&"(func)".repeat(20_001)), "20001 functions, limit 20000"),
        sized("B09 types", &component(&"(type u8)".repeat(50_001)), "50001 types, limit 50000"),
        sized("B09 modules", &component(&"(core module)".repeat(65)), "65 core modules, limit 64"),
        sized("B09 data", &module(&"(data \"\")".repeat(10_001)), "10001 data segments, limit 10000"),
        sized(
            "B09 depth",
            &component(&format!("{}{}", "(component ".repeat(9), ")".repeat(9))),
            "9 components inside each other, limit 8",
        ),
        // Parsers recurse here; the compile child would end without any word.
        sized("B09 nested types", &[PREAMBLE, &section(7, &nested)].concat(), "types inside each other"),
        bomb("B10 zstd", "plugin.wasm.zst", &zstd(&zeros)),
        bomb("B10 gzip", "plugin.wasm.gz", &gzip),
        Row::refused(
            "B10 no zstd",
            "E113 Malformed",
            &["plugin.wasm.zst does not decompress"],
            vec![holding("b10-no-zstd", "plugin.wasm.zst", b"plainly not")],
        ),
    ]
}

/// B11, B12: what it wants of the host.
fn imports(kit: &Kit) -> Vec<Row> {
    let mut rows: Vec<Row> = [
        ("B11 sockets", "wasi:sockets@0.2.6", "tcp", "E120 ForbiddenImport", "wasi:sockets/tcp@0.2.6"),
        ("B11 files", "wasi:filesystem@0.2.0", "types", "E120 ForbiddenImport", "a plugin has no files"),
        ("B11 http", "wasi:http@0.2.0", "outgoing-handler", "E120 ForbiddenImport", "no network"),
        (
            "B11 stranger",
            "acme:secrets@1.0.0",
            "vault",
            "E120 ForbiddenImport",
            "acme:secrets/vault@1.0.0; allowed: ",
        ),
        ("B11 blocking", "wasi:keyvalue@0.2.0", "wait", "E120 ForbiddenImport", "wasi:keyvalue/wait@0.2.0"),
        (
            "B12 version",
            "windlass:operator@9.0.0",
            "cache",
            "E121 WorldVersion",
            "windlass:operator@9.0.0, this host supports 0.1.0, 0.2.0",
        ),
    ]
    .into_iter()
    .map(|(what, package, interface, code, says)| {
        // What is allowed is told where the name is: both in one sentence.
        let says: Vec<&str> = says.split("; ").collect();
        offered(kit, what, &importing(package, interface), code, &says)
    })
    .collect();
    let sockets = "B11 sockets of a real plugin";
    rows.push(offered(kit, sockets, &kit.needs_sockets, "E120 ForbiddenImport", &["wasi:sockets/"]));
    rows
}

/// B13, B14: what it offers.
fn exports(kit: &Kit) -> Vec<Row> {
    let world = "package windlass:operator@0.1.0;
        world reconciler { export reconcile: func(snapshot: string) -> string; }";
    let utf16 = Guest { name: "any", ..Guest::default() }.encoded(StringEncoding::UTF16);
    vec![
        offered(kit, "B13 nothing", &wat("(component)"), "E122 ExportMismatch", &["expected func(", "found"]),
        offered(
            kit,
            "B13 signature",
            &dummy(world, "reconciler"),
            "E122 ExportMismatch",
            &["expected func("],
        ),
        offered(kit, "B14 utf16", &utf16, "E123 StringEncoding", &["utf16", "expected utf8"]),
    ]
}

/// B15, B16: who vouches for it.
fn signatures(kit: &Kit) -> Vec<Row> {
    let row = |what: &'static str, code, says: &str, signature: &dyn Fn(&str, &[u8]) -> Option<String>| {
        let plugin = name_of(what);
        let component = good(&plugin);
        let map =
            with_signature(signed(&kit.signer, &plugin, &component, 12), signature(&plugin, &component));
        Row::refused(what, code, &[says], vec![map])
    };
    let says = |plugin: &str| format!("windlass plugin={plugin} sequence=12");
    let mut rows = vec![
        row("B15 unsigned", "E130 SignatureInvalid", "this host demands signatures", &|_, _| None),
        row("B15 junk", "E130 SignatureInvalid", "plugin.sig is no signature", &|_, _| {
            Some("trust me".into())
        }),
        row("B15 of another plugin", "E130 SignatureInvalid", "for the plugin webapp", &|_, component| {
            Some(kit.signer.signs(component, &says("webapp")))
        }),
        row("B15 stranger", "E131 UnknownKey", "trusted are", &|plugin, component| {
            Some(kit.stranger.signs(component, &says(plugin)))
        }),
        row("B15 other bytes", "E132 DigestMismatch", "belong together", &|plugin, _| {
            let other = good("another");
            let digest = windlass_core::name::Digest::of(&other);
            Some(kit.signer.signs(&other, &format!("{} digest={digest}", says(plugin))))
        }),
        row("B15 expired key", "E133 KeyExpired", "vouches for nothing new after", &|plugin, component| {
            Some(kit.expired.signs(component, &says(plugin)))
        }),
        row("B15 expired", "E133 KeyExpired", "was good until 2026-01-01T00:00:00Z", &|plugin, component| {
            Some(kit.signer.signs(component, &format!("{} expires=2026-01-01T00:00:00Z", says(plugin))))
        }),
    ];
    let what = "B16 downgrade";
    let plugin = name_of(what);
    let newer = Guest { name: &plugin, version: "1.5.0", ..Guest::default() }.build();
    let before = vec![signed(&kit.signer, &plugin, &newer, 15)];
    let older = vec![signed(&kit.signer, &plugin, &good(&plugin), 12)];
    let says = ["sequence 12 < accepted 15", "goes on serving"];
    rows.push(Row::refused(what, "E134 Downgrade", &says, older).after(before));
    rows
}

/// B17 to B19: the way to the first call.
fn starts(kit: &Kit) -> Vec<Row> {
    let second = |what: &'static str| {
        let plugin = name_of(what);
        let first = signed(&kit.signer, &plugin, &good(&plugin), 1);
        let mut again = first.clone();
        again["metadata"]["name"] = format!("{plugin}-again").into();
        Row::refused(what, "E140 DuplicatePlugin", &[&format!("{plugin}-plugin")], vec![again])
            .after(vec![first])
    };
    let start = |what: &'static str, body: &str, code, says: &str| {
        let fields = format!("(func $init {body}) (start $init)");
        let guest = Guest { name: &name_of(what), fields: &fields, ..Guest::default() }.build();
        offered(kit, what, &guest, code, &[says])
    };
    let manifest = |what: &'static str, body: &str, code, says: &str| {
        let guest = Guest { name: &name_of(what), manifest: Some(body), ..Guest::default() }.build();
        offered(kit, what, &guest, code, &[says])
    };
    vec![
        second("B17 twice"),
        start("B19 trap in start", "unreachable", "E160 InitTrap", "unreachable"),
        start("B19 loop in start", "(loop (br 0))", "E161 InitTimeout", "CPU time"),
        start(
            "B19 memory in start",
            "(drop (memory.grow (i32.const 5000)))",
            "E204 MemoryLimit",
            "limit 65536 KiB",
        ),
        manifest("B19 trap in manifest", "unreachable", "E160 InitTrap", "unreachable"),
        manifest("B19 loop in manifest", "(loop (br 0)) unreachable", "E161 InitTimeout", "CPU time"),
        manifest("B19 nowhere", "i32.const -4", "E211 BadAbiValue", ""),
    ]
}

/// B42: what it says of itself.
fn manifests(kit: &Kit) -> Vec<Row> {
    let row = |what: &'static str, code, says: &str, change: &dyn Fn(&mut Guest<'_>)| {
        let plugin = name_of(what);
        let mut guest = Guest { name: &plugin, ..Guest::default() };
        change(&mut guest);
        offered(kit, what, &guest.build(), code, &[says])
    };
    vec![
        row("B42 no name", "E170 BadManifest", "\"\" is not the name of a plugin", &|guest| guest.name = ""),
        row("B42 capitals", "E170 BadManifest", "name: \"Bad-Name\"", &|guest| guest.name = "Bad-Name"),
        row("B42 name", "E172 NameMismatch", "the manifest's name is somebody", &|guest| {
            guest.name = "somebody"
        }),
        row("B42 version", "E170 BadManifest", "version: 0 bytes", &|guest| guest.version = ""),
        row("B42 wildcard", "E170 BadManifest", "children", &|guest| guest.children = &[("*", "*", "*")]),
        row("B42 kinds twice", "E170 BadManifest", "children", &|guest| {
            guest.children = &[CONFIG_MAP, CONFIG_MAP];
        }),
        row("B42 many kinds", "E170 BadManifest", "200 children", &|guest| guest.children = &MANY),
        row("B34 in the manifest", "E238 ReservedKind", "ClusterRole", &|guest| guest.children = &RIGHTS),
        {
            let what = "B42 settings";
            let mut map = signed(&kit.signer, &name_of(what), &good(&name_of(what)), 1);
            map["data"]["settings.yaml"] = json!("a: [1, 2");
            Row::refused(what, "E173 BadSettings", &["settings.yaml does not parse"], vec![map])
        },
    ]
}

/// B42: what it asks for.
fn limits(kit: &Kit) -> Vec<Row> {
    [
        ("B42 limit above", "memory", "1Gi", "E171 LimitAboveMax", "1Gi is above 128Mi"),
        ("B42 limit unknown", "disk", "1Gi", "E170 BadManifest", "there is no limit"),
        ("B42 limit junk", "cpu", "fast", "E170 BadManifest", "is no quantity"),
    ]
    .into_iter()
    .map(|(what, limit, value, code, says)| {
        let map = signed(&kit.signer, &name_of(what), &good(&name_of(what)), 1);
        Row::refused(what, code, &[says], vec![annotated(map, &format!("limit-{limit}"), value)])
    })
    .collect()
}

/// Components in parts: one is missing, or they are of two versions.
fn sets(kit: &Kit) -> Vec<Row> {
    let parts = |plugin: &str, seed: u64| {
        let large = [good(plugin), section(0, &[&b"\x05noise"[..], &noise(seed, 1 << 20)].concat())].concat();
        offer::in_parts(&kit.signer, plugin, &large)
    };
    let missing = "part 2 is missing";
    let mut lonely = parts(&name_of(missing), 1);
    lonely.truncate(1);
    let mixed = "parts of two versions";
    let (mut first, second) = (parts(&name_of(mixed), 1), parts(&name_of(mixed), 2));
    first[1] = second[1].clone();
    vec![
        Row::refused(missing, "E118 PartsIncomplete", &["2"], lonely),
        Row::refused(mixed, "E118 PartsIncomplete", &["2"], first),
    ]
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

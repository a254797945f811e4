//! ConfigMaps as they are applied: what each row of mistakes gets, and components in many parts.

mod support;

use std::io::Read as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::{Guest, any_snapshot, name, pass};
use windlass_core::code::{Code, Refusal};
use windlass_core::limits::Limits;
use windlass_plugin::{LimitMaxima, Loader, Parts, PartsNow, Plugin, Whole, cut};

fn config_map(metadata: Value, binary: Value, data: Value) -> Value {
    let mut map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": "ns",
            "name": "x",
            "labels": {"windlass.dev/plugin": "probe"},
            "annotations": {},
        },
        "binaryData": binary,
        "data": data,
    });
    for (key, value) in metadata.as_object().into_iter().flatten() {
        map["metadata"][key] = value.clone();
    }
    map
}

fn annotated(annotation: &str, value: &str) -> Value {
    let good = STANDARD.encode(Guest::default().build());
    config_map(json!({"annotations": {annotation: value}}), json!({"plugin.wasm": good}), json!({}))
}

fn zeros(len: usize) -> Vec<u8> {
    zstd::encode_all(std::io::repeat(0).take(len as u64), 1).expect("in memory")
}

/// As the host does it: what is wrong is said with where it was found.
fn take(loader: &Loader, map: &Value) -> Result<Plugin, Refusal> {
    let whole = Whole::single(map.to_string().into())?;
    let source = whole.source(loader.limits(), loader.maxima())?;
    loader.load(&source, &source.plugin).map_err(|refusal| source.origin().says(&refusal))
}

#[test]
fn each_mistake_in_a_config_map_gets_its_code_and_says_where_it_is() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let nothing = json!({});
    let held =
        |key: &str, bytes: &[u8]| config_map(json!({}), json!({key: STANDARD.encode(bytes)}), json!({}));
    let core = wat::parse_str("(module)").expect("valid");
    let good = Guest::default().build();
    let settings = config_map(
        json!({}),
        json!({"plugin.wasm": STANDARD.encode(&good)}),
        json!({"settings.yaml": "a: [1, 2"}),
    );
    let cases = [
        (
            "B01 no key",
            config_map(json!({}), nothing.clone(), nothing.clone()),
            Code::NoPluginBytes,
            "plugin probe, ConfigMap ns/x: expected one of plugin.wasm, plugin.wasm.zst and plugin.wasm.gz in \
             binaryData; found nothing",
        ),
        (
            "B01 empty",
            held("plugin.wasm", b""),
            Code::NoPluginBytes,
            "ConfigMap ns/x: key plugin.wasm is empty",
        ),
        (
            "B02 text",
            config_map(json!({}), nothing.clone(), json!({"plugin.wasm": STANDARD.encode(&good)})),
            Code::NotBinary,
            "ConfigMap ns/x: plugin.wasm is in data, which is text: put the component in binaryData",
        ),
        (
            "B02 base64 twice",
            held("plugin.wasm", STANDARD.encode(&good).as_bytes()),
            Code::NotWasm,
            "base64: it has been encoded twice",
        ),
        (
            "B03",
            held("plugin.wasm.zst", &zstd::encode_all(&b"\x89PNG\r\n\x1a\n"[..], 3).expect("in memory")),
            Code::NotWasm,
            "plugin probe, ConfigMap ns/x, key plugin.wasm.zst (",
        ),
        ("B05", held("plugin.wasm", &core), Code::CoreModule, "key plugin.wasm ("),
        ("B06 packed", held("plugin.wasm.gz", &good), Code::Malformed, "plugin.wasm.gz does not decompress"),
        (
            "B10 ratio",
            held("plugin.wasm.zst", &zeros(30 << 20)),
            Code::DecompressedTooLarge,
            "ConfigMap ns/x: plugin.wasm.zst: stopped at 1024 KiB, which ",
        ),
        (
            "B42 label",
            config_map(json!({"labels": {}}), nothing.clone(), nothing),
            Code::BadManifest,
            "no label",
        ),
        ("B42 settings", settings, Code::BadSettings, "ConfigMap ns/x: settings.yaml does not parse"),
        (
            "B42 limit",
            annotated("windlass.dev/limit-memory", "1Gi"),
            Code::LimitAboveMax,
            "annotation windlass.dev/limit-memory: 1Gi is above 128Mi, the most that this host allows",
        ),
        ("B42 unknown", annotated("windlass.dev/limit-disk", "1Gi"), Code::BadManifest, "there is no limit"),
        (
            "B42 junk",
            annotated("windlass.dev/limit-cpu", "fast"),
            Code::BadManifest,
            "\"fast\" is no quantity",
        ),
    ];
    for (row, map, code, says) in cases {
        let refusal = take(&loader, &map).expect_err(row);
        assert_eq!(refusal.code, code, "{row}: {refusal}");
        assert!(refusal.message.contains(says), "{row}: {refusal}");
    }
}

#[test]
fn a_plugin_gets_the_limits_that_it_asks_for() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    // It has two pages; one MiB is sixteen.
    let grows = Guest { reconcile: "(drop (memory.grow (i32.const 20))) i32.const 4096", ..Guest::default() };
    let binary = json!({"plugin.wasm": STANDARD.encode(grows.build())});
    let decide = |metadata: Value| {
        let plugin = take(&loader, &config_map(metadata, binary.clone(), json!({}))).expect("loads");
        plugin.decide(&pass("probe"), &any_snapshot(), Arc::new(support::Objects::default()))
    };
    decide(json!({})).expect("64 MiB are enough");
    let less = decide(json!({"annotations": {"windlass.dev/limit-memory": "1Mi"}})).expect_err("too little");
    assert!(format!("{less:?}").contains("limit 1024 KiB"), "{less:?}");
}

/// A good component with so many bytes in it that do not compress.
fn large(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    });
    let mut bytes = Guest::default().build();
    let content: Vec<u8> = b"\x05noise".iter().copied().chain(noise.take(len)).collect();
    bytes.push(0);
    let mut left = content.len();
    while left > 0x7f {
        bytes.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes.extend(content);
    bytes
}

#[test]
fn a_component_of_4_5_mb_compressed_is_loaded_from_its_parts() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let packed = zstd::encode_all(&*large(4_600_000), 3).expect("in memory");
    assert!(packed.len() > 4_500_000);
    let slices = cut(&packed);
    assert_eq!(slices.len(), 5);
    let mut known = Parts::default();
    let mut last = PartsNow::default();
    // The last first.
    for (i, slice) in slices.iter().enumerate().rev() {
        let annotations: serde_json::Map<String, Value> =
            slice.annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let map = config_map(
            json!({"name": format!("probe-{}", i + 1), "annotations": annotations}),
            json!({"plugin.wasm.zst": STANDARD.encode(slice.bytes)}),
            if i == 0 { json!({"settings.yaml": "a: 1"}) } else { json!({}) },
        );
        last = known.offer(map.to_string().into()).expect("a ConfigMap");
    }
    let whole = last.offered.remove(0).whole.expect("all parts are there");
    assert_eq!(whole.packed(loader.limits()).expect("as they came").bytes, packed);
    let source = whole.source(&Limits::default(), &LimitMaxima::default()).expect("it is as announced");
    assert_eq!(source.config_map, "ns/probe-1");
    assert_eq!(source.settings.as_deref(), Some(r#"{"a":1}"#));
    let plugin = loader.load(&source, &name("probe")).expect("it serves");
    assert_eq!(plugin.manifest().version, "1.0.0");
}

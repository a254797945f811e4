//! Parts in every order, replaced one by one, and wrong in every way.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use windlass_core::limits::Limits;

use super::*;
use crate::limits::LimitMaxima;

/// Bytes that do not compress, another lot for each seed.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn part(name: &str, number: usize, of: usize, whole: &Digest, slice: &[u8]) -> Value {
    json!({
        "metadata": {
            "namespace": "ns",
            "name": name,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"windlass.dev/plugin": "big"},
            "annotations": {ANNOTATION_PART: format!("{number}-of-{of}"), ANNOTATION_WHOLE: whole.as_str()},
        },
        "binaryData": {"plugin.wasm": STANDARD.encode(slice)},
    })
}

/// `bytes` in `of` parts called `big-1`, `big-2` and so on.
fn parts(bytes: &[u8], of: usize) -> Vec<Value> {
    let whole = Digest::of(bytes);
    let slices = bytes.chunks(bytes.len().div_ceil(of));
    slices.enumerate().map(|(i, slice)| part(&format!("big-{}", i + 1), i + 1, of, &whole, slice)).collect()
}

fn tell(to: &mut Parts, map: &Value) -> PartsNow {
    to.offer(map.to_string().into()).expect("a ConfigMap")
}

/// What part 1 stands for.
fn stands(now: &PartsNow) -> &Result<Whole, Refusal> {
    let [one] = now.offered.as_slice() else {
        panic!("{now:?}");
    };
    assert_eq!(one.offer.config_map, "ns/big-1");
    &one.whole
}

fn component(whole: &Result<Whole, Refusal>) -> Vec<u8> {
    let whole = whole.as_ref().expect("it is whole");
    let source = whole.source(&Limits::default(), &LimitMaxima::default()).expect("it is as announced");
    source.component.to_vec()
}

fn says(whole: &Result<Whole, Refusal>, text: &str) {
    let refusal = whole.as_ref().expect_err(text);
    assert_eq!(refusal.code, Code::PartsIncomplete);
    assert!(refusal.message.contains(text), "{refusal}");
}

#[test]
fn parts_make_a_whole_in_whatever_order_they_arrive() {
    let bytes = noise(1, 10_000);
    let all = parts(&bytes, 4);
    // Every order of four.
    for order in 0..24_usize {
        let mut left: Vec<&Value> = all.iter().collect();
        let mut known = Parts::default();
        let mut last = PartsNow::default();
        for (n, by) in [(4, 6), (3, 2), (2, 1), (1, 1)] {
            let next = left.remove(order / by % n);
            last = tell(&mut known, next);
            let complete = last.offered.iter().any(|offered| offered.whole.is_ok());
            assert_eq!(complete, left.is_empty(), "never before all are there");
        }
        assert_eq!(component(stands(&last)), bytes, "{order}");
    }
}

#[test]
fn a_missing_part_is_named() {
    let all = parts(&noise(1, 10_000), 5);
    let mut known = Parts::default();
    says(stands(&tell(&mut known, &all[0])), "parts 2, 3, 4, 5 of 5 are missing from the whole");
    let _ = tell(&mut known, &all[2]);
    let _ = tell(&mut known, &all[4]);
    says(stands(&tell(&mut known, &all[3])), "part 2 of 5 is missing from the whole");
    assert!(stands(&tell(&mut known, &all[1])).is_ok());
    says(stands(&known.gone("ns/big-3")), "part 3 of 5 is missing");
}

#[test]
fn two_versions_are_never_mixed_while_one_replaces_the_other() {
    let (old, new) = (noise(1, 10_000), noise(2, 10_000));
    let (before, after) = (parts(&old, 3), parts(&new, 3));
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut known = Parts::default();
        let mut contents = BTreeSet::new();
        let mut last = PartsNow::default();
        for map in &before {
            last = tell(&mut known, map);
        }
        assert_eq!(component(stands(&last)), old);
        contents.insert(last.offered[0].offer.content.as_str().to_owned());
        for (step, part) in order.into_iter().enumerate() {
            last = tell(&mut known, &after[part]);
            assert!(last.gone.is_empty(), "{last:?}");
            assert!(
                contents.insert(last.offered[0].offer.content.as_str().to_owned()),
                "it is looked at again"
            );
            if step < 2 {
                says(stands(&last), "missing from the whole");
            }
        }
        assert_eq!(component(stands(&last)), new, "{order:?}");
        // And back, part 1 first: what is in the way is named.
        says(stands(&tell(&mut known, &before[0])), "ns/big-2 is 2-of-3 of");
    }
}

#[test]
fn parts_that_are_not_what_they_announce_are_refused() {
    let bytes = noise(1, 9_000);
    let mut all = parts(&bytes, 3);
    let wrong = STANDARD.encode(noise(9, 3_000));
    all[1]["binaryData"]["plugin.wasm"] = json!(wrong);
    let mut known = Parts::default();
    let nows: Vec<PartsNow> = all.iter().map(|map| tell(&mut known, map)).collect();
    let whole = stands(&nows[2]).as_ref().expect("all are there");
    let refusal = whole.source(&Limits::default(), &LimitMaxima::default()).expect_err("not the whole");
    assert_eq!(refusal.code, Code::DigestMismatch);
    for part in [
        "plugin big, ConfigMap ns/big-1: the 3 parts together are 9000 bytes with digest",
        Digest::of(&bytes).short(),
        "apply all parts of one version",
    ] {
        assert!(refusal.message.contains(part), "{refusal}: {part}");
    }
}

#[test]
fn parts_that_contradict_each_other_are_said() {
    let bytes = noise(1, 9_000);
    let whole = Digest::of(&bytes);
    let all = parts(&bytes, 3);
    let told = |extra: Value| {
        let mut known = Parts::default();
        all.iter().for_each(|map| drop(tell(&mut known, map)));
        tell(&mut known, &extra)
    };
    let twice = told(part("again", 2, 3, &whole, b"x"));
    says(stands(&twice), "part 2 of 3 is there twice, as ns/again and as ns/big-2: remove one");
    let count = told(part("extra", 4, 4, &whole, b"x"));
    says(stands(&count), "ns/extra says windlass.dev/part: 4-of-4, part 1 says 1-of-3");
    // Of something else altogether: nobody's business.
    let other = told(part("other", 2, 3, &Digest::of(b""), b"x"));
    assert_eq!(component(stands(&other)), bytes);
}

#[test]
fn what_a_part_says_wrongly_is_refused_with_the_part() {
    let bytes = noise(1, 9_000);
    let maxima = LimitMaxima::default();
    type Spoil = fn(&mut Value);
    let cases: [(Spoil, Code, &str); 7] = [
        (|part| part["data"] = json!({"settings.yaml": "a: 1"}), Code::BadSettings, "belongs into part 1"),
        (
            |part| part["metadata"]["annotations"]["windlass.dev/limit-memory"] = json!("1Mi"),
            Code::BadManifest,
            "windlass.dev/limit-memory belongs on part 1",
        ),
        (|part| part["binaryData"] = json!({}), Code::NoPluginBytes, "found nothing"),
        (
            |part| part["binaryData"] = json!({"plugin.wasm": ""}),
            Code::NoPluginBytes,
            "key plugin.wasm is empty",
        ),
        (
            |part| part["binaryData"] = json!({"plugin.wasm.gz": "AAAA"}),
            Code::PartsIncomplete,
            "the key is plugin.wasm.gz, in part 1 it is plugin.wasm",
        ),
        (|part| part["binaryData"] = json!({"plugin.wasm": "%"}), Code::NotBinary, "not base64"),
        (
            |part| part["binaryData"] = json!({"plugin.wasm": "A".repeat(1_400_004)}),
            Code::TooComplex,
            "at most 1024 KiB in one ConfigMap",
        ),
    ];
    for (spoil, code, text) in cases {
        let mut all = parts(&bytes, 2);
        spoil(&mut all[1]);
        let mut known = Parts::default();
        let _ = tell(&mut known, &all[0]);
        let now = tell(&mut known, &all[1]);
        let whole = stands(&now).as_ref().expect("all are there");
        let refusal = whole.source(&Limits::default(), &maxima).expect_err(text);
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.message.contains("part 2 (ConfigMap ns/big-2): "), "{refusal}");
        assert!(refusal.message.contains(text), "{refusal}");
    }
}

#[test]
fn annotations_that_place_nothing_are_refused_on_their_own_config_map() {
    let whole = Digest::of(b"x");
    for bad in
        ["", "1", "0-of-2", "3-of-2", "1-of-0", "1-of-65", "1 of 2", "+1-of-2", "1-of-2-of-3", "١-of-2"]
    {
        let mut map = part("big-1", 1, 2, &whole, b"x");
        map["metadata"]["annotations"][ANNOTATION_PART] = json!(bad);
        says(stands(&tell(&mut Parts::default(), &map)), "expected such as 2-of-5, at most 64");
    }
    for (digest, text) in
        [(json!(null), "windlass.dev/whole is missing"), (json!("sha256:1"), "is not a digest")]
    {
        let mut map = part("big-1", 1, 2, &whole, b"x");
        map["metadata"]["annotations"][ANNOTATION_WHOLE] = digest;
        if map["metadata"]["annotations"][ANNOTATION_WHOLE].is_null() {
            map["metadata"]["annotations"] = json!({ANNOTATION_PART: "1-of-2"});
        }
        says(stands(&tell(&mut Parts::default(), &map)), text);
    }
}

#[test]
fn a_stray_with_bad_annotations_disturbs_nobody() {
    let bytes = noise(1, 9_000);
    let mut known = Parts::default();
    for map in &parts(&bytes, 2) {
        let _ = tell(&mut known, map);
    }
    let mut junk = part("a-junk", 1, 2, &Digest::of(&bytes), b"x");
    junk["metadata"]["annotations"][ANNOTATION_PART] = json!("first");
    let now = tell(&mut known, &junk);
    assert_eq!(component(stands(&now)), bytes);
    assert_eq!(now.stray.len(), 1);
    assert_eq!(now.stray[0].0, "ns/a-junk");
}

#[test]
fn part_1_stands_for_the_plugin_and_without_it_there_is_none() {
    let all = parts(&noise(1, 9_000), 3);
    let mut known = Parts::default();
    let now = tell(&mut known, &all[1]);
    assert!(now.offered.is_empty());
    assert!(now.stray[0].1.message.contains("part 2 of 3 of plugin big; part 1"), "{now:?}");
    let _ = tell(&mut known, &all[2]);
    assert!(stands(&tell(&mut known, &all[0])).is_ok());
    let now = known.gone("ns/big-1");
    assert_eq!(now.gone, ["ns/big-1"]);
    assert!(now.offered.is_empty());
    assert_eq!(now.stray.len(), 2);
    let _ = known.gone("ns/big-2");
    assert_eq!(known.gone("ns/big-3"), PartsNow::default());
    assert_eq!(known.gone("ns/never-seen").gone, ["ns/never-seen"]);
    assert!(known.pieces.is_empty() && known.standing.is_empty(), "nothing is kept of what is gone");
}

#[test]
fn a_config_map_that_holds_everything_passes_through() {
    let mut known = Parts::default();
    let all = parts(&noise(1, 9_000), 2);
    let mut single = all[0].clone();
    single["metadata"]["annotations"] = json!({});
    let now = tell(&mut known, &single);
    assert_eq!(stands(&now).as_ref().map(Whole::parts), Ok(1));
    assert!(now.gone.is_empty());
    // It becomes a part, and whole again.
    says(stands(&tell(&mut known, &all[0])), "part 2 of 2 is missing");
    let now = tell(&mut known, &single);
    assert!(stands(&now).is_ok() && now.gone.is_empty(), "{now:?}");
    // It becomes a part that stands for nothing.
    let mut second = all[1].clone();
    second["metadata"]["name"] = json!("big-1");
    let now = tell(&mut known, &second);
    assert_eq!((now.gone.as_slice(), now.offered.len()), (["ns/big-1".to_owned()].as_slice(), 0));
}

#[test]
fn a_part_that_changes_its_label_leaves_the_old_plugin_and_stands_for_the_new_one() {
    let all = parts(&noise(1, 9_000), 2);
    let mut known = Parts::default();
    let _ = tell(&mut known, &all[1]);
    assert!(stands(&tell(&mut known, &all[0])).is_ok());
    let mut moved = all[0].clone();
    moved["metadata"]["labels"]["windlass.dev/plugin"] = json!("other");
    let now = tell(&mut known, &moved);
    assert!(now.gone.is_empty(), "the registry moves it by its offer");
    assert_eq!(now.offered[0].offer.plugin.as_str(), "other");
    assert_eq!(now.stray[0].0, "ns/big-2");
    let broken = json!({"metadata": {"namespace": "ns", "name": "big-2"}});
    let refusal = known.offer(broken.to_string().into()).expect_err("no label");
    assert_eq!(refusal.code, Code::BadManifest);
    assert_eq!(known.gone("ns/big-2"), PartsNow::default());
}

#[test]
fn slices_are_cut_and_announced_as_they_are_read() {
    assert_eq!(cut(b"small"), [Slice { bytes: b"small", annotations: Vec::new() }]);
    let bytes = noise(1, 2 * PART_BYTES + 1);
    let slices = cut(&bytes);
    let mut known = Parts::default();
    let mut last = PartsNow::default();
    for (i, slice) in slices.iter().enumerate() {
        let annotations: BTreeMap<&str, &str> =
            slice.annotations.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let map = json!({
            "metadata": {"namespace": "ns", "name": format!("big-{}", i + 1),
                "labels": {"windlass.dev/plugin": "big"}, "annotations": annotations},
            "binaryData": {"plugin.wasm": STANDARD.encode(slice.bytes)},
        });
        last = tell(&mut known, &map);
    }
    assert_eq!(slices.len(), 3);
    assert_eq!(component(stands(&last)), bytes);
}

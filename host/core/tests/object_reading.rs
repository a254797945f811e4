//! Whatever JSON an object is, reading it loses nothing but `managedFields`.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use windlass_core::kind::Gvk;
use windlass_core::object::Object;

/// A JSON text of a string: plain, escaped in every way that JSON has, beyond ASCII.
fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9./_ -]{0,12}",
        1 => Just(r#"\""#.to_owned()),
        1 => Just(r"\\".to_owned()),
        1 => Just(r"\u00fC\/\b\f\n\r\t".to_owned()),
        1 => Just(r"\ud83d\uDE00\u0000".to_owned()),
        1 => Just("ü漢😀]}{[,:".to_owned()),
    ];
    vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn scalar() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        Just("-0".to_owned()),
        Just("1e5".to_owned()),
        Just("0.1000000000000000055511151231257827".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
    ];
    prop_oneof![number, string(), Just("null".to_owned()), Just("true".to_owned()), Just("false".to_owned())]
}

fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,2}"
}

fn value() -> impl Strategy<Value = String> {
    scalar().prop_recursive(4, 24, 4, |inner| {
        let list =
            (vec(inner.clone(), 0..4), space()).prop_map(|(all, s)| format!("[{s}{}{s}]", all.join(",")));
        let map = fields(string(), inner).prop_map(|fields| format!("{{{fields}}}"));
        prop_oneof![list, map]
    })
}

/// Fields of an object; the same name may come twice.
fn fields(
    name: impl Strategy<Value = String>,
    value: impl Strategy<Value = String>,
) -> impl Strategy<Value = String> {
    let field =
        (space(), name, space(), value).prop_map(|(a, name, b, value)| format!("{a}{name}{b}:{b}{value}{a}"));
    vec(field, 0..5).prop_map(|fields| fields.join(","))
}

/// Fields of `metadata` that mean nothing to the host.
fn other() -> impl Strategy<Value = String> {
    fields(string().prop_map(|s| s.replacen('"', "\"x-", 1)), value())
}

fn labels() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((string(), string()), 0..4)
}

#[derive(Clone, Debug)]
struct Drawn {
    text: String,
    labels: Vec<(String, String)>,
    finalizers: Vec<String>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let parts = (labels(), vec(string(), 0..3), other(), value(), other(), any::<bool>(), any::<bool>());
    parts.prop_map(|(labels, finalizers, meta, managed, more, first, managed_first)| {
        let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name} : {value}")).collect();
        let managed = format!(r#""managedFields":[{{"manager":"m","x":{managed}}}]"#);
        let named = format!(
            r#""name":"n","labels":{{{}}},"finalizers":[{}],"resourceVersion":"7""#,
            pairs.join(","),
            finalizers.join(" ,")
        );
        let order = if managed_first { [&managed, &named, &meta] } else { [&named, &meta, &managed] };
        let inside: Vec<&str> = order.into_iter().map(String::as_str).filter(|s| !s.is_empty()).collect();
        let metadata = format!(r#""metadata": {{{}}}"#, inside.join(","));
        let around = if first { [&metadata, &more] } else { [&more, &metadata] };
        let around: Vec<&str> = around.into_iter().map(String::as_str).filter(|s| !s.is_empty()).collect();
        Drawn { text: format!("{{{}}}", around.join(",")), labels, finalizers }
    })
}

fn read(text: &str) -> String {
    serde_json::from_str(text).expect("a string")
}

fn kind() -> Gvk {
    "apps/v1/Deployment".parse().expect("valid")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_but_managed_fields_is_lost(drawn in drawn()) {
        let mut want: Value = serde_json::from_str(&drawn.text).expect("JSON");
        want["apiVersion"] = "apps/v1".into();
        want["kind"] = "Deployment".into();
        want["metadata"].as_object_mut().expect("an object").remove("managedFields");
        let object = Object::parse(&kind(), &drawn.text).expect("an object");
        let have: Value = serde_json::from_str(&object.json()).expect("JSON");
        prop_assert_eq!(have, want);
        // The last of a name counts, as everywhere.
        let labels: std::collections::BTreeMap<_, _> = drawn.labels.iter().map(|(n, v)| (read(n), read(v))).collect();
        let seen: Vec<_> = object.meta().labels().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        prop_assert_eq!(seen, labels.into_iter().collect::<Vec<_>>());
        let finalizers: Vec<_> = drawn.finalizers.iter().map(|f| read(f)).collect();
        prop_assert_eq!(object.meta().finalizers().collect::<Vec<_>>(), finalizers);
    }

    /// Numbers and escapes stay as the API server wrote them, whatever a parser makes of them.
    #[test]
    fn a_value_stays_the_text_that_it_was(value in value()) {
        let text = format!(r#"{{"metadata":{{"name":"n","x":{value}}},"spec":{value}}}"#);
        let object = Object::parse(&kind(), &text).expect("an object");
        let want = format!(
            r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"n","x":{value}}},"spec":{value}}}"#
        );
        prop_assert_eq!(object.json(), want);
    }

    /// What is cut or garbled is refused or read, and never more than that.
    #[test]
    fn nothing_that_arrives_does_harm(drawn in drawn(), at in any::<prop::sample::Index>(), byte in any::<char>()) {
        let cut = at.index(drawn.text.len());
        let cut = (0..=cut).rev().find(|at| drawn.text.is_char_boundary(*at)).unwrap_or(0);
        let _ = Object::parse(&kind(), &drawn.text[..cut]);
        let garbled = format!("{}{byte}{}", &drawn.text[..cut], &drawn.text[cut..]);
        if let Ok(object) = Object::parse(&kind(), &garbled) {
            // Half a surrogate and 1e999 are JSON, although not everybody can hold them.
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&object.json()).is_ok());
        }
    }
}

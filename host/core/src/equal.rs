//! Kubernetes' idea of equality, for comparing what is wanted with what is there.
//!
//! The API server rewrites what it stores: defaults appear, `1000m` becomes `1`,
//! empty maps vanish. [`covers`] looks through that. It may say "different" where
//! the server would see no change (that costs one apply, which is remembered); it
//! must never say "the same" where a person changed something.

use serde_json::{Map, Value};

/// Keys below which values are resource quantities.
const QUANTITY_PARENTS: &[&str] = &["limits", "requests", "capacity", "allocatable", "hard", "overhead"];
/// Keys whose value is a map of strings, which the API server leaves out when it is empty.
/// Any other empty object says something by being there: `emptyDir: {}`, `podSelector: {}`.
const MAPS: &[&str] = &[
    "labels",
    "annotations",
    "matchLabels",
    "nodeSelector",
    "data",
    "binaryData",
    "limits",
    "requests",
    "hard",
    "parameters",
];
/// Keys whose own value is a resource quantity.
const QUANTITY_KEYS: &[&str] = &["sizeLimit", "divisor", "averageValue"];

/// Whether every field of `wanted` is in `live` with an equal value. Fields that
/// `wanted` does not mention are not looked at. Lists must have the same length
/// and cover each other item by item: an item that somebody added is a difference.
pub fn covers(wanted: &Value, live: &Value) -> bool {
    value_covers(wanted, live, false)
}

/// The first field of `wanted` that `live` does not cover, as a JSON pointer; nothing when
/// [`covers`] says yes. In the order of fields, not of importance.
pub fn first_uncovered(wanted: &Value, live: &Value) -> Option<String> {
    let mut path = String::new();
    uncovered(wanted, live, false, &mut path).then_some(path)
}

/// Whether there is a difference; `path` is then extended to the innermost one.
fn uncovered(wanted: &Value, live: &Value, quantity: bool, path: &mut String) -> bool {
    if value_covers(wanted, live, quantity) {
        return false;
    }
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            let differs = wanted.iter().find(|(name, value)| !field_covers(name, value, live, quantity));
            if let Some((name, value)) = differs {
                push_pointer(path, name);
                uncovered(value, live.get(name).unwrap_or(&Value::Null), is_quantity(name, quantity), path);
            }
        }
        (Value::Array(wanted), Value::Array(live)) if wanted.len() == live.len() => {
            let differs = wanted.iter().zip(live).position(|(w, l)| !value_covers(w, l, quantity));
            if let Some(i) = differs {
                push_pointer(path, &i.to_string());
                uncovered(&wanted[i], &live[i], quantity, path);
            }
        }
        _ => {}
    }
    true
}

/// Adds a part to a JSON pointer (RFC 6901).
pub(crate) fn push_pointer(path: &mut String, part: &str) {
    path.push('/');
    path.push_str(&part.replace('~', "~0").replace('/', "~1"));
}

/// Whether two values are equal in both directions.
pub fn same(a: &Value, b: &Value) -> bool {
    covers(a, b) && covers(b, a)
}

fn value_covers(wanted: &Value, live: &Value, quantity: bool) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => map_covers(wanted, live, quantity),
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len() && wanted.iter().zip(live).all(|(w, l)| value_covers(w, l, quantity))
        }
        (Value::Number(w), Value::Number(l)) if w.is_f64() || l.is_f64() => w.as_f64() == l.as_f64(),
        (w, l) if w == l => true,
        (w, l) if quantity => same_quantity(w, l),
        (w, l) => is_empty(w) && is_empty(l),
    }
}

fn map_covers(wanted: &Map<String, Value>, live: &Map<String, Value>, quantity: bool) -> bool {
    wanted.iter().all(|(name, value)| field_covers(name, value, live, quantity))
}

fn field_covers(name: &str, value: &Value, live: &Map<String, Value>, quantity: bool) -> bool {
    match live.get(name) {
        Some(live) => value_covers(value, live, is_quantity(name, quantity)),
        None => is_left_out(name, value),
    }
}

/// Whether the value of this field is a quantity, or holds some.
fn is_quantity(name: &str, parent: bool) -> bool {
    parent || QUANTITY_PARENTS.contains(&name) || QUANTITY_KEYS.contains(&name)
}

/// Whether the API server leaves the field `name` out when it has this value. Never so
/// for `false` and `0`: where absent means something else (`allowPrivilegeEscalation`),
/// somebody took the field away; where it means the same, one apply is wasted.
fn is_left_out(name: &str, value: &Value) -> bool {
    match value {
        Value::Object(fields) => MAPS.contains(&name) && fields.is_empty(),
        value => is_empty(value),
    }
}

/// Null and empty are one value to the API server.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) => false,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

fn same_quantity(a: &Value, b: &Value) -> bool {
    match (quantity(a), quantity(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// A resource quantity as an exact number of nano-units.
fn quantity(value: &Value) -> Option<i128> {
    let text = match value {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let digits =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (sign, number) = match number.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits_only = whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    if !digits_only || whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    let nano = format!("{whole}{fraction:0<9}").parse::<i128>().ok()?;
    scaled(nano, suffix).map(|n| sign * n)
}

fn scaled(nano: i128, suffix: &str) -> Option<i128> {
    let factor = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "m" | "u" | "n" => {
            let by = match suffix {
                "m" => 1_000,
                "u" => 1_000_000,
                _ => 1_000_000_000,
            };
            return (nano % by == 0).then_some(nano / by);
        }
        _ => return None,
    };
    nano.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_adds_or_rewrites_is_no_difference() {
        for (wanted, live) in [
            (json!({"a": 1}), json!({"a": 1, "default": true})),
            (json!({"a": null, "labels": {}, "c": [], "d": ""}), json!({})),
            (json!({"annotations": {}}), json!({})),
            (json!({"n": 1}), json!({"n": 1.0})),
            (json!({"emptyDir": {}}), json!({"emptyDir": {}})),
            (json!({"limits": {"cpu": "1000m"}}), json!({"limits": {"cpu": "1"}})),
            (json!({"limits": {"cpu": 0.5}}), json!({"limits": {"cpu": "500m"}})),
            (json!({"requests": {"memory": "1024Mi"}}), json!({"requests": {"memory": "1Gi"}})),
            (json!([{"name": "a"}]), json!([{"name": "a", "protocol": "TCP"}])),
        ] {
            assert!(covers(&wanted, &live), "{wanted} / {live}");
        }
    }

    #[test]
    fn what_a_person_changed_is_a_difference() {
        for (wanted, live) in [
            (json!({"a": 1}), json!({"a": 2})),
            (json!({"a": 1}), json!({})),
            (json!({"a": 0}), json!({"a": 1})),
            (json!({"allowPrivilegeEscalation": false}), json!({})),
            (json!({"ready": 0}), json!(null)),
            (json!({"name": "v", "emptyDir": {}}), json!({"name": "v", "hostPath": {"path": "/"}})),
            (json!({"podSelector": {}, "namespaceSelector": {}}), json!({"podSelector": {}})),
            (json!({"n": 9007199254740993_i64}), json!({"n": 9007199254740992_i64})),
            (json!({"a": "x"}), json!({"a": {}})),
            (json!({"args": ["a", "b"]}), json!({"args": ["b", "a"]})),
            (json!({"args": ["a"]}), json!({"args": ["a", "b"]})),
            (json!([{"name": "a"}]), json!([{"name": "b"}])),
            (json!({"env": [{"value": "1"}]}), json!({"env": [{"value": "1000m"}]})),
            (json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "2"}})),
            (json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "one"}})),
        ] {
            assert!(!covers(&wanted, &live), "{wanted} / {live}");
        }
    }

    #[test]
    fn the_first_difference_is_named_where_it_is() {
        for (wanted, live, at) in [
            (json!({"a": {"b": [1, {"c/d": 2}]}}), json!({"a": {"b": [1, {"c/d": 3}]}}), "/a/b/1/c~1d"),
            (json!({"a": 1, "b": {"c": 2}}), json!({"a": 1}), "/b"),
            (json!({"args": ["a"]}), json!({"args": ["a", "b"]}), "/args"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                json!({"limits": {"cpu": "1000m", "memory": "2Gi"}}),
                "/limits/memory",
            ),
            (json!(1), json!(2), ""),
        ] {
            assert_eq!(first_uncovered(&wanted, &live).as_deref(), Some(at), "{wanted} / {live}");
        }
        assert_eq!(first_uncovered(&json!({"limits": {"cpu": 1}}), &json!({"limits": {"cpu": "1"}})), None);
    }

    #[test]
    fn quantities_are_compared_as_numbers() {
        let q = |text: &str| quantity(&json!(text));
        assert_eq!(q("1"), q("1000m"));
        assert_eq!(q("0.1"), q("100m"));
        assert_eq!(q("1Ki"), q("1024"));
        assert_ne!(q("1k"), q("1Ki"));
        for bad in ["", "m", "1x", "1e3e", "--1"] {
            assert_eq!(q(bad), None, "{bad}");
        }
    }
}

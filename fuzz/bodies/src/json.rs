//! The strict reader beside the general one: it takes nothing that the other does not, and
//! says why wherever it takes less.

use serde_json::Value;
use windlass_core::json::{JsonFault, Room, parse};

/// Compares both readers on one text.
pub(crate) fn compare(text: &str) {
    let general: Result<Value, _> = serde_json::from_str(text);
    match (parse(text, &mut Room::default()), general) {
        (Ok(ours), Ok(theirs)) => assert!(alike(&ours, &theirs), "{ours} is not {theirs}"),
        (Ok(ours), Err(e)) => panic!("{ours} was read from what is no JSON: {e}"),
        (Err(e), Ok(_)) => {
            if let JsonFault::Invalid(why) = &e.fault {
                assert!(why.contains("would not survive"), "JSON was refused: {e}");
            }
        }
        (Err(e), Err(_)) => {
            assert!(e.line >= 1 && e.column >= 1 && e.path.len() <= 260, "{e}");
            let refusal = e.refusal("children[0]");
            assert!(!refusal.message.contains(char::is_control), "{refusal}");
        }
    }
}

/// Equal but for the last bit of a fraction, which the general reader rounds by itself.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| alike(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64(), a.as_f64(), b.as_f64()) {
            (Some(a), Some(b), _, _) => a == b,
            (_, _, Some(a), Some(b)) => a == b || (a - b).abs() <= a.abs() * 4.0 * f64::EPSILON,
            _ => false,
        },
        (a, b) => a == b,
    }
}

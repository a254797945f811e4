//! A short name for data, to roll pods when it changes.

use crate::decode::written;
use serde::Serialize;

/// Offset basis of the 64-bit FNV-1a hash.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
/// Prime of the 64-bit FNV-1a hash.
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// A stable hash of some data: 16 hexadecimal digits, equal for equal data.
///
/// Made for annotations on a pod template, which roll the pods when the data changes. It is no
/// protection against somebody who wants two values to collide. The order of a map's keys does
/// not matter.
///
/// ```
/// use windlass::{hash_of, json};
///
/// assert_eq!(hash_of(&json!({ "a": 1, "b": 2 })), hash_of(&json!({ "b": 2, "a": 1 })));
/// assert_ne!(hash_of(&json!({ "a": 1 })), hash_of(&json!({ "a": 2 })));
/// ```
///
/// # Panics
/// If the data has no JSON form, such as a map whose keys are lists.
#[must_use]
pub fn hash_of(data: &impl Serialize) -> String {
    // By way of a value, whose maps are sorted.
    let text = match serde_json::to_value(data) {
        Ok(value) => written(&value),
        Err(error) => panic!("data to hash has no JSON form: {error}"),
    };
    let hash = text.bytes().fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_stays_the_same_for_ever() {
        // FNV-1a of the five bytes `"foo"` with their quotes; a change would roll every pod.
        assert_eq!(hash_of(&"foo"), "514504af3ec77eaf");
    }
}

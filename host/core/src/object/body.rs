//! The text of an object at rest: as it is, or as what it has that others of its kind do not.
//!
//! Objects of a kind are alike: made by one template, completed by one API server. So a text is held as its difference from a few that came
//! before it ([`Base`]), in the block format of LZ4, which needs neither tables nor a state between two texts. Reading one
//! is a copy out of two buffers. What would not shrink stays as it is, and so does what did not come out again as it went in.

use std::borrow::Cow;
use std::sync::Arc;

use lz4_flex::block::{compress_with_dict, decompress_with_dict};

/// Longest text that is packed, in bytes: reading a longer one would take longer than it may under a lock. It is also
/// as far back as the format can point.
const PACKED_MAX_BYTES: usize = 48 << 10;
/// Texts in a base together, in bytes. Longer ones find more, and cost more to look through for each object that comes.
const BASE_MAX_BYTES: usize = 8 << 10;
/// Texts in a base: what has found none like it in so many is not like others.
const BASE_MAX_TEXTS: u8 = 8;

/// A text, held in one way or the other.
#[derive(Debug)]
pub(super) enum Body {
    Plain(Box<str>),
    Packed {
        bytes: Box<[u8]>,
        /// Bytes of the text.
        length: u32,
        base: Arc<Base>,
    },
}

/// Texts of objects of one kind, against which others are packed. Lives for as long as one of them does.
#[derive(Debug, Default)]
pub struct Base {
    text: Box<str>,
    texts: u8,
}

impl Base {
    /// Bytes that it takes, shared by all that are packed against it.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }

    /// This one and a further text, while there is room.
    fn with(&self, text: &str) -> Option<Self> {
        let fits = self.texts < BASE_MAX_TEXTS && self.text.len() + text.len() <= BASE_MAX_BYTES;
        fits.then(|| Self { text: [&*self.text, text].concat().into(), texts: self.texts + 1 })
    }
}

impl Body {
    /// The text.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Plain(text) => Cow::Borrowed(text),
            Self::Packed { bytes, length, base } => {
                // It was unpacked once when it was packed, from these very bytes.
                Cow::Owned(unpacked(bytes, *length as usize, base).expect("it was unpacked before"))
            }
        }
    }

    /// The text, if it is held as it is.
    pub(super) fn plain(&self) -> Option<&str> {
        match self {
            Self::Plain(text) => Some(text),
            Self::Packed { .. } => None,
        }
    }

    /// Bytes of the text.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Plain(text) => text.len(),
            Self::Packed { length, .. } => *length as usize,
        }
    }

    /// Bytes that are allocated for this text alone.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Plain(text) => text.len(),
            Self::Packed { bytes, .. } => bytes.len(),
        }
    }

    /// The beginning of the text, up to where texts of its kind may differ.
    pub(super) fn beginning(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Packed { base, .. } => &base.text,
        }
    }

    /// Packs the text against `base`, if that makes it smaller; one that is not like those in the base joins them. What was packed
    /// against a smaller base keeps that one.
    pub(super) fn pack(&mut self, base: &mut Arc<Base>) {
        let Self::Plain(text) = self else { return };
        if text.len() > PACKED_MAX_BYTES {
            return;
        }
        let mut bytes = compress_with_dict(text.as_bytes(), base.text.as_bytes());
        if bytes.len() > text.len() / 3
            && let Some(wider) = base.with(text)
        {
            *base = Arc::new(wider);
            bytes = compress_with_dict(text.as_bytes(), base.text.as_bytes());
        }
        let (most, length) = (text.len() - text.len() / 4, text.len());
        if bytes.len() <= most && unpacked(&bytes, length, base).as_deref() == Some(&**text) {
            *self = Self::Packed { bytes: Box::from(&*bytes), length: length as u32, base: Arc::clone(base) };
        }
    }
}

fn unpacked(bytes: &[u8], length: usize, base: &Base) -> Option<String> {
    let text = decompress_with_dict(bytes, length, base.text.as_bytes()).ok()?;
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(text: &str, base: &mut Arc<Base>) -> Body {
        let mut body = Body::Plain(text.into());
        body.pack(base);
        assert_eq!((&*body.text(), body.length()), (text, text.len()));
        body
    }

    fn alike(number: usize) -> String {
        let fields: Vec<String> = (0..40).map(|at| format!(r#""field-{at}":"{}""#, at * 7919)).collect();
        let (uid, data) = (number * 7_654_321_987, fields.join(","));
        format!(
            r#"{{"apiVersion":"v1","kind":"Ä","metadata":{{"name":"a-{number}","uid":"{uid:x}"}},"data":{{{data}}}}}"#
        )
    }

    #[test]
    fn texts_of_one_template_take_a_tenth_and_share_one_base() {
        let mut base = Arc::default();
        let first = packed(&alike(0), &mut base);
        let shared = base.clone();
        for number in 1..1_000 {
            let body = packed(&alike(number), &mut base);
            assert!(body.held_bytes() * 10 <= body.length(), "{} of {}", body.held_bytes(), body.length());
            assert_eq!(body.beginning()[..30], *first.text()[..30].to_owned());
        }
        assert!(Arc::ptr_eq(&shared, &base), "they were alike from the first one on");
    }

    #[test]
    fn a_base_takes_a_few_that_differ_and_no_more() {
        let mut base = Arc::default();
        let random = |seed: u64| -> String {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let next = |_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                char::from(b' ' + (state % 90) as u8)
            };
            (0..700).map(next).collect()
        };
        let bodies: Vec<Body> = (0..50).map(|seed| packed(&random(seed), &mut base)).collect();
        assert!(base.text.len() <= BASE_MAX_BYTES && base.texts <= BASE_MAX_TEXTS);
        let plain = bodies.iter().filter(|body| matches!(body, Body::Plain(_))).count();
        assert_eq!(plain, 50 - usize::from(base.texts), "what joined the base is nothing but a place in it");
    }

    #[test]
    fn what_is_long_or_empty_stays_as_it_is() {
        let mut base = Arc::default();
        let long = "x".repeat(PACKED_MAX_BYTES + 1);
        assert!(matches!(packed(&long, &mut base), Body::Plain(_)));
        assert!(matches!(packed("", &mut base), Body::Packed { .. } | Body::Plain(_)));
        assert!(base.text.is_empty());
    }
}

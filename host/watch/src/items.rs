//! Items out of chunks: how the body of a list becomes one object at a time.
//!
//! A page may be tens of megabytes; held whole and then taken apart, it would stand beside all
//! that is taken out of it. Here an item leaves when its last byte is there, and what is around
//! the items, the envelope, is kept to be read as JSON in the end. So whatever is wrong with the
//! body is found by the same parser as before: this file only finds where items begin and end.
//!
//! The API server writes built-in lists with `metadata` before `items`, and those of custom
//! resources, whose fields it sorts, after them.

use bytes::{Bytes, BytesMut};

/// Longest envelope in bytes: 1 MiB. It holds a version and a token.
pub(crate) const ENVELOPE_MAX_BYTES: usize = 1 << 20;

/// Cuts the body of a list into items.
#[derive(Debug)]
pub(crate) struct Items {
    /// Bytes that no item and no envelope has taken yet.
    held: BytesMut,
    /// Bytes at the front of `held` that have been looked at.
    scanned: usize,
    /// Longest item, in bytes.
    max: usize,
    envelope: Vec<u8>,
    nesting: Nesting,
    /// The string that ended last at the depth of the envelope's fields, and where it began.
    key: Vec<u8>,
    /// Whether an item has ended with a comma.
    commas: bool,
    place: Place,
}

/// What is open where the next byte is: within the array, in it; around it, in the envelope.
#[derive(Clone, Copy, Debug, Default)]
struct Nesting {
    /// Arrays and objects.
    depth: usize,
    string: Option<Escape>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    No,
    Next,
}

/// Where in the document the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Envelope,
    /// A string of the envelope's own fields, which may be the name `items`.
    Name,
    /// Behind `"items":`.
    ItemsDue,
    /// Within the array.
    Items,
    /// Behind it.
    Rest,
    /// The body has ended, and was whole.
    End,
}

/// A bound was reached: of an item, or of the envelope.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong(pub(crate) usize);

impl Items {
    /// Items of at most `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            held: BytesMut::new(),
            scanned: 0,
            max,
            envelope: Vec::new(),
            nesting: Nesting::default(),
            key: Vec::new(),
            commas: false,
            place: Place::Envelope,
        }
    }

    /// Takes the next chunk of the body.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.held.extend_from_slice(chunk);
    }

    /// The next complete item, as it stands between two commas; `None` until more has been
    /// pushed. Nothing is known of whether it is JSON.
    ///
    /// # Errors
    /// [`TooLong`]; nothing can be read after that.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        while self.scanned < self.held.len() {
            if self.place == Place::Items {
                if let Some(item) = self.item()? {
                    return Ok(Some(item));
                }
            } else {
                self.around()?;
            }
        }
        Ok(None)
    }

    /// What is around the items, as far as it has come; with an empty array in their place.
    pub(crate) fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    /// Whether the array of items has begun.
    pub(crate) fn has_begun(&self) -> bool {
        matches!(self.place, Place::Items | Place::Rest | Place::End)
    }

    /// Nothing more comes, and the envelope was found to be whole.
    pub(crate) fn close(&mut self) {
        self.place = Place::End;
    }

    /// Whether [`close`](Self::close) was called.
    pub(crate) fn is_whole(&self) -> bool {
        self.place == Place::End
    }

    /// Looks on for the end of an item.
    fn item(&mut self) -> Result<Option<Bytes>, TooLong> {
        let mut nesting = self.nesting;
        let ends = |byte: &u8| {
            let ends = nesting.is_flat() && matches!(byte, b',' | b']');
            nesting.step(*byte);
            ends
        };
        let Some(offset) = self.held[self.scanned..].iter().position(ends) else {
            self.nesting = nesting;
            self.scanned = self.held.len();
            return if self.scanned > self.max { Err(TooLong(self.max)) } else { Ok(None) };
        };
        let item = self.held.split_to(self.scanned + offset + 1).freeze();
        self.scanned = 0;
        let (item, end) = (item.slice(..item.len() - 1), item[item.len() - 1]);
        if item.len() > self.max {
            return Err(TooLong(self.max));
        }
        self.nesting = Nesting::default();
        if end == b',' {
            self.commas = true;
            return Ok(Some(item));
        }
        self.place = Place::Rest;
        // The envelope's own brace is still open.
        self.nesting.depth = 1;
        self.envelope.push(b']');
        // `[]` has no item, `[1,]` has an empty one, which is an error.
        Ok((self.commas || !item.iter().all(u8::is_ascii_whitespace)).then_some(item))
    }

    /// Takes the envelope's bytes up to the array of items.
    fn around(&mut self) -> Result<(), TooLong> {
        while let Some(byte) = self.held.get(self.scanned).copied() {
            self.scanned += 1;
            self.envelope.push(byte);
            let Nesting { depth, string: was } = self.nesting;
            let space = byte.is_ascii_whitespace();
            match self.place {
                Place::Envelope if was.is_none() && byte == b'"' && depth == 1 => {
                    self.key.clear();
                    self.place = Place::Name;
                }
                Place::Envelope if byte == b':' && was.is_none() && depth == 1 && self.key == b"items" => {
                    self.place = Place::ItemsDue;
                }
                Place::Name if byte == b'"' && was == Some(Escape::No) => self.place = Place::Envelope,
                Place::Name => self.key.push(byte),
                Place::ItemsDue if !space && byte != b'[' => self.place = Place::Envelope,
                _ => {}
            }
            if self.place == Place::ItemsDue && byte == b'[' {
                self.place = Place::Items;
                self.nesting = Nesting::default();
                break;
            }
            if was.is_none() && byte == b',' {
                self.key.clear();
            }
            self.nesting.step(byte);
            if self.envelope.len() > ENVELOPE_MAX_BYTES {
                return Err(TooLong(ENVELOPE_MAX_BYTES));
            }
        }
        let _ = self.held.split_to(self.scanned);
        self.scanned = 0;
        Ok(())
    }
}

impl Nesting {
    fn is_flat(&self) -> bool {
        self.depth == 0 && self.string.is_none()
    }

    fn step(&mut self, byte: u8) {
        match (self.string, byte) {
            (Some(Escape::Next), _) => self.string = Some(Escape::No),
            (Some(Escape::No), b'\\') => self.string = Some(Escape::Next),
            (Some(Escape::No), b'"') => self.string = None,
            (Some(Escape::No), _) => {}
            (None, b'"') => self.string = Some(Escape::No),
            (None, b'{' | b'[') => self.depth += 1,
            (None, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All items and the envelope, of a body that comes in chunks of a size.
    fn cut(body: &str, size: usize) -> (Vec<String>, String) {
        let mut items = Items::new(1 << 20);
        let mut found = Vec::new();
        for chunk in body.as_bytes().chunks(size) {
            items.push(chunk);
            while let Some(item) = items.next().expect("short") {
                found.push(String::from_utf8(item.to_vec()).expect("UTF-8").trim().to_owned());
            }
        }
        let envelope = items.envelope().iter().filter(|b| **b != b' ').copied().collect();
        (found, String::from_utf8(envelope).expect("UTF-8"))
    }

    #[test]
    fn items_are_found_wherever_the_chunks_end() {
        let body = r#"{"kind":"L","metadata":{"items":[7],"x":"items"},"items" : [ {"a":"],[\"{"} ,{"b":[{},{}]},3],"more":{}}"#;
        for size in 1..=body.len() {
            let (items, envelope) = cut(body, size);
            assert_eq!(items, [r#"{"a":"],[\"{"}"#, r#"{"b":[{},{}]}"#, "3"], "chunks of {size}");
            assert_eq!(envelope, r#"{"kind":"L","metadata":{"items":[7],"x":"items"},"items":[],"more":{}}"#);
        }
    }

    #[test]
    fn fields_that_come_after_the_items_are_of_the_envelope() {
        let body = r#"{"apiVersion":"x/v1","items":[{"a":1}],"kind":"L","metadata":{"resourceVersion":"7"}}"#;
        for size in [1, 7, body.len()] {
            let (items, envelope) = cut(body, size);
            assert_eq!(items, [r#"{"a":1}"#]);
            assert_eq!(
                envelope,
                r#"{"apiVersion":"x/v1","items":[],"kind":"L","metadata":{"resourceVersion":"7"}}"#
            );
        }
    }

    #[test]
    fn what_is_no_array_of_items_stays_in_the_envelope() {
        for body in [
            "{\"items\":null}",
            "{\"items\":[]}",
            "{\"items\":\"items\",\"a\":[1]}",
            "{\"a\":\"items\",\"b\":[1]}",
            "{\"a\":\"items\"}",
            "{\"x\":{\"items\":[1]}}",
            "[\"items\",[1]]",
            "<html>",
            "{\"it\\u0065ms\":[1]}",
        ] {
            for size in [1, body.len()] {
                assert_eq!(cut(body, size), (vec![], body.to_owned()), "{body}");
            }
        }
    }

    #[test]
    fn commas_too_many_leave_empty_items_to_be_refused() {
        assert_eq!(cut(r#"{"items":[1,]}"#, 3).0, ["1", ""]);
        assert_eq!(cut(r#"{"items":[,1]}"#, 3).0, ["", "1"]);
        assert_eq!(cut(r#"{"items":[1}}]}"#, 3).0, ["1}}"], "braces that do not fit are for the parser");
    }

    #[test]
    fn an_item_or_an_envelope_without_end_is_refused_at_the_bound() {
        let mut items = Items::new(8);
        items.push(br#"{"items":["12345678"#);
        assert_eq!(items.next(), Err(TooLong(8)));
        let mut items = Items::new(8);
        items.push(&vec![b' '; ENVELOPE_MAX_BYTES + 1]);
        assert_eq!(items.next(), Err(TooLong(ENVELOPE_MAX_BYTES)));
    }
}

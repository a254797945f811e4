//! The few texts of an object's metadata, in two allocations whatever their number.
//!
//! A map of them would take one allocation a text and a node of 300 bytes and more; an object
//! has a handful, which are looked through faster than a map is descended.

/// Four rows of texts behind each other: labels and annotations as pairs, finalizers, managers.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// All texts, one behind the other.
    text: Box<str>,
    /// Where each row ends in [`ends`](Self::ends), the last one excepted; then where each text
    /// ends in [`text`](Self::text). Empty when there is none.
    ends: Box<[u32]>,
}

/// Rows whose end is noted; the last row ends with the texts.
const NOTED: usize = 3;

/// Room while they are packed: few objects have more bytes of text, or more texts.
const TEXT_BYTES: usize = 512;
/// See [`TEXT_BYTES`].
const TEXTS: usize = 32;

impl Packed {
    /// Packs all. A JSON text of an object is below 4 GiB, so its parts are.
    pub(super) fn new<'a>(
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        annotations: impl Iterator<Item = (&'a str, &'a str)>,
        finalizers: impl Iterator<Item = &'a str>,
        managers: impl Iterator<Item = &'a str>,
    ) -> Self {
        let (mut text, mut ends) = (String::with_capacity(TEXT_BYTES), Vec::with_capacity(TEXTS));
        ends.resize(NOTED, 0);
        let mut push = |ends: &mut Vec<u32>, one: &str| {
            text.push_str(one);
            ends.push(text.len() as u32);
        };
        for (name, value) in labels {
            push(&mut ends, name);
            push(&mut ends, value);
        }
        ends[0] = ends.len() as u32;
        for (name, value) in annotations {
            push(&mut ends, name);
            push(&mut ends, value);
        }
        ends[1] = ends.len() as u32;
        finalizers.for_each(|one| push(&mut ends, one));
        ends[2] = ends.len() as u32;
        managers.for_each(|one| push(&mut ends, one));
        if ends.len() == NOTED {
            return Self::default();
        }
        Self { text: Box::from(&*text), ends: Box::from(&*ends) }
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs(0)
    }

    pub(super) fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs(1)
    }

    pub(super) fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.row(2).map(|at| self.at(at))
    }

    pub(super) fn managers(&self) -> impl Iterator<Item = &str> {
        self.row(3).map(|at| self.at(at))
    }

    /// Bytes of both allocations.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }

    fn pairs(&self, row: usize) -> impl Iterator<Item = (&str, &str)> {
        self.row(row).step_by(2).map(|at| (self.at(at), self.at(at + 1)))
    }

    /// Which texts are of a row.
    fn row(&self, row: usize) -> std::ops::Range<usize> {
        if self.ends.is_empty() {
            return 0..0;
        }
        let begin = if row == 0 { NOTED } else { self.ends[row - 1] as usize };
        let end = if row == NOTED { self.ends.len() } else { self.ends[row] as usize };
        begin..end
    }

    fn at(&self, at: usize) -> &str {
        let begin = if at == NOTED { 0 } else { self.ends[at - 1] as usize };
        &self.text[begin..self.ends[at] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again_row_by_row() {
        let packed = Packed::new(
            [("a", "1"), ("b", "")].into_iter(),
            [("windlass.dev/x", "ü\0")].into_iter(),
            ["f", "", "g"].into_iter(),
            ["windlass/p"].into_iter(),
        );
        assert_eq!(packed.labels().collect::<Vec<_>>(), [("a", "1"), ("b", "")]);
        assert_eq!(packed.annotations().collect::<Vec<_>>(), [("windlass.dev/x", "ü\0")]);
        assert_eq!(packed.finalizers().collect::<Vec<_>>(), ["f", "", "g"]);
        assert_eq!(packed.managers().collect::<Vec<_>>(), ["windlass/p"]);
    }

    #[test]
    fn rows_that_are_empty_stay_empty() {
        let none = || std::iter::empty::<&str>();
        let pairs = std::iter::empty::<(&str, &str)>;
        let nothing = Packed::new(pairs(), pairs(), none(), none());
        assert_eq!((nothing.bytes(), nothing.labels().count(), nothing.managers().count()), (0, 0, 0));
        let last = Packed::new(pairs(), pairs(), none(), ["m"].into_iter());
        assert_eq!((last.finalizers().count(), last.managers().collect::<Vec<_>>()), (0, vec!["m"]));
        let first = Packed::new([("", "")].into_iter(), pairs(), none(), none());
        assert_eq!((first.labels().collect::<Vec<_>>(), first.annotations().count()), (vec![("", "")], 0));
    }
}

//! Names of artefacts: what a file is of and what its bytes must be. No text of a stranger.

use std::fmt::Write as _;

use windlass_core::guests::Tier;

/// What a name says. The key and the checksum are 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) sum: String,
    pub(super) bytes: u64,
    pub(super) tier: Tier,
}

impl Entry {
    /// The name of its file.
    pub(super) fn file_name(&self) -> String {
        let tier = match self.tier {
            Tier::Optimised => "optimised",
            Tier::Cheap => "cheap",
        };
        format!("{}-{}-{}-{tier}", self.key, self.sum, self.bytes)
    }

    /// What the name of a file says; `None` for any other file, which is none of our business.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut fields = name.split('-');
        let (key, sum, bytes, tier) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let tier = match tier {
            "optimised" => Tier::Optimised,
            "cheap" => Tier::Cheap,
            _ => return None,
        };
        let known = Self { key: key.to_owned(), sum: sum.to_owned(), bytes: bytes.parse().ok()?, tier };
        // Only the one form that is written: `+1` and `01` are numbers too.
        (is_sum(key) && is_sum(sum) && known.file_name() == name).then_some(known)
    }
}

fn is_sum(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Bytes as hexadecimal digits in lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_was_written_into_it() {
        for tier in [Tier::Optimised, Tier::Cheap] {
            let entry = Entry { key: "0a".repeat(32), sum: "f".repeat(64), bytes: 7, tier };
            assert_eq!(Entry::parse(&entry.file_name()), Some(entry));
        }
    }

    #[test]
    fn nothing_else_is_an_artefact() {
        let (key, sum) = ("0".repeat(64), "1".repeat(64));
        for name in [
            "".to_owned(),
            "notes.txt".to_owned(),
            format!("{key}-{sum}-1"),
            format!("{key}-{sum}-1-fast"),
            format!("{key}-{sum}-01-cheap"),
            format!("{key}-{sum}-+1-cheap"),
            format!("{key}-{sum}--cheap"),
            format!("{key}-{sum}-1-cheap-x"),
            format!("{}-{sum}-1-cheap", "A".repeat(64)),
            format!("{key}-{}-1-cheap", &sum[1..]),
            format!("../{key}-{sum}-1-cheap"),
        ] {
            assert_eq!(Entry::parse(&name), None, "{name}");
        }
    }
}

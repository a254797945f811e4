//! What a signer says of a component: its trusted comment, and the text that is signed.
//!
//! minisign signs a file and, together with that signature, one line of comment. The file
//! is the component's digest as one line, so a person can make it with the tools at hand;
//! the line names the plugin and the sequence, so neither can be exchanged.

use std::fmt;

use jiff::Timestamp;
use windlass_core::accepted::SEQUENCE_MAX;
use windlass_core::code::printable;
use windlass_core::name::{Digest, PluginName};

/// First word of a comment that is meant for a host.
const MARK: &str = "windlass";

/// What a signer says, apart from which component it is about.
///
/// As text: `windlass plugin=<name> sequence=<number>`, and in any order after the first
/// word at most one `digest=<sha256:…>` and one `expires=<RFC 3339>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Whose component it is.
    pub plugin: PluginName,
    /// How far the plugin has come, 1 to [`SEQUENCE_MAX`]: a host never goes back.
    pub sequence: u64,
    /// The component, for people; it is the signed text itself that counts.
    pub digest: Option<Digest>,
    /// From then on the component is not accepted any more where it was not before.
    pub expires: Option<Timestamp>,
}

impl Statement {
    /// Reads a trusted comment.
    ///
    /// # Errors
    /// One sentence: what was found, and what is expected.
    pub fn parse(comment: &str) -> Result<Self, String> {
        let mut words = comment.split(' ');
        if words.next() != Some(MARK) {
            return Err(unlike(comment, "its first word is not `windlass`"));
        }
        let (mut plugin, mut sequence, mut digest, mut expires) = (None, None, None, None);
        for word in words {
            let (name, value) =
                word.split_once('=').ok_or_else(|| unlike(comment, "a word without `=`, or two blanks"))?;
            // Whatever is not understood may be a restriction: it is not passed over.
            let fresh = match name {
                "plugin" => set(&mut plugin, PluginName::try_new(value).ok()),
                "sequence" => set(&mut sequence, number(value)),
                "digest" => set(&mut digest, value.parse::<Digest>().ok()),
                "expires" => set(&mut expires, value.parse::<Timestamp>().ok()),
                _ => false,
            };
            if !fresh {
                let why = format!("`{}` is unknown, there twice, or no such value", printable(word, 96));
                return Err(unlike(comment, &why));
            }
        }
        match (plugin, sequence) {
            (Some(plugin), Some(sequence)) => Ok(Self { plugin, sequence, digest, expires }),
            (None, _) => Err(unlike(comment, "`plugin=` is missing")),
            (_, None) => Err(unlike(comment, "`sequence=` is missing")),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK} plugin={} sequence={}", self.plugin, self.sequence)?;
        if let Some(digest) = &self.digest {
            write!(f, " digest={digest}")?;
        }
        if let Some(expires) = &self.expires {
            write!(f, " expires={expires}")?;
        }
        Ok(())
    }
}

/// The file that is signed for a component: its digest and a line feed.
pub fn signed_text(digest: &Digest) -> String {
    format!("{digest}\n")
}

/// Sets what is not set yet, and says whether there is a value now that was not before.
fn set<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    let fresh = slot.is_none() && value.is_some();
    if fresh {
        *slot = value;
    }
    fresh
}

/// Digits alone, without a zero in front, so that each sequence is written in one way.
fn number(text: &str) -> Option<u64> {
    let plain = text.len() <= 15 && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    let number = plain.then(|| text.parse().ok()).flatten()?;
    (1..=SEQUENCE_MAX).contains(&number).then_some(number)
}

fn unlike(comment: &str, why: &str) -> String {
    format!(
        "the trusted comment is {:?}: {why}; expected `windlass plugin=<name> sequence=<number>`, \
         with `digest=` and `expires=` if wanted",
        printable(comment, 200)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_statement_says_each_thing_once_or_is_none() {
        let full = "windlass plugin=webapp sequence=12 digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 expires=2027-01-31T00:00:00Z";
        assert_eq!(Statement::parse(full).map(|s| s.to_string()), Ok(full.to_owned()));
        let other_order = Statement::parse("windlass sequence=999999999999999 plugin=a").expect("any order");
        assert_eq!(other_order.sequence, SEQUENCE_MAX);
        for (bad, says) in [
            ("", "first word"),
            ("timestamp:1763856000\tfile:c.digest\thashed", "first word"),
            ("windlass", "`plugin=` is missing"),
            ("windlass plugin=a", "`sequence=` is missing"),
            ("windlass sequence=1", "`plugin=` is missing"),
            ("windlass plugin=a sequence=0", "`sequence=0`"),
            ("windlass plugin=a sequence=-1", "`sequence=-1`"),
            ("windlass plugin=a sequence=+1", "`sequence=+1`"),
            ("windlass plugin=a sequence=012", "`sequence=012`"),
            ("windlass plugin=a sequence=1000000000000000", "no such value"),
            ("windlass plugin=a sequence=1 sequence=2", "`sequence=2`"),
            ("windlass plugin=A sequence=1", "`plugin=A`"),
            ("windlass plugin=a sequence=1 only-on=mondays", "`only-on=mondays`"),
            ("windlass plugin=a  sequence=1", "two blanks"),
            ("windlass plugin=a sequence=1 ", "two blanks"),
            ("windlass plugin=a\tsequence=1", "no such value"),
            ("windlass plugin=a sequence=1 expires=2027", "`expires=2027`"),
            ("windlass plugin=a sequence=1 digest=sha256:00", "no such value"),
        ] {
            let why = Statement::parse(bad).expect_err(bad);
            assert!(why.contains(says) && why.contains("expected `windlass plugin="), "{bad:?}: {why}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_statement_or_refused_and_no_two_say_the_same_in_one_order(text in ".{0,120}") {
            if let Ok(statement) = Statement::parse(&text) {
                prop_assert_eq!(Statement::parse(&statement.to_string()), Ok(statement));
            }
        }
    }
}

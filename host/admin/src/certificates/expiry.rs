//! When a certificate ends: the one field that a metric needs, read out of its DER.
//!
//! rustls reads it as well and does not tell. Nothing is trusted on the word of this reader.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
/// The version of a certificate, which the first version does not have.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The `notAfter` of an X.509 certificate in seconds of Unix time; nothing for what is no certificate.
pub(super) fn not_after(der: &[u8]) -> Option<i64> {
    let mut certificate = Der(Der(der).of(SEQUENCE)?);
    let mut signed = Der(certificate.of(SEQUENCE)?);
    if signed.0.first() == Some(&VERSION) {
        signed.of(VERSION)?;
    }
    // serialNumber, signature, issuer
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        signed.of(tag)?;
    }
    let mut validity = Der(signed.of(SEQUENCE)?);
    validity.any()?;
    let (tag, text) = validity.any()?;
    seconds(tag, std::str::from_utf8(text).ok()?)
}

/// What is left to read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next value, whatever it is, and its tag. DER has one form of a length: the shortest.
    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next value if it has this tag.
    fn of(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.any().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

/// `YYMMDDHHMMSSZ` until 2049, `YYYYMMDDHHMMSSZ` from then on.
fn seconds(tag: u8, text: &str) -> Option<i64> {
    let (year, rest) = match tag {
        UTC_TIME => {
            let year: i16 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let time = DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0).ok()?;
    (rest.get(10..) == Some("Z")).then_some(())?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn ends(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["x".to_owned()]).expect("a name");
        params.not_after = date_time_ymd(year, month, day);
        let key = KeyPair::generate().expect("randomness");
        params.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms() {
        for (year, seconds) in [(2027, 1_798_761_600), (2049, 2_493_072_000), (2050, 2_524_608_000)] {
            assert_eq!(not_after(&ends(year, 1, 1)), Some(seconds), "{year}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end_whatever_its_lengths_say() {
        let whole = ends(2031, 5, 6);
        for cut in 0..whole.len() {
            // Cut anywhere, it is shorter than its first length says.
            assert_eq!(not_after(&whole[..cut]), None, "{cut}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            // Not a panic, whatever it finds.
            let _ = not_after(&changed);
        }
        assert_eq!(not_after(&[0x30, 0x85, 1, 1, 1, 1, 1]), None);
        assert_eq!(not_after(&[0x30, 0x80, 0, 0]), None);
    }
}

//! `plugin.sig`: a minisign signature as text.
//!
//! Four lines and nothing else: what nobody signed is not let in, the first line aside,
//! which minisign itself calls untrusted and which is never shown or used.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{Error, Signature};
use windlass_core::accepted::KeyId;
use windlass_core::code::{Code, Refusal};

use super::keys::{Key, key_id};

/// Key of the ConfigMap that holds the signature.
pub const SIGNATURE_KEY: &str = "plugin.sig";
/// Longest signature in bytes; one has some 400.
const BYTES_MAX: usize = 4 << 10;

/// A signature that parses; nothing is known of whether it is good.
pub(super) struct SignatureFile {
    pub(super) key: KeyId,
    signature: Signature,
}

impl SignatureFile {
    /// # Errors
    /// What it is instead of a signature.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("{} bytes, a minisign signature has some 400", text.len()));
        }
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() != 4 {
            return Err(format!("{} lines, a minisign signature has 4", lines.len()));
        }
        let signature = Signature::decode(text).map_err(|e| match e {
            Error::UnsupportedAlgorithm => "its algorithm is not Ed25519".to_owned(),
            _ => "it does not decode as a minisign signature".to_owned(),
        })?;
        let bytes = STANDARD.decode(lines[1]).map_err(|e| e.to_string())?;
        let key = key_id(&bytes).ok_or("it is too short for a minisign signature")?;
        Ok(Self { key, signature })
    }

    /// Whether `key` made it for `text`, with this trusted comment.
    pub(super) fn is_by(&self, key: &Key, text: &str) -> Result<(), Error> {
        key.public.verify(text.as_bytes(), &self.signature, false)
    }

    /// The signer's word, once the signature has been found good.
    pub(super) fn trusted_comment(&self) -> &str {
        self.signature.trusted_comment()
    }
}

/// The text of the signature in a ConfigMap's `data` or `binaryData`; `None` when there is none.
/// `kubectl create configmap --from-file` puts it into `data`.
///
/// # Errors
/// E130 when it is in both, or in `binaryData` and no text.
pub fn signature_text(
    data: &BTreeMap<String, String>,
    binary_data: &BTreeMap<String, String>,
) -> Result<Option<String>, Refusal> {
    let wrong = |what: String| Refusal::new(Code::SignatureInvalid, format!("{SIGNATURE_KEY}: {what}"));
    match (data.get(SIGNATURE_KEY), binary_data.get(SIGNATURE_KEY)) {
        (Some(_), Some(_)) => Err(wrong("it is in data and in binaryData: leave one".to_owned())),
        (Some(text), None) => Ok(Some(text.clone())),
        (None, None) => Ok(None),
        (None, Some(encoded)) if encoded.len() > 2 * BYTES_MAX => {
            Err(wrong(format!("{} bytes, a minisign signature has some 400", encoded.len() / 4 * 3)))
        }
        (None, Some(encoded)) => {
            let bytes =
                STANDARD.decode(encoded).map_err(|e| wrong(format!("binaryData is not base64: {e}")))?;
            let text = String::from_utf8(bytes)
                .map_err(|_| wrong("it is no text: a minisign signature is expected".to_owned()))?;
            Ok(Some(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_read_from_either_half_of_a_config_map() {
        let none = BTreeMap::new();
        let plain = BTreeMap::from([(SIGNATURE_KEY.to_owned(), "text".to_owned())]);
        let encoded = BTreeMap::from([(SIGNATURE_KEY.to_owned(), STANDARD.encode("text"))]);
        assert_eq!(signature_text(&none, &none), Ok(None));
        assert_eq!(signature_text(&plain, &none), Ok(Some("text".to_owned())));
        assert_eq!(signature_text(&none, &encoded), Ok(Some("text".to_owned())));
        let no_text = BTreeMap::from([(SIGNATURE_KEY.to_owned(), STANDARD.encode([0xff, 0xfe]))]);
        let long = BTreeMap::from([(SIGNATURE_KEY.to_owned(), "A".repeat(9000))]);
        for (data, binary, says) in [
            (&plain, &encoded, "in data and in binaryData"),
            (&none, &plain, "no text"),
            (&none, &no_text, "no text"),
            (&none, &long, "6750 bytes"),
        ] {
            let refusal = signature_text(data, binary).expect_err(says);
            assert_eq!(refusal.code, Code::SignatureInvalid);
            assert!(refusal.message.contains(says), "{refusal}");
        }
    }

    #[test]
    fn what_is_no_signature_says_what_it_is_instead() {
        for (text, says) in [
            ("", "0 lines"),
            ("a\nb\nc\nd\ne", "5 lines"),
            ("a\nb\nc\nd", "does not decode"),
            (&"x".repeat(5000), "5000 bytes"),
        ] {
            let Err(why) = SignatureFile::parse(text) else { panic!("{text:?} is a signature") };
            assert!(why.contains(says), "{why}");
        }
    }
}

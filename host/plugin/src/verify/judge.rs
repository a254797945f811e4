//! One judgement: may this component run as this plugin? Pure: time is an argument.
//!
//! The order is the one in which each step may believe the one before: the text parses, a
//! trusted key made it for exactly this component, its comment is a statement about this
//! plugin, nothing newer was accepted, nothing is past its date.

use jiff::Timestamp;
use minisign_verify::Error;
use windlass_core::accepted::{Accepted, AcceptedVersion, KeyId, Standing};
use windlass_core::code::{Code, Refusal, printable};
use windlass_core::name::{Digest, PluginName};

use super::file::SignatureFile;
use super::keys::{Key, Keys};
use super::statement::{Statement, signed_text};
use crate::source::Source;

/// A component as it is offered, before anything in it has been parsed.
#[derive(Clone, Copy, Debug)]
pub struct Offered<'a> {
    /// The plugin's name, from the ConfigMap's label.
    pub plugin: &'a PluginName,
    /// sha256 of the whole component, unpacked.
    pub digest: &'a Digest,
    /// The text of `plugin.sig`, if there is one.
    pub signature: Option<&'a str>,
}

impl<'a> From<&'a Source> for Offered<'a> {
    fn from(source: &'a Source) -> Self {
        Self { plugin: &source.plugin, digest: &source.digest, signature: source.signature.as_deref() }
    }
}

/// A component for which a trusted key vouches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What the signer said.
    pub statement: Statement,
    /// The component.
    pub digest: Digest,
    /// The key.
    pub key: KeyId,
    /// Whether it goes beyond what was accepted before: once it serves, that is to be recorded.
    pub newer: bool,
}

impl Verified {
    /// How it is recorded as accepted at `now`.
    pub fn version(&self, now: Timestamp) -> AcceptedVersion {
        AcceptedVersion {
            sequence: self.statement.sequence,
            digest: self.digest.clone(),
            key: self.key,
            since: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// Judges one offer.
///
/// Dates are compared with `now`, the wall clock's time, and only for what has not been
/// accepted before: a date that passes, or a clock that jumps, never takes away a version
/// that has served. Removing its key does.
///
/// # Errors
/// E130 no signature, or not a good one of this component for this plugin; E131 the key is
/// not trusted, or not for this plugin; E132 it is a good signature of another component;
/// E133 key or signature is past its date; E134 something newer was accepted before.
pub fn judge(
    offered: Offered<'_>,
    keys: &Keys,
    accepted: &Accepted,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let text = offered.signature.ok_or_else(|| unsigned(offered))?;
    let file =
        SignatureFile::parse(text).map_err(|why| invalid(&format!("plugin.sig is no signature: {why}")))?;
    let key = signer(&file, offered, keys)?;
    let statement = Statement::parse(file.trusted_comment()).map_err(|why| invalid(&why))?;
    about(&statement, key, offered)?;
    let newer = not_behind(&statement, offered, accepted)?;
    if newer {
        in_time(&statement, key, now)?;
    }
    Ok(Verified { statement, digest: offered.digest.clone(), key: key.id, newer })
}

fn unsigned(offered: Offered<'_>) -> Refusal {
    invalid(&format!(
        "there is no key plugin.sig, and this host demands signatures: sign component {} \
         (kubectl windlass package --sign, or minisign over its digest) and put the signature beside it",
        offered.digest.short()
    ))
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(Code::SignatureInvalid, message)
}

/// The trusted key that made the signature for this component.
fn signer<'k>(file: &SignatureFile, offered: Offered<'_>, keys: &'k Keys) -> Result<&'k Key, Refusal> {
    let mut failed = None;
    for key in keys.named(file.key) {
        match made_for(file, key, offered.digest) {
            Ok(()) => return Ok(key),
            Err(Error::UnexpectedAlgorithm) => {
                return Err(invalid(
                    "the signature is of the old kind, over the plain text: sign without -l",
                ));
            }
            Err(_) => failed = Some(key),
        }
    }
    let Some(key) = failed else {
        return Err(Refusal::new(
            Code::UnknownKey,
            format!(
                "the signature was made with key {}, trusted are {}: sign with one of them, or have this one added",
                file.key,
                keys.names()
            ),
        ));
    };
    Err(of_another(file, key, offered).unwrap_or_else(|| {
        invalid(&format!(
            "the signature is not good for component {} under key {}: it was made for another text, or \
             signature or comment were changed; sign exactly `{}` and a line feed",
            offered.digest.short(),
            key.id,
            offered.digest
        ))
    }))
}

/// With the line feed at its end or without.
fn made_for(file: &SignatureFile, key: &Key, digest: &Digest) -> Result<(), Error> {
    file.is_by(key, &signed_text(digest)).or_else(|_| file.is_by(key, digest.as_str()))
}

/// E132 when it is a good signature of the component that its own comment names.
fn of_another(file: &SignatureFile, key: &Key, offered: Offered<'_>) -> Option<Refusal> {
    let other = Statement::parse(file.trusted_comment()).ok()?.digest?;
    made_for(file, key, &other).ok()?;
    Some(Refusal::new(
        Code::DigestMismatch,
        format!(
            "the signature is of component {}, the ConfigMap holds {}: put the two that belong together",
            other.short(),
            offered.digest.short()
        ),
    ))
}

fn about(statement: &Statement, key: &Key, offered: Offered<'_>) -> Result<(), Refusal> {
    if statement.plugin != *offered.plugin {
        return Err(invalid(&format!(
            "the signature is for the plugin {}, the ConfigMap's label says {}",
            statement.plugin, offered.plugin
        )));
    }
    if let Some(digest) = statement.digest.as_ref().filter(|digest| *digest != offered.digest) {
        return Err(Refusal::new(
            Code::DigestMismatch,
            format!(
                "the signature's comment says component {}, its text is {}: sign again with one of them in both",
                digest.short(),
                offered.digest.short()
            ),
        ));
    }
    if !key.is_for(offered.plugin) {
        return Err(Refusal::new(
            Code::UnknownKey,
            format!(
                "key {} ({}) is not trusted for the plugin {}",
                key.id,
                printable(&key.file, 64),
                offered.plugin
            ),
        ));
    }
    Ok(())
}

/// Whether it goes beyond what was accepted.
fn not_behind(statement: &Statement, offered: Offered<'_>, accepted: &Accepted) -> Result<bool, Refusal> {
    let sequence = statement.sequence;
    let refused = |message: String| Err(Refusal::new(Code::Downgrade, message));
    match accepted.standing(offered.plugin, sequence, offered.digest) {
        Standing::Newer => Ok(true),
        Standing::Same => Ok(false),
        Standing::Behind(known) => refused(format!(
            "sequence {sequence} < accepted {} (component {}): sign it anew with a higher sequence, or have \
             the key {} removed from the Secret windlass-accepted",
            known.sequence,
            known.digest.short(),
            offered.plugin
        )),
        Standing::Taken(known) => refused(format!(
            "sequence {sequence} was accepted for component {}, this one is {}: a sequence belongs to one \
             component, sign with a higher one",
            known.digest.short(),
            offered.digest.short()
        )),
    }
}

fn in_time(statement: &Statement, key: &Key, now: Timestamp) -> Result<(), Refusal> {
    let expired = |message: String| Err(Refusal::new(Code::KeyExpired, message));
    if let Some(date) = key.not_after.filter(|date| now >= *date) {
        return expired(format!(
            "key {} ({}) vouches for nothing new after {date}, and it is {}: sign with a newer key",
            key.id,
            printable(&key.file, 64),
            seconds(now)
        ));
    }
    if let Some(date) = statement.expires.filter(|date| now >= *date) {
        return expired(format!(
            "the signature was good until {date}, and it is {}: sign again",
            seconds(now)
        ));
    }
    Ok(())
}

fn seconds(now: Timestamp) -> impl std::fmt::Display {
    now.strftime("%Y-%m-%dT%H:%M:%SZ")
}

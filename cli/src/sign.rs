//! `--sign <key>`: a signature beside the component, as the
//! command `minisign` would make it.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use minisign::{PublicKey, SecretKey, SecretKeyBox};
use windlass_core::accepted::SEQUENCE_MAX;
use windlass_core::name::{Digest, PluginName};
use windlass_plugin::verify::{Statement, signed_text};

/// Holds the password of the secret key where nobody can be asked for it.
const PASSWORD: &str = "WINDLASS_SIGNING_PASSWORD";

/// With which key, and what the signature says.
#[derive(Clone, Debug, clap::Args)]
pub struct Sign {
    /// Sign the component with this minisign secret key; see docs/signing.md. The password is
    /// asked for, or taken from WINDLASS_SIGNING_PASSWORD.
    #[arg(long, value_name = "SECRET KEY")]
    sign: Option<PathBuf>,
    /// How far the plugin has come: a host never goes back. Default: seconds since 1970.
    #[arg(long, requires = "sign", value_parser = clap::value_parser!(u64).range(1..=SEQUENCE_MAX))]
    sequence: Option<u64>,
    /// A host that has not accepted this version by then never will, such as 2027-01-31T00:00:00Z.
    #[arg(long, requires = "sign", value_name = "TIME")]
    expires: Option<Timestamp>,
}

impl Sign {
    /// The text of `plugin.sig` for this component; `None` when nothing is to be signed.
    ///
    /// # Errors
    /// When the key cannot be read or unlocked.
    pub fn signature(&self, plugin: &PluginName, digest: &Digest) -> Result<Option<String>> {
        let Some(path) = &self.sign else {
            return Ok(None);
        };
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let password = std::env::var(PASSWORD).ok();
        let key = unlock(&text, password).with_context(|| format!("use {}", path.display()))?;
        let sequence = match self.sequence {
            Some(sequence) => sequence,
            None => u64::try_from(Timestamp::now().as_second()).context("the clock is before 1970")?,
        };
        let statement = Statement {
            plugin: plugin.clone(),
            sequence,
            digest: Some(digest.clone()),
            expires: self.expires,
        };
        sign(&key, digest, &statement).map(Some)
    }
}

/// The secret key in `text`; one without a password needs none.
fn unlock(text: &str, password: Option<String>) -> Result<SecretKey> {
    let line = text.lines().nth(1).context("not a minisign secret key: it has two lines")?;
    let bytes = STANDARD.decode(line.trim()).context("not a minisign secret key: no base64")?;
    // Read as bytes: minisign leaves out the checksum of a key that has no password.
    let key = SecretKey::from_bytes(&bytes).context("not a minisign secret key")?;
    if !key.is_encrypted() {
        return Ok(key);
    }
    let locked = SecretKeyBox::from_string(text).context("not a minisign secret key")?;
    SecretKey::from_box(locked, password).context("unlock the secret key")
}

fn sign(key: &SecretKey, digest: &Digest, statement: &Statement) -> Result<String> {
    let public = PublicKey::from_secret_key(key).context("the secret key holds no public key")?;
    let comment = statement.to_string();
    let text = Cursor::new(signed_text(digest).into_bytes());
    let made = minisign::sign(Some(&public), key, text, Some(&comment), None).context("sign")?;
    let made = made.into_string();
    ensure!(made.lines().count() == 4, "minisign made something else than a signature");
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use minisign::KeyPair;
    use windlass_core::accepted::Accepted;
    use windlass_plugin::verify::{Keys, Offered, judge};

    #[test]
    fn what_is_signed_here_is_verified_by_the_host() {
        let folder = tempfile::tempdir().expect("a folder");
        let pair = KeyPair::generate_unencrypted_keypair().expect("randomness");
        let path = folder.path().join("release.key");
        let secret = pair.sk.to_box(None).expect("a text").into_string();
        fs::write(&path, secret).expect("written");
        let (plugin, digest) = (PluginName::try_new("webapp").expect("valid"), Digest::of(b"a component"));
        let signing = Sign { sign: Some(path), sequence: None, expires: None };
        let signature = signing.signature(&plugin, &digest).expect("it signs").expect("a signature");
        let keys = Keys::parse(Path::new("release.pub"), &pair.pk.to_base64()).expect("a key");
        let offered = Offered { plugin: &plugin, digest: &digest, signature: Some(&signature) };
        let verified = judge(offered, &keys, &Accepted::default(), Timestamp::now()).expect("good");
        assert_eq!(verified.statement.digest, Some(digest.clone()));
        assert!(verified.statement.sequence > 1_700_000_000);
        let nothing = Sign { sign: None, sequence: None, expires: None };
        assert_eq!(nothing.signature(&plugin, &digest).expect("nothing to do"), None);
    }

    #[test]
    fn a_key_of_the_stock_command_signs_and_what_is_none_is_said() {
        // minisign 0.11: minisign -G -W, a throwaway.
        let stock = "untrusted comment: throwaway key of a test
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAv+nJsKYkNaRHOkbWTHafNq0ofv/gps19SDDXYF/5m91YhMHOwUR4BnPAassyTb3Gl97LZY1vzOViYIWgQMhVeRc2GD0XQqTZAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
";
        let key = unlock(stock, None).expect("no password");
        let public = PublicKey::from_secret_key(&key).expect("its other half");
        assert_eq!(public.to_base64(), "RWS/6cmwpiQ1pHPAassyTb3Gl97LZY1vzOViYIWgQMhVeRc2GD0XQqTZ");
        for bad in ["", "hello", "untrusted comment: x\nhello", "untrusted comment: x\nRWQAAEIy"] {
            let error = unlock(bad, None).map(drop).expect_err(bad).to_string();
            assert!(error.starts_with("not a minisign secret key"), "{error}");
        }
    }
}

//! Signatures: may this component run as this plugin?
//!
//! Asked after the bytes have been unpacked within their bounds and hashed, and before
//! anything in them is parsed. A signature is minisign's, detached, over the component's
//! digest; its trusted comment names plugin and sequence. See `docs/signing.md`.
//!
//! | file | what |
//! |---|---|
//! | `keys` | the trusted keys, from files |
//! | `file` | the signature's text |
//! | `statement` | what the signer says |
//! | `judge` | the judgement, pure |
//!
//! What is absent: who keeps what was accepted. This module is told, and says what is new.

mod file;
mod judge;
mod keys;
mod statement;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use windlass_core::accepted::{Accepted, Standing};
use windlass_core::code::Refusal;

pub use file::{SIGNATURE_KEY, signature_text};
pub use judge::{Offered, Verified, judge};
pub use keys::{KEYS_MAX, Key, Keys, KeysError};
pub use statement::{Statement, signed_text};

/// What a missing or bad signature means; `--plugin-signatures`. Off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The plugin is refused.
    Enforce,
    /// The plugin serves, and its state says what is wrong.
    Warn,
    /// Nobody looks.
    #[default]
    Off,
}

impl Mode {
    /// The flag's value, and a label value for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Warn => "warn",
            Mode::Off => "off",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Mode::Enforce, Mode::Warn, Mode::Off]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| "enforce, warn or off is expected".to_owned())
    }
}

/// Why signatures cannot be judged as the flags demand.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// A mode that needs keys, and none were named.
    #[error("--plugin-signatures={0} needs --plugin-keys, a file or folder of minisign public keys")]
    NoPath(&'static str),
    /// Nothing could ever be accepted.
    #[error("--plugin-signatures=enforce, and there is no key at {0}: every plugin would be refused")]
    NoKeys(PathBuf),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// What was found of an offer that may be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nobody looked.
    Unasked,
    /// A trusted key vouches for it.
    Verified(Verified),
    /// It would be refused, and signatures are only warned of.
    Doubted(Refusal),
}

impl Trust {
    /// A label value for metrics: `unasked`, `verified` or `doubted`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Trust::Unasked => "unasked",
            Trust::Verified(_) => "verified",
            Trust::Doubted(_) => "doubted",
        }
    }

    /// What the plugin's state should say of it: `None` when all is well.
    pub fn warning(&self) -> Option<String> {
        match self {
            Trust::Doubted(refusal) => Some(format!("not verified, and let in all the same: {refusal}")),
            Trust::Unasked | Trust::Verified(_) => None,
        }
    }
}

#[derive(Default)]
struct Known {
    keys: Arc<Keys>,
    /// As last read from where it is kept.
    accepted: Accepted,
    /// Accepted here, and not known to be kept yet.
    pending: Accepted,
}

/// Judges offers, with the keys as they are now and all that is known of what was accepted.
/// One a process; shared.
pub struct Verifier {
    mode: Mode,
    path: Option<PathBuf>,
    known: RwLock<Known>,
}

impl Verifier {
    /// A verifier in `mode` with the keys at `path`, which are read here for the first time.
    ///
    /// # Errors
    /// [`VerifierError`]: flags or files that cannot work.
    pub fn new(mode: Mode, path: Option<&Path>) -> Result<Self, VerifierError> {
        let keys = match (mode, path) {
            (Mode::Off, _) => Keys::default(),
            (mode, None) => return Err(VerifierError::NoPath(mode.as_str())),
            (mode, Some(path)) => {
                let keys = Keys::read(path)?;
                if mode == Mode::Enforce && keys.is_empty() {
                    return Err(VerifierError::NoKeys(path.to_owned()));
                }
                keys
            }
        };
        let known = Known { keys: Arc::new(keys), ..Known::default() };
        Ok(Self { mode, path: path.map(Path::to_owned), known: RwLock::new(known) })
    }

    /// How strict it is.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The keys as last read.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.read().keys)
    }

    /// Reads the keys again; `true` when they have changed: then everything that serves is to be
    /// judged again, because a key that was removed vouches for nothing any more. Blocks for
    /// a few small files; every ten seconds is often enough.
    ///
    /// # Errors
    /// [`KeysError`]: the keys stay as they were until somebody mends it.
    pub fn refresh_keys(&self) -> Result<bool, KeysError> {
        let (Some(path), true) = (&self.path, self.mode != Mode::Off) else {
            return Ok(false);
        };
        let keys = Keys::read(path)?;
        let mut known = self.write();
        let changed = *known.keys != keys;
        if changed {
            known.keys = Arc::new(keys);
        }
        Ok(changed)
    }

    /// May this be loaded? Takes some hundred microseconds.
    ///
    /// # Errors
    /// As [`judge`], when signatures are enforced. None passes by itself.
    pub fn verify(&self, offered: Offered<'_>, now: Timestamp) -> Result<Trust, Refusal> {
        if self.mode == Mode::Off {
            return Ok(Trust::Unasked);
        }
        let (keys, accepted) = {
            let known = self.read();
            let mut accepted = known.accepted.clone();
            for (plugin, version) in known.pending.iter() {
                accepted.raise(plugin, version.clone());
            }
            (Arc::clone(&known.keys), accepted)
        };
        match judge(offered, &keys, &accepted, now) {
            Ok(verified) => Ok(Trust::Verified(verified)),
            Err(refusal) if self.mode == Mode::Warn => Ok(Trust::Doubted(refusal)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Remembers that a verified version serves now; until it is known to be kept, it is
    /// [`pending`](Self::pending).
    pub fn served(&self, verified: &Verified, now: Timestamp) {
        let mut known = self.write();
        let plugin = &verified.statement.plugin;
        let version = verified.version(now);
        if known.accepted.standing(plugin, version.sequence, &version.digest) == Standing::Newer {
            known.pending.raise(plugin, version);
        }
    }

    /// Takes over what is kept, as just read or written. It replaces what was known: a
    /// person may have taken something back.
    pub fn learn(&self, accepted: Accepted) {
        let mut known = self.write();
        known.pending.forget_what_is_in(&accepted);
        known.accepted = accepted;
    }

    /// What has been accepted here and is not known to be kept: the leader's to write.
    pub fn pending(&self) -> Accepted {
        self.read().pending.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

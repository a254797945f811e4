//! What was said of each plugin's signature, and what follows when keys come or go or when
//! more is known of what was accepted. Pure: who verifies is an argument.

use std::sync::Arc;

use windlass_core::code::{Code, Refusal};
use windlass_core::name::Digest;
use windlass_plugin::verify::{Keys, Trust};

/// What came of one judgement.
pub(super) type Said = Result<Trust, Refusal>;

/// Which version of a plugin is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// What its ConfigMap offers.
    Offered,
    /// The copy of what served last, which the host has kept.
    LastGood,
}

/// What follows for a plugin when it is judged once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// No trusted key vouches any more for what serves: it has to stop.
    Revoked(Refusal),
    /// Something else is to be said now of what is offered: it has to be looked at again.
    Anew,
}

/// One judgement, and what it was about.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) digest: Digest,
    pub(super) signature: Option<Arc<str>>,
    /// The keys as they were.
    pub(super) keys: Arc<Keys>,
    pub(super) said: Said,
}

/// The judgements that count for one plugin.
#[derive(Debug, Default)]
pub(super) struct Judgements {
    pub(super) offered: Option<Judged>,
    pub(super) last_good: Option<Judged>,
    pub(super) serving: Option<Judged>,
}

impl Judged {
    /// Whether it may come out better one day without a change of the ConfigMap.
    fn is_open(&self) -> bool {
        fault(&self.said).is_some()
    }
}

impl Judgements {
    pub(super) fn judged(&mut self, which: Which, judged: Judged) {
        match which {
            Which::Offered => self.offered = Some(judged),
            Which::LastGood => self.last_good = Some(judged),
        }
    }

    /// This component serves now. A version that was only judged never takes the place of the
    /// one that serves: it may be refused for another reason, or still be compiling.
    pub(super) fn serves(&mut self, digest: &Digest) -> Option<&Judged> {
        for slot in [&mut self.offered, &mut self.last_good] {
            if slot.as_ref().is_some_and(|judged| judged.digest == *digest && judged.said.is_ok()) {
                self.serving = slot.take();
                return self.serving.as_ref();
            }
        }
        None
    }

    /// Judges once more whatever may come out differently than it did, under `keys`.
    pub(super) fn again(&mut self, keys: &Arc<Keys>, verify: impl Fn(&Judged) -> Said) -> Option<Turn> {
        if let Some(turn) = self.serving_again(keys, &verify) {
            return Some(turn);
        }
        let mut anew = false;
        for slot in [&mut self.offered, &mut self.last_good] {
            let differs = |was: &Judged| was.is_open() && fault(&verify(was)) != fault(&was.said);
            if slot.as_ref().is_some_and(differs) {
                // Said once: the next look judges it.
                *slot = None;
                anew = true;
            }
        }
        anew.then_some(Turn::Anew)
    }

    fn serving_again(&mut self, keys: &Arc<Keys>, verify: impl Fn(&Judged) -> Said) -> Option<Turn> {
        let serving = self.serving.as_mut()?;
        if Arc::ptr_eq(&serving.keys, keys) && !serving.is_open() {
            return None;
        }
        let said = verify(serving);
        serving.keys = Arc::clone(keys);
        match said {
            Err(refusal) if is_of_keys(refusal.code) => {
                self.serving = None;
                Some(Turn::Revoked(refusal))
            }
            // Neither a date nor a newer version takes away what serves.
            Err(_) => None,
            Ok(trust) => {
                let before = fault(&serving.said);
                serving.said = Ok(trust);
                (fault(&serving.said) != before).then_some(Turn::Anew)
            }
        }
    }
}

/// The rule that was broken, whatever followed from it.
fn fault(said: &Said) -> Option<Code> {
    match said {
        Ok(Trust::Verified(_) | Trust::Unasked) => None,
        Ok(Trust::Doubted(refusal)) | Err(refusal) => Some(refusal.code),
    }
}

/// Whether nobody vouches for it, rather than that something newer is there or a date has passed.
fn is_of_keys(code: Code) -> bool {
    matches!(code, Code::SignatureInvalid | Code::UnknownKey)
}

//! What the API server has said about tokens, for a short time and within bounds.
//!
//! Somebody and what they may: 60 s, for 64 tokens with 16 paths each. Nobody, and what somebody may not: 10 s, so that
//! a right that is given is felt soon; 256 tokens that are nobody's, in a table of their own, so that whoever sends made-up
//! tokens pushes out nobody who is known. A right that is taken away is felt after 60 s at the latest.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::guard::User;

/// For how long it is remembered who somebody is and what they may.
const YES_FOR: Duration = Duration::from_secs(60);
/// For how long it is remembered what they may not, and that a token is nobody's.
const NO_FOR: Duration = Duration::from_secs(10);
/// Tokens of somebody.
const SOMEBODY_MAX: usize = 64;
/// Paths of one token.
const PATHS_MAX: usize = 16;
/// Bytes of a path that is remembered; no path of ours has more than 32.
const PATH_MAX_BYTES: usize = 256;
/// Tokens of nobody.
const NOBODY_MAX: usize = 256;

/// The SHA-256 of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mark([u8; 32]);

impl Mark {
    pub(crate) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// What is known of a token and a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
    Nobody,
}

/// All that is remembered.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    somebody: HashMap<Mark, Somebody>,
    nobody: HashMap<Mark, Instant>,
}

#[derive(Debug)]
struct Somebody {
    user: Arc<User>,
    until: Instant,
    paths: HashMap<Box<str>, (bool, Instant)>,
}

impl Verdicts {
    /// What is known, if it is.
    pub(crate) fn of(&self, mark: &Mark, path: &str, now: Instant) -> Option<Verdict> {
        if self.nobody.get(mark).is_some_and(|until| now < *until) {
            return Some(Verdict::Nobody);
        }
        let known = self.somebody.get(mark).filter(|known| now < known.until)?;
        let (may, _) = known.paths.get(path).filter(|(_, until)| now < *until)?;
        Some(if *may { Verdict::Allowed } else { Verdict::Denied })
    }

    /// Whose token it is, if that is known.
    pub(crate) fn user(&self, mark: &Mark, now: Instant) -> Option<Arc<User>> {
        let known = self.somebody.get(mark).filter(|known| now < known.until)?;
        Some(known.user.clone())
    }

    /// The API server was asked at `asked` and knows this user.
    pub(crate) fn is_somebody(&mut self, mark: &Mark, user: Arc<User>, asked: Instant) {
        self.nobody.remove(mark);
        make_room(&mut self.somebody, SOMEBODY_MAX, asked, |known| known.until);
        let known = Somebody { user, until: asked + YES_FOR, paths: HashMap::new() };
        self.somebody.insert(*mark, known);
    }

    /// The API server was asked at `asked` and knows nobody with this token.
    pub(crate) fn is_nobody(&mut self, mark: &Mark, asked: Instant) {
        self.somebody.remove(mark);
        make_room(&mut self.nobody, NOBODY_MAX, asked, |until| *until);
        self.nobody.insert(*mark, asked + NO_FOR);
    }

    /// The API server was asked at `asked` whether this somebody may get `path`.
    pub(crate) fn may(&mut self, mark: &Mark, path: &str, may: bool, asked: Instant) {
        let Some(known) = self.somebody.get_mut(mark).filter(|_| path.len() <= PATH_MAX_BYTES) else {
            return;
        };
        make_room(&mut known.paths, PATHS_MAX, asked, |(_, until)| *until);
        let until = asked + if may { YES_FOR } else { NO_FOR };
        known.paths.insert(path.into(), (may, until));
    }
}

/// Makes room for one more: what has ended goes, and if that is not enough what would end first.
fn make_room<K: Clone + Eq + Hash, V>(
    all: &mut HashMap<K, V>,
    most: usize,
    now: Instant,
    until: impl Fn(&V) -> Instant,
) {
    if all.len() < most {
        return;
    }
    all.retain(|_, value| now < until(value));
    while all.len() >= most {
        let first = all.iter().min_by_key(|(_, value)| until(value)).map(|(key, _)| key.clone());
        let Some(first) = first else { return };
        all.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_yes_lives_for_a_minute_and_a_no_for_ten_seconds() {
        let (mut verdicts, began) = (Verdicts::default(), Instant::now());
        let (scraper, stranger) = (Mark::of("scraper"), Mark::of("stranger"));
        verdicts.is_somebody(&scraper, Arc::default(), began);
        verdicts.may(&scraper, "/metrics", true, began);
        verdicts.may(&scraper, "/debug/queue", false, began);
        verdicts.is_nobody(&stranger, began);
        let at = |seconds: u32| {
            let now = began + SECOND * seconds;
            [(&scraper, "/metrics"), (&scraper, "/debug/queue"), (&stranger, "/metrics")]
                .map(|(mark, path)| verdicts.of(mark, path, now))
        };
        assert_eq!(at(9), [Some(Verdict::Allowed), Some(Verdict::Denied), Some(Verdict::Nobody)]);
        assert_eq!(at(10), [Some(Verdict::Allowed), None, None]);
        assert_eq!(at(59)[0], Some(Verdict::Allowed));
        assert_eq!(at(60)[0], None);
        assert_eq!(verdicts.user(&scraper, began + SECOND * 60), None);
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_tokens_push_out_nobody_who_is_known_and_take_bounded_room() {
        let (mut verdicts, began) = (Verdicts::default(), Instant::now());
        let scraper = Mark::of("scraper");
        verdicts.is_somebody(&scraper, Arc::default(), began);
        verdicts.may(&scraper, "/metrics", true, began);
        for number in 0..10_000 {
            verdicts.is_nobody(&Mark::of(&format!("made up {number}")), began);
        }
        assert_eq!(verdicts.nobody.len(), NOBODY_MAX);
        assert_eq!(verdicts.of(&scraper, "/metrics", began), Some(Verdict::Allowed));
        for number in 0..1_000_u32 {
            let later = began + Duration::from_millis(number.into());
            verdicts.is_somebody(&Mark::of(&format!("known {number}")), Arc::default(), later);
            verdicts.may(&Mark::of("known 0"), &format!("/debug/{number}"), false, later);
        }
        assert_eq!(verdicts.somebody.len(), SOMEBODY_MAX);
        assert!(verdicts.somebody.values().all(|known| known.paths.len() <= PATHS_MAX));
        let last = verdicts.user(&Mark::of("known 999"), began + SECOND);
        assert!(last.is_some(), "what would end first goes first");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_nobodys_any_more_is_forgotten_as_somebodys() {
        let (mut verdicts, began) = (Verdicts::default(), Instant::now());
        let mark = Mark::of("t");
        verdicts.is_somebody(&mark, Arc::default(), began);
        verdicts.may(&mark, "/metrics", true, began);
        verdicts.is_nobody(&mark, began);
        assert_eq!(verdicts.of(&mark, "/metrics", began), Some(Verdict::Nobody));
        assert_eq!(verdicts.of(&mark, "/metrics", began + SECOND * 11), None);
        verdicts.may(&mark, "/metrics", true, began);
        assert_eq!(verdicts.of(&mark, "/metrics", began + SECOND * 11), None, "of nobody nothing is kept");
    }
}

//! What follows when keys and acceptance change, without an API server.

use std::io::Cursor;

use minisign::KeyPair;
use tempfile::TempDir;
use windlass_core::breaker::Rules;
use windlass_core::limits::Limits;
use windlass_plugin::verify::signed_text;

use super::*;

/// A host that enforces, or warns, and the folder of its keys.
struct Desk {
    trusts: Trusts,
    keys: TempDir,
}

impl Desk {
    fn new(mode: Mode, trusted: &[(&str, &KeyPair)]) -> Self {
        let keys = tempfile::tempdir().expect("a folder");
        for (file, pair) in trusted {
            std::fs::write(keys.path().join(file), pair.pk.to_base64()).expect("written");
        }
        let verifier = Verifier::new(mode, Some(keys.path())).expect("keys");
        let observed = Arc::new(Observed::new(tokio::sync::mpsc::channel(1).0, Rules::default()));
        Self { trusts: Trusts::new(verifier, observed), keys }
    }

    fn add(&self, file: &str, text: &str) {
        std::fs::write(self.keys.path().join(file), text).expect("written");
    }

    fn remove(&self, file: &str) {
        std::fs::remove_file(self.keys.path().join(file)).expect("it was there");
    }

    /// What follows once the keys have been read again.
    fn look(&self) -> Vec<Turn> {
        self.trusts.read_keys();
        self.trusts.judge_again().into_iter().map(|(_, turn)| turn).collect()
    }

    fn offer(&self, source: &Source) -> Option<Code> {
        self.trusts.judge(source, Which::Offered).err().map(|refusal| refusal.code)
    }

    fn serve(&self, source: &Source) {
        assert_eq!(self.offer(source), None);
        self.trusts.served(&source.plugin, &source.digest);
    }
}

fn pair() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().expect("randomness")
}

fn name() -> PluginName {
    PluginName::try_new("p").expect("valid")
}

fn source(component: &[u8], signature: Option<String>) -> Source {
    Source {
        plugin: name(),
        config_map: "sys/p".to_owned(),
        key: "plugin.wasm",
        component: component.into(),
        digest: Digest::of(component),
        settings: None,
        limits: Limits::default(),
        signature: signature.map(Into::into),
    }
}

fn signed(component: &[u8], pair: &KeyPair, sequence: u64) -> Source {
    let text = Cursor::new(signed_text(&Digest::of(component)).into_bytes());
    let comment = format!("windlass plugin=p sequence={sequence}");
    let made = minisign::sign(Some(&pair.pk), &pair.sk, text, Some(&comment), Some("anything"));
    source(component, Some(made.expect("it signs").into_string()))
}

#[test]
fn a_version_that_is_only_offered_does_not_hide_the_one_that_serves_from_its_revocation() {
    let (old, new) = (pair(), pair());
    let desk = Desk::new(Mode::Enforce, &[("old.pub", &old), ("new.pub", &new)]);
    desk.serve(&signed(b"v1", &old, 1));
    assert_eq!(desk.offer(&signed(b"v2, which does not compile", &new, 2)), None);
    desk.remove("old.pub");
    let turns = desk.look();
    assert!(matches!(&turns[..], [Turn::Revoked(refusal)] if refusal.code == Code::UnknownKey), "{turns:?}");
    assert!(desk.look().is_empty(), "said once");
}

#[test]
fn what_was_judged_under_keys_that_have_changed_since_is_judged_when_it_serves() {
    let (old, new) = (pair(), pair());
    let desk = Desk::new(Mode::Enforce, &[("old.pub", &old), ("new.pub", &new)]);
    let version = signed(b"v1", &old, 1);
    assert_eq!(desk.offer(&version), None);
    desk.remove("old.pub");
    assert!(desk.look().is_empty(), "it does not serve yet");
    desk.trusts.served(&version.plugin, &version.digest);
    assert!(matches!(&desk.look()[..], [Turn::Revoked(_)]));
}

#[test]
fn a_key_that_comes_lets_in_what_was_refused_for_want_of_it() {
    let (known, late) = (pair(), pair());
    let desk = Desk::new(Mode::Enforce, &[("known.pub", &known)]);
    desk.serve(&signed(b"v1", &known, 1));
    let version = signed(b"v2", &late, 2);
    assert_eq!(desk.offer(&version), Some(Code::UnknownKey));
    assert!(desk.look().is_empty());
    desk.add("late.pub", &late.pk.to_base64());
    assert_eq!(desk.look(), [Turn::Anew], "and what serves goes on until then");
    assert_eq!(desk.offer(&version), None);
    assert!(desk.look().is_empty());
}

#[test]
fn a_person_who_takes_a_sequence_back_lets_the_older_version_in() {
    let key = pair();
    let desk = Desk::new(Mode::Enforce, &[("key.pub", &key)]);
    desk.serve(&signed(b"v2", &key, 2));
    assert_eq!(desk.offer(&signed(b"v1", &key, 1)), Some(Code::Downgrade));
    let recorded = desk.trusts.verifier.pending();
    assert!(desk.trusts.is_known(recorded));
    assert!(desk.look().is_empty());
    assert!(desk.trusts.is_known(Accepted::default()));
    assert_eq!(desk.look(), [Turn::Anew]);
}

#[test]
fn a_newer_version_elsewhere_does_not_take_away_what_serves_here() {
    let (key, other) = (pair(), pair());
    let desk = Desk::new(Mode::Enforce, &[("key.pub", &key), ("other.pub", &other)]);
    desk.serve(&signed(b"v1", &key, 1));
    let elsewhere = Desk::new(Mode::Enforce, &[("key.pub", &key)]);
    elsewhere.serve(&signed(b"v2", &key, 2));
    assert!(desk.trusts.is_known(elsewhere.trusts.verifier.pending()));
    desk.remove("other.pub");
    assert!(desk.look().is_empty());
    desk.remove("key.pub");
    assert!(matches!(&desk.look()[..], [Turn::Revoked(_)]));
}

#[test]
fn a_file_that_is_no_key_changes_nothing_and_is_shown() {
    let key = pair();
    let desk = Desk::new(Mode::Enforce, &[("key.pub", &key)]);
    desk.serve(&signed(b"v1", &key, 1));
    desk.add("worse.pub", "nonsense");
    desk.remove("key.pub");
    assert!(desk.look().is_empty());
    let view = desk.trusts.view();
    assert!(view.problems[0].contains("worse.pub line 1: not a minisign public key"), "{view:?}");
    assert_eq!(view.keys.len(), 1, "the one that was there before");
    desk.remove("worse.pub");
    assert!(matches!(&desk.look()[..], [Turn::Revoked(_)]));
    assert!(desk.trusts.view().problems.is_empty());
}

#[test]
fn a_plugin_that_is_warned_of_is_looked_at_again_when_there_is_something_else_to_say() {
    let key = pair();
    let desk = Desk::new(Mode::Warn, &[("key.pub", &key)]);
    desk.serve(&signed(b"v1", &key, 1));
    desk.remove("key.pub");
    assert_eq!(desk.look(), [Turn::Anew], "never revoked");
    assert!(desk.look().is_empty(), "said once");
    desk.add("key.pub", &key.pk.to_base64());
    assert_eq!(desk.look(), [Turn::Anew]);
}

fn trouble(class: Class) -> ApplyError {
    ApplyError { class, refusal: None, message: "there is none".to_owned(), retry_after: None }
}

#[test]
fn nothing_new_is_accepted_while_nobody_can_keep_that_it_was() {
    let key = pair();
    let desk = Desk::new(Mode::Enforce, &[("key.pub", &key)]);
    desk.trusts.is_unknown(&trouble(Class::Permanent));
    assert!(!desk.trusts.is_ready(), "nothing can be judged at all");
    assert!(desk.trusts.is_known(Accepted::default()));
    assert!(desk.trusts.is_ready());
    desk.serve(&signed(b"v1", &key, 1));

    desk.trusts.is_unknown(&trouble(Class::Transient));
    assert_eq!(desk.offer(&signed(b"v2", &key, 2)), None, "that passes by itself");
    desk.trusts.is_unknown(&trouble(Class::Permanent));
    assert_eq!(desk.offer(&signed(b"v2", &key, 2)), Some(Code::Downgrade));
    assert_eq!(desk.offer(&signed(b"v1", &key, 1)), None, "what was accepted before is no news");
    assert_eq!(desk.offer(&signed(b"v2", &key, 2)), Some(Code::Downgrade));
    assert!(desk.look().is_empty(), "what serves goes on");
    assert!(desk.trusts.view().problems[0].contains("there is none"));
    assert!(desk.trusts.is_known(desk.trusts.verifier.pending()));
    assert_eq!(desk.look(), [Turn::Anew]);
}

#[test]
fn who_only_warns_does_not_wait_for_what_was_accepted() {
    let desk = Desk::new(Mode::Warn, &[]);
    desk.trusts.is_unknown(&trouble(Class::Permanent));
    assert!(desk.trusts.is_ready());
    assert_eq!(desk.trusts.judge(&source(b"v1", None), Which::Offered).map(|text| text.is_some()), Ok(true));
}

#[tokio::test(start_paused = true)]
async fn what_lasts_is_said_once_a_minute() {
    let mut trouble = Trouble::default();
    assert!(trouble.lasts("a".to_owned(), Instant::now()));
    assert!(!trouble.lasts("a".to_owned(), Instant::now()));
    assert!(trouble.lasts("b".to_owned(), Instant::now()), "it has changed");
    tokio::time::advance(SAY_AGAIN).await;
    assert!(trouble.lasts("b".to_owned(), Instant::now()));
    assert!(trouble.ends() && !trouble.ends());
}

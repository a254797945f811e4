//! Signatures from the outside: keys and signatures are made here, as minisign makes them.

use std::io::Cursor;
use std::path::Path;
use std::sync::LazyLock;

use jiff::Timestamp;
use minisign::KeyPair;
use proptest::prelude::*;
use windlass_core::accepted::{Accepted, AcceptedVersion, KeyId};
use windlass_core::code::{Code, Refusal};
use windlass_core::name::{Digest, PluginName};
use windlass_plugin::verify::{
    Keys, Mode, Offered, Statement, Trust, Verified, Verifier, VerifierError, judge, signed_text,
};

const COMPONENT: &[u8] = b"a component";

fn name(text: &str) -> PluginName {
    PluginName::try_new(text).expect("valid")
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn now() -> Timestamp {
    at("2026-11-23T00:00:00Z")
}

/// A pair of keys, and what is done with it.
struct Signer(KeyPair);

impl Signer {
    fn new() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().expect("randomness"))
    }

    /// As a line of base64, under a comment.
    fn public(&self, comment: &str) -> String {
        format!("untrusted comment: {comment}\n{}\n", self.0.pk.to_base64())
    }

    fn keys(&self, comment: &str) -> Keys {
        Keys::parse(Path::new("release.pub"), &self.public(comment)).expect("a key")
    }

    fn sign_text(&self, text: &str, comment: &str) -> String {
        let text = Cursor::new(text.as_bytes().to_vec());
        let made = minisign::sign(Some(&self.0.pk), &self.0.sk, text, Some(comment), Some("anything"));
        made.expect("it signs").into_string()
    }

    fn sign(&self, component: &[u8], comment: &str) -> String {
        self.sign_text(&signed_text(&Digest::of(component)), comment)
    }
}

fn judged(signature: Option<&str>, keys: &Keys, accepted: &Accepted) -> Result<Verified, Refusal> {
    judged_for("webapp", COMPONENT, signature, keys, accepted)
}

fn judged_for(
    plugin: &str,
    component: &[u8],
    signature: Option<&str>,
    keys: &Keys,
    accepted: &Accepted,
) -> Result<Verified, Refusal> {
    let (plugin, digest) = (name(plugin), Digest::of(component));
    judge(Offered { plugin: &plugin, digest: &digest, signature }, keys, accepted, now())
}

fn accepted(sequence: u64, component: &[u8]) -> Accepted {
    let version = AcceptedVersion {
        sequence,
        digest: Digest::of(component),
        key: KeyId(1),
        since: "2026-01-01T00:00:00Z".to_owned(),
    };
    [(name("webapp"), version)].into_iter().collect()
}

const COMMENT: &str = "windlass plugin=webapp sequence=12";

#[test]
fn what_the_stock_command_signs_is_verified() {
    // minisign 0.11:
    //   printf 'sha256:%s\n' "$(sha256sum plugin.wasm | cut -d' ' -f1)" > plugin.digest
    //   minisign -S -s key -m plugin.digest -x plugin.sig -t 'windlass plugin=webapp sequence=12'
    let keys = "untrusted comment: minisign public key A43524A6B0C9E9BF
RWS/6cmwpiQ1pHPAassyTb3Gl97LZY1vzOViYIWgQMhVeRc2GD0XQqTZ
";
    let signature = "untrusted comment: signature from minisign secret key
RUS/6cmwpiQ1pN32mbXcMdaProkx1ZaME90w9WhPmGztD6Yi+7ftwueUw5c5USVE2IADnHi9eRx6+Ix4ffqViZo4gI98vAShkA8=
trusted comment: windlass plugin=webapp sequence=12
Sb0PXk0QwZtiHr9ucLsejfIgyhdFIEqchGQ2C2zUUsNIXMrxIWvyKpvqCAses4fz5Xz5dPP+MXXSDWn8y1nDDA==
";
    let keys = Keys::parse(Path::new("stock.pub"), keys).expect("a key");
    let verified = judged(Some(signature), &keys, &Accepted::default()).expect("good");
    assert_eq!(verified.key.to_string(), "A43524A6B0C9E9BF");
    assert_eq!((verified.statement.sequence, verified.newer), (12, true));
    assert!(judged(Some(&signature.replace('\n', "\r\n")), &keys, &Accepted::default()).is_ok());

    // The same with -l, which signs the text itself.
    let legacy = "untrusted comment: signature from minisign secret key
RWS/6cmwpiQ1pLVhpfoOIb4ol4GhMaPD7y6WbO3Ln8XM9DRMZ1xIu4uhGI4WqzZsg63lAzFRgHx1GO6CoL8mvBr8uzPuEiGGoAs=
trusted comment: windlass plugin=webapp sequence=12
Jx04n+NMYk7o83bcRYsbx9xmnHTbppqm8jPvXWqHXvpxBlYFn07CxrR4xamakws1qe0Lbo8rfZDNnGc7aAXpDA==
";
    let refusal = judged(Some(legacy), &keys, &Accepted::default()).expect_err("of the old kind");
    assert_eq!(refusal.code, Code::SignatureInvalid);
    assert!(refusal.message.contains("sign without -l"), "{refusal}");
}

#[test]
fn the_signed_text_may_lack_its_line_feed_and_nothing_else() {
    let signer = Signer::new();
    let keys = signer.keys("release");
    let digest = Digest::of(COMPONENT);
    for (text, good) in [
        (format!("{digest}\n"), true),
        (format!("{digest}"), true),
        (format!("{digest}\r\n"), false),
        (format!("{digest} \n"), false),
        (digest.as_str()[7..].to_owned(), false),
        (format!("{digest}  plugin.wasm\n"), false),
        (String::new(), false),
    ] {
        let signature = signer.sign_text(&text, COMMENT);
        assert_eq!(judged(Some(&signature), &keys, &Accepted::default()).is_ok(), good, "{text:?}");
    }
}

#[test]
fn each_fault_has_its_code_and_says_what_was_found_and_what_to_do() {
    let signer = Signer::new();
    let stranger = Signer::new();
    let (digest, other) = (Digest::of(COMPONENT), Digest::of(b"another component"));
    let fresh = Accepted::default();
    let keys = signer.keys("release");
    let full = format!("{COMMENT} digest={digest}");
    let good = signer.sign(COMPONENT, COMMENT);
    assert!(judged(Some(&good), &keys, &fresh).expect("good").newer);
    assert!(judged(Some(&signer.sign(COMPONENT, &full)), &keys, &fresh).is_ok());
    let sequence = |n: u64| signer.sign(COMPONENT, &format!("windlass plugin=webapp sequence={n}"));
    let (twelve, fifteen) = (sequence(12), sequence(15));
    let expired = signer.sign(COMPONENT, &format!("{COMMENT} expires=2026-11-23T00:00:00Z"));
    let of_other = signer.sign(b"another component", &format!("{COMMENT} digest={other}"));
    let contradicts = signer.sign(COMPONENT, &format!("{COMMENT} digest={other}"));
    let (old_key, shop_key) =
        (signer.keys("not-after=2026-11-22T00:00:00Z"), signer.keys("plugins=shop,cart"));
    let (at_15, taken) = (accepted(15, b"newer"), accepted(12, b"another"));
    let strangers = stranger.sign(COMPONENT, COMMENT);
    let for_shop = signer.sign(COMPONENT, "windlass plugin=shop sequence=12");
    let plain = signer.sign(COMPONENT, "timestamp:1763856000\tfile:plugin.digest\thashed");
    let of_a_file = signer.sign_text("hello", COMMENT);
    let two = format!("{good}{good}");
    for (what, signature, keys, accepted, code, says) in [
        ("absent", None, &keys, &fresh, Code::SignatureInvalid, "no key plugin.sig, and this host demands"),
        ("empty", Some(""), &keys, &fresh, Code::SignatureInvalid, "0 lines"),
        ("twice", Some(&*two), &keys, &fresh, Code::SignatureInvalid, "8 lines"),
        ("of a file", Some(&*of_a_file), &keys, &fresh, Code::SignatureInvalid, "sign exactly `sha256:"),
        (
            "without a statement",
            Some(&*plain),
            &keys,
            &fresh,
            Code::SignatureInvalid,
            "expected `windlass plugin=",
        ),
        (
            "of another plugin",
            Some(&*for_shop),
            &keys,
            &fresh,
            Code::SignatureInvalid,
            "for the plugin shop, the ConfigMap's label says webapp",
        ),
        ("by a stranger", Some(&*strangers), &keys, &fresh, Code::UnknownKey, "trusted are "),
        ("without any keys", Some(&*good), &Keys::default(), &fresh, Code::UnknownKey, "trusted are none"),
        (
            "a key of others",
            Some(&*good),
            &shop_key,
            &fresh,
            Code::UnknownKey,
            "(release.pub) is not trusted for the plugin webapp",
        ),
        (
            "of another component",
            Some(&*of_other),
            &keys,
            &fresh,
            Code::DigestMismatch,
            "put the two that belong together",
        ),
        ("contradicts itself", Some(&*contradicts), &keys, &fresh, Code::DigestMismatch, "sign again"),
        (
            "an old key",
            Some(&*good),
            &old_key,
            &fresh,
            Code::KeyExpired,
            "vouches for nothing new after 2026-11-22T00:00:00Z, and it is 2026-11-23T00:00:00Z",
        ),
        (
            "an old signature",
            Some(&*expired),
            &keys,
            &fresh,
            Code::KeyExpired,
            "was good until 2026-11-23T00:00:00Z",
        ),
        ("a downgrade", Some(&*twelve), &keys, &at_15, Code::Downgrade, "sequence 12 < accepted 15"),
        (
            "a sequence used twice",
            Some(&*twelve),
            &keys,
            &taken,
            Code::Downgrade,
            "a sequence belongs to one component",
        ),
    ] {
        let refusal = judged(signature, keys, accepted).expect_err(what);
        assert_eq!(refusal.code, code, "{what}: {refusal}");
        assert!(refusal.message.contains(says), "{what}: {refusal}");
    }
    // A step up from what was accepted is good, and is to be recorded.
    assert!(judged(Some(&fifteen), &keys, &accepted(12, b"another")).expect("further").newer);
}

#[test]
fn what_was_accepted_before_is_not_taken_away_by_a_date() {
    let signer = Signer::new();
    let expired = signer.sign(COMPONENT, &format!("{COMMENT} expires=2026-01-01T00:00:00Z"));
    let old = signer.keys("not-after=2026-01-01T00:00:00Z");
    assert_eq!(
        judged(Some(&expired), &old, &Accepted::default()).expect_err("too late").code,
        Code::KeyExpired
    );
    let verified = judged(Some(&expired), &old, &accepted(12, COMPONENT)).expect("it has served");
    assert!(!verified.newer);
    // The next one of that key is not let in, and neither is this one once the key is gone.
    let next = signer.sign(b"next", "windlass plugin=webapp sequence=13");
    let refusal = judged_for("webapp", b"next", Some(&next), &old, &accepted(12, COMPONENT));
    assert_eq!(refusal.expect_err("too late").code, Code::KeyExpired);
    let revoked = judged(Some(&expired), &Signer::new().keys("another"), &accepted(12, COMPONENT));
    assert_eq!(revoked.expect_err("revoked").code, Code::UnknownKey);
}

/// Offsets of the lines two to four: all but what minisign calls untrusted.
fn signed_part(signature: &str) -> std::ops::Range<usize> {
    let first = signature.find('\n').expect("four lines") + 1;
    first..signature.trim_end().len()
}

#[test]
fn no_byte_of_a_signature_can_be_another() {
    let signer = Signer::new();
    let keys = signer.keys("release");
    let good = signer.sign(COMPONENT, COMMENT);
    assert!(judged(Some(&good), &keys, &Accepted::default()).is_ok());
    for position in signed_part(&good) {
        for flip in [1_u8, 2, 0x20] {
            let mut bytes = good.clone().into_bytes();
            bytes[position] ^= flip;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let judged = judged(Some(&text), &keys, &Accepted::default());
            assert!(judged.is_err(), "byte {position} ^ {flip}: {text}");
        }
    }
    for length in 0..good.trim_end().len() {
        assert!(judged(Some(&good[..length]), &keys, &Accepted::default()).is_err(), "cut at {length}");
    }
}

#[test]
fn no_byte_of_a_component_can_be_another() {
    let signer = Signer::new();
    let keys = signer.keys("release");
    let good = signer.sign(COMPONENT, COMMENT);
    for position in 0..COMPONENT.len() {
        let mut bytes = COMPONENT.to_vec();
        bytes[position] ^= 1;
        let judged = judged_for("webapp", &bytes, Some(&good), &keys, &Accepted::default());
        assert_eq!(judged.expect_err("another component").code, Code::SignatureInvalid);
    }
}

#[test]
fn the_halves_of_two_signatures_do_not_make_a_third() {
    let signer = Signer::new();
    let keys = signer.keys("release");
    let one = signer.sign(COMPONENT, COMMENT);
    let other = signer.sign(COMPONENT, "windlass plugin=webapp sequence=99");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (one, other) = (lines(&one), lines(&other));
    for from_other in [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]] {
        let line = |at: usize| if from_other[at - 1] == 1 { &other[at] } else { &one[at] };
        let mixed = format!("{}\n{}\n{}\n{}\n", one[0], line(1), line(2), line(3));
        let refusal = judged(Some(&mixed), &keys, &Accepted::default()).expect_err("mixed");
        assert_eq!(refusal.code, Code::SignatureInvalid, "{refusal}");
    }
}

static PROPERTY: LazyLock<(Keys, String)> = LazyLock::new(|| {
    let signer = Signer::new();
    (signer.keys("release"), signer.sign(COMPONENT, COMMENT))
});

fn cases() -> u32 {
    if std::env::var_os("WINDLASS_TEST_FULL").is_some() { 20_000 } else { 200 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn no_altered_text_verifies(at in any::<prop::sample::Index>(), cut in 0_usize..6, put in "[ -~\n]{0,6}") {
        let (keys, good) = &*PROPERTY;
        let part = signed_part(good);
        let from = part.start + at.index(part.len());
        let to = (from + cut).min(part.end);
        let altered = format!("{}{put}{}", &good[..from], &good[to..]);
        if altered != *good {
            prop_assert!(judged(Some(&altered), keys, &Accepted::default()).is_err(), "{altered}");
        }
    }

    #[test]
    fn no_text_at_all_ends_the_judge(text in "(.{0,40}\n){0,6}") {
        let (keys, _) = &*PROPERTY;
        prop_assert!(judged(Some(&text), keys, &Accepted::default()).is_err());
    }
}

fn offer<'a>(plugin: &'a PluginName, digest: &'a Digest, signature: Option<&'a str>) -> Offered<'a> {
    Offered { plugin, digest, signature }
}

#[test]
fn keys_rotate_without_a_version_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (Signer::new(), Signer::new());
    std::fs::write(folder.path().join("2025.pub"), old.public("2025")).expect("written");
    let verifier = Verifier::new(Mode::Enforce, Some(folder.path())).expect("keys");
    let (plugin, digest) = (name("webapp"), Digest::of(COMPONENT));
    let by_old = old.sign(COMPONENT, COMMENT);
    let by_new = new.sign(COMPONENT, COMMENT);
    let code = |signature: &str| match verifier.verify(offer(&plugin, &digest, Some(signature)), now()) {
        Ok(Trust::Verified(_)) => None,
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Some(refusal.code),
    };
    assert_eq!((code(&by_old), code(&by_new)), (None, Some(Code::UnknownKey)));
    assert!(!verifier.refresh_keys().expect("read"), "nothing has changed");

    // Both at once; then the old one vouches for nothing new; then it is gone.
    std::fs::write(folder.path().join("2026.pub"), new.public("2026")).expect("written");
    assert!(verifier.refresh_keys().expect("read"));
    assert_eq!((code(&by_old), code(&by_new)), (None, None));
    std::fs::write(folder.path().join("2025.pub"), old.public("not-after=2026-11-01T00:00:00Z"))
        .expect("written");
    assert!(verifier.refresh_keys().expect("read"));
    assert_eq!((code(&by_old), code(&by_new)), (Some(Code::KeyExpired), None));
    std::fs::remove_file(folder.path().join("2025.pub")).expect("removed");
    assert!(verifier.refresh_keys().expect("read"));
    assert_eq!((code(&by_old), code(&by_new)), (Some(Code::UnknownKey), None));

    // A slip of the pen changes nothing until it is mended.
    std::fs::write(folder.path().join("2027.pub"), "no key").expect("written");
    let error = verifier.refresh_keys().expect_err("no key").to_string();
    assert!(error.contains("2027.pub line 1: not a minisign public key"), "{error}");
    assert_eq!(code(&by_new), None);
}

#[test]
fn a_mounted_secret_is_read_through_its_links() {
    let folder = tempfile::tempdir().expect("a folder");
    let signer = Signer::new();
    let mount = |version: &str, key: &str| {
        let data = folder.path().join(version);
        std::fs::create_dir(&data).expect("made");
        std::fs::write(data.join("release.pub"), key).expect("written");
        let link = folder.path().join("..data_tmp");
        std::os::unix::fs::symlink(version, &link).expect("linked");
        std::fs::rename(link, folder.path().join("..data")).expect("swapped");
    };
    mount("..2026_1", &signer.public("one"));
    std::os::unix::fs::symlink("..data/release.pub", folder.path().join("release.pub")).expect("linked");
    let verifier = Verifier::new(Mode::Enforce, Some(folder.path())).expect("keys");
    let first = verifier.keys();
    assert_eq!(first.len(), 1);
    mount("..2026_2", &Signer::new().public("two"));
    assert!(verifier.refresh_keys().expect("read"));
    assert_ne!(verifier.keys(), first);
}

#[test]
fn flags_that_cannot_work_are_said_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(matches!(Verifier::new(Mode::Warn, None), Err(VerifierError::NoPath("warn"))));
    assert!(matches!(Verifier::new(Mode::Enforce, Some(folder.path())), Err(VerifierError::NoKeys(_))));
    assert!(Verifier::new(Mode::Warn, Some(folder.path())).is_ok());
    let missing = folder.path().join("missing");
    assert!(matches!(Verifier::new(Mode::Warn, Some(&missing)), Err(VerifierError::Keys(_))));
    assert!(Verifier::new(Mode::Off, Some(&missing)).is_ok(), "nobody looks");
    std::fs::write(folder.path().join("long.pub"), " ".repeat(20_000)).expect("written");
    let error = Verifier::new(Mode::Warn, Some(folder.path())).map(drop).expect_err("too long").to_string();
    assert!(error.contains("longer than 16 KiB"), "{error}");
    let many: String = (0..65).map(|_| Signer::new().public("one of many")).collect();
    std::fs::write(folder.path().join("long.pub"), many).expect("written");
    let error = Verifier::new(Mode::Warn, Some(folder.path())).map(drop).expect_err("too many").to_string();
    assert!(error.contains("more than 64 keys"), "{error}");
}

#[test]
fn a_mode_says_what_a_bad_signature_means() {
    let folder = tempfile::tempdir().expect("a folder");
    let signer = Signer::new();
    let file = folder.path().join("release.pub");
    std::fs::write(&file, signer.public("release")).expect("written");
    let (plugin, digest) = (name("webapp"), Digest::of(COMPONENT));
    let unsigned = |mode| {
        let verifier = Verifier::new(mode, Some(&file)).expect("keys");
        verifier.verify(offer(&plugin, &digest, None), now())
    };
    assert_eq!(unsigned(Mode::Off), Ok(Trust::Unasked));
    assert_eq!(unsigned(Mode::Enforce).expect_err("refused").code, Code::SignatureInvalid);
    let doubted = unsigned(Mode::Warn).expect("let in");
    assert_eq!(doubted.as_str(), "doubted");
    let warning = doubted.warning().expect("said");
    assert!(warning.starts_with("not verified, and let in all the same: E130 SignatureInvalid"), "{warning}");
    for mode in [Mode::Off, Mode::Warn, Mode::Enforce] {
        assert_eq!(mode.as_str().parse(), Ok(mode));
    }
    assert!("on".parse::<Mode>().is_err());
}

#[test]
fn what_served_here_is_guarded_before_anybody_has_written_it_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let signer = Signer::new();
    std::fs::write(folder.path().join("release.pub"), signer.public("release")).expect("written");
    let verifier = Verifier::new(Mode::Enforce, Some(folder.path())).expect("keys");
    let (plugin, digest, older) = (name("webapp"), Digest::of(COMPONENT), Digest::of(b"older"));
    let (new, old) =
        (signer.sign(COMPONENT, COMMENT), signer.sign(b"older", "windlass plugin=webapp sequence=11"));
    let verify_old = || verifier.verify(offer(&plugin, &older, Some(&old)), now());
    assert!(verify_old().is_ok());
    let Ok(Trust::Verified(verified)) = verifier.verify(offer(&plugin, &digest, Some(&new)), now()) else {
        panic!("good");
    };
    assert!(verify_old().is_ok(), "nothing serves yet: only what served counts");
    verifier.served(&verified, now());
    assert_eq!(verify_old().expect_err("behind").code, Code::Downgrade);

    // The leader writes it, and everybody learns what is kept.
    let pending = verifier.pending();
    assert_eq!(pending.get(&plugin), Some(&verified.version(now())));
    verifier.learn(Accepted::default());
    assert_eq!(verifier.pending(), pending, "not kept yet");
    verifier.learn(pending);
    assert!(verifier.pending().is_empty());
    assert_eq!(verify_old().expect_err("behind").code, Code::Downgrade);
    // A person takes it back.
    verifier.learn(Accepted::default());
    assert!(verify_old().is_ok());
}

#[test]
fn a_statement_is_written_as_it_is_read() {
    let statement = Statement {
        plugin: name("webapp"),
        sequence: 12,
        digest: Some(Digest::of(COMPONENT)),
        expires: Some(at("2027-01-01T00:00:00Z")),
    };
    let signer = Signer::new();
    let signature = signer.sign(COMPONENT, &statement.to_string());
    let verified = judged(Some(&signature), &signer.keys("release"), &Accepted::default()).expect("good");
    assert_eq!(verified.statement, statement);
}

//! The keys that are trusted: minisign public keys out of a file or a folder.
//!
//! A mounted Secret is the usual folder. What stands in it is a person's word, so a file
//! that cannot be read as a key is an error and never a key less. A key's comment may hold
//! two words for the host: `not-after=<RFC 3339>` and `plugins=<name>,<name>`.

use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use minisign_verify::PublicKey;
use windlass_core::accepted::KeyId;
use windlass_core::code::printable;
use windlass_core::name::PluginName;

/// Most keys that are trusted at once.
pub const KEYS_MAX: usize = 64;
/// Longest file of keys, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 10;
const COMMENT: &str = "untrusted comment:";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file or folder cannot be read.
    #[error("read the keys of plugins at {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something in it is not what it should be.
    #[error("{path} line {line}: {what}")]
    NotAKey {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What was found and what is expected.
        what: String,
    },
    /// A file larger than any file of keys.
    #[error("{0} is longer than 16 KiB: a file of minisign public keys is expected")]
    TooLong(PathBuf),
    /// More than [`KEYS_MAX`].
    #[error("more than {KEYS_MAX} keys at {0}")]
    TooMany(PathBuf),
    /// The same key stands there twice, perhaps with two dates.
    #[error("key {id} stands in {first} and in {second}: once is expected")]
    Twice {
        /// Which key.
        id: KeyId,
        /// Where it was found first.
        first: String,
        /// Where it was found again.
        second: String,
    },
}

/// A key that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// How signatures name it.
    pub id: KeyId,
    /// The name of the file in which it stands.
    pub file: String,
    /// From then on it vouches for nothing new.
    pub not_after: Option<Timestamp>,
    /// The plugins that it may vouch for; `None`: all.
    pub plugins: Option<Vec<PluginName>>,
    pub(super) public: PublicKey,
}

impl Key {
    /// Whether it may vouch for `plugin`.
    pub fn is_for(&self, plugin: &PluginName) -> bool {
        self.plugins.as_ref().is_none_or(|plugins| plugins.contains(plugin))
    }
}

/// All keys that are trusted, in the order of their files' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Reads a file, or every file of a folder whose name does not begin with a dot.
    ///
    /// # Errors
    /// [`KeysError`]: a person has to mend it.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let failed = |source| KeysError::Read { path: path.to_owned(), source };
        let mut keys = Self::default();
        if !path.metadata().map_err(failed)?.is_dir() {
            keys.take_file(path)?;
            return Ok(keys);
        }
        let entries = path.read_dir().map_err(failed)?;
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // A mounted Secret keeps its versions in folders that begin with dots.
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                files.push(entry.path());
            }
        }
        files.sort();
        for file in files {
            keys.take_file(&file)?;
        }
        Ok(keys)
    }

    /// Keys in `text`, which came from `file`: each a line of base64, under a comment or not.
    ///
    /// # Errors
    /// [`KeysError`] with the line.
    pub fn parse(file: &Path, text: &str) -> Result<Self, KeysError> {
        let mut keys = Self::default();
        keys.take_text(file, text)?;
        Ok(keys)
    }

    /// The keys that signatures name like this; more than one only by chance.
    pub fn named(&self, id: KeyId) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| key.id == id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing can be trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names for messages, the first eight.
    pub(super) fn names(&self) -> String {
        let mut names: Vec<String> = self.0.iter().take(8).map(|key| key.id.to_string()).collect();
        if self.0.len() > names.len() {
            names.push("…".to_owned());
        }
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    fn take_file(&mut self, path: &Path) -> Result<(), KeysError> {
        let failed = |source| KeysError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(KeysError::TooLong(path.to_owned()));
        }
        self.take_text(path, &text)
    }

    fn take_text(&mut self, path: &Path, text: &str) -> Result<(), KeysError> {
        let mut words = Words::default();
        for (number, line) in text.lines().enumerate() {
            let wrong = |what: String| KeysError::NotAKey { path: path.to_owned(), line: number + 1, what };
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            if let Some(comment) = line.strip_prefix(COMMENT) {
                words = Words::parse(comment).map_err(wrong)?;
                continue;
            }
            let key = key(path, line, std::mem::take(&mut words)).map_err(wrong)?;
            self.add(path, key)?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, key: Key) -> Result<(), KeysError> {
        if let Some(first) = self.0.iter().find(|known| known.public == key.public) {
            return Err(KeysError::Twice { id: key.id, first: first.file.clone(), second: key.file });
        }
        if self.0.len() == KEYS_MAX {
            return Err(KeysError::TooMany(path.to_owned()));
        }
        self.0.push(key);
        Ok(())
    }
}

/// What a key's comment says to the host.
#[derive(Default)]
struct Words {
    not_after: Option<Timestamp>,
    plugins: Option<Vec<PluginName>>,
}

impl Words {
    /// Words with `=` are ours, and one that we do not know is a slip of the pen: a
    /// restriction that would silently not hold.
    fn parse(comment: &str) -> Result<Self, String> {
        let mut words = Self::default();
        for (name, value) in comment.split_whitespace().filter_map(|word| word.split_once('=')) {
            match name {
                "not-after" if words.not_after.is_none() => {
                    let date = value.parse().map_err(|_| {
                        format!(
                            "not-after={}: a time such as 2027-01-31T00:00:00Z is expected",
                            printable(value, 64)
                        )
                    })?;
                    words.not_after = Some(date);
                }
                "plugins" if words.plugins.is_none() => {
                    let names: Result<_, _> = value.split(',').map(PluginName::try_new).collect();
                    words.plugins = Some(names.map_err(|e| format!("plugins=: {e}"))?);
                }
                _ => {
                    return Err(format!(
                        "{}=: at most one not-after= and one plugins= are expected in a key's comment",
                        printable(name, 64)
                    ));
                }
            }
        }
        Ok(words)
    }
}

fn key(path: &Path, line: &str, words: Words) -> Result<Key, String> {
    let public = PublicKey::from_base64(line).map_err(|e| {
        // 158 bytes in base64: somebody mounted the wrong half.
        let hint = if line.len() > 200 { " (a secret key? it does not belong here)" } else { "" };
        format!("not a minisign public key{hint}: {e}")
    })?;
    let bytes = STANDARD.decode(line).map_err(|e| format!("not a minisign public key: {e}"))?;
    let id = key_id(&bytes).ok_or("not a minisign public key: too short")?;
    let file = path.file_name().map_or_else(String::new, |name| printable(&name.to_string_lossy(), 128));
    Ok(Key { id, file, not_after: words.not_after, plugins: words.plugins, public })
}

/// The name of a key in a key's or a signature's bytes: after two bytes for the algorithm.
pub(super) fn key_id(bytes: &[u8]) -> Option<KeyId> {
    let id = bytes.get(2..10)?.try_into().ok()?;
    Some(KeyId(u64::from_le_bytes(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    fn parse(text: &str) -> Result<Keys, String> {
        Keys::parse(Path::new("/keys/release.pub"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_key_has_the_name_that_minisign_shows() {
        let keys = parse(&format!("untrusted comment: minisign public key E7620F1842B4E81F\n{ONE}\n"))
            .expect("a key");
        let key = keys.iter().next().expect("one");
        assert_eq!((key.id.to_string().as_str(), key.file.as_str()), ("E7620F1842B4E81F", "release.pub"));
        assert_eq!((key.not_after, &key.plugins), (None, &None));
        assert_eq!(keys.named(key.id).count(), 1);
        assert_eq!(keys.named(KeyId(1)).count(), 0);
    }

    #[test]
    fn a_comment_may_bound_a_key_in_time_and_in_plugins() {
        let keys = parse(&format!(
            "\nuntrusted comment: team shop, not-after=2027-01-31T00:00:00Z plugins=shop,cart\r\n{ONE}\r\n\n"
        ));
        let keys = keys.expect("a key");
        let key = keys.iter().next().expect("one");
        assert_eq!(key.not_after.map(|t| t.to_string()), Some("2027-01-31T00:00:00Z".to_owned()));
        let name = |text| PluginName::try_new(text).expect("valid");
        assert!(key.is_for(&name("cart")) && !key.is_for(&name("webapp")));
        assert!(parse(ONE).expect("without a comment").iter().all(|key| key.is_for(&name("webapp"))));
    }

    #[test]
    fn what_is_no_key_is_said_and_never_left_out() {
        let mut shorter = ONE.to_owned();
        shorter.truncate(52);
        for (text, says) in [
            ("hello".to_owned(), "line 1: not a minisign public key"),
            (format!("{ONE}\n{shorter}"), "line 2: not a minisign public key"),
            ("R".repeat(212), "a secret key?"),
            (
                format!("untrusted comment: not-after=tomorrow\n{ONE}"),
                "line 1: not-after=tomorrow: a time such as",
            ),
            (format!("untrusted comment: notafter=2027-01-31T00:00:00Z\n{ONE}"), "notafter=: at most one"),
            (format!("untrusted comment: plugins=a,B\n{ONE}"), "\"B\" is not the name of a plugin"),
            (format!("untrusted comment: plugins=a plugins=b\n{ONE}"), "at most one"),
            (format!("{ONE}\n{ONE}"), "stands in release.pub and in release.pub"),
        ] {
            let error = parse(&text).expect_err(&text);
            assert!(error.contains(says), "{error}");
        }
    }
}

//! The words of the command line: `--name value`, `--name=value`, `--name`.
//!
//! The testbed starts every contender with the words of Windlass. Those that mean nothing here are accepted and have no effect.

use std::collections::HashMap;

/// What was said, over the defaults.
pub(crate) struct Flags(HashMap<String, String>);

impl Flags {
    /// Reads the words; what does not begin with `--` and belongs to no flag is left out.
    pub(crate) fn read(words: impl Iterator<Item = String>) -> Self {
        let defaults =
            [("namespace", "default"), ("pod-name", "webapp"), ("health-probe-bind-address", "0.0.0.0:8081")];
        let mut read: HashMap<_, _> =
            defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else { continue };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => {
                    (name, words.next_if(|next| !next.starts_with("--")).unwrap_or_else(|| "true".to_owned()))
                }
            };
            read.insert(name.to_owned(), value);
        }
        Self(read)
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn on(&self, name: &str) -> bool {
        self.text(name) == "true"
    }
}

//! What a guest may look up, whatever version of the contract it speaks.
//!
//! Kinds are checked before they reach the reader; an object that cannot exist by
//! its name is not asked for, so that nothing nonsensical is remembered.

use wasmtime::{Error, Result};
use windlass_core::code::{Code, Refusal};
use windlass_core::guests::{Text, Texts};
use windlass_core::key::ObjectRef;
use windlass_core::kind::Gvk;
use windlass_core::name::is_path_segment;
use windlass_core::reads::Query;

use crate::call::Inside;

/// Labels in one question.
const LABELS_MAX: usize = 16;

/// Questions in one call: each is remembered until the next pass of its key.
const QUESTIONS_MAX: usize = 10_000;

/// A kind as a guest names it: group, version, kind.
pub(crate) type Named<'a> = (&'a str, &'a str, &'a str);

impl Inside {
    fn count_question(&mut self) -> Result<()> {
        self.questions += 1;
        if self.questions > QUESTIONS_MAX {
            return Err(Error::new(Refusal::new(
                Code::InputTooLarge,
                format!("more than {QUESTIONS_MAX} questions to the cache in one pass: use list"),
            )));
        }
        Ok(())
    }

    /// One object.
    pub(crate) fn look_up(&mut self, kind: Named<'_>, namespace: &str, name: &str) -> Result<Option<String>> {
        self.count_question()?;
        let gvk = known(kind)?;
        let possible = is_path_segment(name) && (namespace.is_empty() || is_path_segment(namespace));
        if !possible {
            return Ok(None);
        }
        let of = ObjectRef { gvk, namespace: namespace.into(), name: name.into() };
        let found = self.texts.get(&of).map_err(Error::new)?;
        Ok(found.map(|text| text.to_string()))
    }

    /// All objects that match.
    pub(crate) fn look_up_all(
        &mut self,
        kind: Named<'_>,
        namespace: Option<&str>,
        labels: Vec<(String, String)>,
    ) -> Result<Vec<String>> {
        self.count_question()?;
        let gvk = known(kind)?;
        if labels.len() > LABELS_MAX {
            return Err(Error::new(Refusal::new(
                Code::BadAbiValue,
                format!("a query with {} labels, at most {LABELS_MAX}", labels.len()),
            )));
        }
        if namespace.is_some_and(|ns| !is_path_segment(ns)) {
            return Ok(Vec::new());
        }
        let query = Query { gvk, namespace: namespace.map(Into::into), labels };
        let found = self.texts.list(&query).map_err(Error::new)?;
        let bytes: usize = found.iter().map(|text| text.len()).sum();
        if bytes > self.answer_bytes {
            return Err(Error::new(Refusal::new(
                Code::InputTooLarge,
                format!(
                    "a list of {} {} is {} KiB, at most {} KiB: ask for fewer by labels or namespace",
                    found.len(),
                    query.gvk,
                    bytes / 1024,
                    self.answer_bytes / 1024
                ),
            )));
        }
        Ok(found.iter().map(|text| text.to_string()).collect())
    }
}

/// # Errors
/// E231: what is no kind cannot be in a manifest either.
fn known((group, version, kind): Named<'_>) -> Result<Gvk> {
    Gvk::try_new(group, version, kind)
        .map_err(|e| Error::new(Refusal::new(Code::ReadNotAllowed, e.to_string())))
}

/// What a plugin may read while it says what it is: nothing.
pub(crate) struct NothingToRead;

impl NothingToRead {
    fn refusal() -> Refusal {
        Refusal::new(
            Code::ReadNotAllowed,
            "manifest and start functions cannot read: they must always answer the same",
        )
    }
}

impl Texts for NothingToRead {
    fn get(&self, _of: &ObjectRef) -> std::result::Result<Option<Text>, Refusal> {
        Err(Self::refusal())
    }

    fn list(&self, _query: &Query) -> std::result::Result<Vec<Text>, Refusal> {
        Err(Self::refusal())
    }
}

//! A list, page by page and object by object, as their bytes arrive.
//!
//! The list asks for no resourceVersion: the answer is then as new as etcd when
//! the request was received (since Kubernetes 1.31 out of the server's memory,
//! with a check for freshness). `resourceVersion=0` would be cheaper on older
//! servers, and may be older than what this process or the one before it has
//! seen: absence would not mean absence, and servers before 1.34 ignore `limit` for it.

use std::borrow::Cow;
use std::collections::VecDeque;

use bytes::Bytes;
use kube::Client;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::get::{Chunks, GetError, chunks, status_error};
use crate::items::{Items, TooLong};
use crate::lines::LINE_MAX_BYTES;
use crate::selection::Selection;

/// Objects asked for at once.
const PAGE: usize = 500;
/// Most bytes of items that may come before the version of their list: 32 MiB. A page that
/// exceeds it is asked for again with a quarter of the objects, so that large objects cost
/// requests, not memory.
const EARLY_MAX_BYTES: usize = 32 << 20;

/// Where a list has got to.
pub(crate) struct Pages<'a> {
    client: &'a Client,
    selection: &'a Selection,
    limit: usize,
    next: Option<String>,
}

/// A page whose bytes are arriving.
pub(crate) struct Page {
    chunks: Chunks,
    items: Items,
    /// What the envelope says, once that is known: at the first item or at the end.
    head: Option<Head>,
    /// Items that came before the version of the list.
    early: VecDeque<Bytes>,
    early_bytes: usize,
}

/// What a page says beside its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The list's resourceVersion, the same for all pages.
    pub(crate) version: String,
    /// The token of the next page.
    pub(crate) next: Option<String>,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    metadata: Option<RawListMeta<'a>>,
    // An empty list of some kinds is `null`; hence the two levels.
    #[serde(borrow, default, deserialize_with = "present")]
    items: Option<Option<Vec<&'a RawValue>>>,
}

#[derive(Deserialize)]
struct RawListMeta<'a> {
    #[serde(rename = "resourceVersion", borrow, default)]
    resource_version: Cow<'a, str>,
    #[serde(rename = "continue", borrow, default)]
    next: Option<Cow<'a, str>>,
}

fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl<'a> Pages<'a> {
    /// From the start.
    pub(crate) fn new(client: &'a Client, selection: &'a Selection) -> Self {
        Self { client, selection, limit: PAGE, next: None }
    }

    /// Asks for the next page.
    ///
    /// # Errors
    /// [`GetError`]. After a 410 the list must be begun again: its token is too old.
    pub(crate) async fn open(&self) -> Result<Page, GetError> {
        let limit = self.limit.to_string();
        let mut parameters = vec![("limit", limit.as_str())];
        if let Some(token) = &self.next {
            parameters.push(("continue", token));
        }
        let address = self.selection.address(&parameters);
        let chunks = chunks(self.client, &address, self.selection.accepts_list()).await?;
        let items = Items::new(LINE_MAX_BYTES);
        Ok(Page { chunks, items, head: None, early: VecDeque::new(), early_bytes: 0 })
    }

    /// A page was too long. Answers whether fewer objects can be asked for.
    pub(crate) fn shorten(&mut self) -> bool {
        let shorter = self.limit > 1;
        self.limit = self.limit.div_ceil(4);
        shorter
    }

    /// Goes on to the page behind `token`.
    pub(crate) fn go_on(&mut self, token: String) {
        self.next = Some(token);
    }
}

impl Page {
    /// The next object's text; `None` at the end of a page that is whole. Before the first one
    /// the version of the list is known: objects that came ahead of it are held until then.
    ///
    /// # Errors
    /// [`GetError::Refused`] for a Status object in the list's place, and otherwise what is
    /// wrong. The objects before it were well.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, GetError> {
        loop {
            if self.head.is_some()
                && let Some(item) = self.early.pop_front()
            {
                return Ok(Some(item));
            }
            let item = self.items.next().map_err(|TooLong(max)| GetError::TooLong(max))?;
            if self.head.is_none() && self.items.has_begun() {
                self.head = peek(self.items.envelope());
            }
            match item {
                Some(item) => self.take(item)?,
                None => match self.chunks.next().await? {
                    Some(chunk) => self.items.push(&chunk),
                    None if self.items.is_whole() => return Ok(None),
                    None => self.end()?,
                },
            }
        }
    }

    /// What the page says of its list; known since its first object.
    ///
    /// # Errors
    /// [`GetError::Shape`] before that.
    pub(crate) fn head(&self) -> Result<&Head, GetError> {
        self.head.as_ref().ok_or(GetError::Shape("metadata"))
    }

    /// An item must be JSON, whatever it is otherwise.
    fn take(&mut self, item: Bytes) -> Result<(), GetError> {
        serde_json::from_slice::<&RawValue>(&item).map_err(GetError::Json)?;
        self.early_bytes += if self.head.is_none() { item.len() } else { 0 };
        if self.early_bytes > EARLY_MAX_BYTES {
            return Err(GetError::TooLong(EARLY_MAX_BYTES));
        }
        self.early.push_back(item);
        Ok(())
    }

    /// Nothing more comes: now the envelope has to be a whole list's.
    fn end(&mut self) -> Result<(), GetError> {
        let (head, items) = read(self.items.envelope())?;
        self.early.extend(items);
        self.head = Some(head);
        self.items.close();
        Ok(())
    }
}

/// What an envelope says whose items have only begun; `None`: not yet.
fn peek(envelope: &[u8]) -> Option<Head> {
    let end = envelope.iter().rposition(|byte| *byte == b'[')?;
    let whole = [&envelope[..=end], b"]}"].concat();
    read(&whole).ok().map(|(head, _)| head)
}

/// Reads an envelope, and items that it holds under a name that was written in an odd way.
fn read(text: &[u8]) -> Result<(Head, Vec<Bytes>), GetError> {
    let raw: RawPage<'_> = serde_json::from_slice(text).map_err(GetError::Json)?;
    if raw.kind == "Status" {
        return Err(status_error(&String::from_utf8_lossy(text), 500));
    }
    let metadata = raw.metadata.ok_or(GetError::Shape("metadata"))?;
    if metadata.resource_version.is_empty() {
        return Err(GetError::Shape("metadata.resourceVersion"));
    }
    let items = raw.items.ok_or(GetError::Shape("items"))?.unwrap_or_default();
    let head = Head {
        version: metadata.resource_version.into_owned(),
        next: metadata.next.filter(|token| !token.is_empty()).map(Cow::into_owned),
    };
    Ok((head, items.iter().map(|item| Bytes::copy_from_slice(item.get().as_bytes())).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_says_version_and_token() {
        let text =
            br#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"abc"},"items":[{"a":1}]}"#;
        let (head, items) = read(text).expect("a page");
        assert_eq!((&*head.version, head.next.as_deref(), items.len()), ("7", Some("abc"), 1));
        let empty = br#"{"metadata":{"resourceVersion":"7","continue":""},"items":null}"#;
        let (head, items) = read(empty).expect("an empty page");
        assert!(items.is_empty() && head.next.is_none());
        let begun = br#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[  "#;
        assert_eq!(peek(begun).map(|head| head.version).as_deref(), Some("7"));
        assert_eq!(peek(br#"{"apiVersion":"v1","items":["#), None);
    }

    #[test]
    fn what_is_no_list_is_refused_by_name() {
        let error = |text: &str| read(text.as_bytes()).expect_err(text).to_string();
        assert_eq!(error("<html>"), "parse answer");
        assert_eq!(error("{"), "parse answer");
        assert_eq!(error("{}"), "answer has no metadata");
        assert_eq!(error(r#"{"metadata":{}}"#), "answer has no metadata.resourceVersion");
        assert_eq!(error(r#"{"metadata":{"resourceVersion":"1"}}"#), "answer has no items");
        let status = r#"{"kind":"Status","metadata":{},"code":410,"reason":"Expired","message":"old"}"#;
        assert_eq!(error(status), "answered 410 Expired: old");
    }
}

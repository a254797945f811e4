//! A list, page by page, with the objects left as the text they came in.
//!
//! The list asks for no resourceVersion: the answer is then as new as etcd when
//! the request was received (since Kubernetes 1.31 out of the server's memory,
//! with a check for freshness). `resourceVersion=0` would be cheaper on older
//! servers, and may be older than what this process or the one before it has
//! seen: absence would not mean absence, and servers before 1.34 ignore `limit` for it.

use std::borrow::Cow;

use kube::Client;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::get::{GetError, status_error, whole};
use crate::selection::Selection;

/// Objects asked for at once.
const PAGE: usize = 500;
/// Largest page in bytes: 32 MiB. A page that exceeds it is asked for again with
/// a quarter of the objects, so that large objects cost requests, not memory.
const PAGE_MAX_BYTES: usize = 32 << 20;

/// Where a list has got to. One page is in memory at a time.
pub(crate) struct Pages<'a> {
    client: &'a Client,
    selection: &'a Selection,
    limit: usize,
    max_bytes: usize,
    next: Option<String>,
}

/// One page, borrowed from its text.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    /// The list's resourceVersion, the same for all pages.
    pub(crate) version: Cow<'a, str>,
    /// The token of the next page.
    pub(crate) next: Option<Cow<'a, str>>,
    /// The objects.
    pub(crate) items: Vec<&'a RawValue>,
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
        Self { client, selection, limit: PAGE, max_bytes: PAGE_MAX_BYTES, next: None }
    }

    /// The text of the next page, for [`Page::parse`].
    ///
    /// # Errors
    /// [`GetError`]. After a 410 the list must be begun again: its token is too old.
    pub(crate) async fn fetch(&mut self) -> Result<Vec<u8>, GetError> {
        loop {
            let limit = self.limit.to_string();
            let mut parameters = vec![("limit", limit.as_str())];
            if let Some(token) = &self.next {
                parameters.push(("continue", token));
            }
            let address = self.selection.address(&parameters);
            match whole(self.client, &address, self.max_bytes).await {
                Err(GetError::TooLong(_)) if self.limit > 1 => self.limit = self.limit.div_ceil(4),
                answer => return answer,
            }
        }
    }

    /// Goes on to the page behind `token`.
    pub(crate) fn go_on(&mut self, token: String) {
        self.next = Some(token);
    }
}

impl<'a> Page<'a> {
    /// Reads a page.
    ///
    /// # Errors
    /// [`GetError::Refused`] for a Status object in its place, and otherwise what is wrong.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, GetError> {
        let raw: RawPage<'a> = serde_json::from_slice(text).map_err(GetError::Json)?;
        if raw.kind == "Status" {
            return Err(status_error(&String::from_utf8_lossy(text), 500));
        }
        let metadata = raw.metadata.ok_or(GetError::Shape("metadata"))?;
        if metadata.resource_version.is_empty() {
            return Err(GetError::Shape("metadata.resourceVersion"));
        }
        Ok(Self {
            version: metadata.resource_version,
            next: metadata.next.filter(|token| !token.is_empty()),
            items: raw.items.ok_or(GetError::Shape("items"))?.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_without_a_copy_of_its_objects() {
        let text = br#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"abc"},"items":[{"a":1},{"b":2}]}"#;
        let page = Page::parse(text).expect("a page");
        assert_eq!((&*page.version, page.next.as_deref(), page.items.len()), ("7", Some("abc"), 2));
        assert_eq!(page.items[1].get(), r#"{"b":2}"#);
        let empty = br#"{"metadata":{"resourceVersion":"7","continue":""},"items":null}"#;
        let page = Page::parse(empty).expect("an empty page");
        assert!(page.items.is_empty() && page.next.is_none());
    }

    #[test]
    fn what_is_no_list_is_refused_by_name() {
        let error = |text: &str| Page::parse(text.as_bytes()).expect_err(text).to_string();
        assert_eq!(error("<html>"), "parse answer");
        assert_eq!(error("{"), "parse answer");
        assert_eq!(error("{}"), "answer has no metadata");
        assert_eq!(error(r#"{"metadata":{}}"#), "answer has no metadata.resourceVersion");
        assert_eq!(error(r#"{"metadata":{"resourceVersion":"1"}}"#), "answer has no items");
        let status = r#"{"kind":"Status","metadata":{},"code":410,"reason":"Expired","message":"old"}"#;
        assert_eq!(error(status), "answered 410 Expired: old");
    }
}

//! One watch request: events until the server ends it, and proof that it is alive.
//!
//! A watch that died without a word (a pulled cable, a crashed node) looks like
//! one on which nothing happens: bookmarks come only about once a minute. So
//! the silence itself is bounded: the server is asked to end each watch after 20
//! to 25 s, and one that has not ended 4 s later is dead. A dead watch is thus
//! noticed within 29 s, whenever it dies. Two seconds before the end the server
//! sends a bookmark if it has seen anything newer, from which the next watch goes
//! on: so a selection in which little happens does not fall behind a busy kind.
//!
//! Cost: one GET each 20 to 25 s for each kind and replica, on a kept connection,
//! answered out of the API server's memory, not out of etcd.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use crate::get::{GetError, open, status_error};
use crate::lines::{LINE_MAX_BYTES, LineError, Lines};
use crate::selection::Selection;

/// After how many seconds the server is asked to end a watch. Spread, so that the
/// kinds do not all come back at once.
const LASTS_S: std::ops::RangeInclusive<u64> = 20..=25;
/// How late the end may come before the watch is taken for dead.
const GRACE: Duration = Duration::from_secs(4);

/// An open watch.
#[derive(Debug)]
pub(crate) struct Stream {
    body: Body,
    lines: Lines,
    until: Instant,
    opened: Instant,
    asked: Duration,
}

/// One event, borrowed from its line.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The object was added or modified; its text.
    Put(&'a str),
    /// The object was deleted, or matches the selection no longer; its last text.
    Gone(&'a str),
    /// Everything up to this version has been sent.
    Bookmark(Cow<'a, str>),
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type", borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    metadata: Version<'a>,
}

#[derive(Deserialize)]
struct Version<'a> {
    #[serde(rename = "resourceVersion", borrow, default)]
    resource_version: Cow<'a, str>,
}

impl Stream {
    /// Asks for everything that happens to `selection` after version `from`; the answer has to begin within `head`.
    ///
    /// # Errors
    /// [`GetError`]; a 410 says that `from` is too old.
    pub(crate) async fn open(
        client: &Client,
        selection: &Selection,
        from: &str,
        head: Duration,
    ) -> Result<Self, GetError> {
        let seconds = rand::random_range(LASTS_S);
        let asked = Duration::from_secs(seconds);
        let sent = Instant::now();
        let address = selection.address(&[
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", from),
            ("timeoutSeconds", &seconds.to_string()),
        ]);
        let answer = open(client, &address, selection.accepts_events(), head).await?;
        Ok(Self {
            body: answer.into_body(),
            lines: Lines::new(LINE_MAX_BYTES),
            until: sent + asked + GRACE,
            opened: Instant::now(),
            asked,
        })
    }

    /// The next line; `None` when the server has ended the watch.
    ///
    /// # Errors
    /// [`GetError::Late`] for a dead watch, and whatever breaks the body.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn line(&mut self) -> Result<Option<Bytes>, GetError> {
        loop {
            let line = self.lines.next().map_err(|LineError::TooLong(max)| GetError::TooLong(max))?;
            if line.is_some() {
                return Ok(line);
            }
            // Data that is there already wins over the deadline: a slow reader is
            // no dead server.
            let Ok(frame) = timeout_at(self.until, self.body.frame()).await else {
                return Err(GetError::Late { part: "end of the watch", after: self.asked + GRACE });
            };
            match frame {
                None if self.lines.is_cut() => return Err(GetError::Cut),
                None => return Ok(None),
                Some(Err(error)) => return Err(GetError::Body(Box::new(error))),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.lines.push(data);
                    }
                }
            }
        }
    }

    /// For how long the watch has been open.
    pub(crate) fn lasted(&self) -> Duration {
        self.opened.elapsed()
    }
}

impl<'a> Event<'a> {
    /// The event that a line is which looks as every API server writes it: then the object has yet to be read, and
    /// with it whether the line is JSON at all. Nothing for any other line, which is for [`parse`](Self::parse).
    pub(crate) fn at_a_glance(line: &'a [u8]) -> Option<Self> {
        let (event, rest) = std::str::from_utf8(line).ok()?.strip_prefix(r#"{"type":""#)?.split_once('"')?;
        let object = rest.strip_prefix(r#","object":"#)?.trim_ascii_end().strip_suffix('}')?;
        match event {
            "ADDED" | "MODIFIED" => Some(Self::Put(object)),
            "DELETED" => Some(Self::Gone(object)),
            _ => None,
        }
    }

    /// Reads one line of a watch.
    ///
    /// # Errors
    /// [`GetError::Refused`] for an ERROR event or a bare Status object.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, GetError> {
        let raw: RawEvent<'a> = serde_json::from_slice(line).map_err(GetError::Json)?;
        if raw.event.is_none() && raw.kind.as_deref() == Some("Status") {
            return Err(status_error(&String::from_utf8_lossy(line), 500));
        }
        let event = raw.event.ok_or(GetError::Shape("type"))?;
        let object = raw.object.ok_or(GetError::Shape("object"))?.get();
        match &*event {
            "ADDED" | "MODIFIED" => Ok(Self::Put(object)),
            "DELETED" => Ok(Self::Gone(object)),
            "BOOKMARK" => {
                let bookmark: Versioned<'a> = serde_json::from_str(object).map_err(GetError::Json)?;
                Ok(Self::Bookmark(bookmark.metadata.resource_version))
            }
            "ERROR" => Err(status_error(object, 500)),
            _ => Err(GetError::Shape("known type")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        let parse = |text: &'static str| Event::parse(text.as_bytes());
        assert!(matches!(parse(r#"{"type":"ADDED","object":{"a":1}}"#), Ok(Event::Put(r#"{"a":1}"#))));
        assert!(matches!(parse(r#"{"object":{},"type":"DELETED"}"#), Ok(Event::Gone("{}"))));
        let bookmark = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#;
        assert!(matches!(parse(bookmark), Ok(Event::Bookmark(v)) if v == "9"));
    }

    #[test]
    fn what_is_seen_at_a_glance_is_what_is_read() {
        for line in [
            r#"{"type":"ADDED","object":{"a":1}}"#,
            "{\"type\":\"MODIFIED\",\"object\":{\"a\":\"}\"}} \r",
            r#"{"type":"DELETED","object":{}}"#,
        ] {
            let (seen, read) = (Event::at_a_glance(line.as_bytes()), Event::parse(line.as_bytes()));
            assert_eq!(format!("{:?}", seen.expect(line)), format!("{:?}", read.expect(line)));
        }
        for other in [
            r#"{"object":{},"type":"ADDED"}"#,
            r#"{"type":"BOOKMARK","object":{}}"#,
            r#"{"type":"ERROR","object":{}}"#,
            r#"{"type":"ADDED","object":{"#,
            r#"{"type":"ADDED", "object":{}}"#,
            "",
        ] {
            assert!(Event::at_a_glance(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn errors_in_the_stream_keep_their_code() {
        let parse = |text: &'static str| Event::parse(text.as_bytes()).expect_err(text);
        let expired =
            r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"m"}}"#;
        assert_eq!(parse(expired).code(), Some(410));
        assert_eq!(parse(r#"{"kind":"Status","code":403}"#).code(), Some(403));
        assert_eq!(parse("{}").to_string(), "answer has no type");
        assert_eq!(parse(r#"{"type":"NEWS","object":{}}"#).to_string(), "answer has no known type");
        assert_eq!(parse("<p>").to_string(), "parse answer");
    }
}

//! A watch stream on its way to the client, and what rules do to it.
//!
//! A stream looks at the port's rules for as long as it is open, so that a rule falls on streams that were there before it. Each
//! rule is judged once for each stream. Lines are whole before they are passed on, because faults fall on events, not on bytes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::unfold;
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::watch;

use super::active::{Rules, State};
use super::body::{Body, streamed};
use super::gate::Gate;
use super::request::{Seen, Verb};
use super::rule::{Action, EventFault, chance};

/// What an API server sends when a resourceVersion is too old to resume from.
const GONE: &[u8] = br#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 1 (2)","reason":"Expired","code":410}}
"#;

/// Half an event.
const GARBAGE: &[u8] = b"{\"type\":\"MODIFIED\",\"object\":{\"kind\":\n";

/// How a line begins that is no event of an object, as the API server writes it.
const BOOKMARK: &[u8] = br#"{"type":"BOOKMARK""#;

/// One open stream.
struct Events {
    upstream: Incoming,
    rules: watch::Receiver<Rules>,
    seen: Seen,
    gate: Arc<Gate>,
    json: bool,
    /// Those that were judged, whether or not they fell on this stream.
    judged: Vec<Arc<State>>,
    /// Those of them that last.
    holds: Vec<Arc<State>>,
    scrambles: Vec<Arc<State>>,
    /// Each takes one event.
    losses: VecDeque<Arc<State>>,
    /// The beginning of a line.
    line: BytesMut,
    /// How many whole lines have come.
    lines: u64,
    /// The line that lets the next one go first.
    swapped: Option<Bytes>,
    ready: VecDeque<io::Result<Bytes>>,
    ended: bool,
}

/// Whether an answer is a stream of events.
pub(super) fn is_stream(seen: &Seen, response: &Response<Incoming>) -> bool {
    seen.verb == Verb::Watch && response.status() == StatusCode::OK
}

/// The body for the client.
pub(super) fn followed(
    response: Response<Incoming>,
    rules: watch::Receiver<Rules>,
    seen: Seen,
    gate: Arc<Gate>,
) -> Response<Body> {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    response.map(|upstream| {
        let events = Events {
            upstream,
            rules,
            seen,
            gate,
            json,
            judged: Vec::new(),
            holds: Vec::new(),
            scrambles: Vec::new(),
            losses: VecDeque::new(),
            line: BytesMut::new(),
            lines: 0,
            swapped: None,
            ready: VecDeque::new(),
            ended: false,
        };
        streamed(unfold(events, |mut events| async move { events.next().await.map(|piece| (piece, events)) }))
    })
}

impl Events {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            self.judge();
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            if self.ended {
                return None;
            }
            let held = self.holds.iter().find(|hold| !hold.is_released()).cloned();
            let frame = tokio::select! {
                biased;
                Ok(()) = self.rules.changed() => continue,
                () = async { held.as_ref().expect("checked beside it").released().await }, if held.is_some() => continue,
                frame = self.upstream.frame(), if held.is_none() => frame,
            };
            match frame {
                None => self.end(),
                Some(Err(error)) => self.ready.push_back(Err(io::Error::other(error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.take(data);
                    }
                }
            }
        }
    }

    /// Looks at the rules that it has not seen yet.
    fn judge(&mut self) {
        let now = self.rules.borrow_and_update().clone();
        self.judged.retain(|old| now.iter().any(|rule| Arc::ptr_eq(old, rule)));
        self.scrambles.retain(|old| now.iter().any(|rule| Arc::ptr_eq(old, rule)));
        self.losses.retain(|old| now.iter().any(|rule| Arc::ptr_eq(old, rule)));
        self.holds.retain(|hold| !hold.is_released());
        for rule in now.iter() {
            if self.ended {
                return;
            }
            let Action::Events(fault) = rule.rule.action else { continue };
            if self.judged.iter().any(|old| Arc::ptr_eq(old, rule)) {
                continue;
            }
            self.judged.push(rule.clone());
            if rule.falls_on(&self.seen) {
                self.suffer(fault, rule);
            }
        }
    }

    fn suffer(&mut self, fault: EventFault, rule: &Arc<State>) {
        match fault {
            EventFault::Hold => self.holds.push(rule.clone()),
            EventFault::Scramble { .. } => self.scrambles.push(rule.clone()),
            EventFault::Lose => self.losses.push_back(rule.clone()),
            EventFault::Garbage if self.json => self.ready.push_back(Ok(Bytes::from_static(GARBAGE))),
            EventFault::Bookmark(version) if self.json => {
                let object = format!(r#"{{"metadata":{{"resourceVersion":"{version}"}}}}"#);
                let line = format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n");
                self.ready.push_back(Ok(line.into()));
            }
            EventFault::Garbage | EventFault::Bookmark(_) => {}
            EventFault::Gone => {
                if self.json {
                    self.ready.push_back(Ok(Bytes::from_static(GONE)));
                }
                self.ended = true;
            }
            EventFault::End => self.ended = true,
            EventFault::Reset => {
                self.gate.reset();
                self.ready.push_back(Err(io::ErrorKind::ConnectionReset.into()));
                self.ended = true;
            }
        }
    }

    /// Passes on the whole lines, and keeps the rest for later.
    fn take(&mut self, data: Bytes) {
        if !self.json {
            self.ready.push_back(Ok(data));
            return;
        }
        self.line.extend_from_slice(&data);
        let Some(last) = self.line.iter().rposition(|byte| *byte == b'\n') else { return };
        let whole = self.line.split_to(last + 1).freeze();
        if self.scrambles.is_empty() && self.losses.is_empty() && self.swapped.is_none() {
            self.ready.push_back(Ok(whole));
            return;
        }
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            self.scramble(whole.slice_ref(line));
        }
    }

    /// One event, with its place in the stream as the number that decides. Of several scrambles the first counts.
    fn scramble(&mut self, line: Bytes) {
        self.lines += 1;
        if !line.starts_with(BOOKMARK)
            && let Some(rule) = self.losses.pop_front()
        {
            rule.has_landed();
            return;
        }
        let Some(rule) = self.scrambles.first() else { return self.pass(line) };
        let Action::Events(EventFault::Scramble { seed, lose, double, swap }) = rule.rule.action else {
            return self.pass(line);
        };
        let chance = chance(seed, self.lines);
        if chance < lose {
            return;
        }
        if chance < lose + double {
            self.ready.push_back(Ok(line.clone()));
        } else if chance < lose + double + swap && self.swapped.is_none() {
            self.swapped = Some(line);
            return;
        }
        self.pass(line);
    }

    fn pass(&mut self, line: Bytes) {
        self.ready.push_back(Ok(line));
        self.ready.extend(self.swapped.take().map(Ok));
    }

    /// The API server ended the stream: what waited for more goes out.
    fn end(&mut self) {
        let rest = self.line.split().freeze();
        let rest = (!rest.is_empty()).then_some(rest);
        self.ready.extend(self.swapped.take().into_iter().chain(rest).map(Ok));
        self.ended = true;
    }
}

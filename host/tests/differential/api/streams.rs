//! Watch streams on their way to the host, and what can happen to them.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use futures::channel::mpsc::UnboundedSender;
use http_body::Frame;
use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;
use serde_json::Value;

use super::store::{Change, Kind, Stored};

/// Where a stream's bytes go.
pub(crate) type Pipe = UnboundedSender<Result<Frame<Bytes>, io::Error>>;

/// Which objects a list or a watch is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    has: Vec<(String, String)>,
    lacks: Vec<String>,
}

/// How events are disturbed, each with a probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Scramble {
    pub(crate) lose: f64,
    pub(crate) double: f64,
    pub(crate) swap: f64,
}

/// What becomes of all streams of a kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mishap {
    /// The connection is reset.
    Reset,
    /// The stream ends in order.
    End,
    /// An error event of code 410.
    Gone,
    /// A line that is no JSON.
    Garbage,
    /// A bookmark from the past.
    OldBookmark,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    selector: Selector,
    pipe: Pipe,
    /// Events that are held back. An end waits behind them.
    held: Option<VecDeque<String>>,
    ended: bool,
    scramble: Scramble,
    swapped: Option<String>,
    /// Up to which version everything has been sent.
    sent: u64,
}

/// All that are open.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: Vec<Stream>,
    opened: u64,
    /// Whether an event was lost.
    pub(crate) lossy: bool,
}

impl Selector {
    /// From the text of a `labelSelector`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut selector = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match (part.strip_prefix('!'), part.split_once('=')) {
                (Some(name), _) => selector.lacks.push(name.to_owned()),
                (None, Some((name, value))) => selector.has.push((name.to_owned(), value.to_owned())),
                (None, None) => panic!("the host asks for {text}, which this server does not know"),
            }
        }
        selector
    }

    pub(crate) fn selects(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.has.iter().all(|(name, value)| labels[name] == value.as_str())
            && self.lacks.iter().all(|name| labels[name].is_null())
    }
}

fn line(event: &str, text: &str) -> String {
    format!("{{\"type\":\"{event}\",\"object\":{text}}}\n")
}

fn bookmark(version: u64) -> String {
    line("BOOKMARK", &format!(r#"{{"metadata":{{"resourceVersion":"{version}"}}}}"#))
}

impl Stream {
    /// What this stream says of a change.
    fn event(&self, change: &Change) -> Option<String> {
        let selects = |stored: &Stored| self.selector.selects(&stored.value);
        let was = change.before.as_deref().is_some_and(selects);
        let is = !change.ends && selects(&change.after);
        match (was, is) {
            (false, false) => None,
            (false, true) => Some(line("ADDED", &change.after.text)),
            (true, true) => Some(line("MODIFIED", &change.after.text)),
            (true, false) => Some(line("DELETED", &change.after.text)),
        }
    }

    fn write(&mut self, line: String) {
        match &mut self.held {
            Some(held) => held.push_back(line),
            // Whoever has gone hears nothing.
            None => drop(self.pipe.unbounded_send(Ok(Frame::data(line.into())))),
        }
    }

    fn is_over(&self) -> bool {
        (self.ended && self.held.is_none()) || self.pipe.is_closed()
    }
}

impl Streams {
    /// Opens a stream of what has happened since `from` and of what will happen.
    pub(crate) fn open(
        &mut self,
        kind: Kind,
        selector: Selector,
        pipe: Pipe,
        from: u64,
        changes: &[Change],
    ) -> u64 {
        self.opened += 1;
        let mut stream = Stream {
            id: self.opened,
            kind,
            selector,
            pipe,
            held: None,
            ended: false,
            scramble: Scramble::default(),
            swapped: None,
            sent: from,
        };
        let first = changes.partition_point(|change| change.version <= from);
        for change in changes[first..].iter().filter(|change| change.name.0 == kind) {
            if let Some(event) = stream.event(change) {
                stream.write(event);
            }
            stream.sent = change.version;
        }
        self.open.push(stream);
        self.opened
    }

    /// Something has changed.
    pub(crate) fn tell(&mut self, change: &Change, rng: &mut Xoshiro256PlusPlus) {
        let mut lossy = false;
        for stream in self.open.iter_mut().filter(|stream| stream.kind == change.name.0 && !stream.ended) {
            stream.sent = change.version;
            let Some(event) = stream.event(change) else { continue };
            let Scramble { lose, double, swap } = stream.scramble;
            let chance: f64 = rng.random();
            if chance < lose {
                lossy = true;
            } else if chance < lose + double {
                stream.write(event.clone());
                stream.write(event);
            } else if chance < lose + double + swap && stream.swapped.is_none() {
                stream.swapped = Some(event);
            } else {
                stream.write(event);
                if let Some(late) = stream.swapped.take() {
                    stream.write(late);
                }
            }
        }
        self.lossy |= lossy;
    }

    /// Two seconds before its end: where the stream has got to, if that is news.
    pub(crate) fn bookmark(&mut self, id: u64, version: u64) {
        let stream = self.open.iter_mut().find(|stream| stream.id == id && !stream.ended);
        if let Some(stream) = stream
            && version > stream.sent
            && stream.swapped.is_none()
        {
            stream.sent = version;
            stream.write(bookmark(version));
        }
    }

    /// Its time is over.
    pub(crate) fn end(&mut self, id: u64) {
        if let Some(stream) = self.open.iter_mut().find(|stream| stream.id == id) {
            self.lossy |= stream.swapped.take().is_some();
            stream.ended = true;
        }
        self.clean();
    }

    /// Something happens to all streams of `kind`, or of every kind.
    pub(crate) fn suffer(&mut self, kind: Option<Kind>, mishap: Mishap) {
        let mut lossy = false;
        for stream in self.open.iter_mut().filter(|stream| kind.is_none_or(|kind| kind == stream.kind)) {
            match mishap {
                Mishap::Garbage => stream.write("{\"type\":\"ADD\n".into()),
                Mishap::OldBookmark => stream.write(bookmark(11)),
                Mishap::Reset | Mishap::End | Mishap::Gone => {
                    // What was held is lost with the stream; the next one begins where the client got to.
                    stream.held = None;
                    lossy |= stream.swapped.take().is_some();
                    stream.ended = true;
                    if mishap == Mishap::Gone {
                        let status = r#"{"kind":"Status","code":410,"reason":"Expired","message":"too old"}"#;
                        stream.write(line("ERROR", status));
                    } else if mishap == Mishap::Reset {
                        let reset = Err(io::ErrorKind::ConnectionReset.into());
                        drop(stream.pipe.unbounded_send(reset));
                    }
                }
            }
        }
        self.lossy |= lossy;
        self.clean();
    }

    /// From now on nothing comes through the streams of `kind`, and nothing is lost.
    pub(crate) fn hold(&mut self, kind: Option<Kind>) {
        for stream in self.open.iter_mut().filter(|stream| kind.is_none_or(|kind| kind == stream.kind)) {
            stream.held.get_or_insert_default();
        }
    }

    /// What was held comes through.
    pub(crate) fn release(&mut self) {
        for stream in &mut self.open {
            for line in stream.held.take().into_iter().flatten() {
                stream.write(line);
            }
        }
        self.clean();
    }

    /// From now on events of the streams that are open are disturbed.
    pub(crate) fn scramble(&mut self, scramble: Scramble) {
        let mut late = Vec::new();
        for stream in &mut self.open {
            stream.scramble = scramble;
            if scramble == Scramble::default()
                && let Some(line) = stream.swapped.take()
            {
                late.push((stream.id, line));
            }
        }
        for (id, line) in late {
            if let Some(stream) = self.open.iter_mut().find(|stream| stream.id == id) {
                stream.write(line);
            }
        }
    }

    fn clean(&mut self) {
        self.open.retain(|stream| !stream.is_over());
    }
}

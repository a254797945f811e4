//! What a guest says: log lines out of `log.write`, stdout and stderr.
//!
//! Bounded in bytes a call, cut into lines, escaped, and published as tracing
//! events with plugin, key and pass. The end of stderr is kept aside even when
//! the budget is used up: that is where a panic's message is.

use std::collections::VecDeque;

use tracing::{debug, error, info, warn};
use windlass_core::code::printable;
use windlass_core::name::PluginName;

/// Longest line in bytes; what is longer is cut.
const LINE_BYTES: usize = 4096;

/// How much of the end of stderr is kept for messages.
const TAIL_BYTES: usize = 1024;

/// What Rust prints after a panic's message: advice that nobody can follow here.
const ADVICE: &str = "note: run with `RUST_BACKTRACE=1`";

/// Whose lines these are.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    pub(crate) plugin: PluginName,
    /// `<namespace>/<name>` of the primary; empty while the manifest is asked for.
    pub(crate) key: String,
    /// Number of the pass; 0 while the manifest is asked for.
    pub(crate) pass: u64,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Which stream bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// The log of one call.
#[derive(Debug)]
pub(crate) struct Output {
    speaker: Speaker,
    left: usize,
    limit: usize,
    dropped: usize,
    out: Vec<u8>,
    err: Vec<u8>,
    tail: VecDeque<u8>,
}

impl Output {
    /// At most `limit` bytes are published.
    pub(crate) fn new(speaker: Speaker, limit: usize) -> Self {
        Self {
            speaker,
            left: limit,
            limit,
            dropped: 0,
            out: Vec::new(),
            err: Vec::new(),
            tail: VecDeque::new(),
        }
    }

    /// Takes bytes of a stream and publishes the lines that they complete.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        if stream == Stream::Err {
            self.remember(bytes);
        }
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.extend(stream, &bytes[..end]);
            self.flush(stream);
            bytes = &bytes[end + 1..];
            if self.left == 0 {
                // The rest could only be counted: no need to look for its lines.
                self.dropped += bytes.len();
                return;
            }
        }
        self.extend(stream, bytes);
    }

    /// Publishes one line.
    pub(crate) fn line(&mut self, level: Level, text: &str) {
        let cost = text.len().max(1);
        if cost > self.left {
            self.dropped += cost;
            self.left = 0;
            return;
        }
        self.left -= cost;
        self.publish(level, &printable(text, LINE_BYTES));
    }

    /// Publishes lines that were never ended, and how much was dropped.
    pub(crate) fn finish(&mut self) {
        self.flush(Stream::Out);
        self.flush(Stream::Err);
        if self.dropped > 0 {
            let text =
                format!("{} bytes of output dropped: more than {} in one call", self.dropped, self.limit);
            self.dropped = 0;
            self.publish(Level::Warn, &text);
        }
    }

    /// The last lines of stderr, printable, at most `max` bytes.
    pub(crate) fn last_words(&self, max: usize) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&tail);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with(ADVICE))
            .collect();
        let text = printable(&lines.join(" | "), 4 * TAIL_BYTES);
        // The end counts: a panic prints its message last.
        let from = text.ceil_char_boundary(text.len().saturating_sub(max));
        text[from..].to_owned()
    }

    fn remember(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let over = (self.tail.len() + bytes.len()).saturating_sub(TAIL_BYTES);
        self.tail.drain(..over);
        self.tail.extend(bytes);
    }

    fn partial(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        }
    }

    fn extend(&mut self, stream: Stream, bytes: &[u8]) {
        let partial = self.partial(stream);
        let room = LINE_BYTES - partial.len();
        partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.dropped += bytes.len().saturating_sub(room);
    }

    fn flush(&mut self, stream: Stream) {
        let bytes = std::mem::take(self.partial(stream));
        let level = match stream {
            Stream::Out => Level::Info,
            Stream::Err => Level::Warn,
        };
        if !bytes.is_empty() {
            self.line(level, String::from_utf8_lossy(&bytes).trim_end_matches('\r'));
        }
    }

    fn publish(&self, level: Level, text: &str) {
        let Speaker { plugin, key, pass } = &self.speaker;
        match level {
            Level::Debug => debug!(target: "windlass::guest", %plugin, key, pass, "{text}"),
            Level::Info => info!(target: "windlass::guest", %plugin, key, pass, "{text}"),
            Level::Warn => warn!(target: "windlass::guest", %plugin, key, pass, "{text}"),
            Level::Error => error!(target: "windlass::guest", %plugin, key, pass, "{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(limit: usize, say: impl FnOnce(&mut Output)) -> Vec<String> {
        let sink = Sink::default();
        let to = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || to.clone())
            .with_ansi(false)
            .without_time()
            .with_max_level(tracing::Level::DEBUG)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let speaker =
                Speaker { plugin: PluginName::try_new("p").expect("valid"), key: "ns/x".to_owned(), pass: 7 };
            let mut output = Output::new(speaker, limit);
            say(&mut output);
            output.finish();
        });
        let bytes = sink.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("text").lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn bytes_become_lines_with_plugin_key_and_pass() {
        let lines = logged(1000, |output| {
            output.write(Stream::Out, b"one\ntw");
            output.write(Stream::Err, b"bad \x1b[31m\xff\r\n");
            output.write(Stream::Out, b"o");
            output.line(Level::Error, "three\nfour");
        });
        assert_eq!(
            lines,
            [
                r#"INFO windlass::guest: one plugin=p key="ns/x" pass=7"#,
                r#"WARN windlass::guest: bad  [31m� plugin=p key="ns/x" pass=7"#,
                r#"ERROR windlass::guest: three four plugin=p key="ns/x" pass=7"#,
                r#"INFO windlass::guest: two plugin=p key="ns/x" pass=7"#,
            ]
        );
    }

    #[test]
    fn a_flood_is_cut_once_and_a_panic_is_still_heard() {
        let mut words = String::new();
        let lines = logged(50, |output| {
            for _ in 0..1000 {
                output.write(Stream::Out, b"0123456789\n");
            }
            output.write(Stream::Err, &[b'x'; 5000]);
            output.write(
                Stream::Err,
                b"\npanicked at src/lib.rs:1:\nboom\nnote: run with `RUST_BACKTRACE=1` etc\n",
            );
            words = output.last_words(1024);
        });
        assert_eq!(lines.len(), 6, "{lines:?}");
        assert!(lines[5].contains("dropped: more than 50 in one call"), "{}", lines[5]);
        assert!(words.ends_with("x | panicked at src/lib.rs:1: | boom"), "{words}");
    }
}

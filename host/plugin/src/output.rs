//! What a guest says: log lines out of `log.write`, stdout and stderr.
//!
//! Bounded in bytes a call, cut into lines, escaped, and handed back with the answer:
//! whoever asked publishes them. The end of stderr is kept aside even when the budget
//! is used up: that is where a panic's message is.

use std::collections::VecDeque;

use windlass_core::code::printable;
use windlass_core::guests::{Level, Line};

/// Longest line in bytes; what is longer is cut.
const LINE_BYTES: usize = 4096;

/// How much of the end of stderr is kept for messages.
const TAIL_BYTES: usize = 1024;

/// What Rust prints after a panic's message: advice that nobody can follow here.
const ADVICE: &str = "note: run with `RUST_BACKTRACE=1`";

/// Which stream bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// The log of one call.
#[derive(Debug)]
pub(crate) struct Output {
    left: usize,
    kept: usize,
    dropped: usize,
    lines: Vec<Line>,
    out: Vec<u8>,
    err: Vec<u8>,
    tail: VecDeque<u8>,
}

impl Output {
    /// At most `limit` bytes are kept.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            left: limit,
            kept: 0,
            dropped: 0,
            lines: Vec::new(),
            out: Vec::new(),
            err: Vec::new(),
            tail: VecDeque::new(),
        }
    }

    /// Takes bytes of a stream and keeps the lines that they complete.
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

    /// Keeps one line.
    pub(crate) fn line(&mut self, level: Level, text: &str) {
        let cost = text.len().max(1);
        if cost > self.left {
            self.dropped += cost;
            self.left = 0;
            return;
        }
        self.left -= cost;
        self.kept += cost;
        self.lines.push(Line { level, text: printable(text, LINE_BYTES) });
    }

    /// Ends lines that were never ended.
    pub(crate) fn finish(&mut self) {
        self.flush(Stream::Out);
        self.flush(Stream::Err);
    }

    /// Everything that was kept, in order.
    pub(crate) fn take_lines(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.lines)
    }

    /// Bytes that were dropped.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped
    }

    /// Bytes that the guest wrote, kept or not.
    pub(crate) fn written(&self) -> usize {
        self.kept + self.dropped
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(limit: usize, say: impl FnOnce(&mut Output)) -> (Vec<(Level, String)>, usize) {
        let mut output = Output::new(limit);
        say(&mut output);
        output.finish();
        let lines = output.take_lines().into_iter().map(|line| (line.level, line.text)).collect();
        (lines, output.dropped())
    }

    #[test]
    fn bytes_become_lines_in_the_order_in_which_they_ended() {
        let (lines, dropped) = said(1000, |output| {
            output.write(Stream::Out, b"one\ntw");
            output.write(Stream::Err, b"bad \x1b[31m\xff\r\n");
            output.write(Stream::Out, b"o");
            output.line(Level::Error, "three\nfour");
        });
        let expected = [
            (Level::Info, "one"),
            (Level::Warn, "bad  [31m\u{fffd}"),
            (Level::Error, "three four"),
            (Level::Info, "two"),
        ];
        assert_eq!(lines, expected.map(|(level, text)| (level, text.to_owned())));
        assert_eq!(dropped, 0);
    }

    #[test]
    fn a_flood_is_cut_and_counted_and_a_panic_is_still_heard() {
        let mut words = String::new();
        let (lines, dropped) = said(50, |output| {
            for _ in 0..1000 {
                output.write(Stream::Out, b"0123456789\n");
            }
            output.write(Stream::Err, &[b'x'; 5000]);
            output.write(
                Stream::Err,
                b"\npanicked at src/lib.rs:1:\nboom\nnote: run with `RUST_BACKTRACE=1` etc\n",
            );
            words = output.last_words(1024);
            assert_eq!(output.written(), 10_000 + 5000 + 69, "what did not fit is not counted twice");
        });
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(dropped > 14_000, "{dropped}");
        assert!(words.ends_with("x | panicked at src/lib.rs:1: | boom"), "{words}");
    }
}

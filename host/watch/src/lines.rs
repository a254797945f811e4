//! Lines out of chunks: how a watch's body becomes one JSON text at a time.
//!
//! Chunks end anywhere. A line is handed out only when it is complete, and one
//! that is longer than the bound is an error, so that a peer that never ends its
//! line cannot fill the memory.

use bytes::{Bytes, BytesMut};

/// Longest line in bytes: 16 MiB. An object in etcd is at most 1.5 MiB; the rest
/// is room for other stores behind the API server.
pub(crate) const LINE_MAX_BYTES: usize = 16 << 20;

/// Cuts a body into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    held: BytesMut,
    /// Bytes at the front of `held` that are known to hold no line end.
    scanned: usize,
    max: usize,
}

/// Why there is no next line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    /// The bound was reached before the line's end.
    #[error("line is longer than {0} bytes")]
    TooLong(usize),
}

impl Lines {
    /// Lines of at most `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self { held: BytesMut::new(), scanned: 0, max }
    }

    /// Takes the next chunk of the body.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.held.extend_from_slice(chunk);
    }

    /// The next complete line without its end; `None` until more has been pushed.
    /// Empty lines are skipped.
    ///
    /// # Errors
    /// [`LineError::TooLong`]; nothing can be read after that.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, LineError> {
        loop {
            let Some(offset) = self.held[self.scanned..].iter().position(|b| *b == b'\n') else {
                self.scanned = self.held.len();
                return if self.held.len() > self.max { Err(LineError::TooLong(self.max)) } else { Ok(None) };
            };
            let end = self.scanned + offset;
            self.scanned = 0;
            let line = self.held.split_to(end + 1).freeze().slice(..end);
            if line.len() > self.max {
                return Err(LineError::TooLong(self.max));
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line));
            }
        }
    }

    /// Whether bytes are left that no line end followed.
    pub(crate) fn is_cut(&self) -> bool {
        !self.held.iter().all(u8::is_ascii_whitespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_wherever_the_chunks_end() {
        let body = b"{\"a\":1}\n\n{\"b\":2}\r\n{\"c\":3}\n{\"d\"";
        for size in 1..body.len() {
            let mut lines = Lines::new(64);
            let mut found = Vec::new();
            for chunk in body.chunks(size) {
                lines.push(chunk);
                while let Some(line) = lines.next().expect("short") {
                    found.push(String::from_utf8(line.to_vec()).expect("utf-8").trim().to_owned());
                }
            }
            assert_eq!(found, ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"], "chunks of {size}");
            assert!(lines.is_cut());
        }
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_bound() {
        let mut lines = Lines::new(8);
        lines.push(b"12345678");
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"9");
        assert_eq!(lines.next(), Err(LineError::TooLong(8)));
        let mut lines = Lines::new(8);
        lines.push(b"123456789\n");
        assert_eq!(lines.next(), Err(LineError::TooLong(8)));
    }
}

//! Frames: values over a stream socket, each as its length (4 bytes, little endian) and
//! its postcard form.
//!
//! Everything blocks and everything is bounded: whoever receives says how large a frame may
//! be and until when it is waited for, so that a peer that lies, stalls or floods costs a
//! known amount. Nothing is allocated for a length that somebody merely announced.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postcard::ser_flavors::Flavor;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use serde::{Deserialize, Serialize};

/// Bytes in front of each frame.
const HEADER_BYTES: usize = 4;

/// How often a wait looks at its deadline. A deadline is overrun by this at most.
const TICK: Duration = Duration::from_millis(20);

/// What a buffer holds from the start, in bytes: most frames fit.
const BUFFER_BYTES: usize = 16 << 10;

/// What a buffer may keep when it is put aside, in bytes; a larger one is given back.
const KEPT_BYTES: usize = 64 << 10;

/// Why a frame was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side has closed the socket, in most cases by ending.
    #[error("the other side is gone")]
    Closed,
    /// The deadline has passed. The stream may be in the middle of a frame: it cannot be used again.
    #[error("nothing came in time")]
    TimedOut,
    /// More than was agreed.
    #[error("a frame of more than {most} bytes")]
    TooLarge {
        /// What was agreed.
        most: usize,
    },
    /// The bytes are not the value that was expected.
    #[error("a frame that does not decode")]
    Garbage(#[source] postcard::Error),
    /// Bytes behind the value or behind the frame.
    #[error("{0} bytes where nothing may follow")]
    Excess(usize),
    /// The socket failed.
    #[error("use the socket")]
    Io(#[source] io::Error),
}

impl From<Errno> for FrameError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => FrameError::Closed,
            other => FrameError::Io(other.into()),
        }
    }
}

/// Room for one frame; reused, so that a warm conversation allocates nothing.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// A buffer that has already what most frames need.
    pub(crate) fn roomy() -> Self {
        Self { bytes: Vec::with_capacity(BUFFER_BYTES) }
    }

    /// Gives back what an unusually large frame has taken.
    pub fn settle(&mut self) {
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
    }

    /// Makes room for a frame that is to be received.
    pub(crate) fn expect_frame(&mut self) {
        self.bytes.clear();
        self.bytes.reserve(BUFFER_BYTES);
    }

    /// Fills the buffer with the frame of `message`.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] as soon as it is more than `most` bytes.
    pub fn encode<T: Serialize + ?Sized>(&mut self, message: &T, most: usize) -> Result<(), FrameError> {
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
        let body = Body { bytes: &mut self.bytes, end: HEADER_BYTES + most.min(u32::MAX as usize) };
        postcard::serialize_with_flavor(message, body).map_err(|error| match error {
            postcard::Error::SerializeBufferFull => FrameError::TooLarge { most },
            other => FrameError::Garbage(other),
        })?;
        let length = header(self.bytes.len() - HEADER_BYTES, most)?;
        self.bytes[..HEADER_BYTES].copy_from_slice(&length);
        Ok(())
    }

    /// The last frame, its length in front.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.bytes
    }

    /// The last frame without its length.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }
}

fn header(bytes: usize, most: usize) -> Result<[u8; HEADER_BYTES], FrameError> {
    u32::try_from(bytes).map(u32::to_le_bytes).map_err(|_| FrameError::TooLarge { most })
}

/// Where postcard writes: behind the header, up to an end.
struct Body<'a> {
    bytes: &'a mut Vec<u8>,
    end: usize,
}

impl Flavor for Body<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        if data.len() > self.end - self.bytes.len() {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.try_extend(&[data])
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Reads one value from `body`, which holds nothing else.
///
/// # Errors
/// [`FrameError::Garbage`] and [`FrameError::Excess`].
pub fn decode<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, FrameError> {
    let (value, rest) = postcard::take_from_bytes(body).map_err(FrameError::Garbage)?;
    if rest.is_empty() { Ok(value) } else { Err(FrameError::Excess(rest.len())) }
}

/// One end of a stream socket. `&self` everywhere: whose turn it is to speak is the
/// protocol's business.
#[derive(Debug)]
pub struct Wire {
    pub(crate) stream: Arc<UnixStream>,
}

impl Wire {
    /// An end that waits for as long as it takes: that of a process which has nothing else to do.
    /// Deadlines are looked at between reads only.
    pub fn patient(stream: UnixStream) -> Self {
        Self { stream: Arc::new(stream) }
    }

    /// An end whose deadlines hold.
    ///
    /// # Errors
    /// When the socket does not take its timeouts.
    pub fn punctual(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        Ok(Self { stream: Arc::new(stream) })
    }

    /// Encodes `message` into `buffer` and writes it, as a rule with one system call.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] before anything is sent; otherwise the stream is of no more use.
    pub fn send<T: Serialize + ?Sized>(
        &self,
        buffer: &mut Buffer,
        message: &T,
        most: usize,
        until: Option<Instant>,
    ) -> Result<(), FrameError> {
        buffer.encode(message, most)?;
        self.write(&buffer.bytes, until)
    }

    /// Writes a frame that was [encoded](Buffer::encode) before.
    ///
    /// # Errors
    /// Any but [`FrameError::TooLarge`]; the stream is of no more use.
    pub(crate) fn send_frame(&self, frame: &Buffer, until: Option<Instant>) -> Result<(), FrameError> {
        self.write(&frame.bytes, until)
    }

    /// Sends bytes as they are: for what is too large to be copied into a frame. Comes out
    /// of [`receive_bytes`](Self::receive_bytes).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_bytes(&self, bytes: &[u8], most: usize, until: Option<Instant>) -> Result<(), FrameError> {
        if bytes.len() > most {
            return Err(FrameError::TooLarge { most });
        }
        self.write(&header(bytes.len(), most)?, until)?;
        self.write(bytes, until)
    }

    /// Receives one value of at most `most` bytes, which may borrow from `buffer`. Nothing may
    /// follow it: the other side speaks when it is asked.
    ///
    /// # Errors
    /// Any; the stream is of no more use after all of them.
    pub fn receive<'b, T: Deserialize<'b>>(
        &self,
        buffer: &'b mut Buffer,
        most: usize,
        until: Option<Instant>,
    ) -> Result<T, FrameError> {
        decode(self.receive_bytes(buffer, most, until)?)
    }

    /// Receives one frame of at most `most` bytes as it is.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_bytes<'b>(
        &self,
        buffer: &'b mut Buffer,
        most: usize,
        until: Option<Instant>,
    ) -> Result<&'b [u8], FrameError> {
        buffer.expect_frame();
        self.receive_rest(buffer, most, until)
    }

    /// As [`receive_bytes`](Self::receive_bytes) for a frame of which a part may [have come](Self::receive_now).
    pub(crate) fn receive_rest<'b>(
        &self,
        buffer: &'b mut Buffer,
        most: usize,
        until: Option<Instant>,
    ) -> Result<&'b [u8], FrameError> {
        let bytes = &mut buffer.bytes;
        self.fill(bytes, HEADER_BYTES, until)?;
        let length = announced(bytes, most)?;
        self.fill(bytes, HEADER_BYTES + length, until)?;
        whole(bytes, length)
    }

    /// Takes what has come of a frame of at most `most` bytes that [is expected](Buffer::expect_frame), and does not
    /// wait. Nothing until it is whole.
    ///
    /// # Errors
    /// As [`receive`](Self::receive) but for the deadline.
    pub(crate) fn receive_now<'b>(
        &self,
        buffer: &'b mut Buffer,
        most: usize,
    ) -> Result<Option<&'b [u8]>, FrameError> {
        let bytes = &mut buffer.bytes;
        loop {
            let length = if bytes.len() < HEADER_BYTES { None } else { Some(announced(bytes, most)?) };
            let wanted = HEADER_BYTES + length.unwrap_or(0);
            match length {
                Some(length) if bytes.len() >= wanted => return whole(bytes, length).map(Some),
                _ => make_room(bytes, wanted),
            }
            match rustix::net::recv(&self.stream, spare_capacity(bytes), RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(FrameError::Closed),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Reads until `bytes` holds at least `wanted`; grows it only by as much as has come.
    fn fill(&self, bytes: &mut Vec<u8>, wanted: usize, until: Option<Instant>) -> Result<(), FrameError> {
        while bytes.len() < wanted {
            make_room(bytes, wanted);
            match rustix::io::read(&self.stream, spare_capacity(bytes)) {
                Ok(0) => return Err(FrameError::Closed),
                Ok(_) => {}
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(other) => return Err(other.into()),
            }
            if bytes.len() < wanted {
                in_time(until)?;
            }
        }
        Ok(())
    }

    /// Writes of `bytes` what the socket takes without waiting, and says how many those are.
    ///
    /// # Errors
    /// As [`send`](Self::send) but for the deadline.
    pub(crate) fn write_now(&self, bytes: &[u8]) -> Result<usize, FrameError> {
        let mut written = 0;
        while written < bytes.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, &bytes[written..], flags) {
                Ok(0) => return Err(FrameError::Closed),
                Ok(n) => written += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(other) => return Err(other.into()),
            }
        }
        Ok(written)
    }

    /// Writes bytes that make up a frame, or the rest of one.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) fn write(&self, mut bytes: &[u8], until: Option<Instant>) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.stream, bytes) {
                Ok(0) => return Err(FrameError::Closed),
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(other) => return Err(other.into()),
            }
            if !bytes.is_empty() {
                in_time(until)?;
            }
        }
        Ok(())
    }
}

/// The frame that `bytes` holds, if nothing is behind it.
fn whole(bytes: &[u8], length: usize) -> Result<&[u8], FrameError> {
    match bytes.len() - HEADER_BYTES - length {
        0 => Ok(&bytes[HEADER_BYTES..]),
        excess => Err(FrameError::Excess(excess)),
    }
}

/// Lets `bytes` grow towards `wanted`, by no more than has come already.
fn make_room(bytes: &mut Vec<u8>, wanted: usize) {
    if bytes.len() == bytes.capacity() {
        bytes.reserve_exact((wanted - bytes.len()).min(bytes.len().max(BUFFER_BYTES)));
    }
}

/// The length that a header announces, if it is within what was agreed.
pub(crate) fn announced(header: &[u8], most: usize) -> Result<usize, FrameError> {
    let length = header[..HEADER_BYTES].try_into().map(u32::from_le_bytes).expect("four bytes are a u32");
    match usize::try_from(length) {
        Ok(length) if length <= most => Ok(length),
        _ => Err(FrameError::TooLarge { most }),
    }
}

pub(crate) fn in_time(until: Option<Instant>) -> Result<(), FrameError> {
    match until {
        Some(until) if Instant::now() >= until => Err(FrameError::TimedOut),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn pair() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        (Wire::punctual(ours).expect("timeouts"), theirs)
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(60))
    }

    #[test]
    fn what_is_sent_is_received() {
        let (ours, theirs) = pair();
        let theirs = Wire::patient(theirs);
        let (mut out, mut into) = (Buffer::default(), Buffer::default());
        let text = "ü".repeat(70_000);
        std::thread::scope(|threads| {
            threads.spawn(|| ours.send(&mut out, &(7u32, &text), 1 << 20, None));
            let got: (u32, &str) = theirs.receive(&mut into, 1 << 20, None).expect("a frame");
            assert_eq!(got, (7, text.as_str()));
        });
        ours.send_bytes(b"raw", 3, None).expect("sent");
        assert_eq!(theirs.receive_bytes(&mut into, 3, None).expect("bytes"), b"raw");
    }

    #[test]
    fn more_than_was_agreed_is_neither_sent_nor_received() {
        let (ours, theirs) = pair();
        let mut buffer = Buffer::default();
        let text = "x".repeat(100);
        assert!(matches!(ours.send(&mut buffer, &text, 100, None), Err(FrameError::TooLarge { most: 100 })));
        ours.send(&mut buffer, &text, 101, None).expect("a length and 100 bytes");
        let got = Wire::patient(theirs).receive::<String>(&mut buffer, 100, None);
        assert!(matches!(got, Err(FrameError::TooLarge { most: 100 })), "{got:?}");
    }

    #[test]
    fn an_announced_length_costs_nothing() {
        let (ours, mut theirs) = pair();
        theirs.write_all(&[0, 0, 0, 0x40, 1]).expect("written");
        let mut buffer = Buffer::default();
        let got = ours.receive::<String>(&mut buffer, 1 << 30, soon());
        assert!(matches!(got, Err(FrameError::TimedOut)), "{got:?}");
        assert!(buffer.bytes.capacity() <= 2 * BUFFER_BYTES);
    }

    #[test]
    fn silence_dribble_and_a_full_socket_end_at_the_deadline() {
        let (ours, mut theirs) = pair();
        let mut buffer = Buffer::default();
        assert!(matches!(ours.receive::<u8>(&mut buffer, 9, soon()), Err(FrameError::TimedOut)));
        let big = vec![0u8; 4 << 20];
        assert!(matches!(ours.send_bytes(&big, big.len(), soon()), Err(FrameError::TimedOut)));
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                theirs.set_nonblocking(true).expect("set");
                theirs.write_all(&[0, 0, 4, 0]).expect("a header");
                while !done.load(Ordering::Relaxed) {
                    let _byte = theirs.write(&[0]);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let got = ours.receive::<u8>(&mut buffer, 1 << 20, soon());
            done.store(true, Ordering::Relaxed);
            assert!(matches!(got, Err(FrameError::TimedOut)), "{got:?}");
        });
    }

    #[test]
    fn nothing_may_follow_a_value_or_a_frame() {
        let (ours, mut theirs) = pair();
        let mut buffer = Buffer::default();
        theirs.write_all(&[2, 0, 0, 0, 1, 1]).expect("written");
        assert!(matches!(ours.receive::<u8>(&mut buffer, 9, soon()), Err(FrameError::Excess(1))));
        theirs.write_all(&[1, 0, 0, 0, 1, 9, 9]).expect("written");
        assert!(matches!(ours.receive::<u8>(&mut buffer, 9, soon()), Err(FrameError::Excess(2))));
        theirs.write_all(&[1, 0, 0, 0, 7]).expect("written");
        assert!(matches!(ours.receive::<bool>(&mut buffer, 9, soon()), Err(FrameError::Garbage(_))));
        drop(theirs);
        assert!(matches!(ours.receive::<u8>(&mut buffer, 9, soon()), Err(FrameError::Closed)));
        assert!(matches!(ours.send(&mut buffer, &1u8, 9, soon()), Err(FrameError::Closed)));
    }

    #[test]
    fn a_large_frame_does_not_keep_its_memory() {
        let mut buffer = Buffer::default();
        buffer.encode(&"x".repeat(1 << 20), 2 << 20).expect("fits");
        buffer.settle();
        assert_eq!(buffer.bytes.capacity(), 0);
    }
}

//! Descriptors that travel with a frame: how a process that can open nothing gets what it
//! works on.
//!
//! Read by exact lengths, header and body apart, so that frames may follow each other
//! and a descriptor is found with the frame that carries it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{Buffer, FrameError, Wire, announced, decode, in_time};

/// Descriptors with one frame, at most.
pub(crate) const DESCRIPTORS_MAX: usize = 2;

impl Wire {
    /// As [`send`](Wire::send), with descriptors. They arrive with the frame's first byte.
    ///
    /// # Errors
    /// As [`send`](Wire::send); a frame that does not fit into the socket at once is
    /// [`FrameError::TimedOut`]: such frames are small, and whoever does not read them is stuck.
    pub fn send_with<T: Serialize + ?Sized>(
        &self,
        buffer: &mut Buffer,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
        most: usize,
    ) -> Result<(), FrameError> {
        buffer.encode(message, most)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(FrameError::TooLarge { most: DESCRIPTORS_MAX });
        }
        let frame = buffer.frame();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match rustix::net::sendmsg(&self.stream, &[IoSlice::new(frame)], &mut control, flags) {
                Ok(sent) if sent == frame.len() => return Ok(()),
                Ok(_) | Err(Errno::AGAIN) => return Err(FrameError::TimedOut),
                Err(Errno::INTR) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Receives one frame and the descriptors that came with it, each close-on-exec.
    ///
    /// # Errors
    /// As [`receive`](Wire::receive).
    pub fn receive_with<T: DeserializeOwned>(
        &self,
        most: usize,
        until: Option<Instant>,
    ) -> Result<(T, Vec<OwnedFd>), FrameError> {
        let mut descriptors = Vec::new();
        let mut header = [0; 4];
        self.read_exact(&mut header, &mut descriptors, until)?;
        let mut body = vec![0; announced(&header, most)?];
        self.read_exact(&mut body, &mut descriptors, until)?;
        Ok((decode(&body)?, descriptors))
    }

    fn read_exact(
        &self,
        mut into: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
        until: Option<Instant>,
    ) -> Result<(), FrameError> {
        while !into.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let got = rustix::net::recvmsg(&self.stream, &mut [IoSliceMut::new(into)], &mut control, flags);
            match got {
                Ok(got) if got.bytes == 0 => return Err(FrameError::Closed),
                Ok(got) => {
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(sent) = message {
                            descriptors.extend(sent);
                        }
                    }
                    into = &mut into[got.bytes..];
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(other) => return Err(other.into()),
            }
            if descriptors.len() > DESCRIPTORS_MAX {
                return Err(FrameError::Excess(descriptors.len()));
            }
            if !into.is_empty() {
                in_time(until)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_the_frame_that_carries_it() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let (ours, theirs) = (Wire::patient(ours), Wire::patient(theirs));
        let (mut near, far) = UnixStream::pair().expect("sockets");
        let mut buffer = Buffer::default();
        ours.send_with(&mut buffer, "first", &[], 64).expect("sent");
        ours.send_with(&mut buffer, "second", &[far.as_fd()], 64).expect("sent");
        ours.send_with(&mut buffer, "third", &[], 64).expect("sent");
        drop(far);
        let (text, none): (String, _) = theirs.receive_with(64, None).expect("a frame");
        assert_eq!((text.as_str(), none.len()), ("first", 0));
        let (text, mut one): (String, _) = theirs.receive_with(64, None).expect("a frame");
        assert_eq!((text.as_str(), one.len()), ("second", 1));
        let (text, none): (String, _) = theirs.receive_with(64, None).expect("a frame");
        assert_eq!((text.as_str(), none.len()), ("third", 0));
        let mut far = UnixStream::from(one.pop().expect("a descriptor"));
        near.write_all(b"x").expect("written");
        let mut byte = [0];
        far.read_exact(&mut byte).expect("read");
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn whoever_does_not_read_does_not_hold_up_the_sender() {
        let (ours, _theirs) = UnixStream::pair().expect("sockets");
        let ours = Wire::patient(ours);
        let mut buffer = Buffer::default();
        let text = "x".repeat(1 << 16);
        let refused = (0..1_000).find_map(|_| ours.send_with(&mut buffer, &text, &[], 1 << 20).err());
        assert!(matches!(refused, Some(FrameError::TimedOut)), "{refused:?}");
    }
}

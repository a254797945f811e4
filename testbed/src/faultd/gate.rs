//! One client's TCP connection, which can be silenced and reset.
//!
//! Silence is made by not reading and not writing, so the kernel goes on as it does when packets are lost: it keeps what was
//! sent, closes nothing, and everything arrives when the silence ends. What we would write is kept here meanwhile, as the
//! kernel keeps what nobody acknowledges: a server that cannot get rid of one h2 answer must not stop hearing requests.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::rule::Way;

/// How much is kept of what cannot be written; then writers wait.
const KEPT_BYTES: usize = 1 << 20;

/// Which ways are silent, by [`Way`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Silence {
    pub(super) request: bool,
    pub(super) response: bool,
}

/// The switches of one connection.
#[derive(Debug)]
pub(super) struct Gate {
    inner: Mutex<Inner>,
    reset: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    silence: Silence,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Gate {
    pub(super) fn new(silence: Silence) -> Arc<Self> {
        let inner = Mutex::new(Inner { silence, reader: None, writer: None });
        Arc::new(Self { inner, reset: watch::Sender::new(false) })
    }

    /// Silences ways, or lets what has waited flow.
    pub(super) fn set(&self, silence: Silence) {
        let wakers = {
            let mut inner = self.lock();
            inner.silence = silence;
            [inner.reader.take(), inner.writer.take()]
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Has the connection reset; nothing that was written and not yet sent goes out.
    pub(super) fn reset(&self) {
        self.reset.send_replace(true);
    }

    /// Ends when the connection is to be reset.
    pub(super) async fn is_reset(&self) {
        // The sender is in `self`, so there is no other way for this to end.
        drop(self.reset.subscribe().wait_for(|reset| *reset).await);
    }

    /// Waits for a way to be open.
    fn pass(&self, way: Way, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        let silent = match way {
            Way::Request => inner.silence.request,
            Way::Response => inner.silence.response,
        };
        if !silent {
            return Poll::Ready(());
        }
        let waker = match way {
            Way::Request => &mut inner.reader,
            Way::Response => &mut inner.writer,
        };
        *waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection behind its gate.
#[derive(Debug)]
pub(super) struct Gated {
    stream: TcpStream,
    gate: Arc<Gate>,
    /// Written while the way to the client was silent, and still to be sent.
    kept: BytesMut,
}

impl Gated {
    pub(super) fn new(stream: TcpStream, gate: Arc<Gate>) -> Self {
        Self { stream, gate, kept: BytesMut::new() }
    }

    /// Waits for the way to the client, and sends what was kept.
    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.gate.pass(Way::Response, cx));
        while !self.kept.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.kept))?;
            self.kept.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        if *self.gate.reset.borrow() {
            // Closing with no time to linger is what makes it a reset; a failure leaves an ordinary end.
            self.stream.set_zero_linger().ok();
        }
    }
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.gate.pass(Way::Request, cx));
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_kept(cx)? {
            Poll::Ready(()) => Pin::new(&mut self.stream).poll_write(cx, buffer),
            Poll::Pending if self.kept.len() < KEPT_BYTES => {
                self.kept.extend_from_slice(buffer);
                Poll::Ready(Ok(buffer.len()))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// What is kept counts as flushed; the waker that is left behind has it sent when the silence ends.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_kept(cx)? {
            Poll::Ready(()) => Pin::new(&mut self.stream).poll_flush(cx),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

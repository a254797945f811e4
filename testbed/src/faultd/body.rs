//! Bodies of answers: passed on as they come, broken off, or slowed down.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{Stream, unfold};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};

/// What the client gets.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Between the last byte of a body that breaks off and the break, so that the byte is on its way by then.
const BEFORE_THE_BREAK: Duration = Duration::from_millis(20);

/// How often a second a slow body moves.
const STEPS: u32 = 20;

pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn passed_on(body: Incoming) -> Body {
    body.map_err(io::Error::other).boxed_unsync()
}

pub(super) fn streamed(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures::StreamExt as _;
    BodyExt::boxed_unsync(StreamBody::new(stream.map(|bytes| bytes.map(Frame::data))))
}

/// The next piece of a body; trailers, which the API server does not send, are passed over.
async fn piece(body: &mut Body) -> Option<io::Result<Bytes>> {
    loop {
        match body.frame().await? {
            Ok(frame) => match frame.into_data() {
                Ok(data) => return Some(Ok(data)),
                Err(_trailers) => {}
            },
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Breaks off after so many bytes.
pub(super) fn truncated(body: Body, bytes: usize) -> Body {
    streamed(unfold((body, Some(bytes)), |(mut body, left)| async move {
        let left = left?;
        if left == 0 {
            tokio::time::sleep(BEFORE_THE_BREAK).await;
            return Some((Err(io::ErrorKind::UnexpectedEof.into()), (body, None)));
        }
        let piece = piece(&mut body).await?.map(|mut piece| piece.split_to(piece.len().min(left)));
        let left = left - piece.as_ref().map_or(0, Bytes::len);
        Some((piece, (body, Some(left))))
    }))
}

/// Comes at so many bytes a second.
pub(super) fn throttled(body: Body, bytes_a_second: u32) -> Body {
    let rate = bytes_a_second.max(1);
    let step = rate.div_ceil(STEPS);
    streamed(unfold((body, Bytes::new()), move |(mut body, mut rest)| async move {
        while rest.is_empty() {
            match piece(&mut body).await? {
                Ok(piece) => rest = piece,
                Err(error) => return Some((Err(error), (body, rest))),
            }
        }
        let part = rest.split_to(rest.len().min(step as usize));
        tokio::time::sleep(Duration::from_secs_f64(part.len() as f64 / f64::from(rate))).await;
        Some((Ok(part), (body, rest)))
    }))
}

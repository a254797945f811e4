//! What crosses the sockets between the host and its processes.

use windlass_worker::frame::{Buffer, decode};
use windlass_worker::message::{Answered, FRAME_MAX_BYTES, Heard, Ready, Requested, Said, hear};

/// The bytes are a frame's body: as the host hears it, and as a worker does. What was heard
/// is the same when it is said again.
pub fn frames(data: &[u8]) {
    // A worker trusts its host; decoding must not bring it down all the same.
    let _ = decode::<Requested<'_>>(data);
    let _ = decode::<Answered>(data);
    let _ = decode::<Ready>(data);
    let Ok(heard) = hear(data) else { return };
    let mut buffer = Buffer::default();
    let said = match &heard {
        Heard::Loaded(result) => Said::Loaded(result),
        Heard::Called(called) => Said::Called(called),
        Heard::Get(of) => Said::Ask(windlass_worker::message::Ask::Get(of)),
        Heard::List(query) => Said::Ask(windlass_worker::message::Ask::List(query)),
    };
    buffer.encode(&said, FRAME_MAX_BYTES).expect("what was heard fits a frame");
    let again = hear(buffer.body()).expect("what was heard can be said");
    assert_eq!(again, heard, "heard differently the second time");
}

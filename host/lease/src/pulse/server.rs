//! The side that is listened to: says its nonce to whoever connects, and then nothing.
//!
//! It has a thread of its own, so that it answers when every other thread is busy; what
//! ends it is the end of the process, or that of this handle.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use super::GREETING;

/// More connections than this are not held: the oldest goes. A standby whose connection
/// went comes back and finds the same nonce.
const MOST_CONNECTIONS: usize = 64;

/// A standby says nothing. Who says more than this is none.
const MOST_BYTES: usize = 1024;

/// The pause after an accept that failed, as when there are no file descriptors left.
const PAUSE: Duration = Duration::from_millis(20);

/// The pulse of this process. When it is dropped the port and all connections are closed.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to answer on `listener` with `nonce`.
    ///
    /// # Errors
    /// There is no thread or no runtime to be had; nothing to retry.
    pub fn start(listener: std::net::TcpListener, nonce: &str) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let line = format!("{GREETING}{nonce}\n");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("pulse".to_owned()).spawn(move || {
            runtime.block_on(async {
                let listener = match TcpListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => return tracing::error!(%error, "there is no pulse"),
                };
                tokio::select! {
                    // Said, or the handle is gone: both are the end.
                    _ = stopped => {}
                    () = serve(&listener, line.as_bytes()) => {}
                }
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It waits for nothing but its sockets, so this takes microseconds.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: &TcpListener, line: &[u8]) {
    let mut connections = JoinSet::new();
    let mut order: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match stream {
            Ok((stream, _)) => greet(stream, line),
            Err(error) => {
                tracing::debug!(%error, "a connection to the pulse could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Who has gone already is not held.
        if let Ok(stream) = stream {
            order.retain(|connection| !connection.is_finished());
            if order.len() >= MOST_CONNECTIONS
                && let Some(oldest) = order.pop_front()
            {
                oldest.abort();
            }
            order.push_back(connections.spawn(hold(stream)));
        }
    }
}

/// Says the line. It fits into the buffer of any new socket, so this waits for nobody, and
/// everybody who is accepted is told, however many come at once.
fn greet(stream: TcpStream, line: &[u8]) -> io::Result<TcpStream> {
    let mut stream = stream.into_std()?;
    stream.write_all(line)?;
    TcpStream::from_std(stream)
}

/// Waits for the other side to go.
async fn hold(mut stream: TcpStream) {
    let (mut buffer, mut heard) = ([0; 256], 0);
    while heard <= MOST_BYTES {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(bytes) => heard += bytes,
        }
    }
}

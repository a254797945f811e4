//! A small HTTP server: GET of a few paths, bounded in connections, bytes and time.
//!
//! What is bounded, for each listener: 64 connections at once; 5 s for a TLS handshake, 5 s for a request's head,
//! 16 KiB for it; no body; one request a connection, so that none can be kept open; 30 s for all of it. A connection
//! that comes when there are 64 takes the place of the oldest one that has not asked for anything that it may have
//! yet. So whoever opens connections and is slow keeps nobody out: who asks at once is answered at once.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{AbortHandle, AbortRegistration, Abortable};
use futures::stream::{FuturesUnordered, StreamExt as _};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::answer::Answer;
use crate::certificates::Certificates;
use crate::guard::Guard;

/// Pause after an accept that failed, as when descriptors run out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a path answers. Asked for each request; must not wait.
pub trait Routes: Send + Sync + 'static {
    /// The answer, or nothing when there is no such path (404).
    fn get(&self, path: &str) -> Option<Answer>;
}

/// What one listener puts up with. The same for all; only tests have others.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at once.
    connections: usize,
    /// How long a TLS handshake may take.
    handshake: Duration,
    /// How long a client may take to send a request's head.
    head: Duration,
    /// How many bytes that head may have.
    head_bytes: usize,
    /// How long a connection may live, its one answer included.
    whole: Duration,
}

/// The head of a request with a token of an identity provider has some KiB, hyper takes no less than 8.
const LIMITS: Limits = Limits {
    connections: 64,
    handshake: Duration::from_secs(5),
    head: Duration::from_secs(5),
    head_bytes: 16 << 10,
    whole: Duration::from_secs(30),
};

/// A listener that is bound and not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    limits: Limits,
}

/// What stands between a connection and the routes.
#[derive(Debug)]
pub struct Entry {
    /// What the server says that it is; without it there is no TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// Who may ask for what; without it everybody may.
    pub guard: Option<Arc<Guard>>,
}

impl Entry {
    /// Plain, and open to everybody.
    pub fn open() -> Self {
        Self { certificates: None, guard: None }
    }
}

/// All that a connection needs.
struct Served {
    routes: Arc<dyn Routes>,
    entry: Entry,
    limits: Limits,
}

/// One connection, as the listener sees it.
struct Open {
    number: u64,
    abort: AbortHandle,
    /// Whether it has asked for something that it may have.
    heard: Arc<AtomicBool>,
}

impl Open {
    fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Bound {
    /// Binds `address`; port 0 takes any free one.
    ///
    /// # Errors
    /// The system's, when the address is taken or not this machine's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, limits: LIMITS })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `routes` behind `entry` until `stop` resolves. Connections that are open then are dropped.
    ///
    /// # Cancel safety
    /// Dropping it closes the listener and every connection.
    pub async fn serve(self, routes: Arc<dyn Routes>, entry: Entry, stop: impl Future<Output = ()> + Send) {
        let most = self.limits.connections;
        let served = Arc::new(Served { routes, entry, limits: self.limits });
        let mut stop = pin!(stop);
        let mut connections = FuturesUnordered::new();
        // In the order in which they came.
        let mut open: VecDeque<Open> = VecDeque::with_capacity(most);
        // One that was accepted when there was no room: those that were there had just asked.
        let mut next: Option<TcpStream> = None;
        let mut number = 0;
        loop {
            if let Some(stream) = next.take_if(|_| has_room(&mut open, most)) {
                number += 1;
                let (abort, registration) = AbortHandle::new_pair();
                let heard = Arc::new(AtomicBool::new(false));
                open.push_back(Open { number, abort, heard: heard.clone() });
                connections.push(converse(stream, served.clone(), heard, registration, number));
            }
            tokio::select! {
                () = &mut stop => return,
                Some(ended) = connections.next(), if !connections.is_empty() => {
                    open.retain(|one| one.number != ended);
                }
                accepted = self.listener.accept(), if next.is_none() => match accepted {
                    Ok((stream, _)) => next = Some(stream),
                    Err(error) => {
                        warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        }
    }
}

/// Whether there is room for one more, for which the oldest connection that has not asked for anything has to go.
fn has_room(open: &mut VecDeque<Open>, most: usize) -> bool {
    if open.len() < most {
        return true;
    }
    let idle = open.iter().position(|one| !one.is_heard());
    let gone = idle.and_then(|at| open.remove(at));
    gone.is_some_and(|one| {
        one.abort.abort();
        true
    })
}

/// One connection to its end; gives its number back.
async fn converse(
    stream: TcpStream,
    served: Arc<Served>,
    heard: Arc<AtomicBool>,
    registration: AbortRegistration,
    number: u64,
) -> u64 {
    let limits = served.limits;
    let talk = Box::pin(async move {
        let Some(certificates) = &served.entry.certificates else {
            return answer_one(stream, &served, &heard).await;
        };
        let acceptor = TlsAcceptor::from(certificates.config());
        match timeout(limits.handshake, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Box::pin(answer_one(stream, &served, &heard)).await,
            Ok(Err(error)) => debug!(%error, "a connection without TLS"),
            Err(_) => debug!(within = ?limits.handshake, "no TLS handshake in time"),
        }
    });
    match Abortable::new(timeout(limits.whole, talk), registration).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => debug!(after = ?limits.whole, "a connection was closed that took too long"),
        Err(_) => debug!("a connection that asked for nothing had to make room for another"),
    }
    number
}

/// Reads one request and answers it.
async fn answer_one<S>(stream: S, served: &Served, heard: &AtomicBool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        let answer = served.answer(&head, body.is_end_stream(), heard).await;
        Ok::<Response<Full<Bytes>>, Infallible>(answer.into_response())
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // One request a connection: what is never kept open cannot keep a probe out.
        .keep_alive(false)
        .header_read_timeout(served.limits.head)
        .max_buf_size(served.limits.head_bytes)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "a connection ended early");
    }
}

impl Served {
    async fn answer(&self, head: &Parts, is_whole: bool, heard: &AtomicBool) -> Answer {
        if head.method != Method::GET && head.method != Method::HEAD {
            return Answer::refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        }
        if !is_whole {
            return Answer::refusal(StatusCode::PAYLOAD_TOO_LARGE, "a request has no body here\n");
        }
        let path = head.uri.path();
        if let Some(guard) = &self.entry.guard
            && let Err(refused) = guard.admit(&head.headers, path).await
        {
            return refused.answer();
        }
        heard.store(true, Ordering::Relaxed);
        let found = self.routes.get(path);
        found.unwrap_or_else(|| Answer::refusal(StatusCode::NOT_FOUND, "there is nothing here\n"))
    }
}

#[cfg(test)]
mod tests;

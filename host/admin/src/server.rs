//! A small HTTP server: GET of a few paths, bounded in connections and in time.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

/// Connections at once; the next one waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may live, its one answer included.
const CONNECTION_WITHIN: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, as when descriptors run out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a path answers. Asked for each request; must not wait.
pub trait Routes: Send + Sync + 'static {
    /// The answer, or nothing when there is no such path (404).
    fn get(&self, path: &str) -> Option<Answer>;
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

impl Answer {
    /// 200 with text.
    pub fn text(body: impl Into<String>) -> Self {
        Self::new(StatusCode::OK, "text/plain; charset=utf-8", body.into())
    }

    /// 503 with text: a probe that says no, and why.
    pub fn unavailable(body: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", body.into())
    }

    /// 200 with a value as JSON.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self::new(StatusCode::OK, "application/json", body),
            Err(error) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        }
    }

    /// 200 with metrics in the text format that Prometheus reads.
    pub fn metrics(body: String) -> Self {
        Self::new(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", body)
    }

    fn new(status: StatusCode, content_type: &'static str, body: String) -> Self {
        Self { status, content_type, body: body.into() }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(self.content_type));
        response
    }
}

/// A listener that is bound and not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
}

impl Bound {
    /// Binds `address`; port 0 takes any free one.
    ///
    /// # Errors
    /// The system's, when the address is taken or not this machine's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `routes` until `stop` resolves. Connections that are open then are dropped.
    ///
    /// # Cancel safety
    /// Dropping it closes the listener and every connection.
    pub async fn serve(self, routes: Arc<dyn Routes>, stop: impl Future<Output = ()> + Send) {
        let mut stop = pin!(stop);
        let mut connections = FuturesUnordered::new();
        loop {
            let room = connections.len() < CONNECTIONS_MAX;
            tokio::select! {
                () = &mut stop => return,
                Some(()) = connections.next(), if !connections.is_empty() => {}
                accepted = self.listener.accept(), if room => match accepted {
                    Ok((stream, _)) => connections.push(converse(stream, routes.clone())),
                    Err(error) => {
                        warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        }
    }
}

async fn converse(stream: TcpStream, routes: Arc<dyn Routes>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&*routes, &request);
        async move { Ok::<_, Infallible>(answer.into_response()) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // One request a connection: what is never kept open cannot keep a probe out.
        .keep_alive(false)
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_WITHIN, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => debug!(%error, "a connection ended early"),
    }
}

fn answer(routes: &dyn Routes, request: &Request<Incoming>) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Answer::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "only GET is answered here\n".into(),
        );
    }
    routes
        .get(request.uri().path())
        .unwrap_or_else(|| Answer::new(StatusCode::NOT_FOUND, "text/plain", "there is nothing here\n".into()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Two;

    impl Routes for Two {
        fn get(&self, path: &str) -> Option<Answer> {
            match path {
                "/readyz" => Some(Answer::unavailable("[-]plugins: one is loading\n")),
                "/debug/queue" => Some(Answer::json(&vec![1, 2])),
                _ => None,
            }
        }
    }

    async fn ask(request: &str) -> String {
        let bound = Bound::bind("127.0.0.1:0".parse().expect("valid")).await.expect("bound");
        let address = bound.local_addr().expect("an address");
        let asked = async {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("answered");
            text
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = bound.serve(Arc::new(Two), async { drop(stopped.await) });
        let (text, ()) = tokio::join!(
            async {
                let text = asked.await;
                drop(stop);
                text
            },
            serve
        );
        text
    }

    #[tokio::test]
    async fn each_path_answers_and_others_are_not_found() {
        let get = async |path: &str| ask(&format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        let ready = get("/readyz").await;
        assert!(ready.starts_with("HTTP/1.0 503") && ready.contains("one is loading"), "{ready}");
        let queue = get("/debug/queue?x=y").await;
        assert!(queue.contains("application/json") && queue.ends_with("[1,2]"), "{queue}");
        assert!(get("/nothing").await.starts_with("HTTP/1.0 404"));
    }

    #[tokio::test]
    async fn nothing_can_be_changed_here() {
        let answer = ask("POST /readyz HTTP/1.0\r\ncontent-length: 0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 405"), "{answer}");
    }

    #[tokio::test]
    async fn nonsense_is_refused_and_the_next_one_served() {
        assert!(ask("\0\0\0\r\n\r\n").await.contains("400"));
    }
}

//! A small HTTPS server for what an API server asks others: JSON in, JSON out.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::control_plane::ControlPlane;
use crate::runtime::{on_runtime, runtime};

/// The longest question that is read, in bytes: an object twice, as it was and as it is to be.
const QUESTION_MAX_BYTES: usize = 8 << 20;

/// What answers a question. `null` is asked for what is no JSON.
pub(crate) type Answers =
    Arc<dyn Fn(Value) -> Pin<Box<dyn Future<Output = (StatusCode, Value)> + Send>> + Send + Sync>;

/// The server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Https {
    address: SocketAddr,
    ca_pem: String,
    _tasks: JoinSet<()>,
}

impl Https {
    /// Starts a server on 127.0.0.1, with a certificate of the control plane's authority.
    ///
    /// # Errors
    /// If the cluster is external, or no port is free.
    pub(crate) async fn start(control_plane: &ControlPlane, answers: Answers) -> Result<Self> {
        let identity = control_plane.issue_serving_certificate(&["127.0.0.1"])?;
        let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        let listener = on_runtime(async { Ok(TcpListener::bind(("127.0.0.1", 0)).await?) }).await?;
        let address = listener.local_addr().context("a bound listener has an address")?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut tasks = JoinSet::new();
        tasks.spawn_on(accept(listener, acceptor, answers), runtime()?.handle());
        Ok(Self { address, ca_pem: control_plane.ca_pem().to_owned(), _tasks: tasks })
    }

    /// How an API server reaches it: a `clientConfig`.
    pub(crate) fn client_config(&self) -> Value {
        json!({ "url": format!("https://{}/", self.address), "caBundle": STANDARD.encode(&self.ca_pem) })
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, answers: Answers) {
    // Its connections end with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, acceptor.clone(), answers.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, answers: Answers) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = hyper::service::service_fn(move |request| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answer(request, &answers).await) }
    });
    // Ends when the API server hangs up, in order or not.
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(request: Request<Incoming>, answers: &Answers) -> Response<Full<Bytes>> {
    let body = Limited::new(request.into_body(), QUESTION_MAX_BYTES).collect().await;
    let question: Value =
        body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok()).unwrap_or_default();
    let (status, answer) = answers(question).await;
    let mut response = Response::new(Full::new(answer.to_string().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

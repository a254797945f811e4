//! An admission webhook that takes its time and then allows: for writes that wait inside
//! the API server while the world around them changes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::control_plane::ControlPlane;
use crate::runtime::{on_runtime, runtime};

/// The longest question that is read, in bytes: an object twice, as it was and as it is to be.
const QUESTION_MAX_BYTES: usize = 8 << 20;

/// The webhook's server. Dropping it ends it, and then the API server refuses what it would ask about.
#[derive(Debug)]
pub struct SlowWebhook {
    address: SocketAddr,
    ca_pem: String,
    delay: watch::Sender<Duration>,
    asked: watch::Receiver<u64>,
    _tasks: JoinSet<()>,
}

/// What every connection needs.
#[derive(Clone)]
struct Shared {
    acceptor: TlsAcceptor,
    delay: watch::Receiver<Duration>,
    asked: Arc<watch::Sender<u64>>,
}

impl SlowWebhook {
    /// Starts a server on 127.0.0.1 that allows everything, each time after `delay`. Nobody asks it before a
    /// [`configuration`](Self::configuration) is applied.
    ///
    /// # Errors
    /// If the cluster is external, or no port is free.
    pub async fn start(control_plane: &ControlPlane, delay: Duration) -> Result<Self> {
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
        let (delay, delayed) = watch::channel(delay);
        let (ask, asked) = watch::channel(0);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let shared = Shared { acceptor, delay: delayed, asked: Arc::new(ask) };
        let mut tasks = JoinSet::new();
        tasks.spawn_on(accept(listener, shared), runtime()?.handle());
        Ok(Self { address, ca_pem: control_plane.ca_pem().to_owned(), delay, asked, _tasks: tasks })
    }

    /// A ValidatingWebhookConfiguration that asks about every create of `plural` (of the API group `group`, version v1) in
    /// `namespace`, and refuses what it gets no answer about. The API server waits up to 30 s, but no longer than the request.
    pub fn configuration(&self, name: &str, namespace: &str, group: &str, plural: &str) -> Value {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": name },
            "webhooks": [{
                "name": "slow.windlass-testbed.example",
                "clientConfig": {
                    "url": format!("https://{}/", self.address),
                    "caBundle": STANDARD.encode(&self.ca_pem),
                },
                "rules": [{ "apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [plural] }],
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 30,
            }],
        })
    }

    /// From now on answers are given after `delay`; questions that wait already keep theirs.
    pub fn set_delay(&self, delay: Duration) {
        self.delay.send_replace(delay);
    }

    /// How many questions have come in, answered or not. Changes with each.
    pub fn asked(&self) -> watch::Receiver<u64> {
        self.asked.clone()
    }
}

async fn accept(listener: TcpListener, shared: Shared) {
    // Its connections end with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, shared.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Shared) {
    let Ok(stream) = shared.acceptor.accept(stream).await else { return };
    let service = hyper::service::service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    // Ends when the API server hangs up, in order or not.
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let body = Limited::new(request.into_body(), QUESTION_MAX_BYTES).collect().await;
    let question: Value =
        body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok()).unwrap_or_default();
    shared.asked.send_modify(|asked| *asked += 1);
    let delay = *shared.delay.borrow();
    tokio::time::sleep(delay).await;
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": { "uid": question["request"]["uid"], "allowed": true },
    });
    let mut response = Response::new(Full::new(review.to_string().into()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

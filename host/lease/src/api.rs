//! The requests of the lease: one read, one write, each exactly one HTTP exchange.
//!
//! Nothing here retries: what an answer means for leadership is the elector's to say.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use kube::client::Body;
use windlass_core::rights::Missing;

use crate::record::Lease;
use crate::step::{Failure, Write};

/// The longest answer or event that is read. A Lease is below 2 KB.
pub(crate) const LONGEST_BODY_BYTES: usize = 1 << 20;

/// The Lease at the API server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
    namespace: Arc<str>,
    name: Arc<str>,
}

/// Why a request brought no Lease: for the elector and for people.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) failure: Failure,
    /// Whether the API server, or something that stands for it, has said anything.
    pub(crate) answered: bool,
    pub(crate) message: String,
}

impl ApiError {
    fn unknown(message: impl ToString) -> Self {
        Self { failure: Failure::Unknown, answered: false, message: message.to_string() }
    }

    fn refused(message: impl ToString) -> Self {
        Self { failure: Failure::Refused, answered: true, message: message.to_string() }
    }
}

impl Api {
    pub(crate) fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        Self { client, namespace: namespace.into(), name: name.into() }
    }

    /// The client that carries the requests.
    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Reads the Lease from storage, not from a cache.
    pub(crate) async fn read(&self, timeout: Duration) -> Result<Arc<Lease>, ApiError> {
        let path = format!("{}/{}", self.collection(), self.name);
        self.exchange(Method::GET, &path, Vec::new(), timeout).await
    }

    /// Sends one compare-and-swap.
    pub(crate) async fn write(&self, write: &Write) -> Result<Arc<Lease>, ApiError> {
        let lease = Lease::written(write, &self.namespace, &self.name, Timestamp::now());
        let body = serde_json::to_vec(&lease).map_err(ApiError::refused)?;
        // The server gives up with us, so that a late commit is bounded too.
        let server_timeout = format!("timeout={}ms", write.timeout.as_millis().max(1));
        let unconditional = write.base.is_some() && lease.metadata.resource_version.is_none();
        let (method, path) = match write.base {
            None => (Method::POST, format!("{}?{server_timeout}", self.collection())),
            // The API server takes no update without a version, but a patch: what a mutant does.
            Some(_) if cfg!(feature = "mutants") && unconditional => {
                (Method::PATCH, format!("{}/{}?{server_timeout}", self.collection(), self.name))
            }
            Some(_) => (Method::PUT, format!("{}/{}?{server_timeout}", self.collection(), self.name)),
        };
        self.exchange(method, &path, body, write.timeout).await
    }

    /// Begins a list or a watch of this one Lease.
    pub(crate) async fn collection_request(&self, query: &str) -> Result<Response<Body>, ApiError> {
        let path = format!("{}?fieldSelector=metadata.name%3D{}&{query}", self.collection(), self.name);
        let response = self.send(Method::GET, &path, Vec::new()).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        Err(refusal(status, &whole(response).await?))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Arc<Lease>, ApiError> {
        let exchange = async {
            let response = self.send(method.clone(), path, body).await?;
            let status = response.status();
            let bytes = whole(response).await?;
            if !status.is_success() {
                return Err(refusal(status, &bytes));
            }
            let lease = Lease::from_json(&bytes)
                .map_err(|error| ApiError { answered: true, ..ApiError::unknown(error) })?;
            Ok(Arc::new(lease))
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::unknown(format!("{method} of the Lease: no answer within {timeout:?}"))),
        }
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Body>, ApiError> {
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_empty() {
            let patches = request.method_ref() == Some(&Method::PATCH);
            let content_type = if patches { "application/merge-patch+json" } else { "application/json" };
            request = request.header(http::header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Body::from(body)).map_err(ApiError::refused)?;
        self.client.send(request).await.map_err(|error| ApiError::unknown(told(&error)))
    }

    fn collection(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }
}

/// The whole body of an answer, up to the longest that is read.
pub(crate) async fn whole(response: Response<Body>) -> Result<Bytes, ApiError> {
    let body = Limited::new(response.into_body(), LONGEST_BODY_BYTES);
    Ok(body.collect().await.map_err(ApiError::unknown)?.to_bytes())
}

fn refusal(status: StatusCode, body: &[u8]) -> ApiError {
    let failure = match status {
        StatusCode::NOT_FOUND => Failure::Absent,
        StatusCode::CONFLICT => Failure::Conflict,
        // Gone before it was looked at, or shed by the server's flow control.
        status if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT => Failure::Refused,
        _ => Failure::Unknown,
    };
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let said = said.as_ref().and_then(|body| body.get("message")?.as_str()).unwrap_or_default();
    let missing = Missing::of_refusal(said).filter(|_| status == StatusCode::FORBIDDEN);
    let said: String = said.chars().filter(|c| !c.is_control()).take(256).collect();
    let message = if said.is_empty() { status.to_string() } else { format!("{}: {said}", status.as_u16()) };
    let message = missing.map_or(message, |missing| format!("{}: {}", status.as_u16(), missing.advice()));
    ApiError { failure, answered: true, message }
}

/// An error with its causes, in one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

//! The way from the proxy to the API server, and the certificates of both sides.
//!
//! HTTP/1.1 towards the API server whatever the client speaks: each request has a connection to itself, so a stream that is held
//! back holds up nothing else, and one that its client has left is seen to be left.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Response, Uri, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioTimer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::tasks::Tasks;
use crate::pki::Identity;

/// How many idle connections a port keeps, and for how long: less than the API server's own patience.
const IDLE: (usize, Duration) = (64, Duration::from_secs(30));

/// Headers about one connection, which end at the proxy.
const HOP_BY_HOP: [http::HeaderName; 7] = [
    header::CONNECTION,
    http::HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Sends requests to the API server as they came.
#[derive(Debug, Clone)]
pub(super) struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    authority: Authority,
}

impl Upstream {
    pub(super) fn new(server: &str, roots: &Arc<ClientConfig>, tasks: &Tasks) -> Result<Self> {
        let server: Uri = server.parse().context("the API server's address is no URL")?;
        let authority = server.authority().context("the API server's address has no host")?.clone();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config((**roots).clone())
            .https_only()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(tasks.clone())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE.0)
            .pool_idle_timeout(IDLE.1)
            .build(connector);
        Ok(Self { client, authority })
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(self.authority.clone());
        // Three valid parts make a valid whole; an empty path is the one thing that a client could have left out.
        uri.path_and_query.get_or_insert_with(|| http::uri::PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().remove(header::HOST);
        strip(request.headers_mut());
        let mut response = self.client.request(request).await?;
        strip(response.headers_mut());
        *response.version_mut() = Version::default();
        Ok(response)
    }
}

fn strip(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Trusts what the control plane's authority signed.
pub(super) fn client_config(ca_pem: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.context("the authority's certificate is no PEM")?)?;
    }
    ensure!(!roots.is_empty(), "nothing says what signed the API server's certificate");
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Shows a certificate, and offers h2 before HTTP/1.1 as the API server does.
pub(super) fn server_config(identity: &Identity) -> Result<Arc<ServerConfig>> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

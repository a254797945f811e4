//! The client of the API server: kube's own stack, over connections that send at once.
//!
//! kube leaves Nagle's algorithm on: a small packet then waits until the one before it was acknowledged, and the other side takes its time
//! for that (40 ms on Linux). A resumed TLS session begins with two small packets in a row, the end of the handshake and the
//! request, and no answer between them: the first request of each further connection would wait.
//!
//! Each watch has a connection of its own, which lists once and then is silent for most of its life: what it holds while it is silent is
//! what a kind costs (`tests/connection_memory.rs` counts it).

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use tower::util::BoxCloneService;
use tower::{BoxError, ServiceBuilder};

/// The body of an answer, as it arrives.
pub(crate) type Answered = hyper::body::Incoming;

/// All that is between a request and its connection. Clones share connections.
pub(crate) type Stack = BoxCloneService<http::Request<Body>, http::Response<Answered>, BoxError>;

/// What a connection reads at once, and the longest head of an answer that it takes, in bytes. Without a bound hyper doubles it with each
/// read that fills it, up to 400 KiB, and keeps what the longest list took for as long as the connection lives: 100 KiB on average,
/// half of a host's memory. It is the least that hyper takes; heads of the API server's have less than 1 KiB.
const READ_MAX_BYTES: usize = 8 << 10;

/// A client as `config` wants it, that never retries.
///
/// # Errors
/// What `config` names cannot be used: certificates, credentials.
pub(crate) fn client(mut config: kube::Config) -> Result<kube::Client, kube::Error> {
    config.default_retry = false;
    if is_kubes(&config) {
        return kube::Client::try_from(config);
    }
    let namespace = config.default_namespace.clone();
    Ok(kube::Client::new(stack(config)?, namespace))
}

/// Whether kube alone knows the way: through a proxy, and when a certificate ends that a program gave.
pub(crate) fn is_kubes(config: &kube::Config) -> bool {
    config.proxy_url.is_some() || config.auth_info.exec.is_some()
}

/// The way as `config` wants it, without any retries.
///
/// # Errors
/// As for [`client`].
pub(crate) fn stack(config: kube::Config) -> Result<Stack, kube::Error> {
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp())?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(
            legacy::Builder::new(TokioExecutor::new())
                .http1_max_buf_size(READ_MAX_BYTES)
                .build::<_, Body>(connector),
        );
    Ok(BoxCloneService::new(service))
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    // TLS is above it.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_small_packet_waits_for_nobody() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let uri: http::Uri = format!("https://{address}").parse().expect("valid");
        let stream = tcp().oneshot(uri).await.expect("it listens");
        assert!(stream.inner().nodelay().expect("a socket"));
    }
}

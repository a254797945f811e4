//! A namespace, a port of the proxy, and clients that say exactly what they send, in either protocol.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use windlass_testbed::faultd::Port;
use windlass_testbed::{ControlPlane, Faultd, REPLICAS, shared};

/// Long enough for a machine that compiles on all cores at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client waits that is to give up.
pub(crate) const BRIEF: Duration = Duration::from_millis(500);

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    H2,
}

pub(crate) const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::H2];

pub(crate) struct Rig {
    pub(crate) control: &'static ControlPlane,
    pub(crate) faultd: Faultd,
    pub(crate) port: Port,
    pub(crate) namespace: String,
}

impl Rig {
    pub(crate) async fn new(prefix: &str) -> Result<Self> {
        static RIGHTS: OnceCell<()> = OnceCell::const_new();
        let control = tokio::task::spawn_blocking(shared).await??;
        RIGHTS.get_or_try_init(|| rights(control)).await?;
        let faultd = Faultd::start(control)?;
        let port = faultd.listen().await?;
        let namespace = control.namespace(prefix).await?;
        Ok(Self { control, faultd, port, namespace })
    }

    /// The path of the ConfigMaps, or of one of them.
    pub(crate) fn path(&self, name: &str) -> String {
        let all = format!("/api/v1/namespaces/{}/configmaps", self.namespace);
        if name.is_empty() { all } else { format!("{all}/{name}") }
    }

    /// A client through the port.
    pub(crate) async fn client(&self, protocol: Protocol) -> Result<Client> {
        let token = self.control.token_for("windlass-0")?;
        Client::connect(self.control, &self.port.url(), protocol, token).await
    }

    /// What the API server itself says, asked past the proxy.
    pub(crate) async fn truth(&self, name: &str) -> Result<Option<Value>> {
        let request = http::Request::get(self.path(name)).body(Vec::new())?;
        match self.control.client()?.request::<Value>(request).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            answer => Ok(Some(answer?)),
        }
    }

    /// Asks past the proxy until the object is there.
    pub(crate) async fn until_true(&self, name: &str) -> Result<Value> {
        let began = std::time::Instant::now();
        loop {
            if let Some(found) = self.truth(name).await? {
                return Ok(found);
            }
            ensure!(began.elapsed() < PATIENCE, "{name} never came about");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes a ConfigMap past the proxy.
    pub(crate) async fn make(&self, name: &str) -> Result<Value> {
        let request = http::Request::post(self.path("")).body(config_map(name, "old").to_string().into())?;
        Ok(self.control.client()?.request(request).await?)
    }
}

/// Lets the users with tokens do everything, and waits until the API server knows.
async fn rights(control: &ControlPlane) -> Result<()> {
    let binding = format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{ name: faultd-tests }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }}
subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: '{REPLICAS}' }}]"
    );
    control.apply(&binding).await?;
    let client = kube::Client::try_from(control.config_for("windlass-0")?)?;
    let began = std::time::Instant::now();
    while client.request::<Value>(http::Request::get("/api/v1/nodes").body(Vec::new())?).await.is_err() {
        ensure!(began.elapsed() < PATIENCE, "the binding has no effect");
    }
    Ok(())
}

pub(crate) fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// One connection. Dropping it, and what it waits for, closes it.
pub(crate) struct Client {
    sender: Sender,
    authority: String,
    token: String,
}

impl Client {
    pub(crate) async fn connect(
        control: &ControlPlane,
        url: &str,
        protocol: Protocol,
        token: &str,
    ) -> Result<Self> {
        let authority = url.trim_start_matches("https://").to_owned();
        let stream = TcpStream::connect(&authority).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = tls(control, protocol)?.connect(name, stream).await?;
        let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        ensure!((agreed.as_deref() == Some(b"h2")) == (protocol == Protocol::H2), "the protocol is another");
        let stream = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                drop(tokio::spawn(connection));
                Sender::One(sender)
            }
            Protocol::H2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                drop(tokio::spawn(connection));
                Sender::Two(sender)
            }
        };
        Ok(Self { sender, authority, token: token.to_owned() })
    }

    /// Another user of the same connection, where the protocol has such a thing.
    pub(crate) fn twin(&self) -> Option<Self> {
        let Sender::Two(sender) = &self.sender else { return None };
        let (authority, token) = (self.authority.clone(), self.token.clone());
        Some(Self { sender: Sender::Two(sender.clone()), authority, token })
    }

    /// Sends a request; the answer's body is still to come.
    pub(crate) async fn open(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Response<Incoming>> {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let uri = match self.sender {
            Sender::One(_) => path.to_owned(),
            Sender::Two(_) => format!("https://{}{path}", self.authority),
        };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", &self.authority)
            .header("authorization", format!("Bearer {}", self.token))
            .header("user-agent", "faultd-tests/1")
            .header("content-type", kind)
            .body(Full::from(body.map(|body| body.to_string()).unwrap_or_default()))?;
        Ok(match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }

    /// Sends a request and reads the whole answer: the status, and the body if it is JSON.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value)> {
        let response = self.open(method, path, body).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<(u16, Value)> {
        self.send(Method::GET, path, None).await
    }

    /// Starts a watch.
    pub(crate) async fn watch(&mut self, path: &str) -> Result<Stream> {
        let response = self.open(Method::GET, &format!("{path}?watch=true"), None).await?;
        ensure!(response.status().is_success(), "a watch is answered with {}", response.status());
        Ok(Stream { body: response.into_body(), rest: Vec::new() })
    }
}

/// The lines of a watch.
pub(crate) struct Stream {
    body: Incoming,
    rest: Vec<u8>,
}

impl Stream {
    /// The next line, or `None` when the stream has ended in order.
    pub(crate) async fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).collect();
                return Ok(Some(String::from_utf8(line)?));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.context("no event comes")?;
            match frame {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The name of the next event's object.
    pub(crate) async fn name(&mut self) -> Result<String> {
        loop {
            let line = self.line().await?.context("the stream has ended")?;
            let event: Value = serde_json::from_str(&line).with_context(|| format!("no event: {line}"))?;
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
            // Every namespace has this one.
            if name != "kube-root-ca.crt" {
                return Ok(name.to_owned());
            }
        }
    }
}

fn tls(control: &ControlPlane, protocol: Protocol) -> Result<tokio_rustls::TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(control.ca_pem().as_bytes())?)?;
    let mut config =
        rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    if protocol == Protocol::H2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(std::sync::Arc::new(config).into())
}

//! How to reach a cluster: address, roots, credentials, in the forms that clients want.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Kubeconfig};
use serde_json::{Value, json};

use crate::pki::{Authority, Identity};

/// Proof of who somebody is.
#[derive(Debug, Clone)]
pub(crate) enum Credential {
    Certificate(Identity),
    Token(String),
    /// The user entry of a kubeconfig that somebody gave us.
    Foreign(Box<AuthInfo>),
}

/// Where the API server is, what signs it, and who may knock.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    server: String,
    ca_pem: String,
    ca_der: Vec<Vec<u8>>,
    admin: Credential,
    tokens: BTreeMap<String, String>,
    kubeconfig_path: PathBuf,
}

impl Access {
    pub(crate) fn new(
        server: String,
        authority: &Authority,
        admin: Credential,
        tokens: BTreeMap<String, String>,
        kubeconfig_path: PathBuf,
    ) -> Self {
        let (ca_pem, ca_der) =
            (authority.certificate_pem().to_owned(), vec![authority.certificate_der().to_vec()]);
        Self { server, ca_pem, ca_der, admin, tokens, kubeconfig_path }
    }

    /// Reads what a kubeconfig's current context says.
    pub(crate) async fn of_kubeconfig(path: PathBuf) -> Result<Self> {
        let kubeconfig =
            Kubeconfig::read_from(&path).with_context(|| format!("{} is no kubeconfig", path.display()))?;
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
                .await
                .with_context(|| format!("the current context of {} cannot be used", path.display()))?;
        let ca_der = config.root_cert.unwrap_or_default();
        Ok(Self {
            server: config.cluster_url.to_string().trim_end_matches('/').to_owned(),
            ca_pem: ca_der.iter().map(|der| pem(der)).collect(),
            ca_der,
            admin: Credential::Foreign(Box::new(config.auth_info)),
            tokens: BTreeMap::new(),
            kubeconfig_path: path,
        })
    }

    /// The same cluster at another address, whose certificate the same authority signed.
    pub(crate) fn at(&self, server: String) -> Self {
        Self { server, ..self.clone() }
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub(crate) fn admin(&self) -> &Credential {
        &self.admin
    }

    pub(crate) fn kubeconfig_path(&self) -> &PathBuf {
        &self.kubeconfig_path
    }

    pub(crate) fn token(&self, user: &str) -> Result<&str> {
        let known = || self.tokens.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.tokens
            .get(user)
            .map(String::as_str)
            .with_context(|| format!("no user {user} here, only: {}", known()))
    }

    /// A kubeconfig that carries everything in itself. JSON, which every reader of YAML reads.
    pub(crate) fn kubeconfig(&self, credential: &Credential) -> String {
        self.kubeconfig_at(&self.server, credential)
    }

    /// The same for another address, whose certificate the same authority signed.
    pub(crate) fn kubeconfig_at(&self, server: &str, credential: &Credential) -> String {
        let mut cluster = json!({ "server": server });
        if !self.ca_pem.is_empty() {
            cluster["certificate-authority-data"] = Value::String(STANDARD.encode(&self.ca_pem));
        }
        let user = match credential {
            Credential::Certificate(identity) => json!({
                "client-certificate-data": STANDARD.encode(&identity.certificate_pem),
                "client-key-data": STANDARD.encode(&identity.key_pem),
            }),
            Credential::Token(token) => json!({ "token": token }),
            Credential::Foreign(info) => serde_json::to_value(info).unwrap_or_default(),
        };
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "testbed", "cluster": cluster }],
            "users": [{ "name": "user", "user": user }],
            "contexts": [{ "name": "testbed", "context": { "cluster": "testbed", "user": "user" } }],
            "current-context": "testbed",
        });
        format!("{config:#}\n")
    }

    /// The same for kube's client. Retries what a server may answer while it starts.
    pub(crate) fn config(&self, credential: &Credential) -> Result<kube::Config> {
        let mut config = kube::Config::new(self.server.parse().context("the server's address is no URL")?);
        config.root_cert = (!self.ca_der.is_empty()).then(|| self.ca_der.clone());
        config.default_retry = true;
        config.auth_info = match credential {
            Credential::Certificate(identity) => AuthInfo {
                client_certificate_data: Some(STANDARD.encode(&identity.certificate_pem)),
                client_key_data: Some(STANDARD.encode(&identity.key_pem).into()),
                ..AuthInfo::default()
            },
            Credential::Token(token) => AuthInfo { token: Some(token.clone().into()), ..AuthInfo::default() },
            Credential::Foreign(info) => (**info).clone(),
        };
        Ok(config)
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

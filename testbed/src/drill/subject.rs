//! Whose deployment it is, and what is done with it.

use std::path::PathBuf;

/// A Deployment of replicas of which one leads.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its namespace.
    pub namespace: String,
    /// The Deployment's name; its container and the label `app.kubernetes.io/name` of its pods are called the same.
    pub name: String,
    /// The name of the program in the container, as the kernel keeps it: 15 letters at most.
    pub program: String,
    /// The Lease in its namespace.
    pub lease: String,
    /// Whether a claim Role says who may write, besides the Lease.
    pub claims: bool,
    /// How the accounts begin that its effects are written as.
    pub account: String,
    /// What is applied to have it, YAML of several documents.
    pub manifests: String,
    /// Components of `deploy/` on top of the production overlay, if it is the host.
    pub components: Vec<String>,
}

impl Subject {
    /// The host, as `deploy/overlays/production` deploys it.
    pub fn host() -> Self {
        Self {
            namespace: crate::nemesis::HOST.to_owned(),
            name: "windlass".to_owned(),
            program: "windlass".to_owned(),
            lease: "windlass".to_owned(),
            claims: true,
            account: format!("system:serviceaccount:{}:plugin-", crate::nemesis::HOST),
            manifests: String::new(),
            components: Vec::new(),
        }
    }

    /// Whether it is the host: only its history is judged.
    pub fn is_host(&self) -> bool {
        self.claims
    }

    pub(super) fn deployment(&self) -> String {
        format!("/apis/apps/v1/namespaces/{}/deployments/{}", self.namespace, self.name)
    }

    pub(super) fn pods(&self) -> String {
        format!(
            "/api/v1/namespaces/{}/pods?labelSelector=app.kubernetes.io/name%3D{}",
            self.namespace, self.name
        )
    }
}

/// What it has to do meanwhile.
#[derive(Debug, Clone)]
pub enum Work {
    /// The fixtures' widgets, whose wanted end is known: what the promises are judged by.
    Widgets,
    /// WebApps whose host name changes, in this namespace: the same for everybody who reconciles them. Its effects are Ingresses.
    WebApps(String),
}

/// An image in an archive.
#[derive(Debug, Clone)]
pub struct Image {
    /// The OCI archive.
    pub archive: PathBuf,
    /// The image's whole name.
    pub name: String,
}

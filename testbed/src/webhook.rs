//! An admission webhook that takes its time and then allows: for writes that wait inside
//! the API server while the world around them changes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::control_plane::ControlPlane;
use crate::https::{Answers, Https};

/// The webhook's server. Dropping it ends it, and then the API server refuses what it would ask about.
#[derive(Debug)]
pub struct SlowWebhook {
    server: Https,
    delay: watch::Sender<Duration>,
    asked: watch::Receiver<u64>,
}

impl SlowWebhook {
    /// Starts a server on 127.0.0.1 that allows everything, each time after `delay`. Nobody asks it before a
    /// [`configuration`](Self::configuration) is applied.
    ///
    /// # Errors
    /// If the cluster is external, or no port is free.
    pub async fn start(control_plane: &ControlPlane, delay: Duration) -> Result<Self> {
        let (delay, delayed) = watch::channel(delay);
        let (ask, asked) = watch::channel(0);
        let answers: Answers = Arc::new(move |question| {
            ask.send_modify(|asked| *asked += 1);
            let delay = *delayed.borrow();
            Box::pin(async move {
                tokio::time::sleep(delay).await;
                (StatusCode::OK, allowed(&question))
            })
        });
        Ok(Self { server: Https::start(control_plane, answers).await?, delay, asked })
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
                "clientConfig": self.server.client_config(),
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

fn allowed(question: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": { "uid": question["request"]["uid"], "allowed": true },
    })
}

//! A conversion webhook: a kind in two versions, one of which the API server cannot read by itself. It may be down.

use std::sync::Arc;

use anyhow::Result;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::control_plane::ControlPlane;
use crate::https::{Answers, Https};

/// The webhook's server. Dropping it ends it.
#[derive(Debug)]
pub struct ConversionWebhook {
    server: Https,
    up: watch::Sender<bool>,
    asked: watch::Receiver<u64>,
}

impl ConversionWebhook {
    /// Starts a server on 127.0.0.1. The two versions differ in the name of one field of `spec`; each is said as
    /// (version, field). Nobody asks it before [`conversion`](Self::conversion) is part of a CRD.
    ///
    /// # Errors
    /// If the cluster is external, or no port is free.
    pub async fn start(
        control_plane: &ControlPlane,
        one: (&'static str, &'static str),
        other: (&'static str, &'static str),
    ) -> Result<Self> {
        let (up, is_up) = watch::channel(true);
        let (ask, asked) = watch::channel(0);
        let answers: Answers = Arc::new(move |question| {
            ask.send_modify(|asked| *asked += 1);
            let answer = match *is_up.borrow() {
                true => (StatusCode::OK, converted(&question, [one, other])),
                false => (StatusCode::SERVICE_UNAVAILABLE, json!({})),
            };
            Box::pin(async move { answer })
        });
        Ok(Self { server: Https::start(control_plane, answers).await?, up, asked })
    }

    /// What a CRD says under `spec.conversion`.
    pub fn conversion(&self) -> Value {
        json!({
            "strategy": "Webhook",
            "webhook": { "clientConfig": self.server.client_config(), "conversionReviewVersions": ["v1"] },
        })
    }

    /// From now on nothing is converted, or everything again.
    pub fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    /// How many questions have come in, answered well or not.
    pub fn asked(&self) -> u64 {
        *self.asked.borrow()
    }
}

fn converted(review: &Value, versions: [(&str, &str); 2]) -> Value {
    let request = &review["request"];
    let wanted = &request["desiredAPIVersion"];
    let is_first = wanted.as_str().is_some_and(|wanted| wanted.ends_with(&format!("/{}", versions[0].0)));
    let (to, from) = if is_first { (versions[0].1, versions[1].1) } else { (versions[1].1, versions[0].1) };
    let objects = request["objects"].as_array().cloned().unwrap_or_default();
    let objects = objects.into_iter().map(|mut object| {
        object["apiVersion"] = wanted.clone();
        if let Some(spec) = object["spec"].as_object_mut()
            && let Some(value) = spec.remove(from)
        {
            spec.insert(to.to_owned(), value);
        }
        object
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "ConversionReview",
        "response": {
            "uid": request["uid"],
            "convertedObjects": objects.collect::<Vec<_>>(),
            "result": { "status": "Success" },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_another_name_in_each_version_and_comes_back_as_it_was() {
        let versions = [("v1alpha1", "text"), ("v1beta1", "words")];
        let turn = |object: &Value, wanted: &str| {
            let review = json!({"request": {"uid": "u", "desiredAPIVersion": wanted, "objects": [object]}});
            converted(&review, versions)["response"]["convertedObjects"][0].clone()
        };
        let alpha = json!({"apiVersion": "x.dev/v1alpha1", "spec": {"text": "a", "more": 1}});
        let beta = turn(&alpha, "x.dev/v1beta1");
        assert_eq!(beta, json!({"apiVersion": "x.dev/v1beta1", "spec": {"words": "a", "more": 1}}));
        assert_eq!(turn(&beta, "x.dev/v1alpha1"), alpha);
    }
}

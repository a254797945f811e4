//! Whether the API server judges claims: a look at the fence's policy and binding.
//!
//! Everything else holds without the fence; a person should know whether it is there.
//! What is looked at is what would be enforced, for this very namespace: a policy that
//! was copied from another installation and never adapted is no fence.

use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde_json::Value;

/// Name of the policy and of its binding, in `deploy/components/fence`. Where `deploy/components/other-namespace` is
/// used the host's namespace follows, after a dot.
pub const FENCE: &str = "windlass-fence";
/// The namespace that is shipped.
const NAMESPACE: &str = "windlass-system";

/// How long one look may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// What a look at the fence found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The API server refuses writes whose claim is not the current one.
    Present,
    /// It does not, and why: one sentence.
    Absent(String),
    /// It could not be found out, and why: one sentence that says what to do.
    Unknown(String),
}

impl Presence {
    /// A label value for metrics: `present`, `absent` or `unknown`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Presence::Present => "present",
            Presence::Absent(_) => "absent",
            Presence::Unknown(_) => "unknown",
        }
    }

    /// Why it is not known to be there, for people; nothing when it is.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Presence::Present => None,
            Presence::Absent(why) | Presence::Unknown(why) => Some(why),
        }
    }
}

/// Looks whether the fence stands for hosts in `namespace`: two reads, at most 5 s each, and twice as many where
/// it is not the namespace that is shipped.
///
/// Cancel safety: may be dropped at any time.
pub async fn look(client: &kube::Client, namespace: &str) -> Presence {
    let [own, shipped] = [format!("{FENCE}.{namespace}"), FENCE.to_owned()];
    if namespace == NAMESPACE {
        return look_at(client, &shipped, namespace).await;
    }
    let at_own = look_at(client, &own, namespace).await;
    if at_own == Presence::Present {
        return at_own;
    }
    // A single host in another namespace may have kept the name, and rights to look at that one alone.
    match (at_own, look_at(client, &shipped, namespace).await) {
        (_, Presence::Present) => Presence::Present,
        (Presence::Unknown(_), Presence::Absent(why)) => Presence::Absent(why),
        (at_own, _) => at_own,
    }
}

async fn look_at(client: &kube::Client, name: &str, namespace: &str) -> Presence {
    let found = async {
        let policy = read(client, "validatingadmissionpolicies", name).await?;
        let binding = read(client, "validatingadmissionpolicybindings", name).await?;
        judge(&policy, &binding, name, namespace).map_err(Presence::Absent)
    };
    match found.await {
        Ok(()) => Presence::Present,
        Err(presence) => presence,
    }
}

/// Whether the two objects make a fence named `name` for `namespace`; if not, what is missing.
fn judge(policy: &Value, binding: &Value, name: &str, namespace: &str) -> Result<(), String> {
    let spec = &policy["spec"];
    let account = format!("'system:serviceaccount:{namespace}:'");
    let conditions = spec["matchConditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let selects = |condition: &Value| condition["expression"].as_str().is_some_and(|e| e.contains(&account));
    if !conditions.iter().any(selects) {
        return Err(format!("the policy {name} is for another namespace than {namespace}"));
    }
    if !spec["paramKind"].is_null() {
        return Err(format!("the policy {name} has parameters: it is not the one that is shipped"));
    }
    // The API server fills the default in.
    if spec["failurePolicy"] == "Ignore" {
        return Err(format!("the policy {name} lets a request pass when it fails"));
    }
    if binding["spec"]["policyName"] != name {
        return Err(format!("the binding {name} is for another policy"));
    }
    let actions = binding["spec"]["validationActions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !actions.iter().any(|action| action == "Deny") {
        return Err(format!("the binding {name} does not deny"));
    }
    if !binding["spec"]["matchResources"].is_null() {
        return Err(format!("the binding {name} is only for a part of the requests"));
    }
    for object in [policy, binding] {
        if !object["metadata"]["deletionTimestamp"].is_null() {
            return Err(format!("{name} is being deleted"));
        }
    }
    Ok(())
}

async fn read(client: &kube::Client, plural: &str, name: &str) -> Result<Value, Presence> {
    let unknown = |why: String| Presence::Unknown(format!("{plural}/{name} cannot be read: {why}"));
    let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}/{name}");
    let request = Request::builder().method(Method::GET).uri(path).body(Body::empty());
    let request = request.map_err(|e| unknown(e.to_string()))?;
    let answer = async {
        let response = client.send(request).await.map_err(|e| unknown(e.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        Ok((status, body.map_err(|e| unknown(e.to_string()))?.to_bytes()))
    };
    let answer = tokio::time::timeout(TIMEOUT, answer).await;
    let (status, body) = answer.unwrap_or_else(|_| Err(unknown(format!("no answer within {TIMEOUT:?}"))))?;
    match status {
        StatusCode::OK => serde_json::from_slice(&body).map_err(|e| unknown(e.to_string())),
        StatusCode::NOT_FOUND => Err(Presence::Absent(format!(
            "{plural}/{name} does not exist; deploy/components/fence brings it"
        ))),
        StatusCode::FORBIDDEN => Err(unknown(
            "forbidden; deploy/components/fence grants it, and without that component there is no fence"
                .to_owned(),
        )),
        status => Err(unknown(status.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy() -> Value {
        json!({"spec": {"failurePolicy": "Fail", "matchConditions": [
            {"name": "a", "expression": "request.userInfo.username.startsWith('system:serviceaccount:sys:')"}]}})
    }

    fn binding() -> Value {
        json!({"spec": {"policyName": FENCE, "validationActions": ["Deny", "Audit"]}})
    }

    #[test]
    fn a_fence_is_only_what_refuses_for_this_namespace() {
        assert_eq!(judge(&policy(), &binding(), FENCE, "sys"), Ok(()));
        assert!(judge(&policy(), &binding(), FENCE, "other").is_err());
        let changed = |at: &str, to: Value| {
            let (mut policy, mut binding) = (policy(), binding());
            match at.strip_prefix("/policy") {
                Some(at) => policy["spec"][at] = to,
                None => binding["spec"][at] = to,
            }
            judge(&policy, &binding, FENCE, "sys")
        };
        assert!(changed("/policyfailurePolicy", json!("Ignore")).is_err());
        assert!(changed("/policyparamKind", json!({"kind": "ConfigMap"})).is_err());
        assert!(changed("/policymatchConditions", json!([])).is_err());
        assert!(changed("validationActions", json!(["Audit"])).is_err());
        assert!(changed("validationActions", Value::Null).is_err());
        assert!(changed("policyName", json!("other")).is_err());
        assert!(changed("matchResources", json!({"namespaceSelector": {}})).is_err());
    }
}

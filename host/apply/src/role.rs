//! The label that says who leads, on this replica's own pod.
//!
//! For people and their selectors (`kubectl get pods -L windlass.dev/role`); nothing of
//! ours reads it. So it needs no claim: a replica that is late in taking it off misleads
//! for a moment and harms nobody.

use std::sync::Arc;

use http::Method;
use serde_json::json;
use windlass_core::key::ObjectRef;
use windlass_core::kind::{Gvk, Kind};
use windlass_core::ports::{ApplyError, EventTarget};

use crate::answer::{Failed, refused};
use crate::request::{Actor, Call, MERGE, RequestError, object_path};
use crate::wire::exchange;
use crate::writer::{Writer, parse};

const ROLE: &str = "windlass.dev/role";

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It may write.
    Leader,
    /// It may not.
    Standby,
}

impl Role {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Standby => "standby",
        }
    }
}

impl Writer {
    /// Writes the label `windlass.dev/role` on the pod `name` of the host's namespace, as the host.
    /// Gives back the pod, for an Event on it; nothing when there is no such pod, because
    /// this replica is a process without one.
    ///
    /// # Errors
    /// [`ApplyError`]: the caller tries again after a pause, also after Permanent: a
    /// missing right is added without anybody telling us.
    pub async fn label_pod(&self, name: &str, role: Role) -> Result<Option<EventTarget>, ApplyError> {
        let kind = pod();
        let namespace = self.config.host_namespace.clone();
        let object = ObjectRef { gvk: kind.gvk.clone(), namespace, name: name.into() };
        let failed = |failed: Failed| failed.of_step(format!("label {object} as {}", role.as_str()));
        let patch = json!({ "metadata": { "labels": { ROLE: role.as_str() } } });
        let body = serde_json::to_vec(&patch).map_err(|e| failed(RequestError::from(e).into()))?;
        let path = object_path(&kind, &object).map_err(|e| failed(e.into()))?;
        let timeout = self.config.request_timeout;
        let request = Call::write(Method::PATCH, path, MERGE, body).build(&Actor::Host, timeout);
        let request = request.map_err(|e| failed(e.into()))?;
        let reply = exchange(&self.client, request, timeout).await.map_err(|e| failed(e.into()))?;
        match reply.code {
            200..=299 => {
                let pod = parse(&reply, &object).map_err(failed)?;
                let uid: Arc<str> = pod.meta().uid.clone();
                Ok(Some(EventTarget { object, uid, plugin: None, digest: None }))
            }
            404 => Ok(None),
            _ => Err(failed(refused(&reply, &Actor::Host))),
        }
    }
}

fn pod() -> Kind {
    Kind {
        gvk: Gvk { group: "".into(), version: "v1".into(), kind: "Pod".into() },
        plural: "pods".into(),
        namespaced: true,
        has_status: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Api;
    use http::StatusCode;
    use windlass_core::class::Class;

    #[tokio::test(start_paused = true)]
    async fn a_standby_may_say_so_without_a_claim() {
        let api = Api::new();
        let writer = api.writer();
        api.gate.close();
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "windlass-0", "namespace": "sys", "uid": "p1", "resourceVersion": "3"}});
        api.always(StatusCode::OK, pod);
        let target = writer.label_pod("windlass-0", Role::Standby).await.expect("accepted");
        assert_eq!(target.map(|t| t.uid.to_string()), Some("p1".to_owned()));
        let sent = api.requests().pop().expect("sent");
        assert_eq!(sent.body["metadata"]["labels"][ROLE], "standby");
        assert!(!sent.headers.contains_key("impersonate-user"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_without_a_pod_is_no_failure_but_a_missing_right_is() {
        let api = Api::new();
        let writer = api.writer();
        api.always(StatusCode::NOT_FOUND, json!({"kind": "Status", "message": "pods \"x\" not found"}));
        assert_eq!(writer.label_pod("x", Role::Leader).await, Ok(None));
        api.always(StatusCode::FORBIDDEN, json!({"kind": "Status", "message": "no"}));
        let error = writer.label_pod("x", Role::Leader).await.expect_err("forbidden");
        assert_eq!(error.class, Class::Permanent);
    }
}

//! The fence: that the writer knows its refusal, as the API server words it.

use std::time::Instant;

use anyhow::Result;
use serde_json::Value;
use windlass_core::class::Class;
use windlass_core::ports::{Apply, ApplyError};

use crate::world::{PATIENCE, World, config_map};

type Written = std::result::Result<(), ApplyError>;

/// The fence for one host: its plugins' writes need the claim that the Role names.
fn fence(namespace: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{ name: fence-{namespace} }}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{{ apiGroups: ['*'], apiVersions: ['*'], operations: [CREATE, UPDATE, DELETE], resources: ['*/*'] }}]
  matchConditions:
  - {{ name: plugins, expression: \"request.userInfo.username.startsWith('system:serviceaccount:{namespace}:plugin-')\" }}
  variables:
  - {{ name: claim, expression: \"request.userInfo.?extra[?'windlass.dev/claim'][0].orValue('none')\" }}
  validations:
  - expression: \"authorizer.group('windlass.dev').resource('claims').namespace('{namespace}').name(variables.claim).check('write').allowed()\"
    messageExpression: \"'fenced: ' + variables.claim + ' is not the current claim'\"
    reason: Forbidden
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{ name: fence-{namespace} }}
spec: {{ policyName: fence-{namespace}, validationActions: [Deny] }}
"
    )
}

fn claim_role(namespace: &str, claim: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: windlass-claim, namespace: {namespace} }}
rules: [{{ apiGroups: [windlass.dev], resources: [claims], resourceNames: ['{claim}'], verbs: [write] }}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: windlass-claim, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: windlass-claim }}
subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:serviceaccounts:{namespace}' }}]
"
    )
}

#[tokio::test]
async fn the_fence_stops_a_writer_whose_claim_is_no_longer_the_current_one() -> Result<()> {
    let world = World::new("fence").await?;
    world.primary().await?;
    // The administrator's role allows every claim, as no plugin's would.
    world
        .plane
        .apply(&format!(
            "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: plugin, namespace: {0} }}
rules: [{{ apiGroups: [''], resources: [configmaps], verbs: [create, patch, get] }}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: plugin, namespace: {0} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: plugin }}
subjects: [{{ kind: ServiceAccount, name: plugin-webapp, namespace: {0} }}]
",
            world.namespace
        ))
        .await?;
    let binding = world.path("/apis/rbac.authorization.k8s.io/v1", "rolebindings", "webapp");
    world.send("DELETE", &binding, "application/json", &Value::Null).await?;
    world.plane.apply(&claim_role(&world.namespace, "host-0/3")).await?;
    world.plane.apply(&fence(&world.namespace)).await?;

    let write = async |name: String| -> Result<Written> {
        let plan = world.plan(&[], &[config_map(&name, "x")], None).await?;
        Ok(world.writer.execute(&plan, &world.claim).await.result)
    };
    // Policies, bindings and roles are heard of a moment later, each on its own.
    assert_eq!(settle(&write, "current", Result::is_ok).await?, Ok(()));

    world.plane.apply(&claim_role(&world.namespace, "host-1/4")).await?;
    let error = settle(&write, "stale", Result::is_err).await?.expect_err("settled");
    assert_eq!(error.class, Class::Fatal, "{error}");
    assert!(error.message.contains("another replica leads"), "{error}");
    Ok(())
}

/// Writes new objects until the answer fits.
async fn settle(
    write: &impl AsyncFn(String) -> Result<Written>,
    prefix: &str,
    fits: impl Fn(&Written) -> bool,
) -> Result<Written> {
    let began = Instant::now();
    for number in 0.. {
        let result = write(format!("{prefix}-{number}")).await?;
        if fits(&result) {
            return Ok(result);
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "stays {result:?}");
    }
    unreachable!("it returns or fails in time")
}

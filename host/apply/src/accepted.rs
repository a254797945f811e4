//! What has been accepted of each signed plugin, kept in the Secret `windlass-accepted`.
//!
//! In a Secret because those who may write plugins, ConfigMaps, must not be able to turn it
//! back. One key a plugin, its value the version as JSON, so that a person can read it and
//! take one back with `kubectl`. The host never makes the Secret: it is installed with
//! `deploy/components/signatures`, and the host's account may read and patch just that one.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use windlass_core::accepted::{Accepted, AcceptedVersion, Standing};
use windlass_core::claim::Claim;
use windlass_core::class::Class;
use windlass_core::key::ObjectRef;
use windlass_core::kind::{Gvk, Kind};
use windlass_core::name::PluginName;
use windlass_core::object::Object;
use windlass_core::ports::ApplyError;

use crate::answer::Failed;
use crate::request::{Actor, Call, MERGE, RequestError, object_path};
use crate::writer::{Verb, Writer};

/// The Secret's name, in the host's namespace.
pub const ACCEPTED_SECRET: &str = "windlass-accepted";

impl Writer {
    /// Reads what has been accepted so far, as the host. Needs no claim: each replica asks
    /// before it judges a signed plugin.
    ///
    /// # Errors
    /// [`ApplyError`]: Transient is asked again. Permanent when the Secret is missing, cannot be
    /// read or holds what nobody of ours wrote: then nothing is known, and a person has to
    /// mend it before anything new may be accepted.
    pub async fn read_accepted(&self) -> Result<Accepted, ApplyError> {
        let live = self.live_accepted().await?;
        accepted_in(&live).map_err(|failed| failed.of_step(format!("read Secret {ACCEPTED_SECRET}")))
    }

    /// Writes those of `versions` that go beyond what is kept, under `claim`: a read, a
    /// comparison, and a patch of exactly what was read. Gives back all that is kept then.
    ///
    /// # Errors
    /// As [`read_accepted`](Self::read_accepted); Conflict when somebody else has just written: the
    /// caller comes again. Fatal when this replica does not lead.
    pub async fn record_accepted(&self, versions: &Accepted, claim: &Claim) -> Result<Accepted, ApplyError> {
        let what = format!("record in Secret {ACCEPTED_SECRET}");
        let live = self.live_accepted().await?;
        let mut kept = accepted_in(&live).map_err(|failed| failed.of_step(&what))?;
        let mut data = Map::new();
        for (plugin, version) in versions.iter() {
            if kept.standing(plugin, version.sequence, &version.digest) == Standing::Newer {
                let text = serde_json::to_vec(version)
                    .map_err(|e| Failed::from(RequestError::from(e)).of_step(&what))?;
                data.insert(plugin.to_string(), Value::String(STANDARD.encode(text)));
                kept.raise(plugin, version.clone());
            }
        }
        if data.is_empty() {
            return Ok(kept);
        }
        let meta = live.meta();
        let patch = json!({
            "metadata": {"uid": &*meta.uid, "resourceVersion": &*meta.resource_version},
            "data": data,
        });
        let call = serde_json::to_vec(&patch).map_err(RequestError::from).and_then(|body| {
            Ok(Call::write(Method::PATCH, object_path(&secret(), &self.accepted_ref())?, MERGE, body))
        });
        let call = call.map_err(|e| Failed::from(e).of_step(&what))?;
        self.write(Verb::Accept, call, &Actor::Host, claim).await.map_err(|failed| failed.of_step(&what))?;
        Ok(kept)
    }

    async fn live_accepted(&self) -> Result<Object, ApplyError> {
        let what = format!("read Secret {ACCEPTED_SECRET}");
        let found = self.read(&secret(), &self.accepted_ref()).await.map_err(|e| e.of_step(&what))?;
        found.ok_or_else(|| {
            let message = "there is none, so nobody knows which versions were accepted: \
                           install deploy/components/signatures";
            Failed::new(Class::Permanent, message).of_step(&what)
        })
    }

    fn accepted_ref(&self) -> ObjectRef {
        ObjectRef {
            gvk: secret().gvk,
            namespace: self.config.host_namespace.clone(),
            name: Arc::from(ACCEPTED_SECRET),
        }
    }
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

/// What a Secret says was accepted. Nothing of it is passed over: a version that could not be
/// read would be a version that is not guarded.
fn accepted_in(secret: &Object) -> Result<Accepted, Failed> {
    let broken = |key: &str, why: &dyn std::fmt::Display| {
        let message = format!("key {key:?} is not what a host writes ({why}): remove it or put it right");
        Failed::new(Class::Permanent, windlass_core::code::printable(&message, 512))
    };
    let Data { data } = serde_json::from_str(&secret.json()).map_err(|e| broken("data", &e))?;
    let entries = data.unwrap_or_default().into_iter().map(|(key, value)| {
        let plugin = PluginName::try_new(&key).map_err(|e| broken(&key, &e))?;
        let text = STANDARD.decode(value).map_err(|e| broken(&key, &e))?;
        let version: AcceptedVersion = serde_json::from_slice(&text).map_err(|e| broken(&key, &e))?;
        Ok((plugin, version))
    });
    entries.collect()
}

fn secret() -> Kind {
    Kind {
        gvk: Gvk { group: "".into(), version: "v1".into(), kind: "Secret".into() },
        plural: "secrets".into(),
        namespaced: true,
        has_status: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Api, claim};
    use http::StatusCode;
    use windlass_core::accepted::KeyId;
    use windlass_core::name::Digest;

    fn name(text: &str) -> PluginName {
        PluginName::try_new(text).expect("valid")
    }

    fn version(sequence: u64, component: &[u8]) -> AcceptedVersion {
        let since = "2026-11-23T00:00:00Z".to_owned();
        AcceptedVersion { sequence, digest: Digest::of(component), key: KeyId(7), since }
    }

    fn one(plugin: &str, sequence: u64, component: &[u8]) -> Accepted {
        [(name(plugin), version(sequence, component))].into_iter().collect()
    }

    fn stored(data: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "data": data, "metadata":
            {"name": ACCEPTED_SECRET, "namespace": "sys", "uid": "s1", "resourceVersion": "41"}})
    }

    fn data(accepted: &Accepted) -> Value {
        let entries = accepted.iter().map(|(plugin, version)| {
            let text = serde_json::to_vec(version).expect("a text");
            (plugin.to_string(), Value::String(STANDARD.encode(text)))
        });
        Value::Object(entries.collect())
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_beyond_is_written_onto_exactly_what_was_read() {
        let api = Api::new();
        let writer = api.writer();
        let other = one("other", 3, b"o");
        api.answer(StatusCode::OK, stored(data(&other)));
        api.answer(StatusCode::OK, stored(json!({})));
        let mut wanted = one("webapp", 12, b"a");
        wanted.raise(&name("other"), version(2, b"older"));
        let kept = writer.record_accepted(&wanted, &claim()).await.expect("recorded");
        assert_eq!(kept.get(&name("other")), other.get(&name("other")), "what is further is left alone");
        assert_eq!(kept.get(&name("webapp")), wanted.get(&name("webapp")));
        let requests = api.requests();
        let patch = &requests[1];
        assert_eq!(
            (&*patch.method, &*patch.path),
            ("PATCH", "/api/v1/namespaces/sys/secrets/windlass-accepted")
        );
        assert_eq!(patch.body["metadata"], json!({"uid": "s1", "resourceVersion": "41"}));
        assert_eq!(patch.body["data"], data(&one("webapp", 12, b"a")));
        assert!(!patch.headers.contains_key("impersonate-user"), "it is the host's own");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_when_nothing_goes_beyond() {
        let api = Api::new();
        let known = one("webapp", 15, b"b");
        api.always(StatusCode::OK, stored(data(&known)));
        for wanted in [known.clone(), one("webapp", 14, b"a"), one("webapp", 15, b"other")] {
            let kept = api.writer().record_accepted(&wanted, &claim()).await.expect("nothing to do");
            assert_eq!(kept, known);
        }
        assert!(api.requests().iter().all(|request| request.method == "GET"));
        api.always(StatusCode::OK, stored(Value::Null));
        assert_eq!(api.writer().read_accepted().await, Ok(Accepted::default()), "as it is installed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_race_is_a_conflict_and_a_standby_writes_nothing() {
        let api = Api::new();
        let writer = api.writer();
        api.answer(StatusCode::OK, stored(json!({})));
        api.answer(
            StatusCode::CONFLICT,
            json!({"kind": "Status", "message": "the object has been modified"}),
        );
        let error = writer.record_accepted(&one("webapp", 1, b"a"), &claim()).await.expect_err("a race");
        assert_eq!(error.class, Class::Conflict);
        api.gate.close();
        api.always(StatusCode::OK, stored(json!({})));
        let error = writer.record_accepted(&one("webapp", 1, b"a"), &claim()).await.expect_err("no claim");
        assert_eq!(error.class, Class::Fatal);
        assert_eq!(writer.read_accepted().await, Ok(Accepted::default()), "reading needs none");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_is_never_taken_for_nothing() {
        let api = Api::new();
        let writer = api.writer();
        for (found, says) in [
            (json!({"webapp": "%%%"}), "key \"webapp\""),
            (json!({"webapp": STANDARD.encode("{}")}), "missing field"),
            (json!({"Web/App": STANDARD.encode("{}")}), "not the name of a plugin"),
        ] {
            api.always(StatusCode::OK, stored(found));
            let error = writer.read_accepted().await.expect_err(says);
            assert_eq!(error.class, Class::Permanent);
            assert!(error.message.contains(says), "{}", error.message);
        }
        api.always(StatusCode::NOT_FOUND, json!({"kind": "Status", "message": "not found"}));
        let error = writer.read_accepted().await.expect_err("no Secret");
        assert_eq!(error.class, Class::Permanent);
        assert!(error.message.contains("install deploy/components/signatures"), "{}", error.message);
    }
}

//! The steps of a plan, one function each.

use http::Method;
use serde_json::{Value, json};
use tracing::debug;
use windlass_core::claim::Claim;
use windlass_core::class::Class;
use windlass_core::code::{Code, Refusal};
use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::Kind;
use windlass_core::name::{ANNOTATION_ADOPT, ANNOTATION_PRIMARY, Digest, LABEL_HOST, LABEL_OWNED_BY};
use windlass_core::object::{Meta, Object, version_number};
use windlass_core::plan::{Step, Target};
use windlass_core::ports::{ApplyError, Written};

use crate::answer::{Failed, is_status};
use crate::request::{Actor, Call, MERGE, RequestError, delete_options, object_path, with_preconditions};
use crate::wire::Reply;
use crate::writer::{Verb, Writer, parse_meta};

/// The resourceVersion with which an apply creates or conflicts and never
/// overwrites: no object has ever had it, as etcd's first revision is never one's.
const NEVER: &str = "1";

/// One plan while it is carried out.
pub(crate) struct Scope<'a> {
    pub(crate) key: &'a Key,
    pub(crate) digest: &'a Digest,
    pub(crate) claim: &'a Claim,
    /// The primary as judged; its version follows our own writes to it, each of
    /// which proved that nobody else's came between.
    pub(crate) primary: Target,
    /// See [`Plan::is_discreet`](windlass_core::plan::Plan::is_discreet).
    pub(crate) discreet: bool,
    pub(crate) writes: Vec<Written>,
}

/// What an apply is for, so that memory can be told.
struct Wanted<'a> {
    status: bool,
    hash: &'a str,
}

impl<'a> Scope<'a> {
    /// The same plan for one step beside others: what it writes is told by it alone.
    pub(crate) fn beside(&self) -> Scope<'a> {
        let Scope { key, digest, claim, ref primary, discreet, .. } = *self;
        Scope { key, digest, claim, primary: primary.clone(), discreet, writes: Vec::new() }
    }

    fn actor<'s>(&'s self, writer: &'s Writer) -> Actor<'s> {
        Actor::Plugin {
            host_namespace: &writer.config.host_namespace,
            name: &self.key.plugin,
            digest: Some(self.digest),
            claim: self.claim,
            discreet: self.discreet,
        }
    }

    fn gone(&mut self, object: &ObjectRef, uid: &std::sync::Arc<str>) {
        self.writes.push(Written { object: object.clone(), uid: uid.clone(), version: None, applied: None });
    }

    fn wrote(&mut self, object: &ObjectRef, meta: &Meta, wanted: Option<&Wanted<'_>>) {
        let manager = self.key.plugin.field_manager();
        self.writes.push(Written {
            object: object.clone(),
            uid: meta.uid.clone(),
            version: Some(meta.version()),
            applied: wanted.map(|w| (w.status, w.hash.to_owned(), meta.entry(&manager, w.status))),
        });
    }
}

impl Writer {
    /// Carries out one step and records what was written.
    pub(crate) async fn step(&self, scope: &mut Scope<'_>, step: &Step) -> Result<(), ApplyError> {
        match step {
            Step::Finalizers { finalizers } => self.finalizers(scope, finalizers).await,
            Step::Create { kind, object, body, wanted } => {
                self.create(scope, kind, object, body, wanted).await
            }
            Step::Update { target, body, wanted } => {
                self.update(scope, Verb::Update, target, body, wanted).await
            }
            Step::Delete { target } => self.delete(scope, target).await,
            Step::Orphan { target, patch } => self.orphan(scope, target, patch).await,
            Step::Status { body, wanted } => self.status(scope, body, wanted).await,
        }
    }

    async fn finalizers(&self, scope: &mut Scope<'_>, finalizers: &[String]) -> Result<(), ApplyError> {
        let target = scope.primary.clone();
        // A merge patch and not an apply: an apply of finalizers alone would make an
        // object that does not exist.
        let patch = json!({ "metadata": { "finalizers": finalizers } });
        let call = merge_call(&target, &patch);
        let meta = self.write_existing(scope, Verb::Finalizers, &target, call).await?;
        if meta.deleting && meta.finalizers().next().is_none() {
            scope.gone(&target.object, &target.uid);
        } else {
            scope.primary.version = meta.resource_version.clone();
            scope.wrote(&target.object, &meta, None);
        }
        Ok(())
    }

    async fn update(
        &self,
        scope: &mut Scope<'_>,
        verb: Verb,
        target: &Target,
        body: &Value,
        wanted: &str,
    ) -> Result<(), ApplyError> {
        let meta = self.write_existing(scope, verb, target, apply_call(target, body, "")).await?;
        let wanted = Wanted { status: false, hash: wanted };
        scope.wrote(&target.object, &meta, Some(&wanted));
        Ok(())
    }

    async fn status(&self, scope: &mut Scope<'_>, body: &Value, wanted: &str) -> Result<(), ApplyError> {
        let target = scope.primary.clone();
        let call = apply_call(&target, body, "/status");
        let meta = self.write_existing(scope, Verb::Status, &target, call).await?;
        self.status_written(&target.uid);
        scope.primary.version = meta.resource_version.clone();
        let wanted = Wanted { status: true, hash: wanted };
        scope.wrote(&target.object, &meta, Some(&wanted));
        Ok(())
    }

    async fn orphan(&self, scope: &mut Scope<'_>, target: &Target, patch: &Value) -> Result<(), ApplyError> {
        let what = named(Verb::Orphan, &target.object);
        match self.write_once(scope, Verb::Orphan, merge_call(target, patch)).await {
            Ok(reply) => {
                let meta = self.parsed(scope, &reply, target, &what).await?;
                scope.wrote(&target.object, &meta, None);
                Ok(())
            }
            Err(failed) if failed.code == Some(404) => {
                scope.gone(&target.object, &target.uid);
                Ok(())
            }
            Err(failed) => {
                Err(self.failed(scope, failed, &target.kind, &target.object, Some(target), &what).await)
            }
        }
    }

    async fn delete(&self, scope: &mut Scope<'_>, target: &Target) -> Result<(), ApplyError> {
        let what = named(Verb::Delete, &target.object);
        let call = object_path(&target.kind, &target.object).and_then(|path| {
            Ok(Call::write(Method::DELETE, path, crate::request::JSON, delete_options(target)?))
        });
        match self.write_once(scope, Verb::Delete, call).await {
            Ok(reply) if is_status(&reply) => scope.gone(&target.object, &target.uid),
            Ok(reply) => {
                let meta = self.parsed(scope, &reply, target, &what).await?;
                if meta.deleting {
                    // Finalizers or a grace period: it stays for a while.
                    scope.wrote(&target.object, &meta, None);
                } else {
                    scope.gone(&target.object, &target.uid);
                }
            }
            Err(failed) if failed.code == Some(404) => scope.gone(&target.object, &target.uid),
            Err(failed) => {
                return Err(self
                    .failed(scope, failed, &target.kind, &target.object, Some(target), &what)
                    .await);
            }
        }
        Ok(())
    }

    async fn create(
        &self,
        scope: &mut Scope<'_>,
        kind: &Kind,
        object: &ObjectRef,
        body: &Value,
        wanted: &str,
    ) -> Result<(), ApplyError> {
        let what = named(Verb::Create, object);
        let call = object_path(kind, object).and_then(|path| {
            Ok(Call::apply(path, with_preconditions(body, None, NEVER)?).answered_with_metadata())
        });
        let reply = self.write_once(scope, Verb::Create, call).await;
        match reply.and_then(|reply| parse_meta(&reply, object)) {
            Ok(made) => {
                let wanted = Wanted { status: false, hash: wanted };
                scope.wrote(object, &made, Some(&wanted));
                Ok(())
            }
            Err(failed) if failed.code == Some(409) => {
                let live = self.read(kind, object).await.map_err(|failed| failed.of_step(&what))?;
                self.create_conflict(scope, kind, object, live, body, wanted).await
            }
            Err(failed) if failed.code == Some(404) => {
                let todo = "create its namespace, or install its kind, then it is tried again";
                let class = Class::Permanent;
                Err(Failed { class, message: format!("{}; {todo}", failed.message), ..failed }.of_step(&what))
            }
            Err(failed) => Err(self.failed(scope, failed, kind, object, None, &what).await),
        }
    }

    /// The object exists although the cache does not have it as ours.
    async fn create_conflict(
        &self,
        scope: &mut Scope<'_>,
        kind: &Kind,
        object: &ObjectRef,
        live: Option<Object>,
        body: &Value,
        wanted: &str,
    ) -> Result<(), ApplyError> {
        let what = named(Verb::Create, object);
        let again = |why: &str| Err(Failed::new(Class::Conflict, why).of_step(&what));
        let Some(live) = live else {
            return again("it existed a moment ago and is gone again");
        };
        let meta = live.meta();
        if meta.owner(&self.config.host_namespace).as_ref() == Some(scope.key) {
            return match &meta.controller_uid {
                Some(uid) if **uid != *scope.primary.uid => again(
                    "it belongs to an earlier object of the primary's name, which the garbage collector removes",
                ),
                Some(_) | None => again("it is ours already, the cache is behind"),
            };
        }
        let plugin = scope.key.plugin.as_str();
        let offered = meta.annotation(ANNOTATION_ADOPT) == Some(plugin);
        // Somebody took our marks off: the owner reference and our entry still say whose it
        // is, and what is left of the marks names nobody else.
        let unmarked = meta.controller_uid.as_ref() == Some(&scope.primary.uid)
            && meta.entry(&scope.key.plugin.field_manager(), false).is_some()
            && self.names_nobody_else(meta, scope.key);
        if offered || unmarked {
            let target = Target {
                kind: kind.clone(),
                object: object.clone(),
                uid: meta.uid.clone(),
                version: meta.resource_version.clone(),
            };
            let verb = if unmarked { Verb::Update } else { Verb::Adopt };
            return self.update(scope, verb, &target, body, wanted).await;
        }
        let refusal = match self.sibling(meta, scope) {
            Some(sibling) => Refusal::new(
                Code::OwnershipOverlap,
                format!(
                    "{object} is what plugin {sibling} made for the same object: two plugins want one child, and \
                     the first one keeps it; give the child another name in one of them, or remove one of them"
                ),
            ),
            None => Refusal::new(
                Code::NotOwner,
                format!(
                    "{object} exists and does not belong to plugin {plugin}: delete or rename it, \
                     or annotate it with {ANNOTATION_ADOPT}={plugin} to let the plugin take it over"
                ),
            ),
        };
        Err(ApplyError {
            class: Class::Permanent,
            message: refusal.to_string(),
            refusal: Some(refusal),
            retry_after: None,
        })
    }

    /// The other plugin of this host that made an object for the primary of this pass.
    fn sibling<'m>(&self, meta: &'m Meta, scope: &Scope<'_>) -> Option<&'m str> {
        let ours = meta.label(LABEL_HOST) == Some(&*self.config.host_namespace);
        let same = meta.controller_uid.as_ref() == Some(&scope.primary.uid);
        let owner = meta.label(LABEL_OWNED_BY).filter(|owner| *owner != scope.key.plugin.as_str());
        owner.filter(|_| ours && same)
    }

    /// Whether each mark of our inventory is either missing or ours.
    fn names_nobody_else(&self, meta: &Meta, key: &Key) -> bool {
        let ours = |found: Option<&str>, ours: &str| found.is_none_or(|found| found == ours);
        ours(meta.label(LABEL_HOST), &self.config.host_namespace)
            && ours(meta.label(LABEL_OWNED_BY), key.plugin.as_str())
            && ours(meta.annotation(ANNOTATION_PRIMARY), &key.primary())
    }

    /// A write to an object that exists; the metadata that it has now.
    async fn write_existing(
        &self,
        scope: &mut Scope<'_>,
        verb: Verb,
        target: &Target,
        call: Result<Call, RequestError>,
    ) -> Result<Meta, ApplyError> {
        let what = named(verb, &target.object);
        match self.write_once(scope, verb, call).await {
            Ok(reply) => self.parsed(scope, &reply, target, &what).await,
            Err(failed) => {
                Err(self.failed(scope, failed, &target.kind, &target.object, Some(target), &what).await)
            }
        }
    }

    async fn write_once(
        &self,
        scope: &Scope<'_>,
        verb: Verb,
        call: Result<Call, RequestError>,
    ) -> Result<Reply, Failed> {
        self.write(verb, call?, &scope.actor(self), scope.claim).await
    }

    /// The metadata of the object in an answer; one that is not it leaves the outcome unknown.
    async fn parsed(
        &self,
        scope: &mut Scope<'_>,
        reply: &Reply,
        target: &Target,
        what: &str,
    ) -> Result<Meta, ApplyError> {
        let failed = match parse_meta(reply, &target.object) {
            Ok(meta) if meta.uid == target.uid => return Ok(meta),
            Ok(_) => Failed::garbled(reply, "another uid than was asked for"),
            Err(failed) => failed,
        };
        Err(self.failed(scope, failed, &target.kind, &target.object, Some(target), what).await)
    }

    /// The step's error; before that, an outcome that nobody knows is looked up.
    async fn failed(
        &self,
        scope: &mut Scope<'_>,
        failed: Failed,
        kind: &Kind,
        object: &ObjectRef,
        before: Option<&Target>,
        what: &str,
    ) -> ApplyError {
        if failed.unknown {
            self.read_back(scope, kind, object, before).await;
        }
        failed.of_step(what)
    }

    /// Records what can be seen of a write whose answer was lost, so that the cache
    /// is waited for before the object is judged again. What was applied is not
    /// claimed: the next pass compares values.
    async fn read_back(
        &self,
        scope: &mut Scope<'_>,
        kind: &Kind,
        object: &ObjectRef,
        before: Option<&Target>,
    ) {
        let live = match self.read(kind, object).await {
            Ok(live) => live,
            Err(failed) => {
                debug!(%object, message = failed.message, "not read back");
                return;
            }
        };
        match (live, before) {
            (Some(live), Some(before)) if live.meta().uid == before.uid => {
                if live.meta().version() != version_number(&before.version) {
                    scope.wrote(object, live.meta(), None);
                }
            }
            (_, Some(before)) => scope.gone(object, &before.uid),
            (Some(live), None)
                if live.meta().owner(&self.config.host_namespace).as_ref() == Some(scope.key) =>
            {
                scope.wrote(object, live.meta(), None);
            }
            (Some(_) | None, None) => {}
        }
    }
}

fn apply_call(target: &Target, body: &Value, subresource: &str) -> Result<Call, RequestError> {
    let path = object_path(&target.kind, &target.object)? + subresource;
    let body = with_preconditions(body, Some(&target.uid), &target.version)?;
    Ok(Call::apply(path, body).answered_with_metadata())
}

fn merge_call(target: &Target, patch: &Value) -> Result<Call, RequestError> {
    let path = object_path(&target.kind, &target.object)?;
    let body = with_preconditions(patch, Some(&target.uid), &target.version)?;
    Ok(Call::write(Method::PATCH, path, MERGE, body).answered_with_metadata())
}

fn named(verb: Verb, object: &ObjectRef) -> String {
    format!("{verb} {object}")
}

//! A cluster that is its own API server and its own cache, and that can lag.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use windlass_core::claim::{BootClock, Claim, Gate};
use windlass_core::class::Class;
use windlass_core::decision::Notice;
use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::{Gvk, Kind};
use windlass_core::memo::{Fingerprint, Listed};
use windlass_core::name::PluginName;
use windlass_core::object::Object;
use windlass_core::plan::{Plan, Step};
use windlass_core::ports::{Applied, Apply, ApplyError, Cache, EventTarget, Read, Sink as _, Written};
use windlass_core::reads::{Query, Reads};
use windlass_queue::Queue;

use super::{Clock, HOST, gvk, ms};

pub(crate) struct Cluster {
    queue: Arc<Queue>,
    gate: Arc<Gate>,
    clock: Arc<Clock>,
    inner: Mutex<Inner>,
}

struct Inner {
    unsynced: BTreeSet<Gvk>,
    absent: BTreeSet<Gvk>,
    /// What the API server has, and what the cache shows.
    stored: BTreeMap<ObjectRef, Value>,
    shown: BTreeMap<ObjectRef, Arc<Object>>,
    /// Changes that the cache does not show yet.
    held: Option<Vec<ObjectRef>>,
    /// When each kind was asked to be listed anew, and when a list of it began that is complete.
    relists: Vec<Gvk>,
    listed: HashMap<Gvk, Instant>,
    /// Objects that the cache has seen the end of, and when.
    ends: HashMap<ObjectRef, u64>,
    version: u64,
    /// The shown objects that the inventory holds for a key.
    children: HashMap<Key, BTreeSet<ObjectRef>>,
    reads: HashMap<Key, Reads>,
    eras: HashMap<Gvk, u64>,
    /// Kinds without a status.
    without_status: BTreeSet<Gvk>,
    log: Vec<String>,
    notices: Vec<String>,
    errors: VecDeque<ApplyError>,
    plans: usize,
    write_takes: Duration,
    /// Until when the API server wants nothing of the plugin.
    held_until: Option<Instant>,
    /// When the last status was written, and how long the next one should wait.
    status_at: Option<Instant>,
    status_every: Duration,
}

impl Cluster {
    pub(crate) fn new(queue: Arc<Queue>, gate: Arc<Gate>, clock: Arc<Clock>) -> Self {
        let inner = Inner {
            unsynced: BTreeSet::new(),
            absent: BTreeSet::new(),
            stored: BTreeMap::new(),
            shown: BTreeMap::new(),
            held: None,
            relists: Vec::new(),
            listed: HashMap::new(),
            ends: HashMap::new(),
            version: 10,
            children: HashMap::new(),
            reads: HashMap::new(),
            eras: HashMap::new(),
            without_status: BTreeSet::new(),
            log: Vec::new(),
            notices: Vec::new(),
            errors: VecDeque::new(),
            plans: 0,
            write_takes: Duration::ZERO,
            held_until: None,
            status_at: None,
            status_every: Duration::ZERO,
        };
        Self { queue, gate, clock, inner: Mutex::new(inner) }
    }

    /// Somebody else creates or changes an object.
    pub(crate) fn put(&self, of: &ObjectRef, fields: Value) {
        let mut body = fields;
        body["metadata"]["name"] = (*of.name).into();
        body["metadata"]["namespace"] = (*of.namespace).into();
        self.store(of, Some(body));
    }

    /// As [`put`](Self::put), and nobody is told.
    pub(crate) fn put_unheard(&self, of: &ObjectRef, fields: Value) {
        self.hold();
        self.put(of, fields);
        let mut inner = self.lock();
        inner.held = None;
        let body = inner.stored[of].to_string();
        let object = Arc::new(Object::parse(&of.gvk, &body).expect("the test stores objects"));
        inner.shown.insert(of.clone(), object);
    }

    /// The objects of this kind become what they are in `other`: this replica's watch
    /// brings what another replica has written.
    pub(crate) fn mirror(&self, other: &Cluster, kind: &str) {
        let kind = gvk(kind);
        let of_kind = |inner: &Inner| -> BTreeMap<ObjectRef, Value> {
            let stored = inner.stored.iter().filter(|(of, _)| of.gvk == kind);
            stored.map(|(of, body)| (of.clone(), body.clone())).collect()
        };
        let (theirs, version) = {
            let other = other.lock();
            (of_kind(&other), other.version)
        };
        let mut changed = BTreeSet::new();
        {
            let mut inner = self.lock();
            inner.version = inner.version.max(version);
            let ours = of_kind(&inner);
            changed.extend(ours.keys().filter(|of| !theirs.contains_key(of)).cloned());
            changed.extend(theirs.iter().filter(|(of, b)| ours.get(of) != Some(b)).map(|(of, _)| of.clone()));
            inner.stored.retain(|of, _| of.gvk != kind);
            inner.stored.extend(theirs);
        }
        changed.iter().for_each(|of| self.reveal(of));
    }

    /// A primary of the plugin `web`.
    pub(crate) fn web(&self, name: &str) {
        self.put(&super::object("x.dev/v1/Web", name), json!({"metadata": {}}));
    }

    /// Somebody else deletes an object: gone at once, or when its finalizers are.
    pub(crate) fn delete(&self, of: &ObjectRef) {
        let stored = self.lock().stored.get(of).cloned();
        let Some(mut body) = stored else { return };
        if body["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) {
            body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            self.store(of, Some(body));
        } else {
            self.store(of, None);
        }
    }

    pub(crate) fn stored(&self, of: &ObjectRef) -> Option<Value> {
        self.lock().stored.get(of).cloned()
    }

    /// Everything that is stored.
    pub(crate) fn all(&self) -> Vec<(ObjectRef, Value)> {
        self.lock().stored.iter().map(|(of, body)| (of.clone(), body.clone())).collect()
    }

    /// Writes of the host, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// Published Events, in order.
    pub(crate) fn notices(&self) -> Vec<String> {
        self.lock().notices.clone()
    }

    pub(crate) fn reads(&self, key: &Key) -> Option<Reads> {
        self.lock().reads.get(key).cloned()
    }

    /// From now on nothing is taken for so long.
    pub(crate) fn want_nothing(&self, wait: Duration) {
        self.lock().held_until = Some(Instant::now() + wait);
    }

    /// From now on a status should wait so long after the one before it.
    pub(crate) fn status_every(&self, every: Duration) {
        self.lock().status_every = every;
    }

    /// The next plans fail like this before they write anything.
    pub(crate) fn fail(&self, class: Class, times: usize, retry_after: Option<Duration>) {
        let message = "the API server said no".to_owned();
        let error = ApplyError { class, refusal: None, message, retry_after };
        self.lock().errors.extend(std::iter::repeat_n(error, times));
    }

    /// The API server is well again.
    pub(crate) fn recover(&self) {
        self.lock().errors.clear();
    }

    /// Plans that were to be carried out.
    pub(crate) fn plans(&self) -> usize {
        self.lock().plans
    }

    pub(crate) fn write_takes(&self, time: Duration) {
        self.lock().write_takes = time;
    }

    pub(crate) fn set_synced(&self, kind: &str, synced: bool) {
        let mut inner = self.lock();
        if synced {
            inner.unsynced.remove(&gvk(kind))
        } else {
            inner.unsynced.insert(gvk(kind))
        };
    }

    /// A kind is served in another way from now on.
    pub(crate) fn new_era(&self, kind: &str) {
        *self.lock().eras.entry(gvk(kind)).or_default() += 1;
    }

    /// A kind has a status from now on, or none.
    pub(crate) fn set_status(&self, kind: &str, has_status: bool) {
        self.new_era(kind);
        let mut inner = self.lock();
        match has_status {
            true => inner.without_status.remove(&gvk(kind)),
            false => inner.without_status.insert(gvk(kind)),
        };
    }

    pub(crate) fn set_absent(&self, kind: &str) {
        self.new_era(kind);
        self.lock().absent.insert(gvk(kind));
    }

    /// From now on the cache shows nothing new.
    pub(crate) fn hold(&self) {
        self.lock().held.get_or_insert_default();
    }

    /// The cache shows everything again.
    pub(crate) fn show(&self) {
        let held = self.lock().held.take().unwrap_or_default();
        held.iter().for_each(|of| self.reveal(of));
    }

    /// Kinds that are to be listed anew.
    pub(crate) fn relists(&self) -> Vec<Gvk> {
        self.lock().relists.clone()
    }

    /// A kind is listed: all of it is seen, whatever the watch holds back.
    pub(crate) fn list_anew(&self, kind: &str) {
        let kind = gvk(kind);
        let objects: Vec<ObjectRef> = {
            let mut inner = self.lock();
            inner.relists.retain(|other| *other != kind);
            inner.listed.insert(kind.clone(), Instant::now());
            let all = inner.stored.keys().chain(inner.shown.keys()).filter(|of| of.gvk == kind);
            all.cloned().collect::<BTreeSet<_>>().into_iter().collect()
        };
        objects.iter().for_each(|of| self.reveal(of));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no fake panics while it holds its lock")
    }

    fn store(&self, of: &ObjectRef, body: Option<Value>) {
        let held = {
            let mut inner = self.lock();
            inner.version += 1;
            let version = inner.version.to_string();
            match body {
                None => drop(inner.stored.remove(of)),
                Some(mut body) => {
                    let before = inner.stored.get(of).map(|b| b["metadata"]["uid"].clone());
                    body["metadata"]["uid"] = before.unwrap_or_else(|| format!("u{version}").into());
                    body["metadata"]["resourceVersion"] = version.into();
                    inner.stored.insert(of.clone(), body);
                }
            }
            inner.held.as_mut().map(|held| held.push(of.clone())).is_some()
        };
        if !held {
            self.reveal(of);
        }
    }

    /// The cache sees an object as it is now, and offers whoever it concerns.
    fn reveal(&self, of: &ObjectRef) {
        let mut inner = self.lock();
        let now = inner.stored.get(of).map(|body| {
            Arc::new(Object::parse(&of.gvk, &body.to_string()).expect("the test stores objects"))
        });
        let before = match now.clone() {
            Some(object) => inner.shown.insert(of.clone(), object),
            None => {
                let version = inner.version;
                inner.ends.insert(of.clone(), version);
                inner.shown.remove(of)
            }
        };
        let mut keys = BTreeSet::new();
        if let Some(key) = before.as_ref().and_then(|object| object.meta().owner(HOST)) {
            inner.children.entry(key).or_default().remove(of);
        }
        if let Some(key) = now.as_ref().and_then(|object| object.meta().owner(HOST)) {
            inner.children.entry(key).or_default().insert(of.clone());
        }
        for object in [before, now].into_iter().flatten() {
            keys.extend(object.meta().owner(HOST));
            let reading = inner.reads.iter().filter(|(_, reads)| {
                reads.objects.contains(of)
                    || reads.lists.iter().any(|q| q.gvk == of.gvk && q.matches(object.meta()))
            });
            keys.extend(reading.map(|(key, _)| key.clone()));
        }
        if of.gvk == gvk("x.dev/v1/Web") {
            keys.insert(super::key(&of.name));
        }
        drop(inner);
        keys.into_iter().for_each(|key| self.queue.offer(key));
    }

    /// Whether what a step writes to is there, a child at the version that was judged.
    fn is_as_judged(&self, plan: &Plan, step: &Step) -> bool {
        match step {
            Step::Create { .. } => true,
            Step::Update { target, .. } | Step::Delete { target } | Step::Orphan { target, .. } => {
                let now = self.stored(&target.object);
                now.is_some_and(|body| body["metadata"]["resourceVersion"] == *target.version)
            }
            Step::Finalizers { .. } | Step::Status { .. } => self.stored(&plan.primary().object).is_some(),
        }
    }

    fn write(&self, plan: &Plan, step: &Step) -> Written {
        let (line, of, body, applied) = self.prepare(plan, step);
        self.lock().log.push(line);
        let uid = |body: &Value| body["metadata"]["uid"].as_str().unwrap_or_default().into();
        let before = self.stored(&of).map(|body| uid(&body)).unwrap_or_default();
        self.store(&of, body);
        let inner = self.lock();
        let after = inner.stored.get(&of);
        let object = after.map(|b| Object::parse(&of.gvk, &b.to_string()).expect("an object"));
        let meta = object.as_ref().map(Object::meta);
        Written {
            uid: meta.map_or(before, |m| m.uid.clone()),
            version: meta.map(|m| m.version()),
            applied: applied
                .map(|(status, wanted)| (status, wanted, meta.and_then(|m| m.entry("windlass/web", status)))),
            object: of,
        }
    }

    /// What the server makes of a step: a line for the log, and the object afterwards.
    fn prepare(
        &self,
        plan: &Plan,
        step: &Step,
    ) -> (String, ObjectRef, Option<Value>, Option<(bool, String)>) {
        let primary = || (plan.primary().object.clone(), self.stored(&plan.primary().object));
        match step {
            Step::Create { object, body, wanted, .. } => {
                (format!("create {object}"), object.clone(), Some(owned(body)), Some((false, wanted.clone())))
            }
            Step::Update { target, body, wanted } => {
                let of = target.object.clone();
                (format!("update {of}"), of, Some(owned(body)), Some((false, wanted.clone())))
            }
            Step::Delete { target } => {
                (format!("delete {}", target.object), target.object.clone(), None, None)
            }
            Step::Orphan { target, .. } => {
                let of = target.object.clone();
                (format!("orphan {of}"), of.clone(), self.stored(&of), None)
            }
            Step::Finalizers { finalizers } => {
                let (of, body) = primary();
                let mut body = body.expect("the primary exists");
                body["metadata"]["finalizers"] = json!(finalizers);
                let gone = finalizers.is_empty() && body["metadata"].get("deletionTimestamp").is_some();
                (format!("finalizers {finalizers:?}"), of, (!gone).then_some(body), None)
            }
            Step::Status { body: status, wanted } => {
                let (of, body) = primary();
                let mut body = body.expect("the primary exists");
                body["status"] = status["status"].clone();
                self.lock().status_at = Some(Instant::now());
                (format!("status {of}"), of, Some(body), Some((true, wanted.clone())))
            }
        }
    }
}

/// An applied configuration as it is stored, with our managedFields entry.
fn owned(body: &Value) -> Value {
    let mut body = body.clone();
    body["metadata"]["managedFields"] =
        json!([{"manager": "windlass/web", "operation": "Apply", "fieldsV1": {"f:data": {}}}]);
    body
}

impl Cache for Cluster {
    fn kind(&self, of: &Gvk) -> Option<Kind> {
        let inner = self.lock();
        let has_status = !inner.without_status.contains(of);
        let kind = || Kind { gvk: of.clone(), plural: "things".into(), namespaced: true, has_status };
        (!inner.absent.contains(of)).then(kind)
    }

    fn is_synced(&self, of: &Gvk) -> bool {
        !self.lock().unsynced.contains(of)
    }

    fn object(&self, of: &ObjectRef) -> Option<Arc<Object>> {
        self.lock().shown.get(of).cloned()
    }

    fn children(&self, of: &Key) -> Vec<Arc<Object>> {
        let inner = self.lock();
        let children = inner.children.get(of).into_iter().flatten();
        children.filter_map(|child| inner.shown.get(child).cloned()).collect()
    }

    fn list(&self, query: &Query) -> Vec<Arc<Object>> {
        let inner = self.lock();
        let matching = inner.shown.iter().filter(|(of, o)| of.gvk == query.gvk && query.matches(o.meta()));
        matching.map(|(_, object)| object.clone()).collect()
    }

    fn caught_up(&self, write: &Written) -> bool {
        let inner = self.lock();
        match (inner.shown.get(&write.object), write.version) {
            (Some(object), _) if object.meta().uid != write.uid => true,
            (Some(object), Some(version)) => object.meta().version() >= version,
            (None, None) => true,
            (None, Some(version)) => inner.ends.get(&write.object).is_some_and(|end| *end >= version),
            (Some(_), None) => false,
        }
    }

    fn relist(&self, of: &Gvk) -> bool {
        let mut inner = self.lock();
        let news = !inner.relists.contains(of);
        if news {
            inner.relists.push(of.clone());
        }
        news
    }

    fn listed_since(&self, of: &Gvk, at: std::time::Instant) -> bool {
        self.lock().listed.get(of).is_some_and(|began| began.into_std() > at)
    }

    fn era(&self, of: &Gvk) -> u64 {
        self.lock().eras.get(of).copied().unwrap_or_default()
    }

    fn fingerprint(&self, of: &Key, into: &mut Fingerprint) {
        self.children(of).iter().for_each(|child| into.child(child));
        let Some(reads) = self.reads(of) else { return };
        reads.objects.iter().for_each(|object| into.object(self.object(object).as_deref()));
        reads.lists.iter().for_each(|query| into.list(Listed::of(self.list(query).iter())));
    }

    fn page(&self, gvk: &Gvk, after: Option<&(Arc<str>, Arc<str>)>, most: usize) -> Vec<Arc<Object>> {
        let inner = self.lock();
        let behind = |of: &ObjectRef| {
            after.is_none_or(|(namespace, name)| (&of.namespace, &of.name) > (namespace, name))
        };
        let page = inner.shown.iter().filter(|(of, _)| of.gvk == *gvk && behind(of));
        page.map(|(_, object)| object.clone()).take(most).collect()
    }

    fn owners(&self, gvk: &Gvk, plugin: &PluginName) -> Vec<Key> {
        let inner = self.lock();
        let theirs = inner.children.iter().filter(|(key, _)| key.plugin == *plugin);
        let has = |child: &ObjectRef| child.gvk == *gvk && inner.shown.contains_key(child);
        theirs.filter(|(_, children)| children.iter().any(has)).map(|(key, _)| key.clone()).collect()
    }

    fn watch_reads(&self, key: &Key, reads: Reads) {
        let mut inner = self.lock();
        if reads.is_empty() {
            drop(inner.reads.remove(key))
        } else {
            drop(inner.reads.insert(key.clone(), reads))
        }
    }

    fn add_read(&self, key: &Key, read: Read) {
        let mut inner = self.lock();
        let reads = inner.reads.entry(key.clone()).or_default();
        match read {
            Read::Object(of) => drop(reads.objects.insert(of)),
            Read::List(query) => drop(reads.lists.insert(query)),
        }
    }
}

impl Apply for Cluster {
    fn held(&self, _: &PluginName) -> Option<Duration> {
        let until = self.lock().held_until?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    fn status_held(&self, plan: &Plan) -> Option<Duration> {
        let [Step::Status { .. }] = plan.steps() else { return None };
        let inner = self.lock();
        inner.status_every.checked_sub(inner.status_at?.elapsed()).filter(|left| !left.is_zero())
    }

    async fn execute(&self, plan: &Plan, claim: &Claim) -> Applied {
        let mut writes = Vec::new();
        self.lock().plans += 1;
        let error = self.lock().errors.pop_front();
        if let Some(error) = error {
            return Applied { writes, result: Err(error) };
        }
        let takes = self.lock().write_takes;
        for step in plan.steps() {
            if !takes.is_zero() {
                sleep(takes).await;
            }
            match self.gate.permit(claim, self.clock.now(), ms(5000), ms(100)) {
                Ok(_) if !self.is_as_judged(plan, step) => {
                    let (class, message) = (Class::Conflict, "it is another version".to_owned());
                    let error = ApplyError { class, refusal: None, message, retry_after: None };
                    return Applied { writes, result: Err(error) };
                }
                Ok(_permit) => writes.push(self.write(plan, step)),
                Err(why) => {
                    let (class, message) = (Class::Fatal, why.to_string());
                    let error = ApplyError { class, refusal: None, message, retry_after: None };
                    return Applied { writes, result: Err(error) };
                }
            }
        }
        Applied { writes, result: Ok(()) }
    }

    async fn read(&self, _: &Kind, object: &ObjectRef) -> Result<Option<Object>, ApplyError> {
        let stored = self.lock().stored.get(object).cloned();
        Ok(stored.map(|body| Object::parse(&object.gvk, &body.to_string()).expect("the test stores objects")))
    }

    async fn notify(&self, on: &EventTarget, notice: &Notice, _claim: &Claim) {
        let line = format!("{} {}: {}", on.object.name, notice.reason, notice.message);
        self.lock().notices.push(line);
    }
}

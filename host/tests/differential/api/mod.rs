//! A small API server in the test's own process: discovery, lists in pages, watches, server-side apply, merge patches,
//! deletes, a garbage collector, and a fence that judges claims. No sockets, so that time can be virtual.
//!
//! It answers no more than the host asks for, and panics at anything else: the real one has the integration tests.

mod fields;
mod http;
pub(crate) mod store;
pub(crate) mod streams;
pub(crate) mod weather;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ::http::{Method, Request, Response};
use futures::channel::mpsc;
use http_body_util::{BodyExt as _, StreamBody};
use kube::client::Body;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::http::{Answer, Asked, discovery, full, json_answer, status, whole};
use store::{Kind, Name, Preconditions, Refused, Store, Stored};
use streams::{Selector, Streams};
use weather::{Fate, Sort, Weather};

/// The server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Arc<Mutex<State>>);

/// All of it, behind one lock that is never held across a wait.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) streams: Streams,
    pub(crate) weather: Weather,
    /// The only claim whose writes are let through.
    pub(crate) claim: Option<String>,
    /// Requests that are on their way and have not arrived.
    pub(crate) late: usize,
    /// Writes that were sent, and everything else.
    pub(crate) writes: usize,
    pub(crate) reads: usize,
    rng: Xoshiro256PlusPlus,
    told: usize,
    compacted: u64,
    /// Lists that were begun: what is left of them, and their version.
    pages: Vec<(Vec<Arc<Stored>>, u64)>,
    began: Instant,
    /// What happened, for whoever has to find out why a seed fails.
    trace: Vec<(Duration, String)>,
}

impl Api {
    /// A server without objects. `seed` decides what becomes of requests.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            store: Store::new(),
            streams: Streams::default(),
            weather: Weather::default(),
            claim: None,
            late: 0,
            writes: 0,
            reads: 0,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            told: 0,
            compacted: 0,
            pages: Vec::new(),
            began: Instant::now(),
            trace: Vec::new(),
        })))
    }

    /// Changes or looks at the server's state; whatever changed is told to the watches.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let done = f(&mut state);
        state.tell();
        done
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test goes on after a panic")
    }

    /// A client as which replica `who` talks to this server.
    pub(crate) fn client(&self, who: usize) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| api.clone().serve(who, request));
        kube::Client::new(service, "default")
    }

    async fn serve(self, who: usize, request: Request<Body>) -> Result<Answer, io::Error> {
        let asked = Asked::read(request).await;
        // So long everything takes: what is sent at once does not arrive at once.
        let (fate, travels) = {
            let mut state = self.lock();
            state.count(who, &asked);
            if state.weather.outage {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let weather = state.weather;
            let fate = weather.fate(asked.sort(), &mut state.rng);
            let travels = Duration::from_micros(state.rng.random_range(100..3_000));
            if asked.is_write() && fate != Fate::Pass {
                state.say(format!("    {fate:?}"));
            }
            state.late += 1;
            (fate, travels)
        };
        match fate {
            Fate::Pass => Ok(self.arrives(asked, travels).await),
            Fate::Late(by) => Ok(self.arrives(asked, travels + by).await),
            Fate::LateAnswer(by) => {
                let answer = self.arrives(asked, travels).await;
                sleep(by).await;
                Ok(answer)
            }
            Fate::Refused(code, pause) => {
                self.lock().late -= 1;
                sleep(travels).await;
                Ok(status(code, "the weather is bad", pause))
            }
            Fate::Masked(code) => {
                self.arrives(asked, travels).await;
                Ok(status(code, "the weather is bad", None))
            }
            Fate::Lost => {
                self.lock().late -= 1;
                sleep(travels).await;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Fate::Unanswered => {
                self.arrives(asked, travels).await;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Fate::Page(carried_out) => {
                if carried_out {
                    self.arrives(asked, travels).await;
                } else {
                    self.lock().late -= 1;
                    sleep(travels).await;
                }
                Ok(whole(200, "text/html", "<html>502 Bad Gateway</html>".into()))
            }
            Fate::Half => {
                let answer = self.arrives(asked, travels).await;
                let (head, body) = answer.into_parts();
                let bytes = body.collect().await.expect("an answer that is no watch").to_bytes();
                Ok(Response::from_parts(head, full(bytes.slice(..bytes.len() / 2))))
            }
        }
    }

    /// Carries a request out after its way here, whether or not somebody still waits for the answer.
    async fn arrives(&self, asked: Asked, travels: Duration) -> Answer {
        let api = self.clone();
        let carried = tokio::spawn(async move {
            sleep(travels).await;
            let answer = api.with(|state| {
                state.late -= 1;
                state.answer(&asked)
            });
            let Ok((answer, stream)) = answer else {
                let Err(Refused(code, why)) = answer else { unreachable!("it is no answer") };
                if asked.is_write() {
                    api.lock().say(format!("    {code} {why}"));
                }
                return status(code, why, None);
            };
            if let Some(id) = stream {
                api.times_out(id, asked.lasts());
            }
            answer
        });
        carried.await.expect("the server does not panic")
    }

    /// Ends a stream in order when its time is over.
    fn times_out(&self, id: u64, lasts: Duration) {
        let api = self.clone();
        tokio::spawn(async move {
            sleep(lasts.saturating_sub(Duration::from_secs(2))).await;
            api.with(|state| state.streams.bookmark(id, state.store.version));
            sleep(Duration::from_secs(2)).await;
            api.with(|state| state.streams.end(id));
        });
    }
}

impl State {
    /// Keeps in mind what happens.
    pub(crate) fn say(&mut self, what: String) {
        let at = self.began.elapsed();
        self.trace.push((at, what));
    }

    /// What happened, a line each.
    pub(crate) fn trace(&self) -> String {
        let lines = self.trace.iter().map(|(at, what)| format!("{:9.3} {what}\n", at.as_secs_f64()));
        lines.collect()
    }

    /// Forgets all but the present: watches from earlier versions and lists that have begun are answered with 410.
    pub(crate) fn compact(&mut self) {
        // Something else was written meanwhile: whoever goes on from the last change is too late as well.
        self.store.version += 1;
        self.compacted = self.store.version;
        self.pages.clear();
    }

    fn count(&mut self, who: usize, asked: &Asked) {
        if asked.is_write() {
            self.writes += 1;
            let status = if asked.status { "/status" } else { "" };
            let kind = asked.kind.map_or("events", Kind::plural);
            let claim = asked.claim.as_deref().unwrap_or("no claim");
            self.say(format!("  {who} {} {kind}/{}{status} as {claim}", asked.method, asked.name));
        } else {
            self.reads += 1;
            if asked.sort() == Sort::List {
                self.say(format!("  {who} lists {}", asked.kind.map_or("what is served", Kind::plural)));
            }
        }
    }

    fn tell(&mut self) {
        for change in &self.store.changes[self.told..] {
            self.streams.tell(change, &mut self.rng);
        }
        self.told = self.store.changes.len();
    }

    /// Carries a request out; with the number of the stream that it opened.
    fn answer(&mut self, asked: &Asked) -> Result<(Answer, Option<u64>), Refused> {
        if asked.event {
            return Ok((json_answer(201, asked.body.to_string()), None));
        }
        let Some(kind) = asked.kind else {
            return Ok((json_answer(200, discovery().to_string()), None));
        };
        match asked.sort() {
            Sort::Watch => self.watch(kind, asked).map(|(answer, id)| (answer, Some(id))),
            Sort::List => self.list(kind, asked).map(|answer| (answer, None)),
            Sort::Look => {
                let found = self.store.get(&(kind, asked.name.clone()));
                let found = found.ok_or(Refused(404, "not found"))?;
                Ok((json_answer(200, found.text.clone()), None))
            }
            Sort::Write => self.write(kind, asked).map(|answer| (answer, None)),
        }
    }

    fn write(&mut self, kind: Kind, asked: &Asked) -> Result<Answer, Refused> {
        if asked.claim.is_none() || asked.claim != self.claim {
            let claim = asked.claim.as_deref().unwrap_or("nobody");
            let why = format!(
                "forbidden: ValidatingAdmissionPolicy 'windlass-fence' with binding 'windlass-fence' denied request: \
                 fenced: {claim} is not the current claim"
            );
            self.say(format!("    {why}"));
            return Ok(status(403, &why, None));
        }
        let name: Name = (kind, asked.name.clone());
        if asked.method == Method::DELETE {
            let preconditions = Preconditions::of(&asked.body["preconditions"]);
            return Ok(match self.store.delete(&name, preconditions)? {
                Some(ending) => json_answer(200, ending.text.clone()),
                None => json_answer(200, json!({"kind": "Status", "status": "Success"}).to_string()),
            });
        }
        assert_eq!(asked.method, Method::PATCH, "the host makes and changes objects by patches");
        if !asked.merge {
            let (code, stored) = self.store.apply(&name, asked.manager(), asked.status, &asked.body)?;
            return Ok(json_answer(code, stored.text.clone()));
        }
        let mut patch = asked.body.clone();
        if let Some(metadata) = patch["metadata"].as_object_mut() {
            metadata.remove("uid");
            metadata.remove("resourceVersion");
        }
        let preconditions = Preconditions::of(&asked.body["metadata"]);
        let stored =
            self.store.update(&name, asked.manager(), preconditions, |value| merge(value, &patch))?;
        Ok(json_answer(200, stored.text.clone()))
    }

    fn list(&mut self, kind: Kind, asked: &Asked) -> Result<Answer, Refused> {
        let selector = Selector::parse(asked.parameter("labelSelector").unwrap_or_default());
        let (mut left, version) = match asked.parameter("continue") {
            None => {
                let all = self.store.of_kind(kind).filter(|(_, stored)| selector.selects(&stored.value));
                (all.map(|(_, stored)| stored.clone()).collect::<Vec<_>>(), self.store.version)
            }
            Some(token) => {
                let place: usize = token.parse().expect("a token of ours");
                self.pages.get(place).cloned().ok_or(Refused(410, "the token is too old"))?
            }
        };
        // Now and then a page is short.
        let page = if self.rng.random_bool(0.2) { 2 } else { 500 };
        let rest = left.split_off(left.len().min(page));
        let token = if rest.is_empty() {
            String::new()
        } else {
            self.pages.push((rest, version));
            (self.pages.len() - 1).to_string()
        };
        let items: Vec<&str> = left.iter().map(|stored| stored.text.as_str()).collect();
        Ok(json_answer(
            200,
            format!(
                r#"{{"kind":"List","metadata":{{"resourceVersion":"{version}","continue":"{token}"}},"items":[{}]}}"#,
                items.join(",")
            ),
        ))
    }

    fn watch(&mut self, kind: Kind, asked: &Asked) -> Result<(Answer, u64), Refused> {
        let from: u64 =
            asked.parameter("resourceVersion").and_then(|text| text.parse().ok()).expect("a version");
        if from < self.compacted {
            return Err(Refused(410, "the version is too old"));
        }
        let selector = Selector::parse(asked.parameter("labelSelector").unwrap_or_default());
        let (pipe, frames) = mpsc::unbounded();
        let id = self.streams.open(kind, selector, pipe, from, &self.store.changes);
        let answer = Response::builder().header("content-type", "application/json");
        Ok((answer.body(StreamBody::new(frames).boxed_unsync()).expect("valid"), id))
    }
}

/// A merge patch (RFC 7386).
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(name);
            }
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}

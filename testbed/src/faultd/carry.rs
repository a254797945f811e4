//! One request: what the rules make of it on its way there and of the answer on its way back.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::active::State;
use super::body::{Body, passed_on, throttled, truncated, whole};
use super::events::{followed, is_stream};
use super::gate::Gate;
use super::port::Shared;
use super::request::Seen;
use super::rule::{Action, Reply, Way};

/// How large a request may be; the API server itself takes 3 MiB.
const REQUEST_BYTES: usize = 16 << 20;

/// The connection is being reset, so there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is reset")]
pub(super) struct NoAnswer;

/// What the client is told.
enum Told {
    Answer(Response<Body>),
    /// Silence, for as long as the client likes to wait.
    Nothing,
    /// The connection is gone.
    Reset,
}

/// Answers one request of a client. Dropped when the client leaves.
pub(super) async fn answer(
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    request: Request<Incoming>,
) -> Result<Response<Body>, NoAnswer> {
    let (parts, body) = request.into_parts();
    // Whole before anything is done with it: what is carried out late must not need its client any more.
    let body = Limited::new(body, REQUEST_BYTES).collect().await.map_err(|_| gate.reset()).ok();
    let body = body.ok_or(NoAnswer)?.to_bytes();
    let seen = Seen::of(&parts.method, &parts.uri);
    let rules = shared.rules().borrow().clone();
    let meant = |rule: &&Arc<State>| !matches!(rule.rule.action, Action::Events(_));
    let faults: Vec<_> = rules.iter().filter(meant).filter(|rule| rule.falls_on(&seen)).cloned().collect();
    let carried = Carried { shared: shared.clone(), gate: gate.clone(), seen, faults };
    let told = if carried.faults.is_empty() {
        // Nothing to see here: a client that leaves takes its request back, as it would without us.
        carried.there_and_back(parts, body).await
    } else {
        let (tell, told) = oneshot::channel();
        shared.tasks().spawn(async move {
            // Whoever asked may be gone.
            tell.send(carried.there_and_back(parts, body).await).ok();
        });
        told.await.unwrap_or(Told::Reset)
    };
    match told {
        Told::Answer(response) => Ok(response),
        Told::Nothing => std::future::pending().await,
        Told::Reset => {
            gate.reset();
            Err(NoAnswer)
        }
    }
}

/// A request with the rules that fall on it.
struct Carried {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    seen: Seen,
    faults: Vec<Arc<State>>,
}

impl Carried {
    async fn there_and_back(self, parts: Parts, body: Bytes) -> Told {
        if let Some(told) = self.disturbed(Way::Request).await {
            return told;
        }
        let request = Request::from_parts(parts, Full::new(body));
        let Ok(response) = self.shared.upstream().send(request).await else { return Told::Reset };
        self.faults.iter().for_each(|fault| fault.has_landed());
        if let Some(told) = self.disturbed(Way::Response).await {
            return told;
        }
        Told::Answer(self.shaped(response))
    }

    /// Goes one way past all rules; says what the client is told if that is the end of it.
    async fn disturbed(&self, here: Way) -> Option<Told> {
        for fault in &self.faults {
            match &fault.rule.action {
                Action::Delay(way, time) if *way == here => tokio::time::sleep(*time).await,
                Action::Hold(way) if *way == here => fault.released().await,
                Action::Drop(way) if *way == here => return Some(Told::Reset),
                Action::Blackhole(way) if *way == here => return Some(Told::Nothing),
                Action::Answer(way, reply) if *way == here => return Some(Told::Answer(reply.response())),
                _ => {}
            }
        }
        None
    }

    /// The answer as the client gets it.
    fn shaped(self, response: Response<Incoming>) -> Response<Body> {
        let response = if is_stream(&self.seen, &response) {
            followed(response, self.shared.rules().subscribe(), self.seen, self.gate)
        } else {
            response.map(passed_on)
        };
        self.faults.iter().fold(response, |response, fault| match fault.rule.action {
            Action::Truncate(bytes) => response.map(|body| truncated(body, bytes)),
            Action::Throttle(rate) => response.map(|body| throttled(body, rate)),
            _ => response,
        })
    }
}

impl Reply {
    fn response(&self) -> Response<Body> {
        let mut response = Response::new(whole(self.body.clone()));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response
    }
}

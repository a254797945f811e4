//! What a fault is: which requests it falls on, and what becomes of them.
//!
//! Rules are plain values. Every rule that fits a request applies to it, in the order in which the rules were added, so that
//! "a second of delay for everything" and "every third update fails" can be said apart.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::request::{Seen, Verb};

/// On which way something is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the API server: what is stopped here is not carried out.
    Request,
    /// From the API server to the client: what is stopped here has been carried out, and the client does not know.
    Response,
}

/// What becomes of a request that a rule falls on.
///
/// A request that has reached the proxy goes its way whether or not its client still waits: one that is delayed or held on the
/// way there is a packet that arrives late, and is carried out then.
#[derive(Debug, Clone)]
pub enum Action {
    /// Everything passes, this much later.
    Delay(Way, Duration),
    /// Everything waits until the rule is released or removed.
    Hold(Way),
    /// The client's connection is reset, with all that else goes over it.
    Drop(Way),
    /// Nothing more is heard; the connection stays. What is lost is lost for good, also when the rule is removed.
    Blackhole(Way),
    /// The client is answered by the proxy: instead of the API server ([`Way::Request`]), or after it has carried the request out
    /// and with its answer thrown away ([`Way::Response`]).
    Answer(Way, Reply),
    /// The body of the answer breaks off after this many bytes, and the connection with it.
    Truncate(usize),
    /// The body of the answer comes at this many bytes a second, at least 1.
    Throttle(u32),
    /// What happens to watch streams, those that are open already among them. Falls on nothing but watches.
    Events(EventFault),
}

/// What happens to the events of a watch. A stream in another format than JSON is only held, ended and reset.
#[derive(Debug, Clone, Copy)]
pub enum EventFault {
    /// Nothing comes, and nothing is lost, until the rule is released or removed: a half-open stream, or a cache that is behind.
    Hold,
    /// One error event of code 410 (`Expired`), which ends the stream.
    Gone,
    /// One line that is no JSON; the stream goes on behind it.
    Garbage,
    /// One bookmark of this version, which may be one from the past; the stream goes on behind it.
    Bookmark(u64),
    /// The next event is lost, and nothing else: not a bookmark. It has landed when that has happened.
    Lose,
    /// The stream ends in order, as after the API server's own timeout.
    End,
    /// The connection is reset.
    Reset,
    /// Each event is lost, sent twice or swapped with the next one with these probabilities, from 0 to 1. Their sum is at most 1.
    Scramble {
        /// Decides which; the same events meet the same fate.
        seed: u64,
        /// How many are lost.
        lose: f64,
        /// How many come twice.
        double: f64,
        /// How many change places with the one after them.
        swap: f64,
    },
}

/// An answer that the proxy makes up.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    /// A status with the `Status` object that an API server would send along.
    ///
    /// # Panics
    /// If the code is not between 100 and 999.
    pub fn status(code: u16) -> Self {
        let status = StatusCode::from_u16(code).expect("a status has three digits");
        let reason = match code {
            403 => "Forbidden",
            409 => "Conflict",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        let body = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!("faultd answers {code}"), "reason": reason, "code": code,
        });
        Self::raw(status, "application/json", body.to_string())
    }

    /// Any body with any content type: a page of HTML from a load balancer, half an object.
    pub fn raw(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let headers =
            HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        Self { status, headers, body: body.into() }
    }

    /// The page of a load balancer that has nobody to ask, as if it were an answer.
    pub fn page() -> Self {
        Self::raw(StatusCode::OK, "text/html", "<html><body><h1>502 Bad Gateway</h1></body></html>")
    }

    /// What [`status`](Self::status) says, under a code that claims success.
    ///
    /// # Panics
    /// As for `status`.
    pub fn masked(code: u16) -> Self {
        Self { status: StatusCode::OK, ..Self::status(code) }
    }

    /// The same with one more header, `Retry-After` for one.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }
}

/// Which requests an action falls on: all of them until something is said here.
#[derive(Debug, Clone)]
#[must_use = "a rule does nothing before it is added to a port"]
pub struct Rule {
    pub(super) action: Action,
    verbs: Vec<Verb>,
    resource: Option<String>,
    name: Option<String>,
    path: Option<String>,
    skip: u64,
    every: u64,
    limit: Option<u64>,
    share: Option<(f64, u64)>,
}

impl Rule {
    /// An action for every request.
    pub fn new(action: Action) -> Self {
        Self {
            action,
            verbs: Vec::new(),
            resource: None,
            name: None,
            path: None,
            skip: 0,
            every: 1,
            limit: None,
            share: None,
        }
    }

    /// Only for this verb; said again, for either.
    pub fn verb(mut self, verb: Verb) -> Self {
        self.verbs.push(verb);
        self
    }

    /// Only for what may change something.
    pub fn writes(mut self) -> Self {
        self.verbs.extend(Verb::WRITES);
        self
    }

    /// Only for this resource, the plural in lower case, with its subresources.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Only for the object of this name. A create has none in its path.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only where path and query contain this text.
    pub fn path(mut self, part: impl Into<String>) -> Self {
        self.path = Some(part.into());
        self
    }

    /// Only for every nth that fits, the nth itself first, counted after [`skip`](Self::skip); 0 is taken for 1.
    pub fn every(mut self, number: u64) -> Self {
        self.every = number.max(1);
        self
    }

    /// Only for the first so many that fit, counted after [`skip`](Self::skip); with [`every`](Self::every), of those.
    pub fn first(mut self, count: u64) -> Self {
        self.limit = Some(count);
        self
    }

    /// Not for the first so many that fit.
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Only for the nth that fits, counted from 1.
    pub fn nth(self, number: u64) -> Self {
        self.skip(number.saturating_sub(1)).first(1)
    }

    /// Only for this share of those that fit, from 0 to 1. The seed and a request's number among them decide, so that the
    /// same sequence of requests always meets the same fate.
    pub fn share(mut self, share: f64, seed: u64) -> Self {
        self.share = Some((share, seed));
        self
    }

    /// Whether the request is of the kind that is meant, whichever number it has.
    pub(super) fn fits(&self, seen: &Seen) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|text| text == found);
        (self.verbs.is_empty() || self.verbs.contains(&seen.verb))
            && (!matches!(self.action, Action::Events(_)) || seen.verb == Verb::Watch)
            && is(&self.resource, &seen.resource)
            && is(&self.name, &seen.name)
            && self.path.as_deref().is_none_or(|part| seen.path.contains(part))
    }

    /// Whether the action falls on the fitting request of this number, counted from 0.
    pub(super) fn falls_on(&self, number: u64) -> bool {
        number >= self.skip
            && (number - self.skip + 1).is_multiple_of(self.every)
            && self.limit.is_none_or(|limit| (number - self.skip) / self.every < limit)
            && self.share.is_none_or(|(share, seed)| chance(seed, number) < share)
    }
}

/// A number from 0 to 1 that only the seed and the number decide, in whatever order they are asked for.
pub(super) fn chance(seed: u64, number: u64) -> f64 {
    Xoshiro256PlusPlus::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).random()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(method: http::Method, path: &str) -> Seen {
        Seen::of(&method, &path.parse().unwrap())
    }

    #[test]
    fn a_rule_falls_on_what_it_names_and_on_nothing_else() {
        let lease = "/apis/coordination.k8s.io/v1/namespaces/n/leases/windlass";
        let rule =
            Rule::new(Action::Hold(Way::Request)).verb(Verb::Update).resource("leases").named("windlass");
        assert!(rule.fits(&seen(http::Method::PUT, lease)));
        assert!(!rule.fits(&seen(http::Method::GET, lease)));
        assert!(!rule.fits(&seen(http::Method::PUT, "/api/v1/namespaces/n/configmaps/windlass")));
        assert!(rule.clone().path("namespaces/n/").fits(&seen(http::Method::PUT, lease)));
        assert!(!rule.path("namespaces/m/").fits(&seen(http::Method::PUT, lease)));
        let writes = Rule::new(Action::Hold(Way::Request)).writes();
        assert!(writes.fits(&seen(http::Method::DELETE, lease)));
        assert!(!writes.fits(&seen(http::Method::GET, lease)));
        let events = Rule::new(Action::Events(EventFault::Gone));
        assert!(events.fits(&seen(http::Method::GET, "/api/v1/pods?watch=1")));
        assert!(!events.fits(&seen(http::Method::GET, "/api/v1/pods")));
    }

    #[test]
    fn a_rule_counts_what_fits() {
        let hit = |rule: &Rule| (0..6).filter(|number| rule.falls_on(*number)).collect::<Vec<_>>();
        let rule = Rule::new(Action::Truncate(1));
        assert_eq!(hit(&rule), [0, 1, 2, 3, 4, 5]);
        assert_eq!(hit(&rule.clone().nth(3)), [2]);
        assert_eq!(hit(&rule.clone().first(2)), [0, 1]);
        assert_eq!(hit(&rule.clone().every(2)), [1, 3, 5]);
        assert_eq!(hit(&rule.clone().skip(1).every(2).first(2)), [2, 4]);
        assert_eq!(hit(&rule.skip(1).first(2)), [1, 2]);
    }

    #[test]
    fn a_share_is_the_same_each_time_and_about_as_large_as_asked() {
        let rule = Rule::new(Action::Truncate(1)).share(0.3, 7);
        let hit = |rule: &Rule| (0..1000).filter(|number| rule.falls_on(*number)).collect::<Vec<_>>();
        assert_eq!(hit(&rule), hit(&rule.clone()));
        assert!((250..350).contains(&hit(&rule).len()), "{}", hit(&rule).len());
        assert_ne!(hit(&rule), hit(&rule.share(0.3, 8)));
    }
}

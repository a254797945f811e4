use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt as _;
use hyper::header::HeaderValue;

use super::*;

/// An API server that knows `scraper`, who may get /metrics, and counts.
#[derive(Default)]
struct Api {
    whos: AtomicUsize,
    mays: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    /// How long each answer takes.
    takes: Duration,
    is_down: std::sync::atomic::AtomicBool,
}

impl Api {
    async fn answer(&self) -> Result<(), Unanswered> {
        /// Counts down also when nobody waits any more.
        struct Asked<'a>(&'a AtomicUsize);
        impl Drop for Asked<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        let _asked = Asked(&self.at_once);
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        if self.is_down.load(Ordering::SeqCst) { Err(Unanswered) } else { Ok(()) }
    }

    fn asked(&self) -> (usize, usize) {
        (self.whos.load(Ordering::SeqCst), self.mays.load(Ordering::SeqCst))
    }
}

impl Reviews for Api {
    fn who<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Unanswered>> {
        self.whos.fetch_add(1, Ordering::SeqCst);
        async move {
            self.answer().await?;
            let user = User { username: token.to_owned(), ..User::default() };
            Ok(token.starts_with("scraper").then_some(user))
        }
        .boxed()
    }

    fn may<'a>(&'a self, user: &'a User, path: &'a str) -> BoxFuture<'a, Result<bool, Unanswered>> {
        self.mays.fetch_add(1, Ordering::SeqCst);
        async move {
            self.answer().await?;
            Ok(user.username.starts_with("scraper") && path == "/metrics")
        }
        .boxed()
    }
}

const WITHIN: Duration = Duration::from_secs(5);

fn guard(api: &Arc<Api>) -> Guard {
    Guard::new(api.clone(), WITHIN)
}

fn with(authorization: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(authorization).expect("a header"));
    headers
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_asked_for_once_and_again_when_it_is_old() {
    let api = Arc::new(Api::default());
    let guard = guard(&api);
    for _ in 0..10 {
        assert_eq!(guard.admit(&with("Bearer scraper"), "/metrics").await, Ok(()));
        assert_eq!(guard.admit(&with("bearer scraper"), "/debug/queue").await, Err(Refused::Forbidden));
        assert_eq!(guard.admit(&with("Bearer stranger"), "/metrics").await, Err(Refused::Unauthenticated));
    }
    assert_eq!(api.asked(), (2, 2), "who it is once for both paths");
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(guard.admit(&with("Bearer scraper"), "/debug/queue").await, Err(Refused::Forbidden));
    assert_eq!(api.asked(), (2, 3), "a no is asked again after ten seconds");
    tokio::time::advance(Duration::from_secs(50)).await;
    assert_eq!(guard.admit(&with("Bearer scraper"), "/metrics").await, Ok(()));
    assert_eq!(api.asked(), (3, 4), "and everything after a minute");
}

#[tokio::test(start_paused = true)]
async fn without_one_bearer_token_nobody_is_asked() {
    let api = Arc::new(Api::default());
    let guard = guard(&api);
    for other in ["scraper", "Basic c2NyYXBlcjo=", "Bearer", "Bearer ", "Bearer\u{e9} x"] {
        let admitted = guard.admit(&with(other), "/metrics").await;
        assert_eq!(admitted, Err(Refused::Unauthenticated), "{other}");
    }
    let mut two = with("Bearer scraper");
    two.append(AUTHORIZATION, HeaderValue::from_static("Bearer stranger"));
    assert_eq!(guard.admit(&two, "/metrics").await, Err(Refused::Unauthenticated));
    assert_eq!(guard.admit(&HeaderMap::new(), "/metrics").await, Err(Refused::Unauthenticated));
    assert_eq!(api.asked(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_what_is_known_goes_on_for_a_minute() {
    let api = Arc::new(Api::default());
    let guard = guard(&api);
    assert_eq!(guard.admit(&with("Bearer scraper"), "/metrics").await, Ok(()));
    api.is_down.store(true, Ordering::SeqCst);
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(guard.admit(&with("Bearer scraper"), "/metrics").await, Ok(()));
    assert_eq!(guard.admit(&with("Bearer scraper2"), "/metrics").await, Err(Refused::Unavailable));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(guard.admit(&with("Bearer scraper"), "/metrics").await, Err(Refused::Unavailable));
    api.is_down.store(false, Ordering::SeqCst);
    assert_eq!(guard.admit(&with("Bearer scraper"), "/metrics").await, Ok(()), "no failure is remembered");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_costs_a_bounded_time() {
    let api = Arc::new(Api { takes: Duration::from_secs(3600), ..Api::default() });
    let guard = guard(&api);
    let began = Instant::now();
    let headers: Vec<_> = (0..30).map(|number| with(&format!("Bearer scraper{number}"))).collect();
    let asks = headers.iter().map(|headers| guard.admit(headers, "/metrics"));
    for admitted in futures::future::join_all(asks).await {
        assert_eq!(admitted, Err(Refused::Unavailable));
    }
    assert_eq!(began.elapsed(), WITHIN, "also for those that waited for their turn");
    assert_eq!(api.most_at_once.load(Ordering::SeqCst), ASKED_AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn many_requests_with_one_token_ask_once() {
    let api = Arc::new(Api { takes: Duration::from_millis(10), ..Api::default() });
    let guard = guard(&api);
    let headers = with("Bearer scraper");
    let asks = (0..60).map(|_| guard.admit(&headers, "/metrics"));
    assert!(futures::future::join_all(asks).await.into_iter().all(|admitted| admitted.is_ok()));
    let (whos, mays) = api.asked();
    assert!(whos <= ASKED_AT_ONCE && mays <= ASKED_AT_ONCE, "{whos} {mays}");
}

#[test]
fn refusals_are_short_and_say_nothing_of_the_request() {
    for (refused, status) in [
        (Refused::Unauthenticated, StatusCode::UNAUTHORIZED),
        (Refused::Forbidden, StatusCode::FORBIDDEN),
        (Refused::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
    ] {
        assert_eq!(refused.answer().status(), status);
    }
    let response = Refused::Unauthenticated.answer().into_response();
    assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
}

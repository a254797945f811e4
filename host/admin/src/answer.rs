//! What a path answers.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

const TEXT: &str = "text/plain; charset=utf-8";

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: StatusCode,
    content_type: &'static str,
    header: Option<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Answer {
    /// 200 with text.
    pub fn text(body: impl Into<String>) -> Self {
        Self::new(StatusCode::OK, TEXT, body.into())
    }

    /// 503 with text: a probe that says no, and why.
    pub fn unavailable(body: impl Into<String>) -> Self {
        Self::refusal(StatusCode::SERVICE_UNAVAILABLE, body)
    }

    /// 200 with a value as JSON.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self::new(StatusCode::OK, "application/json", body),
            Err(error) => Self::refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// 200 with metrics in the text format that Prometheus reads.
    pub fn metrics(body: String) -> Self {
        Self::new(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", body)
    }

    /// A refusal, and why in one line.
    pub(crate) fn refusal(status: StatusCode, body: impl Into<String>) -> Self {
        Self::new(status, TEXT, body.into())
    }

    /// With one header more.
    pub(crate) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    fn new(status: StatusCode, content_type: &'static str, body: String) -> Self {
        Self { status, content_type, header: None, body: body.into() }
    }

    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.extend(self.header);
        response
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

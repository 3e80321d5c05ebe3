//! Messages as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;

use crate::message::Id;

/// How often a stream on which nothing is said shows that it is alive.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After which a client whose connection broke is to come back.
const RETRY: Duration = Duration::from_secs(1);
/// Keeps a proxy from holding events back.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A message. One that holds line breaks has them between its tokens only, for it is JSON.
pub(super) fn message(line: &str) -> Event {
    if line.contains('\r') {
        Event::default().data(line.replace('\r', " "))
    } else {
        Event::default().data(line)
    }
}

/// What tells a client from where it can read on, before there is anything to read.
pub(super) fn primer(id: &str) -> Event {
    Event::default().id(id).retry(RETRY).data("")
}

/// The response that brings them.
pub(super) fn response(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    use futures_util::StreamExt;
    let events = events.map(Ok::<_, Infallible>);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().insert(NO_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// One message as a JSON body.
pub(super) fn json(line: String) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], line).into_response()
}

/// Whether an answer is an error. All of ours begin alike, so a large result is not read again to see that it is none.
pub(super) fn is_error(line: &str, id: &Id) -> bool {
    line.starts_with(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":"))
}

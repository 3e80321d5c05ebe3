//! Messages as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};

use crate::message::Id;

/// How often a stream on which nothing is said shows that it is alive.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After which a client whose connection broke is to come back.
const RETRY: Duration = Duration::from_secs(1);
/// Keeps a proxy from holding events back.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A message as an event; `id` is from where a client can read on after it. A message that holds line breaks has them between
/// its tokens only, for it is JSON.
pub(super) fn message(id: Option<&str>, line: &str) -> String {
    let mut event = String::with_capacity(line.len() + 48);
    if let Some(id) = id {
        event.push_str("id: ");
        event.push_str(id);
        event.push('\n');
    }
    event.push_str("data: ");
    if line.contains(['\r', '\n']) {
        event.extend(line.chars().map(|letter| if matches!(letter, '\r' | '\n') { ' ' } else { letter }));
    } else {
        event.push_str(line);
    }
    event.push_str("\n\n");
    event
}

/// What tells a client from where it can read on, before there is anything to read, and when to come back.
pub(super) fn primer(id: &str) -> String {
    format!("id: {id}\nretry: {}\ndata: \n\n", RETRY.as_millis())
}

/// The response that brings them.
pub(super) fn response(events: impl Stream<Item = String> + Send + 'static) -> Response {
    let events = futures_util::stream::unfold(Box::pin(events), |mut events| async move {
        match tokio::time::timeout(KEEP_ALIVE, events.next()).await {
            Ok(event) => event.map(|event| (event, events)),
            Err(_) => Some((":\n\n".to_owned(), events)),
        }
    });
    let body = Body::from_stream(events.map(Ok::<_, Infallible>));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (NO_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

/// One message as a JSON body.
pub(super) fn json(line: String) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], line).into_response()
}

/// Whether an answer is an error. All of ours begin alike, so a large result is not read again to see that it is none.
pub(super) fn is_error(line: &str, id: &Id) -> bool {
    line.starts_with(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":"))
}

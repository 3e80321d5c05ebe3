//! A request that is refused: its HTTP status, and the JSON-RPC error that says why.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::message::{Id, Malformed, to_json};
use crate::modern::{HEADER_MISMATCH, UNSUPPORTED_VERSION};
use crate::revision::Revision;

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: i64,
    message: String,
    data: Option<Value>,
    id: Option<Id>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: i64, message: impl Into<String>) -> Refusal {
        Refusal { status, code, message: message.into(), data: None, id: None, headers: vec![] }
    }

    /// A header that does not fit the body.
    pub(super) fn mismatch(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, HEADER_MISMATCH, message)
    }

    /// A revision that is not spoken, with those that are.
    pub(super) fn version(requested: &str, spoken: &[Revision]) -> Refusal {
        let message = format!("the protocol version `{requested}` is not spoken here");
        let spoken: Vec<&str> = spoken.iter().map(|revision| revision.name()).collect();
        let data = json!({"supported": spoken, "requested": requested});
        Refusal { data: Some(data), ..Refusal::new(StatusCode::BAD_REQUEST, UNSUPPORTED_VERSION, message) }
    }

    pub(super) fn malformed(malformed: Malformed) -> Refusal {
        let Malformed { id, code, message } = malformed;
        Refusal { id, ..Refusal::new(StatusCode::BAD_REQUEST, code, message) }
    }

    /// It answers this request.
    pub(super) fn of(self, id: &Id) -> Refusal {
        Refusal { id: Some(id.clone()), ..self }
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Refusal {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        tracing::debug!(status = %self.status, code = self.code, why = self.message, "a request is refused");
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(data) = self.data {
            error["data"] = data;
        }
        let id = self.id.map(|id| format!(",\"id\":{id}")).unwrap_or_default();
        let body = format!("{{\"jsonrpc\":\"2.0\"{id},\"error\":{}}}", to_json(&error).get());
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(self.headers);
        response
    }
}

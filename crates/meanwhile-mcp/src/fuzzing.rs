//! What fuzz targets reach, and nobody else.

use axum::Router;

use crate::gateway::ReplyTo;
use crate::http::Server;
use crate::message::{Answer, Id};

/// The HTTP face without a listener.
pub fn router(server: &Server) -> Router {
    server.router()
}

/// Answers a request, as a gateway does.
pub async fn answer(reply: &ReplyTo, id: Id, answer: Answer) {
    reply.send(id, answer).await;
}

/// A text as it is put into a header for a server.
#[must_use]
pub fn written_into_header(text: &str) -> String {
    crate::upstream::http::written_into_header(text)
}

/// What a client means by the value of a header; `None` if nothing.
#[must_use]
pub fn read_from_header(value: &str) -> Option<String> {
    crate::http::read_from_header(value)
}

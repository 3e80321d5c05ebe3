//! Requests of the modern era: each stands for itself, and its response stream is all there is of a conversation.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::endpoint::{Conversation, Endpoint};
use super::refusal::Refusal;
use super::{Principal, Shared, headers as mirrored, sse};
use crate::gateway::{ReplyTo, Streamed};
use crate::message::{
    Fields, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, Id, METHOD_NOT_FOUND, Message, to_json,
};
use crate::modern::{HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION};

const CANCELLED: &str = "notifications/cancelled";
/// What speaks of the state of a connection, of which there is none.
const OF_A_SESSION: [&str; 3] = [CANCELLED, "notifications/initialized", "notifications/roots/list_changed"];
/// How long a listener is given to hear that we end.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) async fn post(
    shared: &Arc<Shared>,
    endpoint: &dyn Endpoint,
    who: &Principal,
    headers: &HeaderMap,
    message: Message,
) -> Result<Response, Refusal> {
    match message {
        Message::Request { id, method, params, extra } => {
            let Some(fields) =
                params.as_ref().map_or(Some(Fields::default()), |params| Fields::parse(params.get()).ok())
            else {
                let refusal =
                    Refusal::new(StatusCode::BAD_REQUEST, INVALID_PARAMS, "`params` must be an object");
                return Err(refusal.of(&id));
            };
            let conversation = endpoint.shared(who);
            check(headers, &method, &fields, &*conversation).await.map_err(|refusal| refusal.of(&id))?;
            let permit = shared.permit(&method).map_err(|refusal| refusal.of(&id))?;
            let own = Id::from(shared.next_request());
            let asked = Asked { method, is_answered: false, ending: shared.ending.clone(), _permit: permit };
            let message = Message::Request { id: own.clone(), method: asked.method.clone(), params, extra };
            Ok(respond(conversation, own, id, message, asked).await)
        }
        Message::Notification { ref method, .. } => {
            if !OF_A_SESSION.contains(&method.as_str()) {
                let (nowhere, _) = ReplyTo::stream(Id::unknown());
                endpoint.shared(who).receive(message, nowhere).await;
            }
            Ok(StatusCode::ACCEPTED.into_response())
        }
        Message::Response { .. } => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            INVALID_REQUEST,
            "a client of this revision sends no responses; answers to a server's questions go into a new request",
        )),
    }
}

async fn check(
    headers: &HeaderMap,
    method: &str,
    params: &Fields,
    conversation: &dyn Conversation,
) -> Result<(), Refusal> {
    mirrored::check_meta(headers, params)?;
    mirrored::check_names(headers, method, params)?;
    if method == "tools/call"
        && let Some(name) = params.read::<String>("name")
        && let Some(schema) = conversation.mirroring_schema(&name).await
    {
        mirrored::check_mirrored(headers, &schema, params)?;
    }
    Ok(())
}

/// What is known of a request.
struct Asked {
    method: String,
    is_answered: bool,
    ending: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// A request whose response is not complete. To drop it is to cancel it, for so says the client by closing the stream.
struct Open {
    conversation: Arc<dyn Conversation>,
    /// Its id behind us.
    own: Id,
    asked: Asked,
    streamed: mpsc::Receiver<Streamed>,
    received: Option<JoinHandle<()>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.asked.is_answered {
            tracing::debug!(method = self.asked.method, "the client has closed the stream of a request");
            tokio::spawn(self.cancel("the client has closed the stream"));
        }
    }
}

impl Open {
    /// Takes the request back, which must not come before it is there.
    fn cancel(&mut self, reason: &str) -> impl Future<Output = ()> + Send + 'static {
        let (conversation, received) = (self.conversation.clone(), self.received.take());
        let params = to_json(&json!({"requestId": self.own.to_json(), "reason": reason}));
        async move {
            if let Some(received) = received {
                let _ = received.await;
            }
            let (nowhere, _) = ReplyTo::stream(Id::unknown());
            conversation.receive(Message::notification(CANCELLED, params), nowhere).await;
        }
    }

    async fn next(&mut self) -> Option<Streamed> {
        let streamed = tokio::select! {
            streamed = self.streamed.recv() => streamed,
            () = self.asked.ending.cancelled(), if self.asked.method == super::LISTEN => {
                self.conversation.close();
                tokio::time::timeout(FAREWELL, self.streamed.recv()).await.ok().flatten()
            }
        };
        self.asked.is_answered |= !matches!(streamed, Some(Streamed::Before(_)));
        streamed
    }
}

async fn respond(
    conversation: Arc<dyn Conversation>,
    own: Id,
    id: Id,
    message: Message,
    asked: Asked,
) -> Response {
    let (reply, streamed) = ReplyTo::stream(id.clone());
    let to = conversation.clone();
    let received = Some(tokio::spawn(async move { to.receive(message, reply).await }));
    let mut open = Open { conversation, own, asked, streamed, received };
    // Nothing said so far: a stream can at least show that it lives.
    let first = tokio::time::timeout(sse::KEEP_ALIVE, open.next()).await;
    match first {
        Ok(Some(Streamed::Answer(line))) => {
            let status = status_of(&line, &id);
            (status, sse::json(line)).into_response()
        }
        Ok(Some(Streamed::Before(line))) => stream(Some(line), open),
        Ok(None) => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR, "the request was taken back")
                .of(&id)
                .into_response()
        }
        Err(_) => stream(None, open),
    }
}

fn stream(first: Option<String>, open: Open) -> Response {
    sse::response(futures_util::stream::unfold((first, open), |(first, mut open)| async move {
        let line = match first {
            Some(line) => line,
            None if open.asked.is_answered => return None,
            None => match open.next().await? {
                Streamed::Before(line) | Streamed::Answer(line) => line,
            },
        };
        Some((sse::message(None, &line), (None, open)))
    }))
}

/// The status that goes with an answer. What the handler of a method says of its parameters is no matter of HTTP.
fn status_of(line: &str, id: &Id) -> StatusCode {
    #[derive(serde::Deserialize)]
    struct Failed {
        error: Code,
    }
    #[derive(serde::Deserialize)]
    struct Code {
        code: i64,
    }
    if !sse::is_error(line, id) {
        return StatusCode::OK;
    }
    match serde_json::from_str::<Failed>(line).map(|failed| failed.error.code) {
        Ok(METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        Ok(MISSING_CAPABILITY | UNSUPPORTED_VERSION | HEADER_MISMATCH) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

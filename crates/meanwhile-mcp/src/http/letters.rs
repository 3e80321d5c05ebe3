//! What a client says of a request or a question that is another process's: it may send it to any process, and only the one that
//! answers the request, or has asked the question, can do anything with it. So the others leave it as a letter in the store, of
//! which every process is woken; the one that it is for takes it.

use std::sync::Arc;

use axum::http::StatusCode;
use meanwhile_core::Store;
use meanwhile_core::store::{LETTER_LIFE, Letter};

use super::Shared;
use super::kept::{failed, key};
use super::legacy::{deliver, nowhere};
use super::refusal::Refusal;
use super::session::Session;
use crate::message::{self, Fields, INVALID_REQUEST, Id, Incoming, Message};

const CANCELLED: &str = "notifications/cancelled";
/// A longer answer can only be sent to the process that asked, in bytes.
const LETTER_MAX: usize = 1024 * 1024;

/// Whether a message is about what is none of this process's, but may be another one's.
pub(super) fn is_for_another(session: &Session, message: &Message) -> bool {
    session.is_kept() && is_known(session, message) == Some(false)
}

impl Shared {
    /// Leaves a message for the process that it is for.
    pub(super) async fn leave(&self, session: &Session, message: &Message) -> Result<(), Refusal> {
        let line = message.to_line();
        if line.len() > LETTER_MAX {
            let why = format!(
                "this was asked by another process, to which no more than {LETTER_MAX} bytes are brought from here"
            );
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST, why));
        }
        let Ok(text) = serde_json::from_str(&line) else { return Ok(()) };
        let id = self.store.leave_letter(&key(&session.id), &text).await.map_err(|error| failed(&error))?;
        let store = self.store.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LETTER_LIFE).await;
            forget(&*store, id).await;
        });
        Ok(())
    }
}

/// Reads a letter, and takes it if it is for us.
pub(super) async fn open(store: &dyn Store, session: &Arc<Session>, letter: Letter) {
    let Ok(Incoming::One(message)) = message::parse(letter.message.get()) else { return };
    if is_known(session, &message) == Some(true) {
        deliver(session, message, nowhere()).await;
        forget(store, letter.id).await;
    }
}

async fn forget(store: &dyn Store, id: u64) {
    if let Err(error) = store.forget_letter(id).await {
        tracing::debug!(%error, "a letter stays where it is, until there is another one");
    }
}

/// Whether the question or the request is ours that a message is about; `None` if it is about none.
fn is_known(session: &Session, message: &Message) -> Option<bool> {
    match message {
        Message::Response { id, .. } => Some(session.conversation.has_asked(id)),
        Message::Notification { method, params, .. } if method == CANCELLED => {
            let params = Fields::parse(params.as_ref()?.get()).ok()?;
            let id = Id::read(params.get("requestId")?)?;
            Some(session.conversation.is_answering(&id))
        }
        Message::Notification { .. } | Message::Request { .. } => None,
    }
}

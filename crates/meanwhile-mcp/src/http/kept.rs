//! Sessions beyond this process: they are kept in the store, and a process that does not know one takes it up from there, after the
//! one that began it or beside it.
//!
//! What is taken up is who its client is: a conversation of its own begins, and is given the client's own `initialize`. Streams,
//! requests that are being answered, and questions that are open belong to the process that has them, and stay there; what the client
//! says of them elsewhere is brought there ([`letters`]).

use std::collections::HashMap;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use meanwhile_core::store::KeptSession;
use meanwhile_core::{Json, StoreError};

use super::legacy::nowhere;
use super::refusal::Refusal;
use super::session::{Session, Visit, is_id};
use super::{Principal, Shared, letters, sse};
use crate::gateway::{ReplyTo, Streamed};
use crate::message::{Fields, INTERNAL_ERROR, Id, Message};
use crate::revision::Revision;

/// A client that introduces itself at greater length, in bytes, has its session in one process.
const OPENING_MAX: usize = 16 * 1024;

/// After this long a store that failed is asked again which sessions have been ended.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Which revision such a client speaks.
pub(super) fn revision(opening: &Fields) -> Revision {
    Revision::negotiate(&opening.read::<String>("protocolVersion").unwrap_or_default())
}

impl Shared {
    /// Keeps a session that has begun, so that other processes can go on with it.
    pub(super) async fn keep(&self, session: &Session, mut opening: Fields) {
        // It is about that one request, and nobody knows what it holds.
        opening.take("_meta");
        let opening = opening.to_json();
        if opening.get().len() > OPENING_MAX {
            return;
        }
        let (owner, place) = (session.who().name().to_owned(), session.place().to_owned());
        let kept = KeptSession { key: key(&session.id), owner, place, opening };
        self.keep_for_longer(session, kept).await;
    }

    async fn keep_for_longer(&self, session: &Session, kept: KeptSession) {
        match self.store.keep_session(&kept).await {
            Ok(()) => session.set_kept(kept),
            Err(error) => tracing::warn!(%error, "a session is not kept: it ends with this process"),
        }
    }

    /// What is in use does not run out in the store.
    pub(super) async fn keep_what_is_used(&self) {
        for (session, kept) in self.sessions.to_keep_again() {
            self.keep_for_longer(&session, kept).await;
        }
    }

    /// The session of this id in the store, if it belongs to who asks for it, where they ask for it.
    pub(super) async fn kept(
        &self,
        id: &str,
        place: &str,
        who: &Principal,
    ) -> Result<Option<KeptSession>, Refusal> {
        if !is_id(id) || !self.store.is_there() {
            return Ok(None);
        }
        let kept = self.store.session(&key(id)).await.map_err(|error| failed(&error))?;
        Ok(kept.filter(|kept| kept.owner == who.name() && kept.place == place))
    }

    /// Ends a session in all processes.
    pub(super) async fn end_everywhere(&self, id: &str) -> Result<(), Refusal> {
        self.end_in_store(id).await.map_err(|error| failed(&error))?;
        self.sessions.end(id);
        Ok(())
    }

    async fn end_in_store(&self, id: &str) -> Result<(), StoreError> {
        if self.store.is_there() { self.store.end_session(&key(id)).await } else { Ok(()) }
    }

    /// Ends in all processes a session whose server did not welcome its client after all, so that the client begins anew.
    pub(super) async fn give_up(&self, session: &Session) {
        if let Err(error) = self.end_in_store(&session.id).await {
            tracing::warn!(%error, "a session that could not begin is not ended in the store");
        }
        self.sessions.end(&session.id);
    }

    /// Ends here what is ended elsewhere, and takes the letters that are for us, for ever.
    pub(super) async fn hear_of_sessions(&self) {
        let mut told = self.store.changes().of_sessions();
        let mut read = 0;
        loop {
            told.changed().await;
            // Nobody tells of the same again.
            while let Err(error) = self.hear(&mut read).await {
                tracing::warn!(%error, "what other processes say of sessions is not known yet; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Hears what has happened; `read` is the last letter that was.
    async fn hear(&self, read: &mut u64) -> Result<(), StoreError> {
        let sessions: HashMap<String, _> =
            self.sessions.all().into_iter().map(|session| (key(&session.id), session)).collect();
        let keys: Vec<String> = sessions.keys().cloned().collect();
        for ended in self.store.ended_sessions(&keys).await? {
            self.sessions.end(&sessions[&ended].id);
        }
        for letter in self.store.letters(&keys, *read).await? {
            *read = letter.id;
            letters::open(&*self.store, &sessions[&letter.session], letter).await;
        }
        Ok(())
    }

    /// Begins the conversation of a session that is taken up here.
    pub(super) async fn set_up(&self, session: Visit, kept: KeptSession) {
        let (key, opening) = (kept.key.clone(), kept.opening.clone());
        let is_up = begin(&session, opening).await && {
            self.keep_for_longer(&session, kept).await;
            // It may have been ended before it was known here to whoever hears of ends.
            matches!(self.store.session(&key).await, Ok(Some(_)))
        };
        if !is_up {
            tracing::warn!("a session that another process began could not be gone on with");
            self.sessions.end(&session.id);
        }
        session.set_up(is_up);
    }
}

/// Gives the client's `initialize` to the conversation. The client has had an answer to it.
async fn begin(session: &Visit, opening: Json) -> bool {
    let id = Id::from(0);
    let (reply, mut streamed) = ReplyTo::stream(id.clone());
    let hello = Message::Request {
        id: id.clone(),
        method: "initialize".to_owned(),
        params: Some(opening),
        extra: Fields::default(),
    };
    session.conversation.receive(hello, reply).await;
    let is_welcome = loop {
        match streamed.recv().await {
            Some(Streamed::Before(line)) => session.streams.push_unasked(line),
            Some(Streamed::Answer(line)) => break !sse::is_error(&line, &id),
            None => break false,
        }
    };
    if is_welcome {
        let (method, params) = ("notifications/initialized".to_owned(), None);
        let initialized = Message::Notification { method, params, extra: Fields::default() };
        session.conversation.receive(initialized, nowhere()).await;
    }
    is_welcome
}

/// Under which a session is kept: who reads the store learns no id.
pub(super) fn key(id: &str) -> String {
    blake3::hash(id.as_bytes()).to_hex().to_string()
}

pub(super) fn not_up() -> Refusal {
    unavailable("this session cannot be gone on with here at the moment; try again later")
}

pub(super) fn failed(error: &StoreError) -> Refusal {
    unavailable(&format!("the session cannot be looked up: {error}"))
}

fn unavailable(why: &str) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, INTERNAL_ERROR, why)
        .header(RETRY_AFTER, HeaderValue::from_static("1"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use meanwhile_core::testing::MemoryStore;
    use meanwhile_core::{Store, SystemClock};

    use super::super::session::tests::Unwelcoming;
    use super::super::streams::UNASKED;
    use super::super::{Access, Guard, Limits, Server};
    use super::*;

    pub(in crate::http) fn server(store: Arc<dyn Store>) -> Server {
        let idle = Duration::from_secs(3600);
        let limits = Limits {
            body: 1000,
            requests: 1,
            streams: 1,
            sessions: 1,
            session_idle: idle,
            server_idle: idle,
        };
        Server::new(HashMap::new(), Guard::default(), Access::default(), limits, store)
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_elsewhere_is_heard_of_also_when_the_store_fails_just_then() {
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let shared = server(store.clone()).0;
        let who = Principal::local("ann");
        let session = shared.sessions.begin(&Unwelcoming, "", &who, Revision::LATEST_LEGACY).unwrap();
        shared.keep(&session, Fields::default()).await;
        let hears = tokio::spawn({
            let shared = shared.clone();
            async move { shared.hear_of_sessions().await }
        });
        // Until it listens.
        tokio::task::yield_now().await;
        let mut reader = session.streams.read(UNASKED, None).unwrap();
        store.end_session(&key(&session.id)).await.unwrap();
        store.set_broken(true);
        tokio::task::yield_now().await;
        store.set_broken(false);
        let ended = tokio::time::timeout(Duration::from_secs(60), reader.next()).await;
        assert!(ended.expect("told").is_none());
        hears.abort();
    }
}

//! Sessions of the legacy era: from `initialize` until the client deletes them, or leaves them alone for long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use tokio::time::Instant;

use super::access::Principal;
use super::endpoint::{Conversation, Endpoint};
use super::streams::{Streams, UNASKED};
use crate::revision::Revision;
use crate::transport::Outbound;

/// One client's session.
pub(super) struct Session {
    pub(super) id: String,
    who: Principal,
    /// The path that it belongs to.
    place: String,
    pub(super) conversation: Arc<dyn Conversation>,
    pub(super) revision: Revision,
    pub(super) streams: Arc<Streams>,
    seen: Mutex<Instant>,
    visits: AtomicUsize,
}

/// A connection that is about a session, which is not idle as long as there is one.
pub(super) struct Visit(Arc<Session>);

impl std::ops::Deref for Visit {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        *lock(&self.0.seen) = Instant::now();
        self.0.visits.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    pub(super) fn visit(self: &Arc<Self>) -> Visit {
        self.visits.fetch_add(1, Ordering::Relaxed);
        Visit(self.clone())
    }

    fn has_visits(&self) -> bool {
        self.visits.load(Ordering::Relaxed) > 0
    }

    fn is_idle(&self, after: Duration) -> bool {
        !self.has_visits() && lock(&self.seen).elapsed() >= after
    }

    async fn end(&self) {
        self.streams.end_all();
        self.conversation.end().await;
    }
}

/// All sessions.
pub(super) struct Sessions {
    by_id: Mutex<HashMap<String, Arc<Session>>>,
    max: usize,
    idle: Duration,
}

impl Sessions {
    pub(super) fn new(max: usize, idle: Duration) -> Sessions {
        Sessions { by_id: Mutex::default(), max, idle }
    }

    /// A new session; `None` if there are as many as there may be.
    pub(super) fn begin(
        &self,
        endpoint: &dyn Endpoint,
        place: &str,
        who: &Principal,
        revision: Revision,
    ) -> Option<Arc<Session>> {
        let mut by_id = lock(&self.by_id);
        if by_id.len() >= self.max {
            return None;
        }
        let (down, mut outgoing) = Outbound::channel();
        let streams = Streams::new();
        let said = streams.clone();
        tokio::spawn(async move {
            while let Some(line) = outgoing.next().await {
                said.push_unasked(line);
            }
        });
        let session = Arc::new(Session {
            id: new_id(),
            who: who.clone(),
            place: place.to_owned(),
            conversation: endpoint.converse(who, down),
            revision,
            streams,
            seen: Mutex::new(Instant::now()),
            visits: AtomicUsize::new(0),
        });
        by_id.insert(session.id.clone(), session.clone());
        Some(session)
    }

    /// The session of this id, if it belongs to who asks for it, where they ask for it.
    pub(super) fn find(&self, id: &str, place: &str, who: &Principal) -> Option<Visit> {
        let by_id = lock(&self.by_id);
        by_id.get(id).filter(|session| session.who == *who && session.place == place).map(Session::visit)
    }

    /// Ends a session. Its jobs run on, and its server until they have ended.
    pub(super) fn end(&self, id: &str) {
        if let Some(session) = lock(&self.by_id).remove(id) {
            tokio::spawn(async move { session.end().await });
        }
    }

    /// Ends sessions that have been left alone, for as long as `self` is there.
    pub(super) fn end_the_idle(&self) {
        let idle: Vec<String> = {
            let by_id = lock(&self.by_id);
            by_id
                .values()
                .filter(|session| session.has_visits())
                .for_each(|session| session.conversation.touch());
            let idle = by_id.values().filter(|session| session.is_idle(self.idle));
            idle.map(|session| session.id.clone()).collect()
        };
        for id in idle {
            tracing::info!("a session that was left alone is ended");
            self.end(&id);
        }
    }

    /// Nobody is told anything unasked any more.
    pub(super) fn stop_listening(&self) {
        for session in lock(&self.by_id).values() {
            session.streams.end(UNASKED);
        }
    }
}

/// 160 random bits: whoever knows them is the session's client.
fn new_id() -> String {
    let mut bits = [0; 20];
    getrandom::fill(&mut bits).expect("the system gives random bits");
    BASE32_NOPAD.encode(&bits).to_ascii_lowercase()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Sessions of the legacy era in this process: from `initialize`, or from when they are taken up here, until the client deletes
//! them, or leaves them alone for long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use meanwhile_core::store::KeptSession;
use tokio::sync::SetOnce;
use tokio::time::Instant;

use super::access::Principal;
use super::endpoint::{Conversation, Endpoint};
use super::streams::{Streams, UNASKED};
use crate::revision::Revision;
use crate::transport::Outbound;

/// What of a session is in use is kept for longer no more often than this.
const KEPT_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// The length of an id.
const ID: usize = 32;

/// One client's session.
pub(super) struct Session {
    pub(super) id: String,
    who: Principal,
    /// The path that it belongs to.
    place: String,
    pub(super) conversation: Arc<dyn Conversation>,
    pub(super) revision: Revision,
    pub(super) streams: Arc<Streams>,
    /// Whether it can be used, once that is known: its client has introduced itself, here or where it was begun.
    is_up: SetOnce<bool>,
    /// What of it is in the store, and since when it is known to be.
    kept: Mutex<Option<(KeptSession, Instant)>>,
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

    /// Whether it can be used, if that is known.
    pub(super) fn is_up(&self) -> Option<bool> {
        self.is_up.get().copied()
    }

    /// Whether it can be used; waits until that is known.
    pub(super) async fn until_up(&self) -> bool {
        *self.is_up.wait().await
    }

    /// Says whether it can be used.
    pub(super) fn set_up(&self, is_up: bool) {
        // It is said once.
        let _ = self.is_up.set(is_up);
    }

    /// Whose it is.
    pub(super) fn who(&self) -> &Principal {
        &self.who
    }

    /// Where it was begun.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// The store has it now.
    pub(super) fn set_kept(&self, kept: KeptSession) {
        *lock(&self.kept) = Some((kept, Instant::now()));
    }

    /// Whether other processes can know of it.
    pub(super) fn is_kept(&self) -> bool {
        lock(&self.kept).is_some()
    }

    /// What is to be kept for longer, since it has been in use.
    fn to_keep_again(&self) -> Option<KeptSession> {
        let seen = *lock(&self.seen);
        let kept = lock(&self.kept);
        let (kept, since) = kept.as_ref()?;
        let is_used = self.has_visits() || seen > *since;
        (is_used && since.elapsed() >= KEPT_AGAIN).then(|| kept.clone())
    }

    fn has_visits(&self) -> bool {
        self.visits.load(Ordering::Relaxed) > 0
    }

    fn is_idle(&self, after: Duration) -> bool {
        !self.has_visits() && lock(&self.seen).elapsed() >= after
    }

    fn end_soon(self: Arc<Self>) {
        tokio::spawn(async move {
            self.streams.end_all();
            self.conversation.end().await;
        });
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
        let begun = self.add(&mut by_id, new_id(), endpoint, place, who, revision)?;
        begun.set_up(true);
        Some(begun)
    }

    /// A session that another process began, and whether this is the first that is heard of it here: then it is to be
    /// [set up](Session::set_up). `None` if there are as many as there may be.
    pub(super) fn take_up(
        &self,
        id: &str,
        endpoint: &dyn Endpoint,
        place: &str,
        who: &Principal,
        revision: Revision,
    ) -> Option<(Visit, bool)> {
        let mut by_id = lock(&self.by_id);
        if let Some(known) = by_id.get(id) {
            return Some((known.visit(), false));
        }
        Some((self.add(&mut by_id, id.to_owned(), endpoint, place, who, revision)?.visit(), true))
    }

    fn add(
        &self,
        by_id: &mut HashMap<String, Arc<Session>>,
        id: String,
        endpoint: &dyn Endpoint,
        place: &str,
        who: &Principal,
        revision: Revision,
    ) -> Option<Arc<Session>> {
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
            id: id.clone(),
            who: who.clone(),
            place: place.to_owned(),
            conversation: endpoint.converse(who, down),
            revision,
            streams,
            is_up: SetOnce::new(),
            kept: Mutex::default(),
            seen: Mutex::new(Instant::now()),
            visits: AtomicUsize::new(0),
        });
        by_id.insert(id, session.clone());
        Some(session)
    }

    /// The session of this id, if it belongs to who asks for it, where they ask for it.
    pub(super) fn find(&self, id: &str, place: &str, who: &Principal) -> Option<Visit> {
        let by_id = lock(&self.by_id);
        by_id.get(id).filter(|session| session.who == *who && session.place == place).map(Session::visit)
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        lock(&self.by_id).values().cloned().collect()
    }

    /// What is to be kept for longer, since it has been in use.
    pub(super) fn to_keep_again(&self) -> Vec<(Arc<Session>, KeptSession)> {
        let again = |session: &Arc<Session>| Some((session.clone(), session.to_keep_again()?));
        lock(&self.by_id).values().filter_map(again).collect()
    }

    /// Ends a session here. Its jobs run on, and its server until they have ended.
    pub(super) fn end(&self, id: &str) {
        if let Some(session) = lock(&self.by_id).remove(id) {
            session.end_soon();
        }
    }

    /// Ends sessions that have been left alone, for as long as `self` is there.
    pub(super) fn end_the_idle(&self) {
        let mut by_id = lock(&self.by_id);
        by_id
            .values()
            .filter(|session| session.has_visits())
            .for_each(|session| session.conversation.touch());
        // At one go: whoever finds one of them from now on finds it gone, and not about to go.
        for (_, session) in by_id.extract_if(|_, session| session.is_idle(self.idle)) {
            tracing::info!("a session that was left alone is ended here");
            session.end_soon();
        }
    }

    /// Nobody is told anything unasked any more.
    pub(super) fn stop_listening(&self) {
        for session in lock(&self.by_id).values() {
            session.streams.end(UNASKED);
        }
    }
}

/// Whether this could be an id of ours.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
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

#[cfg(test)]
pub(super) mod tests {
    use meanwhile_core::Json;
    use meanwhile_core::testing::suite::json;

    use super::*;
    use crate::gateway::ReplyTo;
    use crate::http::sse;
    use crate::message::{Answer, INTERNAL_ERROR, Id, Message, error};

    /// A server that takes its time, and then welcomes nobody.
    pub(in crate::http) struct Unwelcoming;

    impl Endpoint for Unwelcoming {
        fn converse(&self, _: &Principal, _: Outbound) -> Arc<dyn Conversation> {
            Arc::new(Unwelcoming)
        }

        fn shared(&self, _: &Principal) -> Arc<dyn Conversation> {
            Arc::new(Unwelcoming)
        }

        fn end_the_idle(&self) {}
    }

    #[async_trait::async_trait]
    impl Conversation for Unwelcoming {
        async fn receive(&self, message: Message, reply: ReplyTo) {
            let Message::Request { id, .. } = message else { return };
            tokio::time::sleep(2 * sse::KEEP_ALIVE).await;
            reply.send(id, Answer::Error(error(INTERNAL_ERROR, "no"))).await;
        }

        async fn mirroring_schema(&self, _: &str) -> Option<Json> {
            None
        }

        fn has_asked(&self, _: &Id) -> bool {
            false
        }

        fn is_answering(&self, _: &Id) -> bool {
            false
        }

        fn has_tool(&self, _: &str) -> bool {
            false
        }

        fn touch(&self) {}

        fn close(&self) {}

        async fn end(&self) {}
    }

    fn kept() -> KeptSession {
        let (key, owner, place) = ("key".to_owned(), "ann".to_owned(), "files".to_owned());
        KeptSession { key, owner, place, opening: json("{}") }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_use_is_kept_again_once_a_day() {
        let sessions = Sessions::new(2, 10 * KEPT_AGAIN);
        let who = Principal::local("ann");
        let begin = || sessions.begin(&Unwelcoming, "files", &who, Revision::LATEST_LEGACY).unwrap();
        let (used, unused) = (begin(), begin());
        assert!(sessions.begin(&Unwelcoming, "files", &who, Revision::LATEST_LEGACY).is_none());
        let again = || -> Vec<String> {
            sessions.to_keep_again().into_iter().map(|(session, _)| session.id.clone()).collect()
        };
        drop(used.visit());
        tokio::time::advance(KEPT_AGAIN).await;
        assert!(again().is_empty(), "they are not in the store");
        used.set_kept(kept());
        unused.set_kept(kept());
        tokio::time::advance(KEPT_AGAIN / 2).await;
        drop(used.visit());
        assert!(again().is_empty(), "not yet");
        tokio::time::advance(KEPT_AGAIN / 2).await;
        assert_eq!(again(), [used.id.as_str()]);
        used.set_kept(kept());
        assert!(again().is_empty());
        tokio::time::advance(KEPT_AGAIN).await;
        assert!(again().is_empty(), "nobody has used it since");
        let _listens = unused.visit();
        assert_eq!(again(), [unused.id.as_str()], "who listens uses it");
    }

    #[tokio::test]
    async fn an_id_is_told_from_other_texts() {
        assert!(is_id(&new_id()) && new_id() != new_id());
        for other in ["", "x", &new_id()[1..], &new_id().to_uppercase(), &"1".repeat(ID)] {
            assert!(!is_id(other), "{other}");
        }
    }
}

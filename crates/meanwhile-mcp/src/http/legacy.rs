//! Requests of the legacy era, which belong to sessions
//! (<https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#streamable-http>).
//!
//! What a request leads to goes on without its connection: to be cut off is not to cancel. So each request is answered on a
//! stream that can be resumed; only `initialize`, before there is a session to resume it in, has a JSON body.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::HeaderName;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use meanwhile_core::Json;
use tokio::sync::mpsc;

use super::endpoint::Endpoint;
use super::headers::{VERSION, single};
use super::refusal::Refusal;
use super::session::{Session, Visit};
use super::streams::{Reader, UNASKED};
use super::{Principal, Shared, kept, letters, sse};
use crate::gateway::{ReplyTo, Streamed};
use crate::message::{Fields, INVALID_REQUEST, Id, Incoming, Malformed, Message};
use crate::revision::{Era, Revision};

/// Names a session.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
/// Older clients take an event without data for a broken message.
const PRIMED_SINCE: Revision = Revision::V2025_11_25;
/// How long a server may take to introduce itself before that gets one. There is nothing to be resumed yet.
const INTRODUCTION: Duration = sse::KEEP_ALIVE;

/// A request at one path.
pub(super) struct At<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) endpoint: &'a dyn Endpoint,
    pub(super) place: &'a str,
    pub(super) who: &'a Principal,
    pub(super) headers: &'a HeaderMap,
}

impl At<'_> {
    pub(super) async fn post(&self, incoming: Incoming) -> Result<Response, Refusal> {
        self.check_version()?;
        let id = single(self.headers, &SESSION)?;
        match incoming {
            Incoming::One(Message::Request { id: request, method, params, extra })
                if method == "initialize" && id.is_none() =>
            {
                let message = Message::Request { id: request.clone(), method, params: params.clone(), extra };
                self.initialize(&request, params, message).await.map_err(|refusal| refusal.of(&request))
            }
            Incoming::One(message) => self.message(self.session(id).await?, message).await,
            Incoming::Batch(parts) => self.batch(self.session(id).await?, parts).await,
        }
    }

    pub(super) async fn get(&self) -> Result<Response, Refusal> {
        self.check_version()?;
        let last = single(self.headers, &LAST_EVENT)?;
        let session = self.session(single(self.headers, &SESSION)?).await?;
        let permit = self.shared.stream_permit()?;
        let found = match last {
            None => session.streams.read(UNASKED, None).map(|reader| (reader, false)),
            Some(last) => session.streams.resume(last),
        };
        let (reader, is_resumed) = found
            .ok_or_else(|| bad_request("nothing is kept here of the stream that Last-Event-ID names"))?;
        let is_primed = is_resumed || session.revision < PRIMED_SINCE;
        let events = events(session, reader, is_primed).map(move |event| {
            let _held = &permit;
            event
        });
        Ok(sse::response(events))
    }

    pub(super) async fn delete(&self) -> Result<Response, Refusal> {
        self.check_version()?;
        let id = named(single(self.headers, &SESSION)?)?;
        let is_here = self.shared.sessions.find(id, self.place, self.who).is_some();
        if !is_here && self.shared.kept(id, self.place, self.who).await?.is_none() {
            return Err(unknown());
        }
        self.shared.end_everywhere(id).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// Clients of before 2025-06-18 do not send it.
    fn check_version(&self) -> Result<(), Refusal> {
        match single(self.headers, &VERSION)? {
            Some(name)
                if !Revision::from_name(name).is_some_and(|revision| revision.era() == Era::Legacy) =>
            {
                Err(Refusal::version(name, &Revision::ALL))
            }
            _ => Ok(()),
        }
    }

    /// The session that a request names whose body is not there yet, if it does not name another revision than such have.
    pub(super) async fn known_session(&self) -> Result<Option<Visit>, Refusal> {
        match single(self.headers, &SESSION)? {
            Some(id) if self.check_version().is_ok() => self.session(Some(id)).await.map(Some),
            _ => Ok(None),
        }
    }

    /// The session that is asked for; one that another process began is taken up here.
    async fn session(&self, id: Option<&str>) -> Result<Visit, Refusal> {
        let id = named(id)?;
        let session = match self.shared.sessions.find(id, self.place, self.who) {
            Some(session) => session,
            None => self.take_up(id).await?,
        };
        let is_up = match session.is_up() {
            Some(is_up) => is_up,
            None => {
                let _waits = self.shared.work_permit()?;
                session.until_up().await
            }
        };
        if is_up { Ok(session) } else { Err(kept::not_up()) }
    }

    async fn take_up(&self, id: &str) -> Result<Visit, Refusal> {
        let kept = self.shared.kept(id, self.place, self.who).await?.ok_or_else(unknown)?;
        let opening = Fields::parse(kept.opening.get()).map_err(|_| unknown())?;
        let revision = kept::revision(&opening);
        let session = self.shared.sessions.take_up(id, self.endpoint, self.place, self.who, revision);
        let (session, is_first) = session.ok_or_else(|| self.shared.too_many("sessions"))?;
        if is_first {
            let (shared, session) = (self.shared.clone(), session.visit());
            // Others may wait for it, too: it goes on without who asked first.
            tokio::spawn(async move { shared.set_up(session, kept).await });
        }
        Ok(session)
    }

    async fn initialize(&self, id: &Id, params: Option<Json>, message: Message) -> Result<Response, Refusal> {
        let params = params.and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
        let revision = kept::revision(&params);
        let begun = self.shared.sessions.begin(self.endpoint, self.place, self.who, revision);
        let session = begun.ok_or_else(|| self.shared.too_many("sessions"))?;
        let mut newborn = Newborn { shared: self.shared, session: &session, lives: false };
        let (mut response, has_failed) = self.introduce(session.visit(), id, message, params).await?;
        if !has_failed {
            newborn.lives = true;
            let name = HeaderValue::from_str(&session.id).expect("an id is made of letters and digits");
            response.headers_mut().insert(SESSION, name);
        }
        Ok(response)
    }

    async fn message(&self, session: Visit, message: Message) -> Result<Response, Refusal> {
        if let Message::Request { id, method, .. } = &message {
            let id = id.clone();
            if method == "initialize" {
                return Err(bad_request("this session is initialized already").of(&id));
            }
            return self.stream(session, &id, message).map_err(|refusal| refusal.of(&id));
        }
        self.tell(&session, message).await?;
        Ok(StatusCode::ACCEPTED.into_response())
    }

    /// Hands over what has no answer, here or, if it is about what another process has asked or does, there.
    async fn tell(&self, session: &Arc<Session>, message: Message) -> Result<(), Refusal> {
        if letters::is_for_another(session, &message) {
            self.shared.leave(session, &message).await?;
            if matches!(message, Message::Response { .. }) {
                return Ok(());
            }
            // The request may have come here all the same, and wait for its turn.
        }
        deliver(session, message, nowhere()).await;
        Ok(())
    }

    /// Answers a request on a stream of its own.
    fn stream(&self, session: Visit, id: &Id, message: Message) -> Result<Response, Refusal> {
        let permit = self.shared.work_permit()?;
        let (reply, streamed) = ReplyTo::stream(id.clone());
        let stream = session.streams.open();
        let reader = session.streams.read(stream, None).expect("it was just opened");
        let pumped = session.visit();
        tokio::spawn(async move {
            deliver(&pumped, message, reply).await;
            pump(&pumped, stream, None, streamed).await;
            pumped.streams.end(stream);
            drop(permit);
        });
        Ok(sse::response(events_of_request(session, reader)))
    }

    /// Answers `initialize`: by JSON if the server introduces itself soon, and says nothing before. Returns also whether the
    /// answer is known to be an error; if it is not, the session is kept, and ends if it turns out to be one.
    async fn introduce(
        &self,
        session: Visit,
        id: &Id,
        message: Message,
        opening: Fields,
    ) -> Result<(Response, bool), Refusal> {
        let permit = self.shared.work_permit()?;
        let (reply, mut streamed) = ReplyTo::stream(id.clone());
        let answer = async {
            deliver(&session, message, reply).await;
            streamed.recv().await
        };
        let first = match tokio::time::timeout(INTRODUCTION, answer).await {
            Ok(Some(Streamed::Answer(line))) => {
                let has_failed = sse::is_error(&line, id);
                if !has_failed {
                    self.shared.keep(&session, opening).await;
                }
                return Ok((sse::json(line), has_failed));
            }
            Ok(first) => first,
            Err(_) => None,
        };
        // Its client is about to know it by its id, and what is not kept yet could not be ended.
        self.shared.keep(&session, opening).await;
        let stream = session.streams.open();
        let reader = session.streams.read(stream, None).expect("it was just opened");
        let (pumped, shared, id) = (session.visit(), self.shared.clone(), id.clone());
        tokio::spawn(async move {
            let answer = pump(&pumped, stream, first, streamed).await;
            if answer.is_none_or(|answer| sse::is_error(&answer, &id)) {
                shared.give_up(&pumped).await;
            }
            pumped.streams.end(stream);
            drop(permit);
        });
        Ok((sse::response(events_of_request(session, reader)), false))
    }

    async fn batch(
        &self,
        session: Visit,
        parts: Vec<Result<Message, Malformed>>,
    ) -> Result<Response, Refusal> {
        if !session.revision.has_batches() {
            return Err(bad_request("batches exist only in revision 2025-03-26"));
        }
        let requests = parts.iter().filter(|part| matches!(part, Ok(Message::Request { .. })));
        let permits = requests.map(|_| self.shared.work_permit()).collect::<Result<Vec<_>, _>>()?;
        if permits.is_empty() && parts.iter().all(Result::is_ok) {
            for message in parts.into_iter().flatten() {
                self.tell(&session, message).await?;
            }
            return Ok(StatusCode::ACCEPTED.into_response());
        }
        let (mut answers, mut malformed) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Ok(message) => {
                    let Message::Request { id, .. } = &message else {
                        self.tell(&session, message).await?;
                        continue;
                    };
                    let (reply, streamed) = ReplyTo::stream(id.clone());
                    deliver(&session, message, reply).await;
                    answers.push(streamed);
                }
                Err(part) => malformed.push(part.to_line()),
            }
        }
        let stream = session.streams.open();
        malformed.into_iter().for_each(|line| session.streams.push(stream, line));
        let reader = session.streams.read(stream, None).expect("it was just opened");
        let pumped = session.visit();
        tokio::spawn(async move {
            let pumps = answers.into_iter().map(|streamed| pump(&pumped, stream, None, streamed));
            futures_util::future::join_all(pumps).await;
            pumped.streams.end(stream);
            drop(permits);
        });
        Ok(sse::response(events_of_request(session, reader)))
    }
}

/// A session whose `initialize` is not answered. If that fails, or the client has gone, nobody knows of it.
struct Newborn<'a> {
    shared: &'a Shared,
    session: &'a Session,
    lives: bool,
}

impl Drop for Newborn<'_> {
    fn drop(&mut self) {
        if !self.lives {
            self.shared.sessions.end(&self.session.id);
        }
    }
}

/// Hands a message over whole, whatever becomes of the connection that brought it.
pub(super) async fn deliver(session: &Arc<Session>, message: Message, reply: ReplyTo) {
    let conversation = session.conversation.clone();
    let _ = tokio::spawn(async move { conversation.receive(message, reply).await }).await;
}

/// A way for what has no answer.
pub(super) fn nowhere() -> ReplyTo {
    ReplyTo::stream(Id::unknown()).0
}

/// Says on a stream what is said for a request, until its answer, which is returned.
async fn pump(
    session: &Session,
    stream: u64,
    first: Option<Streamed>,
    mut streamed: mpsc::Receiver<Streamed>,
) -> Option<Arc<str>> {
    let mut next = first;
    loop {
        match next {
            Some(Streamed::Before(line)) => session.streams.push(stream, line),
            Some(Streamed::Answer(line)) => {
                let answer: Arc<str> = line.into();
                session.streams.push(stream, answer.clone());
                return Some(answer);
            }
            None => {}
        }
        next = streamed.recv().await;
        next.as_ref()?;
    }
}

fn events_of_request(session: Visit, reader: Reader) -> impl Stream<Item = String> + Send {
    let is_primed = session.revision < PRIMED_SINCE;
    events(session, reader, is_primed)
}

fn events(session: Visit, reader: Reader, is_primed: bool) -> impl Stream<Item = String> + Send {
    let begin = (session, reader, is_primed);
    futures_util::stream::unfold(begin, |(session, mut reader, is_primed)| async move {
        if !is_primed {
            let primer = sse::primer(&reader.event_id());
            return Some((primer, (session, reader, true)));
        }
        let line = reader.next().await?;
        let event = sse::message(Some(&reader.event_id()), &line);
        Some((event, (session, reader, true)))
    })
}

fn named(id: Option<&str>) -> Result<&str, Refusal> {
    id.ok_or_else(|| {
        bad_request(
            "the header Mcp-Session-Id is missing; a session begins with `initialize`, which names it",
        )
    })
}

fn unknown() -> Refusal {
    let why = "there is no such session, or no more; begin a new one with `initialize`";
    Refusal::new(StatusCode::NOT_FOUND, INVALID_REQUEST, why)
}

fn bad_request(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, INVALID_REQUEST, message)
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use meanwhile_core::testing::MemoryStore;
    use meanwhile_core::{Store, SystemClock};

    use super::super::kept::tests::server;
    use super::super::session::tests::Unwelcoming;
    use super::*;
    use crate::message::parse;

    #[tokio::test(start_paused = true)]
    async fn a_session_whose_introduction_fails_late_is_ended_everywhere() {
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let shared = server(store.clone()).0;
        let who = Principal::local("ann");
        let mut headers = HeaderMap::new();
        let post = async |headers: &HeaderMap, text: &str| {
            let at = At { shared: &shared, endpoint: &Unwelcoming, place: "", who: &who, headers };
            at.post(parse(text).unwrap()).await.map_err(|refusal| refusal.into_response().status())
        };
        let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
        let response = post(&headers, hello).await.unwrap();
        let id = response.headers()[SESSION].clone();
        let key = kept::key(id.to_str().unwrap());
        assert!(store.session(&key).await.unwrap().is_some());
        let said = to_bytes(response.into_body(), 1000).await.unwrap();
        assert!(String::from_utf8_lossy(&said).contains(r#""message":"no""#), "{said:?}");
        assert!(store.session(&key).await.unwrap().is_none());
        headers.insert(SESSION, id);
        let ping = r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#;
        assert_eq!(post(&headers, ping).await.unwrap_err(), StatusCode::NOT_FOUND);
    }
}

//! What a legacy server over HTTP may have: a session that ends, a stream of its own for what it says, and streams that can be
//! taken up again where they broke.
//! See <https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#streamable-http>.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};

use super::sse::Decoder;
use super::{EVENTS, Failure, Http, VERSION, failure, is_kind};
use crate::message::{self, Answer, Fields, Id, Incoming, Message};
use crate::upstream::connection::Connection;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
/// The pause before a stream is opened again, unless the server says another.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, when it fails again and again.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often in a row a broken stream may bring nothing before it is given up.
const FAILURES_MAX: u32 = 5;
/// How long the end of a session may take.
const END: Duration = Duration::from_secs(2);
/// How long a new session may take to be made.
const RENEW: Duration = Duration::from_secs(60);

/// A session, as far as the server has one.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    id: Option<HeaderValue>,
    revision: Option<HeaderValue>,
    /// Grows with each session.
    pub(super) generation: u64,
}

impl Session {
    /// Whether there is a session that can end.
    pub(super) fn is_named(&self) -> bool {
        self.id.is_some()
    }

    /// The server has given it its name, or none.
    pub(super) fn name(&mut self, headers: &HeaderMap) {
        self.id = headers.get(&SESSION).cloned();
        self.generation += 1;
    }

    /// The revision was agreed upon.
    pub(super) fn speaks(&mut self, revision: Option<String>) {
        self.revision = revision.and_then(|revision| HeaderValue::from_str(&revision).ok());
    }

    pub(super) fn add(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.id {
            headers.insert(SESSION, id.clone());
        }
        if let Some(revision) = &self.revision {
            headers.insert(VERSION, revision.clone());
        }
    }
}

impl Http {
    async fn get(&self, last_event: Option<&str>) -> Result<Response, Failure> {
        let mut headers = self.headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static(EVENTS));
        self.session().add(&mut headers);
        if let Some(id) = last_event.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(LAST_EVENT, id);
        }
        let response = self.auth.send(self.client.get(self.url.clone()).headers(headers)).await?;
        if response.status() == StatusCode::OK && is_kind(&response, EVENTS) {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// Opens a stream by Server-Sent Events at the URL itself: what the old transport begins with.
    pub(super) async fn open(&self) -> Result<Response, Failure> {
        self.get(None).await
    }

    /// Takes the broken stream of a request up again until its answer has come.
    pub(super) async fn resume(
        &self,
        connection: &Arc<Connection>,
        mut decoder: Decoder,
        sent_as: u64,
    ) -> Result<(), Failure> {
        let mut failures = 0;
        while connection.waits_for(sent_as) {
            let Some(last) = decoder.last_id().map(str::to_owned) else {
                return Err(Failure::Lost("broke off the stream of the request".to_owned()));
            };
            tokio::time::sleep(decoder.retry().unwrap_or(PAUSE)).await;
            let heard = match self.get(Some(&last)).await {
                Ok(response) => {
                    decoder = decoder.again();
                    drop(self.events(connection, &mut decoder, response, Some(sent_as)).await);
                    decoder.last_id() != Some(&last)
                }
                // It does not take streams up again, or the session has ended.
                Err(Failure::Refused(why)) => {
                    return Err(Failure::Lost(format!("broke off the stream of the request, and {why}")));
                }
                Err(_) => false,
            };
            failures = if heard { 0 } else { failures + 1 };
            if failures > FAILURES_MAX {
                return Err(Failure::Lost("broke off the stream of the request again and again".to_owned()));
            }
        }
        Ok(())
    }

    /// Listens to what the server says of its own accord, as long as this session lasts.
    pub(super) fn listen(self: &Arc<Self>, connection: &Arc<Connection>) {
        let (http, connection) = (self.clone(), connection.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = http.hear(&connection) => {}
                () = connection.stop.raised() => {}
            }
        });
    }

    async fn hear(&self, connection: &Arc<Connection>) {
        let generation = self.session().generation;
        let mut decoder = Decoder::new(self.max_message);
        let mut pause = PAUSE;
        while self.session().generation == generation {
            let last = decoder.last_id().map(str::to_owned);
            match self.get(last.as_deref()).await {
                Ok(response) => {
                    decoder = decoder.again();
                    pause = PAUSE;
                    drop(self.events(connection, &mut decoder, response, None).await);
                }
                // It has nothing to say of its own accord, or the session has ended, which the next request will find.
                Err(Failure::Refused(why)) => {
                    tracing::debug!(
                        server = connection.server(),
                        why,
                        "the MCP server has no stream of its own"
                    );
                    return;
                }
                Err(_) => pause = (pause * 2).min(PAUSE_MAX),
            }
            tokio::time::sleep(decoder.retry().unwrap_or(pause).max(pause)).await;
        }
    }

    /// Whether this response says that the session has ended. That is 404; but there are many servers which say 400, as they do to
    /// a wrong request. Those are asked something that can only be wrong because of the session.
    pub(super) async fn has_ended(
        &self,
        connection: &Arc<Connection>,
        session: &Session,
        status: StatusCode,
    ) -> bool {
        match status {
            _ if !session.is_named() => false,
            StatusCode::NOT_FOUND => true,
            StatusCode::BAD_REQUEST => {
                let ping = Message::Request {
                    id: Id::from(connection.next_id()),
                    method: "ping".to_owned(),
                    params: None,
                    extra: Fields::default(),
                };
                let answered = tokio::time::timeout(END, self.post(connection, &ping, session)).await;
                let status = answered.ok().and_then(Result::ok).map(|response| response.status());
                matches!(status, Some(StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND))
            }
            _ => false,
        }
    }

    /// The session has ended: a new one is made, and told what the old one knew.
    pub(super) async fn renew(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        generation: u64,
    ) -> Result<(), Failure> {
        let _renewing = self.renewing.lock().await;
        if self.session().generation != generation {
            return Ok(());
        }
        tracing::info!(
            server = connection.server(),
            "the session with the MCP server has ended; a new one is made"
        );
        let renewed = tokio::time::timeout(RENEW, self.introduce_again(connection)).await;
        renewed.unwrap_or_else(|_| Err(Failure::Refused("does not make a new session".to_owned())))
    }

    async fn introduce_again(self: &Arc<Self>, connection: &Arc<Connection>) -> Result<(), Failure> {
        let Some((params, rest)) = connection.memory.replay() else {
            return Err(Failure::Refused("has ended the session".to_owned()));
        };
        let request = |method: String, params| Message::Request {
            id: Id::from(connection.next_id()),
            method,
            params,
            extra: Fields::default(),
        };
        let initialize = request("initialize".to_owned(), Some(params));
        let response = self.post(connection, &initialize, &Session::default()).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        self.session().name(response.headers());
        match self.first_answer(response).await? {
            Answer::Result(result) => {
                let revision =
                    Fields::parse(result.get()).ok().and_then(|fields| fields.read("protocolVersion"));
                self.session().speaks(revision);
            }
            Answer::Error(error) => return Err(Failure::Refused(format!("answered {}", error.get()))),
        }
        let session = self.session().clone();
        for message in rest {
            let message = match message {
                Message::Request { method, params, .. } => request(method, params),
                message => message,
            };
            self.post(connection, &message, &session).await?;
        }
        self.listen(connection);
        Ok(())
    }

    /// The answer in a response to a request of our own.
    async fn first_answer(&self, mut response: Response) -> Result<Answer, Failure> {
        let is_stream = is_kind(&response, EVENTS);
        let (mut decoder, mut body) = (Decoder::new(self.max_message), Vec::new());
        while let Some(bytes) = response.chunk().await.map_err(|error| failure(&error))? {
            if is_stream {
                for event in decoder.push(&bytes) {
                    if let super::Event::Data { data, .. } = event
                        && let Some(answer) = answer(&data)
                    {
                        return Ok(answer);
                    }
                }
            } else if body.len() + bytes.len() <= self.max_message {
                body.extend_from_slice(&bytes);
            }
        }
        answer(&String::from_utf8_lossy(&body))
            .ok_or_else(|| Failure::Refused("did not answer `initialize`".to_owned()))
    }

    /// Tells the server that the session is over.
    pub(super) async fn end_session(&self) {
        let session = self.session().clone();
        if !session.is_named() {
            return;
        }
        let mut headers = self.headers.clone();
        session.add(&mut headers);
        let told = self.auth.send(self.client.delete(self.url.clone()).headers(headers));
        // A server need not take it.
        drop(tokio::time::timeout(END, told).await);
    }
}

fn answer(text: &str) -> Option<Answer> {
    match message::parse(text).ok()? {
        Incoming::One(Message::Response { answer, .. }) => Some(answer),
        _ => None,
    }
}

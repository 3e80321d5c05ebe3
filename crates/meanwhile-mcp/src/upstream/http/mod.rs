//! A server elsewhere, spoken to over HTTP: streamable HTTP in either era, and the transport before it (`endpoint`).
//!
//! Each request is a POST of its own, whose response is the answer or a stream of events that ends with it. A legacy server may
//! have sessions, and streams that can be taken up again (`session`); a modern one takes the end of a response's stream for
//! the cancellation of its request.

mod auth;
mod client;
mod endpoint;
mod headers;
mod session;
pub mod sse;

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use self::auth::Login;

use self::auth::Auth;
use self::client::{client, header_map};
use self::endpoint::Transport;
use self::headers::ToolHeaders;
use self::session::Session;
use self::sse::{Decoder, Event};
use super::UpstreamError;
use super::connection::{Common, Connection, Wire};
use crate::login::Challenge;
use crate::message::{self, Answer, Fields, Id, Incoming, Message};
use crate::revision::{Era, Revision};

/// How long the connection to a server may take to be made.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a server may take to accept what wants no answer.
const ACCEPT_PATIENCE: Duration = Duration::from_secs(30);
/// How much of a refusal is read, in bytes.
const REFUSAL_MAX: usize = 64 * 1024;
/// How much of it is told, in characters.
const REFUSAL_SHOWN: usize = 300;
/// Asked of a server to find out of which era it is.
pub(super) const DISCOVER: &str = "server/discover";

const EVENTS: &str = "text/event-stream";
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

#[cfg(feature = "fuzzing")]
pub(crate) fn written_into_header(text: &str) -> String {
    headers::encoded(text)
}

/// The way to one server over HTTP.
pub(super) struct Http {
    client: Client,
    url: Url,
    /// Of every request. They may hold secrets.
    headers: HeaderMap,
    auth: Auth,
    max_message: usize,
    tools: Mutex<ToolHeaders>,
    /// The requests whose responses are being read, by their ids.
    running: Mutex<HashMap<u64, AbortHandle>>,
    session: Mutex<Session>,
    renewing: tokio::sync::Mutex<()>,
    transport: watch::Sender<Transport>,
}

/// What there is of a request's response.
enum Taken {
    /// All: if its answer was not in it, there is none.
    Whole,
    /// That the server has taken it. The answer comes in the one stream there is.
    ToBeAnsweredElsewhere,
}

/// Why there is no answer.
enum Failure {
    /// The server is not there: nothing was done.
    Unreachable(String),
    /// The request was not taken: nothing was done.
    Refused(String),
    /// What became of it is not known.
    Lost(String),
}

impl Failure {
    fn why(&self) -> &str {
        match self {
            Failure::Unreachable(why) | Failure::Refused(why) | Failure::Lost(why) => why,
        }
    }
}

/// Reaches a server. Whether it is there is seen at the first request.
pub(super) fn connect(
    name: &str,
    url: &str,
    headers: &[(String, String)],
    login: Option<&Login>,
    is_old: bool,
    max_message: usize,
    common: Common,
) -> Result<Arc<Connection>, UpstreamError> {
    let unreachable = |reason: String| UpstreamError::Unreachable { server: name.to_owned(), reason };
    // It may hold a secret.
    let url = Url::parse(url).map_err(|error| unreachable(format!("its URL is none: {error}")))?;
    let headers = header_map(headers).map_err(unreachable)?;
    let http = Arc::new(Http {
        client: client().map_err(|error| unreachable(error.to_string()))?,
        auth: Auth::new(name, login, &url, &headers),
        url,
        headers,
        max_message,
        tools: Mutex::default(),
        running: Mutex::default(),
        session: Mutex::default(),
        renewing: tokio::sync::Mutex::default(),
        transport: watch::Sender::new(if is_old { Transport::Old(None) } else { Transport::Streamable }),
    });
    let connection = Connection::new(name, Wire::Http(http.clone()), common);
    let held = connection.clone();
    tokio::spawn(async move {
        if is_old {
            http.hold_stream(&held).await;
        } else {
            held.stop.raised().await;
        }
        http.leave(&held).await;
    });
    Ok(connection)
}

impl Http {
    /// Sends one message. The answer of a request comes to the connection by itself.
    pub(super) async fn send(self: &Arc<Self>, connection: &Arc<Connection>, message: &Message) {
        if let Message::Request { id, method, .. } = message {
            if let Some(sent_as) = id.number() {
                self.start(connection.clone(), message.clone(), sent_as, method == DISCOVER);
            }
            return;
        }
        let posted = tokio::time::timeout(ACCEPT_PATIENCE, self.tell(connection, message)).await;
        let posted = posted.unwrap_or_else(|_| Err(Failure::Lost("was silent".to_owned())));
        if let Err(failure) = posted {
            let (server, why) = (connection.server(), failure.why());
            tracing::warn!(server, why, "the MCP server did not take a message");
        }
    }

    /// Starts a request in a task of its own.
    fn start(self: &Arc<Self>, connection: Arc<Connection>, message: Message, sent_as: u64, asks_era: bool) {
        let http = self.clone();
        // Under the lock, so that its end finds it there.
        let mut running = self.running();
        let task = tokio::spawn(async move {
            let ended = http.exchange(&connection, &message, sent_as).await;
            http.running().remove(&sent_as);
            match ended {
                Ok(Taken::ToBeAnsweredElsewhere) => {}
                // It is there, and does not know the question.
                Ok(Taken::Whole) if asks_era => connection.refuse(sent_as, "did not answer who it is"),
                Ok(Taken::Whole) => connection.lose(sent_as, "ended the stream of the request"),
                Err(Failure::Lost(why)) => connection.lose(sent_as, &why),
                // Asked before anything is known of the server, this is no answer.
                Err(failure) if asks_era => connection.lose(sent_as, failure.why()),
                Err(failure) => connection.refuse(sent_as, failure.why()),
            }
        });
        running.insert(sent_as, task.abort_handle());
    }

    /// Sends what wants no answer.
    async fn tell(self: &Arc<Self>, connection: &Arc<Connection>, message: &Message) -> Result<(), Failure> {
        let session = self.session().clone();
        let response = self.post(connection, message, &session).await?;
        match response.status() {
            status if status.is_success() => {}
            status if self.has_ended(connection, &session, status).await => {
                self.renew(connection, session.generation).await?;
                // The answer to a question of the old session concerns nobody in the new one.
                if let Message::Notification { .. } = message {
                    let session = self.session().clone();
                    self.post(connection, message, &session).await?;
                }
                return Ok(());
            }
            _ => return Err(self.refusal(response).await),
        }
        if let Message::Notification { method, .. } = message
            && method == "notifications/initialized"
            && connection.era() == Era::Legacy
        {
            self.listen(connection);
        }
        Ok(())
    }

    /// Sends a request, and brings what comes back to the connection until the answer has come.
    async fn exchange(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        message: &Message,
        sent_as: u64,
    ) -> Result<Taken, Failure> {
        let mut is_old = self.is_old();
        let mut session = self.session().clone();
        let mut response = self.post(connection, message, &session).await?;
        if self.has_ended(connection, &session, response.status()).await {
            self.renew(connection, session.generation).await?;
            session = self.session().clone();
            response = self.post(connection, message, &session).await?;
        }
        if self.turns_out_old(connection, message, response.status()).await {
            is_old = true;
            response = self.post(connection, message, &session).await?;
        }
        if !response.status().is_success() {
            self.refused(connection, message, response, sent_as).await?;
            return Ok(Taken::Whole);
        }
        if is_old {
            return Ok(Taken::ToBeAnsweredElsewhere);
        }
        if matches!(message, Message::Request { method, .. } if method == "initialize") {
            self.session().name(response.headers());
        }
        if !is_kind(&response, EVENTS) {
            let body = self.body(connection, response, sent_as).await?;
            self.text(connection, Some(sent_as), &body).await;
            return Ok(Taken::Whole);
        }
        let mut decoder = Decoder::new(self.max_message);
        let broken = self.events(connection, &mut decoder, response, Some(sent_as)).await.err();
        if connection.waits_for(sent_as) && connection.era() == Era::Legacy {
            self.resume(connection, decoder, sent_as).await?;
        }
        broken.map_or(Ok(Taken::Whole), Err)
    }

    async fn post(
        &self,
        connection: &Connection,
        message: &Message,
        session: &Session,
    ) -> Result<Response, Failure> {
        let url = self.target().await?;
        let mut headers = self.headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let asks_era = matches!(message, Message::Request { method, .. } if method == DISCOVER);
        if connection.era() == Era::Modern || asks_era {
            headers.insert(VERSION, HeaderValue::from_static(Revision::LATEST.name()));
            if let Message::Request { method, params, .. } | Message::Notification { method, params, .. } =
                message
            {
                let tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
                tools.add(&mut headers, method, params.as_ref());
            }
        } else {
            session.add(&mut headers);
        }
        self.auth.send(self.client.post(url).headers(headers).body(message.to_line())).await
    }

    /// A response that says no. It may carry the error that answers the request; else the status is all there is.
    async fn refused(
        &self,
        connection: &Arc<Connection>,
        message: &Message,
        response: Response,
        sent_as: u64,
    ) -> Result<(), Failure> {
        let status = response.status();
        let challenge = Challenge::read(response.headers());
        let body = bounded(response, REFUSAL_MAX).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let is_about_login = self.auth.is_about_login(status, &challenge);
        if !is_about_login
            && let Ok(Incoming::One(Message::Response { answer: Answer::Error(error), extra, .. })) =
                message::parse(&text)
        {
            let answer = Message::Response { id: Id::from(sent_as), answer: Answer::Error(error), extra };
            connection.take(Some(sent_as), answer).await;
            return Ok(());
        }
        let why = told(status, &text, &self.auth.mend(status, &challenge).await);
        if matches!(message, Message::Request { method, .. } if method == DISCOVER)
            && is_about_request(status)
            && !is_about_login
        {
            // A server that does not know the question, which is an answer.
            connection.refuse(sent_as, &why);
            return Ok(());
        }
        let is_known =
            status.is_client_error() || status.is_redirection() || status == StatusCode::SERVICE_UNAVAILABLE;
        Err(if is_known { Failure::Refused(why) } else { Failure::Lost(why) })
    }

    async fn refusal(&self, response: Response) -> Failure {
        let (status, challenge) = (response.status(), Challenge::read(response.headers()));
        let body = bounded(response, REFUSAL_MAX).await.unwrap_or_default();
        let mend = self.auth.mend(status, &challenge).await;
        Failure::Refused(told(status, &String::from_utf8_lossy(&body), &mend))
    }

    async fn body(
        &self,
        connection: &Connection,
        response: Response,
        sent_as: u64,
    ) -> Result<String, Failure> {
        match bounded(response, self.max_message).await {
            Ok(body) => {
                String::from_utf8(body).map_err(|_| Failure::Lost("answered what is no text".to_owned()))
            }
            Err(Unread::TooLong(bytes)) => {
                connection.too_long(bytes, self.max_message, Some(sent_as));
                Ok(String::new())
            }
            Err(Unread::Broken(error)) => Err(failure(&error)),
        }
    }

    /// Reads a stream of events to its end.
    async fn events(
        &self,
        connection: &Arc<Connection>,
        decoder: &mut Decoder,
        mut response: Response,
        about: Option<u64>,
    ) -> Result<(), Failure> {
        while let Some(bytes) = response.chunk().await.map_err(|error| failure(&error))? {
            self.take(connection, decoder.push(&bytes), about).await;
        }
        Ok(())
    }

    async fn take(&self, connection: &Arc<Connection>, events: Vec<Event>, about: Option<u64>) {
        for event in events {
            match event {
                Event::Data { name, data } if name.is_empty() || name == "message" => {
                    self.text(connection, about, &data).await;
                }
                Event::Data { name, data } => self.other_event(connection, &name, &data),
                Event::TooLong { bytes } => connection.too_long(bytes, self.max_message, about),
            }
        }
    }

    /// Brings what a body or an event holds to the connection.
    async fn text(&self, connection: &Arc<Connection>, about: Option<u64>, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        let parts = match message::parse(text) {
            Ok(Incoming::One(message)) => vec![Ok(message)],
            Ok(Incoming::Batch(parts)) => parts,
            Err(malformed) => vec![Err(malformed)],
        };
        for part in parts {
            match part {
                Ok(message) => connection.take(about, message).await,
                Err(malformed) => {
                    let server = connection.server();
                    tracing::warn!(
                        server,
                        why = malformed.message,
                        "what the MCP server sent is no message; it is ignored"
                    );
                }
            }
        }
    }

    /// Takes note of what an answer says of the way to the server, and returns it as it is to be passed on.
    pub(super) fn learn(&self, server: &str, method: &str, answer: Answer, era: Era) -> Answer {
        let Answer::Result(result) = answer else { return answer };
        if method == "initialize" {
            let revision = Fields::parse(result.get()).ok().and_then(|fields| fields.read("protocolVersion"));
            self.session().speaks(revision);
        }
        if method == "tools/list" && era == Era::Modern {
            let mut tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
            return Answer::Result(tools.learn(server, result));
        }
        Answer::Result(result)
    }

    /// Closes the stream of a request, by which a modern server knows that nobody waits for the answer.
    pub(super) fn hang_up(&self, sent_as: u64) {
        if let Some(task) = self.running().remove(&sent_as) {
            task.abort();
        }
    }

    /// Ends everything.
    async fn leave(&self, connection: &Connection) {
        for (_, task) in self.running().drain() {
            task.abort();
        }
        self.end_session().await;
        connection.close(format!("the connection to the MCP server `{}` was closed", connection.server()));
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_kind(response: &Response, kind: &str) -> bool {
    let found = response.headers().get(CONTENT_TYPE).and_then(|found| found.to_str().ok());
    found.is_some_and(|found| found.trim_start().to_ascii_lowercase().starts_with(kind))
}

/// Whether a refusal says something of the request, not of the server's health.
fn is_about_request(status: StatusCode) -> bool {
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    (status.is_client_error() && !passing.contains(&status))
        || [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::NOT_IMPLEMENTED].contains(&status)
}

enum Unread {
    TooLong(usize),
    Broken(reqwest::Error),
}

async fn bounded(mut response: Response, max: usize) -> Result<Vec<u8>, Unread> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(Unread::Broken)? {
        if body.len() + bytes.len() > max {
            let told = response.content_length().and_then(|length| usize::try_from(length).ok());
            return Err(Unread::TooLong(told.unwrap_or(body.len() + bytes.len())));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

fn told(status: StatusCode, body: &str, mend: &str) -> String {
    let shown: String = body.trim().chars().take(REFUSAL_SHOWN).collect();
    let mend = match status {
        status if status.is_redirection() => "; another place or method is not followed: give its own URL",
        _ => mend,
    };
    let colon = if shown.is_empty() { "" } else { ": " };
    format!("answered HTTP {status}{colon}{shown}{mend}")
}

/// What went wrong on the way, without the URL, which may hold a secret.
fn failure(error: &reqwest::Error) -> Failure {
    let mut why = String::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        why = inner.to_string();
        cause = inner.source();
    }
    if error.is_connect() || error.is_builder() {
        return Failure::Unreachable(format!("cannot be reached: {why}"));
    }
    Failure::Lost(format!("broke off: {why}"))
}

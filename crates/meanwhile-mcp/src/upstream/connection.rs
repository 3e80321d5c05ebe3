//! The way to a server while it is there: requests out, answers matched to them, everything else to the inbox.
//!
//! Whatever the server speaks, inside it is the legacy shape: a modern server's requests are dressed, its results undressed
//! (`modern`), and what it asks in an interim result reaches the inbox as a request (`waiters`).

mod incoming;
mod tasks;
mod waiting;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use meanwhile_core::{Json, RunContext, Signal};
use serde_json::json;
use tokio::sync::watch;

pub(super) use self::tasks::Kept;
pub use self::waiting::{Reply, Round, Waiting};

use super::http::Http;
use super::listen::{self, Heard};
use super::memory::Memory;
use super::modern::{self, Answering, Discovered};
use super::parties::{Parties, Party};
use super::probe::Late;
use super::waiters::{Open, Waiters};
use crate::message::{Answer, Fields, Id, Message, to_json};
use crate::modern::Capabilities;
use crate::revision::Era;
use crate::transport::Outbound;

/// Marks the progress tokens that are ours.
const TOKEN_PREFIX: &str = "meanwhile-";
/// A call is taken back.
pub(super) const CANCELLED: &str = "notifications/cancelled";
/// A task has changed, in either dialect.
const TASK_NEWS: [&str; 2] = ["notifications/tasks/status", "notifications/tasks"];
/// The requests that a modern server may answer with questions.
const MAY_ASK: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// A request that is to be sent.
#[derive(Default)]
struct Request {
    method: String,
    params: Option<Json>,
    extra: Fields,
    /// For whom it is sent.
    party: Option<Party>,
    /// Who hears of its progress.
    context: Option<RunContext>,
}

/// How messages get to the server.
pub(super) enum Wire {
    /// As lines, to its stdin.
    Lines(Mutex<Option<Outbound>>),
    /// Each in a request of its own.
    Http(Arc<Http>),
}

/// What all connections to a server share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) memory: Arc<Memory>,
    pub(super) parties: Arc<Parties>,
    pub(super) spoke: Arc<AtomicBool>,
}

/// The way to a server, while it is there: a process of it, or a server elsewhere.
pub struct Connection {
    server: String,
    wire: Wire,
    pub(super) memory: Arc<Memory>,
    parties: Arc<Parties>,
    /// Whether the server, in any process of it, has answered anything.
    spoke: Arc<AtomicBool>,
    waiters: Mutex<Waiters>,
    next_id: AtomicU64,
    /// What the server said of itself, if it is a modern one.
    discovered: OnceLock<Discovered>,
    pub(super) late: Late,
    /// The last subscription that the server has acknowledged.
    acknowledged: watch::Sender<u64>,
    pub(super) heard: Heard,
    pub(super) stop: Signal,
    closed: Signal,
    /// How the server went.
    end: OnceLock<String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(server: &str, wire: Wire, common: Common) -> Arc<Connection> {
        let Common { memory, parties, spoke } = common;
        Arc::new(Connection {
            server: server.to_owned(),
            wire,
            memory,
            parties,
            spoke,
            waiters: Mutex::default(),
            next_id: AtomicU64::new(1),
            discovered: OnceLock::new(),
            late: Late::default(),
            acknowledged: watch::Sender::new(0),
            heard: watch::Sender::new(0),
            stop: Signal::default(),
            closed: Signal::default(),
            end: OnceLock::new(),
        })
    }

    /// Whether the server is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.is_raised()
    }

    /// How the server went, once it has.
    pub(super) fn end(&self) -> Option<&str> {
        self.end.get().map(String::as_str)
    }

    /// How the server is spoken to.
    #[must_use]
    pub fn era(&self) -> Era {
        if self.discovered.get().is_some() { Era::Modern } else { Era::Legacy }
    }

    /// What a modern server said of itself.
    pub(super) fn discovered(&self) -> Option<&Discovered> {
        self.discovered.get()
    }

    /// From now on it is spoken to as a modern server.
    pub(super) fn be_modern(&self, discovered: Discovered) {
        let _ = self.discovered.set(discovered);
    }

    /// Sends a request.
    pub async fn request(self: &Arc<Self>, method: &str, params: Option<Json>) -> Waiting {
        let request = Request { method: method.to_owned(), params, ..Request::default() };
        self.send_request(self.next_id(), request).await
    }

    /// Sends a request of `party` as it came, but for its id and its progress token. `is_sent_as` hears the id before the server
    /// can say anything about the request.
    pub(super) async fn forward(
        self: &Arc<Self>,
        party: Party,
        method: &str,
        params: Option<Json>,
        extra: Fields,
        is_sent_as: impl FnOnce(u64),
    ) -> Waiting {
        let (id, method, party) = (self.next_id(), method.to_owned(), Some(party));
        is_sent_as(id);
        self.send_request(id, Request { method, params, extra, party, context: None }).await
    }

    /// Sends a `tools/call` of `party` whose progress goes to `context`.
    pub async fn call(self: &Arc<Self>, party: Party, params: Fields, context: RunContext) -> Waiting {
        self.request_about(party, "tools/call", Some(params.to_json()), context).await
    }

    /// The call that a message of the server is about (`about` as [`super::Inbox::receive`] had it): if that does not say, all that
    /// wait, the last one sent first.
    #[must_use]
    pub fn contexts_of(&self, about: Option<u64>) -> Vec<RunContext> {
        self.waiters().contexts(about)
    }

    /// Sends a request for the sake of a call, to which what comes along with the answer belongs.
    pub(super) async fn request_about(
        self: &Arc<Self>,
        party: Party,
        method: &str,
        params: Option<Json>,
        context: RunContext,
    ) -> Waiting {
        let (method, party, context) = (method.to_owned(), Some(party), Some(context));
        let request = Request { method, params, party, context, ..Request::default() };
        self.send_request(self.next_id(), request).await
    }

    /// From now on the progress of a request that was passed on is told under this token, if its caller wants to hear of it.
    pub(crate) fn renew_token(&self, id: u64, token: Option<Json>) {
        self.waiters().renew_token(id, token);
    }

    /// Nobody waits for the answer of a request any more.
    pub(crate) fn forget(&self, id: u64) {
        self.waiters().forget(id);
    }

    /// For whom the request of this id was sent, if it waits.
    pub(super) fn party_of(&self, id: u64) -> Option<Party> {
        self.waiters().open(id)?.party
    }

    /// For whom the server may still be at something.
    pub(super) fn parties_waiting(&self) -> Vec<Party> {
        self.waiters().parties()
    }

    /// The call that was sent last of those that wait.
    pub(crate) fn sent_last(&self) -> Option<u64> {
        self.waiters().sent_last()
    }

    async fn send_request(self: &Arc<Self>, id: u64, mut request: Request) -> Waiting {
        let is_modern = self.era() == Era::Modern;
        if let Some(answered) = is_modern.then(|| self.answered_here(id, &request)).flatten() {
            return answered;
        }
        let asker = if is_modern { capabilities_of(request.params.as_ref()) } else { None };
        // Several who ask through us may have the same one.
        let theirs = if request.context.is_none() { request.params.as_ref().and_then(token) } else { None };
        if theirs.is_some() || (request.context.is_some() && request.method == "tools/call") {
            request.params = request.params.map(|params| with_token(params, id));
        }
        let answering = if request.context.is_some() { Answering::Job } else { Answering::Asker };
        request.params = match request.params {
            params if is_modern => Some(modern::dress(params, self.memory.asker(request.party), answering)),
            params => params.map(modern::undress),
        };
        self.put(id, request, asker, theirs).await
    }

    /// Sends a request exactly so.
    pub(super) async fn request_as_it_is(self: &Arc<Self>, method: &str, params: Json) -> Waiting {
        let request = Request { method: method.to_owned(), params: Some(params), ..Request::default() };
        self.put(self.next_id(), request, None, None).await
    }

    async fn put(
        self: &Arc<Self>,
        id: u64,
        request: Request,
        asker: Option<Capabilities>,
        token: Option<Json>,
    ) -> Waiting {
        let Request { method, params, extra, party, context } = request;
        let (mut open, reply) = Open::new(id, &method, context);
        (open.asker, open.party, open.token) = (asker, party, token);
        if self.era() == Era::Modern && MAY_ASK.contains(&method.as_str()) {
            open.again = params.clone().map(|params| (params, extra.clone()));
        }
        let signs = open.signs.clone();
        self.waiters().insert(id, open);
        self.write(&Message::Request { id: Id::from(id), method, params, extra }).await;
        // What could not be sent is lost with the server.
        if self.is_closed() {
            self.waiters().forget(id);
        }
        Waiting { connection: self.clone(), id, reply, signs }
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The answer, if a modern server is not asked this, for it does not know it: what it says is remembered, and goes along with
    /// each request, or with the subscription that is held open ([`listen`]).
    fn answered_here(self: &Arc<Self>, id: u64, request: &Request) -> Option<Waiting> {
        let subscribes = request.method.starts_with("resources/");
        match request.method.as_str() {
            "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => {}
            _ => return None,
        }
        let (Open { reply, signs, .. }, answer) = Open::new(id, "", None);
        let (connection, version) = (self.clone(), *self.memory.watch_resources().borrow());
        tokio::spawn(async move {
            if subscribes {
                listen::until_heard(&connection, version).await;
            }
            let _ = reply.send(Reply::plain(Answer::Result(to_json(&json!({})))));
        });
        Some(Waiting { connection: self.clone(), id, reply: answer, signs })
    }

    /// Sends a notification, as far as the server knows it.
    pub async fn send(self: &Arc<Self>, message: Message) {
        if self.era() == Era::Modern
            && let Message::Notification { method, params, .. } = &message
        {
            match method.as_str() {
                "notifications/initialized" | "notifications/roots/list_changed" => return,
                CANCELLED => return self.cancel_by(params.as_ref()).await,
                _ => {}
            }
        }
        self.write(&message).await;
    }

    async fn write(self: &Arc<Self>, message: &Message) {
        match &self.wire {
            Wire::Lines(out) => {
                let out = out.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(out) = out {
                    out.send(message.to_line()).await;
                }
            }
            Wire::Http(http) => http.send(self, message).await,
        }
    }

    /// Answers a request of the server.
    pub async fn answer(self: &Arc<Self>, id: Id, answer: Answer, extra: Fields) {
        let is_ours = self.waiters().has_asked(&id);
        if is_ours {
            let next = self.waiters().answered(&id, answer);
            return self.go_on(next).await;
        }
        self.write(&Message::Response { id, answer, extra }).await;
    }

    /// Tells a new process what the old one knew. What it answers is nobody's concern.
    pub(super) async fn replay(self: &Arc<Self>, message: Message) {
        match message {
            Message::Request { method, params, .. } => drop(self.request(&method, params).await),
            message => self.write(&message).await,
        }
    }

    /// Ends the connection, and waits until the server is gone: by itself, or made to.
    pub(super) async fn stop(&self) {
        self.stop.raise();
        self.closed.raised().await;
    }

    /// Resolves when the server is gone.
    pub(super) async fn closed(&self) {
        self.closed.raised().await;
    }

    /// Takes no more messages for the server: its stdin is closed behind the last one.
    pub(super) fn hang_up(&self) {
        if let Wire::Lines(out) = &self.wire {
            out.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// The server is gone: so are the answers that were waited for.
    pub(super) fn close(&self, end: String) {
        tracing::info!("{end}");
        let _ = self.end.set(end);
        self.closed.raise();
        self.waiters().clear();
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Follows which subscription the server has acknowledged last.
    pub(super) fn acknowledged(&self) -> watch::Receiver<u64> {
        self.acknowledged.subscribe()
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> Reply {
        Reply::Lost(self.end.get().cloned().unwrap_or_else(|| "the MCP server is gone".to_owned()))
    }
}

/// What the client can do that makes a request of the modern era.
fn capabilities_of(params: Option<&Json>) -> Option<Capabilities> {
    crate::modern::meta(params)?.ok().map(|meta| meta.capabilities)
}

/// The request that a progress token of ours belongs to.
fn numbered(progress: &Fields) -> Option<u64> {
    progress.read::<String>("progressToken")?.strip_prefix(TOKEN_PREFIX)?.parse().ok()
}

/// The progress token that the caller has given.
fn token(params: &Json) -> Option<Json> {
    Fields::parse(params.get()).ok()?.read::<Fields>("_meta")?.take("progressToken")
}

/// The parameters of a call with a progress token of ours, whether or not the caller gave one.
fn with_token(params: Json, id: u64) -> Json {
    let Ok(mut call) = Fields::parse(params.get()) else { return params };
    let mut meta: Fields = call.read("_meta").unwrap_or_default();
    meta.set("progressToken", to_json(&format!("{TOKEN_PREFIX}{id}")));
    call.set("_meta", meta.to_json());
    call.to_json()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_gets_our_token_and_keeps_everything_else() {
        let call = r#"{"name":"x","_meta":{"a":1.0,"progressToken":7},"z":[1e400]}"#;
        let call = serde_json::value::RawValue::from_string(call.to_owned()).unwrap();
        let expected = r#"{"name":"x","_meta":{"a":1.0,"progressToken":"meanwhile-3"},"z":[1e400]}"#;
        assert_eq!(with_token(call, 3).get(), expected);
    }
}

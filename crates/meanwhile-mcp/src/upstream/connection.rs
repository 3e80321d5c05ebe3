//! The way to a server while it is there: requests out, answers matched to them, everything else to the inbox.
//!
//! Whatever the server speaks, inside it is the legacy shape: a modern server's requests are dressed, its results undressed
//! (`modern`), and what it asks in an interim result reaches the inbox as a request (`waiters`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use meanwhile_core::{Handle, Json, Progress, RunContext, Signal};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Notify, oneshot, watch};

use super::http::Http;
use super::listen::{self, Heard};
use super::memory::Memory;
use super::modern::{self, Discovered, Shape};
use super::waiters::{Cancel, Next, Open, Signs, Waiters, Whose};
use super::{Inbox, UpstreamError};
use crate::dialect::{RELATED_TASK, without_related_task};
use crate::message::{self, Answer, Fields, INTERNAL_ERROR, Id, Message, UPSTREAM_GONE, to_json};
use crate::modern::Capabilities;
use crate::revision::Era;
use crate::transport::Outbound;

/// Progress messages are kept up to this length, in characters. Whoever waits sees them whole.
const MESSAGE_CHARS: usize = 1000;
/// Marks the progress tokens that are ours.
const TOKEN_PREFIX: &str = "meanwhile-";
/// A call is taken back.
const CANCELLED: &str = "notifications/cancelled";
/// A task has changed, in either dialect.
const TASK_NEWS: [&str; 2] = ["notifications/tasks/status", "notifications/tasks"];
/// The requests that a modern server may answer with questions.
const MAY_ASK: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// What came of a request.
#[derive(Debug)]
pub enum Reply {
    /// The answer, and what else its envelope held.
    Answer(Answer, Fields),
    /// The server is gone, or what it was to answer through; the text says how.
    Lost(String),
}

impl Reply {
    /// The answer, where nothing else of it counts.
    ///
    /// # Errors
    /// If the server was lost before it answered.
    pub fn answer(self) -> Result<Answer, UpstreamError> {
        match self {
            Reply::Answer(answer, _) => Ok(answer),
            Reply::Lost(reason) => Err(UpstreamError::Lost { reason }),
        }
    }

    fn plain(answer: Answer) -> Reply {
        Reply::Answer(answer, Fields::default())
    }
}

/// A request that has been sent.
#[derive(Debug)]
pub struct Waiting {
    connection: Arc<Connection>,
    id: u64,
    reply: oneshot::Receiver<Reply>,
    signs: Arc<Signs>,
}

/// A request that is to be sent.
#[derive(Default)]
struct Request {
    method: String,
    params: Option<Json>,
    extra: Fields,
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
    pub(super) inbox: Option<Weak<dyn Inbox>>,
    pub(super) spoke: Arc<AtomicBool>,
}

/// The way to a server, while it is there: a process of it, or a server elsewhere.
pub struct Connection {
    server: String,
    wire: Wire,
    pub(super) memory: Arc<Memory>,
    inbox: Option<Weak<dyn Inbox>>,
    /// Whether the server, in any process of it, has answered anything.
    spoke: Arc<AtomicBool>,
    waiters: Mutex<Waiters>,
    next_id: AtomicU64,
    /// What the server said of itself, if it is a modern one.
    discovered: OnceLock<Discovered>,
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
        let Common { memory, inbox, spoke } = common;
        Arc::new(Connection {
            server: server.to_owned(),
            wire,
            memory,
            inbox,
            spoke,
            waiters: Mutex::default(),
            next_id: AtomicU64::new(1),
            discovered: OnceLock::new(),
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
        self.send_request(Request { method: method.to_owned(), params, ..Request::default() }).await
    }

    /// Sends a request as it came, but for its id.
    pub async fn forward(self: &Arc<Self>, method: &str, params: Option<Json>, extra: Fields) -> Waiting {
        self.send_request(Request { method: method.to_owned(), params, extra, context: None }).await
    }

    /// Sends a `tools/call` whose progress goes to `context`.
    pub async fn call(self: &Arc<Self>, params: Fields, context: RunContext) -> Waiting {
        let params = Some(params.to_json());
        let method = "tools/call".to_owned();
        self.send_request(Request { method, params, context: Some(context), ..Request::default() }).await
    }

    /// The call that a message of the server is about (`about` as [`Inbox::receive`] had it): if that does not say, the call
    /// that was sent last of those that wait.
    #[must_use]
    pub fn context_of(&self, about: Option<u64>) -> Option<RunContext> {
        self.waiters().context(about)
    }

    /// Sends a request for the sake of a call, to which what comes along with the answer belongs.
    pub(super) async fn request_about(
        self: &Arc<Self>,
        method: &str,
        params: Option<Json>,
        context: RunContext,
    ) -> Waiting {
        let method = method.to_owned();
        self.send_request(Request { method, params, context: Some(context), ..Request::default() }).await
    }

    async fn send_request(self: &Arc<Self>, mut request: Request) -> Waiting {
        let is_modern = self.era() == Era::Modern;
        if let Some(answered) = is_modern.then(|| self.answered_here(&request)).flatten() {
            return answered;
        }
        let asker = if is_modern { capabilities_of(request.params.as_ref()) } else { None };
        let id = self.next_id();
        if request.context.is_some() && request.method == "tools/call" {
            request.params = request.params.map(|params| with_token(params, id));
        }
        request.params = match request.params {
            params if is_modern => Some(modern::dress(params, self.memory.asker())),
            params => params.map(modern::undress),
        };
        self.put(id, request, asker).await
    }

    /// Sends a request exactly so.
    pub(super) async fn request_as_it_is(self: &Arc<Self>, method: &str, params: Json) -> Waiting {
        let request = Request { method: method.to_owned(), params: Some(params), ..Request::default() };
        self.put(self.next_id(), request, None).await
    }

    async fn put(self: &Arc<Self>, id: u64, request: Request, asker: Option<Capabilities>) -> Waiting {
        let Request { method, params, extra, context } = request;
        let (mut open, reply) = Open::new(id, &method, context);
        open.asker = asker;
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
    fn answered_here(self: &Arc<Self>, request: &Request) -> Option<Waiting> {
        let subscribes = request.method.starts_with("resources/");
        match request.method.as_str() {
            "ping" => {}
            "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => {
                self.memory.remember_request(&request.method, request.params.as_ref());
            }
            _ => return None,
        }
        let id = self.next_id();
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

    fn inbox(&self) -> Option<Arc<dyn Inbox>> {
        self.inbox.as_ref().and_then(Weak::upgrade)
    }

    fn lost(&self) -> Reply {
        Reply::Lost(self.end.get().cloned().unwrap_or_else(|| "the MCP server is gone".to_owned()))
    }
}

/// What the server says.
impl Connection {
    /// Takes one message; `about` is our request that it belongs to, where the transport tells.
    pub(super) async fn take(self: &Arc<Self>, about: Option<u64>, message: Message) {
        let about = about.map(|sent_as| self.waiters().known_as(sent_as));
        let Some(message) = self.take_of_task(message).await else { return };
        match message {
            Message::Response { id, answer, extra } if !id.is_unknown() => {
                self.response(&id, answer, extra).await;
            }
            Message::Notification { ref method, ref params, .. }
                if method == "notifications/progress" && self.progress(params.as_ref()) =>
            {
                // Whoever waits takes it before the next one is read, so that a burst does not outrun them.
                tokio::task::yield_now().await;
            }
            Message::Notification { method, params, extra } if self.era() == Era::Modern => {
                let (params, subscription) = modern::without_subscription(params);
                if method == "notifications/subscriptions/acknowledged" {
                    self.acknowledged.send_replace(subscription.unwrap_or_default());
                } else {
                    self.pass_in(about, Message::Notification { method, params, extra }).await;
                }
            }
            message => self.pass_in(about, message).await,
        }
    }

    /// The same, for what is said of a task that is followed: it belongs to the call that has become that task.
    async fn take_of_task(self: &Arc<Self>, message: Message) -> Option<Message> {
        let related = |params: &Json| -> Option<String> {
            let meta: Fields = Fields::parse(params.get()).ok()?.read("_meta")?;
            meta.read::<Fields>(RELATED_TASK)?.read("taskId")
        };
        match &message {
            // A client knows our tasks, and none of the server's.
            Message::Notification { method, params, .. } if TASK_NEWS.contains(&method.as_str()) => {
                let fields = params.as_ref().and_then(|params| Fields::parse(params.get()).ok());
                if let Some(task) = fields.and_then(|fields| fields.read::<String>("taskId")) {
                    self.waiters().wake(&task);
                }
                None
            }
            Message::Request { id, method, params: Some(params), extra }
                if params.get().contains(RELATED_TASK) =>
            {
                let call = related(params).and_then(|task| self.waiters().call_of(&task));
                let Some(call) = call else { return Some(message) };
                let (id, method, extra) = (id.clone(), method.clone(), extra.clone());
                let params = Some(without_related_task(params));
                self.pass_in(Some(call), Message::Request { id, method, params, extra }).await;
                None
            }
            _ => Some(message),
        }
    }

    async fn pass_in(self: &Arc<Self>, about: Option<u64>, message: Message) {
        if let Some(inbox) = self.inbox() {
            inbox.receive(self, about, message).await;
        }
    }

    async fn response(self: &Arc<Self>, id: &Id, answer: Answer, extra: Fields) {
        self.spoke.store(true, Ordering::Relaxed);
        let told = id.number().and_then(|id| self.waiters().asked_for(id, &["initialize", "tools/list"]));
        if let Some(method) = told {
            self.memory.learn(method, &answer);
        }
        let answer = match self.era() {
            Era::Legacy => answer,
            Era::Modern => match (modern::shape(answer), id.number()) {
                (Shape::Final(answer), _) => answer,
                (Shape::Interim(interim, answer), Some(sent_as))
                    if self.waiters().passes_rounds(sent_as, &interim) =>
                {
                    answer
                }
                (Shape::Interim(interim, _), Some(sent_as)) => {
                    let next = self.waiters().interim(sent_as, interim);
                    return self.go_on(next).await;
                }
                (Shape::Interim(..), None) => return,
            },
        };
        match id.number().map_or(Whose::Nobody, |id| self.waiters().take(id)) {
            Whose::Open(open) => {
                let answer = match &self.wire {
                    Wire::Lines(_) => answer,
                    Wire::Http(http) => http.learn(&open.method, answer, self.era()),
                };
                let _ = open.reply.send(Reply::Answer(answer, extra));
            }
            Whose::Cancelled(handle) => {
                if let Some(inbox) = self.inbox() {
                    inbox.late_answer(handle);
                }
            }
            Whose::Nobody => {
                tracing::warn!(server = self.server, %id, "an answer to no request of ours; it is ignored");
            }
        }
    }

    /// Does what follows from an interim result, or from the answer to one of its questions.
    async fn go_on(self: &Arc<Self>, next: Next) {
        match next {
            Next::Ask(about, questions) => {
                for question in questions {
                    self.pass_in(Some(about), question).await;
                }
            }
            Next::Again(id) => {
                let again = self.waiters().again(id, self.next_id());
                if let Some(message) = again {
                    self.write(&message).await;
                }
            }
            Next::Failed(open, answer) => drop(open.reply.send(Reply::plain(answer))),
            Next::Wait => {}
            Next::Unknown => tracing::debug!(server = self.server, "nobody waits for this any more"),
        }
    }

    /// Whether the answer of this request has not come yet.
    pub(super) fn waits_for(&self, sent_as: u64) -> bool {
        self.waiters().is_unanswered(sent_as)
    }

    /// No answer will come any more: what became of the request is not known.
    pub(super) fn lose(&self, sent_as: u64, why: &str) {
        self.end_request(sent_as, Reply::Lost(format!("the MCP server `{}` {why}", self.server)));
    }

    /// The request has not reached the server, or the server has not taken it.
    pub(super) fn refuse(&self, sent_as: u64, why: &str) {
        let why = format!("the MCP server `{}` {why}", self.server);
        self.end_request(sent_as, Reply::plain(Answer::Error(message::error(UPSTREAM_GONE, &why))));
    }

    fn end_request(&self, sent_as: u64, reply: Reply) {
        let mut waiters = self.waiters();
        if waiters.is_unanswered(sent_as)
            && let Whose::Open(open) = waiters.take(sent_as)
        {
            let _ = open.reply.send(reply);
        }
    }

    /// A message was too long to be read. The answer is gone, but whoever waits for it is told; if it cannot be found out who
    /// that is, all who wait are.
    pub(super) fn too_long(&self, bytes: usize, max: usize, whose: Option<u64>) {
        let why = format!(
            "the MCP server `{}` sent a message of {bytes} bytes, more than the limit of {max}; raise it with --max-message",
            self.server
        );
        tracing::error!("{why}");
        let mut waiters = self.waiters();
        let whose = whose.filter(|id| waiters.knows(*id));
        for sent_as in whose.map_or_else(|| waiters.sent(), |id| vec![id]) {
            if let Whose::Open(open) = waiters.take(sent_as) {
                let _ = open.reply.send(Reply::plain(Answer::Error(message::error(INTERNAL_ERROR, &why))));
            }
        }
    }

    /// Brings progress under one of our tokens to whom it concerns. Returns whether the token was ours.
    fn progress(&self, params: Option<&Json>) -> bool {
        #[derive(Deserialize, Default)]
        struct Report {
            progress: Option<f64>,
            total: Option<f64>,
            message: Option<String>,
        }
        let Some(params) = params else { return false };
        let Ok(fields) = Fields::parse(params.get()) else { return false };
        let token: Option<String> = fields.read("progressToken");
        let Some(id) = token.and_then(|token| token.strip_prefix(TOKEN_PREFIX)?.parse().ok()) else {
            return false;
        };
        // What does not read is still for whoever waits, word for word.
        let report = serde_json::from_str::<Report>(params.get()).unwrap_or_default();
        if let Some(Open { context: Some(context), signs, .. }) = self.waiters().open(id) {
            signs.progressed();
            context.progress(Progress {
                progress: report.progress.unwrap_or_default(),
                total: report.total,
                message: report.message.map(|message| message.chars().take(MESSAGE_CHARS).collect()),
                verbatim: Some(params.get().into()),
            });
        }
        true
    }
}

/// A call that has become a task of the server: what is said of it is heard as long as this is there.
pub(super) struct Kept {
    connection: Arc<Connection>,
    id: u64,
    task: String,
    wake: Arc<Notify>,
}

impl Kept {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Resolves when the server says that the task has changed.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.connection.waiters().unfollow(self.id, &self.task);
    }
}

/// Tasks of the server.
impl Connection {
    /// Whether a call of this tool is to be a task, as the legacy revision has them.
    pub(crate) fn takes_as_task(&self, tool: &str) -> bool {
        self.era() == Era::Legacy && self.memory.takes_as_task(tool)
    }

    /// Goes on hearing what is said of a call that has become a task, or of a task that was found again.
    pub(super) fn keep(self: &Arc<Self>, call: Option<u64>, task: &str, context: RunContext) -> Kept {
        let id = call.unwrap_or_else(|| self.next_id());
        let wake = self.waiters().follow(id, task, context);
        Kept { connection: self.clone(), id, task: task.to_owned(), wake }
    }

    /// A question of a task: its id, where its answer comes, and how it is passed on.
    pub(super) fn question(
        &self,
        about: u64,
        method: &str,
        params: Option<Json>,
    ) -> (Id, oneshot::Receiver<Answer>, Message) {
        let (id, answer) = self.waiters().question(about, method);
        let method = method.to_owned();
        (id.clone(), answer, Message::Request { id, method, params, extra: Fields::default() })
    }

    pub(super) async fn pass_question(self: &Arc<Self>, about: u64, question: Message) {
        self.pass_in(Some(about), question).await;
    }

    /// Nobody wants to know the answer to this question any more.
    pub(super) async fn withdraw(self: &Arc<Self>, about: u64, question: Id) {
        self.waiters().withdraw(&question);
        let mut fields = Fields::default();
        fields.set("requestId", question.to_json());
        self.pass_in(Some(about), Message::notification(CANCELLED, fields.to_json())).await;
    }
}

/// Taking back.
impl Connection {
    /// Whether a request is taken back by closing the stream of its response.
    fn closes_streams(&self) -> bool {
        matches!(self.wire, Wire::Http(_)) && self.era() == Era::Modern
    }

    /// The client's own words for it, with our id of the request.
    async fn cancel_by(self: &Arc<Self>, params: Option<&Json>) {
        let fields = params.and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
        let Some(id) = fields.get("requestId").and_then(Id::read).and_then(|id| id.number()) else { return };
        self.cancel(id, fields).await;
    }

    /// Tells the server that nobody wants the answer of a request any more, and those whom it asked for its sake.
    async fn cancel(self: &Arc<Self>, id: u64, mut fields: Fields) {
        let cancel = self.waiters().cancel(id);
        let told = |fields: &Fields| Message::notification(CANCELLED, fields.to_json());
        match cancel {
            Cancel::Sent(sent_as) if self.closes_streams() => {
                if let Wire::Http(http) = &self.wire {
                    http.hang_up(sent_as);
                }
                self.lose(sent_as, "was told to stop: its stream was closed");
            }
            Cancel::Sent(sent_as) => {
                fields.set("requestId", to_json(&sent_as));
                self.write(&told(&fields)).await;
            }
            Cancel::Asking(open, questions) => {
                let stopped = message::error(INTERNAL_ERROR, "cancelled while it waited for an answer");
                let _ = open.reply.send(Reply::plain(Answer::Error(stopped)));
                for question in questions {
                    fields.set("requestId", question.to_json());
                    self.pass_in(Some(id), told(&fields)).await;
                }
            }
            Cancel::Gone => {}
        }
    }
}

/// What the client can do that makes a request of the modern era.
fn capabilities_of(params: Option<&Json>) -> Option<Capabilities> {
    crate::modern::meta(params)?.ok().map(|meta| meta.capabilities)
}

/// The parameters of a call with a progress token of ours, whether or not the caller gave one.
fn with_token(params: Json, id: u64) -> Json {
    let Ok(mut call) = Fields::parse(params.get()) else { return params };
    let mut meta: Fields = call.read("_meta").unwrap_or_default();
    meta.set("progressToken", to_json(&format!("{TOKEN_PREFIX}{id}")));
    call.set("_meta", meta.to_json());
    call.to_json()
}

impl Waiting {
    /// Our id of the request.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The connection it went to.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits for the answer, as long as it takes.
    pub async fn reply(mut self) -> Reply {
        self.next_reply().await
    }

    /// As [`Waiting::reply`], for who may give up in between. Not to be called again after it has returned.
    pub async fn next_reply(&mut self) -> Reply {
        match (&mut self.reply).await {
            Ok(reply) => reply,
            Err(_) => self.connection.lost(),
        }
    }

    /// Tells the server that nobody wants the answer any more.
    pub async fn cancel(&self, reason: &str) {
        let mut fields = Fields::default();
        fields.set("requestId", to_json(&self.id));
        fields.set("reason", to_json(reason));
        self.connection.cancel(self.id, fields).await;
    }

    /// Nobody wants the answer any more, whatever it is.
    pub(super) async fn end(self, reason: &str) {
        self.cancel(reason).await;
        self.connection.waiters().forget(self.id);
    }

    /// Whether the server has reported progress after it was told to stop.
    #[must_use]
    pub fn went_on(&self) -> bool {
        self.signs.went_on.load(Ordering::Relaxed)
    }

    /// Gives the request up, but goes on listening for an answer that comes all the same.
    pub fn give_up(self, handle: Handle) {
        self.connection.waiters().give_up(self.id, handle);
    }
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

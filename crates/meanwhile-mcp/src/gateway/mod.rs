//! Joins one client to one server through the job engine.
//!
//! What comes from the client is dispatched here: who asks and what it may do, tools, tasks and subscriptions are ours to look
//! into; all else passes through with nothing but its id and its progress token changed, in the order in which it came. Inside,
//! everything has the shape of the legacy revisions; what a request of the modern era looks for is added where it is answered
//! ([`ReplyTo`]).

mod answering;
mod caller;
mod calls;
mod carried;
mod executor;
mod extras;
mod held;
mod history;
mod lane;
mod ledger;
mod listen;
mod modern;
mod open_call;
mod own_tools;
mod passing;
mod poll;
mod questions;

mod reply;
mod rounds;
mod session;
mod tasks;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use meanwhile_core::artifact::Artifacts;
use meanwhile_core::engine::Settings as EngineSettings;
use meanwhile_core::{Engine, Json, Store};
use tokio::io::AsyncRead;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::caller::Caller;
use self::executor::McpExecutor;
use self::extras::Extras;
use self::held::Held;
use self::history::History;
use self::lane::Lane;
use self::ledger::Ledger;
pub(crate) use self::listen::LISTS;
use self::listen::Listeners;
use self::modern::ModernRequest;
use self::open_call::OpenCall;
use self::passing::Passed;
use self::questions::Questions;
pub use self::reply::{ReplyTo, Streamed};
use self::session::Introduction;
use crate::catalog::Catalog;
use crate::clients::Patience;
use crate::economy::EagerPolls;
use crate::message::{self, Answer, Fields, Id, Incoming, Malformed, Message};
use crate::modern::meta;
use crate::rules::Rules;
use crate::transport::{Line, LineReader, Outbound};
use crate::upstream::{Inbox, Launch, Party, Upstream};

/// How long requests that pass through are still waited for once the client is gone.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// What a gateway is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How the upstream is started. Its name marks its jobs.
    pub launch: Launch,
    /// Who may see the jobs of this gateway.
    pub scope: String,
    /// Faces and limits.
    pub rules: Rules,
    /// The longest that one poll waits; `None` is as long as the client survives, and it is never more.
    pub wait_max: Option<Duration>,
    /// The largest message taken from either side, in bytes.
    pub max_message: usize,
    /// The largest arguments of a call, in bytes.
    pub max_arguments: usize,
    /// How jobs are run.
    pub engine: EngineSettings,
}

/// A client and a server, joined.
pub struct Gateway {
    settings: Settings,
    engine: Arc<Engine>,
    upstream: Arc<Upstream>,
    /// As which it uses the upstream.
    party: Party,
    /// When somebody last wanted something of it.
    used: Mutex<Instant>,
    down: Outbound,
    /// Itself, for what goes on beside a message.
    me: Weak<Gateway>,
    /// The client that has introduced itself by `initialize`.
    client: Mutex<Option<Arc<Caller>>>,
    patience: Mutex<HashMap<String, Patience>>,
    introduction: tokio::sync::Mutex<Option<Arc<Introduction>>>,
    listeners: Listeners,
    ledger: Ledger,
    history: History,
    eager: Mutex<EagerPolls>,
    catalog: Mutex<KnownTools>,
    /// Wakes who waits for the upstream's tools to be known.
    listed: Notify,
    lane: Lane,
    in_flight: Mutex<HashMap<Id, InFlight>>,
    /// The calls that the client waits for no longer, until they have become jobs.
    given_up: Mutex<Vec<Arc<OpenCall>>>,
    questions: Questions,
    held: Held,
    extras: Arc<Extras>,
    requests: TaskTracker,
    /// There is nothing to serve the client with.
    hopeless: CancellationToken,
    /// Whoever listens is to be told that it is over.
    closing: CancellationToken,
    /// The client has made a task of its own dialect.
    uses_tasks: AtomicBool,
}

/// What is known of the upstream's tools.
#[derive(Default)]
struct KnownTools {
    catalog: Option<Arc<Catalog>>,
    /// The upstream has said that they have changed.
    stale: bool,
    /// They are being asked for.
    asking: bool,
}

/// A request of the client that has not been answered.
enum InFlight {
    /// It is handled here.
    Here(Arc<OpenCall>),
    /// It was passed on.
    Passed(Passed),
}

impl Gateway {
    /// A gateway that sends to its client through `down`. Starts bringing the upstream up.
    pub fn start(
        settings: Settings,
        store: Arc<dyn Store>,
        artifacts: Artifacts,
        down: Outbound,
    ) -> Arc<Gateway> {
        let upstream = Upstream::new(settings.launch.clone(), settings.max_message);
        Gateway::start_on(upstream, settings, store, artifacts, down)
    }

    /// The same, on a server that it may share with others.
    pub fn start_on(
        upstream: Arc<Upstream>,
        settings: Settings,
        store: Arc<dyn Store>,
        artifacts: Artifacts,
        down: Outbound,
    ) -> Arc<Gateway> {
        let party = upstream.party();
        let (server, scope) = (settings.launch.name.clone(), settings.scope.clone());
        let ledger = Ledger::new(&*store);
        let extras = Arc::<Extras>::default();
        let executor = Arc::new(McpExecutor::new(upstream.clone(), party, server, scope, extras.clone()));
        let engine = Engine::new(store, artifacts, executor, settings.engine.clone());
        let gateway = Arc::new_cyclic(|me| Gateway {
            me: me.clone(),
            settings,
            engine,
            upstream: upstream.clone(),
            party,
            used: Mutex::new(Instant::now()),
            down,
            client: Mutex::default(),
            patience: Mutex::default(),
            introduction: tokio::sync::Mutex::default(),
            listeners: Listeners::default(),
            ledger,
            history: History::default(),
            eager: Mutex::default(),
            catalog: Mutex::default(),
            listed: Notify::new(),
            lane: Lane::start(),
            in_flight: Mutex::default(),
            given_up: Mutex::default(),
            questions: Questions::default(),
            held: Held::default(),
            extras,
            requests: TaskTracker::new(),
            hopeless: CancellationToken::new(),
            closing: CancellationToken::new(),
            uses_tasks: AtomicBool::new(false),
        });
        let inbox: std::sync::Weak<dyn Inbox> = Arc::downgrade(&(gateway.clone() as Arc<dyn Inbox>));
        upstream.join(party, inbox);
        // Brought up while the client still says who it is. A failure is told to its `initialize`.
        tokio::spawn(async move { upstream.connect().await.map(drop) });
        gateway
    }

    /// Serves the client until its stream ends, or it no longer reads, or it has been told that the upstream never came up.
    ///
    /// # Errors
    /// If its stream fails.
    pub async fn serve(self: &Arc<Self>, from_client: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut lines = LineReader::new(from_client, self.settings.max_message);
        loop {
            let line = tokio::select! {
                biased;
                line = lines.next() => line?,
                () = self.down.closed() => return Ok(()),
                () = self.hopeless.cancelled() => return Ok(()),
            };
            match line {
                Some(line) => self.line(line).await,
                None => return Ok(()),
            }
        }
    }

    /// Tells whoever listens that it is over.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Waits until what the client asked for before it went has been answered; not for ever, for some servers never answer.
    pub async fn answer_the_rest(&self) {
        self.close();
        self.requests.close();
        if tokio::time::timeout(LAST_ANSWERS, self.requests.wait()).await.is_err() {
            let server = &self.settings.launch.name;
            tracing::info!(server, "requests are left unanswered: the client is gone");
        }
        self.save_histories().await;
    }

    /// Whether the upstream could not be started, or ended before its first answer.
    #[must_use]
    pub fn never_came_up(&self) -> bool {
        self.upstream.never_came_up().is_some()
    }

    /// The upstream's configured name.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.settings.launch.name
    }

    /// Whether its upstream never came up, and that of another gateway may now.
    #[must_use]
    pub fn may_be_replaced(&self) -> bool {
        self.upstream.may_be_replaced()
    }

    /// Whether nothing is being done here for anybody.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.is_idle() && self.requests.is_empty() && lock(&self.in_flight).is_empty()
    }

    /// Whether no job of this process runs or waits in its queue.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.engine.is_idle()
    }

    /// Takes up nothing more of what other processes left.
    pub async fn retire(&self) {
        self.engine.retire().await;
    }

    /// Waits until every job of this process has ended.
    pub async fn drain(&self) {
        self.engine.drain().await;
    }

    /// Ends every job of this process now.
    pub async fn interrupt(&self) {
        self.engine.interrupt().await;
    }

    /// Ends the upstream, unless others share it.
    pub async fn stop_upstream(&self) {
        self.upstream.leave(self.party).await;
    }

    /// Somebody wants something of it.
    pub fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    /// Whether nobody has wanted anything of it for so long, and nothing is being done.
    #[must_use]
    pub fn is_left_alone(&self, idle: Duration) -> bool {
        lock(&self.used).elapsed() >= idle && self.is_quiet()
    }

    /// Ends the process of the upstream if it is left alone for so long; the next request starts it again.
    pub async fn rest(&self, idle: Duration) {
        self.upstream.rest(|| self.is_left_alone(idle)).await;
    }

    async fn line(self: &Arc<Self>, line: Line<'_>) {
        let why = match line {
            Line::Text(text) => match message::parse(text) {
                Ok(Incoming::One(message)) => {
                    return self.receive_message(message, ReplyTo::client(&self.down)).await;
                }
                Ok(Incoming::Batch(parts)) if self.takes_batches() => return self.batch(parts).await,
                Ok(Incoming::Batch(_)) => malformed("batches exist only in revision 2025-03-26"),
                Err(malformed) => malformed,
            },
            Line::NotText => malformed("a message must be UTF-8"),
            Line::TooLong { bytes, head, tail } => Malformed {
                id: message::id_at_ends(&head, &tail).map(Id::from),
                ..malformed(&format!(
                    "a message of {bytes} bytes is more than the limit of {}; raise it with --max-message",
                    self.settings.max_message
                ))
            },
        };
        tracing::warn!(%why, "a line of the client is no message");
        self.down.send(why.to_line()).await;
    }

    async fn batch(self: &Arc<Self>, parts: Vec<Result<Message, Malformed>>) {
        let replies = ReplyTo::batch(&self.down);
        for part in parts {
            match part {
                Ok(message) => self.receive_message(message, replies.clone()).await,
                Err(malformed) => replies.send_line(malformed.to_line()).await,
            }
        }
    }

    /// Takes one message of the client. What it asks for is answered through `reply`.
    pub async fn receive_message(self: &Arc<Self>, message: Message, reply: ReplyTo) {
        self.touch();
        match message {
            Message::Request { id, method, params, extra } => match meta(params.as_ref()) {
                None => self.legacy_request(id, method, params, extra, reply).await,
                Some(Ok(meta)) => {
                    let caller = Arc::new(Caller::modern(meta));
                    self.modern_request(ModernRequest { caller, id, method, params, extra }, reply).await;
                }
                Some(Err(error)) => reply.send(id, Answer::Error(error)).await,
            },
            Message::Notification { method, params, extra } => self.notification(method, params, extra).await,
            Message::Response { id, answer, extra } => self.client_answered(&id, answer, extra).await,
        }
    }

    async fn legacy_request(
        self: &Arc<Self>,
        id: Id,
        method: String,
        params: Option<Json>,
        extra: Fields,
        reply: ReplyTo,
    ) {
        if method == "initialize" {
            return self.initialize(id, params, reply).await;
        }
        let caller = self.legacy_client().unwrap_or_else(|| Arc::new(Caller::unknown()));
        match method.as_str() {
            "tools/list" => self.list_tools(caller, id, params, reply).await,
            "tools/call" => self.call_tool(caller, id, params, extra, reply).await,
            "tasks/get" | "tasks/result" | "tasks/list" | "tasks/cancel"
                if caller.revision.has_core_tasks() =>
            {
                self.core_task_request(caller, id, method, params, reply).await;
            }
            _ => self.pass_request(caller, id, method, params, extra, reply).await,
        }
    }

    /// Whether the client has made tasks of its own dialect, on whose streams it then expects what belongs to them.
    fn uses_tasks(&self) -> bool {
        self.uses_tasks.load(Ordering::Relaxed)
    }

    fn takes_batches(&self) -> bool {
        self.legacy_client().is_some_and(|client| client.revision.has_batches())
    }
}

fn malformed(why: &str) -> Malformed {
    Malformed { id: None, code: message::INVALID_REQUEST, message: why.to_owned() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

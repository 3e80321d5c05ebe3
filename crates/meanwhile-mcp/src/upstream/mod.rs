//! The server behind us: a process that is started at need, spoken to over its stdin and stdout, and started again, with
//! growing pauses, when it has died.

mod connection;
mod process;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use meanwhile_core::{Handle, Json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::connection::{Connection, Reply, Waiting};
pub use self::process::Launch;

use crate::message::{Answer, Fields, Id, Message};

/// The first pause before a dead server is started again; it doubles with each start that fails.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A server that lived this long had started well.
const LIVED_WELL: Duration = Duration::from_secs(10);
/// How long a server that was started again may take to initialize. It has done so before, for a client that waited.
const INITIALIZE_AGAIN: Duration = Duration::from_secs(60);
/// How many resource subscriptions are renewed after a restart.
const SUBSCRIPTIONS_MAX: usize = 1000;

/// Why there is no server to speak to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// The command could not be run.
    #[error("cannot start the MCP server `{command}`: {reason}; check the command after `--`")]
    Start {
        /// The program.
        command: String,
        /// What the system said.
        reason: String,
    },
    /// It started, and did not come as far as answering `initialize`.
    #[error("the MCP server `{command}` did not initialize: {reason}")]
    Initialize {
        /// The program.
        command: String,
        /// What happened.
        reason: String,
    },
    /// It was there, and went before it answered.
    #[error("{reason} before it answered; run its command by hand to see why")]
    Lost {
        /// How it went.
        reason: String,
    },
}

/// Who hears what a server says of its own accord.
#[async_trait::async_trait]
pub trait Inbox: Send + Sync + 'static {
    /// A request or a notification, in the order in which it came; `about` is our request that it belongs to, where the
    /// transport tells. A request is answered by [`Connection::answer`].
    async fn receive(&self, from: &Arc<Connection>, about: Option<u64>, message: Message);

    /// The answer of a call that had been cancelled: the work had not been stopped.
    fn late_answer(&self, handle: Handle);
}

/// What a new process of the same server must be told before it can take the place of the old one.
#[derive(Debug, Default)]
struct Replay {
    initialize: Option<Json>,
    initialized: Option<Message>,
    log_level: Option<Json>,
    subscriptions: Vec<Json>,
}

/// One server, whichever process it is at the moment.
pub struct Upstream {
    launch: Launch,
    max_message: usize,
    inbox: OnceLock<Weak<dyn Inbox>>,
    current: Mutex<Option<Arc<Connection>>>,
    starting: tokio::sync::Mutex<Backoff>,
    replay: Mutex<Replay>,
    stopped: CancellationToken,
    /// Whether it has ever answered anything.
    spoke: Arc<AtomicBool>,
    /// Why it never came up.
    failed: OnceLock<UpstreamError>,
}

#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    started: Option<Instant>,
}

impl Upstream {
    /// A server that is not running yet. Messages of more than `max_message` bytes from it are refused.
    #[must_use]
    pub fn new(launch: Launch, max_message: usize) -> Arc<Upstream> {
        Arc::new(Upstream {
            launch,
            max_message,
            inbox: OnceLock::new(),
            current: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            replay: Mutex::default(),
            stopped: CancellationToken::new(),
            spoke: Arc::default(),
            failed: OnceLock::new(),
        })
    }

    /// Names who hears what the server says of its own accord. Once, before the first connection.
    pub fn set_inbox(&self, inbox: Weak<dyn Inbox>) {
        let _ = self.inbox.set(inbox);
    }

    /// The running server, or a new process of it, which then has been told all that the old one knew.
    ///
    /// # Errors
    /// [`UpstreamError`], if it cannot be brought up. The next call tries again, unless it [never came up](Self::never_came_up).
    pub async fn connect(self: &Arc<Self>) -> Result<Arc<Connection>, UpstreamError> {
        if let Some(connection) = self.running() {
            return Ok(connection);
        }
        // In a task of its own: whoever gives up waiting must not leave a process behind that nobody knows of.
        let upstream = self.clone();
        let brought_up = tokio::spawn(async move { upstream.bring_up().await });
        brought_up.await.unwrap_or_else(|_| Err(self.ended()))
    }

    async fn bring_up(&self) -> Result<Arc<Connection>, UpstreamError> {
        let mut backoff = self.starting.lock().await;
        if let Some(connection) = self.running() {
            return Ok(connection);
        }
        if let Some(error) = self.never_came_up() {
            return Err(error);
        }
        self.pause(&mut backoff).await;
        if self.stopped.is_cancelled() {
            return Err(self.ended());
        }
        backoff.started = Some(Instant::now());
        let started = self.start().await;
        match &started {
            Ok(connection) => *self.current() = Some(connection.clone()),
            Err(error) if self.spoke.load(Ordering::Relaxed) => {
                backoff.failures += 1;
                tracing::error!("{error}");
            }
            Err(error) => self.fail(error.clone()),
        }
        started
    }

    /// Why the server never came up, if it did not: it could not be started, or it ended before its first answer. That is
    /// for its user to mend, and it is not tried again.
    #[must_use]
    pub fn never_came_up(&self) -> Option<UpstreamError> {
        if !self.spoke.load(Ordering::Relaxed) && !self.stopped.is_cancelled() {
            let ended = self.current().as_ref().and_then(|connection| connection.end().map(str::to_owned));
            if let Some(reason) = ended {
                self.fail(UpstreamError::Lost { reason });
            }
        }
        self.failed.get().cloned()
    }

    fn fail(&self, error: UpstreamError) {
        if self.failed.set(error.clone()).is_ok() {
            tracing::error!("{error}");
        }
    }

    fn ended(&self) -> UpstreamError {
        let reason = "this gateway is ending".to_owned();
        UpstreamError::Start { command: self.launch.program.clone(), reason }
    }

    /// The running server, if there is one.
    #[must_use]
    pub fn running(&self) -> Option<Arc<Connection>> {
        self.current().as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    /// Ends the server for good: its stdin is closed, then it is asked, then made to go.
    pub async fn stop(&self) {
        self.stopped.cancel();
        // One that is just being started is ended where it is started.
        let _started = self.starting.lock().await;
        let connection = self.current().take();
        if let Some(connection) = connection {
            connection.stop().await;
        }
    }

    /// Introduces us with these parameters of an `initialize`, and returns what the server says of itself, as the result of one.
    ///
    /// # Errors
    /// If the server cannot be brought up, or is lost before it answers.
    pub async fn initialize(self: &Arc<Self>, params: Json) -> Result<Answer, UpstreamError> {
        let connection = self.connect().await?;
        let answer = connection.request("initialize", Some(params.clone())).await.reply().await.answer()?;
        if matches!(answer, Answer::Result(_)) {
            self.remember_initialize(Some(params));
        }
        Ok(answer)
    }

    /// Remembers with what the server was initialized, for its later processes.
    pub fn remember_initialize(&self, params: Option<Json>) {
        self.replay().initialize = params;
    }

    /// Whether the client has declared the server initialized.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.replay().initialized.is_some()
    }

    /// Remembers what the client has told the server and a later process must know too.
    pub fn remember(&self, message: &Message) {
        let mut replay = self.replay();
        match message {
            Message::Notification { method, .. } if method == "notifications/initialized" => {
                replay.initialized = Some(message.clone());
            }
            Message::Request { method, params: Some(params), .. } => match method.as_str() {
                "logging/setLevel" => replay.log_level = Some(params.clone()),
                "resources/subscribe" if replay.subscriptions.len() < SUBSCRIPTIONS_MAX => {
                    replay.subscriptions.push(params.clone());
                }
                "resources/unsubscribe" => {
                    let uri = |params: &Json| Fields::parse(params.get()).ok()?.read::<String>("uri");
                    let gone = uri(params);
                    replay.subscriptions.retain(|held| uri(held) != gone);
                }
                _ => {}
            },
            _ => {}
        }
    }

    async fn pause(&self, backoff: &mut Backoff) {
        let Some(started) = backoff.started else { return };
        if self.current().take().is_some() {
            backoff.failures = if started.elapsed() > LIVED_WELL { 0 } else { backoff.failures + 1 };
        }
        if backoff.failures == 0 {
            return;
        }
        let pause = BACKOFF_FIRST.saturating_mul(1 << (backoff.failures - 1).min(16)).min(BACKOFF_MAX);
        tracing::info!(server = self.launch.name, ?pause, "the MCP server is started again after a pause");
        tokio::select! {
            () = tokio::time::sleep(pause.saturating_sub(started.elapsed())) => {}
            () = self.stopped.cancelled() => {}
        }
    }

    async fn start(&self) -> Result<Arc<Connection>, UpstreamError> {
        let child = self.launch.spawn()?;
        let inbox = self.inbox.get().cloned();
        let connection =
            Connection::start(child, &self.launch.name, self.max_message, inbox, self.spoke.clone());
        let (initialize, rest) = self.replay().messages();
        let Some(initialize) = initialize else { return Ok(connection) };
        let mut waiting = connection.request("initialize", Some(initialize)).await;
        let reply = tokio::select! {
            reply = waiting.next_reply() => reply,
            () = self.stopped.cancelled() => Reply::Lost("this gateway is ending".to_owned()),
            () = tokio::time::sleep(INITIALIZE_AGAIN) => Reply::Lost(format!("no answer in {INITIALIZE_AGAIN:?}")),
        };
        match reply {
            Reply::Answer(Answer::Result(_), _) => {}
            Reply::Answer(Answer::Error(error), _) => {
                connection.stop().await;
                let reason = format!("it answered {}", error.get());
                return Err(UpstreamError::Initialize { command: self.launch.name.clone(), reason });
            }
            Reply::Lost(reason) => {
                connection.stop().await;
                return Err(UpstreamError::Initialize { command: self.launch.name.clone(), reason });
            }
        }
        for message in rest {
            connection.replay(message).await;
        }
        Ok(connection)
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replay(&self) -> std::sync::MutexGuard<'_, Replay> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replay {
    fn messages(&self) -> (Option<Json>, Vec<Message>) {
        let request = |method: &str, params: &Json| Message::Request {
            id: Id::from(0),
            method: method.to_owned(),
            params: Some(params.clone()),
            extra: Fields::default(),
        };
        let mut rest: Vec<Message> = self.initialized.iter().cloned().collect();
        rest.extend(self.log_level.iter().map(|params| request("logging/setLevel", params)));
        rest.extend(self.subscriptions.iter().map(|params| request("resources/subscribe", params)));
        (self.initialize.clone(), rest)
    }
}

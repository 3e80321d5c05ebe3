//! The server behind us: a process that is started at need and started again, with growing pauses, when it has died, or a
//! server elsewhere. Whatever it speaks, it is spoken to in the shapes of the last legacy revision.

mod connection;
mod follow;
pub mod http;
mod launch;
mod listen;
mod memory;
mod modern;
mod parties;
mod probe;
mod process;
mod tasks;
#[cfg(test)]
pub(crate) mod testing;
mod waiters;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use meanwhile_core::{Handle, Json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::connection::{Connection, Reply, Round, Waiting};
pub(crate) use self::follow::Follower;
pub use self::http::Login;
pub use self::launch::{Launch, Target};
pub use self::parties::Party;
pub(crate) use self::tasks::Task;

use self::connection::Common;
use self::memory::{Memory, with_elicitation};
use self::modern::Discovered;
use self::parties::Parties;
use self::probe::{Found, probe};
use self::process::Program;
use crate::message::{Answer, Fields, Message};
use crate::revision::Era;

/// The first pause before a dead server is started again; it doubles with each start that fails.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A server that lived this long had started well.
const LIVED_WELL: Duration = Duration::from_secs(10);
/// How long a server that was started again may take to initialize. It has done so before, for a client that waited.
const INITIALIZE_AGAIN: Duration = Duration::from_secs(60);

/// Why there is no server to speak to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// It is not started any more.
    #[error("this gateway is ending")]
    Ending,
    /// The command could not be run.
    #[error("cannot start the MCP server `{command}`: {reason}; check its command")]
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
    /// It is a server elsewhere, and is not there.
    #[error("cannot reach the MCP server `{server}`: {reason}")]
    Unreachable {
        /// Its name.
        server: String,
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

    /// Whether the question that these parameters of a `notifications/cancelled` name was put to it.
    fn has_question(&self, from: &Arc<Connection>, params: Option<&Json>) -> bool;

    /// The answer of a call that had been cancelled: the work had not been stopped.
    fn late_answer(&self, handle: Handle);
}

/// One server, whichever process it is at the moment.
pub struct Upstream {
    launch: Launch,
    max_message: usize,
    parties: Arc<Parties>,
    current: Mutex<Option<Arc<Connection>>>,
    starting: tokio::sync::Mutex<Backoff>,
    memory: Arc<Memory>,
    /// What it has answered to `initialize`.
    introduced: tokio::sync::Mutex<Option<Json>>,
    /// Subscriptions, and levels of log messages, reach the server in the order in which they are remembered.
    subscribing: tokio::sync::Mutex<()>,
    /// Of which era the server has shown to be.
    era: Mutex<Option<Era>>,
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
        Upstream::used_by(Parties::new(false), launch, max_message)
    }

    /// The same, for several gateways to share.
    #[must_use]
    pub fn shared(launch: Launch, max_message: usize) -> Arc<Upstream> {
        Upstream::used_by(Parties::new(true), launch, max_message)
    }

    fn used_by(parties: Parties, launch: Launch, max_message: usize) -> Arc<Upstream> {
        let era = launch.era();
        Arc::new(Upstream {
            launch,
            max_message,
            parties: Arc::new(parties),
            introduced: tokio::sync::Mutex::default(),
            subscribing: tokio::sync::Mutex::default(),
            current: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            memory: Arc::new(Memory::new()),
            era: Mutex::new(era),
            stopped: CancellationToken::new(),
            spoke: Arc::default(),
            failed: OnceLock::new(),
        })
    }

    /// A name for one who is to use the server.
    #[must_use]
    pub fn party(&self) -> Party {
        self.parties.name()
    }

    /// From now on `party` hears what the server says of its own accord.
    pub fn join(&self, party: Party, inbox: Weak<dyn Inbox>) {
        self.parties.join(party, inbox);
    }

    /// A party needs the server no longer. If it is not shared that is its end.
    pub async fn leave(&self, party: Party) {
        if !self.parties.is_shared() {
            return self.stop().await;
        }
        let _in_turn = self.subscribing.lock().await;
        self.parties.leave(party);
        for (method, params) in self.memory.forget(party) {
            if let Some(connection) = self.running() {
                drop(connection.request(method, Some(params)).await);
            }
        }
    }

    /// Ends the server until somebody asks it something, unless it is to tell of a resource. `may_rest` is asked again when
    /// whoever comes has to wait.
    pub async fn rest(&self, may_rest: impl Fn() -> bool + Send) {
        let may_rest = || self.is_initialized() && !self.memory.is_subscribed() && may_rest();
        if self.running().is_none() || !may_rest() {
            return;
        }
        let mut backoff = self.starting.lock().await;
        let Some(connection) = self.current().take() else { return };
        if !may_rest() {
            *self.current() = Some(connection);
            return;
        }
        *backoff = Backoff::default();
        tracing::info!(
            server = self.launch.name,
            "nobody asks the server anything; it rests until somebody does"
        );
        connection.stop().await;
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
        brought_up.await.unwrap_or_else(|_| Err(UpstreamError::Ending))
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
            return Err(UpstreamError::Ending);
        }
        backoff.started = Some(Instant::now());
        let started = self.start().await;
        match &started {
            Ok(connection) => *self.current() = Some(connection.clone()),
            Err(UpstreamError::Ending) => {}
            // A server elsewhere may be there later.
            Err(error) if self.spoke.load(Ordering::Relaxed) || self.launch.is_remote() => {
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
        let may_come = self.spoke.load(Ordering::Relaxed) || self.launch.is_remote();
        if !may_come && !self.stopped.is_cancelled() {
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

    /// Introduces the client, with the parameters of its `initialize`, and returns what a legacy server would answer. A modern one
    /// is not told: it hears who asks with each request. That is done once; whoever introduces another client later gets what was
    /// answered then.
    ///
    /// # Errors
    /// [`UpstreamError`], if there is no server, or it went before it answered.
    pub async fn initialize(self: &Arc<Self>, params: Json) -> Result<Answer, UpstreamError> {
        let mut known = self.introduced.lock().await;
        if let Some(result) = &*known {
            return Ok(Answer::Result(result.clone()));
        }
        let introduced = self.introduce(params).await?;
        let answer = self.introduced(introduced).await?;
        if let Answer::Result(result) = &answer {
            *known = Some(result.clone());
        }
        Ok(answer)
    }

    /// The first half of [`Upstream::initialize`]: when it returns, what comes after will reach the server after it.
    ///
    /// # Errors
    /// If there is no server.
    pub async fn introduce(self: &Arc<Self>, params: Json) -> Result<Introduced, UpstreamError> {
        let connection = self.connect().await?;
        if let Some(discovered) = connection.discovered() {
            self.memory.initialize_with(params);
            let result = discovered.to_initialize_result(&self.launch.name);
            return Ok(Introduced(Introduction::Known(Answer::Result(result))));
        }
        let params = with_elicitation(params);
        let waiting = connection.request("initialize", Some(params.clone())).await;
        Ok(Introduced(Introduction::Asked(waiting, params)))
    }

    /// The second half.
    ///
    /// # Errors
    /// If the server went before it answered.
    pub async fn introduced(&self, introduced: Introduced) -> Result<Answer, UpstreamError> {
        match introduced.0 {
            Introduction::Known(answer) => Ok(answer),
            Introduction::Asked(waiting, params) => {
                let connection = waiting.connection().clone();
                let answer = waiting.reply().await.answer()?;
                if matches!(answer, Answer::Result(_)) {
                    *self.era() = Some(Era::Legacy);
                    self.launch.shows_legacy(true);
                    connection.late.forget();
                    self.memory.initialize_with(params);
                } else if self.is_modern_after_all(&connection).await {
                    self.memory.initialize_with(params);
                    let discovered = connection.discovered();
                    let result = discovered.map(|said| said.to_initialize_result(&self.launch.name));
                    return Ok(result.map_or(answer, Answer::Result));
                } else {
                    self.launch.shows_legacy(false);
                    *self.era() = self.launch.era();
                    if self.launch.is_remote() {
                        // Perhaps it was not itself; it is asked again who it is.
                        connection.stop().await;
                    }
                }
                Ok(answer)
            }
        }
    }

    /// Whether it runs by itself, and so goes on when we end.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.launch.is_remote()
    }

    /// Whether the client has declared the server initialized.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.memory.is_initialized()
    }

    /// Whether it is known to be a modern server.
    pub(crate) fn is_modern(&self) -> bool {
        *self.era() == Some(Era::Modern)
    }

    /// Remembers what a client has told the server and a later process must know too. Returns whether the server is to be told.
    pub fn remember(&self, party: Party, message: &Message) -> bool {
        self.memory.remember(party, message)
    }

    /// From which severity on `party` has said to want log messages.
    pub(crate) fn wants_logs_from(&self, party: Party) -> Option<usize> {
        self.memory.wants_logs_from(party)
    }

    /// Whether it concerns a party that this resource has changed: of those who share a server, only whoever is subscribed to it.
    pub(crate) fn follows(&self, party: Party, resource: &str) -> bool {
        !self.parties.is_shared() || self.memory.follows(party, resource)
    }

    /// Whether a log message of this level is for `party`. Who has a server alone hears all that it says.
    pub(crate) fn hears(&self, party: Party, level: &str) -> bool {
        !self.parties.is_shared() || self.memory.hears(party, level)
    }

    /// Passes a request of `party` on. `None` if the server is not asked, for another party wants to hear what this one no longer
    /// does. `is_sent_as` hears our id of the request before the server can say anything about it.
    pub(crate) async fn pass(
        &self,
        to: &Arc<Connection>,
        party: Party,
        method: &str,
        params: Option<Json>,
        extra: Fields,
        is_sent_as: impl FnOnce(u64),
    ) -> Option<Waiting> {
        let sets_level = method == "logging/setLevel";
        let is_of_all = sets_level || matches!(method, "resources/subscribe" | "resources/unsubscribe");
        let _in_turn = if is_of_all { Some(self.subscribing.lock().await) } else { None };
        let is_asked = self.memory.remember_request(Some(party), method, params.as_ref());
        if !is_asked {
            return None;
        }
        let params = if sets_level { self.memory.level_for_all(params) } else { params };
        Some(to.forward(party, method, params, extra, is_sent_as).await)
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
        let connection = self.reach()?;
        let known = *self.era();
        let found = match known {
            Some(Era::Legacy) => Found::Legacy,
            known => match probe(&connection, &self.stopped).await {
                // Its verdict is known; if it does not say so again it is asked all the same.
                Found::Legacy if known.is_some() => Found::Modern(Discovered::default()),
                found => found,
            },
        };
        match found {
            Found::Modern(discovered) => {
                self.found_modern(&connection, discovered);
                Ok(connection)
            }
            Found::Legacy => self.introduce_again(connection).await,
            Found::Gone(_) if self.stopped.is_cancelled() => {
                connection.stop().await;
                Err(UpstreamError::Ending)
            }
            Found::Gone(reason) if self.launch.is_remote() => {
                connection.stop().await;
                Err(UpstreamError::Unreachable { server: self.launch.name.clone(), reason })
            }
            // It may have gone because of the question. That it is a legacy one is known once it has been initialized.
            Found::Gone(_) => self.introduce_again(self.reach()?).await,
        }
    }

    fn found_modern(&self, connection: &Arc<Connection>, discovered: Discovered) {
        *self.era() = Some(Era::Modern);
        connection.be_modern(discovered);
        tokio::spawn(listen::hold(connection.clone()));
    }

    /// Whether a server that has refused `initialize` was only slow to say that it is a modern one.
    async fn is_modern_after_all(&self, connection: &Arc<Connection>) -> bool {
        let Some(discovered) = connection.late.word().await else { return false };
        tracing::info!(server = self.launch.name, "the MCP server is of the modern era after all");
        self.found_modern(connection, discovered);
        true
    }

    fn reach(&self) -> Result<Arc<Connection>, UpstreamError> {
        let common =
            Common { memory: self.memory.clone(), parties: self.parties.clone(), spoke: self.spoke.clone() };
        match &self.launch.target {
            Target::Process { program, args, env, cwd } => {
                let program = Program { name: &self.launch.name, program, args, env, cwd: cwd.as_ref() };
                program.connect(self.max_message, common)
            }
            Target::Remote { url, headers, legacy_sse, login } => {
                let (name, login) = (&self.launch.name, login.as_ref());
                http::connect(name, url, headers, login, *legacy_sse, self.max_message, common)
            }
        }
    }

    /// Tells a legacy server what the process before it was told.
    async fn introduce_again(&self, connection: Arc<Connection>) -> Result<Arc<Connection>, UpstreamError> {
        let Some((initialize, rest)) = self.memory.replay() else { return Ok(connection) };
        let mut waiting = connection.request("initialize", Some(initialize)).await;
        let reply = tokio::select! {
            reply = waiting.next_reply() => reply,
            () = self.stopped.cancelled() => Reply::Lost("this gateway is ending".to_owned()),
            () = tokio::time::sleep(INITIALIZE_AGAIN) => Reply::Lost(format!("no answer in {INITIALIZE_AGAIN:?}")),
        };
        let reason = match reply {
            Reply::Answer(Answer::Result(_), _) => {
                connection.late.forget();
                for message in rest {
                    connection.replay(message).await;
                }
                return Ok(connection);
            }
            Reply::Answer(Answer::Error(_), _) if self.is_modern_after_all(&connection).await => {
                return Ok(connection);
            }
            Reply::Answer(Answer::Error(error), _) => format!("it answered {}", error.get()),
            Reply::Round(_) => "it asks something".to_owned(),
            Reply::Lost(reason) => reason,
        };
        connection.stop().await;
        Err(UpstreamError::Initialize { command: self.launch.name.clone(), reason })
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn era(&self) -> std::sync::MutexGuard<'_, Option<Era>> {
        self.era.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An `initialize` that is under way.
#[derive(Debug)]
pub struct Introduced(Introduction);

#[derive(Debug)]
enum Introduction {
    Known(Answer),
    Asked(Waiting, Json),
}

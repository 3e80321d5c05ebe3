//! The server behind us: a process that is started at need and started again, with growing pauses, when it has died, or a
//! server elsewhere. Whatever it speaks, it is spoken to in the shapes of the last legacy revision.

mod connection;
mod follow;
pub mod http;
mod introduction;
mod launch;
mod lifecycle;
mod listen;
mod memory;
mod modern;
mod parties;
mod probe;
mod process;
mod record;
mod tasks;
#[cfg(test)]
pub(crate) mod testing;
mod waiters;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use meanwhile_core::{Handle, Json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::connection::{Connection, Reply, Round, Waiting};
pub(crate) use self::follow::Follower;
pub use self::http::Login;
pub use self::launch::{Launch, Target};
pub use self::parties::Party;
pub(crate) use self::tasks::Task;

use self::lifecycle::Life;
use self::memory::Memory;
use self::parties::Parties;
use self::probe::Verdict;
use crate::message::{Fields, Id, Message};
use crate::revision::Era;

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
    #[error("the MCP server `{server}` cannot be reached: {reason}")]
    Unreachable {
        /// Its name.
        server: String,
        /// What happened.
        reason: String,
    },
    /// It has just failed, and is left alone for a while.
    #[error("{why}; it is tried again in {seconds} s")]
    HeldOff {
        /// How it failed.
        why: String,
        /// How long that is.
        seconds: u64,
    },
    /// It was not reached, or has not taken what it was asked.
    #[error("{reason}")]
    Refused {
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

    /// Whose it is. Those of one scope are one user.
    fn scope(&self) -> &str;

    /// A question of which it cannot be told whose call it is about: nobody is asked it.
    async fn decline(&self, from: &Arc<Connection>, id: Id, method: &str);

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
    starting: tokio::sync::Mutex<Life>,
    memory: Arc<Memory>,
    /// What it has answered to `initialize`.
    introduced: tokio::sync::Mutex<Option<Json>>,
    /// Subscriptions, and levels of log messages, reach the server in the order in which they are remembered.
    subscribing: tokio::sync::Mutex<()>,
    verdict: Mutex<Verdict>,
    stopped: CancellationToken,
    /// Whether it has ever answered anything.
    spoke: Arc<AtomicBool>,
    /// When it was started first.
    began: OnceLock<Instant>,
    /// Why it never came up.
    failed: OnceLock<UpstreamError>,
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
        let verdict = launch.verdict();
        Arc::new(Upstream {
            launch,
            max_message,
            parties: Arc::new(parties),
            introduced: tokio::sync::Mutex::default(),
            subscribing: tokio::sync::Mutex::default(),
            current: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            memory: Arc::new(Memory::new()),
            verdict: Mutex::new(verdict),
            stopped: CancellationToken::new(),
            spoke: Arc::default(),
            began: OnceLock::new(),
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
        *self.verdict() == Verdict::Known(Era::Modern)
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
}

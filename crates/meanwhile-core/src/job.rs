//! What is known about a job.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Json;
use crate::clock::{Moment, Timestamp};
use crate::handle::Handle;

/// Where a job stands. On the wire `queued` and `paused` show as `working` with a status message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for its turn.
    Queued,
    /// Held back on request, before its turn.
    Paused,
    /// An attempt runs.
    Working,
    /// An attempt runs, and waits for answers to what it asked ([`Job::open`]).
    InputRequired,
    /// The tool answered; also when the answer says that something went wrong.
    Completed,
    /// There is no answer; [`Failure`] says why.
    Failed,
    /// Cancelled on request.
    Cancelled,
}

impl Status {
    /// Every status, in the order of a job's life.
    pub const ALL: [Status; 7] = [
        Status::Queued,
        Status::Paused,
        Status::Working,
        Status::InputRequired,
        Status::Completed,
        Status::Failed,
        Status::Cancelled,
    ];

    /// Every status that is not terminal.
    pub const UNFINISHED: [Status; 4] =
        [Status::Queued, Status::Paused, Status::Working, Status::InputRequired];

    /// Whether the job has ended: a terminal status never changes again.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled)
    }

    /// The name, as it is stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Paused => "paused",
            Status::Working => "working",
            Status::InputRequired => "input_required",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    /// The status with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// What is to be run, and for whom.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who may see the job: principal and workspace.
    pub scope: String,
    /// The upstream's configured name.
    pub server: String,
    /// The tool's name.
    pub tool: String,
    /// What the executor is given, word for word.
    pub request: Json,
    /// Equal keys in one scope are the same call: while the first is unfinished, a repeat joins it. `None` never joins.
    pub join_key: Option<String>,
    /// The client's own id of this very call: a retry with the same one joins its job, also after the end, until the
    /// result expires. `None` never joins that way.
    pub retry_key: Option<String>,
    /// The conversation that the call is part of, where the client says so.
    pub conversation: Option<String>,
}

/// How a call may be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Running it a second time does no harm: an attempt that was lost may be repeated.
    pub rerun: bool,
    /// How long an attempt may take; `None` is as long as it takes.
    pub timeout: Option<Duration>,
    /// How long a result is kept, counted from the end.
    pub ttl: Duration,
}

/// A peer's name: one per process, never reused.
pub type Peer = String;

/// The latest that a tool said about how far it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// How far.
    pub progress: f64,
    /// How far it is to go, if the tool knows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub total: Option<f64>,
    /// What it is doing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// The report word for word, for whoever waits right now. It is not stored.
    #[serde(skip)]
    pub verbatim: Option<Arc<str>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The upstream refused or broke off with an error of the protocol.
    Error,
    /// The worker died, and whether the work was done is not known.
    Interrupted,
    /// The call's own time limit ran out.
    TimedOut,
}

/// Why there is no answer, in words and, where the upstream gave one, as its own error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// The kind.
    pub kind: FailureKind,
    /// In words.
    pub message: String,
    /// The upstream's error object, word for word.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Json>,
}

/// A peer's timed claim on a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it; empty if it was let go.
    pub peer: Peer,
    /// When it runs out, by the steady clock ([`Moment::steady`]): no jump of the wall clock breaks it.
    pub until: Timestamp,
}

impl Lease {
    /// The longest that a lease holds without being renewed.
    pub const MAX: Duration = Duration::from_secs(24 * 3600);

    /// A claim of `peer` from `now` on, for `wanted` or [`Lease::MAX`], whichever is shorter.
    #[must_use]
    pub fn new(peer: Peer, wanted: Duration, now: Moment) -> Lease {
        Lease { peer, until: now.steady.after(wanted.min(Lease::MAX)) }
    }

    /// Whether it has run out.
    #[must_use]
    pub fn is_over(&self, now: Moment) -> bool {
        self.until <= now.steady
    }
}

/// Where the answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerInfo {
    /// Size in bytes of JSON text.
    pub bytes: u64,
    /// The artifact that holds it, if it is too large for the store's row.
    pub artifact: Option<String>,
}

/// What a tool asked while it ran, and what it was told. Nobody here knows what either means.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its name, never used again in the life of its job.
    pub key: String,
    /// What was asked, word for word.
    pub question: Json,
    /// What it was told, word for word; `None` while the question is open, and if it was withdrawn.
    pub answer: Option<Json>,
    /// The attempt that asked.
    pub attempt: u64,
}

impl Input {
    /// How many questions a job may ask in its life.
    pub const COUNT_MAX: u32 = 100;

    /// The largest question, and the largest answer to one, in bytes of JSON text.
    pub const BYTES_MAX: usize = 64 * 1024;
}

/// The longest text by which an upstream's own task may be remembered ([`Job::upstream_task`]), in bytes.
pub const UPSTREAM_TASK_MAX: usize = 4096;

/// A job as every face sees it. Its request, its answer and its inputs, which may be large, are read apart
/// ([`crate::Store::request`], [`crate::Store::answer`], [`crate::Store::inputs`]).
#[derive(Debug, Clone)]
pub struct Job {
    /// The public id.
    pub handle: Handle,
    /// Who may see it.
    pub scope: String,
    /// The upstream's configured name.
    pub server: String,
    /// The tool's name.
    pub tool: String,
    /// The conversation that it was started in, where the client said so.
    pub conversation: Option<String>,
    /// How it may be treated.
    pub policy: Policy,
    /// Where it stands.
    pub status: Status,
    /// What is to be said about the status, in one line.
    pub message: Option<String>,
    /// The latest progress of the current attempt.
    pub progress: Option<Progress>,
    /// How many attempts have begun. No operation ever lowers it, so it is the fence as well: only the current attempt may write.
    pub attempt: u64,
    /// Who answers for the job until it has ended.
    pub lease: Option<Lease>,
    /// When somebody asked for it to be cancelled.
    pub cancel_requested_at: Option<Timestamp>,
    /// Where the answer is, once completed.
    pub answer: Option<AnswerInfo>,
    /// Why there is none, once failed.
    pub failure: Option<Failure>,
    /// When it was written down.
    pub created_at: Timestamp,
    /// When the current attempt began.
    pub started_at: Option<Timestamp>,
    /// When anything last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When the agent was told, unasked, that it has ended.
    pub announced_at: Option<Timestamp>,
    /// When the agent took the result.
    pub collected_at: Option<Timestamp>,
    /// When the result goes, counted from the end.
    pub expires_at: Option<Timestamp>,
    /// When it went. What is left is a tombstone.
    pub expired_at: Option<Timestamp>,
    /// How many events its log holds.
    pub events: u32,
    /// How many questions it has asked. No operation ever lowers it, so their keys never come again.
    pub questions: u32,
    /// The keys of the questions that wait for an answer, in the order in which they were asked.
    pub open: Vec<String>,
    /// How its executor finds the work again that goes on at the upstream, whatever becomes of this process. Opaque here, and
    /// never to be shown: it may be all that it takes to get at that work.
    pub upstream_task: Option<String>,
}

impl Job {
    /// Whether it has ended and nobody has collected its result, which is still there.
    #[must_use]
    pub fn is_outstanding(&self) -> bool {
        self.status.is_terminal() && self.collected_at.is_none() && self.expired_at.is_none()
    }

    /// Whether there is something to say to whoever waits for it: it has ended, or it asks. One that is being cancelled asks
    /// nobody any more.
    #[must_use]
    pub fn wants_attention(&self) -> bool {
        let asks = self.status == Status::InputRequired && self.cancel_requested_at.is_none();
        asks || self.status.is_terminal()
    }

    /// Whether a new attempt may follow one that was lost: running it a second time does no harm, or is not what happens,
    /// because its work goes on at the upstream and is only found again there.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        self.policy.rerun || self.upstream_task.is_some()
    }

    /// How long the job has run, or ran: from its start to its end, or to `now`.
    #[must_use]
    pub fn ran_for(&self, now: Timestamp) -> Duration {
        match self.started_at {
            Some(started) => self.finished_at.unwrap_or(now).since(started),
            None => Duration::ZERO,
        }
    }
}

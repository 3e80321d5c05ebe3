//! Where jobs live. The trait speaks in job commands, not in SQL, so that each store uses all of its engine.
//!
//! One suite, [`crate::testing::suite`], says what every store must promise.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::Json;
use crate::changes::Changes;
use crate::clock::{Moment, Timestamp};
use crate::event::{Actor, Event, EventKind};
use crate::handle::Handle;
use crate::history::Durations;
use crate::job::{Call, Input, Job, Lease, Peer, Policy, Status};
use crate::machine::{Entry, Op, Refused};

/// The most jobs that one [`Store::list`] returns.
pub const LIST_MAX: usize = 1000;

/// The places of a queue are counted up to this one: each job that waits is told its own.
pub const AHEAD_MAX: u64 = 100;

/// How long a tombstone stays after its result went, so that for this long `expired` is told from `not_found`.
pub const TOMBSTONE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A job to be written down.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The handle it will have.
    pub handle: Handle,
    /// What is to be run.
    pub call: Call,
    /// How it may be treated.
    pub policy: Policy,
    /// The peer that answers for it.
    pub peer: Peer,
    /// For how long before that peer must renew.
    pub lease: Duration,
    /// `None`: it waits in the queue. `Some`: its attempt began then.
    pub started_at: Option<Timestamp>,
    /// Why earlier attempts were lost, while it was no job yet. They count as its own.
    pub lost: Vec<String>,
    /// The upstream's own task that its attempt is attached to already ([`Op::Attach`]).
    pub upstream_task: Option<String>,
    /// Whether it may join another job instead ([`Store::joinable`]). A call that is running already is too late for that.
    pub joins: bool,
}

impl NewJob {
    /// The job as it is first written, with its first events. For stores.
    #[must_use]
    pub fn written(&self, now: Moment) -> (Job, Vec<Entry>) {
        let NewJob { handle, call, policy, peer, lease, started_at, lost, upstream_task, joins: _ } =
            self.clone();
        let attempt = if started_at.is_some() { lost.len() as u64 + 1 } else { 0 };
        let mut lost = lost.into_iter();
        let mut entries = vec![(Actor::Agent, EventKind::Created)];
        for attempt in 1..=attempt {
            entries.push((Actor::System, EventKind::Started { attempt, peer: peer.clone() }));
            entries.extend(lost.next().map(|reason| (Actor::System, EventKind::Retried { reason })));
        }
        if upstream_task.is_some() {
            entries.push((Actor::System, EventKind::Attached));
        }
        let job = Job {
            handle,
            scope: call.scope,
            server: call.server,
            tool: call.tool,
            conversation: call.conversation,
            policy,
            status: if started_at.is_some() { Status::Working } else { Status::Queued },
            message: None,
            progress: None,
            attempt,
            lease: Some(Lease::new(peer, lease, now)),
            cancel_requested_at: None,
            answer: None,
            failure: None,
            created_at: started_at.unwrap_or(now.wall),
            started_at,
            updated_at: now.wall,
            finished_at: None,
            announced_at: None,
            collected_at: None,
            expires_at: None,
            expired_at: None,
            events: entries.len() as u32,
            questions: 0,
            open: vec![],
            upstream_task,
        };
        (job, entries)
    }
}

/// What [`Store::create`] did.
#[derive(Debug, Clone)]
pub enum Created {
    /// The job is committed.
    New(Job),
    /// The same call has a job already: this is it, and nothing was created.
    Joined(Job),
}

/// A job, read together with its answer.
#[derive(Debug)]
pub struct Snapshot {
    /// The job.
    pub job: Job,
    /// Its answer, if that is kept in its row.
    pub answer: Option<Json>,
}

/// How long a session is kept after it began, or was last said to be in use, and for how long it is known that it was ended.
pub const SESSION_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Of the sessions of one owner those that were kept last stay, so many.
pub const SESSIONS_MAX: usize = 1000;

/// A client's session, as much of it as another process needs to go on with it.
#[derive(Debug, Clone)]
pub struct KeptSession {
    /// Which one it is: a digest of its id, which is a secret of its client.
    pub key: String,
    /// Whose it is.
    pub owner: String,
    /// Where it was begun.
    pub place: String,
    /// How its client introduced itself.
    pub opening: Json,
}

/// How long a letter waits for the process that it is for. It is read within milliseconds where that process is there.
pub const LETTER_LIFE: Duration = Duration::from_secs(60);

/// Of the letters of one session the last ones stay, so many.
pub const LETTERS_MAX: usize = 100;

/// What the client of a session has sent to a process, while another one waits for it.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Greater than that of every letter before.
    pub id: u64,
    /// Whose client sent it ([`KeptSession::key`]).
    pub session: String,
    /// The message.
    pub message: Json,
}

/// Which jobs are wanted, and in which order.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only this scope; `None` is every scope.
    pub scope: Option<String>,
    /// Only these; empty is every status.
    pub statuses: Vec<Status>,
    /// At most this many, and never more than [`LIST_MAX`]. The newest come first.
    pub limit: usize,
    /// Put ended jobs that nobody has collected before all others.
    pub uncollected_first: bool,
    /// Only ended jobs that nobody has collected and that have not expired ([`Job::is_outstanding`]).
    pub uncollected_only: bool,
    /// Only those of them that have not been announced either ([`Op::Announce`]).
    pub unannounced_only: bool,
    /// Only unfinished jobs that this peer answers for; `None` is every job.
    pub peer: Option<Peer>,
    /// Only jobs that were made before this one, to go on with a list; none, if there is no such job.
    pub before: Option<Handle>,
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no such job.
    #[error("there is no job {0}")]
    NotFound(Handle),
    /// The job's state does not allow it; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store itself failed: nothing was changed.
    #[error("the job store at {place} failed: {reason}")]
    Failed {
        /// Which store.
        place: String,
        /// What it said.
        reason: String,
    },
    /// The store was written by a newer Meanwhile.
    #[error(
        "the job store {path} has layout {found}, newer than this program's {known}: upgrade meanwhile, or set MEANWHILE_STATE_DIR to another folder"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i64,
        /// The newest layout that this program knows.
        known: i64,
    },
}

/// Where jobs live. Every method is atomic; a method that returned has made its change durable, except for
/// what [`Op::may_be_lost`], [`Store::renew`], [`Store::learn`], [`Store::keep_session`] and [`Store::leave_letter`], which may be lost
/// with the machine's power.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Writes a job down. If it `joins` and another job is [joinable](Store::joinable), nothing is created: that one is
    /// joined ([`Op::Join`]) and returned.
    async fn create(&self, new: NewJob) -> Result<Created, StoreError>;

    /// The job that a call would join: of this scope, the oldest unfinished one with this join key, or else the newest one
    /// with this retry key, ended or not, whose result has not expired. Changes nothing; [`Op::Join`] then says that it was joined.
    async fn joinable(
        &self,
        scope: &str,
        join_key: Option<&str>,
        retry_key: Option<&str>,
    ) -> Result<Option<Job>, StoreError>;

    /// Does `op` to a job by [`crate::machine::apply`] and returns the job as it then is.
    async fn apply(&self, handle: Handle, op: Op) -> Result<Job, StoreError>;

    /// Prolongs the lease of every unfinished job that `peer` answers for.
    async fn renew(&self, peer: &Peer, lease: Duration) -> Result<(), StoreError>;

    /// The job, or `None` if there never was one.
    async fn job(&self, handle: Handle) -> Result<Option<Job>, StoreError>;

    /// The request of a job, until it expires.
    async fn request(&self, handle: Handle) -> Result<Option<Json>, StoreError>;

    /// The answer of a completed job if it is kept in its row; `None` before it completes, when it is an artifact, and once expired.
    async fn answer(&self, handle: Handle) -> Result<Option<Json>, StoreError>;

    /// The job, and its answer where [`Store::answer`] has one.
    async fn snapshot(&self, handle: Handle) -> Result<Option<Snapshot>, StoreError> {
        let Some(job) = self.job(handle).await? else { return Ok(None) };
        let answer = if job.answer.is_some() { self.answer(handle).await? } else { None };
        Ok(Some(Snapshot { job, answer }))
    }

    /// What a job asked and was told, in the order in which it asked, until its result expires. Which operation writes what is
    /// said by [`crate::machine::written_inputs`].
    async fn inputs(&self, handle: Handle) -> Result<Vec<Input>, StoreError>;

    /// The jobs that fit the query.
    async fn list(&self, query: &Query) -> Result<Vec<Job>, StoreError>;

    /// How many jobs the same peer's queue holds before this one, counted up to [`AHEAD_MAX`]; zero unless it is queued.
    async fn ahead(&self, handle: Handle) -> Result<u64, StoreError>;

    /// At most `limit` events of a job from after `after`, in order. A job that is not there has none.
    async fn events(&self, handle: Handle, after: u32, limit: usize) -> Result<Vec<Event>, StoreError>;

    /// At most `limit` unfinished jobs whose lease has run out.
    async fn abandoned(&self, limit: usize) -> Result<Vec<Job>, StoreError>;

    /// The oldest queued job that `peer` answers for.
    async fn next_queued(&self, peer: &Peer) -> Result<Option<Handle>, StoreError>;

    /// Ends the life of results whose time is over, and forgets jobs whose result went [`TOMBSTONE`] ago, with their
    /// events: at most `limit` of each; and the letters that nobody has taken. Returns the artifacts that no job refers to any more.
    async fn expire(&self, limit: usize) -> Result<Vec<String>, StoreError>;

    /// Whether a job refers to this artifact.
    async fn holds(&self, artifact: &str) -> Result<bool, StoreError>;

    /// How long the calls of a tool took that completed.
    async fn durations(&self, server: &str, tool: &str) -> Result<Durations, StoreError>;

    /// Adds to what is known of a tool's calls: those that never became jobs. Jobs are counted as they
    /// complete.
    async fn learn(&self, server: &str, tool: &str, durations: &Durations) -> Result<(), StoreError>;

    /// Keeps a session for [`SESSION_LIFE`] from now on, so that each process may go on with it. One that has ended stays so.
    async fn keep_session(&self, session: &KeptSession) -> Result<(), StoreError>;

    /// A session that is kept, and has not ended.
    async fn session(&self, key: &str) -> Result<Option<KeptSession>, StoreError>;

    /// Ends a session that is kept. Who subscribes to [`Changes::of_sessions`] is told, in each process.
    async fn end_session(&self, key: &str) -> Result<(), StoreError>;

    /// Which of these sessions have been ended.
    async fn ended_sessions(&self, keys: &[String]) -> Result<Vec<String>, StoreError>;

    /// Leaves a message of a session's client for the process that waits for it, for [`LETTER_LIFE`], and returns its id. Who subscribes
    /// to [`Changes::of_sessions`] is told, in each process.
    async fn leave_letter(&self, session: &str, message: &Json) -> Result<u64, StoreError>;

    /// The letters of these sessions with greater ids than `after`.
    async fn letters(&self, sessions: &[String], after: u64) -> Result<Vec<Letter>, StoreError>;

    /// Forgets a letter: it has been taken, or nobody waits for it.
    async fn forget_letter(&self, id: u64) -> Result<(), StoreError>;

    /// Whether there is anything to read: another process may have made what this one has not touched yet. Touches nothing
    /// itself, and takes microseconds.
    fn is_there(&self) -> bool;

    /// The time by this store's clock.
    fn now(&self) -> Timestamp;

    /// Where this process learns of changes, also of those made by other processes.
    fn changes(&self) -> &Arc<Changes>;
}

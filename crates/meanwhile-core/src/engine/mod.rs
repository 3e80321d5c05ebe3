//! Runs calls, hands slow ones off to durable jobs, and looks after those until they have ended.
//!
//! ```text
//! call ── ends within its budget ──► the answer itself; nothing was written
//!   └──── still going ──► store.create (commit) ──► handle, and see_through() goes on with the same attempt
//! start ─► store.create (commit) ──► handle, and the attempt begins when a slot is free
//! ```
//! The attempt is not restarted by the hand-off: the very same future moves from the caller to the engine.

mod control;
mod durable;
mod input;
mod joins;
mod queue;
mod run;
mod upkeep;
mod wait;

use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::control::{Action, Controlled, control};
pub use self::durable::read_answer;
pub use self::input::{ANSWER_TIMEOUT, Answered, answer};
pub use self::queue::Slots;
pub use self::upkeep::sweep;
pub use self::wait::{Until, wait};

use self::durable::Running;
use self::joins::Joins;
use self::run::{Run, Step};
use crate::Json;
use crate::artifact::Artifacts;
use crate::clock::Timestamp;
use crate::event::Actor;
use crate::executor::{Ask, Attach, Attempt, Executor};
use crate::handle::Handle;
use crate::job::{Call, Failure, FailureKind, Job, Peer, Policy, Progress, UPSTREAM_TASK_MAX};
use crate::machine::Op;
use crate::signal::Signal;
use crate::store::{Created, NewJob, Store, StoreError};

/// How often a call whose worker dies is tried, where running it again is safe.
pub const ATTEMPTS_MAX: u64 = 3;

/// How often one whose work goes on at the upstream is gone on with: finding it again repeats nothing.
pub const ATTACHED_ATTEMPTS_MAX: u64 = 100;

fn attempts_max(is_attached: bool) -> u64 {
    if is_attached { ATTACHED_ATTEMPTS_MAX } else { ATTEMPTS_MAX }
}

/// What an engine is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This process's name among the peers of its store.
    pub peer: Peer,
    /// How many jobs that started as jobs run at once; more wait in the queue.
    pub slots: Slots,
    /// How long this peer's claims hold unless renewed. They are renewed three times as often.
    pub lease: Duration,
    /// How long a tool that asks waits for the answers before it goes without them; `None` is as long as it takes. The usual
    /// is [`ANSWER_TIMEOUT`]. The tool's own time limit goes on meanwhile.
    pub answer_timeout: Option<Duration>,
}

/// What became of a call.
#[derive(Debug)]
pub enum Called {
    /// It ended while the caller waited; nothing was written.
    Ended(Attempt),
    /// It goes on as this job, which is committed.
    Started(Job),
    /// It goes on as this job, beside another job of the same call, which was made while nobody knew yet that either would be
    /// one. Both run.
    Beside(Job, Handle),
    /// The same call is still unfinished: this is its job.
    Joined(Job),
}

/// How the caller of [`Engine::call`] waits for the end.
#[derive(Debug, Clone, Copy)]
pub struct Waited<'a> {
    /// At most so long; `None` is as long as it takes.
    pub budget: Option<Duration>,
    /// Stops the call while it is still waited for.
    pub cancel: &'a Signal,
    /// Makes it a job before its budget is used up.
    pub hand_off: &'a Signal,
    /// Whether it becomes a job as soon as its work is a task of the upstream ([`crate::RunContext::is_a_task`]): the caller has
    /// tasks as well, and no use for waiting.
    pub follows_tasks: bool,
}

/// Runs calls through one executor, on one store.
pub struct Engine {
    store: Arc<dyn Store>,
    artifacts: Artifacts,
    executor: Arc<dyn Executor>,
    settings: Settings,
    dispatcher: Mutex<queue::Dispatcher>,
    /// The unfinished jobs that this process runs, so that a repeat of a call that was handed off joins it.
    joinable: Mutex<Joins>,
    tasks: TaskTracker,
    interrupt: CancellationToken,
    upkeep: OnceLock<()>,
    /// Whether this process may still take up what others left. Held while it does.
    takes_up: tokio::sync::Mutex<bool>,
}

impl Engine {
    /// An engine. It writes nothing, and starts no task, before its first job.
    pub fn new(
        store: Arc<dyn Store>,
        artifacts: Artifacts,
        executor: Arc<dyn Executor>,
        settings: Settings,
    ) -> Arc<Engine> {
        Arc::new(Engine {
            store,
            artifacts,
            executor,
            settings,
            dispatcher: Mutex::default(),
            joinable: Mutex::default(),
            tasks: TaskTracker::new(),
            interrupt: CancellationToken::new(),
            upkeep: OnceLock::new(),
            takes_up: tokio::sync::Mutex::new(true),
        })
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Where large answers are.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Runs a call while the caller waits; what is not done by then goes on as a job.
    ///
    /// `call` says what the job would be. It is asked only when that must be known, for most calls never become one.
    /// `on_progress` sees what the tool reports while the caller waits.
    ///
    /// A call that asks ([`crate::RunContext::ask`]) becomes a job at once if it has a budget.
    ///
    /// If the job cannot be written down there is no handle: the caller then waits as if there were no budget.
    pub async fn call<'a>(
        self: &Arc<Self>,
        request: &Json,
        call: impl Fn() -> &'a Call,
        policy: Policy,
        waited: Waited<'_>,
        mut on_progress: impl FnMut(Progress),
    ) -> Called {
        if self.may_be_joined()
            && let Some(job) = self.joined_here(call()).await
        {
            return Called::Joined(job);
        }
        let mut began = self.store.now();
        let mut run = Run::start(&self.executor, None, request.clone(), policy.timeout, None);
        let mut lost = Vec::new();
        let mut upstream_task = None;
        let mut latest = None;
        let mut hand_off = pin!(waited.is_over());
        let mut can_become_a_job = true;
        loop {
            let ask = tokio::select! {
                biased;
                step = run.next() => match step {
                    Step::Progress(progress) => {
                        latest = Some(progress.clone());
                        on_progress(progress);
                        continue;
                    }
                    Step::Ask(ask) if waited.budget.is_some() && can_become_a_job && !run.is_cancelled() => Some(ask),
                    // Nobody can be asked for what is no job; dropped, the question is declined.
                    Step::Ask(_) | Step::Stir(_) => continue,
                    Step::Attach(attach) => {
                        remember(&mut upstream_task, attach);
                        continue;
                    }
                    Step::Task => {
                        let hands_off = waited.follows_tasks && waited.budget.is_some();
                        if !hands_off || !can_become_a_job || run.is_cancelled() {
                            continue;
                        }
                        None
                    }
                    Step::Ended(Attempt::Lost(reason)) if may_follow(policy, upstream_task.is_some(), lost.len()) => {
                        let Call { server, tool, .. } = call();
                        tracing::warn!(server, tool, reason, "the worker died; the call may be gone on with");
                        lost.push(reason);
                        began = self.store.now();
                        latest = None;
                        let (handle, attached) = (Some(run.handle()), upstream_task.clone());
                        run = Run::start(&self.executor, handle, request.clone(), policy.timeout, attached);
                        continue;
                    }
                    Step::Ended(Attempt::Lost(reason)) => return Called::Ended(Attempt::Failed(interrupted(&reason))),
                    Step::Ended(attempt) => return Called::Ended(attempt),
                },
                () = waited.cancel.raised(), if !run.is_cancelled() => {
                    run.cancel();
                    continue;
                }
                () = &mut hand_off, if can_become_a_job && !run.is_cancelled() => None,
            };
            can_become_a_job = false;
            let call = call();
            let new = self.new_job(run.handle(), call.clone(), policy, Some(began));
            let new = NewJob { lost: lost.clone(), upstream_task: upstream_task.clone(), ..new };
            let changes = self.store.changes().of(run.handle());
            match self.store.create(new).await {
                Ok(Created::New(job) | Created::Joined(job)) => {
                    run.becomes_job();
                    Box::pin(self.write_progress(&job, latest)).await;
                    if waited.cancel.is_raised() {
                        run.cancel();
                    }
                    // Boxed, for most calls never come here.
                    let running = Running { job, run, changes };
                    return Box::pin(self.hand_over(running, call.join_key.as_deref(), ask)).await;
                }
                Err(error) => tracing::error!(%error, server = call.server, tool = call.tool,
                    "the call is slow, or asks, but cannot become a job; it stays a waiting call"),
            }
        }
    }

    /// Leaves a call that has become a job to the engine, and says what to tell its caller: it may ask already.
    async fn hand_over(
        self: &Arc<Self>,
        mut running: Running,
        join_key: Option<&str>,
        ask: Option<Ask>,
    ) -> Called {
        if let Some(ask) = ask
            && let Some(asking) = self.ask(&running.job, &mut running.run, ask).await
        {
            running.job = asking;
        }
        let job = running.job.clone();
        self.look_after(running, join_key, None);
        match self.twin(&job, join_key).await {
            Some(twin) => Called::Beside(job, twin),
            None => Called::Started(job),
        }
    }

    /// Starts a call as a job: it is committed before the tool is called.
    ///
    /// # Errors
    /// If the job cannot be written down; then nothing was started.
    pub async fn start(self: &Arc<Self>, call: Call, policy: Policy) -> Result<Called, StoreError> {
        if self.may_be_joined()
            && let Some(job) = self.joined_here(&call).await
        {
            return Ok(Called::Joined(job));
        }
        let slot = self.free_slot();
        let mut new = self.new_job(Handle::random(), call, policy, slot.is_some().then(|| self.store.now()));
        new.joins = true;
        let changes = self.store.changes().of(new.handle);
        let job = match self.store.create(new.clone()).await? {
            Created::New(job) => job,
            Created::Joined(job) => return Ok(Called::Joined(job)),
        };
        match slot {
            Some(slot) => {
                let run = Run::of_job(&self.executor, &job, new.call.request.clone());
                let running = Running { job: job.clone(), run, changes };
                self.look_after(running, new.call.join_key.as_deref(), Some(slot));
            }
            None => {
                self.remember_join(&job, new.call.join_key.as_deref());
                self.dispatch();
            }
        }
        Ok(Called::Started(job))
    }

    /// Takes up nothing more of what others left; what was just being taken up runs when this returns.
    pub async fn retire(&self) {
        *self.takes_up.lock().await = false;
    }

    /// [Retires](Self::retire), and waits until every job of this process has ended, and nothing waits in its queue. A job that
    /// is held is not waited for; while the store fails, nothing can end.
    pub async fn drain(&self) {
        self.retire().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Lets go of every job of this process now. What another peer may run is left to it: what is queued, and what runs and is
    /// safe to run again. The rest ends: as interrupted, or, if it is held, as cancelled. Returns when that is committed, or
    /// when a store that fails has been given its time.
    pub async fn interrupt(&self) {
        self.interrupt.cancel();
        self.retire().await;
        self.tasks.close();
        self.tasks.wait().await;
        self.leave_waiting().await;
    }

    fn new_job(&self, handle: Handle, call: Call, policy: Policy, started_at: Option<Timestamp>) -> NewJob {
        NewJob {
            handle,
            call,
            policy,
            peer: self.settings.peer.clone(),
            lease: self.settings.lease,
            started_at,
            lost: vec![],
            upstream_task: None,
            joins: false,
        }
    }

    fn joinable(&self) -> std::sync::MutexGuard<'_, Joins> {
        self.joinable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_join(&self, job: &Job, key: Option<&str>) {
        if let Some(key) = key {
            self.joinable().add(&job.scope, key, job.handle);
        }
    }

    fn forget_join(&self, handle: Handle) {
        self.joinable().remove(handle);
    }

    fn may_be_joined(&self) -> bool {
        !self.joinable().is_empty()
    }

    /// The job of this process that the call would repeat. Costs no look at the store unless there is one.
    async fn joined_here(&self, call: &Call) -> Option<Job> {
        let jobs = self.joinable().of(&call.scope, call.join_key.as_deref()?);
        for handle in jobs {
            match self.store.job(handle).await.ok()? {
                Some(job) if !job.status.is_terminal() => return Some(job),
                // It ended without a worker of this process: cancelled in the queue, or settled by another peer.
                _ => self.forget_join(handle),
            }
        }
        None
    }

    /// The unfinished job that a repeat of this one's call would join: an equal call that was handed off before it, in whichever
    /// process. The log of this one then tells of it.
    async fn twin(&self, job: &Job, key: Option<&str>) -> Option<Handle> {
        key?;
        let first = self.store.joinable(&job.scope, key, None).await.ok()??;
        if first.handle == job.handle {
            return None;
        }
        let message = format!("runs beside {}: the same call, made before that was a job", first.handle);
        if let Err(error) = self.store.apply(job.handle, Op::Note { by: Actor::System, message }).await {
            tracing::debug!(handle = %job.handle, %error, "its twin is not noted");
        }
        Some(first.handle)
    }

    /// Whether no job of this process runs, and none waits in its queue.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The time by the store's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.store.now()
    }
}

/// Keeps the upstream's task of a call that is waited for, to be written down with its job.
fn remember(upstream_task: &mut Option<String>, attach: Attach) {
    let Attach { task, kept } = attach;
    if task.len() > UPSTREAM_TASK_MAX {
        tracing::warn!(bytes = task.len(), "too long a text to remember the upstream's task by");
        return;
    }
    *upstream_task = Some(task);
    // Whoever attached may have gone.
    let _ = kept.send(());
}

/// Whether another attempt may follow so many of a call that is waited for, and the one that was just lost.
fn may_follow(policy: Policy, is_attached: bool, lost: usize) -> bool {
    (policy.rerun || is_attached) && (lost as u64) + 1 < attempts_max(is_attached)
}

fn interrupted(reason: &str) -> Failure {
    let message = format!("{reason}; whether the work was done is not known");
    Failure { kind: FailureKind::Interrupted, message, error: None }
}

impl Waited<'_> {
    /// Resolves when the call is no longer to be waited for.
    async fn is_over(&self) {
        tokio::select! {
            () = self.hand_off.raised() => {}
            () = tokio::time::sleep(self.budget.unwrap_or_default()), if self.budget.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests;

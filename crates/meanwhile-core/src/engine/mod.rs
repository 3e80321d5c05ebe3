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
mod queue;
mod run;
mod upkeep;
mod wait;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::control::{Action, Controlled, control};
pub use self::durable::read_answer;
pub use self::upkeep::sweep;
pub use self::wait::{Until, wait};

use self::run::{Run, Step};
use crate::artifact::Artifacts;
use crate::clock::Timestamp;
use crate::executor::{Attempt, Executor};
use crate::handle::Handle;
use crate::job::{Call, Failure, FailureKind, Job, Peer, Policy, Progress};
use crate::store::{Created, NewJob, Store, StoreError};

/// How often a call whose worker dies is tried, where running it again is safe.
pub const ATTEMPTS_MAX: u64 = 3;

/// What an engine is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This process's name among the peers of its store.
    pub peer: Peer,
    /// How many jobs that started as jobs run at once; more wait in the queue.
    pub max_running: usize,
    /// How long this peer's claims hold unless renewed. They are renewed three times as often.
    pub lease: Duration,
}

/// What became of a call.
#[derive(Debug)]
pub enum Called {
    /// It ended while the caller waited; nothing was written.
    Ended(Attempt),
    /// It goes on as this job, which is committed.
    Started(Job),
    /// The same call is still unfinished: this is its job.
    Joined(Job),
}

/// Runs calls through one executor, on one store.
pub struct Engine {
    store: Arc<dyn Store>,
    artifacts: Artifacts,
    executor: Arc<dyn Executor>,
    settings: Settings,
    slots: Arc<Semaphore>,
    dispatcher: Mutex<queue::Dispatcher>,
    /// The unfinished jobs that this process runs, by their scope and join key, the oldest first, so that a repeat of a call
    /// that was handed off joins it.
    joinable: Mutex<HashMap<(String, String), Vec<Handle>>>,
    tasks: TaskTracker,
    interrupt: CancellationToken,
    upkeep: OnceLock<()>,
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
            slots: Arc::new(Semaphore::new(settings.max_running.max(1))),
            settings,
            dispatcher: Mutex::default(),
            joinable: Mutex::default(),
            tasks: TaskTracker::new(),
            interrupt: CancellationToken::new(),
            upkeep: OnceLock::new(),
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

    /// Runs a call while the caller waits, at most for `budget`; what is not done by then goes on as a job.
    /// Without a budget the caller waits as long as it takes.
    ///
    /// `cancel` stops a call that is still being waited for; `hand_off` makes it a job before its budget is used up;
    /// `on_progress` sees what the tool reports until then.
    ///
    /// If the job cannot be written down there is no handle: the caller then waits as if there were no budget.
    pub async fn call(
        self: &Arc<Self>,
        call: Call,
        policy: Policy,
        budget: Option<Duration>,
        cancel: &CancellationToken,
        hand_off: &CancellationToken,
        mut on_progress: impl FnMut(Progress),
    ) -> Called {
        if let Some(job) = self.joined_here(&call).await {
            return Called::Joined(job);
        }
        let mut new = self.new_job(call, policy, Some(self.store.now()));
        let mut run = self.begin(&new);
        let mut latest = None;
        let mut hand_off = Some(Box::pin(used_up(budget, hand_off.clone())));
        loop {
            tokio::select! {
                biased;
                step = run.next() => match step {
                    Step::Progress(progress) => {
                        latest = Some(progress.clone());
                        on_progress(progress);
                    }
                    Step::Ended(Attempt::Lost(reason)) if policy.rerun && (new.lost.len() as u64) + 1 < ATTEMPTS_MAX => {
                        tracing::warn!(tool = new.call.tool, reason, "the worker died; running the call again is safe");
                        new.lost.push(reason);
                        new.started_at = Some(self.store.now());
                        latest = None;
                        run = self.begin(&new);
                    }
                    Step::Ended(Attempt::Lost(reason)) => return Called::Ended(Attempt::Failed(interrupted(&reason))),
                    Step::Ended(attempt) => return Called::Ended(attempt),
                },
                () = cancel.cancelled(), if !run.is_cancelled() => run.cancel(),
                () = until(hand_off.as_mut()), if !run.is_cancelled() => {
                    hand_off = None;
                    match self.store.create(new.clone()).await {
                        Ok(Created::New(job) | Created::Joined(job)) => {
                            self.write_progress(&job, latest).await;
                            if cancel.is_cancelled() {
                                run.cancel();
                            }
                            self.look_after(&job, new.call.join_key.as_deref(), run, None);
                            return Called::Started(job);
                        }
                        Err(error) => tracing::error!(%error, tool = new.call.tool,
                            "the call is slow, but cannot become a job; it stays a waiting call"),
                    }
                }
            }
        }
    }

    /// Starts a call as a job: it is committed before the tool is called.
    ///
    /// # Errors
    /// If the job cannot be written down; then nothing was started.
    pub async fn start(self: &Arc<Self>, call: Call, policy: Policy) -> Result<Called, StoreError> {
        if let Some(job) = self.joined_here(&call).await {
            return Ok(Called::Joined(job));
        }
        let slot = self.free_slot();
        let mut new = self.new_job(call, policy, slot.is_some().then(|| self.store.now()));
        new.joins = true;
        let job = match self.store.create(new.clone()).await? {
            Created::New(job) => job,
            Created::Joined(job) => return Ok(Called::Joined(job)),
        };
        match slot {
            Some(slot) => self.look_after(&job, new.call.join_key.as_deref(), self.begin(&new), Some(slot)),
            None => {
                self.remember_join(&job, new.call.join_key.as_deref());
                self.dispatch();
            }
        }
        Ok(Called::Started(job))
    }

    /// Waits until every job of this process has ended, and nothing waits in its queue. A job that is held is not waited
    /// for; while the store fails, nothing can end.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Lets go of every job of this process now. What another peer may run is left to it: what is queued, and what runs and is
    /// safe to run again. The rest ends: as interrupted, or, if it is held, as cancelled. Returns when that is committed, or
    /// when a store that fails has been given its time.
    pub async fn interrupt(&self) {
        self.interrupt.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.leave_waiting().await;
    }

    fn new_job(&self, call: Call, policy: Policy, started_at: Option<Timestamp>) -> NewJob {
        NewJob {
            handle: Handle::random(),
            call,
            policy,
            peer: self.settings.peer.clone(),
            lease: self.settings.lease,
            started_at,
            lost: vec![],
            joins: false,
        }
    }

    fn begin(&self, new: &NewJob) -> Run {
        Run::start(&self.executor, new.handle, new.call.request.clone(), new.policy.timeout)
    }

    fn joinable(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Vec<Handle>>> {
        self.joinable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_join(&self, job: &Job, key: Option<&str>) {
        if let Some(key) = key {
            self.joinable().entry((job.scope.clone(), key.to_owned())).or_default().push(job.handle);
        }
    }

    fn forget_join(&self, handle: Handle) {
        self.joinable().retain(|_, jobs| {
            jobs.retain(|job| *job != handle);
            !jobs.is_empty()
        });
    }

    /// The job of this process that the call would repeat. Costs no look at the store unless there is one.
    async fn joined_here(&self, call: &Call) -> Option<Job> {
        let key = (call.scope.clone(), call.join_key.clone()?);
        let jobs = self.joinable().get(&key)?.clone();
        for handle in jobs {
            match self.store.job(handle).await.ok()? {
                Some(job) if !job.status.is_terminal() => return Some(job),
                // It ended without a worker of this process: cancelled in the queue, or settled by another peer.
                _ => self.forget_join(handle),
            }
        }
        None
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

fn interrupted(reason: &str) -> Failure {
    let message = format!("{reason}; whether the work was done is not known");
    Failure { kind: FailureKind::Interrupted, message, error: None }
}

/// Resolves when a call is no longer to be waited for.
async fn used_up(budget: Option<Duration>, hand_off: CancellationToken) {
    tokio::select! {
        () = hand_off.cancelled() => {}
        () = tokio::time::sleep(budget.unwrap_or_default()), if budget.is_some() => {}
    }
}

async fn until(end: Option<&mut std::pin::Pin<Box<impl Future<Output = ()>>>>) {
    match end {
        Some(end) => end.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

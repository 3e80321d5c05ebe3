//! What has to be done now and then: renew the leases of this process, settle what dead peers left, and let results go whose
//! time is over. While no job of the store is unfinished there is nothing to do, and nothing wakes up for it, but where there is
//! no store yet.

use std::sync::Arc;
use std::time::Duration;

use super::{Engine, attempts_max};
use crate::artifact::Artifacts;
use crate::job::{Job, Status};
use crate::machine::Op;
use crate::store::{Query, Store, StoreError};

const BATCH: usize = 100;

/// How long a job that a dead peer left, and that may be run again, is kept for a peer that has its server. After that
/// anyone settles it as interrupted.
const ADOPTION: Duration = Duration::from_secs(10 * 60);

/// When to look again.
enum Next {
    After(Duration),
    AtAnyChange,
}

impl Engine {
    /// Starts the upkeep, once; it ends with the engine. The first job does it, and so does a process that is to take up what
    /// others left.
    pub fn keep_up(self: &Arc<Self>) {
        if self.upkeep.set(()).is_err() {
            return;
        }
        let changes = self.store.changes().clone();
        let engine = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                // Subscribed before the look, so that nothing falls between.
                let mut change = changes.of_any();
                let Some(engine) = engine.upgrade().filter(|engine| !engine.interrupt.is_cancelled()) else {
                    break;
                };
                let next = engine.look_around().await;
                drop(engine);
                match next {
                    Next::After(pause) => tokio::time::sleep(pause).await,
                    Next::AtAnyChange => change.changed().await,
                }
            }
        });
    }

    async fn look_around(self: &Arc<Self>) -> Next {
        let soon = self.settings.lease / 3;
        match self.look_after_all().await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "upkeep of the job store failed; it is tried again");
                Next::After(soon)
            }
        }
    }

    async fn look_after_all(self: &Arc<Self>) -> Result<Next, StoreError> {
        if !self.store.is_there() {
            // Nobody is told of it when another process makes it.
            return Ok(Next::After(self.settings.lease / 3));
        }
        let answers_for_jobs = self.renew().await?;
        let takes_up = *self.takes_up.lock().await;
        let left = settle(&*self.store, |job| takes_up && self.executor.serves(job)).await?;
        self.take_up(left).await?;
        expire(&*self.store, &self.artifacts).await?;
        if answers_for_jobs || !self.is_idle() {
            return Ok(Next::After(self.settings.lease / 3));
        }
        let statuses = Status::UNFINISHED.to_vec();
        let unfinished = self.store.list(&Query { statuses, limit: 1, ..Query::default() }).await?;
        // A job may begin here meanwhile, and its lease is then to be renewed in time.
        let soon = Next::After(self.settings.lease / 3);
        Ok(if unfinished.is_empty() { Next::AtAnyChange } else { soon })
    }

    /// Renews the leases of this peer, also of what is only held. Returns whether there are any.
    async fn renew(self: &Arc<Self>) -> Result<bool, StoreError> {
        let waiting = self.waiting().await?;
        if self.is_idle() && waiting.is_empty() {
            return Ok(false);
        }
        self.store.renew(&self.settings.peer, self.settings.lease).await?;
        if waiting.iter().any(|job| job.status == Status::Queued) {
            // Another process may have let it go, and only this one can run it.
            self.dispatch();
        }
        Ok(true)
    }

    /// Goes on with what dead peers left, as far as slots are free; the rest has its turn at a later look.
    async fn take_up(self: &Arc<Self>, left: Vec<Job>) -> Result<(), StoreError> {
        let takes_up = self.takes_up.lock().await;
        for job in left {
            if !*takes_up || self.interrupt.is_cancelled() {
                break;
            }
            let Some(slot) = self.free_slot() else { break };
            if let Some(running) = self.claim(job.handle).await? {
                tracing::info!(handle = %job.handle, server = job.server, tool = job.tool, "took up a job that another process left");
                self.look_after(running, None, Some(slot));
            }
        }
        Ok(())
    }
}

/// Settles jobs whose peer is gone, and lets results go whose time to live is over. For a process that runs no jobs itself.
///
/// # Errors
/// If the store fails; what was done until then stays done.
pub async fn sweep(store: &dyn Store, artifacts: &Artifacts) -> Result<(), StoreError> {
    settle(store, |_| false).await?;
    expire(store, artifacts).await
}

/// Settles jobs whose peer is gone, and returns those that may be run again and that `serves` takes.
async fn settle(store: &dyn Store, serves: impl Fn(&Job) -> bool) -> Result<Vec<Job>, StoreError> {
    let mut left = Vec::new();
    for job in store.abandoned(BATCH).await? {
        if may_run_again(&job) {
            if serves(&job) {
                left.push(job);
                continue;
            }
            if store.now().since(job.updated_at) < ADOPTION {
                continue;
            }
        }
        match store.apply(job.handle, Op::Abandon).await {
            Ok(job) => {
                tracing::info!(handle = %job.handle, server = job.server, tool = job.tool, "settled a job whose process is gone")
            }
            // Its peer came back, or another one was faster.
            Err(StoreError::Refused(_) | StoreError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}

/// Whether an abandoned job could be gone on with: it has never started, running it a second time is safe, or its work goes on at
/// the upstream.
fn may_run_again(job: &Job) -> bool {
    match job.status {
        Status::Queued => job.cancel_requested_at.is_none(),
        Status::Working | Status::InputRequired => {
            let has_attempts = job.attempt < attempts_max(job.upstream_task.is_some());
            job.may_go_on() && job.cancel_requested_at.is_none() && has_attempts
        }
        _ => false,
    }
}

async fn expire(store: &dyn Store, artifacts: &Artifacts) -> Result<(), StoreError> {
    for digest in store.expire(BATCH).await? {
        artifacts.remove(&digest).await;
    }
    for digest in artifacts.leaving().await {
        let is_held = store.holds(&digest).await?;
        artifacts.forget(&digest, is_held).await;
    }
    Ok(())
}

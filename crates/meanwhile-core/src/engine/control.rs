//! Control of a job by whoever may see it, wherever it runs.

use std::sync::Arc;
use std::time::Duration;

use super::run::STOP_GRACE;
use super::{Engine, Until, wait};
use crate::event::Actor;
use crate::handle::Handle;
use crate::job::Job;
use crate::machine::{Op, Refused};
use crate::store::{Store, StoreError};

/// What can be asked of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stop it.
    Cancel,
    /// Hold it in the queue.
    Pause,
    /// Let it go on.
    Resume,
}

/// What came of it.
#[derive(Debug)]
pub enum Controlled {
    /// The job as it now is. A cancelled job may still be `working` if its worker has not said that it stopped.
    Done(Job),
    /// It does not fit the job's state, which is unchanged.
    Refused(Job, Refused),
    /// There is no such job in this scope.
    NotFound,
}

impl Engine {
    /// Does `action` to a job of `scope`. A cancellation is waited for, as long as its worker has to say that it stopped.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn control(
        self: &Arc<Self>,
        scope: &str,
        handle: Handle,
        action: Action,
        by: Actor,
    ) -> Result<Controlled, StoreError> {
        let controlled = control(&*self.store, Some(scope), handle, action, by).await?;
        if action == Action::Resume && matches!(controlled, Controlled::Done(_)) {
            self.dispatch();
        }
        Ok(controlled)
    }
}

/// As [`Engine::control`], from a process that runs no jobs. Without a scope every job is in reach.
///
/// # Errors
/// If the store fails.
pub async fn control(
    store: &dyn Store,
    scope: Option<&str>,
    handle: Handle,
    action: Action,
    by: Actor,
) -> Result<Controlled, StoreError> {
    let Some(job) = store.job(handle).await?.filter(|job| scope.is_none_or(|scope| job.scope == scope))
    else {
        return Ok(Controlled::NotFound);
    };
    let op = match action {
        Action::Cancel => Op::Cancel { by },
        Action::Pause => Op::Pause { by },
        Action::Resume => Op::Resume { by },
    };
    let job = match store.apply(handle, op).await {
        Ok(job) => job,
        Err(StoreError::Refused(why)) => {
            return Ok(Controlled::Refused(store.job(handle).await?.unwrap_or(job), why));
        }
        Err(error) => return Err(error),
    };
    if action != Action::Cancel || job.status.is_terminal() {
        return Ok(Controlled::Done(job));
    }
    // A job that is being cancelled asks for nothing any more, so only its end ends this.
    let patience = STOP_GRACE + Duration::from_secs(1);
    let waited = wait(store, None, &[handle], Until::All, patience).await?;
    Ok(Controlled::Done(waited.into_iter().flatten().next().map_or(job, |seen| seen.job)))
}

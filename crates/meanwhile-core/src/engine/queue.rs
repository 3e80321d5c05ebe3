//! The queue of what starts as a job: in order, as slots fall free.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Engine;
use crate::event::Actor;
use crate::job::{Job, Status};
use crate::machine::Op;
use crate::store::{LIST_MAX, Query, StoreError};

/// How long the queue stands still when the store fails.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Why a job that waits is let go.
const ENDS: &str = "the process that held it in its queue was stopped";

/// So many jobs that started as jobs run at once, of all engines that have a clone of the same slots: those who share a worker.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Semaphore>);

impl Slots {
    /// So many, and at least one.
    #[must_use]
    pub fn new(count: usize) -> Slots {
        Slots(Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS))))
    }
}

/// Whether somebody is handing out slots. It is there only while something waits.
#[derive(Debug, Default)]
pub(super) struct Dispatcher {
    active: bool,
    /// Something was queued since the active one last looked.
    poked: bool,
}

impl Engine {
    /// A slot for a job that need not queue: only while nobody waits for one.
    pub(super) fn free_slot(&self) -> Option<OwnedSemaphorePermit> {
        if self.dispatcher().active {
            return None;
        }
        self.settings.slots.0.clone().try_acquire_owned().ok()
    }

    /// Sees to it that what is queued gets its turn.
    pub(super) fn dispatch(self: &Arc<Self>) {
        let mut dispatcher = self.dispatcher();
        if dispatcher.active {
            dispatcher.poked = true;
            return;
        }
        dispatcher.active = true;
        self.keep_up();
        let engine = self.clone();
        self.tasks.spawn(async move { while engine.hand_out_slots().await {} });
    }

    /// Runs what is queued until nothing is. Returns whether to look again.
    async fn hand_out_slots(self: &Arc<Self>) -> bool {
        loop {
            let slot = tokio::select! {
                biased;
                () = self.interrupt.cancelled() => break,
                slot = self.settings.slots.0.clone().acquire_owned() => slot.expect("the slots are never closed"),
            };
            match self.run_next(slot).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, "the queue stands still; it is tried again");
                    let _ = tokio::time::timeout(RETRY_PAUSE, self.interrupt.cancelled()).await;
                }
            }
        }
        let mut dispatcher = self.dispatcher();
        if std::mem::take(&mut dispatcher.poked) && !self.interrupt.is_cancelled() {
            return true;
        }
        dispatcher.active = false;
        false
    }

    /// Runs the first of the queue. Returns whether there was one.
    async fn run_next(self: &Arc<Self>, slot: OwnedSemaphorePermit) -> Result<bool, StoreError> {
        let Some(next) = self.store.next_queued(&self.settings.peer).await? else { return Ok(false) };
        if let Some(running) = self.claim(next).await? {
            self.look_after(running, None, Some(slot));
        }
        Ok(true)
    }

    /// The jobs of this process that wait for their turn, or are held.
    pub(super) async fn waiting(&self) -> Result<Vec<Job>, StoreError> {
        let statuses = vec![Status::Queued, Status::Paused];
        let peer = Some(self.settings.peer.clone());
        self.store.list(&Query { peer, statuses, limit: LIST_MAX, ..Query::default() }).await
    }

    /// This process ends: what is queued is left to whoever can run it, and what is held is cancelled.
    pub(super) async fn leave_waiting(&self) {
        let waiting = self.waiting().await.unwrap_or_else(|error| {
            tracing::error!(%error, "what waits could not be let go; it is settled once its lease is over");
            vec![]
        });
        for job in waiting {
            let op = match job.status {
                Status::Queued => Op::Release { attempt: job.attempt, reason: ENDS.to_owned() },
                _ => Op::Cancel { by: Actor::System },
            };
            if let Err(error) = self.store.apply(job.handle, op).await {
                tracing::error!(handle = %job.handle, %error, "not let go");
            }
            self.forget_join(job.handle);
        }
    }

    fn dispatcher(&self) -> MutexGuard<'_, Dispatcher> {
        self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

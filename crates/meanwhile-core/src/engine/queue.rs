//! The queue of what starts as a job: in order, as slots fall free.

use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::Engine;
use crate::event::Actor;
use crate::machine::Op;

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
        self.slots.clone().try_acquire_owned().ok()
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
        self.tasks.spawn(async move {
            while engine.hand_out_slots().await {}
        });
    }

    /// Runs what is queued until nothing is. Returns whether to look again.
    async fn hand_out_slots(self: &Arc<Self>) -> bool {
        loop {
            let slot = tokio::select! {
                biased;
                () = self.interrupt.cancelled() => {
                    self.cancel_queue().await;
                    break;
                }
                slot = self.slots.clone().acquire_owned() => slot.expect("the slots are never closed"),
            };
            let next = match self.store.next_queued(&self.settings.peer).await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "the queue cannot be read");
                    break;
                }
            };
            if let Some((job, run)) = self.claim(next).await {
                self.look_after(&job, None, run, None, Some(slot));
            }
        }
        let mut dispatcher = self.dispatcher();
        if std::mem::take(&mut dispatcher.poked) && !self.interrupt.is_cancelled() {
            return true;
        }
        dispatcher.active = false;
        false
    }

    async fn cancel_queue(&self) {
        while let Ok(Some(next)) = self.store.next_queued(&self.settings.peer).await {
            if self.store.apply(next, Op::Cancel { by: Actor::System }).await.is_err() {
                break;
            }
            self.forget_join(next);
        }
    }

    fn dispatcher(&self) -> MutexGuard<'_, Dispatcher> {
        self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

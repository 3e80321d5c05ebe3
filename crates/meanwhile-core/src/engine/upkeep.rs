//! What has to be done now and then while this process answers for jobs: renew its leases, settle what dead peers left,
//! let results go whose time is over.

use std::sync::Arc;

use super::Engine;
use crate::artifact::Artifacts;
use crate::job::Status;
use crate::machine::Op;
use crate::store::{Store, StoreError};

const BATCH: usize = 100;

impl Engine {
    /// Starts the upkeep with the first job. It ends with the engine.
    pub(super) fn keep_up(self: &Arc<Self>) {
        if self.upkeep.set(()).is_err() {
            return;
        }
        let pause = self.settings.lease / 3;
        let engine = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(engine) = engine.upgrade() {
                if let Err(error) = engine.renew().await {
                    tracing::warn!(%error, "leases were not renewed; it is tried again");
                }
                if let Err(error) = sweep(&*engine.store, &engine.artifacts).await {
                    tracing::warn!(%error, "upkeep of the job store failed; it is tried again");
                }
                drop(engine);
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// Renews the leases of this peer, also of what is only held.
    async fn renew(self: &Arc<Self>) -> Result<(), StoreError> {
        let waiting = self.waiting().await?;
        if self.is_idle() && waiting.is_empty() {
            return Ok(());
        }
        self.store.renew(&self.settings.peer, self.settings.lease).await?;
        if waiting.iter().any(|job| job.status == Status::Queued) {
            // Another process may have let it go, and only this one can run it.
            self.dispatch();
        }
        Ok(())
    }
}

/// Settles jobs whose peer is gone, and lets results go whose time to live is over.
///
/// # Errors
/// If the store fails; what was done until then stays done.
pub async fn sweep(store: &dyn Store, artifacts: &Artifacts) -> Result<(), StoreError> {
    for job in store.abandoned(BATCH).await? {
        match store.apply(job.handle, Op::Abandon).await {
            Ok(job) => {
                tracing::info!(handle = %job.handle, tool = job.tool, "settled a job whose process is gone")
            }
            // Its peer came back, or another one was faster.
            Err(StoreError::Refused(_) | StoreError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    for digest in store.expire(BATCH).await? {
        artifacts.remove(&digest).await;
    }
    Ok(())
}

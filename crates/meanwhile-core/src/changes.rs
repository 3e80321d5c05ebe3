//! How a wait learns that a job has changed, without polling.
//!
//! A store publishes after its commit, never before; whoever waits subscribes first and reads then, so that no change
//! falls between. A change says only *that* something happened: what is true is read from the store.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::handle::Handle;

/// The subscriptions of one process to the jobs of one store.
#[derive(Debug)]
pub struct Changes {
    jobs: Mutex<HashMap<Handle, watch::Sender<()>>>,
    any: watch::Sender<()>,
    sessions: watch::Sender<()>,
}

impl Default for Changes {
    fn default() -> Self {
        Changes { jobs: Mutex::default(), any: watch::Sender::new(()), sessions: watch::Sender::new(()) }
    }
}

/// One subscription. It remembers a change that comes while nobody is waiting on it.
#[derive(Debug)]
pub struct Subscription(watch::Receiver<()>);

impl Subscription {
    /// Waits for the next change after the last one that was seen here.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The store is gone; whoever waits is ended by their own deadline.
            std::future::pending::<()>().await;
        }
    }

    /// Whether there was a change after the last one that was seen here; it counts as seen then. For what is only kept
    /// until something changes.
    pub fn take_change(&mut self) -> bool {
        let has_changed = self.0.has_changed().unwrap_or(false);
        if has_changed {
            self.0.mark_unchanged();
        }
        has_changed
    }
}

impl Changes {
    /// Subscribes to one job. The subscription costs memory only while it is held.
    pub fn of(&self, handle: Handle) -> Subscription {
        let mut jobs = self.lock();
        if jobs.len() >= 64 && jobs.len().is_power_of_two() {
            jobs.retain(|_, sender| !sender.is_closed());
        }
        Subscription(jobs.entry(handle).or_insert_with(|| watch::Sender::new(())).subscribe())
    }

    /// Subscribes to every job.
    pub fn of_any(&self) -> Subscription {
        Subscription(self.any.subscribe())
    }

    /// Says that there is a new job. For stores: only after it is committed. Whoever is about to write it down and subscribes
    /// to it before hears only of what happens to it then.
    pub fn publish_new(&self) {
        self.any.send_replace(());
    }

    /// Subscribes to the ends of sessions ([`crate::Store::end_session`]), and to their letters ([`crate::Store::leave_letter`]).
    pub fn of_sessions(&self) -> Subscription {
        Subscription(self.sessions.subscribe())
    }

    /// Says that a session has been ended, or that there is a letter. For stores: only after that is committed.
    pub fn publish_session(&self) {
        self.sessions.send_replace(());
    }

    /// Says that a job has changed. For stores: only after the change is committed.
    pub fn publish(&self, handle: Handle) {
        let mut jobs = self.lock();
        if let Some(sender) = jobs.get(&handle)
            && sender.send(()).is_err()
        {
            jobs.remove(&handle);
        }
        drop(jobs);
        self.any.send_replace(());
    }

    /// Says that anything may have changed: another process has written.
    pub fn publish_all(&self) {
        self.lock().retain(|_, sender| sender.send(()).is_ok());
        self.any.send_replace(());
        self.publish_session();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Handle, watch::Sender<()>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

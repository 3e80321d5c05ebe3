//! Waiting for jobs: bounded, and over the moment they have ended, or ask, whoever ended them.

use std::time::Duration;

use crate::handle::Handle;
use crate::job::Job;
use crate::store::{Snapshot, Store, StoreError};

/// What a wait for several jobs is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// One of them has ended, or asks ([`Job::wants_attention`]).
    Any,
    /// All of them have, or do.
    All,
}

/// Waits until the jobs have ended or ask for input, at most for `patience`, and returns them as they then are, in the order of `handles`,
/// with what they answered.
/// A job that does not exist in `scope` is `None`, and is not waited for.
///
/// # Errors
/// If the store cannot be read.
pub async fn wait(
    store: &dyn Store,
    scope: Option<&str>,
    handles: &[Handle],
    until: Until,
    patience: Duration,
) -> Result<Vec<Option<Snapshot>>, StoreError> {
    // Subscribed before the first look, so that nothing falls between.
    let mut subscriptions: Vec<_> = handles.iter().map(|handle| store.changes().of(*handle)).collect();
    let deadline = tokio::time::sleep(patience);
    tokio::pin!(deadline);
    loop {
        let jobs = look(store, scope, handles).await?;
        if patience.is_zero() || is_over(&jobs, until) {
            return Ok(jobs);
        }
        tokio::select! {
            biased;
            () = any_change(&mut subscriptions) => {}
            () = &mut deadline => return look(store, scope, handles).await,
        }
    }
}

async fn look(
    store: &dyn Store,
    scope: Option<&str>,
    handles: &[Handle],
) -> Result<Vec<Option<Snapshot>>, StoreError> {
    let mut jobs = Vec::with_capacity(handles.len());
    for handle in handles {
        let seen = store.snapshot(*handle).await?;
        jobs.push(seen.filter(|seen| scope.is_none_or(|scope| seen.job.scope == scope)));
    }
    Ok(jobs)
}

fn is_over(jobs: &[Option<Snapshot>], until: Until) -> bool {
    let mut known = jobs.iter().flatten().map(|seen| &seen.job).peekable();
    if known.peek().is_none() {
        return true;
    }
    match until {
        Until::Any => known.any(Job::wants_attention),
        Until::All => known.all(Job::wants_attention),
    }
}

async fn any_change(subscriptions: &mut [crate::changes::Subscription]) {
    let mut changes: Vec<_> = subscriptions.iter_mut().map(|one| Box::pin(one.changed())).collect();
    std::future::poll_fn(|context| {
        let woken = changes.iter_mut().any(|change| change.as_mut().poll(context).is_ready());
        if woken { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

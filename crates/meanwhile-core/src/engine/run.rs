//! One attempt while it runs, whoever waits for it: first the caller itself, then, once handed off, the engine.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::Json;
use crate::executor::{Attempt, Executor, RunContext};
use crate::handle::Handle;
use crate::job::{Failure, FailureKind, Progress};

/// How long an attempt that was told to stop may take to say so.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);

pub(super) struct Run {
    attempt: Pin<Box<dyn Future<Output = Attempt> + Send>>,
    reports: mpsc::Receiver<Progress>,
    cancel: CancellationToken,
    limit: Option<(Duration, Pin<Box<Sleep>>)>,
    timed_out: bool,
    grace: Option<Pin<Box<Sleep>>>,
}

pub(super) enum Step {
    Progress(Progress),
    Ended(Attempt),
}

impl Run {
    pub(super) fn start(
        executor: &Arc<dyn Executor>,
        handle: Handle,
        request: Json,
        timeout: Option<Duration>,
    ) -> Run {
        let cancel = CancellationToken::new();
        let (context, reports) = RunContext::new(handle, cancel.clone());
        let attempt = executor.clone().run(request, context);
        let limit = timeout.map(|after| (after, Box::pin(tokio::time::sleep(after))));
        Run { attempt, reports, cancel, limit, timed_out: false, grace: None }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.grace.is_some()
    }

    /// Tells the work to stop; the end still comes from [`Run::next`].
    pub(super) fn cancel(&mut self) {
        if self.grace.is_none() {
            self.cancel.cancel();
            self.grace = Some(Box::pin(tokio::time::sleep(STOP_GRACE)));
        }
    }

    /// What happens next. Not to be called again after the end.
    pub(super) async fn next(&mut self) -> Step {
        loop {
            tokio::select! {
                biased;
                Some(progress) = self.reports.recv() => return Step::Progress(progress),
                attempt = &mut self.attempt => return Step::Ended(self.judge(attempt)),
                () = expired(self.limit.as_mut().map(|(_, limit)| limit)), if !self.timed_out => {
                    self.timed_out = true;
                    self.cancel();
                }
                () = expired(self.grace.as_mut()) => {
                    let nothing = "told to stop, and gave no sign that it did".to_owned();
                    return Step::Ended(self.judge(Attempt::Stopped(nothing)));
                }
            }
        }
    }

    /// An attempt that was stopped because its time ran out has failed, it was not cancelled. An answer that came all the same counts.
    fn judge(&self, attempt: Attempt) -> Attempt {
        match (attempt, &self.limit) {
            (Attempt::Stopped(known), Some((after, _))) if self.timed_out => {
                let message = format!("timed out after {after:?}, its configured limit: {known}");
                Attempt::Failed(Failure { kind: FailureKind::TimedOut, message, error: None })
            }
            (attempt, _) => attempt,
        }
    }

}

async fn expired(timer: Option<&mut Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

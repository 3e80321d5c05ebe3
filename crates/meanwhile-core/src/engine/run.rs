//! One attempt while it runs, whoever waits for it: first the caller itself, then, once handed off, the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Sleep;

use super::input::{OpenAsks, Stir};
use crate::Json;
use crate::executor::{Ask, Attach, Attempt, Executor, RunContext, Wish, Word};
use crate::handle::Handle;
use crate::job::{Failure, FailureKind, Job, Progress};

/// How long an attempt that was told to stop may take to say so.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);

pub(super) struct Run {
    attempt: Pin<Box<dyn Future<Output = Attempt> + Send>>,
    /// How the attempt ended, while reports from before its end are still to be heard.
    ended: Option<Attempt>,
    context: RunContext,
    /// What the attempt asked and still waits for.
    pub(super) asks: OpenAsks,
    limit: Option<(Duration, Pin<Box<Sleep>>)>,
    timed_out: bool,
    grace: Option<Pin<Box<Sleep>>>,
}

pub(super) enum Step {
    Progress(Progress),
    /// It asks.
    Ask(Ask),
    /// Its work goes on at the upstream.
    Attach(Attach),
    /// Its work is a task of the upstream.
    Task,
    /// Something is to be done about what it asked.
    Stir(Stir),
    Ended(Attempt),
}

impl Run {
    pub(super) fn start(
        executor: &Arc<dyn Executor>,
        handle: Option<Handle>,
        request: Json,
        timeout: Option<Duration>,
        attached: Option<String>,
    ) -> Run {
        let context = RunContext::new(handle, attached);
        let attempt = executor.clone().run(request, context.clone());
        let limit = timeout.map(|after| (after, Box::pin(tokio::time::sleep(after))));
        let asks = OpenAsks::default();
        Run { attempt, ended: None, context, asks, limit, timed_out: false, grace: None }
    }

    /// As [`Run::start`], of a call that is committed as a job.
    pub(super) fn of_job(executor: &Arc<dyn Executor>, job: &Job, request: Json) -> Run {
        let attached = job.upstream_task.clone();
        let run = Run::start(executor, Some(job.handle), request, job.policy.timeout, attached);
        run.becomes_job();
        run
    }

    /// The call is committed as a job.
    pub(super) fn becomes_job(&self) {
        self.context.becomes_job();
    }

    pub(super) fn handle(&self) -> Handle {
        self.context.handle()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.grace.is_some()
    }

    /// Tells the work to stop; the end still comes from [`Run::next`].
    pub(super) fn cancel(&mut self) {
        if self.grace.is_none() {
            self.context.stop();
            self.grace = Some(Box::pin(tokio::time::sleep(STOP_GRACE)));
        }
    }

    /// What happens next. Not to be called again after the end.
    pub(super) async fn next(&mut self) -> Step {
        loop {
            if let Some(ended) = self.ended.take() {
                return self.last_step(ended);
            }
            tokio::select! {
                biased;
                word = self.context.word() => return match word {
                    Word::Progress(progress) => Step::Progress(progress),
                    Word::Wish(Wish::Ask(ask)) => Step::Ask(ask),
                    Word::Wish(Wish::Attach(attach)) => Step::Attach(attach),
                    Word::Wish(Wish::Task) => Step::Task,
                },
                stir = self.asks.stir() => return Step::Stir(stir),
                attempt = end_of(&mut self.attempt) => self.ended = Some(attempt),
                () = expired(self.limit.as_mut().map(|(_, limit)| limit)), if self.grace.is_none() => {
                    self.timed_out = true;
                    self.cancel();
                }
                () = expired(self.grace.as_mut()) => {
                    self.ended = Some(Attempt::Stopped("told to stop, and gave no sign that it did".to_owned()));
                }
            }
        }
    }

    /// The end, or first a report from before it that has not been heard yet.
    fn last_step(&mut self, ended: Attempt) -> Step {
        match self.context.heard() {
            Some(progress) => {
                self.ended = Some(ended);
                Step::Progress(progress)
            }
            None => Step::Ended(self.judge(ended)),
        }
    }

    /// How the attempt ended, in view of what was asked of it. One that was stopped because its time ran out has failed, it
    /// was not cancelled; one that was lost after it was told to stop is not to run again. An answer that came all the same counts.
    fn judge(&self, attempt: Attempt) -> Attempt {
        let known = match attempt {
            Attempt::Stopped(known) => known,
            Attempt::Lost(reason) if self.is_cancelled() => {
                format!("told to stop, and lost its worker: {reason}")
            }
            other => return other,
        };
        match &self.limit {
            Some((after, _)) if self.timed_out => {
                let message = format!("timed out after {after:?}, its configured limit: {known}");
                Attempt::Failed(Failure { kind: FailureKind::TimedOut, message, error: None })
            }
            _ => Attempt::Stopped(known),
        }
    }
}

impl Drop for Run {
    /// The executor may still hold its context, and nobody would ever hear it.
    fn drop(&mut self) {
        self.context.close();
    }
}

/// A worker that panics is lost, and its job is not lost with it.
async fn end_of(attempt: &mut Pin<Box<dyn Future<Output = Attempt> + Send>>) -> Attempt {
    std::future::poll_fn(|context| {
        // What panicked is not polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| attempt.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Attempt::Lost("its worker panicked".to_owned())))
    })
    .await
}

async fn expired(timer: Option<&mut Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

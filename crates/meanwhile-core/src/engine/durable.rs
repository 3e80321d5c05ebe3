//! A job once it is committed: its attempts are seen through to an end, and every end is committed under the fence.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::input::Stir;
use super::run::{Run, Step};
use super::{Engine, attempts_max, interrupted};
use crate::Json;
use crate::artifact::{Artifacts, ROW_MAX};
use crate::changes::Subscription;
use crate::executor::Attempt;
use crate::handle::Handle;
use crate::job::{AnswerInfo, Failure, FailureKind, Job, Progress, Status};
use crate::machine::{Op, Outcome};
use crate::store::{Store, StoreError};

/// Progress is written at most this often, and more rarely the longer the job runs: a log stays readable, and bounded.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);
const PROGRESS_SHARE: u32 = 200;

/// The pauses, in milliseconds, after which the end of a job is offered again to a store that fails; the last one again and
/// again, unless the process is to stop.
const COMMIT_PAUSES: [u64; 7] = [50, 200, 500, 1000, 2000, 5000, 10_000];
const LAST_COMMIT_PAUSE: u64 = 30_000;

/// What is known of a job whose process ends before it.
pub(super) const STOPPED: &str = "the process that ran it was stopped";

/// A committed job whose attempt runs here.
pub(super) struct Running {
    pub(super) job: Job,
    pub(super) run: Run,
    /// What others do to the job, from before it was written that it runs: nothing falls between.
    pub(super) changes: Subscription,
}

impl Engine {
    /// Takes over a job: until its end, in a task of its own.
    pub(super) fn look_after(
        self: &Arc<Self>,
        running: Running,
        join_key: Option<&str>,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        self.remember_join(&running.job, join_key);
        self.keep_up();
        let engine = self.clone();
        self.tasks.spawn(async move {
            engine.see_through(running).await;
            drop(slot);
        });
    }

    async fn see_through(self: &Arc<Self>, running: Running) {
        let Running { mut job, mut run, mut changes } = running;
        loop {
            let ended = match self.see_attempt(&mut job, run, &mut changes).await {
                Some(attempt) => self.settle(&job, attempt).await,
                None => self.leave(&job).await,
            };
            if ended.is_none_or(|ended| ended.status != Status::Queued) || self.interrupt.is_cancelled() {
                break;
            }
            // It may be gone on with, and the machine has put it back: this process goes on with it.
            match self.claim(job.handle).await {
                Ok(Some(claimed)) => Running { job, run, changes } = claimed,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(handle = %job.handle, %error, "not started again yet; it waits in the queue");
                    self.dispatch();
                    break;
                }
            }
        }
        self.forget_join(job.handle);
    }

    /// Begins the next attempt of a queued job; `None` if it is no longer ours to run.
    pub(super) async fn claim(&self, handle: Handle) -> Result<Option<Running>, StoreError> {
        let changes = self.store.changes().of(handle);
        // Read before the claim: a job that was claimed must run.
        let Some(request) = self.store.request(handle).await? else { return Ok(None) };
        let op = Op::Claim { peer: self.settings.peer.clone(), lease: self.settings.lease };
        let job = match self.store.apply(handle, op).await {
            Ok(job) => job,
            Err(StoreError::Refused(why)) => {
                tracing::debug!(%handle, %why, "not started");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let run = Run::of_job(&self.executor, &job, request);
        Ok(Some(Running { job, run, changes }))
    }

    /// How the attempt ended; `None` if this process is to end before it.
    async fn see_attempt(&self, job: &mut Job, mut run: Run, changes: &mut Subscription) -> Option<Attempt> {
        let began = Instant::now();
        let mut pending: Option<Progress> = None;
        let mut write_at = began;
        loop {
            tokio::select! {
                biased;
                step = run.next() => match step {
                    Step::Progress(progress) => pending = Some(progress),
                    Step::Ask(ask) => {
                        self.ask(job, &mut run, ask).await;
                    }
                    Step::Attach(attach) => self.attach(job, attach).await,
                    // It is a job already.
                    Step::Task => {}
                    Step::Stir(Stir::Withdraw(keys, by)) => self.withdraw(job, &mut run, keys, by).await,
                    Step::Stir(Stir::LookAgain) => self.look_at(job, &mut run).await,
                    Step::Ended(attempt) => {
                        self.write_progress(job, pending.take()).await;
                        return Some(attempt);
                    }
                },
                () = self.interrupt.cancelled() => {
                    // What goes on at the upstream is left to whoever finds it again.
                    if job.upstream_task.is_none() {
                        run.cancel();
                    }
                    return None;
                }
                () = tokio::time::sleep_until(write_at), if pending.is_some() => {
                    self.write_progress(job, pending.take()).await;
                    write_at = Instant::now() + PROGRESS_PAUSE.max(began.elapsed() / PROGRESS_SHARE);
                }
                () = changes.changed(), if !run.is_cancelled() => self.look_at(job, &mut run).await,
            }
        }
    }

    /// Sees what others have done to the job of an attempt: cancelled it, taken it away, answered what it asked.
    async fn look_at(&self, job: &Job, run: &mut Run) {
        match self.store.job(job.handle).await {
            Ok(Some(now)) if is_unwanted(&now, job.attempt) => run.cancel(),
            Ok(Some(now)) => self.deliver(run, &now).await,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(handle = %job.handle, %error, "the job could not be read; it is tried again");
                run.asks.look_again();
            }
        }
    }

    pub(super) async fn write_progress(&self, job: &Job, progress: Option<Progress>) {
        let Some(progress) = progress else { return };
        let op = Op::Progress { attempt: job.attempt, progress };
        if let Err(error) = self.store.apply(job.handle, op).await {
            tracing::debug!(handle = %job.handle, %error, "progress was not written");
        }
    }

    /// Commits how an attempt ended, and returns the job as it then is; `None` if it could not be told to the store.
    async fn settle(&self, job: &Job, attempt: Attempt) -> Option<Job> {
        let op = match attempt {
            Attempt::Lost(reason) if job.attempt < attempts_max(job.upstream_task.is_some()) => {
                Op::Lose { attempt: job.attempt, reason }
            }
            Attempt::Lost(reason) => {
                let reason = format!("{reason}; this was attempt {}, the last", job.attempt);
                self.finish(job, Outcome::Failed(interrupted(&reason)))
            }
            Attempt::Answered(answer) => {
                let outcome = self.keep(answer).await;
                self.finish(job, outcome)
            }
            Attempt::Failed(failure) => self.finish(job, Outcome::Failed(failure)),
            Attempt::Stopped(known) => self.finish(job, Outcome::Cancelled(known)),
        };
        self.commit(job, op).await
    }

    /// This process ends before the attempt has: whoever can run the job again goes on with it, where that is safe.
    async fn leave(&self, job: &Job) -> Option<Job> {
        let op = if job.attempt < attempts_max(job.upstream_task.is_some()) {
            Op::Release { attempt: job.attempt, reason: STOPPED.to_owned() }
        } else {
            self.finish(job, Outcome::Failed(interrupted(STOPPED)))
        };
        self.commit(job, op).await
    }

    fn finish(&self, job: &Job, outcome: Outcome) -> Op {
        Op::Finish { attempt: job.attempt, outcome }
    }

    /// An answer as it is committed: in the row, or, when it is large, as an artifact that is on the disk before. A disk that is
    /// full for a while is waited for.
    async fn keep(&self, answer: Json) -> Outcome {
        let bytes = answer.get().len();
        if bytes <= ROW_MAX {
            return Outcome::Completed(answer);
        }
        let mut pauses = COMMIT_PAUSES.into_iter();
        loop {
            let error = match self.artifacts.keep(answer.clone()).await {
                Ok(digest) => {
                    return Outcome::CompletedIn(AnswerInfo { bytes: bytes as u64, artifact: Some(digest) });
                }
                Err(error) => error,
            };
            let Some(pause) = pauses.next().filter(|_| !self.interrupt.is_cancelled()) else {
                let message =
                    format!("the tool answered with {bytes} bytes, which could not be kept: {error}");
                return Outcome::Failed(Failure { kind: FailureKind::Interrupted, message, error: None });
            };
            tracing::warn!(%error, "a large answer is not kept yet; trying again");
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Tells the store, and again for as long as it fails: an end that is not committed would be lost.
    async fn commit(&self, job: &Job, op: Op) -> Option<Job> {
        let mut pauses = COMMIT_PAUSES.into_iter();
        loop {
            let error = match self.store.apply(job.handle, op.clone()).await {
                Ok(job) => return Some(job),
                Err(StoreError::Refused(_) | StoreError::NotFound(_)) => {
                    tracing::warn!(handle = %job.handle, attempt = job.attempt, "the job has moved on; this result is dropped");
                    return None;
                }
                Err(error) => error,
            };
            let pause = match pauses.next() {
                Some(pause) => pause,
                None if self.interrupt.is_cancelled() => {
                    tracing::error!(handle = %job.handle, %error, "the end of the job could not be stored; it will end as interrupted");
                    return None;
                }
                None => LAST_COMMIT_PAUSE,
            };
            tracing::warn!(handle = %job.handle, %error, "the end of the job is not stored yet; trying again");
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// Whether somebody has asked for the job to be cancelled, or it has been taken from this attempt.
fn is_unwanted(now: &Job, attempt: u64) -> bool {
    now.cancel_requested_at.is_some() || now.attempt != attempt || now.status.is_terminal()
}

/// The whole answer of a completed job, wherever it is kept; `None` if it has expired, or the job has no answer.
///
/// # Errors
/// If the store fails, or the artifact cannot be read.
pub async fn read_answer(
    store: &dyn Store,
    artifacts: &Artifacts,
    job: &Job,
) -> Result<Option<Json>, StoreError> {
    let Some(info) = &job.answer else { return Ok(None) };
    let Some(digest) = &info.artifact else { return store.answer(job.handle).await };
    match artifacts.read(digest).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::Failed { place: "artifacts".to_owned(), reason: error.to_string() }),
    }
}

//! The job as a pure state machine: which operation is allowed when, and what it does.
//!
//! ```text
//!            ┌──── pause ────► paused ── resume ──┐
//!            │                                    │
//!          queued ◄───────────────────────────────┘
//!            │  ▲
//!      claim │  │ lose, release (running again is safe)
//!            ▼  │
//!          working ── finish ──► completed | failed | cancelled ── collect, expire ──► tombstone
//! ```
//! `cancel` ends a queued or paused job at once, and is a request to the worker of a working one.
//!
//! Every store runs [`apply`] inside its transaction, so no store has rules of its own.

use std::time::Duration;

use crate::Json;
use crate::clock::{Moment, Timestamp};
use crate::event::{Actor, EventKind};
use crate::job::{AnswerInfo, Failure, FailureKind, Job, Lease, Peer, Progress, Status};

/// How many events a job's log keeps. Past it progress is only remembered as the latest; everything else is still logged.
pub const PROGRESS_EVENTS_MAX: u32 = 1000;

/// How an attempt ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The tool's own answer, word for word, for the store's row.
    Completed(Json),
    /// The tool's own answer, already kept as an artifact.
    CompletedIn(AnswerInfo),
    /// There is no answer.
    Failed(Failure),
    /// Cancelled; the text says what is known of the work itself.
    Cancelled(String),
}

/// What can be done to a job.
#[derive(Debug, Clone)]
pub enum Op {
    /// Begin an attempt: on a queued job, or on one whose lease ran out if running it again is safe.
    Claim {
        /// Who will run it.
        peer: Peer,
        /// For how long before it must renew.
        lease: Duration,
    },
    /// The attempt's tool reported progress.
    Progress {
        /// The attempt that writes.
        attempt: u64,
        /// What it reported.
        progress: Progress,
    },
    /// The attempt ended.
    Finish {
        /// The attempt that writes.
        attempt: u64,
        /// How.
        outcome: Outcome,
    },
    /// The attempt was lost with its worker: back to the queue if running again is safe, else failed as interrupted.
    Lose {
        /// The attempt that was lost.
        attempt: u64,
        /// What is known.
        reason: String,
    },
    /// The peer that answers for the job ends before it: what another may run is left to it, in the queue and without a lease;
    /// else settled as by [`Op::Lose`].
    Release {
        /// The attempt that runs, or was the last to.
        attempt: u64,
        /// Why the peer ends.
        reason: String,
    },
    /// The peer that answered for the job is gone: its lease has run out. Settled as by [`Op::Lose`], but never re-queued.
    Abandon,
    /// Somebody wants the job cancelled.
    Cancel {
        /// Who.
        by: Actor,
    },
    /// Hold a queued job.
    Pause {
        /// Who.
        by: Actor,
    },
    /// Let a held job go on.
    Resume {
        /// Who.
        by: Actor,
    },
    /// A later call turned out to be the same one, and is answered with this job.
    Join,
    /// The agent is being told, unasked, that the job has ended. Only the first time counts.
    Announce,
    /// The result has been taken.
    Collect {
        /// By whom.
        by: Actor,
    },
    /// Remember something that changes no status. Of a cancelled job it is what is then said of it.
    Note {
        /// Who caused it.
        by: Actor,
        /// What it was.
        message: String,
    },
    /// The result's time to live is over.
    Expire,
}

impl Op {
    /// Whether nobody is worse off if the machine's power fails and this never was: a store need not flush it.
    #[must_use]
    pub fn may_be_lost(&self) -> bool {
        matches!(self, Op::Progress { .. } | Op::Collect { .. } | Op::Announce | Op::Join | Op::Note { .. })
    }
}

/// Why an operation was refused. The job is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The job has ended; a terminal status never changes.
    #[error("the job has already ended: {}", .0.name())]
    Ended(Status),
    /// The writer is not the current attempt: its result is to be dropped.
    #[error("attempt {attempt} is stale, the current one is {current}: drop its result")]
    Stale {
        /// The attempt that wrote.
        attempt: u64,
        /// The attempt that holds the job.
        current: u64,
    },
    /// The operation does not fit the status.
    #[error("{}", .0)]
    NotNow(&'static str),
}

/// One event to append to the log.
pub type Entry = (Actor, EventKind);

/// Does `op` to `job` at `now`, and returns the events to append.
///
/// # Errors
/// [`Refused`], and then the job has not been changed.
pub fn apply(job: &mut Job, op: &Op, now: Moment) -> Result<Vec<Entry>, Refused> {
    let mut next = job.clone();
    let wall = now.wall;
    let entries = match op {
        Op::Claim { peer, lease } => claim(&mut next, peer, *lease, now)?,
        Op::Progress { attempt, progress } => {
            current_attempt(&next, *attempt)?;
            next.progress = Some(progress.clone());
            if next.events < PROGRESS_EVENTS_MAX {
                vec![(Actor::Tool, EventKind::Progress(progress.clone()))]
            } else {
                vec![]
            }
        }
        Op::Finish { attempt, outcome } => {
            current_attempt(&next, *attempt)?;
            vec![finish(&mut next, outcome, wall)]
        }
        Op::Lose { attempt, reason } => {
            current_attempt(&next, *attempt)?;
            vec![lose(&mut next, reason, wall)]
        }
        Op::Release { attempt, reason } => vec![release(&mut next, *attempt, reason, now)?],
        Op::Abandon => vec![abandon(&mut next, now)?],
        Op::Cancel { by } => cancel(&mut next, *by, wall)?,
        Op::Pause { by } => vec![pause(&mut next, *by)?],
        Op::Resume { by } => vec![resume(&mut next, *by)?],
        Op::Join => vec![join(&next)?],
        Op::Announce => announce(&mut next, wall)?,
        Op::Collect { by } => collect(&mut next, *by, wall)?,
        Op::Note { by, message } => {
            if next.status == Status::Cancelled {
                next.message = Some(message.clone());
            }
            vec![(*by, EventKind::Noted { message: message.clone() })]
        }
        Op::Expire => expire(&mut next, wall)?,
    };
    next.updated_at = wall;
    next.events = next.events.saturating_add(u32::try_from(entries.len()).unwrap_or(u32::MAX));
    *job = next;
    Ok(entries)
}

fn current_attempt(job: &Job, attempt: u64) -> Result<(), Refused> {
    if job.attempt != attempt {
        return Err(Refused::Stale { attempt, current: job.attempt });
    }
    match job.status {
        Status::Working => Ok(()),
        status if status.is_terminal() => Err(Refused::Ended(status)),
        _ => Err(Refused::NotNow("no attempt is running")),
    }
}

fn lease_ran_out(job: &Job, now: Moment) -> bool {
    job.lease.as_ref().is_none_or(|lease| lease.is_over(now))
}

fn claim(job: &mut Job, peer: &Peer, lease: Duration, now: Moment) -> Result<Vec<Entry>, Refused> {
    let mut entries = Vec::new();
    match job.status {
        Status::Queued
            if lease_ran_out(job, now) || job.lease.as_ref().is_some_and(|held| held.peer == *peer) => {}
        Status::Queued => return Err(Refused::NotNow("another peer answers for it")),
        Status::Working if !lease_ran_out(job, now) => {
            return Err(Refused::NotNow("another peer is at work on it"));
        }
        Status::Working if job.cancel_requested_at.is_some() => {
            return Err(Refused::NotNow("it is being cancelled: running it again is not wanted"));
        }
        Status::Working if !job.policy.rerun => {
            return Err(Refused::NotNow("running it a second time is not known to be safe"));
        }
        Status::Working => {
            let reason = "the peer that ran it is gone".to_owned();
            entries.push((Actor::System, EventKind::Retried { reason }));
        }
        Status::Paused => return Err(Refused::NotNow("it is paused")),
        status => return Err(Refused::Ended(status)),
    }
    job.status = Status::Working;
    job.attempt += 1;
    job.message = None;
    job.progress = None;
    job.started_at = Some(now.wall);
    job.lease = Some(Lease::new(peer.clone(), lease, now));
    entries.push((Actor::System, EventKind::Started { attempt: job.attempt, peer: peer.clone() }));
    Ok(entries)
}

fn end(job: &mut Job, status: Status, now: Timestamp) {
    job.status = status;
    job.lease = None;
    job.finished_at = Some(now);
    job.expires_at = Some(now.after(job.policy.ttl));
}

fn finish(job: &mut Job, outcome: &Outcome, now: Timestamp) -> Entry {
    match outcome {
        Outcome::Completed(answer) => {
            let bytes = answer.get().len() as u64;
            complete(job, AnswerInfo { bytes, artifact: None }, now)
        }
        Outcome::CompletedIn(info) => complete(job, info.clone(), now),
        Outcome::Failed(failure) => fail(job, failure.clone(), now),
        Outcome::Cancelled(message) => {
            end(job, Status::Cancelled, now);
            job.message = Some(message.clone());
            (Actor::Tool, EventKind::Cancelled { message: message.clone() })
        }
    }
}

fn complete(job: &mut Job, info: AnswerInfo, now: Timestamp) -> Entry {
    end(job, Status::Completed, now);
    job.message = None;
    let bytes = info.bytes;
    job.answer = Some(info);
    (Actor::Tool, EventKind::Completed { bytes })
}

fn fail(job: &mut Job, failure: Failure, now: Timestamp) -> Entry {
    end(job, Status::Failed, now);
    job.message = Some(failure.message.clone());
    let actor = if failure.kind == FailureKind::Error { Actor::Tool } else { Actor::System };
    let entry = (actor, EventKind::Failed { message: failure.message.clone() });
    job.failure = Some(failure);
    entry
}

fn interrupted(job: &mut Job, reason: &str, now: Timestamp) -> Entry {
    let mut message = format!("{reason}; whether the work was done is not known");
    if !job.policy.rerun {
        message.push_str(", and running it again is not known to be safe");
    }
    fail(job, Failure { kind: FailureKind::Interrupted, message, error: None }, now)
}

fn lose(job: &mut Job, reason: &str, now: Timestamp) -> Entry {
    if job.cancel_requested_at.is_some() {
        let message = format!("cancelled while its worker was lost: {reason}");
        end(job, Status::Cancelled, now);
        job.message = Some(message.clone());
        return (Actor::System, EventKind::Cancelled { message });
    }
    if !job.policy.rerun {
        return interrupted(job, reason, now);
    }
    job.status = Status::Queued;
    job.progress = None;
    job.message = Some(format!("runs again: {reason}"));
    (Actor::System, EventKind::Retried { reason: reason.to_owned() })
}

fn release(job: &mut Job, attempt: u64, reason: &str, now: Moment) -> Result<Entry, Refused> {
    let entry = if job.status == Status::Queued && job.attempt == attempt {
        (Actor::System, EventKind::Noted { message: format!("left to whoever can run it: {reason}") })
    } else {
        current_attempt(job, attempt)?;
        lose(job, reason, now.wall)
    };
    if job.status == Status::Queued {
        // Nobody's, and over at once. No renewal by its former peer, which may be under way, takes it back.
        job.lease = Some(Lease::new(Peer::new(), Duration::ZERO, now));
    }
    Ok(entry)
}

/// What is known when a lease has run out.
const GONE: &str = "the process that ran it is gone";

fn abandon(job: &mut Job, now: Moment) -> Result<Entry, Refused> {
    if job.status.is_terminal() {
        return Err(Refused::Ended(job.status));
    }
    if !lease_ran_out(job, now) {
        return Err(Refused::NotNow("a peer answers for it"));
    }
    let now = now.wall;
    Ok(match job.status {
        Status::Working if job.cancel_requested_at.is_some() => lose(job, GONE, now),
        Status::Working => interrupted(job, GONE, now),
        // Waits to run again.
        _ if job.attempt > 0 => interrupted(job, GONE, now),
        _ => {
            let message = "never started: the process that held it in its queue is gone".to_owned();
            fail(job, Failure { kind: FailureKind::Interrupted, message, error: None }, now)
        }
    })
}

fn cancel(job: &mut Job, by: Actor, now: Timestamp) -> Result<Vec<Entry>, Refused> {
    match job.status {
        Status::Queued | Status::Paused => {
            let again = if job.attempt > 0 { " again" } else { "" };
            let message = format!("cancelled before it started{again}");
            end(job, Status::Cancelled, now);
            job.cancel_requested_at = Some(now);
            job.message = Some(message.clone());
            Ok(vec![(by, EventKind::CancelRequested), (Actor::System, EventKind::Cancelled { message })])
        }
        Status::Working if job.cancel_requested_at.is_some() => Ok(vec![]),
        Status::Working => {
            job.cancel_requested_at = Some(now);
            job.message = Some("being cancelled".to_owned());
            Ok(vec![(by, EventKind::CancelRequested)])
        }
        status => Err(Refused::Ended(status)),
    }
}

fn pause(job: &mut Job, by: Actor) -> Result<Entry, Refused> {
    match job.status {
        Status::Queued => {
            job.status = Status::Paused;
            Ok((by, EventKind::Paused))
        }
        Status::Paused => Err(Refused::NotNow("it is paused already")),
        Status::Working => Err(Refused::NotNow(
            "it is running, and the protocol has no way to pause a running call: let it run, or cancel it",
        )),
        status => Err(Refused::Ended(status)),
    }
}

fn resume(job: &mut Job, by: Actor) -> Result<Entry, Refused> {
    match job.status {
        Status::Paused => {
            job.status = Status::Queued;
            Ok((by, EventKind::Resumed))
        }
        status if status.is_terminal() => Err(Refused::Ended(status)),
        _ => Err(Refused::NotNow("it is not paused")),
    }
}

fn join(job: &Job) -> Result<Entry, Refused> {
    if job.expired_at.is_some() {
        return Err(Refused::NotNow("its result has expired"));
    }
    Ok((Actor::Agent, EventKind::Joined))
}

fn announce(job: &mut Job, now: Timestamp) -> Result<Vec<Entry>, Refused> {
    if job.announced_at.is_some() {
        return Ok(vec![]);
    }
    if !job.is_outstanding() {
        let why =
            if job.status.is_terminal() { "there is nothing left to collect" } else { "it has not ended" };
        return Err(Refused::NotNow(why));
    }
    job.announced_at = Some(now);
    Ok(vec![(Actor::System, EventKind::Announced)])
}

fn collect(job: &mut Job, by: Actor, now: Timestamp) -> Result<Vec<Entry>, Refused> {
    if !job.status.is_terminal() {
        return Err(Refused::NotNow("it has not ended"));
    }
    if job.collected_at.is_some() {
        return Ok(vec![]);
    }
    job.collected_at = Some(now);
    Ok(vec![(by, EventKind::Collected)])
}

fn expire(job: &mut Job, now: Timestamp) -> Result<Vec<Entry>, Refused> {
    match job.expires_at {
        _ if job.expired_at.is_some() => Ok(vec![]),
        Some(at) if at <= now => {
            job.expired_at = Some(now);
            job.progress = None;
            job.answer = None;
            Ok(vec![(Actor::System, EventKind::Expired)])
        }
        _ => Err(Refused::NotNow("its time to live is not over")),
    }
}

#[cfg(test)]
mod tests;

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
//!           │   ▲
//!       ask │   │ answer, withdraw (nothing is open any more)
//!           ▼   │
//!       input_required: to everything else it is as working; what is open is withdrawn as its attempt ends
//! ```
//! `cancel` ends a queued or paused job at once, and is a request to the worker of a working one. Where the work goes on at the
//! upstream (`attach`), another attempt only finds it again, and that is always safe.
//!
//! Every store runs [`apply`] inside its transaction, so no store has rules of its own.

mod input;

use std::time::Duration;

pub use self::input::{WrittenInput, written_inputs};

use crate::Json;
use crate::clock::{Moment, Timestamp};
use crate::event::{Actor, EventKind};
use crate::job::{AnswerInfo, Failure, FailureKind, Job, Lease, Peer, Progress, Status, UPSTREAM_TASK_MAX};

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
    /// Begin an attempt: on a queued job, or on one whose lease ran out if it may be gone on with ([`Job::may_go_on`]).
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
    /// The attempt's tool asks: the job is [`Status::InputRequired`] until nothing is open any more. Each question gets a key.
    Ask {
        /// The attempt that asks.
        attempt: u64,
        /// What it asks.
        questions: Vec<Json>,
    },
    /// Open questions are answered, by their keys. What is not open is passed over.
    Answer {
        /// By whom.
        by: Actor,
        /// The answers.
        answers: Vec<(String, Json)>,
    },
    /// Questions are to stay without an answer. What is not open is passed over.
    Withdraw {
        /// The attempt that asked.
        attempt: u64,
        /// Who says so: the tool that no longer wants to know, or the system, because nobody answered in time.
        by: Actor,
        /// Which.
        keys: Vec<String>,
    },
    /// The attempt's work goes on at the upstream as a task of its own, which a later attempt can find again by this text. It
    /// replaces what was attached before.
    Attach {
        /// The attempt that writes.
        attempt: u64,
        /// How the executor finds it.
        task: String,
    },
    /// The attempt was lost with its worker: back to the queue if it may be gone on with ([`Job::may_go_on`]), else failed as
    /// interrupted.
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
    /// It is more than a job takes.
    #[error("{}", .0)]
    TooMuch(&'static str),
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
    let mut entries = match op {
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
        Op::Ask { attempt, questions } => {
            current_attempt(&next, *attempt)?;
            vec![input::ask(&mut next, questions)?]
        }
        Op::Answer { by, answers } => vec![input::answer(&mut next, *by, answers)?],
        Op::Withdraw { attempt, by, keys } => {
            current_attempt(&next, *attempt)?;
            input::withdraw(&mut next, *by, keys)
        }
        Op::Attach { attempt, task } => {
            current_attempt(&next, *attempt)?;
            attach(&mut next, task)?
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
    input::close(&mut next, &mut entries);
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
        Status::Working | Status::InputRequired => Ok(()),
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
        Status::Working | Status::InputRequired if !lease_ran_out(job, now) => {
            return Err(Refused::NotNow("another peer is at work on it"));
        }
        Status::Working | Status::InputRequired if job.cancel_requested_at.is_some() => {
            return Err(Refused::NotNow("it is being cancelled: running it again is not wanted"));
        }
        Status::Working | Status::InputRequired if !job.may_go_on() => {
            return Err(Refused::NotNow("running it a second time is not known to be safe"));
        }
        Status::Working | Status::InputRequired => {
            let reason = going_on(job, "the peer that ran it is gone");
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

fn attach(job: &mut Job, task: &str) -> Result<Vec<Entry>, Refused> {
    if task.len() > UPSTREAM_TASK_MAX {
        return Err(Refused::TooMuch("the text by which the upstream's task is found is larger than 4 KiB"));
    }
    if job.upstream_task.as_deref() == Some(task) {
        return Ok(vec![]);
    }
    job.upstream_task = Some(task.to_owned());
    Ok(vec![(Actor::System, EventKind::Attached)])
}

/// Why an attempt was lost, and that the work was not, if that is so.
fn going_on(job: &Job, reason: &str) -> String {
    let work = if job.upstream_task.is_some() { "; its task goes on" } else { "" };
    format!("{reason}{work}")
}

fn interrupted(job: &mut Job, reason: &str, now: Timestamp) -> Entry {
    let mut message = format!("{reason}; whether the work was done is not known");
    if job.upstream_task.is_some() {
        message.push_str(", for nobody was there to go on with its task");
    } else if !job.policy.rerun {
        message.push_str(", and running it again is not known to be safe");
    }
    fail(job, Failure { kind: FailureKind::Interrupted, message, error: None }, now)
}

fn lose(job: &mut Job, reason: &str, now: Timestamp) -> Entry {
    if job.cancel_requested_at.is_some() {
        let mut message = format!("cancelled while its worker was lost: {reason}");
        if job.upstream_task.is_some() {
            message.push_str("; its task at the upstream may go on");
        }
        end(job, Status::Cancelled, now);
        job.message = Some(message.clone());
        return (Actor::System, EventKind::Cancelled { message });
    }
    if !job.may_go_on() {
        return interrupted(job, reason, now);
    }
    let reason = going_on(job, reason);
    job.status = Status::Queued;
    job.progress = None;
    job.message = Some(format!("runs again: {reason}"));
    (Actor::System, EventKind::Retried { reason })
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
        Status::Working | Status::InputRequired if job.cancel_requested_at.is_some() => lose(job, GONE, now),
        Status::Working | Status::InputRequired => interrupted(job, GONE, now),
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
        Status::Working | Status::InputRequired if job.cancel_requested_at.is_some() => Ok(vec![]),
        Status::Working | Status::InputRequired => {
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
        Status::Working | Status::InputRequired => Err(Refused::NotNow(
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
            job.upstream_task = None;
            Ok(vec![(Actor::System, EventKind::Expired)])
        }
        _ => Err(Refused::NotNow("its time to live is not over")),
    }
}

#[cfg(test)]
mod tests;

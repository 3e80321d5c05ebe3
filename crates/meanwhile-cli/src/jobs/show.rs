//! Jobs and events as text and as JSON.

use std::fmt::Write;

use meanwhile_core::event::{Actor, Event, EventKind};
use meanwhile_core::job::{FailureKind, Input};
use meanwhile_core::{Job, Moment, Status, Timestamp};
use meanwhile_mcp::words::{progressed, seconds, standing};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Seen, questions};

const REQUEST_CHARS: usize = 2000;

/// A time as RFC 3339 has it.
fn time(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.0).map_or_else(|_| at.0.to_string(), |at| format!("{at:.3}"))
}

/// A time where this terminal is, with its distance from UTC.
pub(super) fn clock(at: Timestamp) -> String {
    let zoned = jiff::Timestamp::from_microsecond(at.0).map(|at| at.to_zoned(jiff::tz::TimeZone::system()));
    zoned.map_or_else(|_| at.0.to_string(), |at| at.strftime("%Y-%m-%d %H:%M:%S%.3f %:z").to_string())
}

pub(super) fn status_name(job: &Job) -> &'static str {
    if job.expired_at.is_some() { "expired" } else { job.status.name() }
}

fn job_json(job: &Job) -> Value {
    json!({
        "handle": job.handle,
        "status": status_name(job),
        "message": job.message,
        "tool": job.tool,
        "server": job.server,
        "scope": job.scope,
        "progress": job.progress,
        "attempt": job.attempt,
        "created_at": time(job.created_at),
        "started_at": job.started_at.map(time),
        "updated_at": time(job.updated_at),
        "finished_at": job.finished_at.map(time),
        "collected_at": job.collected_at.map(time),
        "expires_at": job.expires_at.map(time),
        "cancel_requested_at": job.cancel_requested_at.map(time),
        "answer_bytes": job.answer.as_ref().map(|answer| answer.bytes),
        "failure": job.failure.as_ref().map(|failure| json!({"kind": failure.kind, "message": failure.message})),
    })
}

/// A job as a list and `show` have it.
pub(super) fn seen_json(Seen { job, is_error }: &Seen) -> Value {
    let mut value = job_json(job);
    value["is_error"] = json!(is_error);
    value
}

/// Why there is no answer.
pub(super) fn failure(job: &Job) -> String {
    let message = job.message.as_deref().unwrap_or("no more is known");
    match job.failure.as_ref().map(|failure| failure.kind) {
        Some(FailureKind::Interrupted) => format!("interrupted: {message}"),
        // This message begins with the kind, a protocol's error has none.
        Some(FailureKind::TimedOut | FailureKind::Error) | None => message.to_owned(),
    }
}

/// Without the line breaks and other controls that a tool may have put into its words.
pub(super) fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// As many of the letters as fit, the last of them an ellipsis if some do not.
pub(super) fn shortened(text: &str, width: usize) -> String {
    console::truncate_str(text, width, "…").into_owned()
}

/// What is said of a completed job whose answer is the tool's own word that something went wrong.
const WITH_ERROR: &str = "with an error of the tool";

/// What is worth a column.
pub(super) fn about(Seen { job, is_error }: &Seen, now: Moment) -> String {
    let error = if *is_error { format!("{WITH_ERROR}, ") } else { String::new() };
    let about = match job.status {
        Status::Completed => job.answer.as_ref().map(|answer| format!("{error}{} bytes", answer.bytes)),
        Status::Failed => Some(failure(job)),
        Status::Cancelled => job.message.clone(),
        _ => doing(job, now),
    };
    about.unwrap_or_default()
}

/// What is to be said of a job that has not ended besides its status.
pub(super) fn doing(job: &Job, now: Moment) -> Option<String> {
    match job.status {
        _ if is_left(job, now) => Some(LEFT.to_owned()),
        Status::InputRequired => Some(format!("asks {}", job.open.join(", "))),
        _ => job.message.clone().or_else(|| job.progress.as_ref().map(progressed)),
    }
}

/// What is said of a job that nobody runs at the moment.
const LEFT: &str = "its process is gone; the next session with its server takes it up";

/// Whether whoever ran the job is gone, and it waits for another.
fn is_left(job: &Job, now: Moment) -> bool {
    !job.status.is_terminal() && job.lease.as_ref().is_some_and(|lease| lease.is_over(now))
}

pub(super) fn job_lines(
    seen: &Seen,
    open: &[Input],
    ahead: u64,
    request: Option<&RawValue>,
    now: Moment,
) -> String {
    let job = &seen.job;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line("handle", job.handle.to_string());
    line("tool", format!("{} of {}", job.tool, job.server));
    line("scope", job.scope.clone());
    let status = if !job.status.is_terminal() {
        let left = if is_left(job, now) { format!("; {LEFT}") } else { String::new() };
        standing(job, Some(ahead), now.wall) + &left
    } else {
        ended(seen)
    };
    line("status", status);
    for input in open {
        let mut name = "asks";
        for said in questions::lines(job, input) {
            line(std::mem::take(&mut name), said);
        }
    }
    line("called", clock(job.created_at));
    if let Some(at) = job.started_at {
        line("started", format!("{} (attempt {})", clock(at), job.attempt));
    }
    if let Some(at) = job.finished_at {
        line("finished", format!("{} (took {})", clock(at), seconds(job.ran_for(now.wall))));
    }
    if let Some(answer) = &job.answer {
        let fetched = job
            .collected_at
            .map_or_else(|| "not fetched yet".to_owned(), |at| format!("fetched {}", clock(at)));
        line("result", format!("{} bytes, {fetched}", answer.bytes));
    }
    if let Some(at) = job.expires_at.filter(|_| job.expired_at.is_none()) {
        line("expires", clock(at));
    }
    if let Some(request) = request {
        let shown: String = request.get().chars().take(REQUEST_CHARS).collect();
        line("request", shown);
    }
    text
}

/// How a job has ended, and why if it has no answer.
pub(super) fn ended(Seen { job, is_error }: &Seen) -> String {
    if *is_error {
        return format!("{}, {WITH_ERROR}", status_name(job));
    }
    let why = match job.status {
        Status::Failed => Some(failure(job)),
        _ => job.message.clone(),
    };
    format!("{}{}", status_name(job), why.map(|why| format!(": {why}")).unwrap_or_default())
}

pub(super) fn event_json(event: &Event) -> Value {
    let mut value = serde_json::to_value(event).unwrap_or_default();
    value["at"] = json!(time(event.at));
    value
}

pub(super) fn event_line(event: &Event, is_error: bool) -> String {
    let actor = match event.actor {
        Actor::Agent => "agent",
        Actor::User => "user",
        Actor::Tool => "tool",
        Actor::System => "system",
    };
    format!("{}  {actor:<6}  {}", clock(event.at), happened(&event.kind, is_error))
}

/// What happened, in a few words; `is_error` tells whether what the tool has answered is an error.
pub(super) fn happened(kind: &EventKind, is_error: bool) -> String {
    match kind {
        EventKind::Created => "created".to_owned(),
        EventKind::Joined => "joined by the same call".to_owned(),
        EventKind::Started { attempt, peer } => format!("started, attempt {attempt}, by process {peer}"),
        EventKind::Progress(progress) => progressed(progress),
        EventKind::CancelRequested => "asked to cancel".to_owned(),
        EventKind::Paused => "paused".to_owned(),
        EventKind::Resumed => "resumed".to_owned(),
        EventKind::Retried { reason } => format!("runs again: {reason}"),
        EventKind::Asked { keys } => format!("asks {}", keys.join(", ")),
        EventKind::Answered { keys } => format!("answered: {}", keys.join(", ")),
        EventKind::Withdrawn { keys } => format!("no longer asks {}", keys.join(", ")),
        EventKind::Attached => "goes on as a task of the server".to_owned(),
        EventKind::Completed { bytes } if is_error => format!("completed, {WITH_ERROR}, {bytes} bytes"),
        EventKind::Completed { bytes } => format!("completed, {bytes} bytes"),
        EventKind::Failed { message } => format!("failed: {message}"),
        EventKind::Cancelled { message } => format!("cancelled: {message}"),
        EventKind::Announced => "its end announced to the agent".to_owned(),
        EventKind::Collected => "fetched".to_owned(),
        EventKind::Expired => "result expired".to_owned(),
        EventKind::Noted { message } => message.clone(),
    }
}

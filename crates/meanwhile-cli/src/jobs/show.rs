//! Jobs and events as text and as JSON.

use std::fmt::Write;

use meanwhile_core::event::{Actor, Event, EventKind};
use meanwhile_core::{Job, Status, Timestamp};
use meanwhile_mcp::words::{progressed, seconds, standing};
use serde_json::value::RawValue;
use serde_json::{Value, json};

const REQUEST_CHARS: usize = 2000;

/// A time as RFC 3339 has it.
fn time(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.0).map_or_else(|_| at.0.to_string(), |at| format!("{at:.3}"))
}

/// A time of day where this terminal is.
pub(super) fn clock(at: Timestamp) -> String {
    let zoned = jiff::Timestamp::from_microsecond(at.0).map(|at| at.to_zoned(jiff::tz::TimeZone::system()));
    zoned.map_or_else(|_| at.0.to_string(), |at| at.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string())
}

pub(super) fn status_name(job: &Job) -> &'static str {
    if job.expired_at.is_some() { "expired" } else { job.status.name() }
}

pub(super) fn job_json(job: &Job) -> Value {
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

pub(super) fn table(jobs: &[Job], now: Timestamp) -> String {
    if jobs.is_empty() {
        return "No jobs.\n".to_owned();
    }
    let tool_width = jobs.iter().map(|job| job.tool.chars().count()).max().unwrap_or(0).clamp(4, 32);
    let mut text =
        format!("{:30}  {:<tool_width$}  {:<9}  {:>7}  ABOUT\n", "HANDLE", "TOOL", "STATUS", "TOOK");
    for job in jobs {
        let about = match job.status {
            Status::Completed => job.answer.as_ref().map(|answer| format!("{} bytes", answer.bytes)),
            _ => job.message.clone().or_else(|| job.progress.as_ref().map(progressed)),
        };
        let took = seconds(job.ran_for(now));
        let status = status_name(job);
        let tool = &job.tool;
        let _ = writeln!(
            text,
            "{}  {tool:<tool_width$}  {status:<9}  {took:>7}  {}",
            job.handle,
            about.unwrap_or_default()
        );
    }
    text
}

pub(super) fn job_lines(job: &Job, ahead: u64, request: Option<&RawValue>, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line("handle", job.handle.to_string());
    line("tool", format!("{} of {}", job.tool, job.server));
    line("scope", job.scope.clone());
    let status = if job.status.is_terminal() {
        let message = job.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        format!("{}{message}", status_name(job))
    } else {
        standing(job, Some(ahead), now)
    };
    line("status", status);
    line("created", clock(job.created_at));
    if let Some(at) = job.started_at {
        line("started", format!("{} (attempt {})", clock(at), job.attempt));
    }
    if let Some(at) = job.finished_at {
        line("finished", format!("{} (took {})", clock(at), seconds(job.ran_for(now))));
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

pub(super) fn event_json(event: &Event) -> Value {
    let mut value = serde_json::to_value(event).unwrap_or_default();
    value["at"] = json!(time(event.at));
    value
}

pub(super) fn event_line(event: &Event) -> String {
    let actor = match event.actor {
        Actor::Agent => "agent",
        Actor::User => "user",
        Actor::Tool => "tool",
        Actor::System => "system",
    };
    format!("{}  {actor:<6}  {}", clock(event.at), happened(&event.kind))
}

/// What happened, in a few words.
pub(super) fn happened(kind: &EventKind) -> String {
    match kind {
        EventKind::Created => "created".to_owned(),
        EventKind::Joined => "joined by the same call".to_owned(),
        EventKind::Started { attempt, peer } => format!("started, attempt {attempt}, by process {peer}"),
        EventKind::Progress(progress) => progressed(progress),
        EventKind::CancelRequested => "asked to cancel".to_owned(),
        EventKind::Paused => "paused".to_owned(),
        EventKind::Resumed => "resumed".to_owned(),
        EventKind::Retried { reason } => format!("runs again: {reason}"),
        EventKind::Completed { bytes } => format!("completed, {bytes} bytes"),
        EventKind::Failed { message } => format!("failed: {message}"),
        EventKind::Cancelled { message } => format!("cancelled: {message}"),
        EventKind::Collected => "result fetched".to_owned(),
        EventKind::Expired => "result expired".to_owned(),
        EventKind::Noted { message } => message.clone(),
    }
}

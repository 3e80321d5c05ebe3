//! A job as a native task, in both dialects of the protocol: the core tasks of revision 2025-11-25, and the extension
//! `io.modelcontextprotocol/tasks` of 2026-07-28. There is one job and one mapping for each dialect; a task's id is its handle.
//!
//! | | 2025-11-25 | the extension |
//! |---|---|---|
//! | an answer with `isError: true` | `failed`, and `tasks/result` returns that answer | `completed`, with that answer |
//! | no answer | `failed`, and `tasks/result` returns the error | `failed`, with the error |
//! | an ended task is cancelled | an error | acknowledged |
//! | questions | asked on the stream of `tasks/result` | `inputRequests`, answered by `tasks/update` |
//!
//! See <https://modelcontextprotocol.io/specification/2025-11-25/basic/utilities/tasks> and
//! <https://github.com/modelcontextprotocol/ext-tasks>.

use std::time::Duration;

use meanwhile_core::job::{Failure, Input};
use meanwhile_core::{Job, Json, Status, Timestamp};

use crate::message::{Fields, INTERNAL_ERROR, error, to_json};
use crate::words;

/// In `_meta`: the task that a message of revision 2025-11-25 belongs to.
pub const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";

/// What a task of the extension carries besides its state.
#[derive(Debug)]
pub enum Detail {
    /// Nothing: it works, or was cancelled.
    None,
    /// What it asks.
    Inputs(Vec<Input>),
    /// How it was answered.
    Result(Json),
    /// Why it was not.
    Error(Json),
}

/// A job as a task of revision 2025-11-25; `is_error` is whether its answer, if it has one, says `isError: true`.
#[must_use]
pub fn core_task(job: &Job, is_error: bool, poll_after: Duration) -> Fields {
    let status = match job.status {
        Status::Completed if is_error => "failed",
        status => task_status(status),
    };
    let mut task = Fields::default();
    task.set("taskId", to_json(&job.handle));
    task.set("status", to_json(status));
    if let Some(message) = status_message(job) {
        task.set("statusMessage", to_json(&message));
    }
    task.set("createdAt", to_json(&date(job.created_at)));
    task.set("lastUpdatedAt", to_json(&date(job.updated_at)));
    task.set("ttl", to_json(&time_to_live(job)));
    task.set("pollInterval", to_json(&milliseconds(poll_after)));
    task
}

/// A job as a task of the extension, as `tasks/get` and `notifications/tasks` have it.
#[must_use]
pub fn extension_task(job: &Job, detail: &Detail, poll_after: Duration) -> Fields {
    let mut task = Fields::default();
    task.set("taskId", to_json(&job.handle));
    task.set("status", to_json(task_status(job.status)));
    if let Some(message) = status_message(job) {
        task.set("statusMessage", to_json(&message));
    }
    task.set("createdAt", to_json(&date(job.created_at)));
    task.set("lastUpdatedAt", to_json(&date(job.updated_at)));
    task.set("ttlMs", to_json(&time_to_live(job)));
    task.set("pollIntervalMs", to_json(&milliseconds(poll_after)));
    match detail {
        Detail::None => {}
        Detail::Inputs(inputs) => task.set("inputRequests", requests(inputs)),
        Detail::Result(result) => task.set("result", result.clone()),
        Detail::Error(error) => task.set("error", error.clone()),
    }
    task
}

/// Whether a tool's answer says that something went wrong.
#[must_use]
pub fn is_error(answer: &Json) -> bool {
    Fields::parse(answer.get()).is_ok_and(|fields| fields.read("isError").unwrap_or(false))
}

/// The open questions by their keys.
#[must_use]
pub fn requests(open: &[Input]) -> Json {
    let mut requests = Fields::default();
    for input in open {
        requests.set(&input.key, input.question.clone());
    }
    requests.to_json()
}

/// The JSON-RPC error that a failed job ended with: the server's own, or ours where it had none.
#[must_use]
pub fn failure(failure: &Failure) -> Json {
    failure.error.clone().unwrap_or_else(|| error(INTERNAL_ERROR, &failure.message))
}

/// A result with the task it belongs to, as revision 2025-11-25 wants it.
#[must_use]
pub fn with_related_task(text: &Json, job: &Job) -> Json {
    let Ok(mut fields) = Fields::parse(text.get()) else { return text.clone() };
    let mut meta: Fields = fields.read("_meta").unwrap_or_default();
    meta.set(RELATED_TASK, related_task(job));
    fields.set("_meta", meta.to_json());
    fields.to_json()
}

/// The task that a message belongs to, for its `_meta`.
#[must_use]
pub fn related_task(job: &Job) -> Json {
    let mut related = Fields::default();
    related.set("taskId", to_json(&job.handle));
    related.to_json()
}

/// A result without the task it belonged to: the extension's results have none.
#[must_use]
pub fn without_related_task(text: &Json) -> Json {
    if !text.get().contains(RELATED_TASK) {
        return text.clone();
    }
    let Ok(mut fields) = Fields::parse(text.get()) else { return text.clone() };
    let Some(mut meta) = fields.read::<Fields>("_meta") else { return text.clone() };
    if meta.take(RELATED_TASK).is_none() {
        return text.clone();
    }
    if meta.is_empty() {
        fields.take("_meta");
    } else {
        fields.set("_meta", meta.to_json());
    }
    fields.to_json()
}

fn task_status(status: Status) -> &'static str {
    match status {
        Status::Queued | Status::Paused => Status::Working.name(),
        status => status.name(),
    }
}

fn status_message(job: &Job) -> Option<String> {
    let message = match job.status {
        Status::Queued => "queued".to_owned(),
        Status::Paused => "paused".to_owned(),
        _ => match (&job.message, &job.progress) {
            (Some(message), _) => message.clone(),
            (None, Some(progress)) if !job.status.is_terminal() => words::progressed(progress),
            _ => return None,
        },
    };
    Some(words::clip(&message))
}

/// How long the task is kept, in milliseconds from when it was made; `None` while its end is not known, for it is kept until then
/// and for a time after.
fn time_to_live(job: &Job) -> Option<u64> {
    job.expires_at.map(|at| milliseconds(at.since(job.created_at)))
}

fn milliseconds(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// A time in the form of RFC 3339.
fn date(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

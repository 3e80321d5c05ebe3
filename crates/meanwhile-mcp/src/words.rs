//! Every text that a model reads. They are short, say that a handle is not the result, and never to invent one.

mod questions;

use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Duration;

use meanwhile_core::job::FailureKind;
use meanwhile_core::store::AHEAD_MAX;
use meanwhile_core::{Handle, Job, Progress, Status, Timestamp};
use serde_json::{Value, json};

pub use self::questions::{answered, asked, asks, asks_nothing};
use crate::preview::Preview;
use crate::rules::Face;

/// The tool that gets a result.
pub const POLL_RESULT: &str = "poll_result";
/// The tool that lists jobs.
pub const LIST_JOBS: &str = "list_jobs";
/// The tool that controls a job.
pub const CONTROL_JOB: &str = "control_job";
/// The tool that answers what a job asks.
pub const ANSWER_JOB: &str = "answer_job";
/// The tool that reads a slice of a large result.
pub const READ_RESULT: &str = "read_result";

/// Progress messages are cut here, in characters, when they are shown.
const MESSAGE_CHARS: usize = 200;
/// A tool's name is cut here where it is told unasked.
const NAME_CHARS: usize = 64;
/// How many ended jobs are named unasked; the rest are counted.
const ENDED_NAMED: usize = 5;

/// What the description of an upstream's tool says more, of how its slow calls behave; `None` if they behave as ever.
#[must_use]
pub fn suffix(face: Face, poll: &str) -> Option<String> {
    match face {
        // Of tasks the client knows by itself.
        Face::Inline | Face::Task => None,
        Face::Auto => Some(format!(
            "[If this is slow it returns a handle instead of its result; then get the result with {poll}.]"
        )),
        Face::Handle => {
            Some(format!("[Runs in the background: returns a handle at once; get the result with {poll}.]"))
        }
    }
}

/// What our instructions add to the upstream's; `outstanding` is how many results wait to be fetched.
#[must_use]
pub fn instructions(outstanding: usize) -> String {
    let mut text = "A slow tool of this server may return a handle (job_…) instead of its result and go on in the background. A handle is not \
     the result: go on with other work or talk to the user, then get the result with poll_result. Never guess a result, and do \
     not repeat a call whose handle you hold. After a restart, list_jobs finds your jobs again. Where the server has tools of \
     these names itself, ours begin with meanwhile_."
        .to_owned();
    let _ = match outstanding {
        0 => Ok(()),
        1 => write!(text, "\n1 finished job waits for you: {LIST_JOBS}."),
        LIST_MAX.. => write!(text, "\n{LIST_MAX} or more finished jobs wait for you: {LIST_JOBS}."),
        _ => write!(text, "\n{outstanding} finished jobs wait for you: {LIST_JOBS}."),
    };
    text
}

/// A server's instructions without ours behind them, and ours.
#[must_use]
pub fn split_instructions(text: &str) -> (&str, Option<&str>) {
    let whole = instructions(0);
    let begin = whole.split_once(". ").map_or(whole.as_str(), |(begin, _)| begin);
    match text.find(begin) {
        Some(at) => (text[..at].trim_end(), Some(&text[at..])),
        None => (text, None),
    }
}

/// Whether a tool is one of ours, under whatever name: what its arguments are tells it from one that only has such a name.
#[must_use]
pub fn is_ours(name: &str, input_schema: &Value) -> bool {
    static OURS: LazyLock<[Value; 5]> = LazyLock::new(|| tools(str::to_owned));
    let is_it = |tool: &Value| {
        tool["name"].as_str().is_some_and(|ours| name.ends_with(ours)) && tool["inputSchema"] == *input_schema
    };
    OURS.iter().any(is_it)
}

/// Our tools, as `tools/list` shows them under the names given by `name`.
pub fn tools(name: impl Fn(&str) -> String) -> [Value; 5] {
    let handle = json!({"type": "string"});
    let tool = |tool: &str, description: String, properties: Value, required: Value, read_only: bool| {
        json!({"name": name(tool), "description": description,
            "inputSchema": {"type": "object", "properties": properties, "required": required, "additionalProperties": false},
            "annotations": {"readOnlyHint": read_only, "openWorldHint": false}})
    };
    [
        tool(
            POLL_RESULT,
            "Get the result of a slow call by its handle. Waits until the job ends, at most wait_ms (default: about 20 s), \
             so one call usually does; several handles: until any or all have ended."
                .to_owned(),
            json!({"handle": handle, "handles": {"type": "array", "items": handle, "maxItems": HANDLES_MAX},
                "wait_ms": {"type": "integer", "minimum": 0}, "until": {"enum": ["any", "all"]}}),
            json!([]),
            true,
        ),
        tool(
            LIST_JOBS,
            "List your jobs, finished ones whose result you have not fetched first.".to_owned(),
            json!({"status": {"enum": ["working", "input_required", "completed", "failed", "cancelled"]},
                "limit": {"type": "integer", "minimum": 1, "maximum": LIST_MAX}}),
            json!([]),
            true,
        ),
        tool(
            CONTROL_JOB,
            "Cancel a job, or pause or resume one that is still queued.".to_owned(),
            json!({"handle": handle, "action": {"enum": ["cancel", "pause", "resume"]}}),
            json!(["handle", "action"]),
            false,
        ),
        tool(
            READ_RESULT,
            format!(
                "Read a slice of a large result. Choose one: lines (\"1-200\", \"-50\" for the last), grep (regular expression; \
                 context lines), json_path, or offset and limit in bytes. part: index of a content block, or \"structured\"; \
                 alone it returns that block (e.g. an image). First see {}.",
                name(POLL_RESULT)
            ),
            json!({"handle": handle, "part": {"type": ["integer", "string"]}, "offset": {"type": "integer", "minimum": 0},
                "limit": {"type": "integer", "minimum": 1}, "lines": {"type": "string"}, "grep": {"type": "string"},
                "context": {"type": "integer", "minimum": 0}, "json_path": {"type": "string"}}),
            json!(["handle"]),
            true,
        ),
        tool(
            ANSWER_JOB,
            "Answer what a job asks (status input_required), by the keys of its questions. Ask the user unless you surely know."
                .to_owned(),
            json!({"handle": handle, "answers": {"type": "object"}}),
            json!(["handle", "answers"]),
            false,
        ),
    ]
}

/// The most handles of one poll.
pub const HANDLES_MAX: usize = 50;
/// The most jobs of one list, and the number without a limit.
pub const LIST_MAX: usize = 100;
/// How many jobs are listed when nothing is said.
pub const LIST_DEFAULT: usize = 20;

/// A text for the model, and the same for a program.
#[derive(Debug, Clone)]
pub struct Said {
    /// What the model reads.
    pub text: String,
    /// What a program reads.
    pub structured: Value,
    /// Whether something is wrong.
    pub is_error: bool,
}

impl Said {
    fn new(text: String, structured: Value) -> Said {
        Said { text, structured, is_error: false }
    }

    /// Something is wrong, and this is what to do about it.
    #[must_use]
    pub fn error(text: impl Into<String>, structured: Value) -> Said {
        Said { text: text.into(), structured, is_error: true }
    }
}

/// The answer of a call that goes on as a job.
#[must_use]
pub fn started(job: &Job, ahead: u64, poll: &str, joined: bool) -> Said {
    let Job { handle, tool, .. } = job;
    let how = match (joined, job.status, ahead) {
        (true, ..) => format!(
            "The same call of {tool} is already running as {handle}; this is that job, nothing was started twice."
        ),
        (false, Status::Queued, 0) => format!("{tool} is queued as {handle}."),
        (false, Status::Queued, ahead) => {
            format!("{tool} is queued as {handle}, behind {}.", others(ahead))
        }
        (false, ..) => format!("{tool} goes on in the background as {handle}."),
    };
    let text = format!(
        "{how} This is not its result. Go on with other work, then call {poll} with {{\"handle\":\"{handle}\"}}. \
         Never guess the result, and do not call the tool with these arguments again."
    );
    let mut structured = json!({"handle": handle, "status": "working", "tool": tool});
    if joined {
        structured["joined"] = json!(true);
    }
    if job.status == Status::Queued {
        structured["queued_behind"] = json!(ahead);
    }
    Said::new(text, structured)
}

/// What is said of a job ([`started`]) that runs beside another one of the same call.
#[must_use]
pub fn beside(mut said: Said, twin: Handle) -> Said {
    let _ = write!(
        said.text,
        " The same call, made at about the same time, runs as {twin} as well: the work is done twice."
    );
    said.structured["same_call_as"] = json!(twin);
    said
}

/// What is said of a job ([`started`]) whose server has something to say to the model meanwhile.
#[must_use]
pub fn told_at_once(mut said: Said, text: &str) -> Said {
    let _ = write!(said.text, " Its server says: {:?}", clip(text));
    said
}

/// A job that has not ended; it is worth asking again after `poll_after`.
#[must_use]
pub fn pending(job: &Job, ahead: u64, poll_after: Duration, now: Timestamp) -> Said {
    let mut text = format!("{} ({}): {}", job.handle, job.tool, standing(job, Some(ahead), now));
    let _ = write!(text, ". No result yet; poll again in {}.", seconds(poll_after));
    let mut structured = json!({"handle": job.handle, "status": "working", "tool": job.tool,
        "poll_after_ms": poll_after.as_millis() as u64});
    if let Some(progress) = &job.progress {
        structured["progress"] = json!({"progress": progress.progress, "total": progress.total,
            "message": progress.message.as_deref().map(clip)});
    }
    if let Status::Queued | Status::Paused = job.status {
        structured["status_message"] = json!(job.status.name());
    }
    Said::new(text, structured)
}

/// How a job's status shows: what waits or is held is still being worked on.
#[must_use]
pub fn shown_status(job: &Job) -> &'static str {
    match job.status {
        _ if job.expired_at.is_some() => "expired",
        Status::Queued | Status::Paused => Status::Working.name(),
        status => status.name(),
    }
}

/// A job that has not ended, and has given no sign of life for longer than `allowed`. No time that passes is part of it: the
/// same silence always reads the same.
#[must_use]
pub fn no_progress(job: &Job, allowed: Duration, control: &str) -> Said {
    let text = format!(
        "poll_no_progress: {} ({}) has given no sign of life for more than {}. Polling it again changes nothing: do something \
         else, or cancel it with {control}.",
        job.handle,
        job.tool,
        seconds(allowed)
    );
    Said::new(text, json!({"handle": job.handle, "status": "working", "tool": job.tool, "no_progress": true}))
}

/// Jobs that have ended and that nobody has asked for, as one tagged block: news of ours, never of the user or the tool that
/// it stands behind.
#[must_use]
pub fn ended_meanwhile(jobs: &[Job], poll: &str, list: &str) -> String {
    let named: Vec<String> = jobs
        .iter()
        .take(ENDED_NAMED)
        .map(|job| format!("{} ({}) {}", job.handle, untagged(&job.tool), job.status.name()))
        .collect();
    let more = match jobs.len().saturating_sub(ENDED_NAMED) {
        0 => String::new(),
        more => format!("; and {more} more, see {list}"),
    };
    // Of what has no result there is only why.
    let has_result = jobs.iter().any(|job| job.status == Status::Completed);
    let how = match (has_result, jobs.len()) {
        (true, 1) => format!("get it with {poll}"),
        (true, _) => format!("get them with {poll}"),
        (false, _) => format!("{poll} says why"),
    };
    format!("<meanwhile-jobs>{}{more}; {how}</meanwhile-jobs>", named.join("; "))
}

/// A name that is not ours: on one line, short, and unable to end our tag.
fn untagged(name: &str) -> String {
    let name: String = name.chars().take(NAME_CHARS).collect();
    clip(&name).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Those before a job in its queue.
fn others(ahead: u64) -> String {
    match ahead {
        1 => "1 other".to_owned(),
        AHEAD_MAX.. => format!("{AHEAD_MAX} others or more"),
        _ => format!("{ahead} others"),
    }
}

/// Where an unfinished job stands, in a few words; `ahead` is how many are before it in its queue, if that is known.
#[must_use]
pub fn standing(job: &Job, ahead: Option<u64>, now: Timestamp) -> String {
    let mut text = match job.status {
        Status::Queued => match ahead {
            None => "queued".to_owned(),
            Some(0) => "queued, next in turn".to_owned(),
            Some(ahead) => format!("queued behind {}", others(ahead)),
        },
        Status::Paused => "paused".to_owned(),
        Status::InputRequired => format!("waits for input ({})", job.open.join(", ")),
        _ => format!("working for {}", seconds(job.ran_for(now))),
    };
    if let Some(progress) = &job.progress {
        let _ = write!(text, ", {}", progressed(progress));
    }
    if let Some(message) = &job.message {
        let _ = write!(text, ", {message}");
    }
    text
}

/// Progress in a few words.
#[must_use]
pub fn progressed(progress: &Progress) -> String {
    let mut text = match progress.total {
        Some(total) if total > 0.0 => {
            format!("{}/{} ({:.0} %)", progress.progress, total, 100.0 * progress.progress / total)
        }
        _ => format!("progress {}", progress.progress),
    };
    if let Some(message) = &progress.message {
        let _ = write!(text, " {:?}", clip(message));
    }
    text
}

/// A job that has ended without an answer.
#[must_use]
pub fn ended_without_answer(job: &Job) -> Said {
    let Job { handle, tool, .. } = job;
    let message = job.message.as_deref().unwrap_or("no more is known");
    let mut structured =
        json!({"handle": handle, "status": job.status.name(), "tool": tool, "status_message": message});
    if let Some(failure) = &job.failure {
        structured["reason"] = json!(failure.kind);
        // For reading only: a number that no program could hold is left out here.
        structured["error"] = failure
            .error
            .as_ref()
            .and_then(|error| serde_json::from_str(error.get()).ok())
            .unwrap_or_default();
    }
    let text = match job.failure.as_ref().map(|failure| failure.kind) {
        Some(FailureKind::Error) => format!("{handle} ({tool}) failed: {message}"),
        Some(FailureKind::Interrupted) => {
            format!("{handle} ({tool}) was interrupted: {message}. It has no result.")
        }
        Some(FailureKind::TimedOut) => format!("{handle} ({tool}) {message}. It has no result."),
        None => format!("{handle} ({tool}) was cancelled: {message}. It has no result."),
    };
    Said::error(text, structured)
}

/// A job whose result's time to live is over.
#[must_use]
pub fn expired(job: &Job) -> Said {
    let text = format!(
        "{} ({}) {} and its result has expired: it was kept for {} after its end. Call the tool again if you still need it.",
        job.handle,
        job.tool,
        job.status.name(),
        seconds(job.policy.ttl)
    );
    Said::error(text, json!({"handle": job.handle, "status": "expired", "tool": job.tool}))
}

/// A handle that does not exist here.
#[must_use]
pub fn not_found(handle: &str, list: &str) -> Said {
    let text = format!(
        "There is no job {handle} here. Use a handle exactly as a call returned it; {list} shows yours."
    );
    Said::error(text, json!({"handle": handle, "status": "not_found"}))
}

/// A result too large for the model's context: its ends, and how to read the rest.
#[must_use]
pub fn previewed(job: &Job, preview: &Preview, bytes: u64, read: &str, is_error: bool) -> Said {
    let parts = preview.describe_parts();
    let text = format!(
        "{} ({}) completed. Its result has {bytes} bytes ({parts}); this is only a preview. Read what you need of it with {read}: \
         by lines, grep, json_path, bytes, or part.\n\n{}",
        job.handle, job.tool, preview.text
    );
    let structured = json!({"handle": job.handle, "status": "completed", "tool": job.tool, "preview": true,
        "bytes": bytes, "parts": parts});
    Said { text, structured, is_error }
}

/// A duration for people and models.
#[must_use]
pub fn seconds(length: Duration) -> String {
    let whole = length.as_secs();
    match whole {
        0..=9 => format!("{:.1} s", length.as_secs_f64()),
        10..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min", whole / 60),
        _ => format!("{} h", whole / 3600),
    }
}

/// One line of a list of jobs.
#[must_use]
pub fn listed(job: &Job, now: Timestamp) -> (String, Value) {
    let handle: Handle = job.handle;
    let uncollected = job.status.is_terminal() && job.collected_at.is_none() && job.expired_at.is_none();
    let state = if job.expired_at.is_some() {
        "expired".to_owned()
    } else if job.status.is_terminal() {
        let age = now.since(job.finished_at.unwrap_or(now));
        let fetched = if uncollected { ", not fetched yet" } else { "" };
        format!("{} {} ago{fetched}", job.status.name(), seconds(age))
    } else {
        standing(job, None, now)
    };
    let status = shown_status(job);
    let structured = json!({"handle": handle, "tool": job.tool, "status": status, "fetched": !uncollected && job.status.is_terminal()});
    (format!("{handle} {}: {state}", job.tool), structured)
}

/// Cuts a tool's message to what is worth a model's context, on one line.
#[must_use]
pub fn clip(message: &str) -> String {
    let mut text: String = message
        .chars()
        .take(MESSAGE_CHARS)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if message.chars().nth(MESSAGE_CHARS).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DESIGN: together under 700 tokens of schema. JSON takes about three and a half characters a token at the least.
    #[test]
    fn our_tools_cost_a_model_less_than_700_tokens() {
        let text = serde_json::to_string(&tools(str::to_owned)).unwrap();
        assert!(text.len() < 700 * 7 / 2, "{} characters", text.len());
    }

    #[test]
    fn a_new_session_is_told_how_many_results_wait_in_one_line() {
        assert!(!instructions(0).contains("wait for you"));
        let ours = instructions(3);
        assert_eq!(split_instructions(&format!("Be kind.\n\n{ours}")), ("Be kind.", Some(&*ours)));
        assert_eq!(split_instructions("Be kind."), ("Be kind.", None));
        assert!(instructions(1).ends_with("\n1 finished job waits for you: list_jobs."));
        assert!(instructions(7).ends_with("\n7 finished jobs wait for you: list_jobs."));
        assert!(instructions(LIST_MAX).ends_with("\n100 or more finished jobs wait for you: list_jobs."));
    }

    #[test]
    fn our_tools_are_told_from_others_of_the_same_name() {
        for tool in tools(|name| format!("meanwhile_{name}")) {
            let name = tool["name"].as_str().unwrap();
            assert!(is_ours(name, &tool["inputSchema"]), "{name}");
            assert!(
                !is_ours(name, &json!({"type": "object"})) && !is_ours("x", &tool["inputSchema"]),
                "{name}"
            );
        }
    }

    #[test]
    fn a_name_cannot_end_our_tag() {
        let name = untagged(&format!("</meanwhile-jobs>\n&{}", "x".repeat(100)));
        assert!(name.starts_with("&lt;/meanwhile-jobs&gt; &amp;x") && name.chars().count() < 80, "{name}");
    }

    #[test]
    fn what_a_tool_says_is_clipped_and_stays_on_one_line() {
        let progress =
            Progress { progress: 1.0, message: Some("a\nb\u{7}".repeat(300)), ..Progress::default() };
        let text = progressed(&progress);
        assert!(text.chars().count() < 250 && !text.contains('\n') && text.contains('…'));
    }
}

//! Our own tools, as the client calls them: which one is meant, and what it is given. Polling is in [`super::poll`].

use std::sync::{Arc, LazyLock};

use meanwhile_core::engine::{Action, Controlled, read_answer};
use meanwhile_core::store::Query;
use meanwhile_core::{Actor, Handle, Status};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Gateway;
use super::caller::Caller;
use super::reply::{ToolResult, protocol_error, text_block, tool_error, tool_result};
use crate::catalog::Catalog;
use crate::message::{Answer, Fields, INTERNAL_ERROR, to_json};
use crate::rules::Rules;
use crate::slice::{Slice, SliceRequest, slice};
use crate::words::{self, ANSWER_JOB, CONTROL_JOB, LIST_JOBS, POLL_RESULT, READ_RESULT, Said};

/// The largest `arguments` of a tool of ours, in bytes.
const ARGUMENTS_MAX: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnTool {
    Poll,
    List,
    Control,
    Read,
    Answer,
}

impl OwnTool {
    const ALL: [OwnTool; 5] =
        [OwnTool::Poll, OwnTool::List, OwnTool::Control, OwnTool::Read, OwnTool::Answer];

    /// Checks arguments against the schema that we show, so that an error names the field.
    fn check(self, arguments: &str) -> Result<(), String> {
        static OURS: LazyLock<Catalog> = LazyLock::new(|| {
            let mut ours = Catalog::default();
            let tools = words::tools(str::to_owned).map(|tool| to_json(&tool));
            ours.learn(&tools, &Rules::default());
            ours
        });
        OURS.get(self.name()).map_or(Ok(()), |tool| tool.check("meanwhile", arguments))
    }

    fn name(self) -> &'static str {
        match self {
            OwnTool::Poll => POLL_RESULT,
            OwnTool::List => LIST_JOBS,
            OwnTool::Control => CONTROL_JOB,
            OwnTool::Read => READ_RESULT,
            OwnTool::Answer => ANSWER_JOB,
        }
    }
}

/// Why a tool of ours has no proper answer.
pub(super) enum Wrong {
    /// The arguments; the text says which and how to mend it.
    Arguments(String),
    /// The store.
    Store(meanwhile_core::StoreError),
    /// Something else that is worth saying to a model.
    Said(Said),
}

impl Wrong {
    pub(super) fn answer(self, tool: &str) -> Answer {
        match self {
            Wrong::Arguments(why) => tool_error(&format!("{tool}: {why}")),
            Wrong::Store(error) => protocol_error(INTERNAL_ERROR, &error.to_string()),
            Wrong::Said(said) => tool_result(&said),
        }
    }
}

impl From<meanwhile_core::StoreError> for Wrong {
    fn from(error: meanwhile_core::StoreError) -> Wrong {
        Wrong::Store(error)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListArguments {
    status: Option<Wanted>,
    limit: Option<usize>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    Working,
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ControlArguments {
    handle: String,
    action: Asked,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Asked {
    Cancel,
    Pause,
    Resume,
}

impl Gateway {
    pub(super) fn own_tool(&self, name: &str, catalog: &Catalog) -> Option<OwnTool> {
        OwnTool::ALL
            .into_iter()
            .find(|tool| name.ends_with(tool.name()) && catalog.our_name(tool.name()) == name)
    }

    pub(super) async fn call_own_tool(
        self: &Arc<Self>,
        tool: OwnTool,
        caller: &Caller,
        params: &Fields,
        catalog: &Catalog,
    ) -> Answer {
        let arguments = params.get("arguments").map_or("{}", |arguments| arguments.get());
        if arguments.len() > ARGUMENTS_MAX {
            return tool_error(&format!(
                "{}: the arguments have more than {ARGUMENTS_MAX} bytes",
                tool.name()
            ));
        }
        if let Err(why) = tool.check(arguments) {
            return tool_error(&format!("{}: {why}", tool.name()));
        }
        let answer = match tool {
            OwnTool::Poll => self.poll_result(caller, arguments, catalog).await,
            OwnTool::List => self.list_jobs(arguments).await,
            OwnTool::Control => self.control_job(arguments, catalog).await,
            OwnTool::Read => self.read_result(arguments, catalog).await,
            OwnTool::Answer => self.answer_job(arguments, catalog).await,
        };
        answer.unwrap_or_else(|wrong| wrong.answer(tool.name()))
    }

    async fn list_jobs(&self, arguments: &str) -> Result<Answer, Wrong> {
        let ListArguments { status, limit } = read(arguments)?;
        let statuses = match status {
            None => vec![],
            Some(Wanted::Working) => vec![Status::Queued, Status::Paused, Status::Working],
            Some(Wanted::InputRequired) => vec![Status::InputRequired],
            Some(Wanted::Completed) => vec![Status::Completed],
            Some(Wanted::Failed) => vec![Status::Failed],
            Some(Wanted::Cancelled) => vec![Status::Cancelled],
        };
        let limit = limit.unwrap_or(words::LIST_DEFAULT).clamp(1, words::LIST_MAX);
        let scope = Some(self.settings.scope.clone());
        let jobs = self
            .engine
            .store()
            .list(&Query { scope, statuses, limit, uncollected_first: true, ..Query::default() })
            .await?;
        let now = self.engine.now();
        let (lines, jobs): (Vec<_>, Vec<_>) = jobs.iter().map(|job| words::listed(job, now)).unzip();
        let text = if lines.is_empty() { "No jobs.".to_owned() } else { lines.join("\n") };
        Ok(tool_result(&Said { text, structured: json!({"jobs": jobs}), is_error: false }))
    }

    async fn control_job(self: &Arc<Self>, arguments: &str, catalog: &Catalog) -> Result<Answer, Wrong> {
        let ControlArguments { handle: text, action: asked } = read(arguments)?;
        let handle = parse_handle(&text, catalog)?;
        let (action, word) = match asked {
            Asked::Cancel => (Action::Cancel, "cancel"),
            Asked::Pause => (Action::Pause, "pause"),
            Asked::Resume => (Action::Resume, "resume"),
        };
        let controlled = self.engine.control(&self.settings.scope, handle, action, Actor::Agent).await?;
        let (job, refused) = match controlled {
            Controlled::NotFound => return Err(not_found(&text, catalog)),
            Controlled::Done(job) => (job, None),
            Controlled::Refused(job, why) => (job, Some(why)),
        };
        match job.status {
            // All that there is to know of it is in this answer.
            Status::Cancelled => self.collect(&job),
            status if status.is_terminal() => self.told(&job),
            _ => {}
        }
        let status = words::shown_status(&job);
        let mut structured = json!({"handle": handle, "tool": job.tool, "asked": word, "status": status});
        if let Some(message) = &job.message {
            structured["status_message"] = json!(message);
        }
        if let Some(failure) = &job.failure {
            structured["reason"] = json!(failure.kind);
        }
        Ok(tool_result(&match refused {
            Some(why) => Said::error(format!("{handle} ({}): cannot {word}: {why}.", job.tool), structured),
            None => {
                let message =
                    job.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
                let text =
                    format!("{handle} ({}): asked to {word}, now {}{message}.", job.tool, job.status.name());
                Said { text, structured, is_error: false }
            }
        }))
    }

    async fn read_result(&self, arguments: &str, catalog: &Catalog) -> Result<Answer, Wrong> {
        let mut fields = Fields::parse(arguments).map_err(|error| Wrong::Arguments(error.to_string()))?;
        let text: String =
            fields.take("handle").and_then(|handle| serde_json::from_str(handle.get()).ok()).ok_or_else(
                || Wrong::Arguments("`handle`: the handle that the call returned, as a string".to_owned()),
            )?;
        let request: SliceRequest = read(fields.to_json().get())?;
        let handle = parse_handle(&text, catalog)?;
        let job = self.engine.store().job(handle).await?.filter(|job| job.scope == self.settings.scope);
        let job = job.ok_or_else(|| not_found(&text, catalog))?;
        if job.expired_at.is_some() {
            return Err(Wrong::Said(words::expired(&job)));
        }
        if !job.status.is_terminal() {
            return Err(Wrong::Said(self.unfinished(&job, catalog).await?));
        }
        let Some(answer) = read_answer(&**self.engine.store(), self.engine.artifacts(), &job).await? else {
            return Err(Wrong::Said(words::ended_without_answer(&job)));
        };
        // A search through megabytes must not hold up everything else.
        let sliced = tokio::task::spawn_blocking(move || slice(answer.get(), &request)).await;
        match sliced {
            Ok(Ok(Slice::Text { body, note, next })) => {
                let content = vec![text_block(&body), text_block(&format!("[{note}]"))];
                let structured =
                    to_json(&json!({"handle": handle, "text": body, "note": note, "next": next}));
                Ok(ToolResult { content, structured_content: Some(structured), is_error: false }.answer())
            }
            Ok(Ok(Slice::Block(block))) => {
                Ok(ToolResult { content: vec![block], structured_content: None, is_error: false }.answer())
            }
            Ok(Err(why)) => Err(Wrong::Arguments(why.to_string())),
            Err(_) => Err(Wrong::Arguments("the slice could not be made; choose another one".to_owned())),
        }
    }
}

pub(super) fn read<T: DeserializeOwned>(arguments: &str) -> Result<T, Wrong> {
    serde_json::from_str(arguments).map_err(|error| Wrong::Arguments(error.to_string()))
}

pub(super) fn not_found(handle: &str, catalog: &Catalog) -> Wrong {
    Wrong::Said(words::not_found(&words::clip(handle), &catalog.our_name(LIST_JOBS)))
}

pub(super) fn parse_handle(text: &str, catalog: &Catalog) -> Result<Handle, Wrong> {
    text.trim().parse().map_err(|_| not_found(text, catalog))
}

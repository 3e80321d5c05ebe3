//! The native tasks of a server, in both dialects: what they look like, and which tools have them.
//! See <https://modelcontextprotocol.io/specification/2025-11-25/basic/utilities/tasks> and
//! <https://github.com/modelcontextprotocol/ext-tasks>.

use std::time::Duration;

use meanwhile_core::Json;
use meanwhile_core::job::UPSTREAM_TASK_MAX;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::modern::{self, Shape};
use crate::dialect::without_related_task;
use crate::message::{Answer, Fields, to_json};
use crate::revision::Era;

/// The pause between two looks at a task, unless its server says another.
const PAUSE: Duration = Duration::from_secs(1);
/// The shortest pause.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// What a task is known to have, in either dialect. All else that is said of one passes as it is.
const KNOWN: [&str; 14] = [
    "task",
    "taskId",
    "status",
    "statusMessage",
    "createdAt",
    "lastUpdatedAt",
    "ttl",
    "ttlMs",
    "pollInterval",
    "pollIntervalMs",
    "inputRequests",
    "result",
    "error",
    "resultType",
];
/// For how long, in milliseconds, a server is asked to keep what it has done.
const TTL_MS: u64 = 24 * 3600 * 1000;

/// A task of a server, as it is stored with the job that it does the work of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(super) dialect: Dialect,
    pub(super) id: String,
    /// What else was said of it when it was made: the text of an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extras: Option<String>,
}

/// The wire form of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Dialect {
    /// The core tasks of revision 2025-11-25.
    #[serde(rename = "2025-11-25")]
    Core,
    /// The extension `io.modelcontextprotocol/tasks`.
    #[serde(rename = "extension")]
    Extension,
}

impl Task {
    /// The task that a call has become, if that is its answer.
    pub(crate) fn created(result: &Json, era: Era) -> Option<Task> {
        let fields = Fields::parse(result.get()).ok()?;
        let (dialect, id) = match era {
            Era::Legacy => (Dialect::Core, fields.read::<Fields>("task")?.read("taskId")?),
            Era::Modern if fields.read::<String>("resultType")? == "task" => {
                (Dialect::Extension, fields.read("taskId")?)
            }
            Era::Modern => return None,
        };
        let mut extras = Fields::parse(without_related_task(result).get()).unwrap_or_default();
        for known in KNOWN {
            extras.take(known);
        }
        let extras = (!extras.is_empty()).then(|| extras.to_json().get().to_owned());
        let task = Task { dialect, id, extras };
        // It is kept for as long as the task is followed, and stored with it.
        let is_small = task.to_text().len() <= UPSTREAM_TASK_MAX;
        Some(if is_small { task } else { Task { extras: None, ..task } })
    }

    /// What its server said of it that we know nothing of.
    pub(crate) fn extras(&self) -> Fields {
        self.extras.as_deref().and_then(|text| Fields::parse(text).ok()).unwrap_or_default()
    }

    /// As it was stored.
    pub(crate) fn read(stored: &str) -> Option<Task> {
        serde_json::from_str(stored).ok()
    }

    pub(crate) fn to_text(&self) -> String {
        to_json(self).get().to_owned()
    }

    /// Asks a legacy server to do a call as a task.
    pub(crate) fn ask_for(call: &mut Fields) {
        call.set("task", to_json(&serde_json::json!({"ttl": TTL_MS})));
    }

    pub(super) fn params(&self) -> Fields {
        let mut params = Fields::default();
        params.set("taskId", to_json(&self.id));
        params
    }
}

/// How a task stands.
#[derive(Debug)]
pub(super) struct State(Fields);

impl State {
    pub(super) fn read(result: &Json) -> Option<State> {
        let fields = Fields::parse(result.get()).ok()?;
        fields.get("status")?;
        Some(State(fields))
    }

    pub(super) fn status(&self) -> String {
        self.0.read("status").unwrap_or_default()
    }

    pub(super) fn message(&self) -> Option<String> {
        self.0.read("statusMessage")
    }

    /// When to look again.
    pub(super) fn pause(&self) -> Duration {
        let wanted: Option<f64> = self.0.read("pollIntervalMs").or_else(|| self.0.read("pollInterval"));
        let wanted = wanted.filter(|wanted| wanted.is_finite() && *wanted >= 0.0);
        wanted.map_or(PAUSE, |wanted| Duration::from_millis(wanted as u64)).clamp(PAUSE_MIN, PAUSE_MAX)
    }

    pub(super) fn questions(&self) -> Vec<(String, Fields)> {
        let asked = self.0.read("inputRequests").map(Fields::into_entries).unwrap_or_default();
        asked.into_iter().filter_map(|(key, asked)| Some((key, Fields::parse(asked.get()).ok()?))).collect()
    }

    /// The answer of the call, in the legacy shape.
    pub(super) fn result(&self) -> Option<Json> {
        match modern::shape(Answer::Result(self.0.get("result")?.to_owned())) {
            Shape::Final(Answer::Result(result)) => Some(without_related_task(&result)),
            _ => None,
        }
    }

    pub(super) fn error(&self) -> Option<Json> {
        self.0.get("error").map(ToOwned::to_owned)
    }
}

/// Which tools of a legacy server can be called as tasks.
#[derive(Debug, Default)]
pub(super) struct Support {
    /// Whether the server takes a call as a task at all.
    takes_calls: bool,
    tools: std::collections::HashSet<String>,
}

impl Support {
    /// Learns from an answer of the server.
    pub(super) fn learn(&mut self, method: &str, answer: &Answer) {
        let Answer::Result(result) = answer else { return };
        match method {
            "initialize" => {
                let said = Fields::parse(result.get()).unwrap_or_default();
                // Whatever revision it speaks: servers say so, and insist on it, in those as well that had no tasks yet.
                let capabilities: Value = said.read("capabilities").unwrap_or_default();
                self.takes_calls = capabilities["tasks"]["requests"]["tools"]["call"].is_object();
            }
            "tools/list" if self.takes_calls => {
                let page = Fields::parse(result.get()).unwrap_or_default();
                for tool in page.read::<Vec<Fields>>("tools").unwrap_or_default() {
                    self.learn_tool(&tool);
                }
            }
            _ => {}
        }
    }

    fn learn_tool(&mut self, tool: &Fields) {
        let Some(name) = tool.read::<String>("name") else { return };
        let execution: Fields = tool.read("execution").unwrap_or_default();
        let support: String = execution.read("taskSupport").unwrap_or_default();
        if ["optional", "required"].contains(&support.as_str()) {
            self.tools.insert(name);
        } else {
            self.tools.remove(&name);
        }
    }

    /// Whether a call of this tool is to be a task.
    pub(super) fn takes(&self, tool: &str) -> bool {
        self.takes_calls && self.tools.contains(tool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_created_task_is_told_from_an_answer_in_either_dialect() {
        let created = |result: Value, era| Task::created(&to_json(&result), era);
        let core = created(json!({"task": {"taskId": "t", "status": "working"}}), Era::Legacy).unwrap();
        assert_eq!(Task::read(&core.to_text()), Some(core));
        let flat = json!({"resultType": "task", "taskId": "t", "status": "working"});
        assert_eq!(created(flat.clone(), Era::Modern).unwrap().dialect, Dialect::Extension);
        assert_eq!(created(flat, Era::Legacy), None);
        assert_eq!(created(json!({"content": []}), Era::Legacy), None);
        assert_eq!(created(json!({"content": [], "task": {"taskId": "t"}}), Era::Modern), None);
    }

    #[test]
    fn what_else_is_said_of_a_task_is_kept_with_it_where_that_is_not_much() {
        let meta = json!({"io.modelcontextprotocol/related-task": {"taskId": "t"}, "mine": 1});
        let said = |more: &str| json!({"resultType": "task", "taskId": "t", "_meta": meta, "more": more});
        let created = |more: &str| Task::created(&to_json(&said(more)), Era::Modern).unwrap();
        let task = created("x");
        assert_eq!(task.extras().to_json().get(), r#"{"_meta":{"mine":1},"more":"x"}"#);
        assert_eq!(Task::read(&task.to_text()), Some(task));
        let task = created(&"x".repeat(UPSTREAM_TASK_MAX));
        assert!(task.extras().is_empty() && task.id == "t");
    }

    #[test]
    fn only_tools_that_say_so_are_called_as_tasks_and_only_where_the_server_takes_them() {
        let tools = Answer::Result(to_json(&json!({"tools": [
            {"name": "a", "execution": {"taskSupport": "optional"}},
            {"name": "b", "execution": {"taskSupport": "forbidden"}}, {"name": "c"}]})));
        let hello = |capabilities: Value| {
            Answer::Result(to_json(&json!({"protocolVersion": "2025-06-18", "capabilities": capabilities})))
        };
        let mut support = Support::default();
        support.learn("initialize", &hello(json!({"tasks": {}})));
        support.learn("tools/list", &tools);
        assert!(!support.takes("a"));
        support.learn("initialize", &hello(json!({"tasks": {"requests": {"tools": {"call": {}}}}})));
        support.learn("tools/list", &tools);
        assert!(support.takes("a") && !support.takes("b") && !support.takes("c"));
    }

    #[test]
    fn a_pause_is_bounded() {
        let pause = |text: Value| State::read(&to_json(&text)).unwrap().pause();
        assert_eq!(pause(json!({"status": "working", "pollIntervalMs": 500})), Duration::from_millis(500));
        assert_eq!(pause(json!({"status": "working", "pollInterval": 0})), PAUSE_MIN);
        assert_eq!(pause(json!({"status": "working", "pollInterval": 1e300})), PAUSE_MAX);
        assert_eq!(pause(json!({"status": "working", "pollInterval": -1})), PAUSE);
    }
}

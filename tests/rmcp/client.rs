//! A client that answers what it is asked, and knows native tasks.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, ClientCapabilities,
    ClientConfig, DetailedTask, ElicitRequestParams, ElicitResult, ElicitationAction, ErrorData,
    GetTaskParams, Implementation, ProtocolVersion, TaskPayload, TaskStatus,
};
use rmcp::service::{RequestContext, RunningService};
use rmcp::transport::IntoTransport;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

/// What the server asked, message by message.
#[derive(Default)]
pub(crate) struct Answering {
    questions: Mutex<Vec<String>>,
}

pub(crate) type Client = RunningService<RoleClient, Answering>;

impl ClientHandler for Answering {
    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder().enable_elicitation().enable_tasks().build();
        ClientConfig::new(capabilities, Implementation::new("rmcp-client", "1.0.0"))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        if let ElicitRequestParams::FormElicitationParams { message, .. } = request {
            self.questions.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        }
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({ "name": "you" })))
    }
}

pub(crate) async fn connect<T, E, A>(transport: T, era: Era) -> Client
where
    T: IntoTransport<RoleClient, E, A>,
    E: std::error::Error + Send + Sync + 'static,
{
    let lifecycle = match era {
        Era::Legacy => ClientLifecycleMode::Initialize,
        Era::Modern => {
            ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
        }
    };
    Answering::default().serve_with_lifecycle(transport, lifecycle).await.expect("the session begins")
}

/// Calls what is fast, and what asks its client.
pub(crate) async fn uses_tools(client: &Client, era: Era) {
    let tools = client.list_all_tools().await.expect("the tools are listed");
    assert!(tools.iter().any(|tool| tool.name == "slow_compute"));
    let answer = client.call_tool(call("greet", json!({ "name": "you" }))).await.expect("greet answers");
    assert_eq!(said(&answer), "Hello, you!");
    // In the modern era the answer is a question, which `rmcp` has answered, and then calls again.
    let tool = match era {
        Era::Legacy => "test_elicitation_sep1034_defaults",
        Era::Modern => "test_input_required_result_elicitation",
    };
    let answer = client.call_tool(call(tool, json!({}))).await.expect("the tool answers");
    assert_ne!(answer.is_error, Some(true), "{}", said(&answer));
    let asked = client.service().questions.lock().unwrap_or_else(PoisonError::into_inner).len();
    assert_eq!(asked, 1, "the client was asked");
}

/// Drives a task to its end, and cancels another.
pub(crate) async fn drives_tasks(client: &Client) {
    let task_id = started(client, 3.0).await;
    let TaskPayload::Completed { result } = ended(client, &task_id).await.payload else {
        panic!("{task_id} did not complete");
    };
    assert_eq!(result["content"][0]["text"], "it took 3 seconds");

    let task_id = started(client, 60.0).await;
    client.cancel_task(CancelTaskParams::new(task_id.clone())).await.expect("it is cancelled");
    assert_eq!(ended(client, &task_id).await.status(), TaskStatus::Cancelled);
}

async fn started(client: &Client, seconds: f64) -> String {
    let slow = call("slow_compute", json!({ "seconds": seconds, "label": "it" }));
    match client.call_tool_once(slow).await.expect("the tool answers") {
        CallToolResponse::Task(created) => created.task.task_id,
        other => panic!("no task: {other:?}"),
    }
}

/// Polls as often as the server wants to be polled, for `rmcp` hears of no change otherwise.
async fn ended(client: &Client, task_id: &str) -> DetailedTask {
    loop {
        let task = client.get_task(GetTaskParams::new(task_id)).await.expect("the task is there").task;
        if task.status().is_terminal() {
            return task;
        }
        tokio::time::sleep(Duration::from_millis(task.task.poll_interval_ms.unwrap_or(100))).await;
    }
}

fn call(name: &'static str, arguments: Value) -> CallToolRequestParams {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    CallToolRequestParams::new(name).with_arguments(arguments)
}

fn said(answer: &CallToolResult) -> String {
    answer.content.iter().filter_map(|block| block.as_text()).map(|block| block.text.as_str()).collect()
}

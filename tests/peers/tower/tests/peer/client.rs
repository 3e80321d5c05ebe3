//! A client written with `tower-mcp`, and what it hears.

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower_mcp::client::{
    ClientHandler, HttpClientTransport, McpClient, ServerNotification, StdioClientTransport,
    SubscriptionHandle, TaskAwareCallToolOutcome,
};
use tower_mcp::protocol::{
    CallToolResult, ElicitAction, ElicitFieldValue, ElicitRequestParams, ElicitResult, InputResponse,
    InputResponses, RequestId, SubscriptionFilter,
};
use tower_mcp::tasks::{DetailedTask, Task};
use tower_mcp::{JsonRpcError, ProtocolSupport};

use crate::stage::{Door, soon};

/// What the user of every client says when asked.
pub(crate) const ANSWER: &str = "green";

/// What is pushed: the subscription, and the task as it then is.
type News = (RequestId, DetailedTask);

struct Ears(UnboundedSender<News>);

#[async_trait]
impl ClientHandler for Ears {
    async fn handle_elicit(&self, asked: ElicitRequestParams) -> Result<ElicitResult, JsonRpcError> {
        let ElicitRequestParams::Form(form) = asked else { panic!("a form was expected: {asked:?}") };
        let key = form.requested_schema.properties.keys().next().expect("a field").clone();
        Ok(accepted(&key))
    }

    async fn on_notification(&self, notification: ServerNotification) {
        if let ServerNotification::Subscription { subscription_id, notification } = notification
            && let ServerNotification::FinalTaskStatusChanged(params) = *notification
        {
            // The test may be over.
            let _ = self.0.send((subscription_id, params.task));
        }
    }
}

fn accepted(field: &str) -> ElicitResult {
    let value = ElicitFieldValue::String(ANSWER.to_owned());
    ElicitResult {
        action: ElicitAction::Accept,
        content: Some([(field.to_owned(), value)].into()),
        meta: None,
    }
}

/// The answer to a question with one field.
pub(crate) fn answers(key: &str, field: &str) -> InputResponses {
    [(key.to_owned(), InputResponse::Elicit(accepted(field)))].into_iter().collect()
}

pub(crate) struct Client {
    pub(crate) mcp: McpClient,
    heard: Mutex<UnboundedReceiver<News>>,
}

impl Client {
    /// Of revision 2026-07-28, with tasks.
    pub(crate) async fn modern(door: Door) -> Client {
        let support = ProtocolSupport::try_new(["2026-07-28"]).expect("a revision that it knows");
        let builder = McpClient::builder().protocol_support(support).with_tasks().with_elicitation();
        let (tell, heard) = unbounded_channel();
        let mcp = connected(builder, door, Ears(tell)).await;
        soon("discovery", mcp.discover("tower-peer", "1.0.0")).await.expect("discovery");
        Client { mcp, heard: Mutex::new(heard) }
    }

    /// Of revision 2025-11-25, which knows nothing of tasks and asks no user.
    pub(crate) async fn plain(door: Door) -> Client {
        let (tell, heard) = unbounded_channel();
        let mcp = connected(McpClient::builder(), door, Ears(tell)).await;
        soon("initialization", mcp.initialize("tower-peer", "1.0.0")).await.expect("initialization");
        Client { mcp, heard: Mutex::new(heard) }
    }

    /// Calls a tool that is expected to become a task.
    pub(crate) async fn task(&self, tool: &str, arguments: Value) -> Task {
        let called = self.mcp.call_tool_once_task_aware(tool, arguments, None, None);
        match soon("an answer", called).await.expect("a task") {
            TaskAwareCallToolOutcome::Task(created) => created.task,
            _ => panic!("{tool} became no task"),
        }
    }

    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> CallToolResult {
        soon("an answer", self.mcp.call_tool(tool, arguments)).await.expect("an answer of the tool")
    }

    /// Calls a tool that is expected to answer with a handle.
    pub(crate) async fn handle(&self, tool: &str, arguments: Value) -> String {
        let answer = self.call(tool, arguments).await;
        let handle = answer.structured_content.as_ref().and_then(|content| content["handle"].as_str());
        handle.unwrap_or_else(|| panic!("no handle: {answer:?}")).to_owned()
    }

    /// Polls a job once.
    pub(crate) async fn poll(&self, handle: &str) -> CallToolResult {
        self.call("poll_result", json!({"handle": handle, "wait_ms": 20_000})).await
    }

    /// Listens for these tasks. Returns those of them that will be told of, too.
    pub(crate) async fn listen(&self, tasks: &[&str]) -> (SubscriptionHandle, Vec<String>) {
        let task_ids = Some(tasks.iter().map(|&task| task.to_owned()).collect());
        let filter = SubscriptionFilter { task_ids, ..SubscriptionFilter::default() };
        let mut listening = self.mcp.listen_subscriptions(filter).await.expect("a subscription");
        let accepted = soon("the acknowledgement", listening.acknowledged()).await.expect("a filter");
        (listening, accepted.task_ids.unwrap_or_default())
    }

    /// What is pushed next.
    pub(crate) async fn hears(&self) -> News {
        soon("a notification", async { self.heard.lock().await.recv().await }).await.expect("it is connected")
    }

    /// What is pushed until `wanted` accepts it, which is returned.
    pub(crate) async fn hears_until(&self, wanted: impl Fn(&DetailedTask) -> bool) -> DetailedTask {
        loop {
            let (_, task) = self.hears().await;
            if wanted(&task) {
                return task;
            }
        }
    }

    pub(crate) async fn leaves(self) {
        soon("the end of the client", self.mcp.shutdown()).await.expect("it closes");
    }
}

async fn connected(builder: tower_mcp::client::McpClientBuilder, door: Door, ears: Ears) -> McpClient {
    let connecting = async {
        match door {
            Door::Url(url) => builder.connect(HttpClientTransport::new(url), ears).await,
            Door::Command(mut command) => {
                let transport = StdioClientTransport::spawn_command(&mut command).await.expect("it starts");
                builder.connect(transport, ears).await
            }
        }
    };
    soon("the connection", connecting).await.expect("a connection")
}

/// What a task says of itself.
pub(crate) fn message(task: &DetailedTask) -> &str {
    task.metadata().status_message.as_deref().unwrap_or_default()
}

/// The text of a completed task, and whether the tool says that it is an error.
pub(crate) fn outcome(task: &DetailedTask) -> (&str, bool) {
    let result = task.result().unwrap_or_else(|| panic!("it is not completed: {task:?}"));
    let text = result["content"][0]["text"].as_str().unwrap_or_default();
    (text, result.get("isError").and_then(Value::as_bool).unwrap_or_default())
}

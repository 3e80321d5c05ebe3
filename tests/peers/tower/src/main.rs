//! `tower-upstream`: an MCP server written with `tower-mcp`, over stdio, or with `--http` at a free port that it tells on stderr.
//!
//! What its tools do is up to the test, which holds their reins (`reins.rs`): `task` is a native task from its start, `plain` an
//! ordinary call that reports progress.

mod reins;

use std::sync::OnceLock;

use reins::{Order, Reins};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::layer::layer_fn;
use tower::util::MapResponse;
use tower_mcp::extract::{Context, Json};
use tower_mcp::protocol::{
    ElicitFormParams, ElicitFormSchema, ElicitRequestParams, InputRequest, InputRequests, McpResponse,
};
use tower_mcp::router::RouterResponse;
use tower_mcp::tasks::DetailedTask;
use tower_mcp::{
    BoxError, CallToolResult, Error, HttpTransport, McpRouter, RequestContext, Result, StdioTransport,
    TaskContext, TaskOutcome, Tool, ToolBuilder,
};

/// Longer than any test waits: who hears of a change before that was told of it.
const POLL_INTERVAL_MS: u64 = 600_000;

/// The router tells by itself of what it does with a task; what a tool does with it is up to the tool.
static ROUTER: OnceLock<McpRouter> = OnceLock::new();

#[tokio::main]
async fn main() -> std::result::Result<(), BoxError> {
    let router =
        McpRouter::new().server_info("tower-upstream", "1.0.0").tool(task()).tool(plain()).with_tasks();
    if std::env::args().any(|argument| argument == "--http") {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        eprintln!("listening on http://{}", listener.local_addr()?);
        let server = HttpTransport::new(router).layer(layer_fn(layered));
        axum::serve(listener, server.into_router()).await?;
    } else {
        StdioTransport::new(router).layer(layer_fn(layered)).run().await?;
    }
    Ok(())
}

/// Between the transport and the router is where the router is known that can tell a transport's listeners.
fn layered(router: McpRouter) -> MapResponse<McpRouter, fn(RouterResponse) -> RouterResponse> {
    let _ = ROUTER.set(router.clone());
    MapResponse::new(router, seldom_polled)
}

/// The interval at which tasks are to be polled has no setting.
fn seldom_polled(mut response: RouterResponse) -> RouterResponse {
    let metadata = match &mut response.inner {
        Ok(McpResponse::FinalCreateTask(created)) => Some(&mut created.task.metadata),
        Ok(McpResponse::FinalGetTask(got)) => match &mut got.task {
            DetailedTask::Working { metadata } | DetailedTask::InputRequired { metadata, .. } => {
                Some(metadata)
            }
            _ => None,
        },
        _ => None,
    };
    if let Some(metadata) = metadata {
        metadata.poll_interval_ms = Some(POLL_INTERVAL_MS);
    }
    response
}

fn steered_by_reins(tool: ToolBuilder) -> ToolBuilder {
    tool.input_schema(json!({
        "type": "object",
        "properties": {"reins": {"type": "string", "description": "The socket of the test"}},
        "required": ["reins"],
    }))
}

fn task() -> Tool {
    steered_by_reins(ToolBuilder::new("task").description("A native task"))
        .live_task_handler(|task: TaskContext, arguments: Value| async move {
            let mut reins = Reins::taken(&arguments).await?;
            loop {
                let order = tokio::select! {
                    () = task.cancelled() => {
                        reins.say("cancelled").await?;
                        return Ok(TaskOutcome::Cancelled { message: None });
                    }
                    order = reins.order() => order?,
                };
                match order {
                    Order::Progress(message) => {
                        task.working(message).await?;
                        tell(&task).await;
                    }
                    Order::Ask(key) => {
                        let asked = task.park_input(question(&key)).await?;
                        tell(&task).await;
                        let answers = asked.wait().await?;
                        reins.say(&format!("answered {}", json!(answers))).await?;
                    }
                    Order::Done(text) => return Ok(TaskOutcome::Completed(CallToolResult::text(text))),
                    Order::Fail(text) => return Ok(TaskOutcome::Completed(CallToolResult::error(text))),
                }
            }
        })
        .build()
}

async fn tell(task: &TaskContext) {
    if let Some(router) = ROUTER.get() {
        router.notify_task_status_changed(task.task_id()).await;
    }
}

fn plain() -> Tool {
    steered_by_reins(ToolBuilder::new("plain").description("An ordinary call"))
        .extractor_handler((), |call: Context, Json(arguments): Json<Value>| async move {
            let mut reins = Reins::taken(&arguments).await?;
            run(&call.into_inner(), &mut reins).await
        })
        .build()
}

async fn run(call: &RequestContext, reins: &mut Reins) -> Result<CallToolResult> {
    let mut steps = 0.0;
    loop {
        let order = tokio::select! {
            () = call.cancelled() => {
                reins.say("cancelled").await?;
                return Err(Error::tool("cancelled"));
            }
            order = reins.order() => order?,
        };
        match order {
            Order::Progress(message) => {
                steps += 1.0;
                call.report_progress(steps, None, Some(&message)).await;
            }
            Order::Ask(_) => return Err(Error::tool("an ordinary call of this server asks nothing")),
            Order::Done(text) => return Ok(CallToolResult::text(text)),
            Order::Fail(text) => return Ok(CallToolResult::error(text)),
        }
    }
}

fn question(key: &str) -> InputRequests {
    let form = ElicitFormParams {
        mode: None,
        message: format!("What is the {key}?"),
        requested_schema: ElicitFormSchema::new().string_field(key, None, true),
        meta: None,
    };
    InputRequests::from_iter([(key.to_owned(), InputRequest::Elicit(ElicitRequestParams::Form(form)))])
}

//! `tower-mcp`'s server behind the gateway: its tool is a task from the start, and it tells of every change. It wants to be polled
//! so seldom that nothing here would end in time without what it tells.

use serde_json::json;
use tower_mcp::protocol::{CallToolResult, TaskStatus};

use crate::client::{ANSWER, Client, answers, message, outcome};
use crate::stage::{Seat, Stage, Upstream};

/// The server over the transport that the client's is not: of the four pairs, those that differ most.
async fn behind(stage: &mut Stage, seat: Seat) -> Upstream {
    match seat {
        Seat::Served => stage.tower(),
        Seat::Wrapped => stage.tower_over_http().await,
    }
}

fn status(answer: &CallToolResult) -> &str {
    answer.structured_content.as_ref().and_then(|content| content["status"].as_str()).unwrap_or("completed")
}

async fn a_task_of_the_server_is_a_task_of_ours(seat: Seat) {
    let mut stage = Stage::new();
    let server = behind(&mut stage, seat).await;
    let client = Client::modern(stage.door(seat, &server).await).await;
    let (stable, arguments) = stage.reins();
    let task = client.task("task", arguments).await;
    let id = task.metadata.task_id.as_str();
    let mut tool = stable.taken().await;
    let (_listening, _) = client.listen(&[id]).await;
    tool.order("progress one").await;
    client.hears_until(|told| message(told).contains("one")).await;

    tool.order("ask colour").await;
    let told = client.hears_until(|told| told.status() == TaskStatus::InputRequired).await;
    let key = told.input_requests().and_then(|asked| asked.keys().next()).expect("a question").clone();
    client.mcp.task_update(id, answers(&key, "colour")).await.expect("an acknowledgement");
    let said = tool.said().await;
    assert!(said.starts_with("answered") && said.contains(ANSWER), "{said}");

    tool.order("done with it").await;
    let told = client.hears_until(|told| told.status() == TaskStatus::Completed).await;
    assert_eq!(outcome(&told), ("with it", false));
    client.leaves().await;
}

async fn cancelling_a_task_of_ours_cancels_the_servers(seat: Seat) {
    let mut stage = Stage::new();
    let server = behind(&mut stage, seat).await;
    let client = Client::modern(stage.door(seat, &server).await).await;
    let (stable, arguments) = stage.reins();
    let task = client.task("task", arguments).await;
    let mut tool = stable.taken().await;
    let (_listening, _) = client.listen(&[&task.metadata.task_id]).await;
    client.mcp.task_cancel(&task.metadata.task_id, None).await.expect("an acknowledgement");
    assert_eq!(tool.said().await, "cancelled");
    let told = client.hears_until(|told| told.status() != TaskStatus::Working).await;
    assert_eq!(told.status(), TaskStatus::Cancelled);
    client.leaves().await;
}

async fn a_plain_client_gets_a_handle_and_then_the_result(seat: Seat) {
    let mut stage = Stage::new();
    let server = behind(&mut stage, seat).await;
    let client = Client::plain(stage.door(seat, &server).await).await;
    let (stable, arguments) = stage.reins();
    let handle = client.handle("task", arguments).await;
    stable.taken().await.order("done with it").await;
    assert_eq!(client.poll(&handle).await.all_text(), "with it");
    client.leaves().await;
}

async fn a_plain_client_answers_and_cancels(seat: Seat) {
    let mut stage = Stage::new();
    let server = behind(&mut stage, seat).await;
    let client = Client::plain(stage.door(seat, &server).await).await;
    let (stable, arguments) = stage.reins();
    let handle = client.handle("task", arguments).await;
    let mut tool = stable.taken().await;

    tool.order("ask colour").await;
    let asked = client.poll(&handle).await;
    assert_eq!(status(&asked), "input_required", "{asked:?}");
    assert!(asked.all_text().contains("What is the colour?"), "{asked:?}");
    client.call("answer_job", json!({"handle": handle, "answers": {"q1": {"colour": ANSWER}}})).await;
    let said = tool.said().await;
    assert!(said.starts_with("answered") && said.contains(ANSWER), "{said}");

    client.call("control_job", json!({"handle": handle, "action": "cancel"})).await;
    assert_eq!(tool.said().await, "cancelled");
    let ended = client.poll(&handle).await;
    assert_eq!(status(&ended), "cancelled", "{ended:?}");
    client.leaves().await;
}

at_both_seats!(
    a_task_of_the_server_is_a_task_of_ours,
    cancelling_a_task_of_ours_cancels_the_servers,
    a_plain_client_gets_a_handle_and_then_the_result,
    a_plain_client_answers_and_cancels,
);

//! `tower-mcp`'s client in front of the gateway: ordinary calls become tasks, and every change of them is pushed to it.

use serde_json::json;
use tower_mcp::protocol::TaskStatus;

use crate::client::{ANSWER, Client, answers, message, outcome};
use crate::stage::{Seat, Stage, fixture};

const UNKNOWN: &str = "job_aaaaaaaaaaaaaaaaaaaaaaaaaa";

async fn every_change_of_a_task_is_pushed(seat: Seat) {
    let mut stage = Stage::new();
    let tower = stage.tower();
    let client = Client::modern(stage.door(seat, &tower).await).await;
    let (stable, arguments) = stage.reins();
    let task = client.task("plain", arguments).await;
    let id = task.metadata.task_id.as_str();
    assert_eq!(task.status, TaskStatus::Working);
    let mut tool = stable.taken().await;

    let (listening, accepted) = client.listen(&[id, UNKNOWN]).await;
    assert_eq!(accepted, [id], "what nobody knows is not promised");
    let (subscription, first) = client.hears().await;
    assert_eq!((&subscription, first.task_id(), first.status()), (listening.id(), id, TaskStatus::Working));
    for step in ["one", "two"] {
        tool.order(&format!("progress {step}")).await;
        let told = client.hears_until(|told| message(told).contains(step)).await;
        assert_eq!(told.status(), TaskStatus::Working);
    }
    tool.order("done with it").await;
    let told = client.hears_until(|told| told.status() != TaskStatus::Working).await;
    assert_eq!(outcome(&told), ("with it", false));
    let got = client.mcp.task_get_detailed(id).await.expect("it is still there");
    assert_eq!(got.task.result(), told.result(), "what is pushed is what is got");
    listening.cancel().await.expect("it ends");
    client.leaves().await;
}

async fn a_tool_that_fails_completes_its_task(seat: Seat) {
    let mut stage = Stage::new();
    let tower = stage.tower();
    let client = Client::modern(stage.door(seat, &tower).await).await;
    let (stable, arguments) = stage.reins();
    let task = client.task("plain", arguments).await;
    let (_listening, _) = client.listen(&[&task.metadata.task_id]).await;
    stable.taken().await.order("fail at it").await;
    let told = client.hears_until(|told| told.status() != TaskStatus::Working).await;
    assert_eq!(outcome(&told), ("at it", true));
    client.leaves().await;
}

async fn cancelling_is_pushed_and_reaches_the_tool(seat: Seat) {
    let mut stage = Stage::new();
    let tower = stage.tower();
    let client = Client::modern(stage.door(seat, &tower).await).await;
    let (stable, arguments) = stage.reins();
    let task = client.task("plain", arguments).await;
    let mut tool = stable.taken().await;
    let (_listening, _) = client.listen(&[&task.metadata.task_id]).await;
    client.mcp.task_cancel(&task.metadata.task_id, None).await.expect("an acknowledgement");
    assert_eq!(tool.said().await, "cancelled");
    let told = client.hears_until(|told| told.status() != TaskStatus::Working).await;
    assert_eq!(told.status(), TaskStatus::Cancelled);
    client.leaves().await;
}

async fn a_question_is_pushed_and_answered(seat: Seat) {
    let mut stage = Stage::new();
    let client = Client::modern(stage.door(seat, &fixture()).await).await;
    let task = client.task("ask_elicitation", json!({})).await;
    let id = task.metadata.task_id.as_str();
    let (_listening, _) = client.listen(&[id]).await;
    let told = client.hears_until(|told| told.status() == TaskStatus::InputRequired).await;
    let key = told.input_requests().and_then(|asked| asked.keys().next()).expect("a question").clone();
    client.mcp.task_update(id, answers(&key, "colour")).await.expect("an acknowledgement");
    let told = client.hears_until(|told| told.status() == TaskStatus::Completed).await;
    assert!(outcome(&told).0.contains(ANSWER), "{told:?}");
    client.leaves().await;
}

/// What the client does by itself: it polls, and has its user asked.
async fn a_call_that_asks_comes_to_its_result(seat: Seat) {
    let mut stage = Stage::new();
    let client = Client::modern(stage.door(seat, &fixture()).await).await;
    let answer = client.call("ask_elicitation", json!({})).await;
    assert!(answer.all_text().contains(ANSWER), "{answer:?}");
    client.leaves().await;
}

at_both_seats!(
    every_change_of_a_task_is_pushed,
    a_tool_that_fails_completes_its_task,
    cancelling_is_pushed_and_reaches_the_tool,
    a_question_is_pushed_and_answered,
    a_call_that_asks_comes_to_its_result,
);

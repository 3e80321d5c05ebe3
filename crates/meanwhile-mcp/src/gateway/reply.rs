//! Where the answer of a request goes: to the client as a line of its own, or into the answer of its batch.

use meanwhile_core::Json;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::message::{Answer, Id, Message, error, to_json};
use crate::transport::Outbound;
use crate::words::Said;

/// Where an answer goes. Dropping it is to answer nothing, as for a cancelled request.
#[derive(Clone)]
pub(super) enum ReplyTo {
    Client(Outbound),
    Batch(mpsc::Sender<String>),
}

impl ReplyTo {
    pub(super) fn client(down: &Outbound) -> ReplyTo {
        ReplyTo::Client(down.clone())
    }

    /// A batch is answered by one array, once every request of it has been answered or dropped.
    pub(super) fn batch(down: &Outbound) -> ReplyTo {
        let (sender, mut lines) = mpsc::channel::<String>(16);
        let down = down.clone();
        tokio::spawn(async move {
            let mut answers = Vec::new();
            while let Some(line) = lines.recv().await {
                answers.push(line);
            }
            if !answers.is_empty() {
                down.send(format!("[{}]", answers.join(","))).await;
            }
        });
        ReplyTo::Batch(sender)
    }

    pub(super) async fn send(&self, id: Id, answer: Answer) {
        self.send_line(Message::response(id, answer).to_line()).await;
    }

    pub(super) async fn send_line(&self, line: String) {
        match self {
            ReplyTo::Client(down) => drop(down.send(line).await),
            ReplyTo::Batch(batch) => drop(batch.send(line).await),
        }
    }
}

/// A `CallToolResult` of ours. Blocks and structured content stay the texts they are: a `serde_json::Value` could not hold
/// every number.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ToolResult {
    pub(super) content: Vec<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) structured_content: Option<Json>,
    pub(super) is_error: bool,
}

impl ToolResult {
    pub(super) fn answer(&self) -> Answer {
        Answer::Result(to_json(self))
    }
}

/// A text block.
pub(super) fn text_block(text: &str) -> Json {
    to_json(&serde_json::json!({"type": "text", "text": text}))
}

/// What we say, as the result of a tool call.
pub(super) fn tool_result(said: &Said) -> Answer {
    let content = vec![text_block(&said.text)];
    ToolResult { content, structured_content: Some(to_json(&said.structured)), is_error: said.is_error }
        .answer()
}

/// A tool call that went wrong, in words for the model.
pub(super) fn tool_error(text: &str) -> Answer {
    ToolResult { content: vec![text_block(text)], structured_content: None, is_error: true }.answer()
}

/// An error of the protocol.
pub(super) fn protocol_error(code: i64, message: &str) -> Answer {
    Answer::Error(error(code, message))
}

//! Where the answer of a request goes: to the client as a line of its own, or into the answer of its batch.

use std::sync::Arc;

use meanwhile_core::Json;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::message::{Answer, Fields, INTERNAL_ERROR, Id, Message, UPSTREAM_GONE, error, to_json};
use crate::modern;
use crate::transport::Outbound;
use crate::words::Said;

/// How many messages may wait for a stream before whoever sends the next one waits too.
const STREAM: usize = 64;

/// Where an answer goes, and what is said before it. Dropping it is to answer nothing, as for a cancelled request.
#[derive(Clone)]
pub struct ReplyTo {
    way: Way,
    dress: Option<Arc<Dress>>,
}

/// What an answer of the modern era has more than the legacy shape.
struct Dress {
    server: Option<Json>,
    is_cacheable: bool,
}

impl From<Way> for ReplyTo {
    fn from(way: Way) -> ReplyTo {
        ReplyTo { way, dress: None }
    }
}

#[derive(Clone)]
enum Way {
    Client(Outbound),
    Batch(Outbound, mpsc::Sender<String>),
    Stream(Id, mpsc::Sender<Streamed>),
}

/// What comes on a stream of its own for one request.
#[derive(Debug, PartialEq, Eq)]
pub enum Streamed {
    /// A notification or a request that belongs to it.
    Before(String),
    /// Its answer: the last.
    Answer(String),
}

impl ReplyTo {
    /// A line of its own on the client's one stream.
    #[must_use]
    pub fn client(down: &Outbound) -> ReplyTo {
        Way::Client(down.clone()).into()
    }

    /// A batch is answered by one array, once every request of it has been answered or dropped.
    #[must_use]
    pub fn batch(down: &Outbound) -> ReplyTo {
        let (sender, mut lines) = mpsc::channel::<String>(STREAM);
        let to = down.clone();
        tokio::spawn(async move {
            let mut answers = Vec::new();
            while let Some(line) = lines.recv().await {
                answers.push(line);
            }
            if !answers.is_empty() {
                to.send(format!("[{}]", answers.join(","))).await;
            }
        });
        Way::Batch(down.clone(), sender).into()
    }

    /// A stream of its own, whose request the client knows as `id`, whatever it is called here. It ends when the last clone
    /// is gone.
    #[must_use]
    pub fn stream(id: Id) -> (ReplyTo, mpsc::Receiver<Streamed>) {
        let (sender, stream) = mpsc::channel(STREAM);
        (Way::Stream(id, sender).into(), stream)
    }

    /// The same way, for the answer of a modern request of this method; `server` is what the upstream calls itself.
    pub(crate) fn modern(self, server: Option<Json>, method: &str) -> ReplyTo {
        let is_cacheable = modern::is_cacheable(method);
        ReplyTo { way: self.way, dress: Some(Arc::new(Dress { server, is_cacheable })) }
    }

    /// Whether it is a request of the modern era that is answered.
    pub(super) fn is_modern(&self) -> bool {
        self.dress.is_some()
    }

    /// Answers the request `id`.
    pub(crate) async fn send(&self, id: Id, answer: Answer) {
        self.respond(id, answer, Fields::default()).await;
    }

    /// As [`ReplyTo::send`], with the rest of the envelope.
    pub(super) async fn respond(&self, id: Id, answer: Answer, extra: Fields) {
        let id = self.known_as(id);
        let answer = match (&self.dress, answer) {
            (Some(dress), Answer::Result(result)) => {
                Answer::Result(modern::result(&result, dress.server.as_ref(), dress.is_cacheable))
            }
            (Some(_), Answer::Error(error)) => Answer::Error(modern::error(&error)),
            (None, answer) => answer,
        };
        self.send_line(Message::Response { id, answer, extra }.to_line()).await;
    }

    /// How the client calls the request `id`.
    pub(crate) fn known_as(&self, id: Id) -> Id {
        match &self.way {
            Way::Stream(theirs, _) => theirs.clone(),
            _ => id,
        }
    }

    /// Answers with a whole line.
    pub(crate) async fn send_line(&self, line: String) {
        match &self.way {
            Way::Client(down) => drop(down.send(line).await),
            Way::Batch(_, batch) => drop(batch.send(line).await),
            Way::Stream(_, stream) => drop(stream.send(Streamed::Answer(line)).await),
        }
    }

    /// Says something before the answer. Returns whether anybody may still hear it.
    pub async fn tell(&self, line: String) -> bool {
        match &self.way {
            Way::Client(down) | Way::Batch(down, _) => down.send(line).await,
            Way::Stream(_, stream) => stream.send(Streamed::Before(line)).await.is_ok(),
        }
    }

    /// Resolves when nobody hears any more what is said on this way.
    pub(crate) async fn closed(&self) {
        match &self.way {
            Way::Client(down) | Way::Batch(down, _) => down.closed().await,
            Way::Stream(_, stream) => stream.closed().await,
        }
    }

    /// As [`ReplyTo::tell`], but only if there is room: for what a later line replaces.
    pub(super) fn tell_soon(&self, line: String) {
        match &self.way {
            Way::Client(down) | Way::Batch(down, _) => down.send_soon(line),
            Way::Stream(_, stream) => drop(stream.try_send(Streamed::Before(line))),
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

/// That there is no server to answer. The modern era leaves our code for that to implementations which had it before.
pub(super) fn gone(is_modern: bool, why: &str) -> Answer {
    protocol_error(if is_modern { INTERNAL_ERROR } else { UPSTREAM_GONE }, why)
}

/// An error of the protocol.
pub(super) fn protocol_error(code: i64, message: &str) -> Answer {
    Answer::Error(error(code, message))
}

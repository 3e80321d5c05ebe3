//! `subscriptions/listen` to several servers as to one.

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{HubConversation, PATIENCE, Request, names};
use crate::gateway::{ReplyTo, Streamed};
use crate::message::{Fields, Message, to_json};

const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

impl HubConversation {
    /// Listens to all of them; what they accept is acknowledged once.
    pub(super) async fn listen(&self, request: Request, reply: ReplyTo) {
        let id = reply.known_as(request.id.clone());
        let (sender, said) = mpsc::channel(64);
        let mut readers = JoinSet::new();
        for (number, member) in self.members.iter().enumerate() {
            let (own, mut streamed) = ReplyTo::stream(id.clone());
            let mut request = Request {
                id: request.id.clone(),
                method: request.method.clone(),
                params: request.params.clone(),
                extra: Fields::default(),
                is_modern: true,
            };
            // All see the same jobs; one tells of them.
            if number > 0 {
                let mut wants: Fields = request.params.read("notifications").unwrap_or_default();
                wants.take("taskIds");
                request.params.set("notifications", wants.to_json());
            }
            member.conversation.receive(request.message(), own).await;
            let sender = sender.clone();
            readers.spawn(async move {
                while let Some(said) = streamed.recv().await {
                    if sender.send((number, said)).await.is_err() {
                        break;
                    }
                }
            });
        }
        let members = self.members.len();
        tokio::spawn(async move {
            let _readers = readers;
            tokio::select! {
                () = bring(said, members, &reply) => {}
                () = reply.closed() => {}
            }
        });
    }
}

/// Brings what they say to the client: one acknowledgement first, one end last.
async fn bring(mut said: mpsc::Receiver<(usize, Streamed)>, members: usize, reply: &ReplyTo) {
    let mut early = Vec::new();
    let mut end = None;
    let mut accepted = json!({});
    let mut acknowledgement: Option<Value> = None;
    let mut silent = members;
    let acknowledged = async {
        while silent > 0 {
            let Some((_, next)) = said.recv().await else { return };
            match next {
                Streamed::Before(line) => match acknowledged(&line) {
                    Some(message) => {
                        names::unite(&mut accepted, &message["params"]["notifications"]);
                        acknowledgement.get_or_insert(message);
                        silent -= 1;
                    }
                    None => early.push(line),
                },
                // One that does not let itself be listened to says so at once.
                Streamed::Answer(line) => {
                    end = Some(line);
                    silent -= 1;
                }
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, acknowledged).await;
    if let Some(mut message) = acknowledgement {
        message["params"]["notifications"] = accepted;
        let params = to_json(&message["params"]);
        reply.tell(Message::notification(ACKNOWLEDGED, params).to_line()).await;
        for line in early {
            reply.tell(line).await;
        }
        end = None;
    } else if let Some(line) = end {
        return reply.send_line(line).await;
    }
    while let Some((_, next)) = said.recv().await {
        match next {
            Streamed::Before(line) if acknowledged_late(&line) => {}
            Streamed::Before(line) => drop(reply.tell(line).await),
            Streamed::Answer(line) => end = Some(line),
        }
    }
    if let Some(line) = end {
        reply.send_line(line).await;
    }
}

fn acknowledged(line: &str) -> Option<Value> {
    let message: Value = serde_json::from_str(line).ok()?;
    (message["method"] == json!(ACKNOWLEDGED)).then_some(message)
}

fn acknowledged_late(line: &str) -> bool {
    line.contains(ACKNOWLEDGED) && acknowledged(line).is_some()
}

//! `subscriptions/listen` to several servers as to one.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::member::{News, PATIENCE};
use super::{HubConversation, Request, names};
use crate::gateway::{LISTS, ReplyTo, Streamed};
use crate::message::{Answer, Fields, INVALID_PARAMS, Id, Incoming, Message, error, parse, to_json};
use crate::modern::SUBSCRIPTION_ID;

const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

impl HubConversation {
    /// Listens to all of them; what they accept is acknowledged once.
    pub(super) async fn listen(&self, request: Request, reply: ReplyTo) {
        let id = reply.known_as(request.id.clone());
        let Some(wants) = request.params.read::<Fields>("notifications") else {
            let why = "`notifications`: an object that says what is to be told";
            return reply.send(request.id, Answer::Error(error(INVALID_PARAMS, why))).await;
        };
        // Only one of them is asked for those, so that they cannot refuse it as one.
        if wants.read::<Option<Vec<String>>>("taskIds").is_none() && wants.get("taskIds").is_some() {
            let why = "`notifications/taskIds`: must be a list of ids";
            return reply.send(request.id, Answer::Error(error(INVALID_PARAMS, why))).await;
        }
        let of_jobs = self.of_jobs();
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
            if number != of_jobs {
                let mut wants = wants.clone();
                wants.take("taskIds");
                request.params.set("notifications", wants.to_json());
            }
            let (member, sender) = (member.clone(), sender.clone());
            readers.spawn(async move {
                member.conversation().receive(request.message(), own).await;
                while let Some(said) = streamed.recv().await {
                    if sender.send((number, said)).await.is_err() {
                        break;
                    }
                }
            });
        }
        let late = self.members.iter().filter(|member| member.is_late()).count();
        let (all, news) = (self.members.len(), self.news.clone());
        let listener = Listener { id, reply, wants, all, late, news };
        tokio::spawn(async move {
            let _readers = readers;
            tokio::select! {
                () = listener.bring(said) => {}
                () = listener.reply.closed() => {}
            }
        });
    }
}

/// Who listens to all of them.
struct Listener {
    id: Id,
    reply: ReplyTo,
    wants: Fields,
    /// How many they are.
    all: usize,
    /// How many of them are not waited for.
    late: usize,
    news: Arc<News>,
}

/// What they have said to the request.
#[derive(Default)]
struct Accepted {
    /// What is told of.
    notifications: Value,
    /// What came before all had said so.
    early: Vec<String>,
    is_any: bool,
    /// What one said that does not let itself be listened to.
    refusal: Option<String>,
}

impl Listener {
    /// Brings what they say to the client: one acknowledgement first, one end last.
    async fn bring(&self, mut said: mpsc::Receiver<(usize, Streamed)>) {
        let mut news = self.news.follow();
        let accepted = self.accepted(&mut said).await;
        if let Some(refusal) = accepted.refusal.filter(|_| !accepted.is_any && self.late == 0) {
            return self.reply.send_line(refusal).await;
        }
        let told_of = accepted.notifications;
        self.tell(ACKNOWLEDGED, json!({"notifications": told_of})).await;
        for line in accepted.early {
            self.pass(&told_of, line).await;
        }
        let (mut end, mut known) = (None, *news.borrow_and_update());
        loop {
            tokio::select! {
                next = said.recv() => match next {
                    Some((_, Streamed::Before(line))) => self.pass(&told_of, line).await,
                    Some((_, Streamed::Answer(line))) => end = Some(line),
                    None => break,
                },
                Ok(()) = news.changed() => {
                    let now = *news.borrow_and_update();
                    for (number, (_, notification, filter)) in LISTS.iter().enumerate() {
                        if now[number] != known[number] && told_of[filter] == json!(true) {
                            self.tell(notification, json!({})).await;
                        }
                    }
                    known = now;
                }
            }
        }
        if let Some(line) = end {
            self.reply.send_line(line).await;
        }
    }

    /// Waits until all have said of what they tell, or have had the time to.
    async fn accepted(&self, said: &mut mpsc::Receiver<(usize, Streamed)>) -> Accepted {
        // That there are other tools is told here, where a server is late.
        let ours = self.wants.read("toolsListChanged").filter(|wanted| *wanted);
        let notifications =
            ours.map_or_else(|| json!({}), |wanted: bool| json!({"toolsListChanged": wanted}));
        let mut accepted = Accepted { notifications, ..Accepted::default() };
        let (until, mut silent) = (Instant::now() + PATIENCE, self.all - self.late);
        while silent > 0 {
            let Ok(Some((_, next))) = tokio::time::timeout_at(until, said.recv()).await else { break };
            match next {
                Streamed::Before(line) => {
                    let message: Value = serde_json::from_str(&line).unwrap_or_default();
                    if message["method"] == json!(ACKNOWLEDGED) {
                        names::unite(&mut accepted.notifications, &message["params"]["notifications"]);
                        (accepted.is_any, silent) = (true, silent - 1);
                    } else {
                        accepted.early.push(line);
                    }
                }
                // One that does not let itself be listened to says so at once.
                Streamed::Answer(line) => {
                    accepted.refusal = Some(line);
                    silent -= 1;
                }
            }
        }
        accepted
    }

    /// Passes on what one of them says, if the client was told that it will hear of that.
    async fn pass(&self, told_of: &Value, line: String) {
        let Ok(Incoming::One(Message::Notification { method, .. })) = parse(&line) else { return };
        let filter = match method.as_str() {
            // Of one that is late.
            ACKNOWLEDGED => return,
            "notifications/resources/updated" => Some("resourceSubscriptions"),
            method => LISTS.iter().find(|(_, known, _)| *known == method).map(|(_, _, filter)| *filter),
        };
        if filter.is_none_or(|filter| told_of.get(filter).is_some()) {
            self.reply.tell(line).await;
        }
    }

    /// Says something ourselves.
    async fn tell(&self, method: &str, mut params: Value) {
        params["_meta"] = json!({SUBSCRIPTION_ID: self.id.to_json()});
        self.reply.tell(Message::notification(method, to_json(&params)).to_line()).await;
    }
}

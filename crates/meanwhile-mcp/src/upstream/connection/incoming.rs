//! What a server sends: answers to whom they belong, progress to its call, and the rest to the inbox.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use meanwhile_core::{Json, Progress};
use serde::Deserialize;

use super::{Connection, Reply, TASK_NEWS, Wire, numbered};
use crate::dialect::{RELATED_TASK, without_related_task};
use crate::message::{self, Answer, Fields, INTERNAL_ERROR, Id, Message};
use crate::revision::Era;
use crate::upstream::modern::{self, Shape};
use crate::upstream::waiters::{Next, Open, Whose};

/// Progress messages are kept up to this length, in characters. Whoever waits sees them whole.
const MESSAGE_CHARS: usize = 1000;

/// What the server says.
impl Connection {
    /// Takes one message; `about` is our request that it belongs to, where the transport tells.
    pub(in crate::upstream) async fn take(self: &Arc<Self>, about: Option<u64>, message: Message) {
        let about = about.map(|sent_as| self.waiters().known_as(sent_as));
        let Some(message) = self.take_of_task(message).await else { return };
        if let Some((request, progress)) = self.under_its_token(&message) {
            return self.pass_in(Some(request), progress).await;
        }
        match message {
            Message::Response { id, answer, extra } if !id.is_unknown() => {
                self.response(&id, answer, extra).await;
            }
            Message::Notification { ref method, ref params, .. }
                if method == "notifications/progress" && self.progress(params.as_ref()) =>
            {
                // Whoever waits takes it before the next one is read, so that a burst does not outrun them.
                tokio::task::yield_now().await;
            }
            Message::Notification { method, params, extra } if self.era() == Era::Modern => {
                let (params, subscription) = modern::without_subscription(params);
                if method == "notifications/subscriptions/acknowledged" {
                    self.look_at_tasks(params.as_ref());
                    self.acknowledged.send_replace(subscription.unwrap_or_default());
                } else {
                    self.pass_in(about, Message::Notification { method, params, extra }).await;
                }
            }
            message => self.pass_in(about, message).await,
        }
    }

    /// The same, for what is said of a task that is followed: it belongs to the call that has become that task.
    async fn take_of_task(self: &Arc<Self>, message: Message) -> Option<Message> {
        let related = |params: &Json| -> Option<String> {
            let meta: Fields = Fields::parse(params.get()).ok()?.read("_meta")?;
            meta.read::<Fields>(RELATED_TASK)?.read("taskId")
        };
        match &message {
            // A client knows our tasks, and none of the server's.
            Message::Notification { method, params, .. } if TASK_NEWS.contains(&method.as_str()) => {
                let fields = params.as_ref().and_then(|params| Fields::parse(params.get()).ok());
                if let Some(task) = fields.and_then(|fields| fields.read::<String>("taskId")) {
                    self.waiters().wake(&task);
                }
                None
            }
            Message::Request { id, method, params: Some(params), extra }
                if params.get().contains(RELATED_TASK) =>
            {
                let call = related(params).and_then(|task| self.waiters().call_of(&task));
                let Some(call) = call else { return Some(message) };
                let (id, method, extra) = (id.clone(), method.clone(), extra.clone());
                let params = Some(without_related_task(params));
                self.pass_in(Some(call), Message::Request { id, method, params, extra }).await;
                None
            }
            _ => Some(message),
        }
    }

    /// A server tells of these tasks from now on. What became of them just before that, nobody tells.
    fn look_at_tasks(&self, acknowledged: Option<&Json>) {
        let accepted = acknowledged.and_then(|params| Fields::parse(params.get()).ok());
        let accepted = accepted.and_then(|accepted| accepted.read::<Fields>("notifications"));
        let tasks: Vec<String> = accepted.and_then(|accepted| accepted.read("taskIds")).unwrap_or_default();
        for task in tasks {
            self.waiters().wake(&task);
        }
    }

    pub(super) async fn pass_in(self: &Arc<Self>, about: Option<u64>, message: Message) {
        self.parties.receive(self, about, message).await;
    }

    /// Progress of a request that was passed on under a token of ours: under its own, and which request that is.
    fn under_its_token(&self, message: &Message) -> Option<(u64, Message)> {
        let Message::Notification { method, params: Some(params), extra } = message else { return None };
        if method != "notifications/progress" {
            return None;
        }
        let mut fields = Fields::parse(params.get()).ok()?;
        let id = numbered(&fields)?;
        fields.set("progressToken", self.waiters().open(id)?.token.clone()?);
        let (method, params) = (method.clone(), Some(fields.to_json()));
        Some((id, Message::Notification { method, params, extra: extra.clone() }))
    }

    async fn response(self: &Arc<Self>, id: &Id, answer: Answer, extra: Fields) {
        self.spoke.store(true, Ordering::Relaxed);
        let told = id.number().and_then(|id| self.waiters().asked_for(id, &["initialize", "tools/list"]));
        if let Some(method) = told {
            self.memory.learn(method, &answer);
        }
        let (answer, round) = match self.era() {
            Era::Legacy => (answer, None),
            Era::Modern => match (modern::shape(answer), id.number()) {
                (Shape::Final(answer), _) => (answer, None),
                (Shape::Interim(interim, answer), Some(sent_as))
                    if self.waiters().passes_rounds(sent_as, &interim) =>
                {
                    (answer, Some(interim))
                }
                (Shape::Interim(interim, _), Some(sent_as)) => {
                    let next = self.waiters().interim(sent_as, interim);
                    return self.go_on(next).await;
                }
                (Shape::Interim(..), None) => return,
            },
        };
        match id.number().map_or(Whose::Nobody, |id| self.waiters().take(id)) {
            Whose::Open(open) => {
                let answer = match &self.wire {
                    Wire::Lines(_) => answer,
                    Wire::Http(http) => http.learn(&self.server, &open.method, answer, self.era()),
                };
                match (answer, round) {
                    (Answer::Result(result), Some(interim)) => open.pass_round(result, extra, interim),
                    (answer, _) => drop(open.reply.send(Reply::Answer(answer, extra))),
                }
            }
            Whose::Cancelled(handle) => self.parties.late_answer(handle),
            Whose::Nobody => {
                tracing::warn!(server = self.server, %id, "an answer to no request of ours; it is ignored");
            }
        }
    }

    /// Does what follows from an interim result, or from the answer to one of its questions.
    pub(super) async fn go_on(self: &Arc<Self>, next: Next) {
        match next {
            Next::Ask(about, questions) => {
                for question in questions {
                    self.pass_in(Some(about), question).await;
                }
            }
            Next::Again(id) => {
                let again = self.waiters().again(id, self.next_id());
                if let Some(message) = again {
                    self.write(&message).await;
                }
            }
            Next::Failed(open, answer) => drop(open.reply.send(Reply::plain(answer))),
            Next::Wait => {}
            Next::Unknown => tracing::debug!(server = self.server, "nobody waits for this any more"),
        }
    }

    /// Whether the answer of this request has not come yet.
    pub(in crate::upstream) fn waits_for(&self, sent_as: u64) -> bool {
        self.waiters().is_unanswered(sent_as)
    }

    /// No answer will come any more: what became of the request is not known.
    pub(in crate::upstream) fn lose(&self, sent_as: u64, why: &str) {
        self.end_request(sent_as, Reply::Lost(format!("the MCP server `{}` {why}", self.server)));
    }

    /// The request has not reached the server, or the server has not taken it.
    pub(in crate::upstream) fn refuse(&self, sent_as: u64, why: &str) {
        let why = format!("the MCP server `{}` {why}", self.server);
        self.end_request(sent_as, Reply::Refused(why));
    }

    fn end_request(&self, sent_as: u64, reply: Reply) {
        let mut waiters = self.waiters();
        if waiters.is_unanswered(sent_as)
            && let Whose::Open(open) = waiters.take(sent_as)
        {
            let _ = open.reply.send(reply);
        }
    }

    /// A message was too long to be read. The answer is gone, but whoever waits for it is told; if it cannot be found out who
    /// that is, all who wait are.
    pub(in crate::upstream) fn too_long(&self, bytes: usize, max: usize, whose: Option<u64>) {
        let why = format!(
            "the MCP server `{}` sent a message of {bytes} bytes, more than the limit of {max}; raise it with --max-message",
            self.server
        );
        tracing::error!("{why}");
        let mut waiters = self.waiters();
        let whose = whose.filter(|id| waiters.knows(*id));
        for sent_as in whose.map_or_else(|| waiters.sent(), |id| vec![id]) {
            if let Whose::Open(open) = waiters.take(sent_as) {
                let _ = open.reply.send(Reply::plain(Answer::Error(message::error(INTERNAL_ERROR, &why))));
            }
        }
    }

    /// Brings progress under one of our tokens to whom it concerns. Returns whether the token was ours.
    fn progress(&self, params: Option<&Json>) -> bool {
        #[derive(Deserialize, Default)]
        struct Report {
            progress: Option<f64>,
            total: Option<f64>,
            message: Option<String>,
        }
        let Some(params) = params else { return false };
        let Ok(fields) = Fields::parse(params.get()) else { return false };
        let Some(id) = numbered(&fields) else { return false };
        // What does not read is still for whoever waits, word for word.
        let report = serde_json::from_str::<Report>(params.get()).unwrap_or_default();
        if let Some(Open { context: Some(context), signs, .. }) = self.waiters().open(id) {
            signs.progressed();
            context.progress(Progress {
                progress: report.progress.unwrap_or_default(),
                total: report.total,
                message: report.message.map(|message| message.chars().take(MESSAGE_CHARS).collect()),
                verbatim: Some(params.get().into()),
            });
        }
        true
    }
}

//! What servers ask: passed to the client that waits for the call and can answer, or else put to the call's job, where it
//! waits for whoever answers first. A client of the modern era is asked in rounds (`rounds`, `held`).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use meanwhile_core::{Handle, Json, RunContext, Signal, Status};
use serde_json::json;
use tokio::sync::oneshot;

use super::caller::Caller;
use super::passing::CANCELLED;
use super::reply::{ReplyTo, protocol_error};
use super::{Gateway, lock};
use crate::answers::{ELICITATION, ROOTS, SAMPLING, says_no};
use crate::message::{Answer, Fields, Id, METHOD_NOT_FOUND, Message, to_json};
use crate::upstream::Connection;

/// From this many open questions of servers on it is looked for such as can be forgotten.
const MANY: usize = 256;
/// A question that the user did not want to answer.
const REFUSED: i64 = -1;

/// Our ids of questions, each given once: a client of several gateways answers them all in one place. They begin anywhere, so
/// that what answers a question of another process is not taken for the answer to one of ours.
static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| {
    let mut bits = [0; 4];
    getrandom::fill(&mut bits).expect("the system gives random bits");
    // Some clients count no further than to 2³¹.
    AtomicU64::new(u64::from(u32::from_le_bytes(bits) >> 2))
});

/// The questions that are open.
#[derive(Default)]
pub(super) struct Questions {
    /// Those that the client was asked, by our id.
    asked: Mutex<HashMap<u64, Asked>>,
    /// Those that were put to a job, or into a round, and what is raised when their server takes them back.
    put: Mutex<HashMap<PutBy, Arc<Signal>>>,
}

/// Whose question it is, and its id there.
type PutBy = (usize, Id);

enum Asked {
    /// A server, under its own id, and what is raised when the question is no longer open.
    By(Arc<Connection>, Id, Settled),
    /// We ourselves.
    Here(oneshot::Sender<Answer>),
}

impl Asked {
    /// Whether it is what this server asked under this id of its own.
    fn is_by(&self, from: &Arc<Connection>, id: &Id) -> bool {
        matches!(self, Asked::By(server, theirs, _) if Arc::ptr_eq(server, from) && theirs == id)
    }
}

/// Raises its signal when it is dropped.
struct Settled(Arc<Signal>);

impl Drop for Settled {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// A question of a server.
pub(super) struct Question {
    pub(super) from: Arc<Connection>,
    pub(super) about: Option<u64>,
    pub(super) id: Id,
    pub(super) method: String,
    pub(super) params: Option<Json>,
    pub(super) extra: Fields,
}

impl Questions {
    fn ask(&self, asked: Asked) -> u64 {
        let id = 1 + NEXT.fetch_add(1, Ordering::Relaxed);
        let mut open = lock(&self.asked);
        if open.len() >= MANY {
            // Those of a server that is gone, which nobody can answer any more.
            open.retain(|_, asked| !matches!(asked, Asked::By(server, ..) if server.is_closed()));
        }
        open.insert(id, asked);
        id
    }

    /// Tells the client that it need not answer this one any more, if it has not.
    fn take_back(&self, way: &ReplyTo, id: u64) -> bool {
        let is_open = lock(&self.asked).remove(&id).is_some();
        if is_open {
            let params =
                to_json(&json!({"requestId": id, "reason": "answered elsewhere, or no longer asked"}));
            way.tell_soon(Message::notification(CANCELLED, params).to_line());
        }
        is_open
    }

    /// A question is put to a job, or into a round: by what it is known, and what is raised when its server takes it back,
    /// which it may do in its next line.
    fn put(&self, from: &Arc<Connection>, id: &Id) -> (PutBy, Arc<Signal>) {
        let key = (Arc::as_ptr(from) as usize, id.clone());
        let withdrawn = Arc::new(Signal::default());
        lock(&self.put).insert(key.clone(), withdrawn.clone());
        (key, withdrawn)
    }

    /// Nobody is asked it any more. Returns whether its server still wants to know.
    fn settle(&self, key: &PutBy) -> bool {
        lock(&self.put).remove(key).is_some()
    }
}

impl Question {
    /// As clients of the modern era are asked it.
    pub(super) fn to_json(&self) -> Json {
        let mut asked = Fields::default();
        asked.set("method", to_json(&self.method));
        if let Some(params) = &self.params {
            asked.set("params", params.clone());
        }
        asked.to_json()
    }

    async fn decline(self) {
        let answer = declined(&self.method);
        self.from.answer(self.id, answer, Fields::default()).await;
    }
}

/// A question of ours that nobody waits for any more is taken back.
struct TakenBack<'a> {
    questions: &'a Questions,
    way: &'a ReplyTo,
    id: u64,
}

impl Drop for TakenBack<'_> {
    fn drop(&mut self) {
        self.questions.take_back(self.way, self.id);
    }
}

impl Gateway {
    /// A server asks. Returns at once: what it takes to answer goes on beside.
    pub(super) async fn asked(&self, question: Question) {
        let mut calls = question.from.contexts_of(question.about);
        if question.about.is_none() && !self.speaks_legacy() && self.held.is_last_sent(&question.from) {
            // A call that goes on is less likely to ask just now than what was sent after it.
            calls.clear();
        }
        self.asked_by_one_of(question, calls).await;
    }

    /// A server asks for the first of these calls, or for one of the others: a call that ends while its question is open did
    /// not ask it.
    async fn asked_by_one_of(&self, question: Question, mut calls: Vec<RunContext>) {
        calls.retain(|call| !call.has_ended());
        let client = self.legacy_client();
        let is_job = calls.first().is_some_and(RunContext::is_job);
        let can_answer = client
            .as_ref()
            .is_some_and(|client| client.capabilities.answers(&question.method, question.params.as_deref()));
        let for_job = can_wait(&question.method) && (!can_answer || is_job);
        match self.me.upgrade() {
            Some(gateway) if for_job && !calls.is_empty() => {
                tokio::spawn(gateway.put(question, calls, can_answer));
            }
            Some(gateway) if calls.is_empty() && (question.about.is_some() || !self.speaks_legacy()) => {
                match gateway.held.ask(&question) {
                    Some(answer) => drop(tokio::spawn(gateway.put_in_a_round(question, answer))),
                    None => self.pass_or_decline(question, None).await,
                }
            }
            _ => self.pass_or_decline(question, calls.into_iter().next()).await,
        }
    }

    async fn pass_or_decline(&self, question: Question, call: Option<RunContext>) {
        if self.has_not_declared(&question) {
            let answer = undeclared(&question.method);
            return question.from.answer(question.id, answer, Fields::default()).await;
        }
        if self.speaks_legacy() {
            return self.pass_question(question, call).await;
        }
        question.decline().await;
    }

    /// Whether the client has introduced itself, and not as one that can be asked this.
    fn has_not_declared(&self, question: &Question) -> bool {
        let Question { method, params, .. } = question;
        let answers = |client: &Caller| client.capabilities.answers(method, params.as_deref());
        can_wait(method) && self.legacy_client().is_some_and(|client| !answers(&client))
    }

    /// Waits for the answer to a question that goes to the client in a round of its request.
    fn put_in_a_round(
        self: Arc<Self>,
        question: Question,
        answer: oneshot::Receiver<Json>,
    ) -> impl Future<Output = ()> + Send {
        let Question { from, id, method, .. } = question;
        let (key, withdrawn) = self.questions.put(&from, &id);
        async move {
            let answer = tokio::select! {
                answer = answer => answer.map_or_else(|_| declined(&method), Answer::Result),
                () = withdrawn.raised() => return,
            };
            if self.questions.settle(&key) {
                from.answer(id, answer, Fields::default()).await;
            }
        }
    }

    /// Passes a question on as it is. If its call becomes a job before the client has answered, it is put to that as well.
    async fn pass_question(&self, question: Question, call: Option<RunContext>) {
        let settled = Arc::new(Signal::default());
        let by = Asked::By(question.from.clone(), question.id.clone(), Settled(settled.clone()));
        let ours = self.questions.ask(by);
        let asked = question.to_json();
        let Question { from, about, id, method, params, extra } = question;
        if let Some(call) = call.filter(|_| can_wait(&method)) {
            let (me, method) = (self.me.clone(), method.clone());
            tokio::spawn(async move {
                let Some(answer) = put_if_it_lasts(asked, &call, &settled, &method).await else { return };
                if me.upgrade().is_none_or(|gateway| gateway.take_question_back(ours)) {
                    from.answer(id, answer, Fields::default()).await;
                }
            });
        }
        let line = Message::Request { id: Id::from(ours), method, params, extra }.to_line();
        self.way_of(about).tell(line).await;
    }

    /// A question that the client was asked is answered elsewhere. Returns whether the client had not answered.
    fn take_question_back(&self, ours: u64) -> bool {
        let way = ReplyTo::client(&self.down);
        self.questions.take_back(&way, ours)
    }

    /// Puts a question to the job of its call, the first of these, which thereby becomes one, and to the client as well if it
    /// can answer.
    fn put(
        self: Arc<Self>,
        question: Question,
        mut calls: Vec<RunContext>,
        can_answer: bool,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (key, withdrawn) = self.questions.put(&question.from, &question.id);
        Box::pin(async move {
            let call = calls.remove(0);
            let answer = tokio::select! {
                biased;
                () = withdrawn.raised() => return,
                answers = call.ask(vec![question.to_json()]) => {
                    answers.and_then(|answers| answers.into_iter().next()).map(|answer| told(&question.method, answer))
                }
                answer = self.asked_beside(&call, &question, can_answer) => Some(answer),
            };
            if !self.questions.settle(&key) {
                return;
            }
            let answer = match answer {
                Some(answer) => answer,
                None if call.has_ended() && !calls.is_empty() => {
                    return self.asked_by_one_of(question, calls).await;
                }
                None if !call.is_job() && self.has_not_declared(&question) => undeclared(&question.method),
                None => declined(&question.method),
            };
            question.from.answer(question.id, answer, Fields::default()).await;
        })
    }

    /// What the client answers to a question that is put to a job.
    async fn asked_beside(&self, call: &RunContext, question: &Question, can_answer: bool) -> Answer {
        // A client that has tasks of its own dialect is asked on the stream of `tasks/result`.
        if can_answer && !self.uses_tasks() {
            self.waits_for_input(call.handle()).await;
            let way = ReplyTo::client(&self.down);
            let params = question.params.clone().unwrap_or_else(|| to_json(&json!({})));
            if let Some(answer) = self.ask_client(&way, &question.method, params).await {
                return answer;
            }
        }
        std::future::pending().await
    }

    /// Resolves when the job asks.
    pub(super) async fn waits_for_input(&self, handle: Handle) {
        let store = self.engine.store();
        let mut changes = store.changes().of(handle);
        while !matches!(store.job(handle).await, Ok(Some(job)) if job.status == Status::InputRequired) {
            changes.changed().await;
        }
    }

    /// Asks the client something ourselves. `None` if it is no longer there.
    pub(super) async fn ask_client(&self, way: &ReplyTo, method: &str, params: Json) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        let id = self.questions.ask(Asked::Here(reply));
        let taken_back = TakenBack { questions: &self.questions, way, id };
        let message = Message::Request {
            id: Id::from(id),
            method: method.to_owned(),
            params: Some(params),
            extra: Fields::default(),
        };
        if !way.tell(message.to_line()).await {
            return None;
        }
        let answer = answer.await.ok();
        drop(taken_back);
        answer
    }

    /// The client's answer to a question.
    pub(crate) fn has_asked(&self, id: &Id) -> bool {
        id.number().is_some_and(|id| lock(&self.questions.asked).contains_key(&id))
    }

    pub(super) async fn client_answered(&self, id: &Id, answer: Answer, extra: Fields) {
        let asked = id.number().and_then(|id| lock(&self.questions.asked).remove(&id));
        match asked {
            Some(Asked::By(server, id, settled)) => {
                drop(settled);
                server.answer(id, answer, extra).await;
            }
            Some(Asked::Here(waiting)) => drop(waiting.send(answer)),
            None => {
                let server = &self.settings.launch.name;
                tracing::warn!(server, %id, "an answer of the client to no request; it is ignored");
            }
        }
    }

    /// Whether the question of the server that a `notifications/cancelled` of it names is open here.
    pub(super) fn has_question_of(&self, from: &Arc<Connection>, params: Option<&Json>) -> bool {
        let fields = params.and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
        let Some(id) = fields.get("requestId").and_then(Id::read) else { return false };
        lock(&self.questions.put).contains_key(&(Arc::as_ptr(from) as usize, id.clone()))
            || lock(&self.questions.asked).values().any(|asked| asked.is_by(from, &id))
    }

    /// A server takes a question of its own back. What is left of it is for the client, which knows it under our id.
    pub(super) fn withdrawn(&self, from: &Arc<Connection>, params: Option<Json>) -> Option<Json> {
        let mut fields = Fields::parse(params.as_ref()?.get()).ok()?;
        let id = Id::read(fields.get("requestId")?)?;
        if let Some(withdrawn) = lock(&self.questions.put).remove(&(Arc::as_ptr(from) as usize, id.clone())) {
            withdrawn.raise();
            return None;
        }
        let mut asked = lock(&self.questions.asked);
        let ours = asked.iter().find(|(_, asked)| asked.is_by(from, &id)).map(|(ours, _)| *ours);
        let Some(ours) = ours else { return params };
        asked.remove(&ours);
        fields.set("requestId", to_json(&ours));
        Some(fields.to_json())
    }
}

/// Puts a question that the client was asked to the job that its call becomes, if that is before it is `settled`. Returns what
/// is answered there, or that nobody did.
async fn put_if_it_lasts(asked: Json, call: &RunContext, settled: &Signal, method: &str) -> Option<Answer> {
    tokio::select! {
        biased;
        () = settled.raised() => return None,
        () = call.landed() => {}
    }
    if !call.is_job() {
        return None;
    }
    tokio::select! {
        biased;
        () = settled.raised() => None,
        answers = call.ask(vec![asked]) => match answers.and_then(|answers| answers.into_iter().next()) {
            Some(answer) => Some(told(method, answer)),
            // Its call did not need it; whose question it is, the client may know.
            None if call.has_ended() => None,
            None => Some(declined(method)),
        },
    }
}

/// Whether a job can be asked this.
fn can_wait(method: &str) -> bool {
    matches!(method, ELICITATION | SAMPLING | ROOTS)
}

/// What a server is told whose question a job was given the answer to.
fn told(method: &str, answer: Json) -> Answer {
    match method {
        SAMPLING if says_no(method, &answer) => protocol_error(REFUSED, "the request was declined"),
        _ if says_no(method, &answer) => declined(method),
        _ => Answer::Result(answer),
    }
}

/// What a server is told that asks what its client has not declared.
fn undeclared(method: &str) -> Answer {
    match method {
        // We have said for the client that it can be asked, for the sake of calls.
        ELICITATION => declined(method),
        _ => protocol_error(
            METHOD_NOT_FOUND,
            &format!("the client has not declared that it answers `{method}`"),
        ),
    }
}

/// What a server is told whose question nobody answers.
pub(super) fn declined(method: &str) -> Answer {
    match method {
        ELICITATION => Answer::Result(to_json(&json!({"action": "decline"}))),
        SAMPLING => protocol_error(REFUSED, "nobody answered"),
        "ping" => Answer::Result(to_json(&json!({}))),
        ROOTS => Answer::Result(to_json(&json!({"roots": []}))),
        _ => protocol_error(METHOD_NOT_FOUND, &format!("`{method}` is not known here")),
    }
}

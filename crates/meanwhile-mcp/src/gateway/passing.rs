//! What is not ours, passed both ways with nothing but its id and its progress token changed.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::{Actor, Handle, Json, Op, Signal};
use serde_json::json;

use super::caller::Caller;
use super::held::{self, Comes, Request, Turn};
use super::questions::{Question, declined};
use super::reply::{ReplyTo, gone};
use super::{Gateway, InFlight, lock};
use crate::message::{Answer, Fields, Id, Message, to_json};
use crate::modern::severity;
use crate::upstream::{Connection, Inbox, Reply};

pub(super) const CANCELLED: &str = "notifications/cancelled";

/// How long a server may take to answer a request all the same that was taken back. By the protocol it says nothing.
const ANSWER_ALL_THE_SAME: Duration = Duration::from_secs(1);

/// A request that was passed on.
#[derive(Clone)]
pub(super) struct Passed {
    pub(super) to: Arc<Connection>,
    /// Its id there.
    pub(super) id: u64,
    pub(super) caller: Arc<Caller>,
    pub(super) reply: ReplyTo,
    /// Raised when its client takes it back.
    pub(super) taken_back: Arc<Signal>,
}

impl Gateway {
    /// Passes a request on, in its turn.
    pub(super) async fn pass_request(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        id: Id,
        method: String,
        params: Option<Json>,
        extra: Fields,
        reply: ReplyTo,
    ) {
        let gateway = self.clone();
        let turn = async move { gateway.pass_in_turn(caller, id, method, params, extra, reply).await };
        self.lane.send(self.requests.track_future(turn)).await;
    }

    async fn pass_in_turn(
        self: Arc<Self>,
        caller: Arc<Caller>,
        id: Id,
        method: String,
        mut params: Option<Json>,
        extra: Fields,
        reply: ReplyTo,
    ) {
        let subject = held::subject(&self.settings.launch, &caller, &method, params.as_ref());
        let (mut turn, mut known) = (Turn { id, reply }, None);
        if let Some((subject, fields)) = &subject {
            match self.comes_again(&caller, subject, fields, turn).await {
                Comes::Anew(first) => (turn, known) = (first, Some((self.carried(subject), 0))),
                Comes::Carrying(first, carried, count) => {
                    (turn, known) = (first, Some((carried, count)));
                    params = Some(held::without_answers(fields));
                }
                Comes::Elsewhere => return,
            }
        }
        let connection = match self.upstream.connect().await {
            Ok(connection) => connection,
            Err(error) => {
                let answer = gone(turn.reply.is_modern(), &error.to_string());
                return turn.reply.send(turn.id, answer).await;
            }
        };
        let taken_back = Arc::new(Signal::default());
        let mut questions = None;
        let is_sent_as = |sent_as: u64| {
            let (to, reply, taken_back) = (connection.clone(), turn.reply.clone(), taken_back.clone());
            let passed = Passed { to, id: sent_as, caller, reply, taken_back };
            questions = subject.map(|(subject, _)| self.expect_questions(subject, passed.clone()));
            lock(&self.in_flight).insert(turn.id.clone(), InFlight::Passed(passed));
        };
        let passed = self.upstream.pass(&connection, self.party, &method, params, extra, is_sent_as).await;
        let Some(waiting) = passed else {
            return turn.reply.send(turn.id, Answer::Result(to_json(&json!({})))).await;
        };
        let (sent_as, gateway, tracker) = (waiting.id(), self.clone(), self.requests.clone());
        tracker.spawn(async move {
            let comes = async {
                match questions.zip(known) {
                    Some((questions, known)) => {
                        Request::new(&gateway, waiting, questions, known).answer(turn).await
                    }
                    None => Some((turn, waiting.reply().await)),
                }
            };
            let given_up = async {
                taken_back.raised().await;
                tokio::time::sleep(ANSWER_ALL_THE_SAME).await;
            };
            tokio::select! {
                came = comes => if let Some((turn, reply)) = came {
                    gateway.passed_landed(&turn.id, sent_as);
                    answer(turn, reply).await;
                },
                () = given_up => gateway.forget_passed(&connection, sent_as),
            }
        });
    }

    /// A server that was told that nobody wants an answer any more has given none, as it is to be.
    fn forget_passed(&self, to: &Arc<Connection>, sent_as: u64) {
        to.forget(sent_as);
        let is_it = |passed: &Passed| passed.id == sent_as && Arc::ptr_eq(&passed.to, to);
        lock(&self.in_flight)
            .retain(|_, request| !matches!(request, InFlight::Passed(passed) if is_it(passed)));
    }

    /// Whether this request of the client came here, and is not answered.
    pub(crate) fn is_answering(&self, id: &Id) -> bool {
        lock(&self.in_flight).contains_key(id)
    }

    /// Forgets a request that was passed on under this id.
    pub(super) fn passed_landed(&self, id: &Id, sent_as: u64) {
        self.landed(id, |request| matches!(request, InFlight::Passed(passed) if passed.id == sent_as));
    }

    /// Forgets a request that was answered, unless the client has used its id again for another one.
    pub(super) fn landed(&self, id: &Id, is_same: impl FnOnce(&InFlight) -> bool) {
        let mut in_flight = lock(&self.in_flight);
        if in_flight.get(id).is_some_and(is_same) {
            in_flight.remove(id);
        }
    }

    pub(super) async fn notification(self: &Arc<Self>, method: String, params: Option<Json>, extra: Fields) {
        if method == CANCELLED {
            return self.cancel(params, extra).await;
        }
        let gateway = self.clone();
        let turn = async move {
            let message = Message::Notification { method, params, extra };
            let is_told = gateway.upstream.remember(gateway.party, &message);
            if is_told && let Ok(connection) = gateway.upstream.connect().await {
                connection.send(message).await;
            }
            gateway.take_up_what_was_left();
        };
        self.lane.send(self.requests.track_future(turn)).await;
    }

    /// A cancellation goes where its request went, and not before it.
    async fn cancel(self: &Arc<Self>, params: Option<Json>, extra: Fields) {
        let fields = params.and_then(|params| Fields::parse(params.get()).ok());
        let Some((mut fields, id)) = fields.and_then(|fields| {
            let id = Id::read(fields.get("requestId")?)?;
            Some((fields, id))
        }) else {
            tracing::debug!("a cancellation without a requestId is ignored");
            return;
        };
        if let Some(InFlight::Here(call)) = lock(&self.in_flight).get(&id) {
            let reason: String = fields.read("reason").unwrap_or_default();
            return self.take_back(call, &reason);
        }
        let gateway = self.clone();
        self.lane
            .send(async move {
                let passed = match lock(&gateway.in_flight).get(&id) {
                    Some(InFlight::Passed(passed)) => {
                        Some((passed.to.clone(), passed.id, passed.taken_back.clone()))
                    }
                    _ => None,
                };
                let Some((connection, passed, taken_back)) = passed else {
                    tracing::debug!(%id, "a cancellation of what has been answered already");
                    return;
                };
                fields.set("requestId", to_json(&passed));
                let params = Some(fields.to_json());
                let message = Message::Notification { method: CANCELLED.to_owned(), params, extra };
                connection.send(message).await;
                taken_back.raise();
            })
            .await;
    }

    /// Whether what the server says unasked may be sent to the client as it is: it has introduced itself by `initialize`, or
    /// nobody has introduced themselves yet.
    pub(super) fn speaks_legacy(&self) -> bool {
        self.legacy_client().is_some() || self.known_introduction().is_none()
    }

    /// On which way the client is told what belongs to one of its requests: that with our id `about`, or, if the transport does
    /// not say which, the latest that still waits.
    pub(super) fn way_of(&self, about: Option<u64>) -> ReplyTo {
        let latest = || {
            let in_flight = lock(&self.in_flight);
            let here = in_flight.values().filter_map(|request| match request {
                InFlight::Here(open) if !open.caller.is_modern() => Some(open),
                _ => None,
            });
            here.max_by_key(|open| open.began).map(|open| open.clone_way())
        };
        self.way_of_passed(about).or_else(latest).unwrap_or_else(|| ReplyTo::client(&self.down))
    }

    /// Brings a log message to the requests of the modern era that want to hear it.
    async fn tell_log(&self, line: &str, level: &str) {
        let Some(severity) = severity(level) else { return };
        let hears = |caller: &Caller| caller.log_level.is_some_and(|least| least <= severity);
        let ways: Vec<ReplyTo> = lock(&self.in_flight)
            .values()
            .filter_map(|request| match request {
                InFlight::Here(open) => hears(&open.caller).then(|| open.clone_way()),
                InFlight::Passed(passed) => hears(&passed.caller).then(|| passed.reply.clone()),
            })
            .collect();
        for way in ways {
            way.tell(line.to_owned()).await;
        }
    }

    /// The way of the request that was passed on as `about`.
    fn way_of_passed(&self, about: Option<u64>) -> Option<ReplyTo> {
        lock(&self.in_flight).values().find_map(|request| match request {
            InFlight::Passed(passed) if Some(passed.id) == about => Some(passed.reply.clone()),
            _ => None,
        })
    }

    async fn told_by_server(&self, about: Option<u64>, method: String, params: Option<Json>, extra: Fields) {
        let fields = params.as_ref().and_then(|params| Fields::parse(params.get()).ok());
        let is_about_lists = method.ends_with("/list_changed") || method == "notifications/resources/updated";
        if method == "notifications/tools/list_changed" {
            lock(&self.catalog).stale = true;
        }
        if is_about_lists {
            self.tell_listeners(&method, params.as_ref()).await;
        }
        if method == "notifications/resources/updated" {
            let uri = fields.as_ref().and_then(|fields| fields.read::<String>("uri")).unwrap_or_default();
            if !self.upstream.follows(self.party, &uri) {
                return;
            }
        }
        let way = match method.as_str() {
            "notifications/progress" => self.way_of_passed(about),
            _ if is_about_lists => Some(ReplyTo::client(&self.down)),
            _ => None,
        };
        let level = (method == "notifications/message").then(|| {
            let level = fields.as_ref().and_then(|fields| fields.read::<String>("level"));
            level.unwrap_or_default()
        });
        let line = Message::Notification { method, params, extra }.to_line();
        if let Some(level) = level {
            self.tell_log(&line, &level).await;
            if !self.upstream.hears(self.party, &level) {
                return;
            }
        }
        match way {
            Some(way) if self.speaks_legacy() || !is_about_lists => drop(way.tell(line).await),
            None if self.speaks_legacy() => drop(self.way_of(about).tell(line).await),
            _ => {}
        }
    }
}

async fn answer(turn: Turn, reply: Reply) {
    let (answer, extra) = match reply {
        Reply::Answer(answer, extra) => (answer, extra),
        Reply::Round(round) => (Answer::Result(round.result), round.extra),
        Reply::Refused(reason) => (gone(turn.reply.is_modern(), &reason), Fields::default()),
        Reply::Lost(reason) => {
            let why = format!("{reason}; it is started again at the next request");
            (gone(turn.reply.is_modern(), &why), Fields::default())
        }
    };
    turn.reply.respond(turn.id, answer, extra).await;
}

#[async_trait::async_trait]
impl Inbox for Gateway {
    async fn receive(&self, from: &Arc<Connection>, about: Option<u64>, message: Message) {
        match message {
            Message::Request { id, method, params, extra } => {
                self.asked(Question { from: from.clone(), about, id, method, params, extra }).await;
            }
            Message::Notification { method, params, extra } if method == CANCELLED => {
                let params = self.withdrawn(from, params);
                if params.is_some() && self.speaks_legacy() {
                    let line = Message::Notification { method, params, extra }.to_line();
                    self.way_of(about).tell(line).await;
                }
            }
            Message::Notification { method, params, extra } => {
                self.told_by_server(about, method, params, extra).await;
            }
            response @ Message::Response { .. } => drop(self.down.send(response.to_line()).await),
        }
    }

    fn scope(&self) -> &str {
        &self.settings.scope
    }

    async fn decline(&self, from: &Arc<Connection>, id: Id, method: &str) {
        from.answer(id, declined(method), Fields::default()).await;
    }

    fn has_question(&self, from: &Arc<Connection>, params: Option<&Json>) -> bool {
        self.has_question_of(from, params)
    }

    fn late_answer(&self, handle: Handle) {
        let store = self.engine.store().clone();
        tokio::spawn(async move {
            let message = "it answered after it had been cancelled: the work was not stopped".to_owned();
            // A call that was cancelled before it became a job has no job to say this of.
            if let Ok(Some(_)) = store.job(handle).await {
                let _ = store.apply(handle, Op::Note { by: Actor::Tool, message }).await;
            }
        });
    }
}

//! Who waits for which answer, and what a modern server asks on the way to it. Only bookkeeping: nothing here sends anything.
//!
//! A modern server that needs more to answer a request ends it with an interim result; the request is then sent again, under
//! another id, with what was missing. To whoever waits it is one request all the while, known by its first id.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/patterns/mrtr>.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meanwhile_core::{Handle, Json, RunContext};
use serde_json::json;
use tokio::sync::{Notify, oneshot};

use super::connection::{Reply, Round as PassedRound};
use super::modern::Interim;
use super::parties::Party;
use crate::message::{Answer, Fields, Id, Message, to_json};
use crate::modern::Capabilities;

/// How often a server may ask for more before it has to answer.
const ROUNDS_MAX: u32 = 20;
/// How many questions it may ask at once.
const QUESTIONS_MAX: usize = 100;
/// How many cancelled calls are remembered, to notice an answer that comes all the same.
const CANCELLED_MAX: usize = 1000;

/// What a request that was told to stop, or went on all the same, shows of it.
#[derive(Debug, Default)]
pub(super) struct Signs {
    pub(super) told_to_stop: AtomicBool,
    pub(super) went_on: AtomicBool,
}

impl Signs {
    /// It has reported progress.
    pub(super) fn progressed(&self) {
        self.went_on.fetch_or(self.told_to_stop.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A request that waits for its answer.
pub(super) struct Open {
    pub(super) reply: oneshot::Sender<Reply>,
    pub(super) context: Option<RunContext>,
    pub(super) signs: Arc<Signs>,
    pub(super) method: String,
    /// Its parameters and the rest of its envelope, if it may have to be sent again.
    pub(super) again: Option<(Json, Fields)>,
    /// Its id on the wire at the moment.
    sent_as: u64,
    rounds: u32,
    round: Option<Round>,
    /// Its answer has come, and was a task: what is still said of it is heard.
    goes_on: bool,
    /// What the client can do who knows rounds of questions itself.
    pub(super) asker: Option<Capabilities>,
    /// For whom it was sent.
    pub(super) party: Option<Party>,
    /// The caller's progress token, if it was sent under one of ours.
    pub(super) token: Option<Json>,
}

/// One round of questions.
struct Round {
    answers: Vec<(String, Option<Json>)>,
    state: Option<Json>,
}

struct Question {
    /// The request that it belongs to.
    of: u64,
    key: String,
    method: String,
    /// Who waits for the answer, if it is not a round of the request.
    reply: Option<oneshot::Sender<Answer>>,
}

/// A task that a call has become.
struct Followed {
    /// The id of the call.
    id: u64,
    wake: Arc<Notify>,
}

enum Waiter {
    Open(Open),
    /// The call of this job, which had been cancelled, and whose it was.
    Cancelled(Handle, Option<Party>),
}

/// To whom an answer belongs.
pub(super) enum Whose {
    Open(Open),
    /// The call of this job, which had been cancelled.
    Cancelled(Handle),
    Nobody,
}

/// What follows from an interim result, or from the answer to a question.
pub(super) enum Next {
    /// These are asked, about the request of this id.
    Ask(u64, Vec<Message>),
    /// The request of this id is sent again.
    Again(u64),
    /// The request of this id has ended without an answer, and its questions are nobody's concern any more.
    Failed(Open, Answer),
    /// Other answers are waited for.
    Wait,
    /// It is about nothing known here.
    Unknown,
}

/// How a request is cancelled.
pub(super) enum Cancel {
    /// The server is told, by the id on the wire.
    Sent(u64),
    /// The server does nothing: it waits for the answers to these questions.
    Asking(Open, Vec<Id>),
    /// There is nothing to cancel.
    Gone,
}

#[derive(Default)]
pub(super) struct Waiters {
    known: HashMap<u64, Waiter>,
    /// The ids of requests that were sent again under these.
    again: HashMap<u64, u64>,
    /// The questions that are open.
    asked: HashMap<Id, Question>,
    next_question: u64,
    /// The tasks that are followed, by their ids.
    tasks: HashMap<String, Followed>,
}

impl Open {
    pub(super) fn new(
        id: u64,
        method: &str,
        context: Option<RunContext>,
    ) -> (Open, oneshot::Receiver<Reply>) {
        let (reply, answer) = oneshot::channel();
        let (signs, method) = (Arc::default(), method.to_owned());
        let open = Open {
            reply,
            context,
            signs,
            method,
            again: None,
            sent_as: id,
            rounds: 0,
            round: None,
            goes_on: false,
            asker: None,
            party: None,
            token: None,
        };
        (open, answer)
    }

    /// Answers with a round of questions; whoever gets it may have the request go on.
    pub(super) fn pass_round(mut self, result: Json, extra: Fields, interim: Interim) {
        let (reply, comes) = oneshot::channel();
        let waiting = std::mem::replace(&mut self.reply, reply);
        let _ = waiting.send(Reply::Round(Box::new(PassedRound::new(result, extra, interim, self, comes))));
    }
}

impl Waiters {
    pub(super) fn insert(&mut self, id: u64, open: Open) {
        self.known.insert(id, Waiter::Open(open));
    }

    /// The first id of the request that has this id on the wire.
    pub(super) fn known_as(&self, sent_as: u64) -> u64 {
        self.again.get(&sent_as).copied().unwrap_or(sent_as)
    }

    pub(super) fn knows(&self, sent_as: u64) -> bool {
        self.known.contains_key(&self.known_as(sent_as))
    }

    /// Whether what was sent under this id has had no answer of any kind.
    pub(super) fn is_unanswered(&self, sent_as: u64) -> bool {
        let open = self.open(self.known_as(sent_as));
        open.is_some_and(|open| open.sent_as == sent_as && open.round.is_none() && !open.goes_on)
    }

    /// Every id on the wire under which something is waited for.
    pub(super) fn sent(&self) -> Vec<u64> {
        let sent = |(id, waiter): (&u64, &Waiter)| match waiter {
            Waiter::Open(open) => open.sent_as,
            Waiter::Cancelled(..) => *id,
        };
        self.known.iter().map(sent).collect()
    }

    /// Whose answer it is; nobody waits for it any more from now on.
    pub(super) fn take(&mut self, sent_as: u64) -> Whose {
        let id = self.again.remove(&sent_as).unwrap_or(sent_as);
        match self.known.remove(&id) {
            Some(Waiter::Open(open)) => Whose::Open(open),
            Some(Waiter::Cancelled(handle, _)) => Whose::Cancelled(handle),
            None => Whose::Nobody,
        }
    }

    pub(super) fn open(&self, id: u64) -> Option<&Open> {
        match self.known.get(&id) {
            Some(Waiter::Open(open)) => Some(open),
            _ => None,
        }
    }

    /// What was asked by the request that was sent under this id, if that is one of these.
    pub(super) fn asked_for(&self, sent_as: u64, methods: &[&'static str]) -> Option<&'static str> {
        let open = self.open(self.known_as(sent_as))?;
        methods.iter().find(|method| **method == open.method).copied()
    }

    fn open_mut(&mut self, id: u64) -> Option<&mut Open> {
        match self.known.get_mut(&id) {
            Some(Waiter::Open(open)) => Some(open),
            _ => None,
        }
    }

    pub(super) fn renew_token(&mut self, id: u64, token: Option<Json>) {
        if let Some(open) = self.open_mut(id) {
            open.token = token;
        }
    }

    /// The call that a message of the server is about; if it does not say, all that it may be about, the last one sent first.
    pub(super) fn contexts(&self, about: Option<u64>) -> Vec<RunContext> {
        if let Some(id) = about {
            return self.open(id).and_then(|open| open.context.clone()).into_iter().collect();
        }
        let mut calls: Vec<_> = self
            .known
            .iter()
            .filter_map(|(id, waiter)| match waiter {
                Waiter::Open(open) => Some((*id, open.context.clone()?)),
                Waiter::Cancelled(..) => None,
            })
            .collect();
        calls.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        calls.into_iter().map(|(_, context)| context).collect()
    }

    /// The call that was sent last; if there is none, the last other request that somebody waits for.
    pub(super) fn sent_last(&self) -> Option<u64> {
        let open = self.known.iter().filter_map(|(id, waiter)| match waiter {
            Waiter::Open(open) if open.party.is_some() => Some((open.context.is_some(), *id)),
            _ => None,
        });
        open.max().map(|(_, id)| id)
    }

    /// For whom the server may still be at something.
    pub(super) fn parties(&self) -> Vec<Party> {
        let party = |waiter: &Waiter| match waiter {
            Waiter::Open(open) => open.party,
            Waiter::Cancelled(_, party) => *party,
        };
        self.known.values().filter_map(party).collect()
    }

    /// Whether it is a question that was asked here.
    pub(super) fn has_asked(&self, question: &Id) -> bool {
        self.asked.contains_key(question)
    }

    /// A call is given up, but an answer that comes all the same is to be noticed.
    pub(super) fn give_up(&mut self, id: u64, handle: Handle) {
        let sent_as = self.open(id).map_or(id, |open| open.sent_as);
        if self.known.len() < CANCELLED_MAX && self.open(id).is_none_or(|open| open.round.is_none()) {
            let party = self.open(id).and_then(|open| open.party);
            self.known.insert(id, Waiter::Cancelled(handle, party));
        } else {
            self.forget(id);
            self.again.remove(&sent_as);
        }
    }

    pub(super) fn forget(&mut self, id: u64) -> Option<Open> {
        self.asked.retain(|_, question| question.of != id);
        match self.known.remove(&id) {
            Some(Waiter::Open(open)) => Some(open),
            _ => None,
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Waiters { next_question: self.next_question, ..Waiters::default() };
    }

    /// Whether an interim result is for the client itself: it knows rounds, can answer all that is asked, and still waits for
    /// the call, which then has not become a job.
    pub(super) fn passes_rounds(&self, sent_as: u64, interim: &Interim) -> bool {
        let Some(open) = self.open(self.known_as(sent_as)) else { return false };
        let Some(asker) = open.asker.filter(|_| open.again.is_some()) else { return false };
        let can_answer = |(_, question): &(String, Fields)| {
            asker.answers(&question.read::<String>("method").unwrap_or_default(), question.get("params"))
        };
        !open.context.as_ref().is_some_and(RunContext::is_job) && interim.questions.iter().all(can_answer)
    }

    /// A request that has ended with an interim result, which was passed on, goes on.
    pub(super) fn go_on_with(&mut self, id: u64, open: Open, interim: Interim) -> Next {
        self.insert(id, open);
        self.has_asked_for_more(id, interim)
    }

    /// A request has ended with an interim result.
    pub(super) fn interim(&mut self, sent_as: u64, interim: Interim) -> Next {
        let id = self.again.remove(&sent_as).unwrap_or(sent_as);
        self.has_asked_for_more(id, interim)
    }

    fn has_asked_for_more(&mut self, id: u64, interim: Interim) -> Next {
        let Some(open) = self.open_mut(id) else { return Next::Unknown };
        open.rounds += 1;
        let Interim { questions, state } = interim;
        let why = match () {
            () if open.again.is_none() => "it asks for more where it must not",
            () if questions.is_empty() && state.is_none() => {
                "it wants to be asked again and does not say how"
            }
            () if open.rounds > ROUNDS_MAX => "it asks for more again and again",
            () if questions.len() > QUESTIONS_MAX => "it asks too much at once",
            () => return self.ask(id, questions, state),
        };
        self.fail(id, Answer::Error(crate::message::error(crate::message::INTERNAL_ERROR, why)))
    }

    fn ask(&mut self, id: u64, questions: Vec<(String, Fields)>, state: Option<Json>) -> Next {
        let mut messages = Vec::new();
        let mut answers = Vec::new();
        for (key, mut question) in questions {
            let method: String = question.read("method").unwrap_or_default();
            let asked = Question { of: id, key: key.clone(), method: method.clone(), reply: None };
            let (id, params) = (self.add_question(asked), question.take("params"));
            messages.push(Message::Request { id, method, params, extra: Fields::default() });
            answers.push((key, None));
        }
        let is_empty = answers.is_empty();
        if let Some(open) = self.open_mut(id) {
            open.round = Some(Round { answers, state });
        }
        if is_empty { Next::Again(id) } else { Next::Ask(id, messages) }
    }

    /// Takes a question in, and returns its id.
    fn add_question(&mut self, question: Question) -> Id {
        self.next_question += 1;
        // A text, as no server that asks by itself would have it.
        let text = format!("meanwhile-{}-{}", question.of, self.next_question);
        let id = Id::read(&to_json(&text)).expect("a text is an id");
        self.asked.insert(id.clone(), question);
        id
    }

    /// A question of a task that is followed: its id, and where the answer comes.
    pub(super) fn question(&mut self, of: u64, method: &str) -> (Id, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        let (key, method) = (String::new(), method.to_owned());
        (self.add_question(Question { of, key, method, reply: Some(reply) }), answer)
    }

    /// A question that nobody wants to know the answer of any more.
    pub(super) fn withdraw(&mut self, question: &Id) {
        self.asked.remove(question);
    }

    /// A call has become a task: what is said of either is heard until [`Waiters::unfollow`].
    pub(super) fn follow(&mut self, party: Party, id: u64, task: &str, context: RunContext) -> Arc<Notify> {
        let (mut open, _) = Open::new(id, "tools/call", Some(context));
        open.party = Some(party);
        open.goes_on = true;
        self.known.insert(id, Waiter::Open(open));
        let wake = Arc::new(Notify::new());
        self.tasks.insert(task.to_owned(), Followed { id, wake: wake.clone() });
        wake
    }

    pub(super) fn unfollow(&mut self, id: u64, task: &str) {
        self.forget(id);
        if self.tasks.get(task).is_some_and(|followed| followed.id == id) {
            self.tasks.remove(task);
        }
    }

    /// The call that this task does the work of.
    pub(super) fn call_of(&self, task: &str) -> Option<u64> {
        self.tasks.get(task).map(|followed| followed.id)
    }

    /// A task has changed.
    pub(super) fn wake(&self, task: &str) {
        if let Some(followed) = self.tasks.get(task) {
            followed.wake.notify_one();
        }
    }

    fn fail(&mut self, id: u64, answer: Answer) -> Next {
        self.forget(id).map_or(Next::Unknown, |open| Next::Failed(open, answer))
    }

    /// A question is answered.
    pub(super) fn answered(&mut self, question: &Id, answer: Answer) -> Next {
        let Some(Question { of: id, key, method, reply }) = self.asked.remove(question) else {
            return Next::Unknown;
        };
        if let Some(reply) = reply {
            let _ = reply.send(answer);
            return Next::Wait;
        }
        let answer = match answer {
            Answer::Result(result) => result,
            // There is no way to say that a question failed, but a person may always refuse to answer.
            Answer::Error(_) if method == "elicitation/create" => to_json(&json!({"action": "cancel"})),
            error => return self.fail(id, error),
        };
        let Some(round) = self.open_mut(id).and_then(|open| open.round.as_mut()) else {
            return Next::Unknown;
        };
        if let Some((_, slot)) = round.answers.iter_mut().find(|(name, _)| *name == key) {
            *slot = Some(answer);
        }
        if round.answers.iter().all(|(_, answer)| answer.is_some()) { Next::Again(id) } else { Next::Wait }
    }

    /// The request as it is sent again under this id, with the answers; `None` if nobody waits for it any more.
    pub(super) fn again(&mut self, id: u64, sent_as: u64) -> Option<Message> {
        let open = self.open_mut(id)?;
        let (params, extra) = open.again.clone()?;
        let Round { answers, state } = open.round.take()?;
        if open.reply.is_closed() {
            self.forget(id);
            return None;
        }
        let mut params = Fields::parse(params.get()).ok()?;
        if !answers.is_empty() {
            let mut responses = Fields::default();
            for (key, answer) in answers {
                responses.set(&key, answer?);
            }
            params.set("inputResponses", responses.to_json());
        }
        if let Some(state) = state {
            params.set("requestState", state);
        }
        open.sent_as = sent_as;
        let method = open.method.clone();
        self.again.insert(sent_as, id);
        Some(Message::Request { id: Id::from(sent_as), method, params: Some(params.to_json()), extra })
    }

    /// Nobody wants the answer of this request any more.
    pub(super) fn cancel(&mut self, id: u64) -> Cancel {
        let Some(open) = self.open(id) else { return Cancel::Gone };
        open.signs.told_to_stop.store(true, Ordering::Relaxed);
        if open.round.is_none() {
            return Cancel::Sent(open.sent_as);
        }
        let asked = self.asked.iter().filter(|(_, question)| question.of == id);
        let asked = asked.map(|(question, _)| question.clone()).collect();
        self.forget(id).map_or(Cancel::Gone, |open| Cancel::Asking(open, asked))
    }
}

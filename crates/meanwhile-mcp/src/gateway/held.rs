//! Questions of a server in the middle of a request that is passed on for a client of the modern era: in several rounds, as those
//! of a call (`rounds`), but there is no job that could be asked. So the request is held in the memory of this process until it
//! comes again with the answers; what the client hands back to us is drawn for that round, and known only to its own gateway. Where
//! it is not held, it is made anew with what has been answered so far (`carried`).
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/patterns/mrtr>.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use meanwhile_core::Json;
use tokio::sync::{mpsc, oneshot};

use super::caller::Caller;
use super::carried::{self, Carried};
use super::passing::Passed;
use super::questions::Question;
use super::reply::{ReplyTo, protocol_error};
use super::{Gateway, InFlight, lock};
use crate::answers::fits;
use crate::catalog::join_key;
use crate::message::{Answer, Fields, INVALID_PARAMS, Id, to_json};
use crate::upstream::{Connection, Launch, Reply, Waiting};

/// The requests, besides calls, that may be answered with questions.
const MAY_ASK: [&str; 2] = ["prompts/get", "resources/read"];
/// How long a request is held for its client to come again.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How many requests of a gateway may be asked about at once.
const HELD_MAX: usize = 256;
/// How many questions there may be about one of them.
const QUESTIONS_MAX: usize = 100;

/// The requests on their way about which their server may ask.
#[derive(Default)]
pub(super) struct Held(Mutex<Vec<Entry>>);

struct Entry {
    /// The request, and who waits for it, or did last.
    passed: Passed,
    /// What is asked for, which must be the same when it comes again.
    subject: String,
    asks: mpsc::UnboundedSender<Asked>,
    /// The `requestState` that was given out last, and where what comes with it is waited for.
    round: Option<(String, oneshot::Sender<Again>)>,
}

/// A question, and where its answer goes. Dropped, it is declined.
pub(super) struct Asked {
    question: Json,
    answer: oneshot::Sender<Json>,
}

/// Who waits for the answer.
pub(super) struct Turn {
    pub(super) id: Id,
    pub(super) reply: ReplyTo,
}

/// A request that has come again.
pub(super) struct Again {
    turn: Turn,
    answers: Fields,
}

/// A request on its way, about which its server may ask.
pub(super) struct Request {
    gateway: Arc<Gateway>,
    waiting: Waiting,
    asks: mpsc::UnboundedReceiver<Asked>,
    open: Vec<Open>,
    /// How many questions there were.
    count: usize,
    carried: Carried,
}

/// A question that is open.
struct Open {
    key: String,
    digest: String,
    asked: Asked,
}

/// How a request comes.
pub(super) enum Comes {
    /// For the first time, or with what is its server's to know.
    Anew(Turn),
    /// With answers, and it is not held here: what has been answered so far, and how many questions there were.
    Carrying(Turn, Carried, usize),
    /// With answers, and it goes on where it was; or it is refused.
    Elsewhere,
}

impl Drop for Request {
    fn drop(&mut self) {
        let (to, id) = (self.waiting.connection(), self.waiting.id());
        lock(&self.gateway.held.0).retain(|entry| !entry.is(to, id));
    }
}

impl Entry {
    fn is(&self, to: &Arc<Connection>, id: u64) -> bool {
        self.passed.id == id && Arc::ptr_eq(&self.passed.to, to)
    }
}

/// What makes two requests the same, and the parameters of this one, if it may be answered with questions.
pub(super) fn subject(
    server: &Launch,
    caller: &Caller,
    method: &str,
    params: Option<&Json>,
) -> Option<(String, Fields)> {
    if !caller.is_modern() || !MAY_ASK.contains(&method) {
        return None;
    }
    let params = Fields::parse(params?.get()).ok()?;
    let named = params.read::<String>("name").or_else(|| params.read("uri")).unwrap_or_default();
    let arguments = params.get("arguments").map_or("{}", |arguments| arguments.get());
    Some((join_key(server, &format!("{method} {named}"), arguments), params))
}

/// A request as it was before anything had been asked.
pub(super) fn without_answers(params: &Fields) -> Json {
    let mut params = params.clone();
    for field in ["requestState", "inputResponses"] {
        params.take(field);
    }
    params.to_json()
}

impl Held {
    /// Opens a round, if there are not too many.
    fn open(&self, to: &Arc<Connection>, id: u64) -> Option<(String, oneshot::Receiver<Again>)> {
        let mut entries = lock(&self.0);
        let is_full = entries.iter().filter(|entry| entry.round.is_some()).count() >= HELD_MAX;
        let entry = entries.iter_mut().find(|entry| entry.is(to, id)).filter(|_| !is_full)?;
        let (state, (again, comes)) = (random(), oneshot::channel());
        entry.round = Some((state.clone(), again));
        Some((state, comes))
    }

    /// Takes the round up that this state was given out for.
    fn take_up(
        &self,
        state: &str,
        subject: &str,
        caller: &Arc<Caller>,
        reply: &ReplyTo,
    ) -> Option<(Passed, oneshot::Sender<Again>)> {
        let mut entries = lock(&self.0);
        let is_it = |entry: &Entry| {
            entry.subject == subject
                && entry.round.as_ref().is_some_and(|(given, _)| given == carried::held(state))
        };
        let place = entries.iter().position(is_it)?;
        // What its server asks next, now that it is answered, is rather about this one than about those that wait.
        let mut entry = entries.remove(place);
        let taken = entry.round.take();
        (entry.passed.caller, entry.passed.reply) = (caller.clone(), reply.clone());
        let passed = entry.passed.clone();
        entries.push(entry);
        taken.map(|(_, again)| (passed, again))
    }

    /// Whether the request that would be asked about if a question does not say is on its way, waits for no answer of its client,
    /// and was sent after every call.
    pub(super) fn is_last_sent(&self, from: &Arc<Connection>) -> bool {
        let entries = lock(&self.0);
        let last = entries.iter().rfind(|entry| Arc::ptr_eq(&entry.passed.to, from));
        last.is_some_and(|last| last.round.is_none() && Some(last.passed.id) > from.sent_last())
    }

    /// Asks whoever waits for the request that a question is about, or, if it does not say, for the one that was sent, or answered,
    /// last; `None` if there is none, or its client cannot answer.
    pub(super) fn ask(&self, question: &Question) -> Option<oneshot::Receiver<Json>> {
        let entries = lock(&self.0);
        let is_it = |entry: &&Entry| match question.about {
            Some(id) => entry.is(&question.from, id),
            None => Arc::ptr_eq(&entry.passed.to, &question.from),
        };
        let entry = entries.iter().rfind(is_it)?;
        if !entry.passed.caller.capabilities.answers(&question.method, question.params.as_deref()) {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        entry.asks.send(Asked { question: question.to_json(), answer }).ok()?;
        Some(answered)
    }
}

impl Gateway {
    /// A request about which its server may ask is sent. What it asks comes where is returned.
    pub(super) fn expect_questions(&self, subject: String, passed: Passed) -> mpsc::UnboundedReceiver<Asked> {
        let (asks, asked) = mpsc::unbounded_channel();
        lock(&self.held.0).push(Entry { passed, subject, asks, round: None });
        asked
    }

    /// A request that comes again with answers goes on where it was, if it is held here.
    pub(super) async fn comes_again(
        &self,
        caller: &Arc<Caller>,
        subject: &str,
        params: &Fields,
        turn: Turn,
    ) -> Comes {
        let Some(state) = params.get("requestState") else { return Comes::Anew(turn) };
        let state = serde_json::from_str::<String>(state.get()).unwrap_or_default();
        let answers: Fields = params.read("inputResponses").unwrap_or_default();
        let taken_up = self.held.take_up(&state, subject, caller, &turn.reply);
        let Some((passed, again)) = taken_up else {
            // What a server of the modern era has given out is that server's.
            if self.upstream.is_modern() {
                return Comes::Anew(turn);
            }
            if let Some((carried, count)) = self.carried(subject).read(&state, answers) {
                return Comes::Carrying(turn, carried, count);
            }
            let why =
                "`requestState`: no request of yours waits for these answers; send it without, to begin anew";
            turn.reply.send(turn.id, protocol_error(INVALID_PARAMS, why)).await;
            return Comes::Elsewhere;
        };
        let token = params.read::<Fields>("_meta").and_then(|mut meta| meta.take("progressToken"));
        let id = passed.id;
        passed.to.renew_token(id, token);
        lock(&self.in_flight).insert(turn.id.clone(), InFlight::Passed(passed));
        // It may just have been given up; then its server is gone, or was told.
        if let Err(Again { turn, .. }) = again.send(Again { turn, answers }) {
            self.passed_landed(&turn.id, id);
            let why = "`requestState`: it was waited for too long";
            turn.reply.send(turn.id, protocol_error(INVALID_PARAMS, why)).await;
        }
        Comes::Elsewhere
    }

    /// What is carried of a request of which nothing has been asked yet.
    pub(super) fn carried(&self, subject: &str) -> Carried {
        Carried::new(&self.settings.scope, subject)
    }
}

impl Request {
    pub(super) fn new(
        gateway: &Arc<Gateway>,
        waiting: Waiting,
        asks: mpsc::UnboundedReceiver<Asked>,
        (carried, count): (Carried, usize),
    ) -> Request {
        Request { gateway: gateway.clone(), waiting, asks, open: vec![], count, carried }
    }

    /// Sees it through to its answer, and says to whom that is due; `None` if nobody has come again for it.
    pub(super) async fn answer(mut self, mut turn: Turn) -> Option<(Turn, Reply)> {
        loop {
            let reply = tokio::select! {
                biased;
                reply = self.waiting.next_reply() => Some(reply),
                Some(asked) = self.asks.recv() => {
                    self.add(asked);
                    None
                }
            };
            if let Some(reply) = reply {
                return Some((turn, reply));
            }
            while self.asks_something() {
                let (again, reply) = self.round(turn).await?;
                turn = again;
                if let Some(reply) = reply {
                    return Some((turn, reply));
                }
            }
        }
    }

    fn add(&mut self, asked: Asked) {
        let digest = carried::digest(&asked.question);
        let answer = self.carried.answer(&digest);
        if let Some(answer) = answer.filter(|answer| fits(&asked.question, answer).is_ok()) {
            // It may have been taken back.
            return drop(asked.answer.send(answer));
        }
        self.count = self.count.saturating_add(1);
        if self.count <= QUESTIONS_MAX {
            self.open.push(Open { key: format!("q{}", self.count), digest, asked });
        }
    }

    /// Whether anything is asked that has not been taken back.
    fn asks_something(&mut self) -> bool {
        self.open.retain(|open| !open.asked.answer.is_closed());
        !self.open.is_empty()
    }

    /// Answers with what is asked, and waits for the request to come again. With whoever waits then comes what its server has
    /// answered meanwhile without waiting for answers.
    async fn round(&mut self, turn: Turn) -> Option<(Turn, Option<Reply>)> {
        let (gateway, id) = (self.gateway.clone(), self.waiting.id());
        let Some((state, mut comes)) = gateway.held.open(self.waiting.connection(), id) else {
            let server = &gateway.settings.launch.name;
            tracing::warn!(server, "too many requests are held for answers; what is asked is declined");
            self.open.clear();
            return Some((turn, None));
        };
        gateway.passed_landed(&turn.id, id);
        turn.reply.send(turn.id, self.asking(&state)).await;
        let (given_up, mut reply) = (tokio::time::sleep(PATIENCE), None);
        tokio::pin!(given_up);
        loop {
            tokio::select! {
                again = &mut comes => {
                    let Again { turn, answers } = again.ok()?;
                    self.take(answers);
                    return Some((turn, reply));
                }
                came = self.waiting.next_reply(), if reply.is_none() => reply = Some(came),
                Some(asked) = self.asks.recv() => self.add(asked),
                () = &mut given_up => break,
                () = gateway.closing.cancelled() => break,
            }
        }
        let server = &gateway.settings.launch.name;
        tracing::info!(server, "a request is given up: its client has not come again with answers");
        self.waiting.cancel("its client has not come again with answers").await;
        None
    }

    fn asking(&self, held: &str) -> Answer {
        let mut requests = Fields::default();
        for open in &self.open {
            requests.set(&open.key, open.asked.question.clone());
        }
        let open = self.open.iter().map(|open| (open.key.clone(), open.digest.clone())).collect();
        let state = self.carried.state(held, self.count, open);
        let mut round = Fields::default();
        round.set("resultType", to_json("input_required"));
        round.set("inputRequests", requests.to_json());
        round.set("requestState", to_json(&state));
        Answer::Result(round.to_json())
    }

    /// What can be no answer to its question, as what is missing, has that asked again.
    fn take(&mut self, mut answers: Fields) {
        let open = std::mem::take(&mut self.open);
        for open in open {
            let answer = answers.take(&open.key);
            match answer.filter(|answer| fits(&open.asked.question, answer).is_ok()) {
                Some(answer) => {
                    self.carried.add(open.digest, answer.clone());
                    drop(open.asked.answer.send(answer));
                }
                None => self.open.push(open),
            }
        }
    }
}

/// What nobody can guess.
fn random() -> String {
    let mut bits = [0; 20];
    getrandom::fill(&mut bits).expect("the system gives random bits");
    BASE32_NOPAD.encode(&bits)
}

//! Follows a task of a server to its end: looks at it, brings its questions to whoever answers them, and its answer back.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::job::{Failure, FailureKind};
use meanwhile_core::{Attempt, Json, Progress, RunContext};
use serde_json::json;
use tokio::task::JoinSet;

use super::connection::{Connection, Kept, Reply, Waiting};
use super::tasks::{Dialect, State, Task};
use super::{Party, Upstream, UpstreamError};
use crate::answers::ELICITATION;
use crate::dialect::without_related_task;
use crate::message::{self, Answer, Fields, INVALID_PARAMS, Id, to_json};

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(60);
/// The longest pause after a look that failed.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often in a row a look may fail before the task is given up for this attempt.
const FAILURES_MAX: u32 = 20;
/// How long a task that was told to stop may take to end.
const STOP: Duration = Duration::from_secs(3);
/// How often it is tried to bring an answer to the server.
const UPDATES_MAX: u32 = 5;

/// Why a look at a task shows nothing.
enum Blind {
    /// The server says that there is no such task, or anything else that will not change.
    Never(Json),
    /// The server is not there at the moment.
    Away(String),
}

/// One task that is followed.
pub(crate) struct Follower {
    upstream: Arc<Upstream>,
    party: Party,
    connection: Arc<Connection>,
    task: Task,
    kept: Arc<Kept>,
    context: RunContext,
    /// What the task last said of itself, and how often that was something new.
    said: Option<String>,
    news: u32,
    /// The questions that are open, by the server's keys.
    open: HashMap<String, (Id, tokio::task::AbortHandle)>,
    answering: JoinSet<Result<String, Json>>,
    known: std::collections::HashSet<String>,
}

type Look = Pin<Box<dyn Future<Output = Result<State, Blind>> + Send>>;

impl Follower {
    /// Follows `task`, which the call of this id has become, if it was made through this connection.
    pub(crate) fn new(
        (upstream, party): (Arc<Upstream>, Party),
        connection: Arc<Connection>,
        task: Task,
        call: Option<u64>,
        context: RunContext,
    ) -> Follower {
        let kept = Arc::new(connection.keep(party, call, &task.id, context.clone()));
        Follower {
            upstream,
            party,
            connection,
            task,
            kept,
            context,
            said: None,
            news: 0,
            open: HashMap::new(),
            answering: JoinSet::new(),
            known: std::collections::HashSet::new(),
        }
    }

    /// Follows the task to its end.
    pub(crate) async fn run(mut self) -> Attempt {
        let mut failures = 0;
        let mut result = self.ask_result().await;
        let mut listening: Option<Listening> = None;
        let mut look = self.look(Duration::ZERO);
        loop {
            let seen = tokio::select! {
                reply = answer_of(result.as_mut()) => {
                    match self.result(reply).await {
                        Ok(attempt) => return attempt,
                        Err(blind) => Err(blind),
                    }
                }
                seen = &mut look => seen,
                Some(answered) = self.answering.join_next() => {
                    match answered {
                        Ok(Ok(key)) => drop(self.open.remove(&key)),
                        Ok(Err(error)) => return self.refuse(result, error).await,
                        Err(_) => {}
                    }
                    look = self.look(Duration::ZERO);
                    continue;
                }
                () = lost(listening.as_mut()) => {
                    listening = None;
                    continue;
                }
                () = self.context.cancelled() => return self.stop(result).await,
            };
            let pause = match seen {
                Ok(state) => {
                    failures = 0;
                    if let Some(attempt) = self.ended(&state) {
                        return attempt;
                    }
                    self.news(&state).await;
                    if self.task.dialect == Dialect::Extension && listening.is_none() {
                        listening = Some(self.listen().await);
                    }
                    state.pause()
                }
                Err(Blind::Never(error)) => return self.gone(error),
                Err(Blind::Away(reason)) => {
                    failures += 1;
                    if failures > FAILURES_MAX || !self.come_back().await {
                        return Attempt::Lost(reason);
                    }
                    result = self.ask_result().await;
                    listening = None;
                    Duration::from_millis(100).saturating_mul(1 << failures.min(9)).min(PAUSE_MAX)
                }
            };
            look = self.look(pause);
        }
    }

    /// Looks at the task after a pause, or as soon as the server says that something has changed.
    fn look(&self, pause: Duration) -> Look {
        let (connection, kept, params) = (self.connection.clone(), self.kept.clone(), self.task.params());
        Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = kept.woken() => {}
            }
            let result = request(&connection, "tasks/get", params).await?;
            State::read(&result).ok_or_else(|| Blind::Never(message::error(INVALID_PARAMS, "no task came")))
        })
    }

    /// In the dialect of 2025-11-25 the answer comes by a request of its own, on whose stream the task asks as well.
    async fn ask_result(&self) -> Option<Waiting> {
        if self.task.dialect == Dialect::Extension {
            return None;
        }
        let params = Some(self.task.params().to_json());
        Some(self.connection.request_about(self.party, "tasks/result", params, self.context.clone()).await)
    }

    async fn result(&mut self, reply: Reply) -> Result<Attempt, Blind> {
        match reply {
            Reply::Answer(Answer::Result(result), _) => Ok(Attempt::Answered(without_related_task(&result))),
            Reply::Answer(Answer::Error(error), _) => match code(&error) {
                // The answer of the task, or that there is no such task: a look at the task tells.
                INVALID_PARAMS => match self.look(Duration::ZERO).await {
                    Ok(_) => Ok(failed(error)),
                    Err(blind) => Err(blind),
                },
                _ => Ok(failed(error)),
            },
            Reply::Round(_) => Err(Blind::Away("the server asks where it must not".to_owned())),
            Reply::Refused(reason) | Reply::Lost(reason) => Err(Blind::Away(reason)),
        }
    }

    /// The end, if this is it. In the dialect of 2025-11-25 that is told by `tasks/result`.
    fn ended(&self, state: &State) -> Option<Attempt> {
        if self.task.dialect == Dialect::Core {
            return None;
        }
        let nothing = || message::error(message::INTERNAL_ERROR, "the task ended without saying how");
        Some(match state.status().as_str() {
            "completed" => state.result().map_or_else(|| failed(nothing()), Attempt::Answered),
            "failed" => failed(state.error().unwrap_or_else(nothing)),
            "cancelled" => {
                let said = state.message().map(|said| format!(": {said}")).unwrap_or_default();
                failed(message::error(
                    message::INTERNAL_ERROR,
                    &format!("the server cancelled the task{said}"),
                ))
            }
            _ => return None,
        })
    }

    /// Passes on what is new: what the task says of itself, and what it asks.
    async fn news(&mut self, state: &State) {
        let said = state.message();
        if said.is_some() && said != self.said {
            self.news += 1;
            let progress = f64::from(self.news);
            self.context.progress(Progress { progress, total: None, message: said.clone(), verbatim: None });
            self.said = said;
        }
        if self.task.dialect == Dialect::Core {
            return;
        }
        let questions = state.questions();
        let withdrawn: Vec<String> =
            self.open.keys().filter(|key| !questions.iter().any(|(name, _)| name == *key)).cloned().collect();
        for key in withdrawn {
            if let Some((id, answering)) = self.open.remove(&key) {
                answering.abort();
                self.connection.withdraw(self.kept.id(), id).await;
            }
        }
        for (key, question) in questions {
            if self.known.insert(key.clone()) {
                self.ask(key, question).await;
            }
        }
    }

    async fn ask(&mut self, key: String, mut question: Fields) {
        let method: String = question.read("method").unwrap_or_default();
        let asked = self.connection.question(self.kept.id(), &method, question.take("params"));
        let (id, answer, message) = asked;
        let (connection, mut params, name) = (self.connection.clone(), self.task.params(), key.clone());
        let answering = self.answering.spawn(async move {
            let answer = match answer.await {
                Ok(Answer::Result(answer)) => answer,
                // There is no way to say that a question failed, but a person may always refuse to answer.
                Ok(Answer::Error(error)) if method != ELICITATION => return Err(error),
                _ => to_json(&json!({"action": "cancel"})),
            };
            let mut answers = Fields::default();
            answers.set(&name, answer);
            params.set("inputResponses", answers.to_json());
            for tried in 1..=UPDATES_MAX {
                match request(&connection, "tasks/update", params.clone()).await {
                    Err(Blind::Away(_)) => tokio::time::sleep(Duration::from_secs(1) * tried).await,
                    _ => break,
                }
            }
            Ok(name)
        });
        self.open.insert(key, (id, answering));
        self.connection.pass_question(self.kept.id(), message).await;
    }

    /// Asks to be told when the task changes. Not every server can.
    async fn listen(&self) -> Listening {
        let params = to_json(&json!({"notifications": {"taskIds": [self.task.id]}}));
        Listening(Some(self.connection.request("subscriptions/listen", Some(params)).await))
    }

    /// The server was not there. Returns whether the task can still be.
    async fn come_back(&mut self) -> bool {
        if !self.upstream.is_remote() {
            return false;
        }
        if self.connection.is_closed()
            && let Ok(connection) = self.upstream.connect().await
        {
            self.kept = Arc::new(connection.keep(self.party, None, &self.task.id, self.context.clone()));
            self.connection = connection;
        }
        true
    }

    fn gone(&self, error: Json) -> Attempt {
        let words = words(&error);
        let message =
            format!("the server no longer knows the task that did the work ({words}); it may have expired");
        Attempt::Failed(Failure { kind: FailureKind::Error, message, error: Some(error) })
    }

    /// A question failed, and the task cannot be told so: it is stopped, as a call is not made again.
    async fn refuse(self, result: Option<Waiting>, error: Json) -> Attempt {
        match self.stop(result).await {
            answered @ Attempt::Answered(_) => answered,
            _ => failed(error),
        }
    }

    /// Tells the server to stop, and says what is known of whether it did.
    async fn stop(mut self, mut result: Option<Waiting>) -> Attempt {
        let stopped = async {
            let told = request(&self.connection, "tasks/cancel", self.task.params()).await;
            if let (Dialect::Core, Ok(task)) = (self.task.dialect, &told)
                && State::read(task).is_some_and(|state| state.status() == "cancelled")
            {
                return confirmed();
            }
            if let Some(Reply::Answer(Answer::Result(answer), _)) = match result.as_mut() {
                Some(result) => Some(result.next_reply().await),
                None => None,
            } {
                return Attempt::Answered(without_related_task(&answer));
            }
            loop {
                match self.look(Duration::from_millis(50)).await {
                    Ok(state) if state.status() == "cancelled" => return confirmed(),
                    Ok(state) => {
                        if let Some(attempt) = self.ended(&state) {
                            return attempt;
                        }
                    }
                    Err(_) => return Attempt::Stopped("its server no longer knows the task".to_owned()),
                }
            }
        };
        let attempt = tokio::time::timeout(STOP, stopped).await;
        self.answering.shutdown().await;
        attempt.unwrap_or_else(|_| {
            Attempt::Stopped(
                "the server was told to cancel its task, and has not said that it did".to_owned(),
            )
        })
    }
}

/// A subscription that is ended with the task.
struct Listening(Option<Waiting>);

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(waiting) = self.0.take() {
            tokio::spawn(async move { waiting.end("the task has ended").await });
        }
    }
}

/// Resolves when the subscription breaks off. One that the server refuses, or has ended, is not tried again.
async fn lost(listening: Option<&mut Listening>) {
    if let Some(Listening(subscription)) = listening {
        if let Some(waiting) = subscription
            && let Reply::Lost(_) = waiting.next_reply().await
        {
            return;
        }
        *subscription = None;
    }
    std::future::pending().await
}

async fn answer_of(waiting: Option<&mut Waiting>) -> Reply {
    match waiting {
        Some(waiting) => waiting.next_reply().await,
        None => std::future::pending().await,
    }
}

async fn request(connection: &Arc<Connection>, method: &str, params: Fields) -> Result<Json, Blind> {
    let asked = async { connection.request(method, Some(params.to_json())).await.reply().await.answer() };
    match tokio::time::timeout(LOOK, asked).await {
        Ok(Ok(Answer::Result(result))) => Ok(result),
        Ok(Ok(Answer::Error(error))) => Err(Blind::Never(error)),
        Ok(Err(UpstreamError::Lost { reason })) => Err(Blind::Away(reason)),
        Ok(Err(error)) => Err(Blind::Away(error.to_string())),
        Err(_) => Err(Blind::Away(format!("the server was silent for {LOOK:?}"))),
    }
}

fn code(error: &Json) -> i64 {
    Fields::parse(error.get()).ok().and_then(|error| error.read("code")).unwrap_or_default()
}

fn words(error: &Json) -> String {
    let words = Fields::parse(error.get()).ok().and_then(|error| error.read("message"));
    words.unwrap_or_else(|| "an error without a message".to_owned())
}

fn failed(error: Json) -> Attempt {
    Attempt::Failed(Failure { kind: FailureKind::Error, message: words(&error), error: Some(error) })
}

fn confirmed() -> Attempt {
    Attempt::Stopped("the server confirmed that it stopped".to_owned())
}

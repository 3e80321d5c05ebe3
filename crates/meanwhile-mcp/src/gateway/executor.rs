//! Runs a tool of the upstream for the engine: one attempt is one `tools/call`.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::job::{Failure, FailureKind};
use meanwhile_core::{Attempt, Executor, Job, Json, RunContext};
use serde::Deserialize;

use super::extras::Extras;
use crate::message::{Answer, Fields, INTERNAL_ERROR, error};
use crate::upstream::{Connection, Follower, Party, Reply, Task, Upstream, Waiting};

/// How long a server that was told to stop may take to answer all the same. By the protocol it says nothing.
const CONFIRMATION: Duration = Duration::from_millis(500);

/// The words of an error are kept up to this length, in characters; the error itself is kept whole.
const MESSAGE_CHARS: usize = 2000;

pub(super) struct McpExecutor {
    upstream: Arc<Upstream>,
    party: Party,
    server: String,
    scope: String,
    extras: Arc<Extras>,
}

impl McpExecutor {
    pub(super) fn new(
        upstream: Arc<Upstream>,
        party: Party,
        server: String,
        scope: String,
        extras: Arc<Extras>,
    ) -> McpExecutor {
        McpExecutor { upstream, party, server, scope, extras }
    }

    fn user(&self) -> (Arc<Upstream>, Party) {
        (self.upstream.clone(), self.party)
    }
}

#[async_trait::async_trait]
impl Executor for McpExecutor {
    /// The same server, for the same user in the same folder, once its client has introduced itself: before that the server
    /// takes no calls.
    fn serves(&self, job: &Job) -> bool {
        job.server == self.server && job.scope == self.scope && self.upstream.is_initialized()
    }

    /// `request` is the parameters of the `tools/call`.
    async fn run(self: Arc<Self>, request: Json, context: RunContext) -> Attempt {
        let connected = tokio::select! {
            connected = self.upstream.connect() => connected,
            () = context.cancelled() => return Attempt::Stopped("stopped before the server was called".to_owned()),
        };
        let connection = match connected {
            Ok(connection) => connection,
            Err(why) => return failed(why.to_string()),
        };
        // Not done again, but found again: its work goes on at the server.
        if let Some(task) = context.attached().as_deref().and_then(Task::read) {
            let _shown = self.extras.show(context.handle(), task.extras());
            return Follower::new(self.user(), connection, task, None, context).run().await;
        }
        let mut params = Fields::parse(request.get()).unwrap_or_default();
        if params.read::<String>("name").is_some_and(|tool| connection.takes_as_task(&tool)) {
            Task::ask_for(&mut params);
        }
        let mut waiting = connection.call(self.party, params, context.clone()).await;
        let reply = loop {
            let reply = tokio::select! {
                reply = waiting.next_reply() => reply,
                () = context.cancelled() => return stop(waiting, context).await,
            };
            match reply {
                // On the way to its client the call has become a job: that is asked, for a round is no result.
                Reply::Round(round) if context.is_job() => waiting = waiting.ask_here(*round).await,
                reply => break reply,
            }
        };
        match created(&reply, &connection) {
            Some(task) => self.follow(waiting, task, context).await,
            None => ended(reply),
        }
    }
}

impl McpExecutor {
    /// The call has become a task of the server, which is followed to its end.
    async fn follow(&self, call: Waiting, task: Task, context: RunContext) -> Attempt {
        let _shown = self.extras.show(context.handle(), task.extras());
        context.is_a_task();
        // A task of a process is gone when the process is.
        let outlives_us = self.upstream.is_remote();
        let (stored, attaching) = (task.to_text(), context.clone());
        let connection = call.connection().clone();
        let follower = Follower::new(self.user(), connection, task, Some(call.id()), context).run();
        if !outlives_us {
            return follower.await;
        }
        tokio::pin!(follower);
        tokio::select! {
            ended = &mut follower => return ended,
            is_kept = attaching.attach(stored) => {
                if is_kept {
                    tracing::info!(server = self.server, "attached to the task that does the work at the server");
                } else {
                    tracing::warn!(server = self.server, "the server's task is not stored: it is not found again if this process dies");
                }
            }
        }
        follower.await
    }
}

/// The task that a call has become, if that was its answer.
fn created(reply: &Reply, connection: &Connection) -> Option<Task> {
    match reply {
        Reply::Answer(Answer::Result(result), _) => Task::created(result, connection.era()),
        _ => None,
    }
}

fn ended(reply: Reply) -> Attempt {
    #[derive(Deserialize)]
    struct Words {
        message: String,
    }
    match reply {
        Reply::Answer(Answer::Result(result), _) => Attempt::Answered(result),
        Reply::Answer(Answer::Error(error), _) => {
            let words = serde_json::from_str(error.get()).map(|Words { message }| message);
            let message = words.unwrap_or_else(|_| "the server gave an error without a message".to_owned());
            let message = message.chars().take(MESSAGE_CHARS).collect();
            Attempt::Failed(Failure { kind: FailureKind::Error, message, error: Some(error) })
        }
        Reply::Round(round) => Attempt::Answered(round.result),
        Reply::Refused(reason) => failed(reason),
        Reply::Lost(reason) => Attempt::Lost(reason),
    }
}

/// The server was not reached. The error is that of both eras and dialects, for anyone may look at the job.
fn failed(message: String) -> Attempt {
    let error = Some(error(INTERNAL_ERROR, &message));
    Attempt::Failed(Failure { kind: FailureKind::Error, message, error })
}

/// Tells the server to stop, and says what is known of whether it did.
async fn stop(mut waiting: Waiting, context: RunContext) -> Attempt {
    if waiting.connection().is_closed() {
        return Attempt::Stopped("the server that ran it is gone".to_owned());
    }
    waiting.cancel("cancelled through meanwhile").await;
    match tokio::time::timeout(CONFIRMATION, waiting.next_reply()).await {
        Ok(Reply::Answer(Answer::Result(result), _)) => Attempt::Answered(result),
        Ok(Reply::Answer(Answer::Error(_), _)) => {
            Attempt::Stopped("the server confirmed that it stopped".to_owned())
        }
        Ok(Reply::Round(_)) => Attempt::Stopped("the server asked for more, and was told nothing".to_owned()),
        Ok(Reply::Refused(reason) | Reply::Lost(reason)) => Attempt::Stopped(reason),
        Err(_) => {
            let known = if waiting.went_on() {
                "the server was told to stop, but goes on and still reports progress: it could not be stopped"
            } else {
                "the server was told to stop; by the protocol it does not confirm that it did"
            };
            waiting.give_up(context.handle());
            Attempt::Stopped(known.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::FutureExt;
    use meanwhile_core::artifact::Artifacts;
    use meanwhile_core::engine::{Settings as EngineSettings, Slots, answer};
    use meanwhile_core::testing::{MemoryStore, TokioClock};
    use meanwhile_core::{Actor, Call, Called, Policy, Signal, Status, Store, Waited};
    use serde_json::{Value, json};

    use super::super::{Gateway, Settings};
    use crate::message::{Answer, Fields, Id, Message, to_json};
    use crate::rules::Rules;
    use crate::transport::Outbound;
    use crate::upstream::testing;

    fn response(id: u64, result: &Value) -> Message {
        let answer = Answer::Result(to_json(result));
        Message::Response { id: Id::from(id), answer, extra: Fields::default() }
    }

    fn a_call() -> Call {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}});
        let (join_key, retry_key, conversation) = (None, None, None);
        let request = to_json(&json!({"name": "asks", "_meta": meta}));
        let (scope, server, tool) = ("me".to_owned(), "s".to_owned(), "asks".to_owned());
        Call { scope, server, tool, request, join_key, retry_key, conversation }
    }

    fn settings() -> Settings {
        let launch = testing::launch();
        let engine = EngineSettings {
            peer: "one".to_owned(),
            slots: Slots::new(1),
            lease: Duration::from_secs(30),
            answer_timeout: None,
        };
        let (scope, rules, size) = ("me".to_owned(), Rules::default(), 1 << 20);
        Settings { launch, scope, rules, wait_max: None, max_message: size, max_arguments: size, engine }
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_comes_while_its_call_becomes_a_job_is_asked_of_the_job() {
        let (upstream, connection, mut sent) = testing::modern();
        let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::default())));
        let folder = tempfile::tempdir().unwrap();
        let (down, _) = Outbound::channel();
        let artifacts = Artifacts::new(folder.path());
        let gateway = Gateway::start_on(upstream, settings(), store.clone(), artifacts, down);

        // Told what the job is to be, which is when it is about to be written down, and no sooner.
        let call = a_call();
        let is_asked = Cell::new(false);
        let about_to_be_written = || {
            let question = json!({"method": "elicitation/create", "params": {"message": "Sure?"}});
            let round = json!({"resultType": "input_required", "inputRequests": {"sure": question}, "requestState": "st"});
            if !is_asked.replace(true) {
                testing::says(&connection, response(1, &round)).now_or_never().expect("nobody is waited for");
            }
            &call
        };
        let (cancel, hand_off) = (Signal::default(), Signal::default());
        hand_off.raise();
        let waited = Waited {
            budget: Some(Duration::MAX),
            cancel: &cancel,
            hand_off: &hand_off,
            follows_tasks: false,
        };
        let policy = Policy { rerun: false, timeout: None, ttl: Duration::from_secs(60) };
        let called = gateway.engine.call(&call.request, about_to_be_written, policy, waited, drop).await;
        let Called::Started(job) = called else { panic!("no job: {called:?}") };
        assert!(is_asked.get() && sent.next().await.expect("a call").contains("\"asks\""));

        let asks = gateway.waits_for_input(job.handle);
        tokio::time::timeout(Duration::from_secs(60), asks).await.expect("the job asks");
        let given = vec![("q1".to_owned(), to_json(&json!({"action": "accept"})))];
        answer(&*store, None, job.handle, given, Actor::User).await.unwrap();
        let again: Value = serde_json::from_str(&sent.next().await.unwrap()).unwrap();
        assert_eq!(again["params"]["requestState"], "st");
        assert_eq!(again["params"]["inputResponses"], json!({"sure": {"action": "accept"}}));
        let done = json!({"resultType": "complete", "content": []});
        testing::says(&connection, response(again["id"].as_u64().unwrap(), &done)).await;
        gateway.drain().await;
        let job = store.job(job.handle).await.unwrap().unwrap();
        assert_eq!(job.status, Status::Completed);
        let kept = store.answer(job.handle).await.unwrap();
        assert_eq!(kept.unwrap().get(), r#"{"content":[]}"#);
    }
}

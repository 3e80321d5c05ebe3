//! Runs a tool of the upstream for the engine: one attempt is one `tools/call`.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::job::{Failure, FailureKind};
use meanwhile_core::{Attempt, Executor, Job, Json, RunContext};
use serde::Deserialize;

use crate::message::{Answer, Fields, UPSTREAM_GONE, error};
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
}

impl McpExecutor {
    pub(super) fn new(upstream: Arc<Upstream>, party: Party, server: String, scope: String) -> McpExecutor {
        McpExecutor { upstream, party, server, scope }
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
            Err(why) => {
                let message = why.to_string();
                let error = Some(error(UPSTREAM_GONE, &message));
                return Attempt::Failed(Failure { kind: FailureKind::Error, message, error });
            }
        };
        // Not done again, but found again: its work goes on at the server.
        if let Some(task) = context.attached().as_deref().and_then(Task::read) {
            return Follower::new(self.user(), connection, task, None, context).run().await;
        }
        let mut params = Fields::parse(request.get()).unwrap_or_default();
        if params.read::<String>("name").is_some_and(|tool| connection.takes_as_task(&tool)) {
            Task::ask_for(&mut params);
        }
        let mut waiting = connection.call(self.party, params, context.clone()).await;
        let reply = tokio::select! {
            reply = waiting.next_reply() => reply,
            () = context.cancelled() => return stop(waiting, context).await,
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
                    tracing::info!("attached to the task that does the work at the server");
                } else {
                    tracing::warn!("the server's task is not stored: it is not found again if this process dies");
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
        Reply::Lost(reason) => Attempt::Lost(reason),
    }
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
        Ok(Reply::Lost(reason)) => Attempt::Stopped(reason),
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

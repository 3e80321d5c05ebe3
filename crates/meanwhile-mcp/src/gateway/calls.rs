//! `tools/call`: to one of our tools, or to a tool of the upstream through the engine, in the face it is to have.

use std::sync::Arc;

use meanwhile_core::job::{Failure, FailureKind};
use meanwhile_core::{Attempt, Call, Called, Job, Json, Policy, Progress, Status};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::reply::{ReplyTo, protocol_error, tool_error, tool_result, verbatim};
use super::{Gateway, InFlight, lock};
use crate::catalog::{Catalog, Tool, join_key};
use crate::message::{Answer, Fields, INTERNAL_ERROR, Id, Message};
use crate::rules::Face;
use crate::words;

impl Gateway {
    pub(super) async fn call_tool(
        self: &Arc<Self>,
        id: Id,
        params: Option<Json>,
        extra: Fields,
        reply: ReplyTo,
    ) {
        let fields = params.as_ref().and_then(|params| Fields::parse(params.get()).ok());
        let named = fields.and_then(|fields| fields.read::<String>("name").map(|name| (fields, name)));
        let (fields, name) = match named {
            // A native task of the upstream is between the client and it.
            Some((fields, name)) if fields.get("task").is_none() => (fields, name),
            _ => return self.pass_request(id, "tools/call".to_owned(), params, extra, reply).await,
        };
        let cancel = CancellationToken::new();
        lock(&self.in_flight).insert(id.clone(), InFlight::Here(cancel.clone()));
        let gateway = self.clone();
        self.requests.spawn(async move {
            let answer = gateway.answer_call(fields, &name, &cancel).await;
            gateway.landed(&id, |request| matches!(request, InFlight::Here(_)));
            if let Some(answer) = answer {
                reply.send(id, answer).await;
            }
        });
    }

    /// The answer of a call; `None` if it was cancelled, for then there is to be none.
    async fn answer_call(
        self: &Arc<Self>,
        fields: Fields,
        name: &str,
        cancel: &CancellationToken,
    ) -> Option<Answer> {
        let catalog = self.catalog().await;
        if let Some(ours) = self.own_tool(name, &catalog) {
            return tokio::select! {
                answer = self.call_own_tool(ours, &fields, &catalog) => Some(answer),
                () = cancel.cancelled() => None,
            };
        }
        let tool = catalog
            .get(name)
            .cloned()
            .unwrap_or_else(|| Arc::new(Tool::unlisted(name, &self.settings.rules)));
        let arguments = match self.checked_arguments(&fields, &tool) {
            Ok(arguments) => arguments,
            Err(why) => return Some(tool_error(&why)),
        };
        self.run_tool(fields, &tool, &arguments, &catalog, cancel).await
    }

    fn checked_arguments(&self, fields: &Fields, tool: &Tool) -> Result<Value, String> {
        let text = fields.get("arguments").map_or("{}", |arguments| arguments.get());
        if text.len() > self.settings.max_arguments {
            return Err(format!(
                "{}: the arguments have {} bytes, more than the limit of {}; nothing was started. Send less, for example a file's \
                 path instead of its content, or have the limit raised (--max-arguments).",
                tool.name,
                text.len(),
                self.settings.max_arguments
            ));
        }
        let arguments: Value = serde_json::from_str(text).map_err(|error| {
            format!("{}: the arguments cannot be read: {error}; nothing was started", tool.name)
        })?;
        tool.check(&arguments).map_err(|why| {
            format!("{}: the arguments do not fit its inputSchema, nothing was started. {why}", tool.name)
        })?;
        Ok(arguments)
    }

    async fn run_tool(
        self: &Arc<Self>,
        fields: Fields,
        tool: &Tool,
        arguments: &Value,
        catalog: &Catalog,
        cancel: &CancellationToken,
    ) -> Option<Answer> {
        let treatment = &tool.treatment;
        let token =
            fields.read::<Fields>("_meta").and_then(|meta| meta.get("progressToken").map(ToOwned::to_owned));
        let launch = &self.settings.launch;
        let join_key = (treatment.face != Face::Inline).then(|| join_key(launch, &tool.name, arguments));
        let call = Call {
            scope: self.settings.scope.clone(),
            server: launch.name.clone(),
            tool: tool.name.clone(),
            request: fields.to_json(),
            join_key,
        };
        let policy = Policy { rerun: tool.rerun, timeout: treatment.timeout, ttl: treatment.ttl };
        let budget = (treatment.face == Face::Auto).then_some(treatment.inline_budget);
        let called = if treatment.face == Face::Handle {
            match self.engine.start(call, policy).await {
                Ok(called) => called,
                Err(error) => {
                    return Some(protocol_error(INTERNAL_ERROR, &format!("{error}; nothing was started")));
                }
            }
        } else {
            let forward = |progress: Progress| self.forward_progress(token.as_deref(), &progress);
            self.engine.call(call, policy, budget, cancel, forward).await
        };
        Some(match called {
            Called::Ended(attempt) => return ended(attempt),
            Called::Started(job) => self.handle_answer(&job, false, catalog).await,
            Called::Joined(job) => self.handle_answer(&job, true, catalog).await,
        })
    }

    async fn handle_answer(&self, job: &Job, joined: bool, catalog: &Catalog) -> Answer {
        let ahead = match job.status {
            Status::Queued => self.engine.store().ahead(job.handle).await.unwrap_or(0),
            _ => 0,
        };
        let poll = catalog.our_name(words::POLL_RESULT);
        tool_result(&words::started(job, ahead, &poll, joined))
    }

    /// While the client still waits inline it sees the progress it asked for, word for word, under its own token.
    fn forward_progress(&self, token: Option<&serde_json::value::RawValue>, progress: &Progress) {
        let Some((token, report)) = token.zip(progress.verbatim.as_deref()) else { return };
        let Ok(mut fields) = Fields::parse(report) else { return };
        fields.set("progressToken", token.to_owned());
        let message = Message::notification("notifications/progress", fields.to_json());
        self.down.send_soon(message.to_line());
    }
}

fn ended(attempt: Attempt) -> Option<Answer> {
    match attempt {
        Attempt::Answered(result) => Some(verbatim(result)),
        Attempt::Failed(Failure { kind: FailureKind::Error, error: Some(error), .. }) => {
            Some(Answer::Error(error))
        }
        Attempt::Failed(failure) => Some(tool_error(&failure.message)),
        Attempt::Lost(reason) => Some(tool_error(&reason)),
        Attempt::Stopped(_) => None,
    }
}

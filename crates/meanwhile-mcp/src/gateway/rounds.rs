//! Questions of a call to a client of the modern era, in several rounds: the call is answered with what is asked, and comes again
//! with the answers. Between two rounds the call is a job, so any process can go on with it; what the client hands back to us is
//! no more than the job's handle, which counts only in its own scope and for the same call.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/patterns/mrtr>.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::engine::{Action, answer};
use meanwhile_core::job::Input;
use meanwhile_core::{Actor, Handle, Job, Status, StoreError};
use serde_json::json;

use super::Gateway;
use super::caller::Caller;
use super::open_call::OpenCall;
use super::tasks::{Wrong, invalid};
use crate::catalog::{Catalog, Tool, join_key};
use crate::dialect;
use crate::message::{Answer, Fields, to_json};
use crate::rules::Face;

impl Gateway {
    /// What a job asks, as the answer of its call, if this client can answer all of it.
    pub(super) async fn round(&self, caller: &Caller, job: &Job) -> Option<Answer> {
        if !caller.is_modern() || job.status != Status::InputRequired {
            return None;
        }
        let open = self.open_inputs(job).await.ok()?;
        let can_answer = |input: &Input| {
            let question = Fields::parse(input.question.get()).ok()?;
            let method = question.read::<String>("method")?;
            caller.capabilities.answers(&method, question.get("params")).then_some(())
        };
        if open.is_empty() || open.iter().any(|input| can_answer(input).is_none()) {
            return None;
        }
        let mut round = Fields::default();
        round.set("resultType", to_json("input_required"));
        round.set("inputRequests", dialect::requests(&open));
        round.set("requestState", to_json(&job.handle));
        Some(Answer::Result(round.to_json()))
    }

    /// Whether a call comes again with what we gave it. What a server of the modern era has given it is that server's.
    pub(super) fn is_our_round(&self, fields: &Fields) -> bool {
        let Some(state) = fields.get("requestState") else { return false };
        let is_handle = serde_json::from_str::<Handle>(state.get()).is_ok();
        is_handle || !self.upstream.is_modern()
    }

    /// The answer of a call that is waited for as long as it takes, and has become a job only because it asks: what its client can be
    /// asked, or how it ended. `None` if the client has taken it back, which cancels it.
    pub(super) async fn wait_out(self: &Arc<Self>, handle: Handle, open: &OpenCall) -> Option<Answer> {
        tokio::select! {
            answer = self.round_or_end(handle, &open.caller) => {
                Some(answer.unwrap_or_else(|Wrong(answer)| answer))
            }
            () = open.cancel.raised() => {
                self.cancel_waited(handle).await;
                None
            }
        }
    }

    async fn round_or_end(self: &Arc<Self>, handle: Handle, caller: &Caller) -> Result<Answer, Wrong> {
        loop {
            let job = self.wait_for(handle, Duration::MAX).await?.ok_or_else(unknown)?;
            if job.status.is_terminal() {
                let answer = self.whole_answer(&job).await?;
                self.collect(&job);
                return Ok(answer);
            }
            if let Some(round) = self.round(caller, &job).await {
                return Ok(round);
            }
            // Its client cannot be asked this, and is not given a handle that others could answer it by.
            let no = |key: &String| (key.clone(), to_json(&json!({"action": "decline"})));
            let declined = job.open.iter().map(no).collect();
            let scope = Some(self.settings.scope.as_str());
            answer(&**self.engine.store(), scope, handle, declined, Actor::System).await?;
        }
    }

    async fn cancel_waited(self: &Arc<Self>, handle: Handle) {
        let cancelled = self.engine.control(&self.settings.scope, handle, Action::Cancel, Actor::Agent).await;
        if let Err(error) = cancelled {
            tracing::warn!(%handle, %error, "a call that its client has taken back is not cancelled");
        }
    }

    /// A call that comes again with answers: its job goes on with them, and is waited for as a call is. `None` if the client has
    /// taken it back.
    pub(super) async fn next_round(
        self: &Arc<Self>,
        fields: &Fields,
        tool: &Tool,
        catalog: &Catalog,
        open: &OpenCall,
    ) -> Option<Answer> {
        tokio::select! {
            answer = self.go_on(fields, tool, catalog, open) => {
                Some(answer.unwrap_or_else(|Wrong(answer)| answer))
            }
            () = open.cancel.raised() => {
                // Of one that is always waited for the client knows no handle.
                if tool.treatment.face == Face::Inline
                    && let Ok(Some(job)) = self.job_of_round(fields, tool).await
                {
                    self.cancel_waited(job.handle).await;
                }
                None
            }
        }
    }

    async fn go_on(
        self: &Arc<Self>,
        fields: &Fields,
        tool: &Tool,
        catalog: &Catalog,
        open: &OpenCall,
    ) -> Result<Answer, Wrong> {
        let job = self.job_of_round(fields, tool).await?.ok_or_else(unknown)?;
        if let Some(responses) = fields.get("inputResponses") {
            self.take_responses(&job, responses).await?;
        }
        let Some(patience) = self.budget(tool, &open.caller).await else {
            return self.round_or_end(job.handle, &open.caller).await;
        };
        let job = self.wait_for(job.handle, patience).await?.ok_or_else(unknown)?;
        if !job.status.is_terminal() {
            return Ok(self.handle_answer(&open.caller, &job, false, catalog).await);
        }
        let answer = self.whole_answer(&job).await?;
        self.collect(&job);
        Ok(answer)
    }

    /// The job of the very call that comes again: one of another scope, tool or arguments is not there.
    async fn job_of_round(&self, fields: &Fields, tool: &Tool) -> Result<Option<Job>, StoreError> {
        let state: Option<Handle> = fields.read("requestState");
        let Some(handle) = state else { return Ok(None) };
        let store = self.engine.store();
        let is_ours = |job: &Job| job.scope == self.settings.scope && job.tool == tool.name;
        let Some(job) = store.job(handle).await?.filter(|job| is_ours(job) && job.expired_at.is_none())
        else {
            return Ok(None);
        };
        let first = store.request(handle).await?;
        let first = first.and_then(|request| Fields::parse(request.get()).ok()).unwrap_or_default();
        let same = |fields: &Fields| {
            let arguments = fields.get("arguments").map_or("{}", |arguments| arguments.get());
            join_key(&self.settings.launch, &tool.name, arguments)
        };
        Ok(Some(job).filter(|_| same(&first) == same(fields)))
    }
}

fn unknown() -> Wrong {
    invalid("`requestState`: no call of yours with these arguments waits for answers")
}

//! Questions of a call to a client of the modern era, in several rounds: the call is answered with what is asked, and comes again
//! with the answers. Between two rounds the call is a job, so any process can go on with it; what the client hands back to us is
//! no more than the job's handle, which counts only in its own scope and for the same call.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/patterns/mrtr>.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::job::Input;
use meanwhile_core::{Handle, Job, Status, StoreError};

use super::Gateway;
use super::caller::Caller;
use super::open_call::OpenCall;
use super::tasks::{Wrong, invalid};
use crate::catalog::{Catalog, Tool, join_key};
use crate::dialect;
use crate::message::{Answer, Fields, to_json};

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
            () = open.cancel.raised() => None,
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
        let (handle, patience) = (job.handle, self.budget(tool, &open.caller).await);
        let job = loop {
            let job = self.wait_for(handle, patience.unwrap_or(Duration::MAX)).await?.ok_or_else(unknown)?;
            // Without a budget it is waited for as long as it takes.
            let asks = job.status == Status::InputRequired;
            if patience.is_some() || asks || job.status.is_terminal() {
                break job;
            }
        };
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

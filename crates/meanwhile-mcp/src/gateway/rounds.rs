//! Questions of a call to a client of the modern era, in several rounds: the call is answered with what is asked, and comes again
//! with the answers. Between two rounds the call is a job, so any process can go on with it; what the client hands back to us is
//! no more than the job's handle, which counts only in its own scope.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/patterns/mrtr>.

use std::sync::Arc;

use meanwhile_core::job::Input;
use meanwhile_core::{Handle, Job, Status};

use super::Gateway;
use super::caller::Caller;
use super::open_call::OpenCall;
use super::reply::protocol_error;
use crate::catalog::{Catalog, Tool};
use crate::dialect;
use crate::message::{Answer, Fields, INTERNAL_ERROR, INVALID_PARAMS, to_json};

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

    /// A call that comes again with answers: its job goes on with them, and is waited for as a call is.
    pub(super) async fn next_round(
        self: &Arc<Self>,
        fields: &Fields,
        tool: &Tool,
        catalog: &Catalog,
        open: &OpenCall,
    ) -> Option<Answer> {
        let state: String = fields.read("requestState").unwrap_or_default();
        let unknown = || {
            let why = "`requestState`: no call of yours waits for these answers";
            Some(protocol_error(INVALID_PARAMS, why))
        };
        let Ok(handle) = state.parse::<Handle>() else { return unknown() };
        let answers = fields.read::<Fields>("inputResponses").unwrap_or_default();
        let known = match self.engine.store().job(handle).await {
            Ok(known) => known.filter(|job| job.scope == self.settings.scope && job.tool == tool.name),
            Err(error) => return Some(protocol_error(INTERNAL_ERROR, &error.to_string())),
        };
        if known.is_none_or(|job| job.expired_at.is_some()) {
            return unknown();
        }
        let ended = async {
            self.give_answers(handle, answers).await?;
            let patience = self.budget(tool, &open.caller).await.unwrap_or_default();
            self.wait_for(handle, patience).await
        };
        let job = tokio::select! {
            job = ended => job,
            () = open.cancel.raised() => return None,
        };
        let job = match job {
            Ok(Some(job)) => job,
            Ok(None) => return unknown(),
            Err(error) => return Some(protocol_error(INTERNAL_ERROR, &error.to_string())),
        };
        if !job.status.is_terminal() {
            return Some(self.handle_answer(&open.caller, &job, false, catalog).await);
        }
        self.collect(&job);
        Some(
            self.whole_answer(&job)
                .await
                .unwrap_or_else(|error| protocol_error(INTERNAL_ERROR, &error.to_string())),
        )
    }
}
